"""Heads: representations (B, T, D) -> logits or predictions."""

from speechkit.heads.contrastive import StepPredictors, TransformerPredictors
from speechkit.heads.ctc import CTCHead
from speechkit.heads.domain_classifier import DomainClassifier, domain_losses, reverse_gradient
from speechkit.heads.masked_prediction import MaskedPredictionHead

__all__ = [
    "CTCHead",
    "DomainClassifier",
    "MaskedPredictionHead",
    "StepPredictors",
    "TransformerPredictors",
    "domain_losses",
    "reverse_gradient",
]
