"""The CTC loss that everything calls. It takes logits, so the gradient is exact and in the logits' own terms."""

import functools
import math
import os
from types import ModuleType

import torch
from torch import Tensor, nn

from speechkit.losses.ctc import loop, native, reference
from speechkit.losses.ctc.batch import Batch, check_results, checked_batch
from speechkit.losses.ctc.star import with_star, without_star

BACKENDS = ("auto", "numba", "triton", "torch", "loop", "reference")
ANYWHERE = {"torch": native, "loop": loop, "reference": reference}
FAST = ("numba", "triton")


def ctc_loss(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    label_smoothing: float = 0.0,
    entropy: float = 0.0,
    blank_penalty: float = 0.0,
    star: int | None = None,
    star_penalty: float = 0.0,
    weights: Tensor | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Negative log-likelihood of label sequences (Graves et al. 2006, equation 8), from logits.

    With smoothing e the loss of an utterance is (1 - e) CTC + e sum_t -1/V sum_v log p(v | t): the cross entropy of
    each frame to the uniform distribution (the regulariser of Kim et al. 2018, arXiv 1711.10212).

    The gradient is exactly 0 in frames beyond an utterance's length, and NaN where its loss is infinite for want of an
    alignment. The loss can be differentiated only once: to differentiate its gradient raises RuntimeError.

    Args:
        logits: (B, T, V), not normalised, of any floating-point type and any strides.
        targets: (B, U) padded, or (sum of target_lengths,) concatenated labels, on the device of the logits.
        input_lengths: (B,) frames of each utterance, on any device.
        target_lengths: (B,) labels of each utterance, on any device.
        blank: id of the blank.
        reduction: "none" (B,), "sum", or "mean": each loss over its number of labels, then the mean, as torch does.
        zero_infinity: an utterance without an alignment has zero loss and gradient instead of infinite ones.
        label_smoothing: e in [0, 1).
        entropy: weight of the entropy of the paths given the labels, which is subtracted from the loss in nats (Liu et
            al. 2018, Connectionist temporal classification with maximum entropy regularization). It takes a loop over
            frames in torch, many times the time of the loss.
        blank_penalty: subtracted from the logit of the blank in every frame, so that a network learns to make up for
            it; decode the logits as they are for more blanks, or subtract it there too.
        star: an id outside [0, V) that stands in the targets for whatever was said there: one or more frames of any
            symbols, the blank included (Pratap et al. 2023, arXiv 2305.13516). It does not go together with label
            smoothing.
        star_penalty: nats that each frame under a star costs; without a cost, a star takes all the frames it can.
        weights: (B,) by which each loss is multiplied, before any reduction.
        validate: whether values of tensors are looked at, which makes a GPU wait; None: on a CPU only.
        backend: "numba" (CPU), "triton" (CUDA, at most 2047 labels), "torch" (CPU, CUDA), "loop" (torch, frame by
            frame, any device, slow), "reference" (float64, slower), or "auto": the first that can.

    Returns:
        (B,) for "none", otherwise a scalar, in float32 (float64 for float64 logits).

    Raises:
        ValueError: an argument out of its range or of the wrong shape, NaN among the logits, or a backend that cannot
            run.
    """
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f'`reduction` must be "none", "sum" or "mean", got {reduction!r}.')
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"`label_smoothing` must lie in [0, 1), got {label_smoothing}.")
    if star is not None and label_smoothing:
        raise ValueError(f"`label_smoothing` must be 0 where a `star` is given, got {label_smoothing}.")
    if not 0.0 <= star_penalty < math.inf:
        raise ValueError(f"`star_penalty` must be at least 0 and finite, got {star_penalty}.")
    if not (math.isfinite(entropy) and math.isfinite(blank_penalty)):
        raise ValueError(f"`entropy` and `blank_penalty` must be finite, got {entropy} and {blank_penalty}.")
    if weights is not None and weights.shape != input_lengths.shape:
        raise ValueError(f"`weights` must be (B,), got shape {tuple(weights.shape)}.")
    batch = checked_batch(logits, targets, input_lengths, target_lengths, blank=blank, star=star, validate=validate)
    if blank_penalty:
        batch = batch._replace(logits=penalised(batch.logits, blank, blank_penalty))
    of_star = 0.0
    if star is not None:
        batch, of_star = with_star(batch, star, star_penalty)
    losses: Tensor = _backend(backend, batch).ctc_losses(
        batch, zero_infinity=zero_infinity, label_smoothing=label_smoothing
    )
    if validate or (validate is None and logits.device.type == "cpu"):
        check_results(losses, batch)
    if star is not None:
        losses = without_star(losses, batch, of_star)
    if entropy:
        losses = losses - entropy * loop.path_entropies(batch)
    if weights is not None:
        losses = losses * weights.to(losses)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return (losses / target_lengths.to(losses.device).clamp(min=1)).mean()


def penalised(logits: Tensor, blank: int, penalty: float) -> Tensor:
    """The logits (B, T, V), that of the blank being less by a penalty."""
    penalties = torch.zeros(logits.shape[2], dtype=logits.dtype, device=logits.device)
    penalties[blank] = penalty
    return logits - penalties


def ctc_occupancies(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Posterior probability of each symbol in each frame, given the labels (Graves et al. 2006, equation 14).

    The gradient of the loss with respect to the logits is their softmax less the occupancies. The result itself cannot
    be differentiated.

    Args:
        logits: (B, T, V), not normalised, of any floating-point type and any strides.
        targets: (B, U) padded, or (sum of target_lengths,) concatenated labels, on the device of the logits.
        input_lengths: (B,) frames of each utterance, on any device.
        target_lengths: (B,) labels of each utterance, on any device.
        blank: id of the blank.
        validate: as in `ctc_loss`.
        backend: as in `ctc_loss`.

    Returns:
        (B, T, V) in float32 (float64 for float64 logits): each frame sums to 1, and to 0 beyond an utterance's length
        and in utterances without an alignment.

    Raises:
        ValueError: as in `ctc_loss`.
    """
    batch = checked_batch(logits.detach(), targets, input_lengths, target_lengths, blank=blank, validate=validate)
    occupancies: Tensor = _backend(backend, batch).ctc_occupancies(batch)
    if validate or (validate is None and logits.device.type == "cpu"):
        check_results(occupancies.sum(dim=(1, 2)), batch)
    return occupancies[:, : logits.shape[1]]


def _module(name: str) -> ModuleType:
    """Imports a backend by a statement: torch.compile can trace that, and not `importlib`."""
    if name == "triton":
        from speechkit.losses.ctc import triton_cuda

        return triton_cuda
    from speechkit.losses.ctc import numba_cpu

    return numba_cpu


@functools.cache
def _import_error(name: str) -> str | None:
    try:
        _module(name)
    except ImportError as error:
        return str(error)
    return None


def _failure(name: str) -> str | None:
    """Why a backend, or what it needs, cannot be imported; tried when it is first used."""
    return _import_error(name)


# torch.compiler.assume_constant_result does but this, and imports the whole compiler for it, which takes seconds
_failure._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _obstacle(name: str, batch: Batch) -> str | None:
    """Why Numba or Triton cannot take this batch."""
    if name == "numba" and torch.compiler.is_compiling():
        return "within torch.compile, which cannot trace Numba"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own variable: kernels run in Python
    devices = {"numba": ("cpu",), "triton": ("cuda", "cpu") if interpreted else ("cuda",)}
    if batch.logits.device.type not in devices[name]:
        return f"for logits on {batch.logits.device}"
    failure = _failure(name)
    if failure:
        return f"where {name.capitalize()} cannot be imported ({failure})"
    most = getattr(_module(name), "MOST_LABELS", math.inf)
    return f"for more than {most} labels" if batch.targets.shape[1] > most else None


def _backend(name: str, batch: Batch) -> ModuleType:
    """The module of a backend, each with `ctc_losses` and `ctc_occupancies`."""
    if name not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}.")
    if name in ANYWHERE:
        return ANYWHERE[name]
    if name == "auto":
        for fast in FAST:
            if _obstacle(fast, batch) is None:
                return _module(fast)
        return native if batch.logits.device.type in ("cpu", "cuda") else loop
    obstacle = _obstacle(name, batch)
    if obstacle is not None:
        raise ValueError(f'`backend` must be "auto", "torch" or "loop" {obstacle}, got "{name}".')
    return _module(name)


class CTCLoss(nn.Module):
    """`ctc_loss` as the seam `loss` of a task: per-utterance losses, options as keyword arguments of `forward`.

    Args:
        blank: id of the blank.
        entropy: as in `ctc_loss`.
        blank_penalty: as in `ctc_loss`.
        backend: as in `ctc_loss`.
    """

    def __init__(
        self, *, blank: int = 0, entropy: float = 0.0, blank_penalty: float = 0.0, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.blank, self.entropy, self.blank_penalty, self.backend = blank, entropy, blank_penalty, backend

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        input_lengths: Tensor,
        target_lengths: Tensor,
        *,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """logits (B, T, V), targets (B, U), lengths (B,) -> losses (B,), each over its number of labels.

        Utterances without an alignment have loss 0; tell them from `ctc_feasible`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            losses = ctc_loss(
                logits,
                targets,
                input_lengths,
                target_lengths,
                blank=self.blank,
                reduction="none",
                zero_infinity=True,
                label_smoothing=label_smoothing,
                entropy=self.entropy,
                blank_penalty=self.blank_penalty,
                backend=self.backend,
            )
        return losses / target_lengths.to(losses.device).clamp(min=1)
