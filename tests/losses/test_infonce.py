"""InfoNCE against a loop over every prediction."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechkit.losses import draw_negatives, infonce
from speechkit.losses.infonce import Negatives


def by_loop(predictions, latents, lengths, negatives, temperature):
    losses, hits, counts = [], [], []
    for b in range(len(lengths)):
        terms, right = [], []
        for t in range(int(lengths[b])):
            for k in range(1, predictions.shape[2] + 1):
                if t + k >= lengths[b]:
                    continue
                others = [
                    latents[u, f]
                    for u, f in zip(negatives.utterance[b].tolist(), negatives.frame[b].tolist(), strict=True)
                    if (u, f) != (b, t + k)
                ]
                candidates = torch.stack([latents[b, t + k], *others])
                scores = F.cosine_similarity(predictions[b, t, k - 1][None], candidates) / temperature
                terms.append(torch.logsumexp(scores, 0) - scores[0])
                right.append(bool((scores[1:] < scores[0]).all()))
        losses.append(torch.stack(terms).mean())
        hits.append(sum(right) / len(right))
        counts.append(len(terms))
    return torch.stack(losses), torch.tensor(hits), counts


@pytest.mark.parametrize("source", ["same_utterance", "other_utterances", "mixed"])
def test_is_the_loop_over_predictions(source: str) -> None:
    torch.manual_seed(0)
    predictions = torch.randn(3, 9, 2, 4, dtype=torch.float64, requires_grad=True)
    latents = torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([9, 6, 4])
    negatives = draw_negatives(lengths, 12, source=source)
    result = infonce(predictions, latents, lengths, negatives, temperature=0.3)
    losses, hits, counts = by_loop(predictions, latents, lengths, negatives, 0.3)
    torch.testing.assert_close(result.loss, losses)
    torch.testing.assert_close(result.accuracy.double(), hits.double())
    assert result.predictions.tolist() == counts
    for mine, theirs in zip(
        torch.autograd.grad(result.loss.sum(), [predictions, latents], retain_graph=True),
        torch.autograd.grad(losses.sum(), [predictions, latents]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("source", ["same_utterance", "other_utterances", "mixed"])
def test_negatives_are_real_frames_of_the_source(source: str) -> None:
    lengths = torch.tensor([1, 5, 50])
    negatives = draw_negatives(lengths, 300, source=source)
    assert (negatives.frame >= 0).all()
    assert (negatives.frame < lengths[negatives.utterance]).all()
    own = negatives.utterance == torch.arange(3)[:, None]
    assert own.float().mean() == {"same_utterance": 1.0, "other_utterances": 0.0, "mixed": 0.5}[source]


def test_the_loss_of_a_coin_toss_is_log_of_the_candidates() -> None:
    predictions, latents = torch.zeros(1, 6, 1, 4), torch.randn(1, 6, 4)
    negatives = Negatives(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    result = infonce(predictions, latents, torch.tensor([6]), negatives)
    assert result.loss.item() == pytest.approx(math.log(2))
    assert result.accuracy.item() == 0


def test_an_utterance_too_short_to_predict_counts_nothing() -> None:
    lengths = torch.tensor([5, 1])
    result = infonce(torch.randn(2, 5, 3, 4), torch.randn(2, 5, 4), lengths, draw_negatives(lengths, 4))
    assert result.predictions.tolist() == [9, 0]
    assert result.loss[1] == 0
    assert result.loss.isfinite().all()


def test_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match="source"):
        draw_negatives(torch.tensor([3]), 2, source="elsewhere")
