"""Models of other toolkits -> bundles."""

from speechkit.pretrained.wav2vec2 import import_wav2vec2

__all__ = ["import_wav2vec2"]
