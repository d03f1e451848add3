"""Noise-contrastive estimation: a classifier tells data from noise and so learns the ratio of their densities.

Gutmann and Hyvarinen 2010 (AISTATS, PMLR 9:297-304) and 2012 (JMLR 13:307-361). `nce` is the estimator, for any model
whose scores are log-densities up to a constant, which it learns too; `contrastive_nce` is its use on latents by wav2vec
(Schneider et al. 2019, arXiv 1904.05862, equation 2).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.losses.contrast import compare
from speechkit.losses.negatives import Negatives
from speechkit.masking import length_mask


class NCE(NamedTuple):
    """Per-utterance results, each the mean over its data points."""

    loss: Tensor  # (B,) nats, summed over a data point and its noise
    accuracy: Tensor  # (B,) share of data points that score higher than all their noise
    score_gap: Tensor  # (B,) the data's score less the mean of its noise's, times the temperature; no gradient
    predictions: Tensor  # (B,) how many data points there were


def nce(
    data_scores: Tensor,
    noise_scores: Tensor,
    *,
    data_log_noise: Tensor | float = 0.0,
    noise_log_noise: Tensor | float = 0.0,
    noise_ratio: float | None = None,
    lengths: Tensor | None = None,
) -> NCE:
    """Binary cross entropy of data against noise, where the logit is log p_model - log p_noise - log(noise_ratio).

    Minimised over a model with enough data, the scores are the normalised log-density of the data: a free constant in
    them becomes minus the log-partition function.

    Args:
        data_scores: (B, T) log-density of the model at the data, not necessarily normalised.
        noise_scores: (B, T, N) the same at N noise samples for each data point.
        data_log_noise: log-density of the noise at the data; 0 where the scores are log-ratios already.
        noise_log_noise: log-density of the noise at the noise.
        noise_ratio: noise samples to a data point; none for N.
        lengths: (B,) how many data points are real; none for all.

    Raises:
        ValueError: shapes that do not meet, no noise, or a ratio that is not positive.
    """
    if noise_scores.shape[:-1] != data_scores.shape or data_scores.dim() != 2 or noise_scores.shape[-1] == 0:
        raise ValueError(
            f"`noise_scores` must be of shape (B, T, N) for data of (B, T), N positive, "
            f"got {tuple(noise_scores.shape)} for {tuple(data_scores.shape)}."
        )
    log_ratio = _log_noise_ratio(noise_ratio, noise_scores.shape[-1])
    data = data_scores - data_log_noise - log_ratio
    noise = noise_scores - noise_log_noise - log_ratio
    everything = torch.full((len(data),), data.shape[1], device=data.device)
    valid = length_mask(everything if lengths is None else lengths, data.shape[1])
    count = valid.sum(dim=1)
    losses = (F.softplus(-data) + F.softplus(noise).sum(dim=-1)).masked_fill(~valid, 0.0)
    correct = (noise.amax(dim=-1) < data) & valid
    gap = (data_scores - noise_scores.mean(dim=-1)).detach().masked_fill(~valid, 0.0)
    loss, accuracy, score_gap = (values.sum(dim=1) / count.clamp(min=1) for values in (losses, correct, gap))
    return NCE(loss, accuracy, score_gap, count)


def contrastive_nce(
    predictions: Tensor,
    latents: Tensor,
    lengths: Tensor,
    negatives: Negatives,
    *,
    temperature: float = 1.0,
    score: str = "dot",
    noise_ratio: float | None = 1.0,
    candidates: Tensor | None = None,
    codes: Tensor | None = None,
    num_hardest: int | None = None,
    chunk_size: int = 128,
) -> NCE:
    """`nce` of each prediction's true latent against its negatives; the score is the log-ratio.

    As it stands, this is wav2vec's loss with lambda equal to the number of negatives (Schneider et al. 2019): each
    sigmoid sees the score itself. With `noise_ratio=None` it sees the score minus log N, and the best score is the
    log-ratio of densities, as in `nce`, where all N count; those that are left out make it less by log(N / kept).

    Args:
        predictions: (B, T, K, D) or (B, T, D), as for `infonce`.
        latents: (B, T, D), the true ones.
        lengths: (B,) frames.
        negatives: as for `infonce`; those that are left out there are left out here.
        temperature: divides the scores.
        score: "dot" or "cosine".
        noise_ratio: noise samples to a data point in the logit; none for N.
        candidates: (B', T', D) that `negatives` point into; none for `latents`.
        codes: (B', T') integers; negatives with the positive's code are left out too.
        num_hardest: use only so many of each prediction's negatives, those of highest score.
        chunk_size: negatives whose scores are in memory at a time.

    Raises:
        ValueError: an argument out of its range, or negatives that do not fit the predictions.
    """
    num_negatives = negatives.frame.shape[-1] if num_hardest is None else num_hardest
    log_ratio = _log_noise_ratio(noise_ratio, num_negatives)
    result = compare(
        predictions,
        latents,
        lengths,
        negatives,
        reduce=lambda scores, kept: (F.softplus(scores - log_ratio) * kept).sum(dim=-1),
        combine=torch.add,
        temperature=temperature,
        score=score,
        candidates=candidates,
        codes=codes,
        num_hardest=num_hardest,
        chunk_size=chunk_size,
    )
    loss = result.mean(F.softplus(log_ratio - result.positive) + result.negatives)
    accuracy = result.mean(result.correct.to(loss.dtype))
    return NCE(loss, accuracy, result.mean(result.gap), result.valid.sum(dim=1))


def _log_noise_ratio(noise_ratio: float | None, num_noise: int) -> float:
    ratio = float(num_noise) if noise_ratio is None else noise_ratio
    if not ratio > 0:
        raise ValueError(f"`noise_ratio` must be positive, got {noise_ratio}.")
    return math.log(ratio)
