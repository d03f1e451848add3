"""What plug-ins that change features in training have in common: a forward hook on the seam `front_end`."""

from abc import abstractmethod
from typing import Any

import lightning
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.composition import CleanedUp
from speechkit.callbacks.ramp import training_progress
from speechkit.features import MFCC, Deltas
from speechkit.masking import zero_padding


class FeatureAugmentation(CleanedUp):
    """Changes the output of `front_end` while the task trains; several act in the order of `compose`."""

    needs_frequencies = False  # along the last axis, and nothing else there
    progress: float = 1.0  # share of the training that is done, for strengths that are ramps
    _handle: RemovableHandle | None = None

    @abstractmethod
    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, T, F), frames (B,) -> (B, T, F), a new draw for each utterance; padding may hold anything."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            if self.needs_frequencies:
                self._check_axis(pl_module)
            self._handle = pl_module.front_end.register_forward_hook(
                lambda module, args, output: self._changed(*output) if pl_module.training else output
            )

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.progress = training_progress(trainer)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _check_axis(self, pl_module: Any) -> None:
        for part in pl_module.front_end.modules():
            if isinstance(part, MFCC | Deltas):
                raise ValueError(
                    f"{type(self).__name__} needs features whose axis is frequency, as MFB's is, "
                    f"got a front end with {type(part).__name__}."
                )

    def _changed(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return zero_padding(self.augment(features, lengths), lengths), lengths
