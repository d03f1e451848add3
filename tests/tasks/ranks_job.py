"""Run by test_pretraining.py: first steps of pretrainings in 1, 2 and 4 processes, forked so as to import only once."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from speechkit.callbacks import CollapseGuard, DataParallel, StepSeed
from speechkit.codebooks import GumbelCodebook, KMeansCodebook
from speechkit.data.datamodule import SpeechDataModule
from speechkit.encoders import ConvGRUEncoder, QuantizedEncoder, Wav2Vec2Encoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.tasks import ContrastivePretraining, MaskedContrastivePretraining

FIXED = {  # an epoch at the rate 0, with batch norm: gradients and validation
    "other": {"negatives": "other_utterances"},
    "speaker": {"negatives": "same_speaker", "objective": "nce", "temperature": 1.0, "score": "dot"},
    "hard": {"negatives": "hard", "hard_pool_factor": 3, "negatives_at_a_time": 16},
}
CODEBOOKS = {"gumbel": GumbelCodebook, "kmeans": KMeansCodebook}
TWENTY = ("cpc", *CODEBOOKS, "vq")  # twenty steps of CPC, of wav2vec 2.0 with each codebook, and of vq-wav2vec
SHARDED = {"sharded": 0.0, "sharded-dropped": 0.5, "sharded-unpadded": 0.0}  # wav2vec 2.0 in shards -> its layer_drop
RUNS = {
    1: [*FIXED, *TWENTY, "unpadded"],
    2: [*FIXED, *TWENTY, *SHARDED],
    4: TWENTY,
}  # number of processes -> what they train


class Record(lightning.Callback):
    """Keeps the loss and a copy of all gradients of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        gradients = {name: p.grad for name, p in pl_module.named_parameters()}
        self.gradients.append({name: value.clone() for name, value in gradients.items() if type(value) is torch.Tensor})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(trainer.callback_metrics["train_loss"].item())


def make_task(name: str) -> lightning.LightningModule:
    torch.manual_seed(0)
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20), cmvn=UtteranceCMVN())
    if name in CODEBOOKS or name in SHARDED or name == "unpadded":
        encoder = Wav2Vec2Encoder(
            input_dim=20, channels=16, kernel_sizes=(5,), strides=(2,), conv_norm="layer", conv_bias=True,
            padded="unpadded" not in name,
            output_dim=16, num_layers=1, num_heads=2, feed_forward_dim=32, pre_norm=True, position_kernel_size=8,
            position_groups=4, dropout=0.0, layer_drop=SHARDED.get(name, 0.0),
        )  # fmt: skip
        codebook = CODEBOOKS.get(name, GumbelCodebook)(input_dim=16, num_codes=8, output_dim=16)
        return MaskedContrastivePretraining(
            front_end=front_end, encoder=encoder, codebook=codebook, prediction_dim=16, num_negatives=20,
            span_length=4, learning_rate=3e-3, weight_decay=0.0,
        )  # fmt: skip
    norm = "batch" if name in FIXED else "channel"
    gru = ConvGRUEncoder(input_dim=20, channels=16, hidden_size=16, num_layers=1, dropout=0.0, norm=norm)
    codebook = GumbelCodebook(input_dim=16, num_codes=8, output_dim=16)
    return ContrastivePretraining(
        front_end=front_end,
        encoder=QuantizedEncoder(encoder=gru, codebook=codebook) if name == "vq" else gru,
        num_steps=3,
        num_negatives=20,
        learning_rate=0.0 if name in FIXED else 3e-3,
        weight_decay=0.0,
        **FIXED.get(name, {"negatives": "mixed"}),
    )


def train(manifest: str, name: str, num_processes: int) -> dict[str, Any]:
    task = make_task(name)
    strategy: Any = "ddp" if num_processes > 1 else "auto"
    if name in SHARDED:
        strategy = ModelParallelStrategy(save_distributed_checkpoint=False)
    data = SpeechDataModule(
        train=[manifest], dev=[manifest], batch_seconds=4.0, num_buckets=3, num_workers=0, crop_seconds=1.9
    )
    record = Record()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=num_processes,
        strategy=strategy,
        max_steps=3 if name in FIXED else 20,
        callbacks=[StepSeed(), record, DataParallel(check_every_n_steps=1), CollapseGuard(every_n_steps=1)],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, datamodule=data)
    return {
        "losses": record.losses,
        "gradients": record.gradients,
        "val_loss": trainer.callback_metrics["val_loss"].item(),
        "sizes": [len(batch) for batch in trainer.train_dataloader.sampler.joined_batches(0)],
    }


def fork_ranks(manifest: str, num_processes: int, out: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    children = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(num_processes))
            results = {name: train(manifest, name, num_processes) for name in RUNS[num_processes]}
            if rank == 0:
                torch.save(results, out / f"{num_processes}.pt")
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * num_processes


if __name__ == "__main__":
    for count in RUNS:
        fork_ranks(sys.argv[1], count, Path(sys.argv[2]))
