"""What a distributed strategy leaves open: batch-norm statistics, compressed gradients, and proof that ranks agree.

The strategy itself is `trainer.strategy`. On one process this callback does nothing.
"""

from typing import Any

import lightning
import torch
import torch.distributed
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.encoders.normalization import MaskedBatchNorm1d

COMPRESSIONS = ("none", "bf16", "fp16", "powersgd")


class DataParallel(CleanedUp):
    """Makes N ranks take the step that one process would take with the joined batch.

    Args:
        sync_batch_norm: batch-norm statistics over the joined batch.
        compression: of gradients on the wire, by torch's communication hooks: "none", "bf16", "fp16" or "powersgd"
            (low-rank factors with error feedback, Vogels et al. 2019, arXiv 1905.13727).
        check_every_n_steps: how often to compare the weights of the ranks; 0 for never. Not with sharded parameters.
        powersgd_rank: of the factors.
        powersgd_start_step: steps of a run, or of a resumed one, before PowerSGD sets in: its errors that wait to be
            fed back are not in a checkpoint.

    Raises:
        ValueError: an unknown compression, a rank below 1, PowerSGD from the start, or compression without DDP.
        RuntimeError: while training, ranks with other weights or another number of steps.
    """

    order = Order.GRADIENT

    def __init__(
        self,
        sync_batch_norm: bool = True,
        compression: str = "none",
        check_every_n_steps: int = 1000,
        powersgd_rank: int = 2,
        powersgd_start_step: int = 1000,
    ) -> None:
        if compression not in COMPRESSIONS:
            raise ValueError(f"`compression` must be one of {', '.join(COMPRESSIONS)}, got {compression!r}.")
        if powersgd_rank < 1:
            raise ValueError(f"`powersgd_rank` must be at least 1, got {powersgd_rank}.")
        if powersgd_start_step < 2:  # DDP rearranges its buckets after the first step
            raise ValueError(f"`powersgd_start_step` must be at least 2, got {powersgd_start_step}.")
        self.sync_batch_norm, self.compression = sync_batch_norm, compression
        self.check_every_n_steps = check_every_n_steps
        self.powersgd_rank, self.powersgd_start_step = powersgd_rank, powersgd_start_step

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.world_size > 1:
            self._set_synchronize(pl_module, self.sync_batch_norm)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._set_synchronize(pl_module, False)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        self._require_equal(torch.tensor([float(trainer.num_training_batches)]), trainer, "number of steps in an epoch")
        if self.compression != "none":
            self._compress(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = self.check_every_n_steps
        if trainer.world_size > 1 and every and trainer.global_step % every == 0:
            whole = [parameter for parameter in pl_module.parameters() if not isinstance(parameter, DTensor)]
            if whole:
                sums = torch.stack([parameter.detach().double().sum() for parameter in whole])
                self._require_equal(sums, trainer, f"weights after step {trainer.global_step}")

    def _compress(self, trainer: lightning.Trainer) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

        wrapped: Any = trainer.strategy.model
        if not isinstance(wrapped, DistributedDataParallel):
            raise ValueError(f"`compression` needs the strategy ddp, got {type(trainer.strategy).__name__}.")
        if self.compression == "powersgd":
            state = powerSGD_hook.PowerSGDState(
                process_group=None,
                matrix_approximation_rank=self.powersgd_rank,
                start_powerSGD_iter=self.powersgd_start_step,
            )
            wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        else:
            hooks = {"bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}
            wrapped.register_comm_hook(None, hooks[self.compression])

    def _set_synchronize(self, pl_module: lightning.LightningModule, value: bool) -> None:
        for module in pl_module.modules():
            if isinstance(module, MaskedBatchNorm1d):
                module.synchronize = value

    def _require_equal(self, value: torch.Tensor, trainer: lightning.Trainer, what: str) -> None:
        lowest, highest = (value.clone().to(trainer.strategy.root_device) for _ in range(2))
        torch.distributed.all_reduce(lowest, op=torch.distributed.ReduceOp.MIN)
        torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
        if not torch.equal(lowest.nan_to_num(), highest.nan_to_num()):  # NaN is the collapse guard's to name
            raise RuntimeError(f"The ranks have drifted apart: they differ in the {what}.")
