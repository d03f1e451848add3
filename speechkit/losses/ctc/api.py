"""The CTC loss that everything calls. It takes logits, so the gradient is exact and in the logits' own terms."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.losses.ctc import native
from speechkit.masking import length_mask

BACKENDS = ("auto", "torch")


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

    Args:
        logits: (B, T, V), not normalised.
        targets: (B, U) padded, or (sum of target_lengths,) concatenated labels.
        input_lengths: (B,) frames of each utterance.
        target_lengths: (B,) labels of each utterance.
        blank: id of the blank.
        reduction: "none" (B,), "sum", or "mean": each loss over its number of labels, then the mean, as torch does.
        zero_infinity: an utterance without an alignment has zero loss and gradient instead of infinite ones.
        label_smoothing: e in [0, 1).
        backend: "auto" or "torch".

    Returns:
        (B,) for "none", otherwise a scalar, in float32 (float64 for float64 logits).

    Raises:
        ValueError: an argument out of its range or of the wrong shape.
    """
    if logits.dim() != 3:
        raise ValueError(f"`logits` must be (B, T, V), got shape {tuple(logits.shape)}.")
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f'`reduction` must be "none", "sum" or "mean", got {reduction!r}.')
    if not 0 <= blank < logits.shape[2]:
        raise ValueError(f"`blank` must lie in [0, V = {logits.shape[2]}), got {blank}.")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"`label_smoothing` must lie in [0, 1), got {label_smoothing}.")
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    _check_shapes(logits, targets, input_lengths, target_lengths)
    if targets.dim() == 1:
        targets = pad_sequence(targets.split(target_lengths.tolist()), batch_first=True)
    if not logits.is_cuda:  # looking at values would make a GPU wait
        _check_values(logits, targets, input_lengths, target_lengths, blank)
    if logits.shape[1] == 0:  # no frame at all: the empty text is certain, any other impossible
        logits = F.pad(logits, (0, 0, 0, 1))
    losses = native.ctc_losses(
        logits,
        targets,
        input_lengths,
        target_lengths,
        blank=blank,
        zero_infinity=zero_infinity,
        label_smoothing=label_smoothing,
    )
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return (losses / target_lengths.to(losses.device).clamp(min=1)).mean()


def _check_shapes(logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> None:
    batch = logits.shape[0]
    for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if lengths.shape != (batch,):
            raise ValueError(f"`{name}` must be (B,) = ({batch},), got shape {tuple(lengths.shape)}.")
    if targets.dim() == 1 and len(targets) != int(target_lengths.sum()):
        raise ValueError(
            f"`targets` must hold sum(target_lengths) = {int(target_lengths.sum())} labels, got {len(targets)}."
        )
    if targets.dim() != 1 and (targets.dim() != 2 or targets.shape[0] != batch):
        raise ValueError(f"`targets` must be (B, U) or concatenated, got shape {tuple(targets.shape)} for B = {batch}.")


def _check_values(logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int) -> None:
    for name, lengths, limit in (
        ("input_lengths", input_lengths, logits.shape[1]),
        ("target_lengths", target_lengths, targets.shape[1]),
    ):
        if len(lengths) and (int(lengths.min()) < 0 or int(lengths.max()) > limit):
            raise ValueError(f"`{name}` must lie in [0, {limit}], got {lengths.tolist()}.")
    labels = targets[length_mask(target_lengths, targets.shape[1])]
    wrong = labels[(labels < 0) | (labels >= logits.shape[2]) | (labels == blank)]
    if len(wrong):
        raise ValueError(f"`targets` must be labels in [0, V = {logits.shape[2]}) and not blank, got {int(wrong[0])}.")


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
        return losses / target_lengths.clamp(min=1)
