"""What every shipped encoder promises: padding changes nothing, lengths are right, gradients flow."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechkit.codebooks import GumbelCodebook, KMeansCodebook
from speechkit.encoders import (
    ConvGRUEncoder,
    ConvLSTMEncoder,
    LayerWeightedEncoder,
    QuantizedEncoder,
    SeparableConvEncoder,
    Wav2Vec2Encoder,
    Wav2VecEncoder,
)
from speechkit.encoders.recurrent import BidirectionalLayers
from speechkit.masking import zero_padding

SMALL_WAV2VEC2: dict[str, Any] = {
    "input_dim": 12, "channels": 16, "kernel_sizes": (4, 3), "strides": (2, 2), "output_dim": 16, "num_layers": 2,
    "num_heads": 2, "feed_forward_dim": 24, "position_kernel_size": 8, "position_groups": 2, "layer_drop": 0.0,
}  # fmt: skip
LAYER_NORM: dict[str, Any] = {"conv_norm": "layer", "conv_bias": True}
ENCODERS = {
    "gru": ConvGRUEncoder(input_dim=12, channels=16, hidden_size=16),
    "lstm": ConvLSTMEncoder(input_dim=12, channels=16, hidden_size=16),
    "bilstm": ConvLSTMEncoder(input_dim=12, channels=16, hidden_size=16, bidirectional=True),
    "bigru": ConvGRUEncoder(input_dim=12, channels=16, hidden_size=16, bidirectional=True),
    "gru-batch-norm": ConvGRUEncoder(input_dim=12, channels=16, hidden_size=16, norm="batch"),
    "strides": ConvGRUEncoder(input_dim=12, channels=16, hidden_size=16, kernel_sizes=(10, 8, 4), strides=(5, 4, 2)),
    "separable": SeparableConvEncoder(input_dim=12, channels=16, kernel_sizes=(5, 7), output_dim=24),
    "separable-8": SeparableConvEncoder(input_dim=12, channels=16, kernel_sizes=(4,), output_dim=24, stride=8),
    "wav2vec": Wav2VecEncoder(
        input_dim=12, channels=16, kernel_sizes=(5, 4), strides=(2, 2), context_kernel_sizes=(2, 3, 4)
    ),
    "layers": LayerWeightedEncoder(
        encoder=Wav2VecEncoder(
            input_dim=12, channels=16, kernel_sizes=(5,), strides=(2,), context_kernel_sizes=(3, 3), dropout=0.1
        )
    ),
    "vq-gumbel": QuantizedEncoder(
        encoder=Wav2VecEncoder(input_dim=12, channels=16, kernel_sizes=(5,), strides=(2,)),
        codebook=GumbelCodebook(input_dim=16, num_codes=9, output_dim=16),
    ),
    "vq-kmeans": QuantizedEncoder(
        encoder=ConvGRUEncoder(input_dim=12, channels=16, hidden_size=16),
        codebook=KMeansCodebook(input_dim=16, num_codes=9, output_dim=16),
    ),
    "wav2vec2-base": Wav2Vec2Encoder(**SMALL_WAV2VEC2),
    "wav2vec2-large": Wav2Vec2Encoder(**SMALL_WAV2VEC2, **LAYER_NORM, pre_norm=True),
    "wav2vec2-features": Wav2Vec2Encoder(**SMALL_WAV2VEC2, **LAYER_NORM, padded=True, exit_key="learned"),
    "wav2vec2-exit": Wav2Vec2Encoder(**SMALL_WAV2VEC2, exit_key="zero"),
}


def trained(encoder: nn.Module) -> nn.Module:
    """Running statistics that differ from the initial ones."""
    encoder.train()
    with torch.no_grad():
        encoder(torch.randn(3, 60, 12) * 2 + 1, torch.tensor([60, 50, 40]))
    return encoder.eval()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_padding_changes_nothing(name: str, frames: int) -> None:
    encoder = trained(ENCODERS[name])
    short = torch.randn(1, frames, 12)
    alone, count = encoder(short, torch.tensor([frames]))
    joined = torch.randn(2, 10 * frames, 12)
    joined[0, :frames] = short
    together, counts = encoder(joined, torch.tensor([frames, 10 * frames]))
    assert counts.tolist() == encoder.output_lengths(torch.tensor([frames, 10 * frames])).tolist()
    assert alone.shape == (1, int(count), encoder.output_dim)
    torch.testing.assert_close(together[0, : count[0]], alone[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_no_gradient(name: str) -> None:
    """Also the statistics of a training batch see real frames only."""
    encoder = ENCODERS[name]
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
    encoder.train()
    batch = torch.randn(2, 40, 12)
    gradients = []
    for extra in (0, 50):
        padded = torch.cat([batch, torch.full((2, extra, 12), 7.0)], dim=1)
        output, counts = encoder(padded, torch.tensor([40, 25]))
        loss = sum(row[:count].square().sum() for row, count in zip(output, counts.tolist(), strict=True))
        gradients.append(torch.autograd.grad(loss, list(encoder.parameters())))
    for plain, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, padded, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_learns(name: str) -> None:
    encoder = ENCODERS[name].train()
    encoder(torch.randn(2, 40, 12), torch.tensor([40, 30]))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    encoder.zero_grad()


@pytest.mark.parametrize("name", ["gru", "wav2vec"])
def test_context_is_causal(name: str) -> None:
    encoder = ENCODERS[name].eval()
    latents = torch.randn(1, 10, 16)
    before, _ = encoder.context(latents, torch.tensor([10]))
    latents[:, 6:] = 0
    after, _ = encoder.context(latents, torch.tensor([10]))
    assert torch.equal(before[:, :6], after[:, :6])


def test_wrong_strides_are_named() -> None:
    with pytest.raises(ValueError, match="kernel_sizes"):
        ConvGRUEncoder(kernel_sizes=(3,), strides=(2, 2))
    with pytest.raises(ValueError, match="stride"):
        SeparableConvEncoder(stride=0)
    with pytest.raises(ValueError, match="norm"):
        ConvGRUEncoder(norm="layer")
    with pytest.raises(ValueError, match="context_kernel_sizes"):
        Wav2VecEncoder(context_kernel_sizes=())


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_layers_in_both_directions_are_torchs_on_packed_sequences(cell: type[nn.GRU | nn.LSTM]) -> None:
    ours, theirs = BidirectionalLayers(cell, 5, 4, 2, dropout=0.0), cell(5, 4, 2, batch_first=True, bidirectional=True)
    for layer in range(2):
        for source, suffix in ((ours.ahead[layer], ""), (ours.back[layer], "_reverse")):
            for name, value in source.named_parameters():
                theirs.get_parameter(name.replace("l0", f"l{layer}") + suffix).data.copy_(value)
    x, lengths = torch.randn(3, 9, 5), torch.tensor([9, 1, 6])
    packed, _ = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed, batch_first=True)
    got = zero_padding(ours(x, lengths), lengths)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [ConvGRUEncoder, ConvLSTMEncoder])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_encoders_take_a_batch_without_frames(kind: type[ConvGRUEncoder], bidirectional: bool) -> None:
    encoder = kind(input_dim=8, channels=8, hidden_size=4, bidirectional=bidirectional)
    y, lengths = encoder(torch.zeros(2, 0, 8), torch.zeros(2, dtype=torch.long))
    assert y.shape == (2, 0, encoder.output_dim)
    assert lengths.tolist() == [0, 0]
