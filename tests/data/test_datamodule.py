"""SpeechDataModule: which manifests it refuses, and what reaches the user from a worker."""

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechkit.audio import AudioError
from speechkit.data.archive_writer import write_archive
from speechkit.data.datamodule import SpeechDataModule
from speechkit.text import CharTokenizer

RATE = 8000


def write_manifest(path: Path, *texts: str | None) -> str:
    rows = []
    for place, text in enumerate(texts):
        name = f"{path.stem}{place}.wav"
        soundfile.write(path.parent / name, np.full(RATE, 0.1), RATE)
        row = {"audio_filepath": name, "speaker": f"s{place}"}
        rows.append(row if text is None else {**row, "text": text})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def attach(data: SpeechDataModule) -> SpeechDataModule:
    """As a Trainer on one CPU would."""
    task = SimpleNamespace(front_end=SimpleNamespace(sample_rate_hz=RATE))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(lightning_module=task, strategy=strategy, world_size=1, global_rank=0)
    data.trainer = trainer
    data.setup("fit")
    return data


def test_a_string_is_a_list_of_one(tmp_path: Path) -> None:
    train, dev = (write_manifest(tmp_path / f"{name}.jsonl", "a", "b") for name in ("train", "dev"))
    data = attach(SpeechDataModule(train=train, dev=dev, speakers="s1", tokenizer=CharTokenizer("ab")))
    assert [cut.id for cut in data.train_cuts] == ["train1.wav"]
    assert len(data.dev_set) == 2
    assert data.describe_training() == "0.00 h, 1 utterances"


@pytest.mark.parametrize("tokenizer", [None, CharTokenizer("ab")])
def test_empty_dev_manifest_is_named(tmp_path: Path, tokenizer: CharTokenizer | None) -> None:
    train, dev = write_manifest(tmp_path / "train.jsonl", "a"), write_manifest(tmp_path / "dev.jsonl")
    with pytest.raises(ValueError, match=r"dev\.jsonl: holds no utterances"):
        attach(SpeechDataModule(train=[train], dev=[dev], tokenizer=tokenizer))


def test_dev_manifest_without_words_is_named(tmp_path: Path) -> None:
    train, dev = write_manifest(tmp_path / "train.jsonl", "a"), write_manifest(tmp_path / "dev.jsonl", "", " ")
    with pytest.raises(ValueError, match=r"dev\.jsonl: no utterance has a `text`"):
        attach(SpeechDataModule(train=[train], dev=[dev], tokenizer=CharTokenizer()))


@pytest.mark.parametrize("text", [None, ""])
def test_training_manifests_without_words_are_named(tmp_path: Path, text: str | None) -> None:
    manifests = [write_manifest(tmp_path / f"{name}.jsonl", text) for name in "xy"]
    with pytest.raises(ValueError, match=r"x\.jsonl, .*y\.jsonl: no utterance has a `text`"):
        SpeechDataModule(train=manifests, tokenizer=CharTokenizer())


def test_some_texts_may_be_empty(tmp_path: Path) -> None:
    manifests = [write_manifest(tmp_path / f"{text}.jsonl", text) for text in ("", "a")]
    assert len(attach(SpeechDataModule(train=manifests, tokenizer=CharTokenizer())).train_set) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_error_of_a_worker_is_one_line(tmp_path: Path, num_workers: int) -> None:
    train = write_manifest(tmp_path / "train.jsonl", "a")
    data = attach(SpeechDataModule(train=train, tokenizer=CharTokenizer(), num_workers=num_workers))
    (tmp_path / "train0.wav").unlink()
    with pytest.raises(AudioError) as caught:
        data.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert str(caught.value) == f"{tmp_path / 'train0.wav'}: no such file"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_archive_is_trained_on_as_its_manifest_is(tmp_path: Path, num_workers: int) -> None:
    train = write_manifest(tmp_path / "train.jsonl", "a", "b", "ab", "", "aa")
    assert list(write_archive([train], tmp_path / "archive", shard_utterances=2)) == []
    options: Any = {"tokenizer": CharTokenizer(), "batch_seconds": 2.0, "num_workers": num_workers}
    archive, manifest = (
        attach(SpeechDataModule(train=source, **options)) for source in (str(tmp_path / "archive"), train)
    )
    assert archive.tokenizer.symbols == manifest.tokenizer.symbols
    assert archive.describe_training() == "0.00 h, 5 utterances"
    batches = [list(data.train_dataloader()) for data in (archive, manifest)]
    one, other = (sorted(chain(*(zip(each.ids, each.texts, strict=True) for each in of_one))) for of_one in batches)
    assert one == other
    assert len(one) == 5
    plain = next(archive.plain_batches(RATE, batch_seconds=60.0))
    assert plain.lengths.tolist() == [RATE] * 5
    assert plain.targets.numel() == 0


def test_archives_and_manifests_are_not_mixed(tmp_path: Path) -> None:
    train = write_manifest(tmp_path / "train.jsonl", "a")
    archive = str(tmp_path / "archive")
    list(write_archive([train], archive))
    with pytest.raises(ValueError, match="`train` must be manifests or archives, got both"):
        SpeechDataModule(train=[train, archive])
    with pytest.raises(ValueError, match="`speakers` and `exclude_speakers` must be empty with archives"):
        SpeechDataModule(train=archive, exclude_speakers="s0")
    with pytest.raises(ValueError, match="only `train` can be an archive"):
        attach(SpeechDataModule(train=train, dev=archive))
    with pytest.raises(ValueError, match=f"{tmp_path}: is no archive"):
        SpeechDataModule(train=str(tmp_path))
    with pytest.raises(ValueError, match="must leave an utterance"):
        attach(SpeechDataModule(train=archive, max_seconds=0.5)).train_dataloader()
