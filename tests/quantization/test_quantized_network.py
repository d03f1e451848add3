"""The quantized network: equal to the float one before, and to the integer reference and ONNX Runtime after."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from quantized_cases import speech
from torch import nn

from speechkit.encoders import ConvGRUEncoder, ConvLSTMEncoder
from speechkit.heads import CTCHead
from speechkit.masking import length_mask
from speechkit.quantization import UNIT_VARIANCE, fake_quantize
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork
from speechkit.quantization.sensitivity import layer_table, measure_layers
from speechkit.runtime import IntegerNetwork, run_layers


def integer_tensors(network: IntegerNetwork, x: torch.Tensor, frames: torch.Tensor) -> list[list[np.ndarray]]:
    codes = (x / network.domain.scale).to(torch.int8).numpy()
    return [run_layers(network, row[:count]) for row, count in zip(codes, frames.tolist(), strict=True)]


def differences(network: QuantizedNetwork, seed: int = 9) -> int:
    """Codes of all layers that are not those of the numpy executor."""
    x, lengths = speech(seed)
    with torch.no_grad():
        activations, frames = network.activations(x, lengths)
    integer, count = network.to_integer(), 0
    for row, tensors in enumerate(integer_tensors(integer, x, lengths)):
        for place, expected in enumerate(tensors):
            steps = activations[place].steps[row].T[: int(frames[place][row])].numpy()
            count += int((steps + integer.domains[place].zero_point != expected).sum())
    return count


def test_in_float_it_is_encoder_and_head(parts: tuple[nn.Module, nn.Module]) -> None:
    x, lengths = speech(5)
    logits, frames = quantized_network(*parts, qparams=UNIT_VARIANCE)(x, lengths)
    expected, expected_frames = parts[1](*parts[0](x, lengths))
    inside = length_mask(frames, logits.shape[1])
    torch.testing.assert_close(logits[inside], expected[inside], atol=1e-5, rtol=1e-5)
    assert frames.tolist() == expected_frames.tolist()


def test_it_is_the_integer_network_code_for_code(network: QuantizedNetwork) -> None:
    assert differences(network) == 0


def test_input_that_callbacks_moved_off_its_codes_is_rounded_and_clipped(network: QuantizedNetwork) -> None:
    x, lengths = speech(3)
    scale = UNIT_VARIANCE.scale
    moved = x + 0.4 * scale * torch.rand(x.shape) + 1000.0 * (x > 1.5)
    (found, _), (expected, _) = (
        network.activations(each, lengths) for each in (moved, fake_quantize(moved, UNIT_VARIANCE))
    )
    assert all(torch.equal(one.steps, other.steps) for one, other in zip(found, expected, strict=True))
    assert torch.equal(found[0].steps, found[0].steps.round())
    network.set_mode("float")
    assert not torch.equal(network.activations(moved, lengths)[0][0].steps, found[0].steps)


@pytest.mark.parametrize("bits", [4, 6])
def test_fewer_bits_are_exact_too(parts: tuple[nn.Module, nn.Module], bits: int) -> None:
    network = quantized_network(*parts, qparams=UNIT_VARIANCE, weight_bits=bits)
    network.set_mode("observe")
    network(*speech(0))
    network.calibrate()
    assert differences(network) == 0
    assert max(abs(int(layer.weight.max())) for layer in network.to_integer().layers) < 2 ** (bits - 1)


def test_eight_bits_cost_little(network: QuantizedNetwork, parts: tuple[nn.Module, nn.Module]) -> None:
    x, lengths = speech(7)
    logits, frames = network(x, lengths)
    expected, _ = parts[1](*parts[0](x, lengths))
    inside = length_mask(frames, logits.shape[1])
    noise = (logits - expected)[inside].square().sum()
    assert 10 * torch.log10(expected[inside].square().sum() / noise) > 28


def test_training_with_live_norms_then_folded_stays_exact(network: QuantizedNetwork) -> None:
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    targets = torch.randint(0, 7, (3, 20), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(12):
        network.set_mode("quantize", frozen=step >= 8)
        logits, _ = network(*speech(step % 2))
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    network.eval().set_mode("quantize")
    assert differences(network) == 0


def test_every_parameter_gets_a_gradient(network: QuantizedNetwork) -> None:
    network.train().set_mode("quantize", frozen=False)
    logits, _ = network(*speech(0))
    logits.square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


def test_a_live_norm_is_that_of_the_float_model_when_nothing_is_rounded(network: QuantizedNetwork) -> None:
    """With a weight on the grid, BN(k a; eps) of sums a is MaskedBatchNorm1d of the convolution's output k a."""
    layer = network.layers[1]
    norm = copy.deepcopy(layer.parts[0].norm).train()
    sums = torch.randint(-50, 50, (3, 16, 20)).float()
    frames = torch.tensor([20, 9, 16])
    unit = torch.rand(16) * 0.01 + 0.001
    value = unit / layer.parts[0].factor().detach()
    expected = norm(sums * value[:, None], frames)
    scale = torch.tensor(0.25)
    found = layer.parts[0].normalise(sums, unit, scale, frames) * scale
    inside = length_mask(frames, 20)
    torch.testing.assert_close(found.mT[inside], expected.mT[inside], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.parts[0].norm.running_var, norm.running_var)


def test_a_batch_without_frames_leaves_the_running_statistics(network: QuantizedNetwork) -> None:
    part = network.layers[1].parts[0]
    before = part.norm.running_mean.clone(), part.norm.running_var.clone()
    part.normalise(torch.randn(2, 16, 5), torch.full((16,), 0.01), torch.tensor(0.25), torch.zeros(2, dtype=torch.long))
    assert torch.equal(part.norm.running_mean, before[0])
    assert torch.equal(part.norm.running_var, before[1])


def test_a_float_layer_keeps_its_weights(network: QuantizedNetwork) -> None:
    network.set_float_layers(["projection"])
    layer = network.to_integer().layers[-1]
    assert layer.is_float
    assert layer.weight.dtype == np.float32


def test_half_precision_around_it_changes_no_code(network: QuantizedNetwork) -> None:
    x, lengths = speech(9)
    with torch.no_grad():
        expected, _ = network(x, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, _ = network(x, lengths)
    assert torch.equal(logits, expected)


def test_a_batch_without_frames(network: QuantizedNetwork) -> None:
    for mode in ("observe", "quantize"):
        network.set_mode(mode)
        logits, frames = network(torch.zeros(2, 0, 12), torch.tensor([0, 0]))
        assert logits.shape == (2, 0, 7)
        assert frames.tolist() == [0, 0]


def test_the_most_sensitive_layer_is_marked(network: QuantizedNetwork) -> None:
    rows = measure_layers(network, [speech(3)], word_error_rate=lambda outputs: 12.5 * len(outputs))
    assert [row.name for row in rows[1:]] == [layer.name for layer in network.layers]
    assert all(20 < row.snr_db < 80 for row in rows[1:])
    table = layer_table(rows)
    assert table.count("*") == 1
    assert "12.50" in table
    assert differences(network) == 0  # left as it was


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (ConvGRUEncoder(input_dim=12, channels=8, hidden_size=8), "has no int8 form"),
        (ConvLSTMEncoder(input_dim=12, channels=8, hidden_size=8), "has no int8 form"),
        (nn.GELU(), "has no int8 form"),
    ],
)
def test_what_has_no_int8_form_is_named(encoder: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        quantized_network(encoder, CTCHead(input_dim=8, vocab_size=4), qparams=UNIT_VARIANCE)


def test_never_calibrated(parts: tuple[nn.Module, nn.Module]) -> None:
    network = quantized_network(*parts, qparams=UNIT_VARIANCE)
    with pytest.raises(ValueError, match=r"layer 'stem\.depthwise' was never calibrated"):
        network.to_integer()
    with pytest.raises(ValueError, match="observed nothing"):
        network.calibrate()


def test_unknown_float_layers(network: QuantizedNetwork) -> None:
    with pytest.raises(ValueError, match="`float_layers` must name layers"):
        network.set_float_layers(["encoder.nothing"])


@pytest.mark.parametrize("bits", [8, 4])
def test_logits_above_the_blank_have_a_domain_of_their_own(parts: tuple[nn.Module, Any], bits: int) -> None:
    encoder, head = parts
    x, lengths = speech(5)
    with torch.no_grad():
        head.projection.weight += 300.0 * torch.randn(1, head.input_dim)  # what a softmax does not see
        head.projection.bias[1] -= 1000.0  # as good as none
        expected = head(*encoder(x, lengths))[0].log_softmax(dim=-1)
        network = quantized_network(encoder, head, qparams=UNIT_VARIANCE, weight_bits=bits)
        network.shift_logits(2)
        logits, frames = network(x, lengths)
        inside = length_mask(frames, logits.shape[1])
        assert not logits[..., 2].any()
        torch.testing.assert_close(logits.log_softmax(dim=-1)[inside], expected[inside], atol=0.01, rtol=1e-4)
        network.set_mode("observe")
        network(x, lengths)
        network.calibrate()
        assert network.layers[-1].scale < 0.3
        difference = network(x, lengths)[0].softmax(dim=-1)[inside] - expected[inside].exp()
    assert difference.abs().mean() < (0.01 if bits == 8 else 0.1)
    assert differences(network) == 0


def test_only_a_projection_gives_logits(network: QuantizedNetwork) -> None:
    network.layers[-1].relu = True
    with pytest.raises(ValueError, match="must be a linear layer, for its outputs"):
        network.shift_logits(0)
