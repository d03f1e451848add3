"""Which utterances have an alignment at all."""

from torch import Tensor

from speechkit.masking import length_mask


def ctc_feasible(targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Whether an alignment exists: T' >= U + repeats, as a repeated label needs a blank in between.

    Args:
        targets: (B, U) padded labels.
        input_lengths: (B,) frames T'.
        target_lengths: (B,) labels.

    Returns:
        (B,) bool.
    """
    repeats = targets[:, 1:] == targets[:, :-1]
    inside = length_mask(target_lengths - 1, repeats.shape[1])
    return input_lengths >= target_lengths + (repeats & inside).sum(dim=1)
