"""What is drawn of a recording: arrays of bytes in step with each other, whatever its rate and length."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechkit.acoustic_model import AcousticModel
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import FrontEnd, Waveform
from speechkit.heads import CTCHead
from speechkit.pipelines.picture import picture
from speechkit.recognizer import Recognizer, Word
from speechkit.text import CharTokenizer


def decode(matrix: dict[str, Any]) -> np.ndarray:
    codes = np.frombuffer(base64.b64decode(matrix["codes"]), dtype=np.uint8)
    return codes.reshape(matrix["rows"], matrix["columns"])


def click(rate: int, at_seconds: float, seconds: float) -> np.ndarray:
    waveform = np.zeros(int(seconds * rate), dtype=np.float32)
    waveform[int(at_seconds * rate)] = 0.5
    return waveform


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(8000 * seconds)).astype(np.float32)


@pytest.mark.parametrize("name", ["waveform", "spectrogram"])
@pytest.mark.parametrize("seconds", [0.7, 30.0])
def test_a_click_is_drawn_where_it_is(untrained: Path, name: str, seconds: float) -> None:
    drawn = picture(Recognizer.load(untrained), click(8000, 0.6 * seconds, seconds), [])[name]
    middles = drawn["start"] + drawn["step"] * (0.5 + np.arange(drawn["columns"]))
    loudest = decode(drawn).max(axis=0).astype(int).argmax()
    assert middles[loudest] == pytest.approx(0.6 * seconds, abs=max(0.0125, drawn["step"]))
    assert middles[-1] == pytest.approx(seconds, abs=1.5 * drawn["step"])


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_models_of_raw_samples_have_a_spectrogram_too(rate: int) -> None:
    torch.manual_seed(0)
    front_end = FrontEnd(features=Waveform(sample_rate_hz=rate))
    encoder = SeparableConvEncoder(input_dim=1, channels=4, kernel_sizes=(3,), repeats=1, output_dim=4)
    head = CTCHead(input_dim=4, vocab_size=3)
    model = AcousticModel(front_end=front_end, encoder=encoder, head=head)
    recognizer = Recognizer(model=model, tokenizer=CharTokenizer("ab"))
    drawn = picture(recognizer, np.sin(np.arange(rate // 4) * 2000 * 2 * np.pi / rate).astype(np.float32), [])
    spectrogram = decode(drawn["spectrogram"])
    assert spectrogram.shape == (64, 26)
    assert spectrogram.max() == 255
    assert len(np.unique(spectrogram)) > 50


def test_posteriors_are_those_of_the_model(untrained: Path) -> None:
    recognizer = Recognizer.load(untrained)
    waveform = noise(4.0) * np.repeat([1, 0, 1], [12000, 12000, 8000])
    ((_, passages),) = recognizer.passages_iter([waveform])
    drawn = picture(recognizer, waveform, [])["posteriors"]
    ids = [["blank", "a", "b", "space"].index(symbol) for symbol in drawn["symbols"]]
    assert ids[0] == 0
    assert len(ids) > 2
    assert len(drawn["passages"]) == len(passages) == 2
    for matrix, passage in zip(drawn["passages"], passages, strict=True):
        assert matrix["start"] + matrix["step"] / 2 == pytest.approx(passage.first_seconds)
        assert np.abs(decode(matrix) / 255 - passage.logits.softmax(dim=-1)[:, ids].T.numpy()).max() < 0.003


def test_words_of_what_is_drawn(untrained: Path) -> None:
    words = [(Word("in", 1.0, 1.2, 0.5), "in"), (Word("out", 2.0, 2.2, 0.5), None)]
    assert picture(Recognizer.load(untrained), noise(1.5), words)["words"] == [["in", 1.0, 1.2, "in", 0.5]]


def test_the_sound_is_that_of_the_recording(untrained: Path) -> None:
    waveform = 0.3 * np.sin(np.arange(2000) / 5).astype(np.float32)
    uri = picture(Recognizer.load(untrained), waveform, [])["audio"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.removeprefix("data:audio/wav;base64,"))))
    assert rate == 8000
    assert np.abs(samples - waveform).max() < 0.01


@pytest.mark.parametrize("num_samples", [1, 10, 199, 8000])
def test_without_speech_there_are_no_posteriors(untrained: Path, num_samples: int) -> None:
    drawn = picture(Recognizer.load(untrained), np.zeros(num_samples, dtype=np.float32), [])
    assert [matrix["columns"] for matrix in drawn["posteriors"]["passages"]] == []
    assert drawn["waveform"]["columns"] == min(num_samples, 2000)
