"""Callbacks act in one order, any of them work together, and what is at odds is refused at the start."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml

import speechkit.callbacks
from speechkit.bundle import load_bundle
from speechkit.callbacks import (
    EMA,
    SWA,
    FilterAugment,
    FrequencyWarp,
    Order,
    SpecAugment,
    StepSeed,
    Throughput,
    compose,
)
from speechkit.pipelines import training
from speechkit.pipelines.finetune import finetune
from speechkit.pipelines.training import parse
from speechkit.tasks import Recognition

SMALL = Path(__file__).parents[1] / "pipelines" / "small.yaml"
UNLABELLED = {
    "class_path": "speechkit.data.UnlabelledSpeech",
    "init_args": {"manifests": ["$SPEECHKIT_TEST/unlabelled.jsonl"], "batch_seconds": 3},
}
PLUG_INS: dict[str, dict[str, Any]] = {  # of speechkit.callbacks, with arguments that show in five steps
    "ActivationCheckpointing": {},
    "ConfidencePenalty": {},
    "ConsistencyRegularization": {},
    "ConsistencyTraining": {"unlabelled": UNLABELLED, "min_confidence": 0.0},
    "Curriculum": {"epochs": 2},
    "CutMix": {"wait_fraction": 0.0},
    "Cutout": {},
    "DataParallel": {"check_every_n_steps": 1},
    "DomainAdversarial": {"domain": "speaker"},
    "EMA": {"decay": 0.9},
    "FeatureNoise": {},
    "FilterAugment": {},
    "FrequencyWarp": {},
    "GradualUnfreezing": {"modules": ["encoder.layers"], "fraction": 0.5},
    "LabelSmoothing": {},
    "LayerwiseRateDecay": {},
    "ManifoldMixup": {"probability": 1.0},
    "MinimumWordErrorRate": {"start_fraction": 0.0},
    "Mixup": {"probability": 1.0},
    "PseudoLabel": {"unlabelled": UNLABELLED, "start_fraction": 0.0, "min_confidence": 0.0, "min_length_ratio": 0.0},
    "SWA": {"start_fraction": 0.5},
    "SpecAugment": {},
}
NEUTRAL: dict[str, dict[str, Any]] = {  # with which nothing happens
    "ConfidencePenalty": {"weight": 0.0},
    "ConsistencyRegularization": {"weight": 0.0},
    "ConsistencyTraining": {"weight": 0.0, "unlabelled": UNLABELLED},
    "DomainAdversarial": {"weight": 0.0, "domain": "speaker"},
    "EMA": {"decay": 0.0},
    "LabelSmoothing": {"smoothing": 0.0},
    "LayerwiseRateDecay": {"decay": 1.0},
    "MinimumWordErrorRate": {"weight": 0.0},
    "PseudoLabel": {"weight": 0.0, "unlabelled": UNLABELLED},
    "Cutout": {"strength": 0.0},
    "FeatureNoise": {"max_std": 0.0},
    "FilterAugment": {"std": 0.0},
    "FrequencyWarp": {"max_stretch": 0.0, "max_shift": 0.0},
    "SpecAugment": {"strength": 0.0, "max_warp_frames": 40},
}
SAME_ON_MANY = ("Curriculum", "DataParallel", "EMA", "GradualUnfreezing", "LayerwiseRateDecay")  # draw nothing


def deal(num_hands: int, seed: int) -> list[list[str]]:
    """All plug-ins in random subsets, those that exclude each other in different ones."""
    hands: list[list[str]] = [[] for _ in range(num_hands)]
    for name in random.Random(seed).sample(sorted(PLUG_INS), len(PLUG_INS)):
        free = [hand for hand in hands if not any(at_odds(name, other) for other in hand)]
        min(free, key=len).append(name)
    return hands


def at_odds(name: str, other: str) -> bool:
    """Whether docs/callbacks/README.md says that the two cannot be together."""
    mixes = {"CutMix", "ManifoldMixup", "Mixup"}
    return bool(exclusive_of(name) & exclusive_of(other)) or (
        "DomainAdversarial" in (name, other) and bool(mixes & {name, other})
    )


def exclusive_of(name: str) -> set[str]:
    return set(getattr(getattr(speechkit.callbacks, name), "exclusive", ()))


def overlay(folder: Path, plug_ins: dict[str, dict[str, Any]]) -> str:
    callbacks = [{"class_path": f"speechkit.callbacks.{name}", "init_args": args} for name, args in plug_ins.items()]
    path = folder / f"{'-'.join(plug_ins) or 'plain'}.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "max_epochs": 2}}))
    return str(path)


def train(folder: Path, out: str, plug_ins: dict[str, dict[str, Any]], *overrides: str, **options: Any) -> Path:
    configs = [str(SMALL), overlay(folder, plug_ins)]
    return finetune(configs, folder / out, ["data.num_workers=0", *overrides], **options)


def weights(bundle: Path) -> bytes:
    return (bundle / "model.safetensors").read_bytes()


def test_the_order_is_that_of_the_table_whatever_the_recipe_says() -> None:
    parts = [SpecAugment(), FrequencyWarp(), EMA(), StepSeed(), FilterAugment(), Throughput()]
    for order in itertools.permutations(parts):
        names = [type(callback).__name__ for callback in compose(order)]
        assert names == ["StepSeed", "EMA", "FrequencyWarp", "FilterAugment", "SpecAugment", "Throughput"]


def test_a_callback_of_ones_own_keeps_its_place() -> None:
    own, first, second = lightning.Callback(), SpecAugment(), SpecAugment()
    mixed = compose([first, own, second, FrequencyWarp(), StepSeed()])
    assert mixed.index(own) == 2  # the second but for the seed
    assert mixed.index(first) < mixed.index(second)


def test_every_callback_has_its_place() -> None:
    named = [getattr(speechkit.callbacks, name) for name in speechkit.callbacks.__all__]
    kinds = [kind for kind in named if isinstance(kind, type) and issubclass(kind, lightning.Callback)]
    abstract = {speechkit.callbacks.FeatureAugmentation}
    assert [kind for kind in kinds if not isinstance(getattr(kind, "order", None), Order)] == list(abstract)


def test_rivals_are_refused_before_anything_starts(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one callback for the average of weights, got EMA and SWA"):
        compose([EMA(), SWA()])
    with pytest.raises(ValueError, match="got two EMA"):
        compose([EMA(), EMA()])
    with pytest.raises(ValueError, match="got EMA and SWA"):
        parse(Recognition, [SMALL, Path(overlay(tmp_path, {"EMA": {}, "SWA": {}}))])


def test_without_strength_nothing_is_different(corpus: Path, tmp_path: Path) -> None:
    assert weights(train(tmp_path, "neutral", NEUTRAL)) == weights(train(tmp_path, "plain", {}))


class Interrupted(Exception):  # noqa: N818
    """What ends the training in mid-epoch."""


@pytest.mark.parametrize("names", deal(4, seed=0), ids=lambda names: "-".join(names))
def test_any_subset_goes_on_where_it_stopped(
    corpus: Path, tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With accumulation and mixed precision; the bundle has no more in it than one without callbacks."""
    monkeypatch.setattr(training, "_has_bfloat16", lambda: True)  # slower where it has not, and still mixed
    plug_ins = {name: PLUG_INS[name] for name in names}
    options = ["trainer.accumulate_grad_batches=2", "trainer.precision=bf16-mixed"]
    whole = train(tmp_path, "whole", plug_ins, *options)
    steps = itertools.count()
    original = StepSeed.on_train_batch_start

    def stop_later(self: StepSeed, *arguments: Any) -> None:
        if next(steps) == 7:
            raise Interrupted
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, "on_train_batch_start", stop_later)
        with pytest.raises(Interrupted):
            train(tmp_path, "broken", plug_ins, *options, checkpoint_every_n_steps=1)
    resumed = train(tmp_path, "broken", plug_ins, *options, resume_from="last")
    assert weights(resumed) == weights(whole), plug_ins
    plain = parse(Recognition, [SMALL], ["trainer.logger=false"]).model
    for part in ("front_end", "encoder", "head"):
        tensors = getattr(load_bundle(whole), part).state_dict()
        assert tensors.keys() == getattr(plain, part).state_dict().keys()


def train_on_two(folder: Path, out: str, plug_ins: dict[str, dict[str, Any]], *overrides: str) -> Path:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "speechkit"]
    command = ["finetune", "--config", str(SMALL), "--config", overlay(folder, plug_ins), "--out", str(folder / out)]
    done = subprocess.run(
        [*launcher, *command, "data.num_workers=0", *overrides],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / out / "bundle"


@pytest.mark.slow
def test_two_processes_train_as_one(corpus: Path, tmp_path: Path) -> None:
    plug_ins = {name: PLUG_INS[name] for name in SAME_ON_MANY}
    options = ["model.head_dropout=0.0", "model.encoder.init_args.dropout=0.0", "model.learning_rate=1.0e-4"]
    one, two = train(tmp_path, "one", plug_ins, *options), train_on_two(tmp_path, "two", plug_ins, *options)
    for part in ("encoder", "head"):
        pairs = zip(*(getattr(load_bundle(bundle), part).parameters() for bundle in (one, two)), strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("names", deal(4, seed=1), ids=lambda names: "-".join(names))
def test_any_subset_on_two_processes(corpus: Path, tmp_path: Path, names: list[str]) -> None:
    """`DataParallel` compares the weights of the ranks after each step."""
    plug_ins = {name: PLUG_INS[name] for name in dict.fromkeys([*names, "DataParallel"])}
    options = ["trainer.accumulate_grad_batches=2", "trainer.precision=bf16-mixed"]
    assert load_bundle(train_on_two(tmp_path, "out", plug_ins, *options)).head is not None
