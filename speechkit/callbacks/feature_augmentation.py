"""What plug-ins that change features in training have in common: a forward hook on the seam `front_end`."""

from abc import abstractmethod
from typing import Any

import lightning
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.ramp import training_progress
from speechkit.masking import zero_padding


class FeatureAugmentation(lightning.Callback):
    """Changes the output of `front_end` while the task trains; several act in the order of `compose`."""

    progress: float = 1.0  # share of the training that is done, for strengths that are ramps
    _handle: RemovableHandle | None = None

    @abstractmethod
    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, T, F), frames (B,) -> (B, T, F), a new draw for each utterance; padding may hold anything."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
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

    def _changed(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return zero_padding(self.augment(features, lengths), lengths), lengths
