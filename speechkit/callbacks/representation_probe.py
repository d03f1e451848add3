"""Probes the encoder while it trains, so that the logs say what it holds and not only what its loss is."""

from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from speechkit.callbacks.composition import Order
from speechkit.callbacks.evaluation_mode import evaluation_mode
from speechkit.data.manifest import expand_path, read_utterances
from speechkit.probing import probe


class RepresentationProbe(lightning.Callback):
    """After every so many epochs, logs `probe_speaker`, `probe_label` (accuracies), `probe_cer`, and the ABX errors
    `probe_abx_within` and `probe_abx_across`: those that the manifest allows, see `speechkit.probing.probe`.

    Probing has random numbers of its own: the training is the same with and without it.

    Args:
        manifest: utterances with `speaker`, `text` or both; not those that are trained on.
        what: "context" or "latents".
        every_n_epochs: how often.
        minutes: of audio, the same each time.
        num_triples: of each ABX score.

    Raises:
        ValueError: an argument out of its range; at the start, parameters in shards, or a manifest that cannot be read
            or holds nothing to probe for.
    """

    order = Order.WATCH

    def __init__(
        self,
        manifest: str,
        *,
        what: str = "context",
        every_n_epochs: int = 1,
        minutes: float = 5.0,
        num_triples: int = 500,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"`every_n_epochs` must be at least 1, got {every_n_epochs}.")
        if what not in ("context", "latents"):
            raise ValueError(f'`what` must be "context" or "latents", got {what!r}.')
        if not minutes > 0.0:
            raise ValueError(f"`minutes` must be positive, got {minutes}.")
        if num_triples < 1:
            raise ValueError(f"`num_triples` must be at least 1, got {num_triples}.")
        self.manifest, self.what, self.every_n_epochs = manifest, what, every_n_epochs
        self.minutes, self.num_triples = minutes, num_triples

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        if isinstance(trainer.strategy, ModelParallelStrategy):  # one rank cannot run an encoder in shards
            raise ValueError("RepresentationProbe must not be used with `trainer.strategy` ModelParallelStrategy.")
        if stage == "fit":
            utterances = read_utterances(expand_path(self.manifest))
            if not any(item.speaker or item.text for item in utterances):
                raise ValueError(f"`manifest` must hold a `speaker` or a `text` to probe for, got {self.manifest}.")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        with torch.random.fork_rng(devices=[]), evaluation_mode(pl_module), torch.enable_grad():  # probes learn
            result = probe(
                pl_module.front_end,
                pl_module.encoder,
                expand_path(self.manifest),
                what=self.what,
                minutes=self.minutes,
                num_triples=self.num_triples,
                device=str(pl_module.device),
            )
        figures = {
            "speaker": result.speaker and result.speaker.accuracy,
            "label": result.label and result.label.accuracy,
            "cer": result.ctc_cer,
            "abx_within": result.abx_within and result.abx_within.error,
            "abx_across": result.abx_across and result.abx_across.error,
        }
        for name, value in figures.items():
            if value is not None:
                pl_module.log(f"probe_{name}", value, batch_size=1, rank_zero_only=True)
