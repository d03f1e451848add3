"""Losses: CTC (on logits), its forced alignment, and InfoNCE, as pure functions."""

from speechkit.losses.ctc import Alignment, CTCLoss, ctc_align, ctc_feasible, ctc_loss, ctc_occupancies
from speechkit.losses.infonce import draw_negatives, infonce
from speechkit.losses.span_mask import span_mask

__all__ = [
    "Alignment",
    "CTCLoss",
    "ctc_align",
    "ctc_feasible",
    "ctc_loss",
    "ctc_occupancies",
    "draw_negatives",
    "infonce",
    "span_mask",
]
