"""How many seconds of audio are trained on in a second, beside the loss in the progress bar and the logs."""

import time
from typing import Any

import lightning

from speechkit.callbacks.composition import Order


class Throughput(lightning.Callback):
    """Logs `audio_s_per_s`, smoothed, over all devices."""

    order = Order.WATCH

    def __init__(self) -> None:
        self._previous = 0.0
        self._audio: float = 0.0
        self._wall: float = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._previous = time.perf_counter()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._previous = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        seconds = float(batch.lengths.sum()) / pl_module.front_end.sample_rate_hz * trainer.world_size
        self._audio = 0.95 * self._audio + seconds
        self._wall = 0.95 * self._wall + now - self._previous
        self._previous = now
        pl_module.log("audio_s_per_s", self._audio / self._wall, prog_bar=True, batch_size=1, rank_zero_only=True)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._previous = time.perf_counter()
