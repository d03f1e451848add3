"""What all callbacks that add a term to the loss promise: off is off, resume is exact, ranks agree, nothing is left."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from unlabelled_job import recognition, train, unlabelled

from speechkit.callbacks import (
    ConsistencyRegularization,
    ConsistencyTraining,
    DomainAdversarial,
    FeatureNoise,
    LabelSmoothing,
    PseudoLabel,
    SpecAugment,
)
from speechkit.callbacks.added_loss import AddedLoss
from speechkit.encoders import ConvGRUEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.tasks import ContrastivePretraining
from speechkit.text import CharTokenizer

ANYTHING_GOES = {"min_confidence": 0.0, "min_length_ratio": 0.0, "max_length_ratio": 1000.0}
MAKE: dict[str, Callable[..., AddedLoss]] = {
    "pseudo_label": lambda folder, **options: PseudoLabel(
        unlabelled(folder), **{**ANYTHING_GOES, "start_fraction": 0.0, **options}
    ),
    "consistency": lambda folder, **options: ConsistencyTraining(
        unlabelled(folder), **{"min_confidence": 0.0, "annealing": "log", **options}
    ),
    "regularization": lambda folder, **options: ConsistencyRegularization(**options),
    "adversarial": lambda folder, **options: DomainAdversarial(unlabelled(folder), conditional=True, **options),
    "speakers": lambda folder, **options: DomainAdversarial(domain="speaker", framewise=True, **options),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),  # the samplers resume
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides"),
]


def weights(task: lightning.LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("name", MAKE)
def test_off_is_off(corpora: Path, name: str) -> None:
    callback = MAKE[name](corpora, weight=0.0)
    _, plain, _ = train(corpora, [SpecAugment()])
    trainer, task, _ = train(corpora, [SpecAugment(), callback])
    assert_equal(weights(plain), weights(task))
    if callback.unlabelled is not None:
        assert callback.unlabelled.batches_done == 0
    assert not trainer.callback_metrics.keys() & {"pseudo_label_loss", "consistency_loss", "domain_loss"}


@pytest.mark.parametrize("name", MAKE)
def test_on_it_changes_the_training_and_leaves_nothing_behind(corpora: Path, name: str) -> None:
    _, plain, _ = train(corpora, [])
    _, task, _ = train(corpora, [MAKE[name](corpora, weight=0.5)])
    before, after = weights(plain), weights(task)
    assert before.keys() == after.keys() == recognition(CharTokenizer("abc ")).state_dict().keys()
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("encoder"))
    assert "training_step" not in vars(task)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")
    assert not any(getattr(part, kind) for part in task.modules() for kind in hooks)
    assert dict(task.named_children()).keys() == dict(plain.named_children()).keys()


@pytest.mark.parametrize("name", MAKE)
def test_resumes_bit_for_bit(corpora: Path, name: str) -> None:
    def run(**options: Any) -> tuple[lightning.Trainer, dict[str, torch.Tensor], dict[str, Any]]:
        keep = ModelCheckpoint(corpora / "kept", filename="{step}", every_n_train_steps=3, save_top_k=-1)
        callback = MAKE[name](corpora, weight=0.5)
        trainer, task, _ = train(
            corpora, [SpecAugment(), FeatureNoise(), callback, keep], enable_checkpointing=True, max_epochs=3, **options
        )
        return trainer, weights(task), callback.state_dict()

    trainer, whole, state = run()
    assert trainer.global_step > 6
    _, resumed, resumed_state = run(ckpt_path=corpora / "kept" / "step=3.ckpt")
    assert_equal(whole, resumed)
    torch.testing.assert_close(state, resumed_state, rtol=0, atol=0)
    saved = torch.load(corpora / "kept" / "step=3.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == whole.keys()


@pytest.mark.slow
def test_processes_have_the_gradients_of_one(corpora: Path) -> None:
    """All callbacks one after the other, so that the processes start but once."""
    job = str(Path(__file__).with_name("unlabelled_job.py"))
    runs = []
    for count in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
        out = corpora / f"{count}.pt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, job, str(corpora), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(torch.load(out, weights_only=True))
    for name, steps in runs[0].items():
        assert len(steps) == len(runs[1][name]) == 4
        for alone, together in zip(steps, runs[1][name], strict=True):
            assert alone.keys() == together.keys()
            for key, gradient in alone.items():
                torch.testing.assert_close(together[key], gradient, atol=2e-5, rtol=2e-4, msg=f"{name}: {key}")


@pytest.mark.parametrize("order", [1, -1])
def test_all_at_once(corpora: Path, order: int) -> None:
    """With each other in any order, masks, smoothing, averaged weights, accumulation and mixed precision."""
    options = {"consistency": {"annealing": "none"}}  # which regularization asks for
    chosen = {name: make for name, make in MAKE.items() if name != "speakers"}
    added = [make(corpora, weight=0.3, **options.get(name, {})) for name, make in chosen.items()][::order]
    trainer, task, recorder = train(
        corpora,
        [*added, LabelSmoothing(), SpecAugment(), EMAWeightAveraging(decay=0.9)],
        accumulate_grad_batches=2,
        precision="bf16-mixed",
        max_epochs=3,
    )
    assert all(bool(value.isfinite().all()) for value in weights(task).values())
    assert all(bool(gradient.any()) for name, gradient in recorder.steps[-1].items() if name.endswith("weight"))
    logged = {"pseudo_label_loss", "pseudo_label_kept", "consistency_loss", "consistency_sure", "domain_loss"}
    assert trainer.callback_metrics.keys() >= {*logged, "regularization_loss"}
    assert (
        not recorder.steps[-1].keys()
        - {name for name, _ in task.named_parameters()}
        - {f"domain_classifier.layers.{place}.{kind}" for place in (0, 2) for kind in ("weight", "bias")}
    )


def test_averaged_weights_come_behind_the_classifier(corpora: Path) -> None:
    with pytest.raises(ValueError, match="must list DomainAdversarial before EMAWeightAveraging"):
        train(corpora, [EMAWeightAveraging(), MAKE["adversarial"](corpora)])


def test_another_task_and_a_negative_weight_are_named(corpora: Path) -> None:
    task = ContrastivePretraining(front_end=FrontEnd(features=MFB(num_mels=20)), encoder=ConvGRUEncoder(input_dim=20))
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    for name, make in MAKE.items():
        with pytest.raises(ValueError, match="needs the task Recognition, got ContrastivePretraining"):
            make(corpora).setup(trainer, task, "fit")
        with pytest.raises(ValueError, match="`weight` must be finite and not negative, got -1"):
            MAKE[name](corpora, weight=-1.0)
    wider = recognition(CharTokenizer("ab"))
    wider.front_end = FrontEnd(features=MFB(num_mels=20))
    with pytest.raises(ValueError, match="has 8000 Hz, and the front end needs 16000 Hz"):
        MAKE["consistency"](corpora).setup(trainer, wider, "fit")
