"""Label smoothing against its definition: what each frame is trained towards."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from loss_terms_job import recognition

from speechkit.callbacks import LabelSmoothing
from speechkit.callbacks.label_smoothing import unigram_distribution
from speechkit.data.datamodule import SpeechDataModule
from speechkit.losses import ctc_loss, ctc_occupancies
from speechkit.text import CharTokenizer

TARGETS, FRAMES, COUNTS = torch.tensor([[1, 2, 2], [3, 0, 0]]), torch.tensor([9, 6]), torch.tensor([3, 1])


@pytest.fixture
def trainer() -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def losses_and_gradient(callback: LabelSmoothing, trainer: lightning.Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (B,) and the gradient of their sum, with a smoothed seam; then the seam is as before."""
    torch.manual_seed(1)
    logits = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    task = recognition()
    callback.setup(trainer, task, "fit")
    losses = task.loss(logits, TARGETS, FRAMES, COUNTS)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    callback.teardown(trainer, task, "fit")
    return losses.detach(), gradient


def towards(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and the gradient of the sum of losses per label where frames are trained towards (B, T, V)."""
    torch.manual_seed(1)
    logits = torch.randn(2, 9, 5, dtype=torch.float64)
    inside = torch.arange(9) < FRAMES[:, None]
    return logits, (logits.softmax(dim=-1) - targets) * inside[:, :, None] / COUNTS[:, None, None]


def occupancies() -> torch.Tensor:
    torch.manual_seed(1)
    return ctc_occupancies(torch.randn(2, 9, 5, dtype=torch.float64), TARGETS, FRAMES, COUNTS, backend="reference")


def test_unigram_takes_the_place_of_uniform(trainer: lightning.Trainer, tmp_path, make_tone) -> None:
    audio = make_tone("a.wav")
    (tmp_path / "train.jsonl").write_text(f'{{"audio_filepath": "{audio}", "duration": 1.0, "text": "aab c"}}\n')
    trainer.datamodule = SpeechDataModule(train=[str(tmp_path / "train.jsonl")], tokenizer=CharTokenizer("abc "))
    prior = torch.tensor([0.2, 0.32, 0.16, 0.16, 0.16], dtype=torch.float64)  # blank, a, b, c, space
    losses, gradient = losses_and_gradient(LabelSmoothing(0.1, kind="unigram"), trainer)
    logits, expected = towards(0.9 * occupancies() + 0.1 * prior)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-9)
    inside = torch.arange(9) < FRAMES[:, None]
    to_prior = -(logits.log_softmax(dim=-1) @ prior * inside).sum(dim=1)
    plain = ctc_loss(logits, TARGETS, FRAMES, COUNTS, reduction="none", backend="reference")
    torch.testing.assert_close(losses, (0.9 * plain + 0.1 * to_prior) / COUNTS)


def test_unigram_of_equally_frequent_labels_is_uniform() -> None:
    distribution = unigram_distribution(["ab c", "ca b"], CharTokenizer("abc "))
    torch.testing.assert_close(distribution, torch.full((5,), 0.2, dtype=torch.float64))
    rare = unigram_distribution(["aaab"], CharTokenizer("abc"))
    torch.testing.assert_close(rare, torch.tensor([0.25, 0.5625, 0.1875, 0.0], dtype=torch.float64))


def test_alignment_smooths_labels_and_leaves_the_blank(trainer: lightning.Trainer) -> None:
    losses, gradient = losses_and_gradient(LabelSmoothing(0.1, kind="alignment"), trainer)
    targets = occupancies()
    share = targets[:, :, 1:].sum(dim=-1, keepdim=True)
    targets[:, :, 1:] = 0.9 * targets[:, :, 1:] + 0.1 * share / 4
    logits, expected = towards(targets)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-9)
    plain = ctc_loss(logits, TARGETS, FRAMES, COUNTS, reduction="none", backend="reference")
    moved = ((occupancies() - targets) * logits.log_softmax(dim=-1)).sum(dim=(1, 2))
    torch.testing.assert_close(losses, (plain + moved) / COUNTS)


def test_wrong_kinds_and_missing_texts_are_named(trainer: lightning.Trainer) -> None:
    with pytest.raises(ValueError, match="`kind` must be one of uniform, unigram, alignment, got 'bigram'"):
        LabelSmoothing(kind="bigram")
    with pytest.raises(ValueError, match="`smoothing` must lie"):
        LabelSmoothing(1.0, kind="alignment")
    trainer.datamodule = SimpleNamespace()
    with pytest.raises(ValueError, match="needs the texts of a SpeechDataModule, got SimpleNamespace"):
        LabelSmoothing(kind="unigram").setup(trainer, recognition(), "fit")


def test_two_that_set_one_option_are_refused(trainer: lightning.Trainer) -> None:
    first, second, off = LabelSmoothing(), LabelSmoothing(0.1, kind="unigram"), LabelSmoothing(0.0)
    trainer.callbacks = [first, off, LabelSmoothing(kind="alignment")]
    first.setup(trainer, recognition(), "fit")
    trainer.callbacks = [first, second]
    with pytest.raises(ValueError, match="must hold one LabelSmoothing"):
        first.setup(trainer, recognition(), "fit")
