"""Pseudo-labels against a reference written by hand, and the teacher that makes them."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from unlabelled_job import RATE, recognition, train, unlabelled

from speechkit.callbacks import PseudoLabel
from speechkit.callbacks.momentum_teacher import MomentumTeacher
from speechkit.data import SpeechBatch
from speechkit.text import CharTokenizer

ANYTHING_GOES = {"min_confidence": 0.0, "min_length_ratio": 0.0, "max_length_ratio": 1000.0}


class Recorded(PseudoLabel):
    """Keeps what it added to each step, and to which batch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches: list[SpeechBatch] = []
        self.terms: list[Tensor] = []

    def next_unlabelled(self, task: Any) -> SpeechBatch:
        self.batches.append(super().next_unlabelled(task))
        return self.batches[-1]

    def added_loss(self, *args: Any) -> Tensor:
        term = super().added_loss(*args)
        self.terms.append(term.detach())
        return term


def test_term_is_ctc_on_what_the_teacher_hears(corpora: Path) -> None:
    callback = Recorded(unlabelled(corpora), weight=0.7, start_fraction=0.0, **ANYTHING_GOES)
    train(corpora, [callback], dropout=0.0, learning_rate=0.0, max_steps=1)
    batch, task = callback.batches[0], recognition(CharTokenizer("abc "), dropout=0.0)
    with torch.no_grad():
        logits, frames = task.eval()(batch.waveform, batch.lengths)
    labels = [
        [symbol for symbol in torch.unique_consecutive(row[:count].argmax(dim=-1)).tolist() if symbol]
        for row, count in zip(logits, frames, strict=True)
    ]
    assert any(labels)
    logits, frames = task.train()(batch.waveform, batch.lengths)
    expected = 0.0
    for row, count, labels_of_row in zip(logits, frames, labels, strict=True):
        if labels_of_row:
            log_probs = row[:count, None].log_softmax(dim=-1)
            lengths = torch.tensor([count]), torch.tensor([len(labels_of_row)])
            expected += F.ctc_loss(log_probs, torch.tensor([labels_of_row]), *lengths) / len(labels)
    torch.testing.assert_close(callback.terms[0], 0.7 * expected.detach(), rtol=1e-4, atol=1e-5)


def test_nothing_is_learned_before_its_time_or_from_what_is_dropped(corpora: Path) -> None:
    late = Recorded(unlabelled(corpora), start_fraction=0.75, **ANYTHING_GOES)
    train(corpora, [late], max_steps=4)
    assert [float(term) > 0 for term in late.terms] == [False, False, False, True]
    assert len(late.batches) == 1
    unsure = Recorded(unlabelled(corpora), start_fraction=0.0, min_confidence=1.0)
    trainer, _, _ = train(corpora, [unsure], max_steps=4)
    assert [float(term) for term in unsure.terms] == [0.0] * 4
    assert trainer.callback_metrics["pseudo_label_kept"] == 0


def test_teacher_is_the_moving_average(corpora: Path) -> None:
    task = recognition(CharTokenizer("abc "))
    task.encoder.register_forward_hook(lambda module, args, output: pytest.fail("the teacher has no hooks"))
    teacher = MomentumTeacher(task, momentum=0.15)
    expected = {name: value.clone() for name, value in task.state_dict().items()}
    for kept in (0.1, 0.15, 0.15):  # (1 + n) / (10 + n), and then no more than the momentum
        with torch.no_grad():
            for parameter in task.parameters():
                parameter.add_(torch.randn_like(parameter))
        teacher.update(task)
        for name, value in task.state_dict().items():
            if value.is_floating_point():
                expected[name] = kept * expected[name] + (1 - kept) * value
    found = teacher.state_dict()["weights"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    waveform, lengths = 0.1 * torch.randn(2, RATE), torch.tensor([RATE, RATE // 2])
    again = MomentumTeacher(task, momentum=0.15)
    again.load_state_dict(teacher.state_dict())
    assert torch.equal(teacher.logits(waveform, lengths)[0], again.logits(waveform, lengths)[0])
    assert not teacher.logits(waveform, lengths)[0].requires_grad


def test_teacher_follows_steps_not_batches(corpora: Path) -> None:
    callback = PseudoLabel(unlabelled(corpora))
    trainer, _, _ = train(corpora, [callback], accumulate_grad_batches=2)
    assert callback.state_dict()["teacher"]["num_updates"] == trainer.global_step


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"start_fraction": 1.0}, "start_fraction"),
        ({"min_confidence": 1.5}, "min_confidence"),
        ({"max_length_ratio": 0.2}, "max_length_ratio"),
    ],
)
def test_wrong_arguments_are_named_at_start(corpora: Path, options: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        PseudoLabel(unlabelled(corpora), **options)


def test_needs_texts_to_compare_with(corpora: Path) -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="needs a data module"):
        PseudoLabel(unlabelled(corpora)).setup(trainer, recognition(CharTokenizer("ab")), "fit")
