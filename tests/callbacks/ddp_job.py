"""Run by test_data_parallel.py, alone or under torchrun: records the gradients of every step of an epoch."""

import os
import sys
from pathlib import Path

import lightning
import torch

from speechkit.callbacks import DataParallel
from speechkit.data.datamodule import SpeechDataModule
from speechkit.encoders import ConvGRUEncoder, SeparableConvEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer


class RecordGradients(lightning.Callback):
    """Keeps a copy of all gradients before each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


def main(manifest: str, kind: str, compression: str, out: str) -> None:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(0)
    encoder = {
        "separable": SeparableConvEncoder(input_dim=20, channels=16, kernel_sizes=(5,), output_dim=24, dropout=0.0),
        "gru": ConvGRUEncoder(input_dim=20, channels=16, hidden_size=16, num_layers=1, dropout=0.0),
    }[kind]
    data = SpeechDataModule(train=[manifest], tokenizer=CharTokenizer(), batch_seconds=4.0, num_buckets=3)
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20), cmvn=UtteranceCMVN())
    task = Recognition(
        front_end=front_end,
        encoder=encoder,
        tokenizer=data.tokenizer,
        head_dropout=0.0,
        learning_rate=0.0,
        weight_decay=0.0,
    )
    recorder = RecordGradients()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        max_epochs=1,
        callbacks=[recorder, DataParallel(compression=compression, check_every_n_steps=1, powersgd_start_step=2)],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(task, datamodule=data)
    if trainer.is_global_zero:
        sizes = [len(batch) for batch in trainer.train_dataloader.sampler.joined_batches(0)]
        torch.save({"steps": recorder.steps, "sizes": sizes}, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
