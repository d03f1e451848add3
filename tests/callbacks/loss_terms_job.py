"""A small recogniser and its training, for the tests of plug-ins on the loss; run under torchrun too."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch

from speechkit.bundle import save_bundle
from speechkit.callbacks import (
    ConfidencePenalty,
    DataParallel,
    Distillation,
    LabelSmoothing,
    MinimumWordErrorRate,
    StepSeed,
)
from speechkit.data.datamodule import SpeechDataModule
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer


def recognition(seed: int = 0, *, symbols: str = "abc ", stride: int = 2, rate: int = 8000, dropout: float = 0.0):
    torch.manual_seed(seed)
    encoder = SeparableConvEncoder(
        input_dim=20, channels=8, kernel_sizes=(3,), repeats=1, stride=stride, output_dim=12, dropout=dropout
    )
    front_end = FrontEnd(features=MFB(sample_rate_hz=rate, num_mels=20), cmvn=UtteranceCMVN())
    tokenizer = CharTokenizer(symbols)
    return Recognition(front_end=front_end, encoder=encoder, tokenizer=tokenizer, head_dropout=dropout)


def write_teacher(folder: Path, **options) -> str:
    """The bundle of a recogniser that says something in most frames."""
    task = recognition(7, **options)
    with torch.no_grad():
        task.head.projection.weight.mul_(8)
    save_bundle(task.bundle(), folder)
    return str(folder)


def all_terms(teacher: str, strength: float = 1.0) -> list[lightning.Callback]:
    """Each plug-in on the loss, both levels of distillation among them."""
    return [
        LabelSmoothing(0.02 * strength, kind="unigram"),
        LabelSmoothing(0.1 * strength, kind="alignment"),
        ConfidencePenalty(0.1 * strength),
        Distillation(teacher, weight=strength, temperature=2.0),
        Distillation(teacher, weight=strength, level="sequence"),
        MinimumWordErrorRate(strength, start_fraction=0.0),
    ]


class RecordGradients(lightning.Callback):
    """Keeps a copy of all gradients before each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


def fit(
    manifest: str,
    callbacks: Sequence[lightning.Callback],
    *,
    dropout: float = 0.1,
    learning_rate: float = 1e-3,
    ckpt_path: str | None = None,
) -> tuple[lightning.Trainer, Recognition]:
    """Two epochs."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    task = recognition(dropout=dropout)
    task.learning_rate = learning_rate
    data = SpeechDataModule(train=[manifest], tokenizer=task.tokenizer, batch_seconds=4.0, num_buckets=2, num_workers=0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        max_epochs=2,
        callbacks=[StepSeed(), *callbacks],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=any(
            isinstance(callback, lightning.pytorch.callbacks.Checkpoint) for callback in callbacks
        ),
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, task


if __name__ == "__main__":
    recorder = RecordGradients()
    trainer, _ = fit(sys.argv[1], [*all_terms(sys.argv[2]), DataParallel(), recorder], dropout=0.0, learning_rate=0.0)
    if trainer.is_global_zero:
        torch.save(recorder.steps, sys.argv[3])
