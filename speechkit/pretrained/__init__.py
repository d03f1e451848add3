"""Models of other toolkits -> bundles."""

from speechkit.pretrained.huggingface import import_hf
from speechkit.pretrained.torchaudio_models import import_torchaudio, import_torchaudio_pipeline

__all__ = ["import_hf", "import_torchaudio", "import_torchaudio_pipeline"]
