"""InfoNCE: tell the true latent from negatives (van den Oord et al. 2018, arXiv 1807.03748, equation 4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from speechkit.losses.contrast import compare, lowest
from speechkit.losses.negatives import Negatives


class InfoNCE(NamedTuple):
    """Per-utterance results, each the mean over its predictions."""

    loss: Tensor  # (B,) nats
    accuracy: Tensor  # (B,) share of predictions whose positive scores highest
    bound: Tensor  # (B,) nats: log(1 + negatives) - loss
    score_gap: Tensor  # (B,) the positive's score less the mean of its negatives', times the temperature; no gradient
    predictions: Tensor  # (B,) how many there were


def infonce(
    predictions: Tensor,
    latents: Tensor,
    lengths: Tensor,
    negatives: Negatives,
    *,
    temperature: float = 0.1,
    score: str = "cosine",
    candidates: Tensor | None = None,
    codes: Tensor | None = None,
    num_hardest: int | None = None,
    chunk_size: int = 128,
) -> InfoNCE:
    """Cross entropy of each prediction's true latent among itself and the negatives.

    A negative that is the positive itself is left out of that prediction's sum. A prediction without a true frame or
    without a negative does not count. `bound` is a lower bound on the mutual information of context and latent where
    the negatives come from the latents' marginal distribution (section 2.3 of the paper): not those of one speaker or
    utterance, and not the hardest ones. `score_gap`, of cosines in [-2, 2], is to all negatives, also where only the
    hardest count in the loss.

    Args:
        predictions: (B, T, K, D), where [:, t, k - 1] predicts frame t + k, or (B, T, D), where [:, t] predicts frame t
            (masked prediction: the masked frames, put together).
        latents: (B, T, D), the true ones.
        lengths: (B,) frames.
        negatives: a pool of N for each utterance, or, with (B, T, D) predictions, N for each of them.
        temperature: divides the scores.
        score: "cosine", or "dot", which with linear predictors is the bilinear score of the paper's equation 3.
        candidates: (B', T', D) that `negatives` point into, such as the latents of all ranks; none for `latents`.
        codes: (B', T') integers; negatives with the positive's code are left out too, for latents that repeat.
        num_hardest: use only so many of each prediction's negatives, those of highest score, repeats counted once; the
            choice itself has no gradient.
        chunk_size: negatives whose scores are in memory at a time; with more, backward computes them again.

    Raises:
        ValueError: an argument out of its range, or negatives that do not fit the predictions.
    """
    result = compare(
        predictions,
        latents,
        lengths,
        negatives,
        reduce=lambda scores, kept: scores.masked_fill(~kept, lowest(scores)).logsumexp(dim=-1),
        combine=torch.logaddexp,
        temperature=temperature,
        score=score,
        candidates=candidates,
        codes=codes,
        num_hardest=num_hardest,
        chunk_size=chunk_size,
    )
    loss = result.mean(torch.logaddexp(result.positive, result.negatives) - result.positive)
    chance = result.mean((1.0 + result.num_negatives.to(loss.dtype)).log())
    accuracy = result.mean(result.correct.to(loss.dtype))
    return InfoNCE(loss, accuracy, chance - loss.detach(), result.mean(result.gap), result.valid.sum(dim=1))
