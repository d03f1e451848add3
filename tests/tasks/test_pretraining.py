"""CPC as a task: any number of processes is one, what teaches nothing is named, and the objectives learn."""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from speechkit.data import SpeechBatch
from speechkit.encoders import ConvGRUEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.losses import InfoNCE
from speechkit.tasks import ContrastivePretraining

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
@pytest.mark.parametrize("name", ["cpc", "gumbel", "kmeans"])
def test_one_two_and_four_processes_have_the_same_first_twenty_losses(of_processes: dict[int, Any], name: str) -> None:
    """No batch has four utterances: with four processes, one of them at least has nothing to do."""
    one, two, four = (of_processes[count][name]["losses"] for count in (1, 2, 4))
    assert len(set(one)) == 20
    assert two == pytest.approx(one, abs=1e-5)
    assert four == pytest.approx(one, abs=1e-5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Over tensors so small, several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_task(**options: Any) -> ContrastivePretraining:
    torch.manual_seed(0)
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20), cmvn=UtteranceCMVN())
    encoder = ConvGRUEncoder(input_dim=20, channels=16, hidden_size=16, num_layers=1, dropout=0.0)
    return ContrastivePretraining(front_end=front_end, encoder=encoder, **options)


def batch_of(*num_samples: int) -> SpeechBatch:
    lengths = torch.tensor(num_samples)
    noise = torch.rand(len(lengths), int(lengths.max()), generator=torch.Generator().manual_seed(1)) - 0.5
    time = torch.arange(noise.shape[1]) / 8000
    waveform = 0.3 * torch.sin(2000 * (1 + torch.arange(len(lengths))[:, None]) * time.cumsum(0) / 800) + 0.05 * noise
    return SpeechBatch(
        waveform=waveform,
        lengths=lengths,
        targets=torch.zeros(len(lengths), 0, dtype=torch.long),
        target_lengths=torch.zeros(len(lengths), dtype=torch.long),
        weights=torch.ones(len(lengths)),
        loss_scale=1 / len(lengths),
        ids=[f"u{place}" for place in range(len(lengths))],
        texts=[""] * len(lengths),
        speakers=["ann", "bob", "ann", None][: len(lengths)],
        seeds=list(range(len(lengths))),
    )


def fit(task: ContrastivePretraining, batch: SpeechBatch, num_steps: int) -> list[dict[str, float]]:
    """Trains on the one batch; what was logged at each step."""
    logged: list[dict[str, float]] = []

    class Record(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=num_steps,
        callbacks=[Record()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, *(DataLoader([batch] * count, batch_size=None) for count in (num_steps, 1)))
    return logged


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    "options",
    [
        {"negatives": "same_utterance"},
        {"negatives": "other_utterances"},
        {"negatives": "same_speaker"},
        {"negatives": "mixed"},
        {"negatives": "hard"},
        {"negatives": "mixed", "objective": "nce"},
        {"negatives": "mixed", "predictor": "transformer"},
    ],
)
def test_every_variant_learns(options: dict[str, str]) -> None:
    task = small_task(num_negatives=16, num_steps=2, learning_rate=1e-2, **options)
    logged = fit(task, batch_of(4000, 3000, 4500), 8)
    assert logged[-1]["train_loss"] < 0.9 * logged[0]["train_loss"]
    assert logged[0]["train_skipped"] == 0
    assert ("train_bound" in logged[0]) == ("objective" not in options)


def test_the_bound_is_what_is_left_of_the_candidates() -> None:
    result = small_task(num_negatives=16, negatives="other_utterances")(torch.rand(2, 8000), torch.tensor([8000, 6000]))
    assert isinstance(result, InfoNCE)
    torch.testing.assert_close(result.bound, torch.tensor(17.0).log() - result.loss)


def test_seeds_decide_the_negatives() -> None:
    task, batch = small_task(negatives="mixed"), batch_of(8000, 6000)
    losses = [task(batch.waveform, batch.lengths, seeds=seeds).loss for seeds in ([1, 2], [1, 2], [1, 3])]
    assert torch.equal(losses[0], losses[1])
    assert losses[0][0] == losses[2][0]
    assert losses[0][1] != losses[2][1]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    ("negatives", "num_samples", "said"),
    [
        ("same_utterance", (8000, 300), ["u1: 1 frames are too short to predict any"]),
        ("mixed", (8000, 300), ["u1: 1 frames are too short to predict any"]),
        ("other_utterances", (8000,), ["u0: no negatives (other_utterances) in its batch"]),
        ("mixed", (8000,), []),
    ],
)
def test_what_teaches_nothing_is_named_once(
    negatives: str, num_samples: tuple[int, ...], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="speechkit"):
        logged = fit(small_task(negatives=negatives), batch_of(*num_samples), 2)
    assert all(math.isfinite(step["train_loss"]) for step in logged)
    assert [step["train_skipped"] for step in logged] == [len(said)] * 2
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("speechkit")]
    assert messages == [f"{line}, so its loss counts as 0" for line in said]


@pytest.mark.parametrize(
    "options",
    [
        {"predictor": "gru"}, {"objective": "triplet"}, {"negatives": "elsewhere"}, {"score": "euclid"},
        {"num_negatives": 0}, {"hard_pool_factor": 0},
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        small_task(**options)
