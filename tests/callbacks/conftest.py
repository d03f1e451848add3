"""A tiny corpus with text, and one without."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def corpora(make_tone: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with train.jsonl and unlabelled.jsonl, so uneven that batches of one and of three occur."""
    for name, durations in (("train", [0.5, 0.6, 0.8, 1.1, 1.3, 2.0]), ("unlabelled", [0.7, 0.8, 0.9, 1.0, 2.4])):
        rows = []
        for place, seconds in enumerate(durations):
            hz = (200 if name == "train" else 350) + 150 * place
            audio = make_tone(f"{name}{place}.wav", hz=hz, seconds=seconds, rate=8000, seed=place)
            row = {"audio_filepath": audio.name, "duration": seconds, "speaker": f"{name}{place % 2}"}
            rows.append({**row, "text": "ab" * (place % 3) + "c"} if name == "train" else row)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path
