"""The synthetic corpus: same bytes for the same arguments, honest splits, manifests that tell the truth."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.data.espeak import ACCENTS, Voice, speak, usable_variants
from speechkit.data.synthetic import DIGITS, SPLITS, degrade, plan_voices, synthesize_corpus

SMALL = {
    "num_voices": 12,
    "num_labelled_voices": 3,
    "labelled_minutes": 0.2,
    "unlabelled_minutes": 0.4,
    "dev_minutes": 0.1,
    "test_minutes": 0.2,
    "progress": False,
}
EMPTY = SMALL | {f"{name}_minutes": 0 for name in ("labelled", "unlabelled", "dev", "test")}


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("corpus")
    synthesize_corpus(out_dir, **SMALL, num_workers=1)
    return out_dir


def read_rows(out_dir: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (out_dir / f"{split}.jsonl").read_text().splitlines()]


def read_all_bytes(out_dir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out_dir)): p.read_bytes() for p in out_dir.rglob("*") if p.is_file()}


def test_same_bytes_with_other_workers_and_other_bytes_with_another_seed(corpus_dir, tmp_path):
    synthesize_corpus(tmp_path / "same", **SMALL, num_workers=2)
    assert read_all_bytes(tmp_path / "same") == read_all_bytes(corpus_dir)
    synthesize_corpus(tmp_path / "other", **SMALL, num_workers=1, seed=1)
    assert (tmp_path / "other" / "train.jsonl").read_text() != (corpus_dir / "train.jsonl").read_text()


def test_manifests_describe_the_audio(corpus_dir):
    listed = set()
    for split in SPLITS:
        for row in read_rows(corpus_dir, split):
            audio, sample_rate_hz = soundfile.read(corpus_dir / row["audio_filepath"])
            assert sample_rate_hz == 16000
            assert audio.ndim == 1
            assert row["duration"] == round(len(audio) / 16000, 3)
            assert 0.01 < np.abs(audio).max() < 1
            assert row["speaker"] == Path(row["audio_filepath"]).parent.name
            listed.add(corpus_dir / row["audio_filepath"])
    assert listed == set(corpus_dir.rglob("*.flac"))


def test_texts_are_digits_and_unlabelled_rows_have_none(corpus_dir):
    for split in ("train", "dev", "test"):
        for row in read_rows(corpus_dir, split):
            words = row["text"].split(" ")
            assert 3 <= len(words) <= 8
            assert set(words) <= set(DIGITS)
            assert 0.2 * len(words) < row["duration"] < 1 + len(words)
    assert all("text" not in row for row in read_rows(corpus_dir, "unlabelled"))


def test_summary_agrees_with_the_manifests(corpus_dir):
    corpus = json.loads((corpus_dir / "corpus.json").read_text())
    for split, minutes in zip(SPLITS, (0.2, 0.4, 0.1, 0.2), strict=True):
        rows = read_rows(corpus_dir, split)
        seconds = [row["duration"] for row in rows]
        assert minutes <= sum(seconds) / 60 < minutes + max(seconds) / 60
        assert corpus["splits"][split]["utterances"] == len(rows)
        assert corpus["splits"][split]["speakers"] == sorted({row["speaker"] for row in rows})
    assert str(corpus_dir) not in (corpus_dir / "corpus.json").read_text()


def test_progress_ends_at_the_total_though_the_split_runs_over(tmp_path, capsys):
    synthesize_corpus(tmp_path / "hidden", **EMPTY | {"dev_minutes": 0.03, "progress": None}, num_workers=1)
    assert capsys.readouterr().err == ""  # it is not a terminal
    synthesize_corpus(tmp_path / "shown", **EMPTY | {"dev_minutes": 0.03, "progress": True}, num_workers=1)
    assert "dev: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("num_voices", [3, 72, 300])
def test_splits_share_neither_speaker_nor_variant(num_voices):
    voices = plan_voices(num_voices, num_labelled_voices=1, seed=0)
    assert voices["train"] == voices["unlabelled"][:1]
    parts = [voices[split] for split in ("unlabelled", "dev", "test")]
    speakers = [voice.speaker.casefold() for part in parts for voice in part]
    assert len(set(speakers)) == num_voices
    variants = [{voice.variant for voice in part} for part in parts]
    assert sum(map(len, variants)) == len(set.union(*variants))
    if num_voices >= 60:
        assert [len(part) / num_voices for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_every_accent_and_variant_combination_is_available():
    most = len(ACCENTS) * len(usable_variants())
    assert most >= 600
    voices = plan_voices(most, num_labelled_voices=None, seed=0)
    assert voices["train"] == voices["unlabelled"]
    with pytest.raises(ValueError, match=f"`num_voices` must be between 3 and {most}, got {most + 1}"):
        plan_voices(most + 1, num_labelled_voices=None, seed=0)


@pytest.mark.parametrize("variant", ["m1", "f3", "whisper", "klatt3", "grandpa"])
def test_speech_does_not_depend_on_what_was_spoken_before(variant):
    voice = Voice("en-us", variant, rate_wpm=170, pitch=50, pitch_range=50)
    (first,), sample_rate_hz = speak(["one two three"], voice)
    speak(["nine nine nine"], replace(voice, accent="en", variant="f1", rate_wpm=140))
    (second,), _ = speak(["one two three"], voice)
    assert np.array_equal(first, second)
    assert 0.4 < len(first) / sample_rate_hz < 2


def test_every_variant_speaks_and_none_clips():
    for variant in usable_variants():
        (waveform,), sample_rate_hz = speak(["seven"], Voice("en-gb-x-rp", variant, 170, 50, 50))
        assert 0.15 < len(waveform) / sample_rate_hz < 1
        assert 0.01 < np.abs(waveform).max() < 0.99


def test_degrade_sets_the_signal_to_noise_ratio():
    speech = np.concatenate([np.zeros(8000), np.sin(np.arange(16000)), np.zeros(8000)])
    noisy = degrade(speech, np.random.default_rng(0), snr_db=10, level_db=-30)
    noise_power = np.mean(np.concatenate([noisy[:8000], noisy[-8000:]]) ** 2)
    speech_power = np.mean(noisy[8000:24000] ** 2) - noise_power
    assert 10 * np.log10(speech_power / noise_power) == pytest.approx(10, abs=1)
    assert 10 * np.log10(speech_power) == pytest.approx(-30, abs=0.5)


def test_earlier_corpus_is_kept_unless_overwrite(tmp_path):
    synthesize_corpus(tmp_path, **(EMPTY | {"dev_minutes": 0.05}), num_workers=1)
    before = read_all_bytes(tmp_path)
    with pytest.raises(ValueError, match="`out_dir` must not hold a corpus"):
        synthesize_corpus(tmp_path, **EMPTY, num_workers=1)
    assert read_all_bytes(tmp_path) == before
    synthesize_corpus(tmp_path, **EMPTY, num_workers=1, overwrite=True)
    assert not list(tmp_path.rglob("*.flac"))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_voices", 2),
        ("num_labelled_voices", 10),
        ("num_labelled_voices", 0),
        ("labelled_minutes", -1),
        ("test_minutes", -0.5),
        ("digits_per_utterance", (0, 3)),
        ("digits_per_utterance", (5, 3)),
        ("snr_db", (30, 10)),
        ("sample_rate_hz", 0),
        ("seed", -1),
        ("num_workers", 0),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_written(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must"):
        synthesize_corpus(tmp_path, **(EMPTY | {argument: value}))
    assert not list(tmp_path.iterdir())


def test_no_minutes_give_empty_manifests(tmp_path):
    synthesize_corpus(tmp_path / "new" / "folder", **EMPTY, num_workers=1)
    assert all(read_rows(tmp_path / "new" / "folder", split) == [] for split in SPLITS)


def test_missing_espeak_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install speechkit\[demo\]"):
        synthesize_corpus(tmp_path, **EMPTY)
