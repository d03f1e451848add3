"""LightningModules that compose built parts: contrastive pretraining and recognition."""

from speechkit.tasks.contrastive_pretraining import ContrastivePretraining
from speechkit.tasks.masked_pretraining import MaskedContrastivePretraining
from speechkit.tasks.quantized_recognition import QuantizedRecognition
from speechkit.tasks.recognition import Recognition

__all__ = ["ContrastivePretraining", "MaskedContrastivePretraining", "QuantizedRecognition", "Recognition"]
