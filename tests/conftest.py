"""Fixtures shared by all tests: the recordings, tones, and a tiny corpus of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

os.environ.setdefault("SPEECHKIT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def same_random_tensors() -> None:
    """Random tensors of a test are the same in every run, whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def recordings() -> Path:
    """The folder of real recordings; the test is skipped where it is absent."""
    folder = Path(os.environ["SPEECHKIT_DATA"])
    if not (folder / "README.md").exists():
        pytest.skip(f"no recordings at SPEECHKIT_DATA={folder}")
    return folder


@pytest.fixture
def make_tone(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tone with a little noise and returns its path."""

    def make(name: str, *, hz: float = 440.0, seconds: float = 1.0, rate: int = 16000, seed: int = 0) -> Path:
        time = np.arange(int(seconds * rate)) / rate
        noise = np.random.default_rng(seed).normal(0.0, 0.003, len(time))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * time) + noise, rate)
        return path

    return make


@pytest.fixture
def corpus(make_tone: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with train.jsonl, dev.jsonl and unlabelled.jsonl: "a" is a low tone, "b" a high one."""
    folder = tmp_path / "corpus"
    for name, count in (("train", 12), ("dev", 3), ("unlabelled", 6)):
        rows = []
        for place in range(count):
            hz, text = ((300, "a"), (1500, "b"))[place % 2]
            seconds = 0.5 + 0.1 * (place % 5)
            audio = make_tone(f"corpus/{name}{place}.wav", hz=hz, seconds=seconds, rate=8000, seed=place)
            row = {"audio_filepath": audio.name, "duration": seconds, "speaker": f"s{place % 3}"}
            rows.append(row if name == "unlabelled" else {**row, "text": text})
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    monkeypatch.setenv("SPEECHKIT_TEST", str(folder))
    return folder
