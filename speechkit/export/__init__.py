"""What leaves the toolkit: the integer front end for firmware."""

from speechkit.export.firmware import FirmwareExport, as_quantized_front_end, export_front_end, synthetic_signal

__all__ = ["FirmwareExport", "as_quantized_front_end", "export_front_end", "synthetic_signal"]
