"""Batches without text: the same for any number of ranks, resumable anywhere, refused where they cannot be had."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from speechkit.data import UnlabelledSpeech


@pytest.fixture
def manifest(make_tone: Callable[..., Path], tmp_path: Path) -> str:
    rows = []
    for place in range(7):
        audio = make_tone(f"{place}.wav", seconds=0.5 + 0.1 * place, rate=8000, seed=place)
        rows.append({"audio_filepath": str(audio), "duration": 0.5 + 0.1 * place})
    (tmp_path / "unlabelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "unlabelled.jsonl")


def draw(speech: UnlabelledSpeech, count: int, **options: int) -> list[list[str]]:
    speech.start(8000, **options)
    batches = [speech.next_batch() for _ in range(count)]
    speech.stop()
    assert not any(batch.target_lengths.any() for batch in batches)
    return [[name for name, weight in zip(batch.ids, batch.weights, strict=True) if weight] for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("done", [1, 5, 8])
def test_goes_on_where_it_was(manifest: str, done: int, num_workers: int) -> None:
    options = {"batch_seconds": 2.0, "num_buckets": 2, "num_workers": num_workers}
    whole = draw(UnlabelledSpeech(manifest, **options), 10)  # over several epochs
    assert whole[:5] != whole[5:]
    assert len({name for batch in whole[:5] for name in batch}) == 7  # an epoch has five batches
    speech = UnlabelledSpeech(manifest, **options)
    speech.batches_done = done
    assert draw(speech, 10 - done) == whole[done:]
    assert speech.batches_done == 10


def test_ranks_share_each_batch(manifest: str) -> None:
    whole, first, second = (
        draw(UnlabelledSpeech(manifest, batch_seconds=2.0, num_workers=0), 8, **share)
        for share in ({}, {"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 2})
    )
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in whole]


def test_what_cannot_be_had_is_named(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"`unlabelled` must hold an utterance .* got none of 0 in .*none\.jsonl"):
        UnlabelledSpeech(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="got none of 7"):
        UnlabelledSpeech(manifest, min_seconds=5.0)
    with pytest.raises(ValueError, match=r"0\.wav has 8000 Hz, and the front end needs 16000 Hz"):
        UnlabelledSpeech(manifest).check_rate(16000)
    with pytest.raises(ValueError, match="batch_seconds"):
        UnlabelledSpeech(manifest, batch_seconds=0.0)
    speech = UnlabelledSpeech(manifest, num_workers=1)
    (tmp_path / "3.wav").write_bytes(b"")
    speech.start(8000)
    with pytest.raises(ValueError, match=r"3\.wav"):
        [speech.next_batch() for _ in range(3)]
    speech.stop()
