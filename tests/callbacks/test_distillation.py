"""Distillation at both levels against its definition, and teachers that cannot teach."""

from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from loss_terms_job import recognition, write_teacher

from speechkit.bundle import load_bundle, save_bundle
from speechkit.callbacks import CutMix, Distillation, ManifoldMixup, Mixup, SpecAugment
from speechkit.callbacks.distillation import frame_divergences, frames_around_labels
from speechkit.decoding import BeamSearch, greedy_decode
from speechkit.losses import ctc_loss


@pytest.fixture
def trainer() -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return write_teacher(tmp_path / "teacher")


def test_frames_near_the_labels_of_the_teacher() -> None:
    path = torch.tensor([[0, 0, 0, 2, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 3, 3]])
    logits, lengths = torch.nn.functional.one_hot(path, 4).float(), torch.tensor([8, 5])

    def chosen(context_frames: int | None) -> list[list[int]]:
        frames = frames_around_labels(logits, lengths, blank=0, context_frames=context_frames)
        return [row.nonzero().flatten().tolist() for row in frames]

    assert chosen(0) == [[3], [0]]
    assert chosen(2) == [[1, 2, 3, 4, 5], [0, 1, 2]]
    assert chosen(None) == [list(range(8)), list(range(5))]


def test_divergence_of_softened_frames_by_hand() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    teacher_logits = 3 * torch.randn(3, 4, 5, dtype=torch.float64)
    frames = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    expected = []
    for b in range(3):
        divergences = [torch.zeros((), dtype=torch.float64)]
        for t in frames[b].nonzero().flatten():
            mine, theirs = ((x[b, t] / 2.0).softmax(dim=0) for x in (logits, teacher_logits))
            divergences.append((theirs * (theirs.log() - mine.log())).sum())
        expected.append(2.0**2 * sum(divergences) / max(1, len(divergences) - 1))
    result = frame_divergences(logits, teacher_logits, frames, 2.0)
    torch.testing.assert_close(result, torch.stack(expected))
    gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (result, torch.stack(expected))]
    torch.testing.assert_close(*gradients)


def distilled(callback: Distillation, trainer: lightning.Trainer, seed: int = 0) -> tuple:
    """What distillation adds to the losses of a student (another than the teacher but for seed 7), and its logits."""
    task = recognition(seed)
    waveform, lengths = torch.randn(2, 8000) * 0.1, torch.tensor([8000, 6000])
    logits, frames = task.eval()(waveform, lengths)
    task.train()
    given = logits, torch.tensor([[1, 2], [3, 0]]), frames, torch.tensor([2, 1])
    plain = task.loss(*given)
    callback.setup(trainer, task, "fit")
    callback.on_train_batch_start(trainer, task, SimpleNamespace(waveform=waveform, lengths=lengths), 0)
    added = task.loss(*given) - plain
    callback.teardown(trainer, task, "fit")
    return added, logits, frames, waveform, lengths


def run_teacher(path: str, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    bundle = load_bundle(path)
    with torch.no_grad():
        return bundle.head(*bundle.encoder(*bundle.front_end(waveform, lengths)))


@pytest.mark.parametrize("context_frames", [0, None])
def test_frame_level_hears_what_the_student_hears(trainer, teacher: str, context_frames: int | None) -> None:
    torch.manual_seed(0)
    callback = Distillation(teacher, weight=0.5, temperature=3.0, context_frames=context_frames)
    added, logits, frames, *audio = distilled(callback, trainer)
    teacher_logits, _ = run_teacher(teacher, *audio)
    chosen = frames_around_labels(teacher_logits, frames, blank=0, context_frames=context_frames)
    assert chosen.any()
    torch.testing.assert_close(added, 0.5 * frame_divergences(logits, teacher_logits, chosen, 3.0))


@pytest.mark.parametrize("num_best", [1, 3])
def test_sequence_level_is_ctc_towards_the_texts_of_the_teacher(trainer, teacher: str, num_best: int) -> None:
    torch.manual_seed(0)
    callback = Distillation(teacher, weight=0.5, level="sequence", num_best=num_best, temperature=2.0)
    added, logits, frames, *audio = distilled(callback, trainer)
    teacher_logits, _ = run_teacher(teacher, *audio)
    tokenizer = recognition().tokenizer
    if num_best == 1:
        texts = [[(labels, 1.0)] for labels in greedy_decode(teacher_logits, frames)]
    else:
        found = BeamSearch(tokenizer=tokenizer, beam_size=20, num_best=3).decode(teacher_logits, frames)
        shares = [torch.tensor([h.score / 2.0 for h in row]).softmax(dim=0).tolist() for row in found]
        texts = [
            [(h.labels, share) for h, share in zip(row, mine, strict=True)]
            for row, mine in zip(found, shares, strict=True)
        ]
    for b, row in enumerate(texts):
        expected = sum(
            share * ctc_loss(logits[b : b + 1], torch.tensor([labels]), frames[b : b + 1], torch.tensor([len(labels)]))
            for labels, share in row
        )
        torch.testing.assert_close(added[b], 0.5 * expected)


def test_a_teacher_like_the_student_teaches_nothing_new(trainer: lightning.Trainer, tmp_path: Path) -> None:
    save_bundle(recognition(3).bundle(), tmp_path / "twin")
    callback = Distillation(str(tmp_path / "twin"), context_frames=None)
    added = distilled(callback, trainer, seed=3)[0]
    torch.testing.assert_close(added, torch.zeros(2), atol=1e-5, rtol=0)


def test_the_random_numbers_of_the_training_are_left_alone(trainer: lightning.Trainer, teacher: str) -> None:
    task, callback = recognition(), Distillation(teacher)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    callback.setup(trainer, task, "fit")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("options", "level", "message"),
    [
        ({"symbols": "abd "}, "sequence", "vocabulary of 4 labels, .* has 4, and they differ at 'c' and 'd'"),
        ({"symbols": "abc"}, "frame", "vocabulary of 4 labels, .* has 3"),
        ({"rate": 16000}, "sequence", "at the task's 8000 Hz, .* takes 16000 Hz"),
        ({"stride": 4}, "frame", "must have the task's frames"),
        ({"stride": 4}, "sequence", None),
    ],
)
def test_teachers_that_cannot_teach(trainer, tmp_path: Path, options: dict, level: str, message: str | None) -> None:
    callback = Distillation(write_teacher(tmp_path / "teacher", **options), level=level)
    if message is None:
        callback.setup(trainer, recognition(), "fit")
        return
    with pytest.raises(ValueError, match=message):
        callback.setup(trainer, recognition(), "fit")


def test_other_bundles_and_options_are_named(trainer: lightning.Trainer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such bundle"):
        Distillation(str(tmp_path / "nothing")).setup(trainer, recognition(), "fit")
    bundle = recognition().bundle()
    bundle.head = None
    save_bundle(bundle, tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"must be the bundle of a recogniser, .* has no head"):
        Distillation(str(tmp_path / "encoder")).setup(trainer, recognition(), "fit")
    for options in ({"level": "word"}, {"temperature": 0.0}, {"context_frames": -1}, {"num_best": 0}, {"num_best": 21}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
            Distillation("teacher", **options)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Mixup(), "must not mix utterances with Distillation, got Mixup beside it"),
        (ManifoldMixup(), "got ManifoldMixup beside it"),
        (CutMix(), "got CutMix beside it"),
        (SpecAugment(policy="LD"), "`max_warp_frames` of SpecAugment must be 0 with Distillation, .* got 80"),
    ],
)
def test_what_a_teacher_does_not_hear_is_refused(teacher: str, other: lightning.Callback, message: str) -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[other])
    with pytest.raises(ValueError, match=message):
        Distillation(teacher).setup(trainer, recognition(), "fit")
