"""Manifests -> loaders for a Lightning trainer, resumable in mid-epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning
from torch.utils.data import DataLoader

from speechkit.audio import Perturbation
from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.manifest import read_cuts
from speechkit.data.sampler import BucketBatchSampler
from speechkit.text import Tokenizer

if TYPE_CHECKING:
    pass


class SpeechDataModule(lightning.LightningDataModule):
    """Training and development sets.

    The sample rate is that of the task's front end. Batches are stated in seconds of audio over all devices together.

    Args:
        train: manifests, one or several; `$NAME` in a path is an environment variable.
        dev: manifests that choose the best checkpoint; none means that the last one is kept.
        tokenizer: text -> labels; an unfitted one takes its vocabulary from the training texts. None for pretraining.
        batch_seconds: audio in a batch over all devices, padding included.
        num_buckets: classes of duration; more means less padding and less mixing.
        min_seconds: shorter utterances are left out of training.
        max_seconds: longer ones too.
        crop_seconds: longer utterances are cut to a random span of this length; only without a tokenizer.
        speakers: use only these speakers' utterances for training.
        exclude_speakers: leave out these speakers' utterances in training.
        perturbations: waveform perturbations of the training set.
        num_workers: processes that decode; 0 decodes in the training process, best where the cache holds everything.
        cache_gigabytes: decoded training audio kept in memory, by each worker.
        seed: of shuffling and perturbations.
    """

    def __init__(
        self,
        *,
        train: Sequence[str],
        dev: Sequence[str] = (),
        tokenizer: Tokenizer | None = None,
        batch_seconds: float = 160.0,
        num_buckets: int = 8,
        min_seconds: float = 0.1,
        max_seconds: float = 30.0,
        crop_seconds: float | None = None,
        speakers: Sequence[str] = (),
        exclude_speakers: Sequence[str] = (),
        perturbations: Sequence[Perturbation] = (),
        num_workers: int = 0,
        cache_gigabytes: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if crop_seconds is not None and tokenizer is not None:
            raise ValueError(f"`crop_seconds` must be none where there is text to learn, got {crop_seconds}.")
        self.batch_seconds, self.num_buckets, self.seed = batch_seconds, num_buckets, seed
        self.min_seconds, self.max_seconds, self.crop_seconds = min_seconds, max_seconds, crop_seconds
        self.perturbations, self.num_workers, self.cache_gigabytes = perturbations, num_workers, cache_gigabytes
        self.dev, self.tokenizer = dev, tokenizer
        self.train_cuts = self._training_cuts(train, speakers, exclude_speakers)
        if tokenizer is not None and tokenizer.vocab_size == 1:
            tokenizer.fit(cut.supervisions[0].text or "" for cut in self.train_cuts)
        self._resume: tuple[int, int] = (0, 0)

    def _training_cuts(
        self, manifests: Sequence[str], speakers: Sequence[str], exclude_speakers: Sequence[str]
    ) -> list[Any]:
        cuts = [cut for manifest in manifests for cut in read_cuts(manifest)]
        kept = [
            cut
            for cut in cuts
            if self.min_seconds <= cut.duration
            and (cut.duration <= self.max_seconds or self.crop_seconds is not None)
            and (not speakers or cut.supervisions[0].speaker in speakers)
            and cut.supervisions[0].speaker not in exclude_speakers
        ]
        if not kept:
            raise ValueError(
                f"`train` must leave at least one utterance, got none of {len(cuts)} in {list(manifests)}."
            )
        return kept

    @property
    def fitted_tokenizer(self) -> Tokenizer | None:
        """The tokenizer after it has seen the training texts: what the task is linked to."""
        return self.tokenizer

    @property
    def train_seconds(self) -> float:
        return sum(cut.duration for cut in self.train_cuts)

    def setup(self, stage: str) -> None:
        """Builds the datasets at the rate of the task's front end."""
        assert self.trainer is not None, "a SpeechDataModule is used through a Trainer"
        rate = self.trainer.lightning_module.front_end.sample_rate_hz
        self.train_set = SpeechDataset(
            self.train_cuts,
            sample_rate_hz=rate,
            tokenizer=self.tokenizer,
            perturbations=self.perturbations,
            crop_seconds=self.crop_seconds,
            cache_bytes=self.cache_gigabytes * 1e9,
            seed=self.seed,
        )
        dev_cuts = [cut for manifest in self.dev for cut in read_cuts(manifest)]
        self.dev_set = SpeechDataset(
            dev_cuts, sample_rate_hz=rate, tokenizer=self.tokenizer, cache_bytes=self.cache_gigabytes * 1e9
        )

    def train_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[SpeechBatch] | list[Any]:
        return self._loader(self.dev_set, shuffle=False) if len(self.dev_set) else []

    def _loader(self, dataset: SpeechDataset, *, shuffle: bool) -> DataLoader[SpeechBatch]:
        assert self.trainer is not None
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError("`trainer.use_distributed_sampler` must be false: batches are split over ranks already.")
        sampler = BucketBatchSampler(
            dataset.durations_seconds,
            batch_seconds=self.batch_seconds,
            num_buckets=self.num_buckets,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if shuffle:
            sampler.resume(*self._resume)
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches of which epoch the checkpoint's weights have seen."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        return {
            "epoch": loop.epoch_progress.current.ready - 1,
            "batches_done": loop.epoch_loop.batch_progress.current.ready,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Training goes on behind those batches."""
        self._resume = (state_dict["epoch"], state_dict["batches_done"])
