"""The CTC loss against every path that there is, and against torch."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from speechkit.losses import CTCLoss, ctc_feasible, ctc_loss


def by_enumeration(logits: torch.Tensor, target: list[int], blank: int) -> torch.Tensor:
    """-log of the summed probability of every path that collapses to the target."""
    log_probs = logits.log_softmax(dim=-1)
    scores = []
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        collapsed = [label for label, _ in itertools.groupby(path) if label != blank]
        if collapsed == target:
            scores.append(sum(log_probs[frame, label] for frame, label in enumerate(path)))
    return -torch.logsumexp(torch.stack(scores), dim=0) if scores else torch.tensor(torch.inf, dtype=logits.dtype)


@pytest.mark.parametrize("target", [[], [1], [1, 1], [1, 2], [2, 1, 1], [1, 1, 1]])
@pytest.mark.parametrize("num_frames", [1, 3, 5])
@pytest.mark.parametrize("blank", [0, 2])
def test_is_the_sum_over_all_paths(target: list[int], num_frames: int, blank: int) -> None:
    target = [label if blank == 0 else label - 1 for label in target]
    logits = torch.randn(num_frames, 3, dtype=torch.float64)
    padded = torch.tensor([target], dtype=torch.long).reshape(1, -1)
    loss = ctc_loss(
        logits[None], padded, torch.tensor([num_frames]), torch.tensor([len(target)]), blank=blank, reduction="none"
    )
    torch.testing.assert_close(loss[0], by_enumeration(logits, target, blank), atol=1e-10, rtol=0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_is_torchs_loss_of_log_probabilities(reduction: str) -> None:
    logits = torch.randn(4, 12, 6, dtype=torch.float64)
    targets = torch.randint(1, 6, (4, 5))
    frames, labels = torch.tensor([12, 11, 10, 9]), torch.tensor([5, 0, 3, 4])
    expected = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, frames, labels, reduction=reduction)
    torch.testing.assert_close(ctc_loss(logits, targets, frames, labels, reduction=reduction), expected)


def test_concatenated_targets_are_padded_ones() -> None:
    logits, frames, labels = torch.randn(2, 9, 5), torch.tensor([9, 7]), torch.tensor([3, 2])
    padded = torch.tensor([[1, 2, 3], [4, 4, 0]])
    joined = torch.tensor([1, 2, 3, 4, 4])
    assert torch.equal(ctc_loss(logits, padded, frames, labels), ctc_loss(logits, joined, frames, labels))


def test_impossible_utterances_are_infinite_or_silent() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    targets, frames, labels = torch.tensor([[1, 1, 0], [1, 2, 3]]), torch.tensor([2, 3]), torch.tensor([2, 3])
    assert ctc_feasible(targets, frames, labels).tolist() == [False, True]
    assert ctc_loss(logits, targets, frames, labels, reduction="none").isinf().tolist() == [True, False]
    for smoothing in (0.0, 0.3):
        losses = ctc_loss(
            logits, targets, frames, labels, reduction="none", zero_infinity=True, label_smoothing=smoothing
        )
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert losses[0] == 0
        assert gradient[0].abs().max() == 0
        assert gradient[1].isfinite().all()
        assert gradient[1].abs().max() > 0


def test_smoothing_is_the_cross_entropy_to_uniform() -> None:
    logits = torch.randn(2, 6, 4, dtype=torch.float64)
    targets, frames, labels = torch.tensor([[1, 2], [3, 0]]), torch.tensor([6, 4]), torch.tensor([2, 1])
    plain = ctc_loss(logits, targets, frames, labels, reduction="none")
    uniform = torch.stack([-logits[i, : frames[i]].log_softmax(-1).mean(-1).sum() for i in range(2)])
    smoothed = ctc_loss(logits, targets, frames, labels, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(smoothed, 0.8 * plain + 0.2 * uniform)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_on_logits(smoothing: float) -> None:
    logits = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    targets, frames, labels = torch.tensor([[1, 2], [1, 1]]), torch.tensor([5, 4]), torch.tensor([2, 2])
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x, targets, frames, labels, label_smoothing=smoothing), logits)


def test_half_precision_logits_give_single_precision_losses() -> None:
    logits = torch.randn(1, 8, 5)
    arguments = (torch.tensor([[1, 2]]), torch.tensor([8]), torch.tensor([2]))
    half = ctc_loss(logits.bfloat16(), *arguments)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, ctc_loss(logits.bfloat16().float(), *arguments))


def test_the_module_divides_by_labels_and_survives_autocast() -> None:
    logits = torch.randn(1, 8, 5)
    arguments = (torch.tensor([[1, 2]]), torch.tensor([8]), torch.tensor([2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CTCLoss()(logits, *arguments)
    torch.testing.assert_close(loss, ctc_loss(logits, *arguments, reduction="none") / 2)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"blank": 5}, "blank"),
        ({"reduction": "median"}, "reduction"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"backend": "tpu"}, "backend"),
    ],
)
def test_wrong_options_are_named(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ctc_loss(torch.zeros(1, 3, 5), torch.ones(1, 1).long(), torch.tensor([3]), torch.tensor([1]), **options)
    with pytest.raises(ValueError, match="logits"):
        ctc_loss(torch.zeros(3, 5), torch.ones(1, 1).long(), torch.tensor([3]), torch.tensor([1]))


@pytest.mark.parametrize(
    ("targets", "frames", "labels", "name"),
    [
        ([[5]], [3], [1], "targets"),
        ([[0]], [3], [1], "targets"),
        ([[1]], [4], [1], "input_lengths"),
        ([[1]], [3], [2], "target_lengths"),
        ([[1]], [3, 3], [1], "input_lengths"),
        ([1, 2], [3], [1], "targets"),
        ([[1], [2]], [3], [1], "targets"),
    ],
)
def test_wrong_targets_and_lengths_are_named(targets: list, frames: list, labels: list, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        ctc_loss(torch.zeros(1, 3, 5), torch.tensor(targets), torch.tensor(frames), torch.tensor(labels))


def test_without_frames_only_the_empty_text_is_possible() -> None:
    logits = torch.zeros(2, 0, 4, requires_grad=True)
    arguments = (torch.tensor([[1], [1]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert ctc_loss(logits, *arguments, reduction="none").tolist() == [0.0, float("inf")]
    losses = ctc_loss(logits, *arguments, reduction="none", zero_infinity=True)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
