"""InfoNCE against a loop over every prediction, against a known mutual information, and in bounded memory."""

import math
from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from speechkit.losses import Negatives, draw_negatives, draw_negatives_per_anchor, infonce

SOURCES = ["same_utterance", "other_utterances", "mixed"]


def comparisons(
    predictions: Tensor, lengths: Tensor, negatives: Negatives, codes: Tensor | None = None
) -> Iterator[tuple[int, Tensor, int, list[tuple[int, int]]]]:
    """Every (utterance, prediction, true frame, places of its negatives), one after the other."""
    for b in range(len(lengths)):
        for t in range(int(lengths[b])):
            ahead = [(t + k, predictions[b, t, k - 1]) for k in range(1, predictions.shape[2] + 1)] \
                if predictions.dim() == 4 else [(t, predictions[b, t])]  # fmt: skip
            for target, prediction in ahead:
                if target >= lengths[b]:
                    continue
                if negatives.utterance is None:
                    places = [(b, f) for f in negatives.frame[b, t].tolist()]
                else:
                    places = list(zip(negatives.utterance[b].tolist(), negatives.frame[b].tolist(), strict=True))
                places = [place for place in places if place != (b, target) and place[1] >= 0]
                if codes is not None:
                    places = [place for place in places if codes[place] != codes[b, target]]
                if places:
                    yield b, prediction, target, places


def by_loop(predictions, latents, lengths, negatives, *, temperature, score="cosine", codes=None, num_hardest=None):
    similarity = F.cosine_similarity if score == "cosine" else lambda a, b: (a * b).sum(dim=-1)
    terms = [[] for _ in lengths]
    hits, bounds, gaps = ([[] for _ in lengths] for _ in range(3))
    for b, prediction, target, places in comparisons(predictions, lengths, negatives, codes):
        positive = similarity(prediction[None], latents[b, target][None]) / temperature
        others = torch.stack([latents[place] for place in places])
        scores = similarity(prediction[None], others) / temperature
        if num_hardest is not None:
            others = torch.stack([latents[place] for place in sorted(set(places))])
            scores = similarity(prediction[None], others) / temperature
        gaps[b].append(temperature * (positive[0] - scores.mean()).item())
        if num_hardest is not None:
            scores = scores.sort(descending=True).values[:num_hardest]
        terms[b].append(torch.logsumexp(torch.cat([positive, scores]), 0) - positive[0])
        hits[b].append(float((scores < positive).all()))
        bounds[b].append(math.log(1 + len(scores)) - terms[b][-1].item())
    losses = torch.stack([torch.stack(row).mean() if row else latents.sum() * 0 for row in terms])
    means = [torch.tensor([sum(row) / max(1, len(row)) for row in rows]) for rows in (hits, bounds, gaps)]
    return losses, *means, [len(row) for row in terms]


def random_batch(*, anchors: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    shape = (3, 9, 4) if anchors else (3, 9, 2, 4)
    predictions = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    latents = torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True)
    return predictions, latents, torch.tensor([9, 6, 4])


def assert_is_the_loop(predictions: Tensor, latents: Tensor, lengths: Tensor, negatives: Negatives, **options) -> None:
    chunk_size = options.pop("chunk_size", 128)
    result = infonce(predictions, latents, lengths, negatives, chunk_size=chunk_size, **options)
    losses, hits, bounds, gaps, counts = by_loop(predictions, latents, lengths, negatives, **options)
    torch.testing.assert_close(result.loss, losses)
    torch.testing.assert_close(result.accuracy, hits.double())
    torch.testing.assert_close(result.bound, bounds.double())
    torch.testing.assert_close(result.score_gap, gaps.double(), atol=1e-6, rtol=1e-5)
    assert not result.score_gap.requires_grad
    assert result.predictions.tolist() == counts
    for mine, theirs in zip(
        torch.autograd.grad(result.loss.sum(), [predictions, latents], retain_graph=True),
        torch.autograd.grad(losses.sum(), [predictions, latents]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("chunk_size", [1, 5, 12])
@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("source", SOURCES)
def test_is_the_loop_over_predictions(source: str, score: str, chunk_size: int) -> None:
    torch.manual_seed(0)
    predictions, latents, lengths = random_batch()
    negatives = draw_negatives(lengths, 12, source=source)
    options = {"temperature": 0.3, "score": score, "chunk_size": chunk_size}
    assert_is_the_loop(predictions, latents, lengths, negatives, **options)


@pytest.mark.parametrize("chunk_size", [4, 30])
def test_hardest_negatives_are_the_loops(chunk_size: int) -> None:
    torch.manual_seed(0)
    predictions, latents, lengths = random_batch()
    pool = draw_negatives(lengths, 30, source="mixed")  # more than there are frames: with repeats
    assert_is_the_loop(predictions, latents, lengths, pool, temperature=0.3, num_hardest=5, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [3, 7])
@pytest.mark.parametrize("with_codes", [False, True])
def test_negatives_of_each_anchor_are_the_loops(with_codes: bool, chunk_size: int) -> None:
    torch.manual_seed(0)
    predictions, latents, lengths = random_batch(anchors=True)
    negatives = draw_negatives_per_anchor(lengths, 7)
    codes = torch.randint(4, (3, 9)) if with_codes else None
    assert_is_the_loop(predictions, latents, lengths, negatives, temperature=0.3, codes=codes, chunk_size=chunk_size)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    predictions, latents, lengths = random_batch()
    negatives = draw_negatives(lengths, 12, source="mixed")
    plain = infonce(predictions, latents, lengths, negatives)
    padded = infonce(
        F.pad(predictions, (0, 0, 0, 0, 0, 5), value=7.0), F.pad(latents, (0, 0, 0, 5), value=-9.0), lengths, negatives
    )
    for mine, other in zip(plain, padded, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_loss_of_a_coin_toss_is_log_of_the_candidates() -> None:
    predictions, latents = torch.zeros(1, 6, 1, 4), torch.randn(1, 6, 4)
    negatives = Negatives(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    result = infonce(predictions, latents, torch.tensor([6]), negatives)
    assert result.loss.item() == pytest.approx(math.log(2))
    assert result.bound.item() == pytest.approx(0.0, abs=1e-6)
    assert result.accuracy.item() == 0


def test_an_utterance_too_short_to_predict_counts_nothing() -> None:
    lengths = torch.tensor([5, 1, 0])
    predictions = torch.randn(3, 5, 3, 4, requires_grad=True)
    pool = draw_negatives(lengths, 40, source="mixed")
    result = infonce(predictions, torch.randn(3, 5, 4), lengths, pool, chunk_size=7)
    assert result.predictions.tolist() == [9, 0, 0]
    assert result.loss[1:].tolist() == result.bound[1:].tolist() == [0, 0]
    result.loss.sum().backward()
    assert predictions.grad.isfinite().all()
    assert not predictions.grad[1:].any()


@pytest.mark.parametrize("chunk_size", [2, 8])
def test_without_a_negative_there_is_no_prediction(chunk_size: int) -> None:
    lengths = torch.tensor([5])
    predictions = torch.randn(1, 5, 3, 4, requires_grad=True)
    alone = draw_negatives(lengths, 8, source="other_utterances")
    result = infonce(predictions, torch.randn(1, 5, 4), lengths, alone, chunk_size=chunk_size)
    assert result.predictions.item() == result.loss.item() == result.accuracy.item() == 0
    result.loss.sum().backward()
    assert not predictions.grad.any()


def test_a_batch_without_frames_counts_nothing() -> None:
    lengths = torch.tensor([0, 0])
    result = infonce(torch.zeros(2, 0, 3, 4), torch.zeros(2, 0, 4), lengths, draw_negatives(lengths, 8))
    assert result.predictions.tolist() == result.loss.tolist() == [0, 0]


def test_codes_all_alike_are_no_success() -> None:
    """A collapsed codebook leaves nothing to tell apart: no loss, but no accuracy, gap or prediction either."""
    x, lengths = torch.randn(1, 5, 4), torch.tensor([5])
    negatives = draw_negatives_per_anchor(lengths, 8)
    result = infonce(x, x, lengths, negatives, codes=torch.zeros(1, 5, dtype=torch.long))
    assert [value.item() for value in result] == [0.0] * 5


@pytest.mark.parametrize("score", ["cosine", "dot"])
def test_frames_all_alike_are_no_success(score: str) -> None:
    """Positives and negatives are scored in different ways, which differ by rounding."""
    latents, lengths = torch.randn(1, 1, 32).expand(4, 10, 32), torch.tensor([10] * 4)
    result = infonce(torch.randn(4, 10, 3, 32), latents, lengths, draw_negatives(lengths, 100), score=score)
    assert result.accuracy.tolist() == [0.0] * 4


def test_gap_of_known_predictions() -> None:
    """Of predictions that are the latents, cosine 1 to the true ones and about 0 to others; of noise, 0."""
    torch.manual_seed(0)
    latents, lengths = torch.randn(2, 200, 64), torch.tensor([200, 150])
    negatives = draw_negatives_per_anchor(lengths, 50)
    for temperature in (0.1, 1.0):
        perfect = infonce(latents, latents, lengths, negatives, temperature=temperature).score_gap
        torch.testing.assert_close(perfect, torch.ones(2), atol=0.05, rtol=0)
        noise = infonce(torch.randn(2, 200, 64), latents, lengths, negatives, temperature=temperature).score_gap
        torch.testing.assert_close(noise, torch.zeros(2), atol=0.05, rtol=0)
    opposite = infonce(-latents, latents, lengths, negatives).score_gap
    torch.testing.assert_close(opposite, -torch.ones(2), atol=0.05, rtol=0)


@pytest.mark.parametrize("correlation", [0.6, 0.9, 0.95])
def test_bound_of_the_optimal_critic_is_the_mutual_information_of_gaussians(correlation: float) -> None:
    """log p(y | x) / p(y) of a Gaussian pair is quadratic, so a dot product of x, x^2, 1 with y, 1, y^2, scaled."""
    torch.manual_seed(0)
    x = torch.randn(4, 2000, dtype=torch.float64)
    y = correlation * x + math.sqrt(1 - correlation**2) * torch.randn_like(x)
    linear, square = correlation / (1 - correlation**2), -0.5 * correlation**2 / (1 - correlation**2)
    predictions = torch.stack([linear * x, square * x**2, torch.ones_like(x)], dim=-1)
    latents = torch.stack([y, torch.ones_like(y), square * y**2], dim=-1)
    lengths = torch.tensor([2000] * 4)
    pool = draw_negatives(lengths, 1023, source="other_utterances", seeds=[1, 2, 3, 4])
    bound = infonce(predictions, latents, lengths, pool, temperature=1.0, score="dot").bound.mean().item()
    truth = -0.5 * math.log(1 - correlation**2)
    assert truth < math.log(1024) / 4
    assert bound == pytest.approx(truth, rel=0.05)


def peak_bytes(profiler: profile) -> int:
    """The most memory that was allocated at a time since the profiler's start."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("num_hardest", [None, 20])
def test_chunks_bound_the_memory_and_change_no_gradient(num_hardest: int | None) -> None:
    torch.manual_seed(0)
    predictions = torch.randn(2, 50, 4, 8, dtype=torch.float64, requires_grad=True)
    latents = torch.randn(2, 50, 8, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([50, 41])
    pool = draw_negatives(lengths, 1024, source="mixed")
    gradients, peaks = [], []
    for chunk_size in (1024, 64):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            result = infonce(predictions, latents, lengths, pool, chunk_size=chunk_size, num_hardest=num_hardest)
            gradients.append(torch.autograd.grad(result.loss.sum(), [predictions, latents]))
        peaks.append(peak_bytes(profiler))
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, chunked)
    scores = 2 * 200 * 1024 * latents.element_size()
    assert peaks[0] > 2 * scores
    assert peaks[1] < scores / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"score": "euclid"}, "score"),
        ({"num_hardest": 0}, "num_hardest"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"negatives": draw_negatives_per_anchor(torch.tensor([5]), 4)}, "negatives"),
        ({"negatives": draw_negatives(torch.tensor([5, 5]), 4)}, "of 1 utterances, got those of 2"),
    ],
)
def test_wrong_calls_name_the_argument(options: dict, said: str) -> None:
    lengths = torch.tensor([5])
    negatives = options.pop("negatives", draw_negatives(lengths, 4))
    with pytest.raises(ValueError, match=said):
        infonce(torch.randn(1, 5, 3, 4), torch.randn(1, 5, 4), lengths, negatives, **options)
