"""Layers change when their turn comes, the last first; what has not had its turn stays as it is, bit for bit."""

import copy
from typing import Any

import lightning
import pytest
import torch
from tiny_fit import fit as fit_tiny
from tiny_fit import tiny_task
from torch.utils.data import DataLoader

from speechkit.callbacks import GradualUnfreezing
from speechkit.data import SpeechBatch
from speechkit.encoders import SeparableConvEncoder, Wav2VecEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


class Observed(lightning.Callback):
    """Keeps, of each watched parameter, the first step that changed it."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.before = {name: value.detach().clone() for name, value in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        for name, value in pl_module.named_parameters():
            if not torch.equal(value, self.before[name]):
                self.first.setdefault(name, trainer.global_step)


def first_changes(callback: GradualUnfreezing) -> dict[str, int]:
    torch.manual_seed(0)
    encoder = Wav2VecEncoder(
        input_dim=8, channels=8, kernel_sizes=(3,), strides=(2,), context_kernel_sizes=(2, 2), dropout=0.0
    )
    task = Recognition(
        front_end=FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=8)),
        encoder=encoder,
        tokenizer=CharTokenizer("ab"),
        weight_decay=0.1,
    )
    batch = SpeechBatch(
        0.1 * torch.randn(2, 4000),
        torch.tensor([4000, 3000]),
        torch.tensor([[1, 2], [2, 1]]),
        torch.tensor([2, 2]),
        torch.ones(2),
        0.5,
        ["x", "y"],
        ["ab", "ba"],
        [None, None],
        [0, 1],
    )
    observed = Observed()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=20,
        callbacks=[callback, observed],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader([batch] * 5, batch_size=None))
    names = (
        "head.projection",
        "encoder.layers.1.conv.conv",
        "encoder.layers.0.conv.conv",
        "encoder.subsampling.convs.0.conv",
    )
    return {name: observed.first.get(f"{name}.weight", 0) for name in names}


def test_from_the_top_down() -> None:
    callback = GradualUnfreezing(["encoder.subsampling", "encoder.layers"], fraction=0.6)
    assert list(first_changes(callback).values()) == [1, 5, 9, 13]  # after 0.2, 0.4 and 0.6 of 20 steps


def test_for_good() -> None:
    changes = first_changes(GradualUnfreezing(["encoder"], fraction=1.0))
    assert list(changes.values()) == [1, 0, 0, 0]


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="decoder"):
        first_changes(GradualUnfreezing(["decoder"]))
    with pytest.raises(ValueError, match="fraction"):
        GradualUnfreezing(fraction=0.0)


def test_a_frozen_part_keeps_its_running_statistics() -> None:
    task = tiny_task()
    task.encoder = SeparableConvEncoder(
        input_dim=8, channels=8, kernel_sizes=(3, 3), output_dim=task.encoder.output_dim
    )
    before = copy.deepcopy(task.encoder.state_dict())
    fit_tiny(GradualUnfreezing(["encoder"], fraction=1.0), steps=4, task=task)
    changed = {name for name, value in task.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set()
    fit_tiny(GradualUnfreezing(["encoder"], fraction=0.5), steps=4, task=task)
    changed = {name for name, value in task.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert any("running_mean" in name for name in changed)
