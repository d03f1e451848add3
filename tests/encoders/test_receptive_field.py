"""The measured field is the one that kernels and strides add up to, and nothing outside it matters."""

import pytest
import torch
from torch import nn

from speechkit.encoders import (
    ConvGRUEncoder,
    LayerWeightedEncoder,
    ReceptiveField,
    SeparableConvEncoder,
    Wav2VecEncoder,
    receptive_field,
)

WAVEFORM = {"input_dim": 1, "channels": 8, "kernel_sizes": (10, 8, 4, 4, 4), "strides": (5, 4, 2, 2, 2)}


def by_hand(kernels: tuple[int, ...], strides: tuple[int, ...], *, causal: bool = False) -> tuple[int, int]:
    """Frames before and ahead of a stack of convolutions."""
    before = ahead = 0
    step = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        before += step * (kernel - 1 if causal else (kernel - 1) // 2)
        ahead += step * (0 if causal else kernel // 2)
        step *= stride
    return before, ahead


def test_convolutions_of_a_waveform() -> None:
    encoder = Wav2VecEncoder(**WAVEFORM, context_kernel_sizes=(3, 2, 4))
    before, ahead = by_hand(WAVEFORM["kernel_sizes"], WAVEFORM["strides"])
    latents = receptive_field(encoder, "latents")
    assert latents == ReceptiveField(before, ahead, 160)
    assert latents.frames == 465  # of wav2vec and CPC: 29 ms at 16 kHz
    assert receptive_field(encoder) == ReceptiveField(before + 160 * (2 + 1 + 3), ahead, 160)
    assert (
        latents.describe(1 / 16000) == "a frame every 10 ms (stride 160), sees 465 input frames, 305 (19.06 ms) ahead"
    )


def test_wide_convolutions() -> None:
    kernels = (11, 11, 11, 15, 15, 19, 19, 23, 23, 27, 27)
    field = receptive_field(SeparableConvEncoder(channels=16, output_dim=16))
    assert (field.before, field.ahead, field.stride) == (*by_hand(kernels, (2,) + (1,) * 10), 2)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrence_has_no_limit(bidirectional: bool) -> None:
    encoder = ConvGRUEncoder(input_dim=4, channels=8, hidden_size=8, bidirectional=bidirectional)
    field = receptive_field(encoder)
    assert field == ReceptiveField(None, None if bidirectional else 6, 4)
    assert field.frames is None
    assert ("the whole utterance" if bidirectional else "6 input frames (60 ms) ahead") in field.describe(0.01)


def test_a_mixture_of_layers_sees_what_the_last_one_sees() -> None:
    encoder = Wav2VecEncoder(input_dim=4, channels=8, kernel_sizes=(5,), strides=(2,), context_kernel_sizes=(3, 3))
    assert receptive_field(LayerWeightedEncoder(encoder=encoder)) == receptive_field(encoder)


@pytest.mark.parametrize("seed", range(5))
def test_frames_outside_change_nothing(seed: int) -> None:
    torch.manual_seed(seed)
    encoder = Wav2VecEncoder(input_dim=3, channels=8, kernel_sizes=(4, 3), strides=(3, 2), context_kernel_sizes=(2, 3))
    encoder.eval()
    field = receptive_field(encoder)
    x, lengths = torch.randn(1, 300, 3), torch.tensor([300])
    first, last = 25 * field.stride - field.before, 25 * field.stride + field.ahead
    outside = x.clone()
    outside[:, :first] = 9.0
    outside[:, last + 1 :] = 9.0
    with torch.no_grad():
        assert torch.equal(encoder(x, lengths)[0][:, 25], encoder(outside, lengths)[0][:, 25])
        for edge in (first, last):
            inside = x.clone()
            inside[:, edge] = 9.0
            assert not torch.equal(encoder(x, lengths)[0][:, 25], encoder(inside, lengths)[0][:, 25])


def test_the_encoder_is_left_as_it_is() -> None:
    encoder = SeparableConvEncoder(input_dim=4, channels=8, kernel_sizes=(3,), output_dim=8).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    receptive_field(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    with pytest.raises(ValueError, match="has no latents"):
        receptive_field(encoder, "latents")


def test_an_encoder_without_padding() -> None:
    class Valid(nn.Module):
        input_dim = 2

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 7, stride=3)

        def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
            return (lengths - 7).div(3, rounding_mode="floor") + 1

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.conv(x.transpose(1, 2)).transpose(1, 2), self.output_lengths(lengths)

    assert receptive_field(Valid()) == ReceptiveField(0, 6, 3)


def test_a_callback_that_records_the_latents_changes_nothing() -> None:
    encoder = Wav2VecEncoder(**WAVEFORM)
    expected = receptive_field(encoder, "latents")
    recorded = []
    latents = encoder.latents
    encoder.latents = lambda *arguments: recorded.append(1) or latents(*arguments)
    assert receptive_field(encoder, "latents") == expected
    assert not recorded
