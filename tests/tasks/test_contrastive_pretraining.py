"""CPC as a task: the objectives learn, seeds decide, and what teaches nothing is named."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from speechkit.bundle import save_bundle
from speechkit.data import SpeechBatch
from speechkit.encoders import ConvGRUEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.losses import InfoNCE
from speechkit.tasks import ContrastivePretraining


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


def fit(
    task: ContrastivePretraining, batch: SpeechBatch, num_steps: int, *, of_epoch: int | None = None
) -> list[dict[str, float]]:
    """Trains on the one batch, in epochs of so many steps (all); what was logged at each step."""
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
    trainer.fit(task, *(DataLoader([batch] * count, batch_size=None) for count in (of_epoch or num_steps, 1)))
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
    assert logged[-1]["train_score_gap"] > logged[0]["train_score_gap"]
    assert ("train_bound" in logged[0]) == ("objective" not in options)


def test_the_bound_is_what_is_left_of_the_candidates() -> None:
    task = small_task(num_negatives=16, negatives="other_utterances")
    result = task(torch.rand(2, 8000), torch.tensor([8000, 6000])).contrast
    assert isinstance(result, InfoNCE)
    torch.testing.assert_close(result.bound, torch.tensor(17.0).log() - result.loss)


def test_seeds_decide_the_negatives() -> None:
    task, batch = small_task(negatives="mixed"), batch_of(8000, 6000)
    losses = [task(batch.waveform, batch.lengths, seeds=seeds).contrast.loss for seeds in ([1, 2], [1, 2], [1, 3])]
    assert torch.equal(losses[0], losses[1])
    assert losses[0][0] == losses[2][0]
    assert losses[0][1] != losses[2][1]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    ("negatives", "num_samples", "said"),
    [
        ("same_utterance", (8000, 300), ["u1: 1 frames are too short to predict any"]),
        ("mixed", (8000, 300), ["u1: 1 frames are too short to predict any"]),
        ("other_utterances", (8000, 300), ["u1: 1 frames are too short to predict any"]),
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


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_epochs_that_teach_nothing_end_the_training(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="something to predict, got none in two epochs"):
        fit(small_task(negatives="other_utterances"), batch_of(8000), 3, of_epoch=1)
    assert "u0: no negatives (other_utterances) in its batch, so its loss counts as 0" in caplog.text


def test_goes_on_from_a_bundle_of_the_same_parts(tmp_path: Path) -> None:
    first = small_task()
    save_bundle(first.bundle(), tmp_path / "bundle")
    torch.manual_seed(1)
    encoder = ConvGRUEncoder(input_dim=20, channels=16, hidden_size=16, num_layers=1, dropout=0.0)
    task = ContrastivePretraining(
        front_end=FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20), cmvn=UtteranceCMVN()),
        encoder=encoder,
        encoder_from=str(tmp_path / "bundle"),
    )
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(task.encoder.state_dict()[name], value)
    other = ConvGRUEncoder(input_dim=20, channels=8, hidden_size=16, num_layers=1)
    with pytest.raises(ValueError, match=r"`encoder_from` .*channels is 16 there and 8 here"):
        ContrastivePretraining(front_end=first.front_end, encoder=other, encoder_from=str(tmp_path / "bundle"))


@pytest.mark.parametrize(
    "options",
    [
        {"predictor": "gru"}, {"objective": "triplet"}, {"negatives": "elsewhere"}, {"score": "euclid"},
        {"num_negatives": 0}, {"hard_pool_factor": 0}, {"negatives_at_a_time": 0},
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        small_task(**options)
