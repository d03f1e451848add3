"""Confidence penalty: distributions of low entropy cost something."""

import torch
from torch import Tensor

from speechkit.callbacks.loss_term import LossTerm
from speechkit.losses.ctc.once import with_gradient
from speechkit.masking import length_mask


def mean_entropies(logits: Tensor, lengths: Tensor) -> Tensor:
    """The mean over an utterance's frames of the entropy of their symbols, in nats, differentiable once.

    The gradient of a frame's entropy H is -p (log p + H), so one tensor of the size of the logits is kept and not the
    three that automatic differentiation would keep.

    Args:
        logits: (B, T, V).
        lengths: (B,) frames.

    Returns:
        (B,), each in [0, log V]; 0 where there are no frames.
    """
    with torch.no_grad():
        probabilities = logits.softmax(dim=-1)
        gradient = torch.special.entr(probabilities)  # -p log p
        entropies = gradient.sum(dim=-1)
        gradient.addcmul_(probabilities, entropies[:, :, None], value=-1.0)
        share = length_mask(lengths, logits.shape[1]) / lengths.clamp(min=1)[:, None]
        entropies, gradient = (entropies * share).sum(dim=1), gradient.mul_(share[:, :, None])
    return with_gradient(logits, entropies, gradient)


class ConfidencePenalty(LossTerm):
    """Subtracts `weight` times the mean entropy of the frames' distributions (Pereyra et al. 2017, arXiv 1701.06548).

    Unlike label smoothing it asks for no distribution in particular: where the network doubts between two symbols, only
    these two count. Of CTC it takes every frame, since in the many that are surely blank the gradient vanishes by
    itself. Being the mean over frames, between 0 and log V nats, it weighs against the loss per label the same whether
    labels are words or characters.

    The entropy of alignments given the text, against peaks in time (EnCTC, Liu et al. 2018), is another thing: it is
    the option `entropy` of `speechkit.losses.CTCLoss`.

    Args:
        weight: nats of loss per nat of entropy.

    Raises:
        ValueError: see `LossTerm`.
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__(weight)

    def term(self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """(B,) the mean entropy, negative."""
        return -mean_entropies(logits, input_lengths)
