"""A tiny recogniser that is trained for some steps, for tests of callbacks."""

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from speechkit.callbacks import compose
from speechkit.data import SpeechBatch
from speechkit.encoders import Wav2VecEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer


class Recorded(lightning.Callback):
    """Keeps the weights and the learning rates of every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step > len(self.weights):
            self.weights.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})


def tiny_task() -> Recognition:
    """Two convolutions below two layers, without batch normalisation or dropout."""
    torch.manual_seed(0)
    encoder = Wav2VecEncoder(
        input_dim=8, channels=8, kernel_sizes=(3,), strides=(2,), context_kernel_sizes=(2, 2), dropout=0.0
    )
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=8))
    return Recognition(front_end=front_end, encoder=encoder, tokenizer=CharTokenizer("ab"), head_dropout=0.0)


def tiny_batch() -> SpeechBatch:
    """Two utterances of noise."""
    return SpeechBatch(
        0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)),
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


def tiny_trainer(*callbacks: lightning.Callback, steps: int, **options: Any) -> lightning.Trainer:
    """Writes nothing, and is quiet."""
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=compose(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fit(
    *callbacks: lightning.Callback, steps: int = 8, task: Recognition | None = None, **options: Any
) -> tuple[Recognition, Recorded]:
    """Trains, and says what happened."""
    task, recorded = task or tiny_task(), Recorded()
    trainer = tiny_trainer(*callbacks, recorded, steps=steps, **options)
    trainer.fit(task, DataLoader([tiny_batch()] * 4, batch_size=None))
    return task, recorded
