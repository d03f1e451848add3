"""Entropy of the paths, penalty of the blank, stars and weights, against every path that there is."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from speechkit.losses import CTCLoss, ctc_loss, ctc_occupancies
from speechkit.losses.ctc import loop
from speechkit.losses.ctc.batch import checked_batch

STAR = 9
TIGHT = {"atol": 1e-10, "rtol": 0}


def log_probs_of_paths(logits: Tensor, target: list[int]) -> Tensor:
    """Of every path (T symbols) that collapses to the target."""
    log_probs = logits.log_softmax(dim=-1)
    paths = itertools.product(range(logits.shape[1]), repeat=len(logits))
    mine = [path for path in paths if [v for v, _ in itertools.groupby(path) if v != 0] == target]
    return torch.stack([log_probs[torch.arange(len(logits)), torch.tensor(path)].sum() for path in mine])


def one(target: list[int], num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets and lengths of a batch of one."""
    return torch.tensor([target]).reshape(1, -1).long(), torch.tensor([num_frames]), torch.tensor([len(target)])


@pytest.mark.parametrize("target", [[], [1], [1, 1], [2, 1], [1, 2, 1]])
@pytest.mark.parametrize("num_frames", [3, 5])
def test_entropy_and_its_gradient_are_those_of_all_paths(target: list[int], num_frames: int) -> None:
    logits = torch.randn(num_frames, 3, dtype=torch.float64, requires_grad=True)
    scores = log_probs_of_paths(logits, target)
    entropy = -(scores.softmax(dim=0) * scores.log_softmax(dim=0)).sum()
    (expected,) = torch.autograd.grad(entropy, logits)
    batch = checked_batch(logits[None], *one(target, num_frames), blank=0)
    found = loop.path_entropies(batch)
    torch.testing.assert_close(found, entropy[None], **TIGHT)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), logits)[0], expected, **TIGHT)


@pytest.mark.parametrize("backend", ["numba", "torch", "loop", "reference"])
def test_entropy_is_subtracted_from_the_loss_of_any_backend(backend: str) -> None:
    logits = torch.randn(3, 9, 5, requires_grad=True)
    arguments = (torch.tensor([[1, 2], [3, 3], [4, 4]]), torch.tensor([9, 7, 2]), torch.tensor([2, 2, 2]))
    options = {"reduction": "none", "zero_infinity": True, "backend": backend}
    plain = ctc_loss(logits, *arguments, **options)
    regularised = ctc_loss(logits, *arguments, entropy=0.3, **options)
    entropies = loop.path_entropies(checked_batch(logits, *arguments, blank=0))
    torch.testing.assert_close(regularised, plain - 0.3 * entropies)
    assert regularised[2] == 0  # two equal labels do not go into two frames
    (gradient,) = torch.autograd.grad(regularised.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[2].abs().max() == 0
    assert gradient[1, 7:].abs().max() == 0
    assert gradient.sum(dim=-1).abs().max() < 1e-5


def test_entropy_of_a_long_utterance_has_a_true_gradient() -> None:
    logits = torch.randn(2, 60, 6, dtype=torch.float64, requires_grad=True)
    batch = checked_batch(logits, torch.randint(1, 6, (2, 12)), torch.tensor([60, 41]), torch.tensor([12, 7]), blank=0)
    direction, step = torch.randn_like(logits), 1e-5
    (gradient,) = torch.autograd.grad(loop.path_entropies(batch).sum(), logits)
    after, before = (
        loop.path_entropies(batch._replace(logits=logits.detach() + sign * step * direction)).sum() for sign in (1, -1)
    )
    torch.testing.assert_close((gradient * direction).sum(), (after - before) / (2 * step), rtol=1e-6, atol=1e-7)


def test_a_penalty_on_the_blank_moves_paths_to_the_labels() -> None:
    logits, arguments = (
        torch.randn(2, 9, 5),
        (torch.tensor([[1, 2], [3, 3]]), torch.tensor([9, 7]), torch.tensor([2, 2])),
    )
    lower = logits.clone()
    lower[..., 2] -= 1.5
    options = {"blank": 2, "reduction": "none"}
    arguments = (torch.tensor([[1, 0], [3, 3]]), *arguments[1:])
    assert torch.equal(
        ctc_loss(logits, *arguments, blank_penalty=1.5, **options), ctc_loss(lower, *arguments, **options)
    )


def loss_with_stars(logits: Tensor, target: list[int], penalty: float) -> Tensor:
    """-log of the sum over all paths, states being labels, blanks and stars, where a frame of a star costs `penalty`.

    States of CTC over V + 1 symbols, the last of which has probability exp(-penalty) whatever the others have.
    """
    log_probs = logits.log_softmax(dim=-1)
    log_probs = torch.cat([log_probs, torch.full((len(logits), 1), -penalty, dtype=logits.dtype)], dim=1)
    scores = []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(logits)):
        if [v for v, _ in itertools.groupby(path) if v != 0] == target:
            scores.append(sum(log_probs[t, v] for t, v in enumerate(path)))
    return -torch.logsumexp(torch.stack(scores), dim=0)


@pytest.mark.parametrize("target", [[STAR], [STAR, 1], [1, STAR], [1, STAR, 2], [STAR, 2, STAR]])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("backend", ["numba", "torch", "loop", "reference"])
def test_a_star_takes_any_frames_at_its_penalty(target: list[int], penalty: float, backend: str) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    expected = loss_with_stars(logits, [3 if label == STAR else label for label in target], penalty)
    found = ctc_loss(logits[None], *one(target, 5), star=STAR, star_penalty=penalty, reduction="sum", backend=backend)
    torch.testing.assert_close(found, expected, **TIGHT)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, **TIGHT)


def test_a_star_among_logits_of_half_precision_is_as_exact_as_they_are() -> None:
    logits = 5 * torch.randn(2, 40, 6).bfloat16()
    arguments = (torch.tensor([[1, STAR, 2], [STAR, 3, 0]]), torch.tensor([40, 33]), torch.tensor([3, 2]))
    found, exact = (ctc_loss(x, *arguments, star=STAR, reduction="none") for x in (logits, logits.double()))
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-6)


def test_one_star_alone_is_certain_and_an_impossible_text_stays_so() -> None:
    logits = torch.randn(2, 3, 4)
    arguments = (torch.tensor([[STAR, 0, 0, 0], [1, STAR, 2, 3]]), torch.tensor([3, 3]), torch.tensor([1, 4]))
    losses = ctc_loss(logits, *arguments, star=STAR, reduction="none")
    assert losses[1] == math.inf
    assert losses[0] <= 1e-5  # a star, and perhaps blanks beside it
    zeroed = ctc_loss(logits, *arguments, star=STAR, reduction="none", zero_infinity=True)
    assert zeroed[1] == 0


def test_weights_multiply_each_loss() -> None:
    logits, arguments = (
        torch.randn(2, 9, 5),
        (torch.tensor([[1, 2], [3, 3]]), torch.tensor([9, 7]), torch.tensor([2, 1])),
    )
    losses, weights = ctc_loss(logits, *arguments, reduction="none"), torch.tensor([0.25, 3.0], dtype=torch.float64)
    for reduction, expected in (
        ("none", losses * weights.float()),
        ("sum", (losses * weights.float()).sum()),
        ("mean", (losses * weights.float() / torch.tensor([2, 1])).mean()),
    ):
        found = ctc_loss(logits, *arguments, weights=weights, reduction=reduction)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"star": 2}, "`star` must lie outside .0, V = 5., got 2"),
        ({"star": STAR, "label_smoothing": 0.1}, "`label_smoothing` must be 0 where a `star`"),
        ({"weights": torch.ones(3)}, r"`weights` must be \(B,\), got shape \(3,\)"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict, message: str) -> None:
    arguments = (torch.tensor([[1, 2], [3, 3]]), torch.tensor([9, 7]), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match=message):
        ctc_loss(torch.randn(2, 9, 5), *arguments, **options)


def test_values_are_not_looked_at_where_that_is_not_wanted() -> None:
    logits = torch.randn(1, 6, 4)
    logits[0, 2, 1] = torch.nan
    arguments = (torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2]))
    assert ctc_loss(logits, *arguments, validate=False, backend="reference").isnan()
    with pytest.raises(ValueError, match="`logits` of utterance 0"):
        ctc_loss(logits, *arguments, backend="reference")
    with pytest.raises(ValueError, match="`logits` of utterance 0"):
        ctc_occupancies(logits, *arguments, backend="reference")


def test_the_module_passes_its_options_on() -> None:
    logits = torch.randn(2, 9, 5)
    arguments = (torch.tensor([[1, 0], [3, 3]]), torch.tensor([9, 7]), torch.tensor([1, 2]))
    options = {"blank": 2, "entropy": 0.2, "blank_penalty": 0.5, "backend": "loop"}
    expected = ctc_loss(logits, *arguments, reduction="none", **options) / torch.tensor([1, 2])
    assert torch.equal(CTCLoss(**options)(logits, *arguments), expected)


@pytest.mark.parametrize("backend", ["numba", "torch", "loop", "reference"])
@pytest.mark.parametrize("star", [None, STAR])
def test_padding_may_hold_anything(backend: str, star: int | None) -> None:
    logits = torch.randn(2, 6, 4)
    targets = torch.tensor([[1, 2], [3, 3 if star is None else star]])
    lengths = torch.tensor([6, 4]), torch.tensor([2, 2])
    expected = ctc_loss(logits, targets, *lengths, backend=backend, star=star)
    logits[1, 4:] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    logits.requires_grad_()
    loss = ctc_loss(logits, targets, *lengths, backend=backend, star=star)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[1, 4:].abs().max() == 0


@pytest.mark.parametrize("backend", ["numba", "torch", "loop", "reference"])
def test_symbols_that_are_impossible(backend: str) -> None:
    logits = torch.randn(1, 6, 5)
    logits[0, :, 4] = -torch.inf
    logits.requires_grad_()
    arguments = (torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2]))
    loss = ctc_loss(logits, *arguments, backend=backend)
    torch.testing.assert_close(loss, ctc_loss(logits[:, :, :4], *arguments, backend="reference"))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[0, :, 4].abs().max() == 0


def test_occupancies_of_torch_in_inference_mode() -> None:
    logits, arguments = torch.randn(1, 6, 5), (torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2]))
    expected = ctc_occupancies(logits, *arguments, backend="torch")
    with torch.inference_mode():
        torch.testing.assert_close(
            ctc_occupancies(logits.clone(), *(x.clone() for x in arguments), backend="torch"), expected
        )


@pytest.mark.parametrize(
    "options", [{"star": STAR, "star_penalty": math.nan}, {"star_penalty": -1.0}, {"entropy": math.nan}]
)
def test_weights_that_are_no_numbers_are_refused(options: dict) -> None:
    name = list(options)[-1]
    with pytest.raises(ValueError, match=f"`{name}`"):
        ctc_loss(torch.randn(1, 6, 5), torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2]), **options)
