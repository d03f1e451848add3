"""What leaves the toolkit: ONNX graphs, and C99 source for firmware.

What imports torch is imported at its first use: an int8 bundle is exported without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechkit.export.front_end_c import FirmwareExport, IntegerFrontEnd, synthetic_signal
from speechkit.export.recognizer_c import RecognizerExport, export_recognizer

if TYPE_CHECKING:
    from speechkit.export.firmware import as_quantized_front_end, export_front_end

__all__ = [
    "FirmwareExport",
    "IntegerFrontEnd",
    "RecognizerExport",
    "as_quantized_front_end",
    "export_front_end",
    "export_recognizer",
    "synthetic_signal",
]
_LATER = {"as_quantized_front_end": "firmware", "export_front_end": "firmware"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'speechkit.export' has no attribute {name!r}")
    return getattr(import_module(f"speechkit.export.{_LATER[name]}"), name)
