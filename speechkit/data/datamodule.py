"""Manifests -> loaders for a Lightning trainer, resumable in mid-epoch."""

from collections.abc import Sequence
from typing import Any

import lightning
from torch.utils.data import DataLoader, Dataset

from speechkit.audio import AudioError, Perturbation
from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.manifest import read_cuts
from speechkit.data.sampler import BucketBatchSampler, Draw
from speechkit.text import Tokenizer, normalize_text


class SpeechDataModule(lightning.LightningDataModule):
    """Training and development sets.

    The sample rate is that of the task's front end. Batches are stated in seconds of audio over all devices together.

    Args:
        train: a manifest or several; `$NAME` in a path is an environment variable.
        dev: a manifest or several that choose the best checkpoint; none means that the last one is kept.
        tokenizer: text -> labels; an unfitted one takes its vocabulary from the training texts. None for pretraining.
        batch_seconds: audio in a batch over all devices, padding included.
        num_buckets: classes of duration; more means less padding and less mixing.
        min_seconds: shorter utterances are left out of training.
        max_seconds: longer ones too.
        crop_seconds: longer utterances are cut to a random span of this length; only without a tokenizer.
        speakers: use only these speakers' utterances for training.
        exclude_speakers: leave out these speakers' utterances in training.
        perturbations: waveform perturbations of the training set.
        num_workers: processes that decode and perturb; 0 does it in the training process.
        cache_gigabytes: decoded training audio kept in memory, by each worker.
        seed: of shuffling and perturbations.
    """

    def __init__(
        self,
        *,
        train: Sequence[str] | str,
        dev: Sequence[str] | str = (),
        tokenizer: Tokenizer | None = None,
        batch_seconds: float = 160.0,
        num_buckets: int = 8,
        min_seconds: float = 0.1,
        max_seconds: float = 30.0,
        crop_seconds: float | None = None,
        speakers: Sequence[str] | str = (),
        exclude_speakers: Sequence[str] | str = (),
        perturbations: Sequence[Perturbation] = (),
        num_workers: int = 1,
        cache_gigabytes: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if crop_seconds is not None and tokenizer is not None:
            raise ValueError(f"`crop_seconds` must be none where there is text to learn, got {crop_seconds}.")
        self.batch_seconds, self.num_buckets, self.seed = batch_seconds, num_buckets, seed
        self.min_seconds, self.max_seconds, self.crop_seconds = min_seconds, max_seconds, crop_seconds
        self.perturbations, self.num_workers, self.cache_gigabytes = perturbations, num_workers, cache_gigabytes
        self.dev, self.tokenizer = _as_list(dev), tokenizer
        self.train_cuts = self._training_cuts(_as_list(train), _as_list(speakers), _as_list(exclude_speakers))
        if tokenizer is not None:
            _require_text(self.train_cuts, _as_list(train))
        if tokenizer is not None and tokenizer.vocab_size == 1:
            tokenizer.fit(cut.supervisions[0].text or "" for cut in self.train_cuts)
        self._resume: tuple[int, int] = (0, 0)

    def _training_cuts(
        self, manifests: Sequence[str], speakers: Sequence[str], exclude_speakers: Sequence[str]
    ) -> list[Any]:
        cuts = _read_all(manifests)
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
        """Audio that is trained on, before crops and perturbations."""
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
        dev_cuts = _read_all(self.dev)
        if self.dev and self.tokenizer is not None:
            _require_text(dev_cuts, self.dev)
        self.dev_set = SpeechDataset(
            dev_cuts, sample_rate_hz=rate, tokenizer=self.tokenizer, cache_bytes=self.cache_gigabytes * 1e9
        )

    def train_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[SpeechBatch] | list[Any]:
        return self._loader(self.dev_set, shuffle=False) if len(self.dev_set) else []

    def _loader(self, dataset: SpeechDataset, *, shuffle: bool) -> DataLoader[SpeechBatch]:
        assert self.trainer is not None
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
            _ErrorsAsItems(dataset) if self.num_workers else dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def on_before_batch_transfer(self, batch: SpeechBatch | AudioError, dataloader_idx: int) -> SpeechBatch:
        """Raises a worker's error in the training process."""
        if isinstance(batch, AudioError):
            raise batch
        return batch

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


class _ErrorsAsItems(Dataset[SpeechBatch | AudioError]):
    """Returns an `AudioError` instead of raising it: from a worker, torch would raise its whole traceback as text."""

    def __init__(self, dataset: SpeechDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draws: list[Draw]) -> SpeechBatch | AudioError:
        try:
            return self.dataset[draws]
        except AudioError as error:
            return error


def _as_list(names: Sequence[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _read_all(manifests: Sequence[str]) -> list[Any]:
    cuts: list[Any] = []
    for manifest in manifests:
        of_manifest = list(read_cuts(manifest))
        if not of_manifest:
            raise ValueError(f"{manifest}: holds no utterances")
        cuts += of_manifest
    return cuts


def _require_text(cuts: Sequence[Any], manifests: Sequence[str]) -> None:
    if not any(normalize_text(cut.supervisions[0].text or "") for cut in cuts):
        raise ValueError(f"{', '.join(manifests)}: no utterance has a `text` that is not empty")
