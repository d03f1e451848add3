"""The ONNX graph under ONNX Runtime: the codes of the numpy executor, and every convolution quantized."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechkit.encoders import SeparableConvEncoder
from speechkit.export.onnx_network import export_network, float_network, network_model
from speechkit.heads import CTCHead
from speechkit.integer_bundle import load_integer_bundle
from speechkit.integer_model import IntegerModel, as_uint8, open_session
from speechkit.models import DIGITS
from speechkit.quantization import UNIT_VARIANCE
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork
from speechkit.runtime import run_layers, run_network
from speechkit.runtime.onnx_session import session_arguments

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def network() -> QuantizedNetwork:
    return calibrated_network(weight_bits=8)


def calibrated_network(weight_bits: int) -> QuantizedNetwork:
    torch.manual_seed(0)
    encoder = SeparableConvEncoder(input_dim=12, channels=16, kernel_sizes=(5, 7), output_dim=25)
    head = CTCHead(input_dim=25, vocab_size=7)
    network = quantized_network(encoder.eval(), head, qparams=UNIT_VARIANCE, weight_bits=weight_bits)
    network.set_mode("observe")
    network(torch.randn(4, 50, 12), torch.full((4,), 50))
    network.calibrate()
    return network


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (33, 12), dtype=np.int8)


def unquantized(model: Any) -> Iterator[str]:
    """Convolutions that do not stand between a dequantized input, dequantized weights and a quantizer."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    readers = [(name, node.op_type) for node in model.graph.node for name in node.input]
    for node in model.graph.node:
        if node.op_type == "Conv":
            sources = [makers.get(name) for name in node.input]
            after = [kind for name, kind in readers if name == node.output[0]]
            if sources != 3 * ["DequantizeLinear"] or after != ["QuantizeLinear"]:
                yield node.name


@pytest.mark.parametrize("weight_bits", [8, 4, 2])
def test_every_layer_gives_the_codes_of_the_reference(weight_bits: int, codes: np.ndarray) -> None:
    integer = calibrated_network(weight_bits).to_integer()
    model = network_model(integer, input_name="codes")
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), **session_arguments())
    outputs = session.run(names, {"codes": as_uint8(codes)[None]})
    for found, expected in zip(outputs, run_layers(integer, codes)[1:], strict=True):
        assert np.array_equal(found[0, :, 0].T, as_uint8(expected))


def test_weights_of_four_bits_take_half_a_byte(codes: np.ndarray) -> None:
    network = calibrated_network(weight_bits=4).to_integer()
    model, plain = (network_model(network, input_name="codes", code_type=kind) for kind in ("uint8", "int8"))
    packed = {found.name: found for found in model.graph.initializer if found.data_type == onnx.TensorProto.INT4}
    assert set(packed) == {f"{layer.name}.weight" for layer in network.layers}
    for layer in network.layers:
        found = packed[f"{layer.name}.weight"]
        assert len(found.raw_data) == -(-layer.weight.size // 2)
        assert np.array_equal(onnx.numpy_helper.to_array(found).astype(np.int8)[:, :, 0], layer.weight)
    assert not any(found.data_type == onnx.TensorProto.INT4 for found in plain.graph.initializer)


def test_nothing_is_left_to_fold_and_every_convolution_has_its_pair(network: QuantizedNetwork) -> None:
    model = network_model(network.to_integer(), input_name="codes")
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Unsqueeze", "Transpose", "Concat", "Conv", "QuantizeLinear", "DequantizeLinear", "Squeeze"}
    assert list(unquantized(model)) == []


def test_a_missing_pair_is_found(network: QuantizedNetwork) -> None:
    model = network_model(network.to_integer(), input_name="codes")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    quantizer.input[0], conv.output[0] = "elsewhere", "elsewhere"
    model.graph.node.remove(quantizer)
    assert list(unquantized(model)) == [conv.name]
    network.set_float_layers(["projection"])
    assert list(unquantized(network_model(network.to_integer(), input_name="codes"))) == ["projection"]


def test_features_are_quantized_in_the_graph(network: QuantizedNetwork, codes: np.ndarray, tmp_path: Path) -> None:
    integer = network.to_integer()
    export_network(integer, tmp_path / "model.onnx", input_name="features")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", **session_arguments())
    (logits,) = session.run(None, {"features": integer.domain.values(codes)[None]})
    assert np.array_equal(logits[0], run_network(integer, codes))


def test_the_float_graph_is_the_float_model(network: QuantizedNetwork) -> None:
    x, lengths = torch.randn(2, 40, 12), torch.tensor([40, 40])
    model = network_model(float_network(network), input_name="features")
    (logits,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"features": x.numpy()})
    with network.only_quantized(""), torch.no_grad():
        expected, _ = network(x, lengths)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "BatchNormalization", "Sqrt", "Div"}


def test_a_file_of_another_network_is_refused(network: QuantizedNetwork) -> None:
    model = network_model(network.to_integer(), input_name="codes").SerializeToString()
    network.set_float_layers(["projection"])
    with pytest.raises(ValueError, match="was made from another network"):
        open_session(model, network.to_integer())
    with pytest.raises(ValueError, match="cannot be read by onnxruntime"):
        open_session(b"nothing", network.to_integer())


def test_int8_activations_are_those_of_the_reference(network: QuantizedNetwork, codes: np.ndarray) -> None:
    integer = network.to_integer()
    model = network_model(integer, input_name="codes", code_type="int8")
    kinds = {found.name: found.data_type for found in model.graph.initializer}
    assert onnx.TensorProto.UINT8 not in kinds.values()
    (logits,) = onnxruntime.InferenceSession(model.SerializeToString(), **session_arguments()).run(
        None, {"codes": codes[None]}
    )
    steps = (logits[0] - run_network(integer, codes)) / integer.layers[-1].domain.scale
    assert np.abs(steps).max() < 1.5  # onnxruntime multiplies such codes in float on x86: a rounding may differ


def test_a_graph_of_the_shipped_model_reads_samples(tmp_path: Path) -> None:
    bundle = load_integer_bundle(DIGITS)
    export_network(bundle.network, tmp_path / "model.onnx", input_name="waveform", tables=bundle.tables)
    waveform = np.random.default_rng(0).normal(0, 0.05, 12345).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", **session_arguments())
    (logits,) = session.run(None, {"waveform": waveform[None]})
    model = IntegerModel(
        tables=bundle.tables, sample_rate_hz=bundle.sample_rate_hz, network=bundle.network, engine="reference"
    )
    assert np.array_equal(logits[0], model.logits(waveform))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_name": "samples"}, "`input_name` must be one of codes, features, waveform, got 'samples'"),
        ({"code_type": "int4"}, "`code_type` must be one of uint8, int8, got 'int4'"),
        ({"input_name": "waveform"}, "`tables` must be those of the front end"),
    ],
)
def test_wrong_arguments(network: QuantizedNetwork, tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_network(network.to_integer(), tmp_path / "model.onnx", **arguments)
