"""What plug-ins that change features in training have in common: a forward hook on the seam `front_end`."""

from abc import abstractmethod

import lightning
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.masking import zero_padding


class FeatureAugmentation(lightning.Callback):
    """Changes the output of `front_end` while the task trains; several act in the order of `compose`."""

    _handle: RemovableHandle | None = None

    @abstractmethod
    def augment(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, T, F), frames (B,) -> (B, T, F), a new draw for each utterance; padding may hold anything."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._handle = pl_module.front_end.register_forward_hook(
                lambda module, args, output: self._changed(*output) if pl_module.training else output
            )

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _changed(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return zero_padding(self.augment(features, lengths), lengths), lengths
