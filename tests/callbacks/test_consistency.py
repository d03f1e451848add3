"""Both kinds of consistency against references written by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from unlabelled_job import recognition, train, unlabelled

from speechkit.callbacks import (
    ConsistencyRegularization,
    ConsistencyTraining,
    FeatureNoise,
    LabelSmoothing,
    SpecAugment,
)
from speechkit.callbacks.consistency_training import annealing_threshold
from speechkit.callbacks.evaluation_mode import evaluation_mode
from speechkit.data import SpeechBatch
from speechkit.text import CharTokenizer


def recorded(kind: type[Any], *args: Any, **options: Any) -> Any:
    """A callback that keeps what it added to each step, the logits of all passes, and its batches."""

    class Recorded(kind):
        passes: list[tuple[bool, Tensor, Tensor]]
        terms: list[Tensor]
        batch: SpeechBatch

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            super().setup(trainer, pl_module, stage)
            self.passes, self.terms = [], []
            self._handles.append(
                pl_module.head.register_forward_hook(
                    lambda module, args, output: self.passes.append((module.training, *output))
                )
            )

        def next_unlabelled(self, task: Any) -> SpeechBatch:
            self.batch = super().next_unlabelled(task)
            return self.batch

        def added_loss(self, trainer: Any, task: Any, batch: SpeechBatch) -> Tensor:
            self.labelled = batch
            self.terms.append(super().added_loss(trainer, task, batch))
            return self.terms[-1]

    return Recorded(*args, **options)


def test_strong_view_is_drawn_to_the_weak_one(corpora: Path) -> None:
    callback = recorded(ConsistencyTraining, unlabelled(corpora), weight=0.5, min_confidence=0.22, temperature=0.5)
    train(corpora, [FeatureNoise(2.0), callback], dropout=0.0, learning_rate=0.0, max_steps=1)
    batch = callback.batch
    (of_plain, *_), (of_weak, weak, frames), (of_strong, strong, _) = callback.passes
    assert (of_plain, of_weak, of_strong) == (True, False, True)
    expected_weak, _ = recognition(CharTokenizer("abc "), dropout=0.0).eval()(batch.waveform, batch.lengths)
    assert weak.shape == expected_weak.shape
    assert not weak.requires_grad
    expected = 0.0
    for teacher, student, count in zip(weak, strong, frames.tolist(), strict=True):
        for frame in range(count):
            if teacher[frame].softmax(dim=0).max() >= 0.22:
                p, q = (teacher[frame] / 0.5).softmax(dim=0), student[frame].softmax(dim=0)
                expected += 0.5 * (p * (p / q).log()).sum() / count / len(weak)
    torch.testing.assert_close(callback.terms[0], torch.as_tensor(expected))


def test_annealing_leaves_out_what_is_known(corpora: Path) -> None:
    assert annealing_threshold(0.0, 4, "linear") == 0.25
    assert annealing_threshold(0.5, 4, "linear") == pytest.approx(0.625)
    assert annealing_threshold(0.5, 4, "log") > 0.9 > 0.4 > annealing_threshold(0.5, 4, "exp")
    callback = recorded(ConsistencyTraining, unlabelled(corpora), annealing="linear")
    losses: list[Tensor] = []

    class Watched(type(callback)):
        def attach(self, trainer: Any, task: Any) -> None:
            task.head.projection.bias.data[0] = 30.0  # all is blank, so ...
            super().attach(trainer, task)
            self._handles.append(task.loss.register_forward_hook(lambda module, args, output: losses.append(output)))

    callback.__class__ = Watched
    train(corpora, [callback], dropout=0.0, learning_rate=0.0, max_steps=2)
    known = 0.5 * (1 - 1 / 5) + 1 / 5  # the second step is at half of the training
    assert all(bool((value == 0).logical_or(value >= -math.log(known)).all()) for value in losses[1:])
    assert all(bool((value > 0).all()) for value in losses)  # ... no text is known, and every one counts


def test_annealing_looks_at_ctc_without_smoothing(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(*others: Any) -> Tensor:
        found: list[Tensor] = []
        callback = recorded(ConsistencyTraining, unlabelled(corpora), annealing="linear")

        class Watched(type(callback)):
            def attach(self, trainer: Any, task: Any) -> None:
                super().attach(trainer, task)
                self._handles.append(task.loss.register_forward_hook(lambda module, args, output: found.append(output)))

        callback.__class__ = Watched
        train(corpora, [*others, callback], dropout=0.0, learning_rate=0.0, max_steps=3)
        return torch.cat(found).detach()

    threshold = math.exp(-float(losses().median()))  # half of them are below
    monkeypatch.setattr("speechkit.callbacks.consistency_training.annealing_threshold", lambda *args: threshold)
    plain, smoothed = losses(), losses(LabelSmoothing(0.5))
    assert 0 < (plain == 0).sum() < len(plain)
    assert torch.equal(plain == 0, smoothed == 0)
    with pytest.raises(ValueError, match="`annealing` must be none with ConsistencyRegularization"):
        losses(ConsistencyRegularization())


def test_views_of_a_labelled_batch_teach_each_other(corpora: Path) -> None:
    callback = recorded(ConsistencyRegularization, weight=0.2)
    _, _, steps = train(corpora, [FeatureNoise(2.0), callback], dropout=0.0, learning_rate=0.0, max_steps=1)
    batch = callback.labelled
    (_, first, frames), (_, second, _) = callback.passes
    assert not torch.equal(first, second)

    def ctc(logits: Tensor) -> Tensor:
        log_probs = logits.log_softmax(dim=-1).transpose(0, 1)
        losses = torch.nn.functional.ctc_loss(
            log_probs, batch.targets, frames, batch.target_lengths, reduction="none", zero_infinity=True
        )
        return (losses / batch.target_lengths).mean()

    def divergence(target: Tensor, view: Tensor, row: int, frame: int) -> Tensor:
        p, q = target[row, frame].detach().softmax(dim=0), view[row, frame].softmax(dim=0)
        return (p * (p / q).log()).sum()

    apart = torch.stack(
        [
            0.5 * (divergence(*pair, row, frame) / batch.target_lengths[row] / len(frames))
            for pair in ((first, second), (second, first))
            for row in range(len(frames))
            for frame in range(int(frames[row]))
        ]
    ).sum()
    expected = 0.5 * (ctc(second) - ctc(first)) + 0.2 * apart
    torch.testing.assert_close(callback.terms[0], expected, rtol=1e-4, atol=1e-5)
    assert all(bool(gradient.isfinite().all()) for gradient in steps.steps[0].values())


def test_evaluation_mode_gives_every_mode_back() -> None:
    task = recognition(CharTokenizer("abc "))
    task.encoder.eval()
    before = [part.training for part in task.modules()]
    with evaluation_mode(task):
        assert not any(part.training for part in task.modules())
        assert not torch.is_grad_enabled()
    assert [part.training for part in task.modules()] == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"min_confidence": -0.1}, "min_confidence"),
        ({"temperature": 0.0}, "temperature"),
        ({"annealing": "x"}, "annealing"),
    ],
)
def test_wrong_arguments_are_named(corpora: Path, options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}"):
        ConsistencyTraining(unlabelled(corpora), **options)


@pytest.mark.parametrize("kind", [ConsistencyRegularization, ConsistencyTraining])
def test_views_of_other_moments_are_refused(corpora: Path, kind: type[Any]) -> None:
    callback = kind() if kind is ConsistencyRegularization else kind(unlabelled(corpora))
    with pytest.raises(ValueError, match=f"SpecAugment must be 0 with {kind.__name__}, which goes by frames, got 40"):
        train(corpora, [SpecAugment(max_warp_frames=40), callback], max_steps=1)
