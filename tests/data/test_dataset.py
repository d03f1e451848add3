"""Cuts -> batches: shapes, padding, what is drawn anew each epoch and what is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechkit.audio import AudioError, GainPerturbation, NoisePerturbation, SpeedPerturbation
from speechkit.data import Draw, SpeechBatch, SpeechDataset, read_cuts
from speechkit.text import CharTokenizer, WordTokenizer

RATE = 8000
SECONDS = (1.0, 0.5, 2.0)
TEXTS = ("ab", "", "abba")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for place, (seconds, text) in enumerate(zip(SECONDS, TEXTS, strict=True)):
        samples = 0.1 * np.random.default_rng(place).standard_normal(round(seconds * RATE))
        soundfile.write(tmp_path / f"{place}.wav", samples, RATE)
        rows.append({"audio_filepath": f"{place}.wav", "text": text, "speaker": f"s{place}"})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "m.jsonl"


@pytest.fixture
def make(manifest: Path) -> Callable[..., SpeechDataset]:
    return lambda **options: SpeechDataset(read_cuts(manifest), **{"sample_rate_hz": RATE, **options})


def draws(*indices: int, epoch: int = 0) -> list[Draw]:
    return [Draw(index, epoch, 1.0, 1 / len(indices)) for index in indices]


def assert_same(first: SpeechBatch, second: SpeechBatch) -> None:
    assert torch.equal(first.waveform, second.waveform)
    assert torch.equal(first.lengths, second.lengths)


def test_batch_is_padded_with_zeros(make: Callable[..., SpeechDataset]) -> None:
    batch = make(tokenizer=CharTokenizer("ab"))[draws(2, 0, 1)]
    assert batch.waveform.shape == (3, 2 * RATE)
    assert batch.lengths.tolist() == [2 * RATE, RATE, RATE // 2]
    assert batch.waveform[1, RATE:].abs().max() == batch.waveform[2, RATE // 2 :].abs().max() == 0
    assert batch.targets.tolist() == [[1, 2, 2, 1], [1, 2, 0, 0], [0, 0, 0, 0]]
    assert batch.target_lengths.tolist() == [4, 2, 0]


def test_batch_carries_what_callbacks_need(make: Callable[..., SpeechDataset]) -> None:
    batch = make()[[Draw(1, 0, 1.0, 0.5), Draw(0, 0, 0.0, 0.5)]]
    assert batch.ids == ["1.wav", "0.wav"]
    assert batch.texts == ["", "ab"]
    assert batch.speakers == ["s1", "s0"]
    assert batch.weights.tolist() == [1.0, 0.0]
    assert batch.loss_scale == 0.5


def test_without_a_tokenizer_targets_are_empty(make: Callable[..., SpeechDataset]) -> None:
    batch = make()[draws(0, 2)]
    assert batch.targets.shape == (2, 0)
    assert batch.target_lengths.tolist() == [0, 0]


def test_types(make: Callable[..., SpeechDataset]) -> None:
    batch = make(tokenizer=CharTokenizer("ab"))[draws(0)]
    assert (batch.waveform.dtype, batch.lengths.dtype) == (torch.float32, torch.int64)
    assert (batch.targets.dtype, batch.target_lengths.dtype) == (torch.int64, torch.int64)


def test_an_utterance_does_not_depend_on_its_batch(make: Callable[..., SpeechDataset]) -> None:
    dataset = make(perturbations=[SpeedPerturbation(), NoisePerturbation(probability=1.0)])
    alone, joined = dataset[draws(1)], dataset[draws(2, 1)]
    assert alone.lengths[0] == joined.lengths[1]
    assert torch.equal(alone.waveform[0], joined.waveform[1, : int(alone.lengths[0])])


def test_perturbation_is_the_same_within_an_epoch_and_anew_in_the_next(make: Callable[..., SpeechDataset]) -> None:
    options: dict[str, Any] = {"perturbations": [GainPerturbation()]}
    first = make(**options)[draws(0, 1)]
    assert_same(first, make(**options)[draws(0, 1)])
    for other in (make(**options)[draws(0, 1, epoch=1)], make(**options, seed=1)[draws(0, 1)]):
        assert not torch.equal(first.waveform, other.waveform)


def test_seed_belongs_to_utterance_and_epoch(make: Callable[..., SpeechDataset]) -> None:
    dataset = make()
    first, second, _ = dataset[draws(0, 1, 2)].seeds
    assert dataset[draws(1, 0)].seeds == [second, first]
    seeds = [first, second, *dataset[draws(0, epoch=1)].seeds, *make(seed=1)[draws(0)].seeds]
    assert len(set(seeds)) == 4


def test_crop_is_a_random_span_of_the_utterance(make: Callable[..., SpeechDataset]) -> None:
    dataset = make(crop_seconds=0.75)
    whole = make()[draws(2)].waveform[0]
    crops = [dataset[draws(2, epoch=epoch)] for epoch in range(5)]
    starts = [int((whole.unfold(0, 6000, 1) == crop.waveform).all(dim=1).nonzero()) for crop in crops]
    assert len(set(starts)) > 1
    assert_same(crops[0], dataset[draws(2)])


def test_crop_leaves_shorter_utterances_alone(make: Callable[..., SpeechDataset]) -> None:
    dataset = make(crop_seconds=0.75)
    assert dataset[draws(1)].lengths.tolist() == [RATE // 2]
    assert dataset.durations_seconds == [0.75, 0.5, 0.75]


def test_cache_gives_the_same_audio(make: Callable[..., SpeechDataset], manifest: Path) -> None:
    options: dict[str, Any] = {"perturbations": [GainPerturbation()], "crop_seconds": 0.75}
    cached, plain = make(**options, cache_bytes=1e9), make(**options)
    for epoch in range(3):
        assert_same(cached[draws(0, 2, epoch=epoch)], plain[draws(0, 2, epoch=epoch)])


def test_cache_holds_no_more_than_it_may(make: Callable[..., SpeechDataset], manifest: Path) -> None:
    dataset = make(cache_bytes=4 * RATE)
    dataset[draws(0)]
    dataset[draws(1)]
    for audio in manifest.parent.glob("*.wav"):
        audio.unlink()
    assert dataset[draws(0)].lengths.tolist() == [RATE]
    with pytest.raises(AudioError, match=r"1\.wav: no such file"):
        dataset[draws(1)]


def test_audio_is_resampled(make: Callable[..., SpeechDataset]) -> None:
    assert make(sample_rate_hz=16000)[draws(0)].lengths.tolist() == [16000]


def test_offset_and_duration_are_heeded(manifest: Path, make: Callable[..., SpeechDataset]) -> None:
    whole = make()[draws(2)].waveform[0]
    manifest.write_text(json.dumps({"audio_filepath": "2.wav", "offset": 0.5, "duration": 1.0}))
    assert torch.equal(make()[draws(0)].waveform[0], whole[RATE // 2 : RATE * 3 // 2])


def test_to_converts_tensors_and_keeps_the_rest(make: Callable[..., SpeechDataset]) -> None:
    batch = make(tokenizer=CharTokenizer("ab"))[draws(0, 1)]
    moved = batch.to("meta")
    tensors = (moved.waveform, moved.lengths, moved.targets, moved.target_lengths, moved.weights)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.ids, moved.texts, moved.loss_scale) == (batch.ids, batch.texts, batch.loss_scale)
    assert batch.waveform.device.type == "cpu"


def test_unknown_text_names_the_utterance(make: Callable[..., SpeechDataset]) -> None:
    with pytest.raises(ValueError, match=r"m\.jsonl: 2\.wav: the tokenizer lacks the word\(s\) 'abba'"):
        make(tokenizer=WordTokenizer(["ab"]))


def test_missing_text_names_the_utterance(manifest: Path, make: Callable[..., SpeechDataset]) -> None:
    manifest.write_text(json.dumps({"audio_filepath": "2.wav"}))
    with pytest.raises(ValueError, match=r"m\.jsonl: 2\.wav: has no `text`"):
        make(tokenizer=CharTokenizer("ab"))
