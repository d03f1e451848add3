"""Recordings without text for callbacks that learn from them: endless batches beside those of the data module.

As there, a batch is that of all ranks together, and which utterances it holds follows from its number alone: so a
resume needs that number and no more.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from speechkit.audio import Perturbation
from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.manifest import read_cuts
from speechkit.data.sampler import BucketBatchSampler
from speechkit.data.worker import ErrorsAsItems, leave_signals_to_training


class UnlabelledSpeech:
    """Manifests -> batches whose targets are empty; what texts the manifests hold is not looked at.

    Args:
        manifests: one or several.
        batch_seconds: audio in a batch over all devices, padding included.
        num_buckets: classes of duration.
        min_seconds: shorter utterances are left out.
        max_seconds: longer ones too.
        perturbations: of the waveforms; every view of an utterance then sees the same perturbed one.
        num_workers: processes that decode and perturb; 0 does it in the training process.
        cache_gigabytes: decoded audio kept in memory, by each worker.
        seed: of shuffling and perturbations; none: that of the run.

    Attributes:
        batches_done: how many were drawn; set it to go on behind them.

    Raises:
        ValueError: no utterance, or a file that is missing or not audio.
    """

    def __init__(
        self,
        manifests: Sequence[str] | str,
        *,
        batch_seconds: float = 60.0,
        num_buckets: int = 8,
        min_seconds: float = 0.5,
        max_seconds: float = 30.0,
        perturbations: Sequence[Perturbation] = (),
        num_workers: int = 1,
        cache_gigabytes: float = 2.0,
        seed: int | None = None,
    ) -> None:
        self.manifests = [manifests] if isinstance(manifests, str) else list(manifests)
        if not batch_seconds > 0:
            raise ValueError(f"`batch_seconds` must be positive, got {batch_seconds}.")
        self.batch_seconds, self.num_buckets = batch_seconds, num_buckets
        self.perturbations, self.num_workers = tuple(perturbations), num_workers
        self.cache_gigabytes, self.seed = cache_gigabytes, seed
        every = [cut for manifest in self.manifests for cut in read_cuts(manifest)]
        self.cuts: list[Any] = [cut for cut in every if min_seconds <= cut.duration <= max_seconds]
        if not self.cuts:
            raise ValueError(
                f"`unlabelled` must hold an utterance of {min_seconds} to {max_seconds} s, got none of {len(every)} "
                f"in {', '.join(self.manifests) or 'no manifest'}."
            )
        self.batches_done = 0
        self._batches: Iterator[SpeechBatch | ValueError] | None = None

    def check_rate(self, sample_rate_hz: int) -> None:
        """Raises ValueError where a recording has a lower rate: what it lacks cannot be had by resampling."""
        for cut in self.cuts:
            if cut.recording.sampling_rate < sample_rate_hz:
                raise ValueError(
                    f"{cut.manifest}: {cut.id} has {cut.recording.sampling_rate} Hz, and the front end needs "
                    f"{sample_rate_hz} Hz."
                )

    def start(self, sample_rate_hz: int, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> None:
        """Begins to read ahead, behind the batches that are done.

        Args:
            sample_rate_hz: of the waveforms.
            rank: of this process, which gets its share of each batch.
            world_size: number of processes.
            pin_memory: for a GPU.
        """
        dataset = SpeechDataset(
            self.cuts,
            sample_rate_hz=sample_rate_hz,
            perturbations=self.perturbations,
            cache_bytes=self.cache_gigabytes * 1e9,
            seed=self.seed or 0,
        )
        sampler = BucketBatchSampler(
            dataset.durations_seconds,
            batch_seconds=self.batch_seconds,
            num_buckets=self.num_buckets,
            seed=self.seed or 0,
            rank=rank,
            world_size=world_size,
        )
        loader: DataLoader[SpeechBatch] = DataLoader(
            ErrorsAsItems(dataset),
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_training,
            persistent_workers=self.num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # a new epoch draws nothing from torch's, whose numbers are the step's
        )
        sampler.resume(0, self.batches_done)
        self._batches = _endless(iter(loader), loader, sampler)  # workers start here, before there are other threads

    def next_batch(self) -> SpeechBatch:
        """The next one of this rank, on the CPU.

        Raises:
            AudioError: a file that cannot be decoded.
        """
        assert self._batches is not None, "`start` comes first"
        batch = next(self._batches)
        if isinstance(batch, ValueError):
            raise batch
        self.batches_done += 1
        return batch

    def stop(self) -> None:
        """Ends the workers."""
        self._batches = None


def _endless(
    first_epoch: Iterator[SpeechBatch | ValueError], loader: DataLoader[SpeechBatch], sampler: BucketBatchSampler
) -> Iterator[SpeechBatch | ValueError]:
    yield from first_epoch
    while True:
        sampler.set_epoch(sampler.epoch + 1)
        yield from loader
