"""Batches out of archives: complete, the same for any number of ranks, resumable, in memory for a few shards."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechkit.data import ArchiveBatchSampler, ArchivedCuts
from speechkit.data.archive import INDEX_DTYPE


def write_index(folder: Path, num_rows: int, rows_per_shard: int = 40, *, seed: int = 0) -> ArchivedCuts:
    """An index without its audio, of durations from 0.2 to 16 s."""
    folder.mkdir()
    rows = np.zeros(num_rows, dtype=INDEX_DTYPE)
    rows["shard"] = 3 + np.arange(num_rows) // rows_per_shard
    rows["milliseconds"] = np.random.default_rng(seed).integers(200, 16000, size=num_rows)
    rows.tofile(folder / "index.bin")
    (folder / "archive.json").write_text(json.dumps({"utterances": num_rows}))
    return ArchivedCuts([folder])


@pytest.fixture
def cuts(tmp_path: Path) -> ArchivedCuts:
    return write_index(tmp_path / "archive", 990)


@pytest.fixture
def make(cuts: ArchivedCuts) -> Callable[..., ArchiveBatchSampler]:
    return lambda **options: ArchiveBatchSampler(cuts, **{"batch_seconds": 60.0, "shuffle_shards": 4, **options})


def durations(cuts: ArchivedCuts) -> np.ndarray:
    return np.concatenate(list(cuts.durations_milliseconds())) / 1000


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_buckets": 1},
    {"num_buckets": 200},
    {"batch_seconds": 3.0},
    {"shuffle_shards": 1},
    {"shuffle_shards": 100},
    {"min_seconds": 1.0, "max_seconds": 8.0},
    {"crop_seconds": 2.5},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_each_utterance_is_drawn_once_an_epoch_in_batches_of_the_same_number(
    cuts: ArchivedCuts, make: Callable[..., ArchiveBatchSampler], options: dict[str, Any]
) -> None:
    sampler, seconds = make(**options), durations(cuts)
    shortest, longest = options.get("min_seconds", 0.0), options.get("max_seconds", 99.0)
    wanted = np.flatnonzero((shortest <= seconds) & (seconds <= longest))
    for epoch in range(3):
        batches = list(sampler.joined_batches(epoch))
        assert sorted(chain.from_iterable(batches)) == wanted.tolist()
        assert len(batches) == len(sampler)
    assert sampler.num_utterances == len(wanted)
    drawn = np.minimum(seconds[wanted], options.get("crop_seconds", 99.0))
    assert sampler.seconds == pytest.approx(drawn.sum(), rel=0.01)


@pytest.mark.parametrize("options", OPTIONS)
def test_padded_seconds_are_bounded(
    cuts: ArchivedCuts, make: Callable[..., ArchiveBatchSampler], options: dict[str, Any]
) -> None:
    seconds, limit = np.minimum(durations(cuts), options.get("crop_seconds", 99.0)), options.get("batch_seconds", 60.0)
    for batch in make(**options).joined_batches(0):
        assert len(batch) * seconds[batch].max() <= limit or len(batch) == 1
        assert (np.diff(seconds[batch]) <= 0).all()


def test_classes_of_duration_keep_padding_small(cuts: ArchivedCuts, make: Callable[..., ArchiveBatchSampler]) -> None:
    seconds = durations(cuts)
    padded = sum(len(batch) * seconds[batch].max() for batch in make().joined_batches(0))
    assert padded < 1.15 * seconds.sum()


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_joined_batches_are_the_same_for_any_number_of_ranks(
    make: Callable[..., ArchiveBatchSampler], world_size: int
) -> None:
    ranks = [list(make(rank=rank, world_size=world_size)) for rank in range(world_size)]
    joined = [
        Counter(draw.index for draw in chain.from_iterable(shares) if draw.weight)
        for shares in zip(*ranks, strict=True)
    ]
    assert joined == [Counter(batch.tolist()) for batch in make().joined_batches(0)]


@pytest.mark.parametrize("batches_done", [0, 5, 10_000])
def test_resume_skips_exactly_the_batches_done(make: Callable[..., ArchiveBatchSampler], batches_done: int) -> None:
    whole, resumed = make(), make()
    batches = chain.from_iterable(whole.joined_batches(epoch) for epoch in range(200))
    epoch = resumed.epoch
    resumed.resume(epoch, batches_done)
    (expected,) = islice(batches, batches_done, batches_done + 1)
    assert [draw.index for draw in next(iter(resumed))] == expected.tolist()


def test_epochs_and_seeds_mix_shards_anew(make: Callable[..., ArchiveBatchSampler]) -> None:
    first = [batch.tolist() for batch in make().joined_batches(0)]
    assert first == [batch.tolist() for batch in make().joined_batches(0)]
    assert first != [batch.tolist() for batch in make().joined_batches(1)]
    assert first != [batch.tolist() for batch in make(seed=1).joined_batches(0)]
    shards = {frozenset(row // 40 for row in batch) for batch in first}
    assert max(len(mixed) for mixed in shards) > 2
    early = {row // 40 for batch in first[: len(first) // 8] for row in batch}
    assert len(early) <= 4  # of 25: only a few shards are read at a time


def test_archive_shorter_than_a_batch_is_one(tmp_path: Path) -> None:
    sampler = ArchiveBatchSampler(write_index(tmp_path / "tiny", 2), batch_seconds=600.0, num_buckets=1)
    assert [sorted(batch) for batch in sampler.joined_batches(0)] == [[0, 1]]


@pytest.mark.parametrize("name", ["batch_seconds", "num_buckets", "shuffle_shards"])
def test_bad_arguments_are_refused(make: Callable[..., ArchiveBatchSampler], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        make(**{name: 0})


def test_nothing_left_is_refused(make: Callable[..., ArchiveBatchSampler]) -> None:
    with pytest.raises(ValueError, match="must leave an utterance, got none of 990"):
        make(min_seconds=100.0)


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """The index of the larger archive alone is 12 MB."""

    def peak_bytes(num_rows: int) -> int:
        write_index(tmp_path / str(num_rows), num_rows, rows_per_shard=360)
        tracemalloc.start()  # numpy reports its arrays to it
        sampler = ArchiveBatchSampler(ArchivedCuts([tmp_path / str(num_rows)]), batch_seconds=1600.0, world_size=8)
        sampler.resume(0, len(sampler) // 2)
        for _ in islice(sampler, 50):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small = peak_bytes(100_000)
    assert peak_bytes(600_000) < 1.1 * small < 16e6
