"""Batches in seconds of audio: complete, the same for any number of ranks, and resumable."""

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest

from speechkit.data import BucketBatchSampler

DURATIONS = np.random.default_rng(0).uniform(0.5, 12.0, size=101).tolist()


def make(durations: list[float] = DURATIONS, **options: Any) -> BucketBatchSampler:
    return BucketBatchSampler(durations, **{"batch_seconds": 40.0, **options})


def indices(sampler: BucketBatchSampler) -> list[list[int]]:
    return [[draw.index for draw in batch if draw.weight] for batch in sampler]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_epoch_has_the_same_number_of_batches(world_size: int) -> None:
    sampler = make(world_size=world_size)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_buckets": 1}, {"num_buckets": 500}, {"batch_seconds": 1.0}])
def test_each_utterance_is_drawn_once_an_epoch(shuffle: bool, options: dict[str, Any]) -> None:
    sampler = make(shuffle=shuffle, **options)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(chain.from_iterable(indices(sampler))) == list(range(len(DURATIONS)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_joined_batches_are_the_same_for_any_number_of_ranks(world_size: int) -> None:
    alone = [Counter(batch) for batch in indices(make())]
    ranks = [indices(make(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [Counter(chain.from_iterable(shares)) for shares in zip(*ranks, strict=True)] == alone


def test_shares_of_a_batch_differ_by_one_utterance_at_most() -> None:
    ranks = [indices(make(rank=rank, world_size=3)) for rank in range(3)]
    for shares in zip(*ranks, strict=True):
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("options", [{}, {"num_buckets": 1}, {"num_buckets": 30}, {"shuffle": False}])
def test_padded_seconds_are_bounded(options: dict[str, Any]) -> None:
    for batch in indices(make(**options)):
        padded_seconds = len(batch) * max(DURATIONS[index] for index in batch)
        assert padded_seconds <= 40.0


def test_utterance_longer_than_a_batch_is_a_batch_of_its_own() -> None:
    batches = indices(make([1.0] * 6 + [100.0], num_buckets=7))
    assert [6] in batches


def test_buckets_keep_padding_small() -> None:
    batches = indices(make(num_buckets=8))
    padded = sum(len(batch) * max(DURATIONS[index] for index in batch) for batch in batches)
    assert padded < 1.15 * sum(DURATIONS)


@pytest.mark.parametrize("shuffle", [True, False])
def test_longest_utterance_comes_first(shuffle: bool) -> None:
    for batch in indices(make(shuffle=shuffle)):
        assert [DURATIONS[index] for index in batch] == sorted((DURATIONS[index] for index in batch), reverse=True)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first, second, other = make(), make(), make(seed=1)
    second.set_epoch(1)
    assert indices(first) == indices(make())
    assert indices(first) != indices(second)
    assert indices(first) != indices(other)


def test_without_shuffling_every_epoch_is_the_same() -> None:
    sampler = make(shuffle=False)
    before = indices(sampler)
    sampler.set_epoch(3)
    assert indices(sampler) == before


def test_draws_carry_their_epoch() -> None:
    sampler = make()
    sampler.set_epoch(4)
    assert {draw.epoch for batch in sampler for draw in batch} == {4}
    still = make(shuffle=False)
    still.set_epoch(4)
    assert {draw.epoch for batch in still for draw in batch} == {0}


@pytest.mark.parametrize("batches_done", [0, 1, 7])
def test_resume_skips_exactly_the_batches_done(batches_done: int) -> None:
    whole, resumed = make(), make()
    whole.set_epoch(2)
    resumed.resume(2, batches_done)
    resumed.set_epoch(2)
    assert list(resumed) == list(whole)[batches_done:]


def test_epoch_after_a_resumed_one_is_whole() -> None:
    whole, resumed = make(), make()
    resumed.resume(2, 5)
    whole.set_epoch(3)
    resumed.set_epoch(3)
    assert list(resumed) == list(whole)


def test_resume_behind_the_last_batch_starts_the_next_epoch() -> None:
    whole, resumed = make(), make()
    resumed.resume(2, len(resumed))
    whole.set_epoch(3)
    assert list(resumed) == list(whole)


def test_rank_without_a_share_draws_a_filler_of_weight_0() -> None:
    durations = [1.0, 2.0, 3.0]
    batches = [list(make(durations, num_buckets=1, rank=rank, world_size=5)) for rank in range(5)]
    assert [[draw.weight for draw in batch] for (batch,) in batches] == [[1.0], [1.0], [1.0], [0.0], [0.0]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_mean_over_ranks_of_scaled_sums_is_the_joined_mean(world_size: int) -> None:
    losses = np.random.default_rng(1).uniform(size=len(DURATIONS))
    ranks = [list(make(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, *shares in zip(indices(make()), *ranks, strict=True):
        steps = [sum(draw.loss_scale * draw.weight * losses[draw.index] for draw in share) for share in shares]
        assert np.mean(steps) == pytest.approx(losses[batch].mean())


@pytest.mark.parametrize(
    ("durations", "options", "name"),
    [
        ([], {}, "durations_seconds"),
        ([1.0], {"batch_seconds": 0.0}, "batch_seconds"),
        ([1.0], {"num_buckets": 0}, "num_buckets"),
    ],
)
def test_bad_arguments_are_refused(durations: list[float], options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must .* got"):
        make(durations, **options)
