"""Models of other toolkits -> bundles."""

from speechkit.pretrained.huggingface import import_hf

__all__ = ["import_hf"]
