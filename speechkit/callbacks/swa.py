"""Stochastic weight averaging: the mean of the weights along the last part of the training."""

from typing import Any

import lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import get_swa_multi_avg_fn

from speechkit.callbacks.averaging import AverageOfWeights
from speechkit.encoders.normalization import MaskedBatchNorm1d

_BATCH_SECONDS = 60.0


class SWA(AverageOfWeights):
    """Keeps the learning rate up towards the end and averages the weights meanwhile (Izmailov et al. 2018,
    arXiv 1803.05407), so that validation, the best checkpoint and the bundle have the middle of a wide valley.

    Lightning's `StochasticWeightAveraging` does not fit here: it replaces the schedule by one that steps by the epoch,
    knows neither `trainer.max_steps` nor `MaskedBatchNorm1d`, whose statistics it leaves as they were, and shows the
    average to nobody before the training ends, so the best checkpoint is without it. This one builds on Lightning's
    `WeightAveraging`. Until it starts, the average follows the weights, and nothing is different from a training
    without it. The rate is a function of the step, and so needs nothing of a checkpoint.

    Where there is batch normalisation, its statistics are taken anew before they are used (section 3.2 there): with the
    averaged weights, over training audio as it is, real frames only. That takes the time of `statistics_seconds` of
    audio without a backward pass at each validation and at the end.

    Args:
        start_fraction: of the training, before which nothing is averaged.
        rate_fraction: of its peak, which every group's learning rate holds from then on; the cosine is at a sixth after
            three quarters of the training.
        every_n_steps: optimizer steps between two that are averaged.
        statistics_seconds: of audio for the statistics of batch normalisation.

    Raises:
        ValueError: an argument out of its range; at the start, sharded parameters, another average of weights, or batch
            normalisation without a `SpeechDataModule`.
    """

    def __init__(
        self,
        start_fraction: float = 0.75,
        rate_fraction: float = 0.15,
        every_n_steps: int = 1,
        statistics_seconds: float = 600.0,
    ) -> None:
        for name, value in (("start_fraction", start_fraction), ("rate_fraction", rate_fraction)):
            if not 0.0 < value < 1.0:
                raise ValueError(f"`{name}` must lie in (0, 1), got {value}.")
        for name, value in (("every_n_steps", every_n_steps), ("statistics_seconds", statistics_seconds)):
            if value <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        super().__init__(multi_avg_fn=get_swa_multi_avg_fn())  # all tensors at once
        self.start_fraction, self.rate_fraction = start_fraction, rate_fraction
        self.every_n_steps, self.statistics_seconds = every_n_steps, statistics_seconds
        self._first_step = 0

    def setup(self, trainer: Any, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit" and _norms(pl_module) and not hasattr(trainer.datamodule, "plain_batches"):
            raise ValueError("SWA needs a SpeechDataModule, from which batch normalisation has its statistics.")
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Lightning asks after each optimizer step."""
        if step_idx is None or step_idx < self._first_step:
            return False
        return (step_idx - self._first_step) % self.every_n_steps == 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        num_steps = int(trainer.estimated_stepping_batches)
        self._first_step = min(round(self.start_fraction * num_steps), num_steps - 1)

    def on_train_batch_start(self, trainer: Any, pl_module: lightning.LightningModule, *args: Any) -> None:
        if trainer.global_step >= self._first_step:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = self.rate_fraction * group["initial_lr"]

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn is TrainerFn.FITTING:
            self._follow(pl_module)
            super().on_validation_epoch_start(trainer, pl_module)
            self._take_statistics(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._follow(pl_module)
        super().on_train_end(trainer, pl_module)
        self._take_statistics(trainer, pl_module)
        if self._average_model is not None:  # which the last checkpoint is made of
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def on_save_checkpoint(self, trainer: Any, pl_module: lightning.LightningModule, checkpoint: dict) -> None:
        self._follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    @property
    def _has_started(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def _follow(self, pl_module: lightning.LightningModule) -> None:
        """Until something is averaged, the average is what the weights are."""
        if self._average_model is not None and not self._has_started:
            self._average_model.module.load_state_dict(pl_module.state_dict())

    @torch.no_grad()
    def _take_statistics(self, trainer: Any, pl_module: Any) -> None:
        """Running statistics become means over batches of the training set; the same on every rank."""
        norms = _norms(pl_module)
        if not norms or not self._has_started:
            return
        was_training, momenta = pl_module.training, [norm.momentum for norm in norms]
        pl_module.eval()
        rate, seconds = pl_module.front_end.sample_rate_hz, 0.0
        batches = trainer.datamodule.plain_batches(rate, batch_seconds=_BATCH_SECONDS)
        for place, batch in enumerate(batches):
            batch = batch.to(pl_module.device)
            for norm in norms:
                norm.train()
                norm.momentum = 1.0 / (place + 1)
            pl_module.encoder(*pl_module.front_end(batch.waveform, batch.lengths))
            seconds += float(batch.lengths.sum()) / rate
            if seconds >= self.statistics_seconds:
                break
        pl_module.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _norms(module: torch.nn.Module) -> list[MaskedBatchNorm1d]:
    return [part for part in module.modules() if isinstance(part, MaskedBatchNorm1d)]
