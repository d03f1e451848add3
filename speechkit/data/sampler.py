"""Batches of similar duration, measured in seconds of audio, the same for any number of ranks and after a resume.

A batch here is the joined batch of all ranks. Which utterances it holds is a pure function of (seed, epoch), so an
optimizer step means the same on one device and on eight, and a resume needs no more than (epoch, batches done).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Draw:
    """One utterance of a batch, as its dataset is asked for it."""

    index: int
    epoch: int  # seeds the perturbations; always 0 without shuffling, where every epoch is the same
    weight: float  # 0 for a filler, on a rank whose share of a small batch is empty
    loss_scale: float  # ranks / utterances in the joined batch: turns a local sum into the joined mean under DDP


class BucketBatchSampler(Sampler[list[Draw]]):
    """Splits utterances into buckets of similar duration and batches within a bucket.

    The number of batches is the same in every epoch. Each rank gets its share of every joined batch, so all ranks take
    the same number of steps and no utterance is dropped or repeated.

    Args:
        durations_seconds: of every utterance.
        batch_seconds: audio in a joined batch, padding included; a single longer utterance is a batch of its own.
        num_buckets: how many classes of duration.
        shuffle: new batches and a new order each epoch; otherwise by duration.
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
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(durations_seconds) == 0:
            raise ValueError("`durations_seconds` must hold at least one utterance, got none.")
        if batch_seconds <= 0:
            raise ValueError(f"`batch_seconds` must be positive, got {batch_seconds}.")
        if num_buckets < 1:
            raise ValueError(f"`num_buckets` must be at least 1, got {num_buckets}.")
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.epoch, self.first_batch = 0, 0
        self._durations = np.asarray(durations_seconds, dtype=np.float64)
        order = np.argsort(self._durations, kind="stable")
        self._buckets = list(np.array_split(order, min(num_buckets, len(order))))
        sizes = [max(1, int(batch_seconds / self._durations[bucket[-1]])) for bucket in self._buckets]
        self._splits = [-(-len(bucket) // size) for bucket, size in zip(self._buckets, sizes, strict=True)]

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return sum(self._splits)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch. A new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def resume(self, epoch: int, batches_done: int) -> None:
        """The next iteration starts behind `batches_done` batches of `epoch`."""
        self.epoch, self.first_batch = divmod(epoch * len(self) + batches_done, len(self))

    def __iter__(self) -> Iterator[list[Draw]]:
        joined = self.joined_batches(self.epoch)[self.first_batch :]
        return iter([self._share(batch, self.epoch if self.shuffle else 0) for batch in joined])

    def joined_batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch over all ranks: arrays of indices, longest utterance first."""
        generator = np.random.default_rng((self.seed, epoch))
        batches: list[np.ndarray] = []
        for bucket, count in zip(self._buckets, self._splits, strict=True):
            members = generator.permutation(bucket) if self.shuffle else bucket
            batches.extend(np.array_split(members, count))
        batches = [batch[np.argsort(-self._durations[batch], kind="stable")] for batch in batches]
        if self.shuffle:
            batches = [batches[place] for place in generator.permutation(len(batches))]
        return batches

    def _share(self, batch: np.ndarray, epoch: int) -> list[Draw]:
        scale = self.world_size / len(batch)
        own = batch[self.rank :: self.world_size]
        if len(own) == 0:
            return [Draw(int(batch[-1]), epoch, 0.0, scale)]
        return [Draw(int(index), epoch, 1.0, scale) for index in own]
