"""A tiny training with any callbacks, in this process or under torchrun, that gives the gradients of every step."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning
import torch

from speechkit.callbacks import (
    ConsistencyRegularization,
    ConsistencyTraining,
    DataParallel,
    DomainAdversarial,
    PseudoLabel,
    StepSeed,
)
from speechkit.data import UnlabelledSpeech
from speechkit.data.datamodule import SpeechDataModule
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer

RATE = 8000


class RecordGradients(lightning.Callback):
    """Keeps a copy of all gradients before each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


def recognition(tokenizer: CharTokenizer, *, dropout: float = 0.1, learning_rate: float = 3e-3) -> Recognition:
    torch.manual_seed(0)
    return Recognition(
        front_end=FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20), cmvn=UtteranceCMVN()),
        encoder=SeparableConvEncoder(
            input_dim=20, channels=16, kernel_sizes=(5,), stride=2, output_dim=24, dropout=dropout
        ),
        tokenizer=tokenizer,
        head_dropout=0.0,
        learning_rate=learning_rate,
    )


def train(
    folder: Path,
    callbacks: list[lightning.Callback],
    *,
    dropout: float = 0.1,
    learning_rate: float = 3e-3,
    **options: Any,
) -> tuple[lightning.Trainer, Recognition, RecordGradients]:
    """Two epochs over train.jsonl of the folder; options are those of the trainer, and `ckpt_path`."""
    data = SpeechDataModule(
        train=[str(folder / "train.jsonl")],
        tokenizer=CharTokenizer("abc "),
        batch_seconds=3.0,
        num_buckets=2,
        num_workers=0,
    )
    task = recognition(data.tokenizer, dropout=dropout, learning_rate=learning_rate)
    recorder = RecordGradients()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    checkpoint = options.pop("ckpt_path", None)
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": world_size,
        "strategy": "ddp" if world_size > 1 else "auto",
        "max_epochs": 2,
        "callbacks": [*callbacks, recorder, StepSeed(), DataParallel()],
        "use_distributed_sampler": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    trainer = lightning.Trainer(**{**settings, **options})
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer, task, recorder


def unlabelled(folder: Path, **options: Any) -> UnlabelledSpeech:
    return UnlabelledSpeech([str(folder / "unlabelled.jsonl")], **{"batch_seconds": 3.0, "num_workers": 0, **options})


def main(folder: str, out: str) -> None:
    """The gradients of each callback's training, in which nothing is drawn at random by a rank."""
    path = Path(folder)
    anything_goes = {"min_confidence": 0.0, "min_length_ratio": 0.0, "max_length_ratio": 1000.0}
    callbacks = [
        PseudoLabel(unlabelled(path), start_fraction=0.0, **anything_goes),
        ConsistencyTraining(unlabelled(path), min_confidence=0.0),
        ConsistencyRegularization(),
        DomainAdversarial(unlabelled(path), weight=1.0, conditional=True),
    ]
    steps = {}
    for callback in callbacks:
        _, _, recorder = train(path, [callback], dropout=0.0, learning_rate=0.0, max_epochs=1)
        steps[type(callback).__name__] = recorder.steps
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(steps, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
