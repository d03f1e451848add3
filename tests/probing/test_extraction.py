"""Frames are those of the encoder, alone or in a batch, with the times at which they stand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from speechkit.audio import AudioError, load_audio
from speechkit.data import Utterance
from speechkit.encoders import (
    ConvGRUEncoder,
    SeparableConvEncoder,
    Wav2Vec2Encoder,
    Wav2VecEncoder,
    receptive_field,
)
from speechkit.features import MFB, FrontEnd, LibrosaMFB, Waveform
from speechkit.probing import FeatureExtractor

FRONT_END = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20))


def gru() -> ConvGRUEncoder:
    torch.manual_seed(0)
    return ConvGRUEncoder(input_dim=20, channels=12, hidden_size=16)


def noise(*sizes: int) -> list[np.ndarray]:
    return [np.random.default_rng(size).normal(0, 0.1, size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize(("what", "dim"), [("context", 16), ("latents", 12), ("features", 20)])
def test_a_batch_is_its_utterances(what: str, dim: int) -> None:
    extractor = FeatureExtractor(FRONT_END, gru(), what=what)
    waveforms = noise(8000, 3000, 10, 12000)
    together = extractor(waveforms)
    assert extractor.dim == dim
    for waveform, frames in zip(waveforms, together, strict=True):
        (alone,) = extractor([waveform])
        torch.testing.assert_close(frames, alone, atol=1e-4, rtol=0)
        assert frames.shape == (len(alone), dim)
        assert not frames.requires_grad
        assert frames.dtype == torch.float32
    assert len(together[2]) == 0


def test_layers_are_counted_from_both_ends() -> None:
    encoder = Wav2VecEncoder(input_dim=20, channels=8, kernel_sizes=(5,), strides=(2,), context_kernel_sizes=(3, 3, 3))
    (waveform,) = noise(4000)
    by_layer = [FeatureExtractor(FRONT_END, encoder, layer=layer)([waveform])[0] for layer in (0, 1, 2, -1)]
    (output,) = FeatureExtractor(FRONT_END, encoder)([waveform])
    torch.testing.assert_close(by_layer[2], output)
    torch.testing.assert_close(by_layer[3], output)
    assert not torch.allclose(by_layer[0], by_layer[1])


def test_times_are_the_middles_of_input_frames() -> None:
    extractor = FeatureExtractor(FRONT_END, gru())
    assert extractor.step_seconds == pytest.approx(0.04)
    assert extractor.times(3).tolist() == pytest.approx([0.0125, 0.0525, 0.0925])
    centred = FrontEnd(features=LibrosaMFB(sample_rate_hz=8000, num_mels=20))
    assert FeatureExtractor(centred, gru(), what="features").times(1).item() == pytest.approx(0.0, abs=1e-4)
    waveform = Wav2VecEncoder(channels=4, context_kernel_sizes=(2,))
    assert FeatureExtractor(FrontEnd(features=Waveform()), waveform).times(2).tolist() == pytest.approx([0.0, 0.01])


def test_a_click_is_found_at_its_time() -> None:
    samples = np.zeros(16000, dtype=np.float32)
    samples[8000:8008] = 0.5
    extractor = FeatureExtractor(FRONT_END, gru(), what="features")
    (frames,) = extractor([samples])
    assert extractor.times(len(frames))[frames.sum(dim=1).argmax()].item() == pytest.approx(1.0, abs=0.015)


def test_files_in_order_and_bad_ones_named(make_tone: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    files = [make_tone(f"{place}.wav", seconds=0.3 + 0.2 * place, rate=8000, seed=place) for place in range(4)]
    utterances = [Utterance(path) for path in (files[0], tmp_path / "bad.wav", *files[1:])]
    utterances.append(Utterance(files[3], duration_seconds=0.4, offset_seconds=0.2))
    extractor = FeatureExtractor(FRONT_END, gru())
    results = list(extractor.read(utterances, batch_seconds=1.0))
    assert isinstance(results[1], AudioError)
    for place, file in ((0, files[0]), (2, files[1]), (3, files[2]), (4, files[3])):
        torch.testing.assert_close(results[place], extractor([load_audio(file, 8000)])[0], atol=1e-4, rtol=0)
    span = load_audio(files[3], 8000)[1600:4800]
    torch.testing.assert_close(results[5], extractor([span])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"what": "codes"}, "`what` must be one of"),
        ({"what": "latents"}, "must not be 'latents' for SeparableConvEncoder"),
        ({"layer": 2}, r"`layer` must lie in \[0, 1\], got 2"),
        ({"layer": 0, "what": "features"}, "`layer` goes with 'context' only"),
    ],
)
def test_what_is_not_there_is_refused(options: dict[str, object], expected: str) -> None:
    encoder = SeparableConvEncoder(input_dim=20, channels=8, kernel_sizes=(3, 3), output_dim=8)
    with pytest.raises(ValueError, match=expected):
        FeatureExtractor(FRONT_END, encoder, **options)


def test_layers_of_an_encoder_without_are_refused() -> None:
    with pytest.raises(ValueError, match="ConvGRUEncoder has not"):
        FeatureExtractor(FRONT_END, gru(), layer=0)


def test_unpadded_latents_stand_in_the_middle_of_what_they_see() -> None:
    """25 ms of samples each, from the one that they begin with (the convolutions of wav2vec 2.0)."""
    encoder = Wav2Vec2Encoder(
        channels=8, output_dim=8, num_layers=1, num_heads=2, feed_forward_dim=8, position_kernel_size=8,
        position_groups=4, conv_norm="layer", conv_bias=True,
    )  # fmt: skip
    extractor = FeatureExtractor(FrontEnd(features=Waveform(sample_rate_hz=16000)), encoder)
    field = receptive_field(encoder, "latents")
    assert (field.before, field.ahead) == (0, 399)
    assert extractor.times(26)[25].item() == pytest.approx(0.5 + 199.5 / 16000)
