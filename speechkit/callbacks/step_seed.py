"""Makes the randomness of a step a function of (seed, epoch, batch, rank), so a resumed run repeats an unbroken one."""

from typing import Any

import lightning
import numpy as np
import torch

from speechkit.callbacks.composition import Order


class StepSeed(lightning.Callback):
    """Seeds torch's generators before each training batch. No generator state needs to be in a checkpoint.

    Args:
        seed: of the run.
    """

    order = Order.SEED

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        entropy = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
