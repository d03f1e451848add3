"""An integer network as an ONNX graph: QDQ for int8, plain convolutions for float32.

Convolutions over time are written as 1 x k convolutions over a plane of height 1: ONNX Runtime has fast kernels for
those only. Activations are uint8 with zero point Z + 128 and weights int8, the pair that x86 multiplies fastest; every
convolution stands between DequantizeLinear and QuantizeLinear, which ONNX Runtime makes one QLinearConv of.

Where a layer reads several tensors, their channels stand side by side in the scale of the first, and weights were
quantized for that. Zero points differ (0 after a ReLU, 128 else), and a convolution has only one: all are read with
that of the first, and what this adds to the sums is taken from the bias. No layer with several inputs has padding.
"""

import copy
import os
from typing import TYPE_CHECKING, Any

import numpy as np

import speechkit
from speechkit.runtime import Domain, IntegerLayer, IntegerNetwork
from speechkit.runtime.network import network_digest

if TYPE_CHECKING:
    import onnx

    from speechkit.quantization.quantized_network import QuantizedNetwork

OPSET = 20
INPUTS = ("codes", "features")
_TO_UINT8 = 128


def export_network(network: IntegerNetwork, path: str | os.PathLike[str], *, input_name: str = "codes") -> None:
    """Writes a graph `codes` or `features` (batch, frames, F) -> `logits` float32 (batch, frames', V).

    The utterances of a batch must be of one length: the graph knows no lengths, and would read padding as sound. An
    all-float network (`float_network`) becomes a float32 graph, and takes features.

    Args:
        network: the layers.
        path: of the file.
        input_name: "codes": uint8, q + 128 of the front end's int8 q. "features": float32 values S (q - Z), or any
            other in the input domain, which the graph quantizes.

    Raises:
        ValueError: another input, or a layer that has no graph of the same codes.
        ImportError: onnx is not installed.
    """
    if input_name not in INPUTS:
        raise ValueError(f"`input_name` must be one of {', '.join(INPUTS)}, got {input_name!r}.")
    onnx = _import_onnx()
    onnx.save_model(network_model(network, input_name=input_name), os.fspath(path))


def float_network(network: "QuantizedNetwork") -> IntegerNetwork:
    """The same layers all in float, batch norms folded, calibrated or not: what becomes a float32 graph."""
    twin = copy.deepcopy(network)
    for layer in twin.layers:
        layer.is_float = True
        layer.log_scale.data.nan_to_num_(0.0)  # nothing is rounded to it
    return twin.to_integer()


def network_model(network: IntegerNetwork, *, input_name: str) -> "onnx.ModelProto":
    """What `export_network` writes."""
    onnx = _import_onnx()
    for layer in network.layers:
        _check_layer(layer)
    is_float = all(layer.is_float for layer in network.layers) and input_name == "features"
    graph = _Graph(onnx)
    kind = onnx.TensorProto.UINT8 if input_name == "codes" else onnx.TensorProto.FLOAT
    source = graph.node(
        "Unsqueeze", graph.node("Transpose", input_name, perm=[0, 2, 1]), graph.constant("graph.axis", [2])
    )
    tensors = [source if input_name == "codes" or is_float else graph.quantize(source, network.domain, "graph.input")]
    for layer in network.layers:
        tensors.append(_add_layer(graph, layer, network, tensors, is_float=is_float))
    last = tensors[-1] if is_float else graph.dequantize(tensors[-1], network.layers[-1].domain, "graph.output")
    last = graph.node("Squeeze", last, graph.constant("graph.axis", [2]))
    graph.node("Transpose", last, perm=[0, 2, 1], output="logits")
    return graph.model(
        onnx.helper.make_tensor_value_info(input_name, kind, ["batch", "frames", network.num_features]),
        onnx.helper.make_tensor_value_info(
            "logits", onnx.TensorProto.FLOAT, ["batch", "frames_out", network.num_outputs]
        ),
        {"speechkit": speechkit.__version__, "network": network_digest(network)},
    )


def _check_layer(layer: IntegerLayer) -> None:
    if len(layer.inputs) > 1 and (any(layer.padding) or layer.groups > 1):
        raise ValueError(f"{layer.name}: a layer of several inputs must have neither padding nor groups in ONNX.")
    if layer.relu and layer.domain.zero_point != -_TO_UINT8 and not layer.is_float:
        raise ValueError(f"{layer.name}: the zero point behind a ReLU must be -128, got {layer.domain.zero_point}.")


def _add_layer(
    graph: "_Graph", layer: IntegerLayer, network: IntegerNetwork, tensors: list[str], *, is_float: bool
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
        whole = graph.constant(f"{layer.name}.weight", weight)
        weight_name = graph.node("DequantizeLinear", whole, weight_scale, axis=0)
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
    if layer.relu and (is_float or layer.domain.zero_point != -_TO_UINT8):  # else the lowest code is that of zero
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


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def node(self, kind: str, *inputs: str, name: str = "", output: str = "", **attributes: Any) -> str:
        output = output or f"{kind[0]}{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        array = np.asarray(value, dtype=np.int64 if isinstance(value, list) else None)
        constant = self._onnx.numpy_helper.from_array(array, name)
        if self._constants.setdefault(name, constant) != constant:
            raise ValueError(f"layers must have names that give no constant two values, got {name!r} twice.")
        return name

    def quantize(self, x: str, domain: Domain, name: str) -> str:
        return self.node("QuantizeLinear", x, *self._domain(domain, name))

    def dequantize(self, x: str, domain: Domain, name: str) -> str:
        return self.node("DequantizeLinear", x, *self._domain(domain, name))

    def _domain(self, domain: Domain, name: str) -> tuple[str, str]:
        scale = self.constant(f"{name}.scale", np.float32(domain.scale))
        return scale, self.constant(f"{name}.zero_point", np.uint8(domain.zero_point + _TO_UINT8))

    def model(self, source: Any, target: Any, metadata: dict[str, str]) -> Any:
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes, "speechkit", [source], [target], initializer=list(self._constants.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9, producer_name="speechkit"
        )
        helper.set_model_props(model, metadata)
        self._onnx.checker.check_model(model)
        return model


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise ImportError("writing ONNX files needs onnx: pip install 'speechkit[export]'") from None
    return onnx
