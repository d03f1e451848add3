"""Word times by alignment: those of the best path where the text is the best path's, and none where it does not fit."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from speechkit import Recognizer
from speechkit.encoders.receptive_field import encoder_stride
from speechkit.pipelines.word_times import word_times

WAVEFORM = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
SPACE = 3


def frames_of_words(path: list[int]) -> list[tuple[int, int]]:
    """First frame and one past the last of what stands between spaces."""
    words = [list(group) for is_gap, group in groupby(range(len(path)), key=lambda t: path[t] == SPACE) if not is_gap]
    labels = [[frame for frame in word if path[frame] != 0] for word in words]
    return [(frames[0], frames[-1] + 1) for frames in labels if frames]


def test_times_are_those_of_the_best_path(untrained: Path) -> None:
    recognizer = Recognizer.load(untrained)
    (transcript,) = recognizer.transcribe([WAVEFORM])
    logits, _ = recognizer.logits(torch.from_numpy(WAVEFORM)[None], torch.tensor([len(WAVEFORM)]))
    words = word_times(recognizer, WAVEFORM, transcript.text)
    assert [word.text for word in words] == transcript.text.split()
    assert len(words) > 1
    step = 0.010 * encoder_stride(recognizer.encoder)
    edges = [
        0.0125 + step * (frame - 0.5) for frames in frames_of_words(logits[0].argmax(-1).tolist()) for frame in frames
    ]
    assert [edge for word in words for edge in word[1:]] == pytest.approx(edges)


def test_a_text_that_does_not_fit_has_no_times(untrained: Path) -> None:
    recognizer = Recognizer.load(untrained)
    assert word_times(recognizer, WAVEFORM[:400], "ab " * 50) == []
    assert word_times(recognizer, WAVEFORM, "") == []
