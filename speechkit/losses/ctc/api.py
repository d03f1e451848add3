"""The CTC loss that everything calls. It takes logits, so the gradient is exact and in the logits' own terms."""

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.losses.ctc import native, reference
from speechkit.masking import length_mask

BACKENDS = ("auto", "numba", "torch", "reference")


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
        backend: "numba" (CPU), "torch" (any device), "reference" (float64, slow), or "auto": "numba" for logits on a
            CPU, "torch" for any other, within torch.compile, and where Numba cannot be imported.

    Returns:
        (B,) for "none", otherwise a scalar, in float32 (float64 for float64 logits).

    Raises:
        ValueError: an argument out of its range or of the wrong shape, NaN among the logits, or a backend that cannot
            run. Values of tensors on a GPU are not looked at.
    """
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f'`reduction` must be "none", "sum" or "mean", got {reduction!r}.')
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"`label_smoothing` must lie in [0, 1), got {label_smoothing}.")
    logits, targets = _checked(logits, targets, input_lengths, target_lengths, blank)
    losses: Tensor = _backend(backend, logits).ctc_losses(
        logits,
        targets,
        input_lengths,
        target_lengths,
        blank=blank,
        zero_infinity=zero_infinity,
        label_smoothing=label_smoothing,
    )
    if not logits.is_cuda:
        _check_results(losses, logits, input_lengths)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return (losses / target_lengths.to(losses.device).clamp(min=1)).mean()


def ctc_occupancies(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
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
        backend: as in `ctc_loss`.

    Returns:
        (B, T, V) in float32 (float64 for float64 logits): each frame sums to 1, and to 0 beyond an utterance's length
        and in utterances without an alignment.

    Raises:
        ValueError: as in `ctc_loss`.
    """
    num_frames = logits.shape[1]
    logits, targets = _checked(logits.detach(), targets, input_lengths, target_lengths, blank)
    occupancies: Tensor = _backend(backend, logits).ctc_occupancies(
        logits, targets, input_lengths, target_lengths, blank=blank
    )
    if not logits.is_cuda:
        _check_results(occupancies.sum(dim=(1, 2)), logits, input_lengths)
    return occupancies[:, :num_frames]


@functools.cache
def _numba() -> ModuleType | str:
    """The backend, imported (and Numba with it) when it is first used, or why it cannot be."""
    try:
        return importlib.import_module("speechkit.losses.ctc.numba_cpu")
    except ImportError as error:
        return str(error)


def _backend(name: str, logits: Tensor) -> ModuleType:
    """The module of a backend, each with `ctc_losses` and `ctc_occupancies`."""
    if name not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}.")
    if name == "reference":
        return reference
    where = f"for logits on {logits.device}" if logits.device.type != "cpu" else ""
    if torch.compiler.is_compiling():
        where = "within torch.compile, which cannot trace Numba"
    if name == "torch" or (name == "auto" and where):
        return native
    if where:
        raise ValueError(f'`backend` must be "auto" or "torch" {where}, got "numba".')
    module = _numba()
    if isinstance(module, ModuleType):
        return module
    if name == "auto":
        return native
    raise ValueError(f'`backend` must be "auto" or "torch" where Numba cannot be imported ({module}), got "numba".')


def _checked(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """The logits, with at least one frame, and padded targets (B, U)."""
    if logits.dim() != 3 or not logits.is_floating_point() or logits.shape[0] == 0:
        raise ValueError(f"`logits` must be floats (B, T, V), B > 0, got {logits.dtype} {tuple(logits.shape)}.")
    batch, num_frames, num_symbols = logits.shape
    if not 0 <= blank < num_symbols:
        raise ValueError(f"`blank` must lie in [0, V = {num_symbols}), got {blank}.")
    for name, integers in (
        ("targets", targets),
        ("input_lengths", input_lengths),
        ("target_lengths", target_lengths),
    ):
        if integers.is_floating_point() or integers.is_complex() or integers.dtype == torch.bool:
            raise ValueError(f"`{name}` must be integers, got {integers.dtype}.")
    for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if lengths.shape != (batch,):
            raise ValueError(f"`{name}` must be (B,) = ({batch},), got shape {tuple(lengths.shape)}.")
    if targets.device != logits.device:
        raise ValueError(f"`targets` must be on the device of `logits`, {logits.device}, got {targets.device}.")
    on_cpu = logits.device.type == "cpu"  # looking at values would make a GPU wait
    if on_cpu:
        _check_lengths("input_lengths", input_lengths, num_frames)
        _check_lengths("target_lengths", target_lengths, targets.shape[-1] if targets.dim() else 0)
    if targets.dim() == 1:
        if len(targets) != int(target_lengths.sum()):
            raise ValueError(
                f"`targets` must hold sum(target_lengths) = {int(target_lengths.sum())} labels, got {len(targets)}."
            )
        targets = pad_sequence(targets.split(target_lengths.tolist()), batch_first=True)
    if targets.dim() != 2 or targets.shape[0] != batch:
        raise ValueError(f"`targets` must be (B, U) or concatenated, got shape {tuple(targets.shape)} for B = {batch}.")
    if on_cpu:
        inside = length_mask(target_lengths.to(targets.device), targets.shape[1])
        wrong = inside & ((targets < 0) | (targets >= num_symbols) | (targets == blank))
        if wrong.any():
            b, k = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"`targets` of utterance {b} must be labels in [0, V = {num_symbols}) other than the blank {blank},"
                f" got {int(targets[b, k])}."
            )
    if num_frames == 0:  # the empty text is certain, any other impossible
        logits = F.pad(logits, (0, 0, 0, 1))
    return logits, targets


def _check_lengths(name: str, lengths: Tensor, limit: int) -> None:
    wrong = (lengths < 0) | (lengths > limit)
    if wrong.any():
        b = int(wrong.nonzero()[0])
        raise ValueError(f"`{name}` of utterance {b} must lie in [0, {limit}], got {int(lengths[b])}.")


def _check_results(results: Tensor, logits: Tensor, input_lengths: Tensor) -> None:
    """Results (B,) that are not a number come from logits that are none, so only then are those looked at."""
    for b in results.isnan().nonzero().flatten().tolist():
        frames = logits[b, : int(input_lengths[b])].detach().double()
        wrong = (~frames.logsumexp(dim=-1).isfinite()).nonzero().flatten().tolist()
        if wrong:
            value, t = float(frames[wrong[0]].max()), wrong[0]
            raise ValueError(
                f"`logits` of utterance {b} must be finite, or -inf for some symbols, got {value} in frame {t}."
            )


class CTCLoss(nn.Module):
    """`ctc_loss` as the seam `loss` of a task: per-utterance losses, options as keyword arguments of `forward`.

    Args:
        blank: id of the blank.
    """

    def __init__(self, *, blank: int = 0) -> None:
        super().__init__()
        self.blank = blank

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
                logits.float(),
                targets,
                input_lengths,
                target_lengths,
                blank=self.blank,
                reduction="none",
                zero_infinity=True,
                label_smoothing=label_smoothing,
            )
        return losses / target_lengths.to(losses.device).clamp(min=1)
