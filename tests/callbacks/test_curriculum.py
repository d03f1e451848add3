"""The first epochs go from short to long; the utterances of a batch stay together."""

from pathlib import Path

import lightning
import numpy as np
import pytest

from speechkit.callbacks import Curriculum
from speechkit.data.archive_writer import write_archive
from speechkit.data.datamodule import SpeechDataModule
from speechkit.data.sampler import BucketBatchSampler

DURATIONS = np.random.default_rng(0).uniform(0.5, 4.0, size=40)


def sampler(sorted_epochs: int, **share: int) -> BucketBatchSampler:
    return BucketBatchSampler(DURATIONS, batch_seconds=8.0, num_buckets=4, sorted_epochs=sorted_epochs, **share)


def test_sorted_epochs_have_the_same_batches_in_another_order() -> None:
    for epoch in (0, 1):
        batches, plain = sampler(2).joined_batches(epoch), sampler(0).joined_batches(epoch)
        longest = [DURATIONS[batch].max() for batch in batches]
        assert longest == sorted(longest)
        assert longest != [DURATIONS[batch].max() for batch in plain]
        assert {tuple(batch) for batch in batches} == {tuple(batch) for batch in plain}


def test_later_epochs_are_what_they_were() -> None:
    pairs = zip(sampler(2).joined_batches(2), sampler(0).joined_batches(2), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def test_ranks_share_the_sorted_batches_and_a_resume_goes_on_among_them() -> None:
    alone = [sorted(draw.index for draw in draws) for draws in sampler(1)]
    ranks = [list(sampler(1, rank=rank, world_size=2)) for rank in range(2)]
    for whole, *shares in zip(alone, *ranks, strict=True):
        assert sorted(draw.index for share in shares for draw in share if draw.weight) == whole
    resumed = sampler(1)
    resumed.resume(0, 3)
    assert [sorted(draw.index for draw in draws) for draws in resumed] == alone[3:]


def test_it_reaches_the_sampler_of_the_training_set(corpus: Path) -> None:
    data, callback = SpeechDataModule(train=str(corpus / "train.jsonl")), Curriculum(epochs=3)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = data
    callback.setup(trainer, lightning.LightningModule(), "fit")
    assert data.sorted_epochs == 3
    callback.teardown(trainer, lightning.LightningModule(), "fit")
    assert data.sorted_epochs == 0


def test_what_is_wrong_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`epochs` must be at least 1"):
        Curriculum(epochs=0)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    list(write_archive([corpus / "train.jsonl"], tmp_path / "archive"))
    for data in (None, SpeechDataModule(train=str(tmp_path / "archive"))):
        trainer.datamodule = data
        with pytest.raises(ValueError, match="SpeechDataModule of manifests"):
            Curriculum().setup(trainer, lightning.LightningModule(), "fit")
