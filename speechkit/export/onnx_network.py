"""An integer network as an ONNX graph: QDQ for int8, plain convolutions for float32.

Convolutions over time are written as 1 x k convolutions over a plane of height 1: ONNX Runtime has fast kernels for
those only. Weights are int8. Activations are uint8 with zero point Z + 128, which x86 multiplies fastest with them, or
int8 as they are, which many compilers for ARM and its NPUs ask for. Every convolution stands between DequantizeLinear
and QuantizeLinear, which ONNX Runtime makes one QLinearConv of. Beside uint8, weights of four bits are two to a byte.

Where a layer reads several tensors, their channels stand side by side in the scale of the first, and weights were
quantized for that. Zero points differ (0 after a ReLU, 128 else), and a convolution has only one: all are read with
that of the first, and what this adds to the sums is taken from the bias. No layer with several inputs has padding.
"""

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

import speechkit
from speechkit.export.four_bits import fits_four_bits
from speechkit.export.onnx_front_end import add_integer_front_end
from speechkit.export.onnx_graph import Graph, import_onnx
from speechkit.runtime import Domain, IntegerLayer, IntegerNetwork
from speechkit.runtime.front_end import IntegerTables
from speechkit.runtime.network import CODE_MIN, network_digest

if TYPE_CHECKING:
    import onnx

    from speechkit.quantization.quantized_network import QuantizedNetwork

INPUTS = ("codes", "features", "waveform")
CODE_TYPES = {"uint8": 128, "int8": 0}  # -> what is added to an int8 code


def export_network(
    network: IntegerNetwork,
    path: str | os.PathLike[str],
    *,
    input_name: str = "codes",
    code_type: str = "uint8",
    tables: IntegerTables | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes what `network_model` makes, to a file, with more metadata."""
    model = network_model(network, input_name=input_name, code_type=code_type, tables=tables)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    import_onnx().save_model(model, os.fspath(path))


def float_network(network: "QuantizedNetwork") -> IntegerNetwork:
    """The same layers all in float, batch norms folded, calibrated or not: what becomes a float32 graph."""
    twin = copy.deepcopy(network)
    for layer in twin.layers:
        layer.is_float = True
        layer.log_scale.data.nan_to_num_(0.0)  # nothing is rounded to it
    return twin.to_integer()


def network_model(
    network: IntegerNetwork, *, input_name: str, code_type: str = "uint8", tables: IntegerTables | None = None
) -> "onnx.ModelProto":
    """A graph `codes` or `features` (batch, frames, F), or `waveform` (batch, samples) -> `logits` (batch, frames', V).

    The utterances of a batch must be of one length: the graph knows no lengths, and would read padding as sound. An
    all-float network (`float_network`) becomes a float32 graph, and takes features. Logits are float32.

    Args:
        network: the layers.
        input_name: "codes": those of the front end, of `code_type`. "features": float32 values S (q - Z), or any
            other in the input domain, which the graph quantizes. "waveform": float32 in [-1, 1], at least a frame of
            it, which the graph makes the integer front end's codes of, bit for bit.
        code_type: of the activations: "uint8", q + 128, or "int8", q.
        tables: of the front end, for "waveform".

    Raises:
        ValueError: another input or type, no tables, or a layer that has no graph of the same codes.
        ImportError: onnx is not installed.
    """
    if input_name not in INPUTS:
        raise ValueError(f"`input_name` must be one of {', '.join(INPUTS)}, got {input_name!r}.")
    if code_type not in CODE_TYPES:
        raise ValueError(f"`code_type` must be one of {', '.join(CODE_TYPES)}, got {code_type!r}.")
    for layer in network.layers:
        _check_layer(layer)
    is_float = all(layer.is_float for layer in network.layers) and input_name == "features"
    graph = _CodeGraph(code_type)
    source = input_name
    if input_name == "waveform":
        if tables is None:
            raise ValueError("`tables` must be those of the front end where the input is a waveform, got None.")
        source = add_integer_front_end(graph, tables, source, code_type=code_type, offset=CODE_TYPES[code_type])
    source = graph.node("Unsqueeze", graph.node("Transpose", source, perm=[0, 2, 1]), graph.constant("graph.axis", [2]))
    if input_name == "features" and not is_float:
        source = graph.quantize(source, network.domain, "graph.input")
    tensors = [source]
    for layer in network.layers:
        tensors.append(_add_layer(graph, layer, network, tensors, is_float=is_float))
    last = tensors[-1] if is_float else graph.dequantize(tensors[-1], network.layers[-1].domain, "graph.output")
    last = graph.node("Squeeze", last, graph.constant("graph.axis", [2]))
    graph.node("Transpose", last, perm=[0, 2, 1], output="logits")
    shape = ["batch", "samples"] if input_name == "waveform" else ["batch", "frames", network.num_features]
    return graph.model(
        graph.tensor(input_name, code_type if input_name == "codes" else np.float32, shape),
        graph.tensor("logits", np.float32, ["batch", "frames_out", network.num_outputs]),
        {"speechkit": speechkit.__version__, "network": network_digest(network)},
    )


class _CodeGraph(Graph):
    """A graph of codes of one type."""

    def __init__(self, code_type: str) -> None:
        super().__init__()
        self.code_type = code_type

    def weight(self, name: str, value: np.ndarray) -> str:
        """int8; two to a byte where they have four bits, except for compilers, few of which read that."""
        is_short = self.code_type == "uint8" and fits_four_bits(value)
        return self.packed(name, value) if is_short else self.constant(name, value)

    def quantize(self, x: str, domain: Domain, name: str) -> str:
        return self.node("QuantizeLinear", x, *self._domain(domain, name))

    def dequantize(self, x: str, domain: Domain, name: str) -> str:
        return self.node("DequantizeLinear", x, *self._domain(domain, name))

    def _domain(self, domain: Domain, name: str) -> tuple[str, str]:
        zero_point = np.array(domain.zero_point + CODE_TYPES[self.code_type], self.code_type)
        scale = self.constant(f"{name}.scale", np.float32(domain.scale))
        return scale, self.constant(f"{name}.zero_point", zero_point)


def _check_layer(layer: IntegerLayer) -> None:
    if len(layer.inputs) > 1 and (any(layer.padding) or layer.groups > 1):
        raise ValueError(f"{layer.name}: a layer of several inputs must have neither padding nor groups in ONNX.")
    if layer.relu and layer.domain.zero_point != CODE_MIN and not layer.is_float:
        raise ValueError(f"{layer.name}: the zero point behind a ReLU must be -128, got {layer.domain.zero_point}.")


def _add_layer(
    graph: _CodeGraph, layer: IntegerLayer, network: IntegerNetwork, tensors: list[str], *, is_float: bool
) -> str:
    """-> the name of its output: codes, or values in a float32 graph."""
    domains = [network.domains[number] for number in layer.inputs]
    sources = [tensors[number] for number in layer.inputs]
    weight = layer.weight[:, :, None, :]
    if layer.is_float:
        values = [
            source if is_float else graph.dequantize(source, domain, f"{layer.name}.input{place}")
            for place, (source, domain) in enumerate(zip(sources, domains, strict=True))
        ]
        x = values[0] if len(values) == 1 else graph.node("Concat", *values, axis=1)
        weight_name = graph.constant(f"{layer.name}.weight", weight)
        bias_name = graph.constant(f"{layer.name}.bias", layer.bias)
    else:
        codes = sources[0] if len(sources) == 1 else graph.node("Concat", *sources, axis=1)
        x = graph.dequantize(codes, domains[0], f"{layer.name}.input")
        weight_scale = graph.constant(f"{layer.name}.weight_scale", layer.weight_scale)
        whole = graph.weight(f"{layer.name}.weight", weight)
        zeros = []
        if graph.code_type == "int8":  # beside which onnxruntime gives weights one zero point, if they have none
            zeros.append(graph.constant(f"{layer.name}.weight_zero_point", np.zeros(len(weight), np.int8)))
        weight_name = graph.node("DequantizeLinear", whole, weight_scale, *zeros, axis=0)
        bias_scale = np.float32(domains[0].scale) * layer.weight_scale
        bias_name = graph.node(
            "DequantizeLinear",
            graph.constant(f"{layer.name}.bias", _bias_with_one_zero_point(layer, network)),
            graph.constant(f"{layer.name}.bias_scale", bias_scale),
            axis=0,
        )
    y = graph.node(
        "Conv",
        x,
        weight_name,
        bias_name,
        name=layer.name,
        group=layer.groups,
        kernel_shape=[1, layer.weight.shape[2]],
        strides=[1, layer.stride],
        pads=[0, layer.padding[0], 0, layer.padding[1]],
    )
    if layer.relu and (is_float or layer.domain.zero_point != CODE_MIN):  # else the lowest code is that of zero
        y = graph.node("Relu", y)
    return y if is_float else graph.quantize(y, layer.domain, f"{layer.name}.output")


def _bias_with_one_zero_point(layer: IntegerLayer, network: IntegerNetwork) -> np.ndarray:
    """int32 (C',), for inputs that are all read with the zero point of the first."""
    bias, place = layer.bias.astype(np.int64), 0
    if len(layer.inputs) == 1:
        return layer.bias
    zero_points = [network.domains[number].zero_point for number in layer.inputs]
    for number, zero_point in zip(layer.inputs, zero_points, strict=True):
        width = len(network.layers[number - 1].weight) if number else network.num_features
        weights = layer.weight[:, place : place + width].astype(np.int64).sum(axis=(1, 2))
        bias = bias + (zero_points[0] - zero_point) * weights
        place += width
    return bias.astype(np.int32)
