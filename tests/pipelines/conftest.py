"""A tiny corpus of tones, so that whole jobs run in seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = Path(__file__).with_name("small.yaml")


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
