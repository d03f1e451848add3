"""Heads: representations (B, T, D) -> logits or predictions."""

from speechkit.heads.contrastive import StepPredictors, TransformerPredictors
from speechkit.heads.ctc import CTCHead

__all__ = ["CTCHead", "StepPredictors", "TransformerPredictors"]
