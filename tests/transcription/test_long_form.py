"""Recordings of any length: every word once, whatever the cuts; times; failures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechkit import Recognizer
from speechkit.decoding import GreedySearch, Hypothesis
from speechkit.transcription import Passage, Span, search

RATE = 8000
Say = Callable[..., np.ndarray]


def draw_words(count: int, seed: int, gap: tuple[float, float]) -> list[str | float]:
    generator = np.random.default_rng(seed)
    parts: list[str | float] = [0.3]
    for _ in range(count):
        parts += [("low", "high")[generator.integers(2)], float(generator.uniform(*gap))]
    return parts


@pytest.mark.parametrize(("seed", "gap"), [(0, (0.05, 0.06)), (1, (0.05, 0.4)), (2, (0.1, 1.6)), (3, (1.5, 3.0))])
def test_no_word_is_lost_or_doubled(recognizer: Recognizer, say: Say, seed: int, gap: tuple[float, float]) -> None:
    parts = draw_words(300, seed, gap)
    (transcript,) = recognizer.transcribe([say(parts)], batch_seconds=50)
    assert transcript.text.split() == [part for part in parts if isinstance(part, str)]
    assert len(transcript.segments) > 3
    ends = [time for segment in transcript.segments for time in (segment.start_seconds, segment.end_seconds)]
    assert ends == sorted(ends)


def test_a_cut_in_fluent_speech_is_no_border_of_sentences(recognizer: Recognizer, say: Say) -> None:
    samples = [say(draw_words(150, 0, (0.05, 0.06))), say([0.3, "low", 2.0, "high", 0.3])]
    passages = dict(recognizer.passages_iter(samples))
    fluent, parted = ([(item.begins, item.ends) for item in passages[place]] for place in (0, 1))  # type: ignore[union-attr]
    assert len(fluent) > 2
    assert fluent == [(True, False), *[(False, False)] * (len(fluent) - 2), (False, True)]
    assert parted == [(True, True)] * 2
    seen = []

    class Listener(GreedySearch):
        def decode(self, logits: torch.Tensor, lengths: torch.Tensor, **options: Any) -> list[list[Hypothesis]]:
            seen.extend(zip(options["begins"], options["ends"], strict=True))
            return super().decode(logits, lengths)

    class Search:  # any decoder but the greedy one, which asks for no borders
        decode = Listener().decode

    recognizer.decoder = Search()
    texts = [transcript.text for transcript in recognizer.transcribe(samples)]
    assert sorted(seen) == sorted(fluent + parted)
    recognizer.decoder = GreedySearch()
    assert texts == [transcript.text for transcript in recognizer.transcribe(samples)]


def test_one_long_passage_among_short_ones_pads_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MOST_LOGITS", 1000)
    generator = np.random.default_rng(0)
    lengths = [90, *generator.integers(1, 10, 100).tolist()]
    passages = [Passage(generator.normal(size=(n, 3)).astype("f4"), 0.0, 0.0, 1.0, np.zeros(0), 0.0) for n in lengths]
    sizes = []

    class Search:
        def decode(self, logits: torch.Tensor, frames: torch.Tensor, **options: Any) -> list[list[Hypothesis]]:
            sizes.append(logits.numel())
            return GreedySearch().decode(logits, frames)

    found = search.search_passages(Search(), passages)
    assert found == search.search_passages(GreedySearch(), passages)
    assert max(sizes) <= 1000
    assert len(sizes) > 1


def test_words_stand_where_they_are_said(recognizer: Recognizer, say: Say) -> None:
    parts = draw_words(200, 4, (0.1, 0.6))
    (transcript,) = recognizer.transcribe([say(parts)])
    seconds = np.cumsum([0.0, *(part if isinstance(part, float) else 0.2 for part in parts)])
    starts = [start for start, part in zip(seconds[:-1], parts, strict=True) if isinstance(part, str)]
    assert np.abs(np.array([word.start_seconds for word in transcript.words]) - starts).max() < 0.03
    assert np.abs([word.end_seconds - word.start_seconds - 0.2 for word in transcript.words]).max() < 0.04
    assert all(0.9 < word.confidence <= 1.0 for word in transcript.words)


def test_alone_or_among_others_or_as_a_file(recognizer: Recognizer, say: Say, tmp_path: Path) -> None:
    samples = [say(draw_words(count, count, (0.05, 1.5))) for count in (1, 4, 9, 120)]
    together = recognizer.transcribe(samples)
    for place, part in enumerate(samples):
        soundfile.write(tmp_path / f"{place}.wav", part, RATE, subtype="FLOAT")
        assert recognizer.transcribe([tmp_path / f"{place}.wav"]) == recognizer.transcribe([part])
        assert recognizer.transcribe([part])[0].text == together[place].text
    assert [transcript.duration_seconds for transcript in together] == [len(part) / RATE for part in samples]


def test_a_span_of_a_long_file(recognizer: Recognizer, say: Say, tmp_path: Path) -> None:
    samples = say(draw_words(600, 0, (0.05, 0.5)))
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    span = Span(tmp_path / "long.wav", 20.0, 90.0)
    (heard,) = recognizer.transcribe([span])
    assert heard.text == recognizer.transcribe([samples[20 * RATE : 110 * RATE]])[0].text
    assert heard.duration_seconds == 90.0


def test_what_cannot_be_read_leaves_the_rest(recognizer: Recognizer, say: Say, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", say([0.2, "low", 0.2]), RATE)
    long = say(draw_words(400, 0, (0.1, 0.3)))
    long[-100] = np.nan
    soundfile.write(tmp_path / "nan.wav", long, RATE, subtype="FLOAT")
    (tmp_path / "empty.wav").touch()
    good, nan, empty = recognizer.transcribe([tmp_path / f"{name}.wav" for name in ("good", "nan", "empty")])
    assert good.text == "low"
    assert "nan.wav: holds samples that are NaN" in str(nan.error)
    assert "empty.wav: the file is empty" in str(empty.error)
    assert (nan.text, nan.segments) == ("", ())


def test_silence_has_no_words(recognizer: Recognizer, say: Say) -> None:
    silent, too_short = recognizer.transcribe([say([30.0]), np.zeros(10, dtype=np.float32)])
    assert (silent.text, silent.confidence, silent.error) == ("", None, None)
    assert (too_short.text, too_short.error) == ("", None)


def test_wrong_arguments(recognizer: Recognizer) -> None:
    with pytest.raises(ValueError, match="`batch_seconds` must be positive, got 0"):
        recognizer.transcribe([], batch_seconds=0)
    with pytest.raises(ValueError, match="`num_workers` must be at least 1, got 0"):
        recognizer.transcribe([], num_workers=0)
    with pytest.raises(ValueError, match="float samples"):
        recognizer.transcribe([np.zeros(8000, dtype=np.int16)])


def test_giving_up_early_leaves_no_thread(recognizer: Recognizer, say: Say) -> None:
    import threading

    before = threading.active_count()
    results = recognizer.transcribe_iter([say(draw_words(60, 0, (0.1, 0.2)))] * 20, batch_seconds=20)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
