"""What is read of a graph: what computes another network is refused, what has no name of its own gets one."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechkit.encoders.convolution import MaskedConv1d
from speechkit.encoders.normalization import MaskedBatchNorm1d
from speechkit.heads import CTCHead
from speechkit.integer_model import as_uint8, open_session
from speechkit.quantization import UNIT_VARIANCE
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork
from speechkit.runtime import IntegerNetwork, run_network

network_model = pytest.importorskip("speechkit.export.onnx_network").network_model


class Encoder(nn.Module):
    """(B, T, 6) -> (B, T, 8) by a function of its layers."""

    input_dim, output_dim = 6, 8

    def __init__(self, compute: Callable[["Encoder", Tensor, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.compute(self, x.transpose(1, 2), lengths).transpose(1, 2), lengths


def conv(inputs: int, outputs: int, taps: int = 1) -> MaskedConv1d:
    return MaskedConv1d(inputs, outputs, taps)


def converted(encoder: nn.Module) -> QuantizedNetwork:
    torch.manual_seed(0)
    network = quantized_network(encoder.eval(), CTCHead(input_dim=8, vocab_size=5).eval(), qparams=UNIT_VARIANCE)
    network.set_mode("observe")
    network(torch.randn(2, 40, 6), torch.tensor([40, 30]))
    network.calibrate()
    return network


def codes_differ(network: QuantizedNetwork) -> int:
    """Between ONNX Runtime, as bundles run it, and numpy."""
    pytest.importorskip("onnxruntime")
    integer = network.to_integer()
    codes = np.random.default_rng(0).integers(-128, 128, (50, 6), dtype=np.int8)
    session = open_session(network_model(integer, input_name="codes").SerializeToString(), integer)
    (logits,) = session.run(None, {"codes": as_uint8(codes)[None]})
    return int((logits[0] != run_network(integer, codes)).sum())


def residual(narrow: int = 8) -> Encoder:
    """relu(b(relu(a(x))) + c(x)), a sum over channels of two tensors."""

    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        h = torch.relu(self.a(x, lengths)[0])
        return torch.relu(self.b(h, lengths)[0] + self.c(x, lengths)[0])

    torch.manual_seed(1)
    return Encoder(compute, a=conv(6, narrow, 3), b=conv(narrow, 8), c=conv(6, 8))


@pytest.mark.parametrize("float_layers", [[], ["a"], ["b"], ["projection"], ["a", "b"]])
def test_float_layers_stay_in_float_under_onnx_runtime(float_layers: list[str]) -> None:
    network = converted(residual())
    network.set_float_layers(float_layers)
    assert codes_differ(network) == 0


def test_all_layers_may_stay_in_float() -> None:
    network = converted(residual())
    network.set_float_layers([layer.name for layer in network.layers])
    integer = network.to_integer()
    codes = np.random.default_rng(0).integers(-128, 128, (50, 6), dtype=np.int8)
    model = network_model(integer, input_name="codes").SerializeToString()
    (logits,) = open_session(model, integer).run(None, {"codes": as_uint8(codes)[None]})
    step = integer.layers[-1].domain.scale
    np.testing.assert_allclose(logits[0], run_network(integer, codes), atol=1.01 * step)


def test_a_layer_of_several_inputs_with_padding_has_no_graph() -> None:
    integer = converted(residual()).to_integer()
    joined = next(layer for layer in integer.layers if len(layer.inputs) > 1)
    layers = tuple(dataclasses.replace(layer, padding=(1, 0)) if layer is joined else layer for layer in integer.layers)
    with pytest.raises(ValueError, match=f"{joined.name}: a layer of several inputs must have neither padding"):
        network_model(dataclasses.replace(integer, layers=layers), input_name="codes")


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (lambda y, x: torch.add(y, x, alpha=0.5), r"add \(add.*\): alpha= has no int8 form"),
        (lambda y, x: y[:, :, ::2], r"getitem .* has no int8 form"),
        (lambda y, x: y[0], r"getitem .* has no int8 form"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(tail: Callable[..., Tensor], reason: str) -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        return tail(self.a(x, lengths)[0], self.b(x, lengths)[0])

    with pytest.raises(ValueError, match=reason):
        converted(Encoder(compute, a=conv(6, 8), b=conv(6, 8)))


def test_lengths_may_be_computed_with() -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        return self.a(x, lengths + 0)[0]  # type: ignore[no-any-return]

    assert codes_differ(converted(Encoder(compute, a=conv(6, 8, 3)))) == 0


def test_tensors_of_a_sum_may_differ_in_width() -> None:
    assert codes_differ(converted(residual(narrow=10))) == 0


def test_a_relu_of_a_copy_leaves_the_original_alone() -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        z = self.c(x, lengths)[0]
        return self.a(torch.relu(self.drop(z)), lengths)[0] + self.b(z, lengths)[0]

    encoder = Encoder(compute, c=conv(6, 8), drop=nn.Dropout(0.1), a=conv(8, 8), b=conv(8, 8))
    with pytest.raises(ValueError, match=r"relu .* has no int8 form here"):
        converted(encoder)


def test_a_convolution_that_gives_fewer_frames_is_refused() -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="layer: must give a frame for each step"):
        converted(Encoder(compute, layer=nn.Conv1d(6, 8, 3)))


def test_a_norm_without_weights_is_refused() -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        return self.norm(self.c(x, lengths)[0])  # type: ignore[no-any-return]

    encoder = Encoder(compute, c=conv(6, 8), norm=nn.BatchNorm1d(8, affine=False))
    with pytest.raises(ValueError, match="norm: a batch norm must have weights and a momentum"):
        converted(encoder)


def test_layers_of_one_name_get_names_of_their_own() -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        x = torch.relu(self.projection(x, lengths)[0])
        return torch.relu(self.twice(torch.relu(self.twice(x, lengths)[0]), lengths)[0])

    network = converted(Encoder(compute, projection=conv(6, 8), twice=conv(8, 8, 3)))
    names = [layer.name for layer in network.to_integer().layers]
    assert len(set(names)) == len(names) == 4
    assert codes_differ(network) == 0
    integer = network.to_integer()
    with pytest.raises(ValueError, match="must have a name of its own"):
        IntegerNetwork(integer.num_features, integer.domain, (*integer.layers[:2], integer.layers[1]))


def test_a_channel_that_is_switched_off_stays_off() -> None:
    def compute(self: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
        return torch.relu(self.norm(self.c(x, lengths)[0], lengths))

    encoder = Encoder(compute, c=conv(6, 8), norm=MaskedBatchNorm1d(8))
    with torch.no_grad():
        encoder.norm.weight[3], encoder.norm.bias[3] = 0.0, 0.2
    network = converted(encoder)
    assert codes_differ(network) == 0
    network.train()
    network.set_mode("quantize", frozen=False)
    logits, _ = network(torch.randn(2, 40, 6), torch.tensor([40, 30]))
    assert logits.isfinite().all()
    assert network.layers[0].parts[0].norm.running_var.isfinite().all()
