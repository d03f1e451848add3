"""What averages of the weights have in common: Lightning's `WeightAveraging`, for more than one training."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from speechkit.callbacks.composition import Order


class AverageOfWeights(WeightAveraging):
    """Lightning's own holds on to the average of a training that is over: the next `fit` would end with it, and
    `validate` would show it in place of the task that it is given. A checkpoint of the end has lost the weights that
    were trained, since the average stands in their place; here it has both, so that a training can be made longer.
    """

    order = Order.AVERAGE
    exclusive = ("average of weights",)
    _trained: dict[str, Tensor] | None = None  # what the last step left, once the average stands in its place

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Raises ValueError where weights cannot be averaged, or are averaged by another callback too."""
        if stage == "fit":
            self._refuse_others(trainer)
            self._device = trainer.strategy.root_device  # where the weights will be, which have not been moved yet
            self._latest_update_step, self._latest_update_epoch, self._trained = 0, -1, None
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn is TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn is TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._trained = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: lightning.LightningModule, checkpoint: dict) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trained is not None:
            checkpoint["current_model_state"] = self._trained

    def _refuse_others(self, trainer: Any) -> None:
        name = type(self).__name__
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError(f"{name} needs whole parameters, which ModelParallelStrategy shards.")
        kinds = (WeightAveraging, StochasticWeightAveraging)
        others = [callback for callback in trainer.callbacks if isinstance(callback, kinds) and callback is not self]
        if others:
            names = f"{name} and {type(others[0]).__name__}"
            raise ValueError(f"`trainer.callbacks` must hold one average of weights, got {names}.")
