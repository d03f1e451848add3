"""Manifests or archives -> loaders for a Lightning trainer, resumable in mid-epoch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning
from torch.utils.data import DataLoader

from speechkit.audio import Perturbation
from speechkit.data.archive import ArchivedCuts
from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.joining import UtteranceJoining
from speechkit.data.manifest import expand_path, read_cuts
from speechkit.data.sampler import ArchiveBatchSampler, BucketBatchSampler, JoinedBatchSampler
from speechkit.data.worker import ErrorsAsItems, leave_signals_to_training
from speechkit.text import Tokenizer, normalize_text


class SpeechDataModule(lightning.LightningDataModule):
    """Training and development sets.

    The sample rate is that of the task's front end. Batches are stated in seconds of audio over all devices together.

    Args:
        train: a manifest or several, or the folder of an archive or several (`speechkit data shard` writes them);
            `$NAME` in a path is an environment variable.
        dev: a manifest or several that choose the best checkpoint; none means that the last one is kept.
        tokenizer: text -> labels; an unfitted one takes its vocabulary from the training texts. None for pretraining.
        batch_seconds: audio in a batch over all devices, padding included.
        num_buckets: classes of duration; more means less padding and less mixing.
        shuffle_shards: of archives, how many shards are mixed with each other at a time.
        min_seconds: shorter utterances are left out of training.
        max_seconds: longer ones too.
        crop_seconds: longer utterances are cut to a random span of this length; only without a tokenizer.
        speakers: use only these speakers' utterances for training.
        exclude_speakers: leave out these speakers' utterances in training.
        perturbations: waveform perturbations of the training set.
        joining: joins utterances of the training set to longer ones, which then exceed `batch_seconds` in proportion.
        num_workers: processes that decode and perturb; 0 does it in the training process.
        cache_gigabytes: decoded audio kept in memory, by each worker; none of archives.
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
        shuffle_shards: int = 64,
        min_seconds: float = 0.1,
        max_seconds: float = 30.0,
        crop_seconds: float | None = None,
        speakers: Sequence[str] | str = (),
        exclude_speakers: Sequence[str] | str = (),
        perturbations: Sequence[Perturbation] = (),
        joining: UtteranceJoining | None = None,
        num_workers: int = 1,
        cache_gigabytes: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if crop_seconds is not None and tokenizer is not None:
            raise ValueError(f"`crop_seconds` must be none where there is text to learn, got {crop_seconds}.")
        self.batch_seconds, self.num_buckets, self.seed = batch_seconds, num_buckets, seed
        self.shuffle_shards = shuffle_shards
        self.min_seconds, self.max_seconds, self.crop_seconds = min_seconds, max_seconds, crop_seconds
        self.perturbations, self.num_workers, self.cache_gigabytes = perturbations, num_workers, cache_gigabytes
        self.joining = joining
        self.dev, self.tokenizer = _as_list(dev), tokenizer
        self.train_cuts: Sequence[Any] = self._training_cuts(
            _as_list(train), _as_list(speakers), _as_list(exclude_speakers)
        )
        if tokenizer is not None:
            _require_text(self.training_texts(), _as_list(train))
        if tokenizer is not None and tokenizer.vocab_size == 1:
            tokenizer.fit(text or "" for text in self.training_texts())
        self.sorted_epochs = 0  # set by the Curriculum callback: epochs at first that go from short to long
        self._resume: tuple[int, int] = (0, 0)

    def _training_cuts(
        self, sources: Sequence[str], speakers: Sequence[str], exclude_speakers: Sequence[str]
    ) -> Sequence[Any]:
        folders = [source for source in sources if expand_path(source).is_dir()]
        if folders:
            if len(folders) < len(sources):
                raise ValueError(f"`train` must be manifests or archives, got both: {', '.join(sources)}.")
            if speakers or exclude_speakers:
                raise ValueError(
                    "`speakers` and `exclude_speakers` must be empty with archives: choose before sharding."
                )
            return ArchivedCuts(folders, cached_shards=self.shuffle_shards + 16)
        cuts = _read_all(sources)
        kept = [
            cut
            for cut in cuts
            if self.min_seconds <= cut.duration
            and (cut.duration <= self.max_seconds or self.crop_seconds is not None)
            and (not speakers or cut.supervisions[0].speaker in speakers)
            and cut.supervisions[0].speaker not in exclude_speakers
        ]
        if not kept:
            longest = max((cut.duration for cut in cuts), default=0.0)
            raise ValueError(
                f"`train` must leave at least one utterance, got none of {len(cuts)} in {list(sources)}: `min_seconds` "
                f"is {self.min_seconds:g}, `max_seconds` {self.max_seconds:g}, the longest has {longest:g} s"
                f"{' and speakers are left out' if speakers or exclude_speakers else ''}."
            )
        return kept

    def training_texts(self) -> Iterator[str | None]:
        """Texts of the training utterances, as they stand in the manifests."""
        if isinstance(self.train_cuts, ArchivedCuts):
            return self.train_cuts.texts()
        return (cut.supervisions[0].text for cut in self.train_cuts)

    @property
    def is_archived(self) -> bool:
        """Whether the training set is read from archives."""
        return isinstance(self.train_cuts, ArchivedCuts)

    @property
    def fitted_tokenizer(self) -> Tokenizer | None:
        """The tokenizer after it has seen the training texts: what the task is linked to."""
        return self.tokenizer

    def describe_training(self) -> str:
        """How much is trained on, before crops and perturbations."""
        if isinstance(self.train_cuts, ArchivedCuts):
            sampler = self._archive_sampler(batch_seconds=self.batch_seconds)
            return f"{sampler.seconds / 3600:.2f} h, {sampler.num_utterances} utterances"
        seconds = sum(cut.duration for cut in self.train_cuts)
        return f"{seconds / 3600:.2f} h, {len(self.train_cuts)} utterances"

    def plain_batches(self, sample_rate_hz: int, *, batch_seconds: float) -> Iterator[SpeechBatch]:
        """Training audio as it is, without texts, perturbations or crops, the same for every rank: for statistics."""
        dataset = SpeechDataset(self.train_cuts, sample_rate_hz=sample_rate_hz)
        sampler: JoinedBatchSampler
        if isinstance(self.train_cuts, ArchivedCuts):
            sampler = self._archive_sampler(batch_seconds=batch_seconds)
        else:
            sampler = BucketBatchSampler(dataset.durations_seconds, batch_seconds=batch_seconds, seed=self.seed)
        return (dataset[draws] for draws in sampler)

    def _archive_sampler(self, **options: Any) -> ArchiveBatchSampler:
        return ArchiveBatchSampler(
            self.train_cuts,
            num_buckets=self.num_buckets,
            shuffle_shards=self.shuffle_shards,
            min_seconds=self.min_seconds,
            max_seconds=float("inf") if self.crop_seconds is not None else self.max_seconds,
            seed=self.seed,
            **options,
        )

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
            joining=self.joining,
            cache_bytes=0.0 if self.is_archived else self.cache_gigabytes * 1e9,
            seed=self.seed,
        )
        dev_cuts = _read_all(self.dev)
        if self.dev and self.tokenizer is not None:
            _require_text((cut.supervisions[0].text for cut in dev_cuts), self.dev)
        self.dev_set = SpeechDataset(
            dev_cuts, sample_rate_hz=rate, tokenizer=self.tokenizer, cache_bytes=self.cache_gigabytes * 1e9
        )

    def train_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[SpeechBatch] | list[Any]:
        return self._loader(self.dev_set, shuffle=False) if len(self.dev_set) else []

    def _loader(self, dataset: SpeechDataset, *, shuffle: bool) -> DataLoader[SpeechBatch]:
        assert self.trainer is not None
        share = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        sampler: JoinedBatchSampler
        if isinstance(dataset.cuts, ArchivedCuts):
            sampler = self._archive_sampler(batch_seconds=self.batch_seconds, crop_seconds=self.crop_seconds, **share)
        else:
            sampler = BucketBatchSampler(
                dataset.durations_seconds,
                batch_seconds=self.batch_seconds,
                num_buckets=self.num_buckets,
                shuffle=shuffle,
                sorted_epochs=self.sorted_epochs if shuffle else 0,
                seed=self.seed,
                **share,
            )
        if shuffle:
            sampler.resume(*self._resume)
        return DataLoader(
            ErrorsAsItems(dataset) if self.num_workers else dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_training,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def on_before_batch_transfer(self, batch: SpeechBatch | ValueError, dataloader_idx: int) -> SpeechBatch:
        """Raises a worker's error in the training process."""
        if isinstance(batch, ValueError):
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
        assert self.trainer is not None
        self.trainer.fit_loop._combined_loader = None  # sharding strategies restore late: what they have built is stale


def _as_list(names: Sequence[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _read_all(manifests: Sequence[str]) -> list[Any]:
    cuts: list[Any] = []
    for manifest in manifests:
        if expand_path(manifest).is_dir():
            raise ValueError(f"{manifest}: is a folder; only `train` can be an archive")
        of_manifest = list(read_cuts(manifest))
        if not of_manifest:
            raise ValueError(f"{manifest}: holds no utterances")
        cuts += of_manifest
    return cuts


def _require_text(texts: Iterable[str | None], manifests: Sequence[str]) -> None:
    if not any(normalize_text(text or "") for text in texts):
        raise ValueError(f"{', '.join(manifests)}: no utterance has a `text` that is not empty")
