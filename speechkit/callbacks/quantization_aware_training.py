"""When a `QuantizedNetwork` observes, quantizes, and freezes its batch norms."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import WeightAveraging

from speechkit.callbacks.composition import Order
from speechkit.quantization.quantized_network import QuantizedNetwork


class QuantizationAwareTraining(lightning.Callback):
    """Leads the seam `encoder` through the stages of quantization-aware training (Jacob et al. 2018, section 3).

    1. observe: float arithmetic, and ranges are taken, unless they were calibrated before. Weights stand still.
    2. quantize: every pass rounds weights and activations; batch norms take the statistics of their batch.
    3. freeze: batch norms are folded with their running statistics, so that training sees what is exported.

    Args:
        observe_batches: of stage 1.
        freeze_fraction: share of the training at which stage 3 begins; 0 leaves stage 2 out.

    Raises:
        ValueError: an argument out of its range; at start, a task whose encoder is no `QuantizedNetwork`, a precision
            that holds weights in half or scales gradients, or several processes, or an average of the weights, and
            nothing calibrated yet.
    """

    order = Order.HIDDEN

    def __init__(self, observe_batches: int = 50, freeze_fraction: float = 0.5) -> None:
        if observe_batches < 1:
            raise ValueError(f"`observe_batches` must be positive, got {observe_batches}.")
        if not 0.0 <= freeze_fraction <= 1.0:
            raise ValueError(f"`freeze_fraction` must lie in [0, 1], got {freeze_fraction}.")
        self.observe_batches, self.freeze_fraction = observe_batches, freeze_fraction

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        network = getattr(pl_module, "encoder", None)
        if not isinstance(network, QuantizedNetwork):
            raise ValueError(f"QuantizationAwareTraining needs a QuantizedNetwork, got {type(pl_module).__name__}.")
        if trainer.precision not in ("32-true", "bf16-mixed"):  # a scaler steps by gradients, and stage 1 has none
            raise ValueError(
                f"`trainer.precision` must be 32-true or bf16-mixed with quantization, got {trainer.precision!r}."
            )
        averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
        if averages and not network.is_calibrated:  # the average of no scale and one is none
            raise ValueError(
                f"with {type(averages[0]).__name__} the network must be calibrated before: `speechkit quantize` does."
            )
        if trainer.world_size > 1 and not network.is_calibrated:
            raise ValueError(
                "on several processes the network must be calibrated before, as `speechkit quantize` does."
            )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        network: Any = pl_module.encoder
        self._total_steps = trainer.estimated_stepping_batches
        if not network.is_calibrated:
            network.set_mode("observe")
        self._set_stage(network, trainer.global_step)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        network: Any = pl_module.encoder
        if not network.is_calibrated and trainer.global_step >= self.observe_batches:
            network.calibrate()
        self._set_stage(network, trainer.global_step)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        network: Any = pl_module.encoder
        if not network.is_calibrated:
            for parameter in network.parameters():
                parameter.grad = None

    def _set_stage(self, network: QuantizedNetwork, step: int) -> None:
        if network.is_calibrated:
            network.set_mode("quantize", frozen=step >= self.freeze_fraction * self._total_steps)
