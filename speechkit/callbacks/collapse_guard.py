"""Watches a training for collapse, and ends it (or slows it down) with a diagnosis in words.

What is measured, every so many steps, on the encoder's latents and context as they pass the seam `encoder`:

| log | what | healthy | collapsed |
|---|---|---|---|
| `latent_std`, `context_std` | deviation of L2-normalised frames times the root of D | near 1 | 0: all alike |
| `latent_rank`, `context_rank` | effective rank of frames | tens | 1 to 2: on a line |
| `gradient_norm` | over all parameters, before clipping | any | 0 or not finite |

Besides, of what the task itself logs: `train_loss` if it knows its `loss_of_guessing`, `train_score_gap` (of the scores
of true latents to those of others), and whatever has "perplexity" in its name.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.masking import length_mask

ACTIONS = ("stop", "lower_rate")
_SAMPLED_FRAMES = 512
_WORSE_THAN_GUESSING, _NO_BETTER_THAN_GUESSING = 1.5, 0.98
_LATE = 10  # times `first_step`: by then a loss should have moved
_GAP_TO_LOSE = 0.05  # below it, a gap is noise, as it is while a long warm-up lasts

_log = logging.getLogger(__name__)


class CollapseError(ValueError):
    """A training that has collapsed; the message is the diagnosis."""


class Sign(NamedTuple):
    """A sign of collapse: what is seen, and what usually helps, the best advice first."""

    seen: str
    helps: tuple[str, ...]


_RATE, _TEMPERATURE = "lower the learning rate or warm it up for longer", "raise a small temperature (0.1 is common)"
SIGNS = {
    "not_finite": Sign(
        "loss or gradient is not finite", (_TEMPERATURE, _RATE, "clip gradients", "take bf16 or fp32 for fp16")
    ),
    "codebook_unused": Sign(
        "the codebook has collapsed to a few codes",
        ("raise the weight of the diversity term", "let the Gumbel temperature start higher and fall more slowly"),
    ),
    "worse_than_guessing": Sign("the loss is far above that of guessing among the negatives", (_TEMPERATURE, _RATE)),
    "learns_nothing": Sign(
        "the loss is still that of guessing among the negatives, long after the warm-up of the rate",
        (_RATE, "look for silence or noise in the recordings (speechkit data check)"),
    ),
    "frames_alike": Sign(
        "all frames have come to look alike (complete collapse)",
        (_RATE, _TEMPERATURE, "take negatives from the same utterance"),
    ),
    "frames_on_a_line": Sign(
        "frames differ in one or two directions only (dimensional collapse)",
        (_RATE, _TEMPERATURE, "take more negatives"),
    ),
    "no_gap": Sign(
        "what is predicted is no nearer to the true latents than to others, which it was before",
        (_RATE, "go back to a checkpoint from before"),
    ),
    "no_gradient": Sign("the gradient has vanished", (_TEMPERATURE, _RATE, "check that the encoder is not frozen")),
}


def feature_std(frames: Tensor) -> Tensor:
    """Deviation of each dimension of L2-normalised frames, averaged, times the root of D: (N, D) -> scalar.

    0 where all frames are the same, near 1 where they point everywhere (Chen and He 2021, arXiv 2011.10566).
    """
    return F.normalize(frames, dim=1).std(dim=0, correction=0).mean() * math.sqrt(frames.shape[1])


def effective_rank(frames: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares, of frames less their mean (Roy and Vetterli 2007, "The
    effective rank: a measure of effective dimensionality", EUSIPCO): (N, D) -> scalar, 1 to min(N, D)."""
    values = torch.linalg.svdvals(frames - frames.mean(dim=0))
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


class CollapseGuard(CleanedUp):
    """Measures, logs, and acts on what it sees.

    A sign has to be seen `patience` times in a row, a loss or gradient that is not finite once. (Under "16-mixed" a
    gradient may be: the scaler of the losses leaves such a step out and goes on with a smaller scale.)

    Args:
        action: "stop" raises `CollapseError`; "lower_rate" multiplies the learning rate by `rate_factor` and only stops
            when that has not helped three times.
        every_n_steps: how often to measure; a measurement costs a singular value decomposition of at most 512 frames.
        patience: measurements in a row.
        first_step: nothing is judged before, only logged. A loss that is still that of guessing is a sign after ten
            times as many steps and twice the warm-up of the rate.
        min_std: of latents and context.
        min_rank: of latents and context.
        min_gap_share: of the largest gap so far.
        min_gradient_norm: of all parameters together.
        min_perplexity: of every codebook perplexity that the task logs.
        rate_factor: for "lower_rate".

    Raises:
        ValueError: an argument out of its range.
        CollapseError: while training.
    """

    order = Order.WATCH

    def __init__(
        self,
        *,
        action: str = "stop",
        every_n_steps: int = 10,
        patience: int = 5,
        first_step: int = 50,
        min_std: float = 0.05,
        min_rank: float = 2.0,
        min_gap_share: float = 0.1,
        min_gradient_norm: float = 1e-7,
        min_perplexity: float = 3.0,
        rate_factor: float = 0.3,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"`action` must be one of {', '.join(ACTIONS)}, got {action!r}.")
        for name, value in (("every_n_steps", every_n_steps), ("patience", patience)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not 0.0 < rate_factor < 1.0:
            raise ValueError(f"`rate_factor` must lie in (0, 1), got {rate_factor}.")
        self.action, self.every_n_steps, self.patience, self.first_step = action, every_n_steps, patience, first_step
        self.min_std, self.min_rank, self.min_gap_share = min_std, min_rank, min_gap_share
        self.min_gradient_norm, self.min_perplexity, self.rate_factor = min_gradient_norm, min_perplexity, rate_factor
        self.readings: dict[str, float] = {}
        self._since: dict[str, int] = {}  # sign -> step at which it was first seen, of those that are seen now
        self._counts: dict[str, int] = {}  # sign -> measurements in a row
        self._largest_gap = 0.0
        self._times_lowered = 0
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}  # "latent", "context" -> frames, lengths
        self._gradient_norm = torch.zeros(())
        self._watching = self._stepped = False
        self._undo: list[Callable[[], Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "since": dict(self._since),
            "counts": dict(self._counts),
            "largest_gap": self._largest_gap,
            "times_lowered": self._times_lowered,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._since, self._counts = dict(state_dict["since"]), dict(state_dict["counts"])
        self._largest_gap, self._times_lowered = state_dict["largest_gap"], state_dict["times_lowered"]

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        encoder: Any = pl_module.encoder
        handle = encoder.register_forward_hook(self._on_encoder)
        self._undo = [handle.remove]
        for name, kind in (("latents", "latent"), ("context", "context")):
            if hasattr(encoder, name):  # torch has hooks for calls of a module, and none for its other methods
                setattr(encoder, name, self._recording(getattr(encoder, name), kind))
                self._undo.append(lambda name=name: delattr(encoder, name))  # type: ignore[misc]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for undo in self._undo:
            undo()
        self._undo = []
        self._seen = {}

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._watching = (trainer.global_step + 1) % self.every_n_steps == 0
        self._stepped = False

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._stepped = True
        if self._watching:
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self._gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._watching and self._stepped:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self._measure(trainer, pl_module, loss)
            self._judge(trainer, pl_module)
        self._seen = {}
        for name, value in self.readings.items():
            if name != "loss" and not _is_of_task(name):
                pl_module.log(name, value, batch_size=1, rank_zero_only=True)

    def _on_encoder(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        self._record("context", module, output)

    def _recording(self, method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = method(*args, **kwargs)
            self._record(kind, method.__self__, output)  # type: ignore[attr-defined]
            return output

        return recorded

    def _record(self, kind: str, module: nn.Module, output: tuple[Tensor, Tensor]) -> None:
        if self._watching and module.training:
            self._seen[kind] = (output[0].detach(), output[1])

    @torch.no_grad()
    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor) -> None:
        """Fills the readings, each the mean over the ranks that have it: all ranks come to the same judgement."""
        nothing = torch.full((), torch.nan)
        values = {"loss": loss.detach(), "gradient_norm": self._gradient_norm}
        for kind in ("latent", "context"):
            frames = _sample(*self._seen[kind]) if kind in self._seen else nothing[None, None]
            can_be_measured = len(frames) > 1 and bool(frames.isfinite().all())
            values[f"{kind}_std"] = feature_std(frames) if can_be_measured else nothing
            values[f"{kind}_rank"] = effective_rank(frames) if can_be_measured else nothing
        measured = torch.stack([value.float().to(pl_module.device) for value in values.values()])
        is_there = ~measured.isnan()
        is_there[:2] = True  # loss and gradient: here NaN is a reading
        sums = torch.stack([measured.masked_fill(~is_there, 0.0), is_there.float()])
        total, count = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self.readings = {name: total[i] / count[i] for i, name in enumerate(values) if count[i]}
        logged = trainer.callback_metrics.items()
        self.readings |= {name: float(value) for name, value in logged if _is_of_task(name)}

    def _judge(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        step = trainer.global_step
        seen = self._signs(trainer, pl_module) if step >= self.first_step or not self._is_finite() else set()
        self._since = {sign: self._since.get(sign, step) for sign in seen}
        self._counts = {sign: self._counts.get(sign, 0) + 1 for sign in seen}
        self._largest_gap = max(self._largest_gap, _or_zero(self.readings.get("train_score_gap", 0.0)))
        scales_losses = getattr(trainer.precision_plugin, "scaler", None) is not None
        if "not_finite" in seen and not (scales_losses and math.isfinite(self.readings["loss"])):
            raise CollapseError(self._diagnosis(trainer, pl_module))
        if any(count >= self.patience for count in self._counts.values()):
            self._act(trainer, self._diagnosis(trainer, pl_module))

    def _is_finite(self) -> bool:
        return math.isfinite(self.readings["loss"]) and math.isfinite(self.readings["gradient_norm"])

    def _signs(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> set[str]:
        """What is seen in the readings of now."""
        if not self._is_finite():
            return {"not_finite"}
        readings = self.readings
        seen = set()
        guessing = getattr(pl_module, "loss_of_guessing", math.inf)
        warm_up = getattr(pl_module, "warmup_fraction", 0.0) * trainer.estimated_stepping_batches
        is_late = trainer.global_step >= max(_LATE * self.first_step, 2 * warm_up)
        loss = readings.get("train_loss", 0.0)
        if loss > _WORSE_THAN_GUESSING * guessing:
            seen.add("worse_than_guessing")
        elif is_late and loss > _NO_BETTER_THAN_GUESSING * guessing:
            seen.add("learns_nothing")
        if any(readings.get(f"{kind}_std", math.inf) < self.min_std for kind in ("latent", "context")):
            seen.add("frames_alike")
        if any(readings.get(f"{kind}_rank", math.inf) < self.min_rank for kind in ("latent", "context")):
            seen.add("frames_on_a_line")
        was_above = self._largest_gap > _GAP_TO_LOSE
        if was_above and readings.get("train_score_gap", math.inf) < self.min_gap_share * self._largest_gap:
            seen.add("no_gap")
        if readings["gradient_norm"] < self.min_gradient_norm:
            seen.add("no_gradient")
        if any(value < self.min_perplexity for name, value in readings.items() if "perplexity" in name):
            seen.add("codebook_unused")
        return seen

    def _diagnosis(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> str:
        """All signs that are seen now, what was measured, and what usually helps."""
        signs = [name for name in SIGNS if name in self._since]
        values = dict(self.readings)
        if isinstance(temperature := getattr(pl_module, "temperature", None), int | float):
            values["temperature"] = temperature
        values["learning rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        facts = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        seen = "; ".join(f"{SIGNS[name].seen}, since step {self._since[name]}" for name in signs)
        helps = list(dict.fromkeys(advice for name in signs for advice in SIGNS[name].helps))
        return (
            f"the training has collapsed: {seen} (now step {trainer.global_step}: {facts}). "
            f"What usually helps: {', '.join(helps)}."
        )

    def _act(self, trainer: lightning.Trainer, diagnosis: str) -> None:
        if self.action == "stop" or self._times_lowered == 3:
            raise CollapseError(diagnosis)
        self._times_lowered += 1
        self._since, self._counts = {}, {}
        for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [self.rate_factor * rate for rate in scheduler.base_lrs]
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] *= self.rate_factor
        if trainer.is_global_zero:
            _log.warning("%s The learning rate is now %g of itself.", diagnosis, self.rate_factor)


def _is_of_task(name: str) -> bool:
    """Whether it is a metric that the task logs and the guard reads."""
    return name in ("train_loss", "train_score_gap") or ("perplexity" in name and not name.startswith("val"))


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _sample(x: Tensor, lengths: Tensor) -> Tensor:
    """At most 512 real frames, evenly spaced: (B, T, D), (B,) -> (N, D) in float32."""
    frames = x.flatten(0, 1)[length_mask(lengths, x.shape[1]).flatten()]
    return frames[:: max(1, -(-len(frames) // _SAMPLED_FRAMES))].float()
