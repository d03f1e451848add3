"""Losses: CTC (on logits) and InfoNCE, as pure functions."""

from speechkit.losses.ctc import CTCLoss, ctc_feasible, ctc_loss
from speechkit.losses.infonce import draw_negatives, infonce

__all__ = ["CTCLoss", "ctc_feasible", "ctc_loss", "draw_negatives", "infonce"]
