"""InfoNCE: tell the true future latent from negatives (van den Oord et al. 2018, arXiv 1807.03748, equation 4)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.masking import length_mask

SOURCES = ("same_utterance", "other_utterances", "mixed")


class Negatives(NamedTuple):
    """A pool of distractors for each utterance: where in the batch each was taken from."""

    utterance: Tensor  # (B, N) index into the batch
    frame: Tensor  # (B, N) index into its frames


class InfoNCE(NamedTuple):
    """Per-utterance results, each the mean over its predictions."""

    loss: Tensor  # (B,) nats
    accuracy: Tensor  # (B,) share of predictions whose positive scores highest
    predictions: Tensor  # (B,) how many there were


def draw_negatives(lengths: Tensor, num_negatives: int, *, source: str = "same_utterance") -> Negatives:
    """Draws N frames for each utterance, uniformly over the real frames of the source, with replacement.

    Args:
        lengths: (B,) frames.
        num_negatives: N.
        source: "same_utterance" (what is said matters, not who says it), "other_utterances", or "mixed" (half each).

    Raises:
        ValueError: an unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {source!r}.")
    batch = len(lengths)
    own = torch.arange(batch, device=lengths.device)[:, None].expand(batch, num_negatives)
    hop = torch.randint(1, max(2, batch), (batch, num_negatives), device=lengths.device)
    other = (own + hop) % batch
    if source == "same_utterance":
        utterance = own
    elif source == "other_utterances":
        utterance = other
    else:
        utterance = torch.where(torch.arange(num_negatives, device=lengths.device) % 2 == 0, own, other)
    fraction = torch.rand(batch, num_negatives, device=lengths.device)
    frame = (fraction * lengths[utterance]).long().clamp(max=max(0, int(lengths.max()) - 1))
    return Negatives(utterance, frame)


def infonce(
    predictions: Tensor, latents: Tensor, lengths: Tensor, negatives: Negatives, *, temperature: float = 0.1
) -> InfoNCE:
    """Cross entropy of each prediction's true latent among itself and the negatives, by cosine similarity.

    A negative that happens to be the positive itself is left out of that prediction's sum.

    Args:
        predictions: (B, T, K, D); [:, t, k - 1] predicts frame t + k.
        latents: (B, T, D).
        lengths: (B,) frames.
        negatives: a pool of N places for each utterance.
        temperature: divides the cosine similarities.
    """
    batch, num_frames, num_steps, _ = predictions.shape
    predictions = F.normalize(predictions, dim=-1)
    latents = F.normalize(latents, dim=-1)
    pool = latents[negatives.utterance, negatives.frame]  # (B, N, D)
    against = torch.einsum("btkd,bnd->btkn", predictions, pool)
    own = negatives.utterance == torch.arange(batch, device=lengths.device)[:, None]
    losses, correct, counts = [], [], []
    for step in range(1, num_steps + 1):
        target_frame = torch.arange(num_frames, device=lengths.device) + step
        valid = length_mask(lengths - step, num_frames)
        future = F.pad(latents[:, step:], (0, 0, 0, min(step, num_frames)))
        positive = (predictions[:, :, step - 1] * future).sum(dim=-1, keepdim=True)
        is_positive = (negatives.frame[:, None, :] == target_frame[None, :, None]) & own[:, None, :]
        distractors = against[:, :, step - 1].masked_fill(is_positive, -torch.inf)
        scores = torch.cat([positive, distractors], dim=-1) / temperature
        loss = torch.logsumexp(scores, dim=-1) - scores[..., 0]
        losses.append(loss.masked_fill(~valid, 0.0).sum(dim=1))
        correct.append(((distractors.amax(dim=-1) < positive[..., 0]) & valid).sum(dim=1))
        counts.append(valid.sum(dim=1))
    count = torch.stack(counts).sum(dim=0)
    total, hits = torch.stack(losses).sum(dim=0), torch.stack(correct).sum(dim=0)
    return InfoNCE(total / count.clamp(min=1), hits / count.clamp(min=1), count)
