"""What leaves the toolkit: ONNX graphs, and C99 source for firmware.

What imports torch is imported at its first use: an int8 bundle is exported without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechkit.export.front_end_c import FirmwareExport, FirmwareFrontEnd, synthetic_signal
from speechkit.export.recognizer_c import RecognizerExport, export_recognizer

if TYPE_CHECKING:
    from speechkit.export.firmware import export_front_end

__all__ = [
    "FirmwareExport",
    "FirmwareFrontEnd",
    "RecognizerExport",
    "export_front_end",
    "export_recognizer",
    "synthetic_signal",
]


def __getattr__(name: str) -> Any:
    if name != "export_front_end":
        raise AttributeError(f"module 'speechkit.export' has no attribute {name!r}")
    return import_module("speechkit.export.firmware").export_front_end
