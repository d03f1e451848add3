"""What a development set decides: the temperature of confidences, and how much a language model counts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.decoding import train_kneser_ney, write_arpa
from speechkit.pipelines import tune_lm as tuning
from speechkit.pipelines.calibrate import calibrate
from speechkit.pipelines.tune_lm import Trial, Tuning, tune_lm

RATE = 8000


@pytest.fixture
def manifest(say: Callable[..., np.ndarray], tmp_path: Path) -> Path:
    """Twenty recordings of "low high low"; in every other one a noise hides the tone in the middle."""
    rows = []
    for place in range(20):
        samples = say([0.3, "low", 0.1, "high", 0.1, "low", 0.3], seed=place)
        if place % 2:
            middle = slice(round(0.6 * RATE), round(0.8 * RATE))
            samples[middle] = 0.02 * np.random.default_rng(place).standard_normal(middle.stop - middle.start)
        soundfile.write(tmp_path / f"{place}.wav", samples, RATE)
        rows.append({"audio_filepath": f"{place}.wav", "text": "low high low"})
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "dev.jsonl"


def test_confidences_come_closer_to_the_truth(recognizer: Recognizer, manifest: Path) -> None:
    found = calibrate(recognizer, manifest)
    assert found.num_words >= 40
    assert 0 < found.num_right <= found.num_words
    assert found.error_after <= found.error_before + 1e-3
    assert recognizer.temperature == 1.0


def test_words_that_are_all_right_tell_no_temperature(recognizer: Recognizer, manifest: Path) -> None:
    rows = manifest.read_text().splitlines()[::2]  # those without noise
    manifest.write_text("\n".join(rows))
    with pytest.raises(ValueError, match="heard right and others wrong, got 30 words, all of them right, in it"):
        calibrate(recognizer, manifest)


def test_a_language_model_fills_in_what_is_not_heard(recognizer: Recognizer, manifest: Path) -> None:
    model = train_kneser_ney(["low high low"] * 5, order=3)
    trials = []
    found = tune_lm(recognizer, model, manifest, weights=(0.0, 3.0), bonuses=(0.0, 2.0), on_trial=trials.append)
    assert found.trials == trials
    assert len(trials) >= 4
    assert found.greedy > 0.1
    assert found.best.error_rate < found.greedy
    assert found.best.error_rate == min(trial.error_rate for trial in trials)
    of_characters = tune_lm(recognizer, model, manifest, rate="cer", weights=(0.0, 3.0), bonuses=(0.0, 2.0))
    assert of_characters.greedy != found.greedy
    assert of_characters.best.error_rate < of_characters.greedy
    with pytest.raises(ValueError, match="`rate` must be one of wer, cer, got 'per'"):
        tune_lm(recognizer, model, manifest, rate="per")


@pytest.mark.parametrize("texts", [[], ["...", ""]], ids=["empty", "no words"])
def test_nothing_to_tune_on(texts: list[str], recognizer: Recognizer, manifest: Path, tmp_path: Path) -> None:
    wordless = tmp_path / "wordless.jsonl"
    wordless.write_text("".join(json.dumps({"audio_filepath": "0.wav", "text": text}) + "\n" for text in texts))
    with pytest.raises(ValueError, match=r"wordless\.jsonl: must hold an utterance whose `text` has words, got none"):
        tune_lm(recognizer, train_kneser_ney(["low high"] * 5, order=2), wordless)


def test_a_language_model_that_harms_is_not_written(
    recognizer: Recognizer,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_arpa(train_kneser_ney(["high"] * 5, order=2), tmp_path / "lm.arpa")
    monkeypatch.setattr(Recognizer, "load", lambda *arguments, **options: recognizer)
    monkeypatch.setattr(tuning, "tune_lm", lambda *arguments, **options: Tuning(0.0, [Trial(0.5, 0.0, 0.1)]))
    before = sorted(tmp_path.iterdir())
    assert main(["lm", "tune", str(tmp_path), str(manifest), "--lm", str(tmp_path / "lm.arpa")]) == 1
    assert f"nothing is written into {tmp_path}: it does better greedily" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_tuned_on(recognizer: Recognizer, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "textless.jsonl").write_text('{"audio_filepath": "0.wav"}\n')
    (tmp_path / "gone.jsonl").write_text('{"audio_filepath": "gone.wav", "text": "low"}\n')
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "silent.jsonl").write_text('{"audio_filepath": "silent.wav", "text": "low"}\n')
    for name, message in (("textless", "no `text`"), ("gone", "no such file"), ("silent", "got no word")):
        with pytest.raises(ValueError, match=message):
            calibrate(recognizer, tmp_path / f"{name}.jsonl")
