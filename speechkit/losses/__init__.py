"""Losses: CTC (on logits) and InfoNCE, as pure functions."""

from speechkit.losses.ctc import CTCLoss, ctc_feasible, ctc_loss, ctc_occupancies
from speechkit.losses.infonce import draw_negatives, infonce

__all__ = ["CTCLoss", "ctc_feasible", "ctc_loss", "ctc_occupancies", "draw_negatives", "infonce"]
