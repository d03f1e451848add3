"""Heads: representations (B, T, D) -> logits or predictions."""

from speechkit.heads.contrastive import StepPredictors, TransformerPredictors
from speechkit.heads.ctc import CTCHead
from speechkit.heads.masked_prediction import MaskedPredictionHead

__all__ = ["CTCHead", "MaskedPredictionHead", "StepPredictors", "TransformerPredictors"]
