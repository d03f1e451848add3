"""Joined utterances: their audio, texts and lengths; the same for a draw whatever the batch; off by default."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from speechkit.data import Draw, SpeechDataset, UtteranceJoining, read_cuts
from speechkit.text import WordTokenizer

RATE = 8000


@pytest.fixture
def cuts(make_tone: Callable[..., Path], tmp_path: Path) -> list:
    rows = []
    for place, word in enumerate(["a", "b", "c", "d"]):
        make_tone(f"{word}.wav", seconds=0.3 + 0.1 * place, rate=RATE)
        rows.append({"audio_filepath": f"{word}.wav", "duration": 0.3 + 0.1 * place, "text": word})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_cuts(tmp_path / "train.jsonl"))


def make_dataset(cuts: list, **options: float) -> SpeechDataset:
    joining = UtteranceJoining(**{"probability": 1.0, "max_seconds": 4.0, **options})
    return SpeechDataset(cuts, sample_rate_hz=RATE, tokenizer=WordTokenizer(list("abcd")), joining=joining)


def test_texts_follow_the_audio(cuts: list) -> None:
    seconds = {word: 0.3 + 0.1 * place for place, word in enumerate("abcd")}
    batch = make_dataset(cuts, max_pause_seconds=0.0)[
        [Draw(index, epoch, 1.0, 1.0) for index in range(4) for epoch in range(4)]
    ]
    counts = {len(text.split()) for text in batch.texts}
    assert len(counts) > 2
    for text, length, target_length, target in zip(
        batch.texts, batch.lengths.tolist(), batch.target_lengths.tolist(), batch.targets.tolist(), strict=True
    ):
        assert length == pytest.approx(RATE * sum(seconds[word] for word in text.split()), abs=2 * len(text))
        assert target[:target_length] == ["abcd".index(word) + 1 for word in text.split()]


def test_pauses_make_it_longer(cuts: list) -> None:
    draws = [Draw(index, 0, 1.0, 1.0) for index in range(4)]
    with_pauses, without = make_dataset(cuts)[draws], make_dataset(cuts, max_pause_seconds=0.0)[draws]
    assert with_pauses.lengths.sum() > without.lengths.sum()
    assert with_pauses.texts == without.texts


def test_a_draw_is_the_same_in_every_batch_and_differs_by_epoch(cuts: list) -> None:
    dataset = make_dataset(cuts)
    alone, among = dataset[[Draw(2, 0, 1.0, 1.0)]], dataset[[Draw(0, 0, 1.0, 1.0), Draw(2, 0, 1.0, 1.0)]]
    length = int(alone.lengths[0])
    assert (alone.texts[0], length) == (among.texts[1], int(among.lengths[1]))
    assert np.array_equal(alone.waveform[0, :length], among.waveform[1, :length])
    assert len({dataset[[Draw(2, epoch, 1.0, 1.0)]].texts[0] for epoch in range(8)}) > 2


def test_never_is_as_without(cuts: list) -> None:
    draws = [Draw(index, 0, 1.0, 1.0) for index in range(4)]
    never = make_dataset(cuts, probability=0.0, max_pause_seconds=0.0)[draws]
    plain = SpeechDataset(cuts, sample_rate_hz=RATE, tokenizer=WordTokenizer(list("abcd")))[draws]
    assert never.texts == plain.texts
    assert never.waveform.equal(plain.waveform)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seconds": 0.0}, "`max_seconds` and `max_pause_seconds` must be positive, got 0"),
        ({"probability": 1.5}, "`probability` must lie in"),
        ({"low_db": -10.0, "high_db": -20.0}, "`low_db` must be at most `high_db`"),
    ],
)
def test_wrong_arguments(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UtteranceJoining(**options)
