"""Wildcards in the targets of CTC, for transcripts that are only in part known."""

import math

import torch
from torch import Tensor

from speechkit.losses.ctc.batch import Batch


def with_star(batch: Batch, star: int, penalty: float) -> tuple[Batch, float]:
    """The batch with one more symbol, V, which is worth all symbols together at exp(-penalty) and stands for the star.

    A path through the star passes one or more frames whatever they hold, the blank included, each at a cost of
    `penalty` nats: the star of Pratap et al. 2023 (arXiv 2305.13516), with a penalty as in Pratap et al. 2022 (Star
    Temporal Classification, arXiv 2201.12208), whose own star stands for no blanks.

    Returns:
        The batch, and by how much the new symbol raises the loss of each frame: log(1 + exp(-penalty)).
    """
    batch = batch.in_single_precision()
    logits = batch.logits.masked_fill(~batch.inside()[:, :, None], 0.0)  # padding may hold anything, NaN too
    log_totals = logits.logsumexp(dim=-1, keepdim=True) - penalty
    targets = torch.where(batch.targets == star, batch.logits.shape[2], batch.targets)
    extended = batch._replace(logits=torch.cat([logits, log_totals], dim=-1), targets=targets)
    return extended, math.log1p(math.exp(-penalty))


def without_star(losses: Tensor, batch: Batch, of_frame: float) -> Tensor:
    """Losses (B,) of a batch with a star, less what the new symbol adds to every frame; zeroed ones stay zero."""
    frames = batch.input_lengths.to(losses)
    return torch.where(losses > 0, losses - of_frame * frames, losses)
