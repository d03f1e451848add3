"""`check_manifests` finds each kind of problem, names it, and is silent about sound data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechkit.data.check import Problem, Recipe, check_manifests, describe_manifest
from speechkit.data.manifest import Utterance
from speechkit.text import CharTokenizer

RATE = 8000


def write_audio(path: Path, seconds: float = 1.0, *, seed: int = 0, channels: int = 1, rate: int = RATE) -> Path:
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def write_manifest(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def problems_of(tmp_path: Path, *rows: dict[str, Any], recipe: Recipe | None = None) -> list[Problem]:
    return list(check_manifests([write_manifest(tmp_path / "m.jsonl", *rows)], recipe=recipe))


def the_problem(tmp_path: Path, *rows: dict[str, Any], recipe: Recipe | None = None) -> Problem:
    (problem,) = problems_of(tmp_path, *rows, recipe=recipe)
    assert Path(problem.path).name.partition("@")[0] == rows[0]["audio_filepath"]
    assert "\n" not in problem.reason
    return problem


@pytest.fixture
def recipe() -> Recipe:
    """Ten frames a second, letters a and b."""
    return Recipe(RATE, CharTokenizer("ab"), lambda num_samples: num_samples // (RATE // 10))


def test_sound_data_has_no_problems(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.flac", 2.0, seed=1)
    rows = [{"audio_filepath": "a.wav", "duration": 1.0, "text": "ab"}, {"audio_filepath": "b.flac", "text": "ba"}]
    assert problems_of(tmp_path, *rows, recipe=recipe) == []


def test_segments_of_a_long_file_have_no_problems(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 3.0)
    rows = [{"audio_filepath": "a.wav", "offset": offset, "duration": 1.0} for offset in (0.0, 1.0, 2.0)]
    assert problems_of(tmp_path, *rows) == []


def test_missing_file(tmp_path: Path) -> None:
    assert the_problem(tmp_path, {"audio_filepath": "none.wav"}).reason == "no such file"


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "0 bytes" in the_problem(tmp_path, {"audio_filepath": "a.wav"}).reason


def test_file_without_samples(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 0.0)
    assert "no samples" in the_problem(tmp_path, {"audio_filepath": "a.wav"}).reason


def test_corrupt_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio" * 100)
    problem = the_problem(tmp_path, {"audio_filepath": "a.wav"})
    assert problem.level == "error"
    assert "not readable as audio" in problem.reason


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_truncated_file(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, 4.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert the_problem(tmp_path, {"audio_filepath": name}).level == "error"


def test_samples_that_are_not_finite(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    assert "NaN" in the_problem(tmp_path, {"audio_filepath": "a.wav"}).reason


@pytest.mark.parametrize("declared", [0.8, 1.3])
def test_wrong_duration(tmp_path: Path, declared: float) -> None:
    write_audio(tmp_path / "a.wav")
    problem = the_problem(tmp_path, {"audio_filepath": "a.wav", "duration": declared})
    assert problem == Problem("error", str(tmp_path / "a.wav"), f"declares {declared:.3f} s, holds 1.000 s")


def test_rounded_duration_is_no_problem(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 1.234)
    assert problems_of(tmp_path, {"audio_filepath": "a.wav", "duration": 1.2}) == []


def test_segment_that_ends_behind_its_file(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    row = {"audio_filepath": "a.wav", "offset": 1.5, "duration": 1.0}
    assert "declares 1.000 s, holds 0.500 s" in the_problem(tmp_path, row).reason


def test_offset_past_the_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    assert "past its end" in the_problem(tmp_path, {"audio_filepath": "a.wav", "offset": 1.5}).reason


def test_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    assert the_problem(tmp_path, {"audio_filepath": "a.wav"}).reason == "is digital silence"


def test_channels_are_a_note(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", channels=2)
    problem = the_problem(tmp_path, {"audio_filepath": "a.wav"})
    assert (problem.level, problem.reason) == ("note", "2 channels, mixed down")


def test_another_sample_rate_is_a_note(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav", rate=11025)
    problem = the_problem(tmp_path, {"audio_filepath": "a.wav", "text": "ab"}, recipe=recipe)
    assert (problem.level, problem.reason) == ("note", "sample rate 11025 Hz, resampled to 8000 Hz")


def test_unknown_character(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav")
    problem = the_problem(tmp_path, {"audio_filepath": "a.wav", "text": "axb"}, recipe=recipe)
    assert problem.level == "error"
    assert "lacks the character(s) 'x'" in problem.reason


def test_missing_text(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav")
    assert the_problem(tmp_path, {"audio_filepath": "a.wav"}, recipe=recipe).reason == "has no `text`"


def test_text_is_not_asked_for_without_a_tokenizer(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav")
    pretraining = Recipe(RATE, None, recipe.output_lengths)
    assert problems_of(tmp_path, {"audio_filepath": "a.wav"}, recipe=pretraining) == []


@pytest.mark.parametrize(("text", "is_feasible"), [("ab" * 5, True), ("ab" * 5 + "a", False), ("aabbaab", True)])
def test_text_too_long_for_its_audio(tmp_path: Path, recipe: Recipe, text: str, is_feasible: bool) -> None:
    write_audio(tmp_path / "a.wav")
    problems = problems_of(tmp_path, {"audio_filepath": "a.wav", "text": text}, recipe=recipe)
    assert (problems == []) == is_feasible


def test_repeated_labels_need_a_frame_more(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav")
    problem = the_problem(tmp_path, {"audio_filepath": "a.wav", "text": "aabbaabb"}, recipe=recipe)
    assert "T' = 10 frames < U + repeats = 8 + 4" in problem.reason


def test_feasibility_is_that_of_the_segment(tmp_path: Path, recipe: Recipe) -> None:
    write_audio(tmp_path / "a.wav", 5.0)
    row = {"audio_filepath": "a.wav", "offset": 1.0, "duration": 0.5, "text": "ababab"}
    assert "T' = 5 frames" in the_problem(tmp_path, row, recipe=recipe).reason


def test_audio_in_two_manifests_is_found_by_content(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "copy of a.wav")
    write_audio(tmp_path / "b.wav", seed=1)
    train = write_manifest(tmp_path / "train.jsonl", {"audio_filepath": "a.wav"})
    test = write_manifest(tmp_path / "test.jsonl", {"audio_filepath": "copy of a.wav"}, {"audio_filepath": "b.wav"})
    (problem,) = check_manifests([train, test])
    assert problem == Problem("error", str(tmp_path / "copy of a.wav"), f"in {test}, is also in {train} (a.wav)")


def test_a_part_of_a_recording_that_another_manifest_has(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 3.0)
    whole = write_manifest(tmp_path / "train.jsonl", {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.0})
    parts = [{"audio_filepath": "a.wav", "offset": offset, "duration": 0.5} for offset in (0.0, 1.2, 1.5, 2.0)]
    part = write_manifest(tmp_path / "test.jsonl", *parts)
    (problem,) = check_manifests([whole, part])
    assert problem.path == f"{tmp_path / 'a.wav'}@1.2"
    assert f"in {part}, is also in {whole} (a.wav@0.5)" in problem.reason


def test_audio_twice_in_one_manifest_is_no_problem(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav")
    assert problems_of(tmp_path, {"audio_filepath": "a.wav"}, {"audio_filepath": "b.wav"}) == []


def test_other_segments_of_a_shared_file_are_no_problem(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    train = write_manifest(tmp_path / "train.jsonl", {"audio_filepath": "a.wav", "offset": 1.0})
    test = write_manifest(tmp_path / "test.jsonl", {"audio_filepath": "a.wav", "offset": 0.5, "duration": 0.5})
    assert list(check_manifests([train, test])) == []


def test_a_recording_is_read_once_for_all_its_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    rows = [{"audio_filepath": "a.wav", "offset": offset, "duration": 0.5} for offset in (0.0, 0.5, 1.0)]
    train, test = (write_manifest(tmp_path / f"{name}.jsonl", *rows) for name in ("train", "test"))
    digested: list[Path] = []
    monkeypatch.setattr("speechkit.data.check._digest", lambda path: str(digested.append(path)))
    assert len(list(check_manifests([train, test]))) == 3
    assert digested == [tmp_path / "a.wav"]


def test_empty_manifest(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path)
    assert problem.reason == "the manifest holds no utterances"


def test_unreadable_manifest_is_refused_before_any_audio(tmp_path: Path) -> None:
    good = write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "none.wav"})
    with pytest.raises(ValueError, match="no such manifest"):
        next(check_manifests([good, str(tmp_path / "none.jsonl")]))


def test_progress_is_told_for_each_utterance(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    manifest = write_manifest(tmp_path / "m.jsonl", {"audio_filepath": "a.wav"}, {"audio_filepath": "none.wav"})
    steps: list[int] = []
    list(check_manifests([manifest], on_progress=lambda: steps.append(1)))
    assert len(steps) == 2


def test_output_lengths_are_asked_in_samples_of_the_recipe(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", rate=16000)
    asked: list[int] = []

    def output_lengths(num_samples: torch.Tensor) -> torch.Tensor:
        asked.append(int(num_samples))
        return num_samples

    problems_of(
        tmp_path, {"audio_filepath": "a.wav", "text": "a"}, recipe=Recipe(RATE, CharTokenizer("a"), output_lengths)
    )
    assert asked == [RATE]


def test_a_manifest_in_a_line() -> None:
    utterances = [Utterance(Path("a.wav"), 1800.0, "one", "ann"), Utterance(Path("b.wav"), 900.0, None, "bob")]
    assert describe_manifest(utterances) == "2 utterances, 1 with text, 0.75 h, 900.0 to 1800.0 s, 2 speakers"
    unknown = describe_manifest([Utterance(Path("a.wav"))])
    assert unknown == "1 utterances, 0 with text, 1 without a duration, no speakers named"
