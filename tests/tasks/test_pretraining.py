"""Pretraining in any number of processes is that in one."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

JOB = Path(__file__).with_name("ranks_job.py")


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Number of processes -> name of the training -> its losses and gradients.

    Seven utterances of three speakers and different lengths, so that batches of two and of three occur.
    """
    folder = tmp_path_factory.mktemp("cpc")
    rows = []
    for place, seconds in enumerate([0.5, 0.6, 0.8, 1.1, 1.3, 2.0, 3.9]):
        time = np.arange(round(8000 * seconds)) / 8000
        noise = np.random.default_rng(place).normal(0.0, 0.003, len(time))
        soundfile.write(folder / f"{place}.wav", 0.3 * np.sin(2 * np.pi * (200 + 150 * place) * time) + noise, 8000)
        rows.append({"audio_filepath": f"{place}.wav", "duration": seconds, "speaker": f"s{place % 3}"})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, str(JOB), str(folder / "train.jsonl"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {count: torch.load(folder / f"{count}.pt", weights_only=True) for count in (1, 2, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["other", "speaker", "hard"])
def test_two_processes_have_losses_and_gradients_of_one(of_processes: dict[int, Any], name: str) -> None:
    one, two = (of_processes[count][name] for count in (1, 2))
    assert any(size % 2 for size in one["sizes"])  # the shares are uneven
    assert len(one["losses"]) == len(two["losses"]) == 3
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-5)
    for alone, joined in zip(one["gradients"], two["gradients"], strict=True):
        assert max(gradient.abs().max() for gradient in alone.values()) > 1e-2
        for parameter, gradient in alone.items():
            torch.testing.assert_close(joined[parameter], gradient, atol=1e-5, rtol=1e-5, msg=parameter)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpc", "gumbel", "kmeans", "vq"])
def test_one_two_and_four_processes_have_the_same_first_twenty_losses(of_processes: dict[int, Any], name: str) -> None:
    """No batch has four utterances: with four processes, one of them at least has nothing to do."""
    one, two, four = (of_processes[count][name]["losses"] for count in (1, 2, 4))
    assert len(set(one)) == 20
    assert two == pytest.approx(one, abs=1e-5)
    assert four == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
def test_sharded_parameters_change_no_loss(of_processes: dict[int, Any]) -> None:
    one, two = of_processes[1], of_processes[2]
    assert two["sharded"]["losses"] == pytest.approx(one["gumbel"]["losses"], abs=1e-5)
    assert two["sharded-unpadded"]["losses"] == pytest.approx(one["unpadded"]["losses"], abs=1e-5)
    assert all(math.isfinite(loss) for loss in two["sharded-dropped"]["losses"])
