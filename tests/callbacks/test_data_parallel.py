"""Two processes take the step that one takes with the joined batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechkit.callbacks import DataParallel

JOB = Path(__file__).with_name("ddp_job.py")


@pytest.fixture
def manifest(make_tone, tmp_path: Path) -> Path:
    """Seven utterances of different lengths, so that batches of one and of three occur."""
    path = tmp_path / "train.jsonl"
    rows = []
    for place, seconds in enumerate([0.5, 0.6, 0.8, 1.1, 1.3, 2.0, 3.9]):
        audio = make_tone(f"{place}.wav", hz=200 + 150 * place, seconds=seconds, rate=8000, seed=place)
        rows.append({"audio_filepath": str(audio), "duration": seconds, "text": "ab" * (place % 3) + "c"})
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def gradients(manifest: Path, kind: str, out: Path, num_processes: int, compression: str = "none") -> dict:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    command = [
        sys.executable,
        *(launcher if num_processes > 1 else []),
        str(JOB),
        str(manifest),
        kind,
        compression,
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num_processes"), [("separable", 2), ("separable", 3), ("gru", 2)])
def test_processes_have_the_gradients_of_one(manifest: Path, kind: str, num_processes: int, tmp_path: Path) -> None:
    one = gradients(manifest, kind, tmp_path / "one.pt", 1)
    joined = gradients(manifest, kind, tmp_path / "joined.pt", num_processes)
    assert one["sizes"] == joined["sizes"]
    assert min(one["sizes"]) == 1  # a rank has nothing to do in that step
    assert any(size % 2 for size in one["sizes"] if size > 1)  # and here the shares are uneven
    assert len(one["steps"]) == len(joined["steps"]) == len(one["sizes"])
    for alone, together in zip(one["steps"], joined["steps"], strict=True):
        assert alone.keys() == together.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name], gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_compressed_gradients_are_close(manifest: Path, tmp_path: Path) -> None:
    one = gradients(manifest, "gru", tmp_path / "one.pt", 1)
    two = gradients(manifest, "gru", tmp_path / "two.pt", 2, compression="bf16")
    for alone, joined in zip(one["steps"], two["steps"], strict=True):
        for name, gradient in alone.items():
            difference = (joined[name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
            assert difference < 0.02, name
    factors = gradients(manifest, "gru", tmp_path / "factors.pt", 2, compression="powersgd")
    whole = [
        [torch.cat([value.flatten() for value in step.values()]) for step in run["steps"]] for run in (one, factors)
    ]
    similarity = [float(torch.cosine_similarity(*pair, dim=0)) for pair in zip(*whole, strict=True)]
    assert similarity[:2] == pytest.approx([1, 1], abs=1e-5)  # PowerSGD sets in after two steps
    assert all(0.5 < value < 0.9999 for value in similarity[2:])


@pytest.mark.parametrize(
    "options", [{"compression": "zip"}, {"powersgd_rank": 0}, {"powersgd_start_step": 1}], ids=lambda value: str(value)
)
def test_bad_arguments_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
        DataParallel(**options)
