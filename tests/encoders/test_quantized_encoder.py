"""Code words between latents and context: by hand, in a bundle, and what the encoder promises besides."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechkit.bundle import Bundle, load_bundle, save_bundle
from speechkit.codebooks import GumbelCodebook, KMeansCodebook
from speechkit.encoders import ConvGRUEncoder, QuantizedEncoder, SeparableConvEncoder, Wav2VecEncoder, receptive_field
from speechkit.features import MFB, FrontEnd

CODEBOOKS = {
    "gumbel": lambda **sizes: GumbelCodebook(**{"input_dim": 8, "num_codes": 6, "output_dim": 8, **sizes}),
    "kmeans": lambda **sizes: KMeansCodebook(**{"input_dim": 8, "num_codes": 6, "output_dim": 8, **sizes}),
}
BOTH = pytest.mark.parametrize("name", CODEBOOKS)


def make_encoder(name: str) -> QuantizedEncoder:
    torch.manual_seed(0)
    inner = Wav2VecEncoder(input_dim=4, channels=8, kernel_sizes=(5,), strides=(2,), context_kernel_sizes=(3, 2))
    return QuantizedEncoder(encoder=inner, codebook=CODEBOOKS[name]())


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([30, 18])


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_context_is_that_of_the_nearest_code_words(name: str, training: bool) -> None:
    encoder = make_encoder(name).train(training)
    x, lengths = batch()
    latents, frames = encoder.encoder.latents(x, lengths)
    words = torch.zeros_like(latents)
    for b, length in enumerate(frames.tolist()):
        for t in range(length):
            codes = encoder.codebook(latents[b, t]).probabilities.argmax(dim=-1)
            words[b, t] = torch.cat([encoder.codebook.codewords[group, codes[group]] for group in range(2)])
    expected, _ = encoder.encoder.context(words, frames)
    context, counts = encoder(x, lengths)
    assert counts.tolist() == frames.tolist() == encoder.output_lengths(lengths).tolist()
    torch.testing.assert_close(context, expected, atol=1e-5, rtol=1e-5)
    quantized = encoder.quantize(latents, frames)
    torch.testing.assert_close(quantized.vectors, words, atol=1e-5, rtol=1e-5)


@BOTH
def test_gradients_pass_through_the_codes_to_the_latents(name: str) -> None:
    encoder = make_encoder(name).train()
    encoder(*batch())[0].square().sum().backward()
    parameters = dict(encoder.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    assert parameters["encoder.subsampling.convs.0.conv.weight"].grad.any()
    assert parameters["codebook.codewords"].grad.any() == (name != "kmeans")  # those learn by a loss of their own


def test_codes_are_the_same_under_autocast() -> None:
    encoder = make_encoder("gumbel").eval()
    latents, frames = torch.randn(2, 200, 8), torch.tensor([200, 150])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.quantize(latents, frames).codes, encoder.quantize(latents.float(), frames).codes)
        assert encoder.quantize(latents, frames).vectors.dtype == torch.float32


@BOTH
def test_sees_what_the_encoder_alone_sees(name: str) -> None:
    encoder = make_encoder(name)
    assert receptive_field(encoder) == receptive_field(encoder.encoder)
    assert receptive_field(encoder, "latents") == receptive_field(encoder.encoder, "latents")


@BOTH
@pytest.mark.parametrize("form", ["folder", "model.zip"])
def test_a_bundle_gives_it_back(name: str, form: str, tmp_path: Path) -> None:
    encoder, front_end = make_encoder(name).eval(), FrontEnd(features=MFB(num_mels=4, sample_rate_hz=8000))
    save_bundle(Bundle(front_end, encoder), tmp_path / form)
    again = load_bundle(tmp_path / form).encoder
    assert isinstance(again, QuantizedEncoder)
    assert type(again.codebook) is type(encoder.codebook)
    with torch.no_grad():
        assert torch.equal(again(*batch())[0], encoder(*batch())[0])


def make_with(encoder: nn.Module | None = None, **sizes: Any) -> QuantizedEncoder:
    inner = ConvGRUEncoder(input_dim=4, channels=8) if encoder is None else encoder
    return QuantizedEncoder(encoder=inner, codebook=CODEBOOKS["gumbel"](**sizes))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: make_with(input_dim=9), "`codebook.input_dim` must be the latents' 8, got 9."),
        (lambda: make_with(output_dim=10), "`codebook.output_dim` must be the latents' 8, got 10."),
        (
            lambda: make_with(ConvGRUEncoder(input_dim=4, channels=8, bidirectional=True)),
            "`encoder` must have latents and a causal context, got ConvGRUEncoder",
        ),
        (lambda: make_with(SeparableConvEncoder()), "`encoder` must have latents .*, got SeparableConvEncoder"),
    ],
)
def test_wrong_parts_are_named(make, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()
