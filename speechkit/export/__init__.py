"""What leaves the toolkit: the integer front end for firmware."""

from speechkit.export.firmware import as_quantized_front_end, export_front_end
from speechkit.export.front_end_c import FirmwareExport, synthetic_signal

__all__ = ["FirmwareExport", "as_quantized_front_end", "export_front_end", "synthetic_signal"]
