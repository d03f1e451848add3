"""The model in the wheel: small, named, and at work without torch and without being asked for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.data.espeak import Voice, speak
from speechkit.decoding import BeamSearch
from speechkit.models import DIGITS

TRANSCRIBE = """
import sys

for name in ("torch", "lightning", "numba", "scipy", "librosa", "lhotse", "onnx", *sys.argv[2:]):
    sys.modules[name] = None  # as if it were not installed
from speechkit.cli.main import main

sys.exit(main(["transcribe", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A string of digits by a synthetic voice, with pauses."""
    path = tmp_path_factory.mktemp("spoken") / "digits.wav"
    (samples,), rate = speak(["three, one, four, one, five"], Voice("en-us", "m3", 140.0, 50.0, 50.0))
    soundfile.write(path, samples, rate)
    return path


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(file.stat().st_size for file in DIGITS.iterdir()) < 1_000_000
    text = (DIGITS / "card.md").read_text(encoding="utf-8")
    assert "Free\n  Spoken Digit Dataset" in text
    assert "CC BY-SA 4.0" in text


def test_transcribe_takes_it_by_itself(spoken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", str(spoken)]) == 0
    printed = capsys.readouterr()
    assert "three one four one five" in printed.out
    assert "model: digits" in printed.err


@pytest.mark.parametrize("missing", [[], ["onnxruntime"]])
def test_it_needs_no_torch(spoken: Path, missing: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRANSCRIBE, str(spoken), *missing], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "three one four one five" in done.stdout


def test_a_language_model_can_be_put_into_it(spoken: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(DIGITS, tmp_path / "bundle")
    (tmp_path / "dev.jsonl").write_text(f'{{"audio_filepath": "{spoken}", "text": "three one four one five"}}\n')
    (tmp_path / "text.txt").write_text("three one four one five\nnine two six\nzero seven eight\n")
    assert main(["lm", "train", str(tmp_path / "text.txt"), "-o", str(tmp_path / "lm.arpa")]) == 0
    assert main(["lm", "tune", str(bundle), str(tmp_path / "dev.jsonl"), "--lm", str(tmp_path / "lm.arpa")]) == 0
    recognizer = Recognizer.load(bundle)
    assert isinstance(recognizer.decoder, BeamSearch)
    assert recognizer.transcribe([spoken])[0].text == "three one four one five"
    assert main(["lm", "tune", str(bundle), str(tmp_path / "dev.jsonl"), "--dry-run"]) == 0  # with its own
