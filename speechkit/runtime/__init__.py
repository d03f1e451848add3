"""Runs int8 recognisers with numpy and ONNX Runtime. Nothing here imports torch."""

from speechkit.runtime.network import Domain, IntegerLayer, IntegerNetwork
from speechkit.runtime.reference import run_layers, run_network

__all__ = ["Domain", "IntegerLayer", "IntegerNetwork", "run_layers", "run_network"]
