"""What leaves the toolkit: the integer front end for firmware."""

from speechkit.export.firmware import FirmwareExport, export_front_end, synthetic_signal

__all__ = ["FirmwareExport", "export_front_end", "synthetic_signal"]
