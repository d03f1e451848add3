"""Batches of similar duration, measured in seconds of audio, the same for any number of ranks and after a resume.

A batch here is the joined batch of all ranks. Which utterances it holds is a pure function of (seed, epoch), so an
optimizer step means the same on one device and on eight, and a resume needs no more than (epoch, batches done).
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from speechkit.data.archive import ArchivedCuts

_BIN_MILLISECONDS = 10  # of the histogram of durations that an archive's batches are planned from


@dataclass(frozen=True)
class Draw:
    """One utterance of a batch, as its dataset is asked for it."""

    index: int
    epoch: int  # seeds the perturbations; always 0 without shuffling, where every epoch is the same
    weight: float  # 0 for a filler, on a rank whose share of a small batch is empty
    loss_scale: float  # ranks / utterances in the joined batch: turns a local sum into the joined mean under DDP


class JoinedBatchSampler(Sampler[list[Draw]]):
    """Gives a rank its share of every joined batch; what the batches are is for a subclass to say.

    All ranks take the same number of steps, and no utterance is dropped or repeated.

    Args:
        shuffle: whether epochs differ.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, *, shuffle: bool, rank: int, world_size: int) -> None:
        self.shuffle, self.rank, self.world_size = shuffle, rank, world_size
        self.epoch, self.first_batch = 0, 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches in a whole epoch, the same in every epoch."""

    @abstractmethod
    def joined_batches(self, epoch: int) -> Iterable[np.ndarray]:
        """The batches of an epoch over all ranks: arrays of indices, longest utterance first."""

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch. A new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def resume(self, epoch: int, batches_done: int) -> None:
        """The next iteration starts behind `batches_done` batches of `epoch`."""
        self.epoch, self.first_batch = divmod(epoch * len(self) + batches_done, len(self))

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        joined = islice(self.joined_batches(epoch), self.first_batch, None)
        return (self._share(batch, epoch if self.shuffle else 0) for batch in joined)

    def _share(self, batch: np.ndarray, epoch: int) -> list[Draw]:
        scale = self.world_size / len(batch)
        own = batch[self.rank :: self.world_size]
        if len(own) == 0:
            return [Draw(int(batch[-1]), epoch, 0.0, scale)]
        return [Draw(int(index), epoch, 1.0, scale) for index in own]


class BucketBatchSampler(JoinedBatchSampler):
    """Splits utterances into buckets of similar duration and batches within a bucket.

    Args:
        durations_seconds: of every utterance.
        batch_seconds: audio in a joined batch, padding included; a single longer utterance is a batch of its own.
        num_buckets: how many classes of duration.
        shuffle: new batches and a new order each epoch; otherwise by duration.
        sorted_epochs: how many epochs at first have their batches in the order of the longest utterance.
        seed: of the shuffling.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        durations_seconds: Sequence[float],
        *,
        batch_seconds: float,
        num_buckets: int = 8,
        shuffle: bool = True,
        sorted_epochs: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(shuffle=shuffle, rank=rank, world_size=world_size)
        if len(durations_seconds) == 0:
            raise ValueError("`durations_seconds` must hold at least one utterance, got none.")
        _check_sizes(batch_seconds, num_buckets)
        self.seed, self.sorted_epochs = seed, sorted_epochs
        self._durations = np.asarray(durations_seconds, dtype=np.float64)
        order = np.argsort(self._durations, kind="stable")
        self._buckets = list(np.array_split(order, min(num_buckets, len(order))))
        sizes = [max(1, int(batch_seconds / self._durations[bucket[-1]])) for bucket in self._buckets]
        self._splits = [-(-len(bucket) // size) for bucket, size in zip(self._buckets, sizes, strict=True)]

    def __len__(self) -> int:
        return sum(self._splits)

    def joined_batches(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, epoch))
        batches: list[np.ndarray] = []
        for bucket, count in zip(self._buckets, self._splits, strict=True):
            members = generator.permutation(bucket) if self.shuffle else bucket
            batches.extend(np.array_split(members, count))
        batches = [batch[np.argsort(-self._durations[batch], kind="stable")] for batch in batches]
        if self.shuffle:
            batches = [batches[place] for place in generator.permutation(len(batches))]
        if epoch < self.sorted_epochs:
            batches.sort(key=lambda batch: self._durations[batch[0]])
        return batches


class ArchiveBatchSampler(JoinedBatchSampler):
    """Batches of similar duration out of archives of any size, with memory for a few shards.

    An epoch goes through the shards in a new order, `shuffle_shards` at a time: these shards' utterances, and those
    that were left over before, are shuffled and split into classes of duration; each class gives as many full batches
    as it can. The classes hold equal amounts of audio and their bounds belong to the whole corpus, so the number of
    batches is the same in every epoch.

    Args:
        cuts: the archives.
        batch_seconds: audio in a joined batch, padding included; a single longer utterance is a batch of its own.
        num_buckets: how many classes of duration.
        shuffle_shards: shards that are mixed with each other.
        min_seconds: shorter utterances are left out.
        max_seconds: longer ones too.
        crop_seconds: longer ones are left in and count as this.
        seed: of the shuffling.
        rank: of this process.
        world_size: number of processes.

    Attributes:
        num_utterances: in an epoch.
        seconds: of audio in an epoch.
    """

    def __init__(
        self,
        cuts: "ArchivedCuts",
        *,
        batch_seconds: float,
        num_buckets: int = 8,
        shuffle_shards: int = 64,
        min_seconds: float = 0.0,
        max_seconds: float = float("inf"),
        crop_seconds: float | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(shuffle=True, rank=rank, world_size=world_size)
        _check_sizes(batch_seconds, num_buckets)
        if shuffle_shards < 1:
            raise ValueError(f"`shuffle_shards` must be at least 1, got {shuffle_shards}.")
        self.cuts, self.shuffle_shards, self.seed = cuts, shuffle_shards, seed
        self._shortest = max(1.0, 1000 * min_seconds)
        self._longest = float("inf") if crop_seconds is not None else 1000 * max_seconds
        self._crop = float("inf") if crop_seconds is None else 1000 * crop_seconds
        counts = self._count_durations()
        self.num_utterances = int(counts.sum())
        if not self.num_utterances:
            raise ValueError(f"`min_seconds` and `max_seconds` must leave an utterance, got none of {len(cuts)}.")
        audio = np.cumsum(counts * np.arange(len(counts)))
        self.seconds = float(audio[-1]) * _BIN_MILLISECONDS / 1000
        ends = np.searchsorted(audio, audio[-1] * np.arange(1, num_buckets + 1) / num_buckets)
        bins = np.unique(ends)
        in_bucket = np.diff(np.cumsum(counts)[bins], prepend=0)
        self._bounds = np.minimum(bins * _BIN_MILLISECONDS, self._crop)
        self._sizes = np.maximum(1, 1000 * batch_seconds // self._bounds).astype(np.int64)
        self._num_batches = int((-(-in_bucket // self._sizes)).sum())

    def __len__(self) -> int:
        return self._num_batches

    def joined_batches(self, epoch: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng((self.seed, epoch))
        shards = generator.permutation(self.cuts.num_shards)
        waiting = [np.zeros((2, 0), dtype=np.int64) for _ in self._sizes]  # rows and their milliseconds
        for first in range(0, len(shards), self.shuffle_shards):
            fresh = self._read(shards[first : first + self.shuffle_shards])
            bucket = np.searchsorted(self._bounds, fresh[1])
            is_last = first + self.shuffle_shards >= len(shards)
            batches: list[np.ndarray] = []
            for place, size in enumerate(self._sizes):
                members = np.concatenate([waiting[place], fresh[:, bucket == place]], axis=1)
                members = members[:, generator.permutation(members.shape[1])]
                count, rest = divmod(members.shape[1], size)
                if is_last and members.shape[1]:
                    batches += np.array_split(members, count + (rest > 0), axis=1)
                else:
                    batches += np.split(members[:, : count * size], count, axis=1) if count else []
                    waiting[place] = members[:, count * size :]
            for place in generator.permutation(len(batches)):
                rows, milliseconds = batches[place]
                yield rows[np.argsort(-milliseconds, kind="stable")]

    def _read(self, shards: np.ndarray) -> np.ndarray:
        """Rows of the utterances that are used, and their milliseconds as drawn: (2, N)."""
        parts = []
        for shard in shards:
            milliseconds = self.cuts.places(shard)["milliseconds"]
            rows = np.flatnonzero(self._is_used(milliseconds))
            drawn = np.minimum(milliseconds[rows], self._crop).astype(np.int64)
            parts.append(np.stack([rows + self.cuts.first_row(shard), drawn]))
        return np.concatenate(parts, axis=1)

    def _is_used(self, milliseconds: np.ndarray) -> np.ndarray:
        return (self._shortest <= milliseconds) & (milliseconds <= self._longest)

    def _count_durations(self) -> np.ndarray:
        """How many utterances are drawn with each duration, in bins that are named by their ends."""
        counts = np.zeros(1, dtype=np.int64)
        for milliseconds in self.cuts.durations_milliseconds():
            drawn = np.minimum(milliseconds[self._is_used(milliseconds)], self._crop).astype(np.int64)
            more = np.bincount(-(-drawn // _BIN_MILLISECONDS), minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        return counts


def _check_sizes(batch_seconds: float, num_buckets: int) -> None:
    if batch_seconds <= 0:
        raise ValueError(f"`batch_seconds` must be positive, got {batch_seconds}.")
    if num_buckets < 1:
        raise ValueError(f"`num_buckets` must be at least 1, got {num_buckets}.")
