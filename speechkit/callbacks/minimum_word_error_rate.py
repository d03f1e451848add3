"""Minimum word error rate: transcripts are sampled, and those with fewer errors than the others made likelier."""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from speechkit.callbacks.loss_term import LossTerm
from speechkit.losses.ctc.once import with_gradient
from speechkit.masking import length_mask
from speechkit.seeding import random_uniform, seeds_for
from speechkit.text import Tokenizer


@torch.no_grad()
def sample_paths(logits: Tensor, num_samples: int, seeds: Sequence[int]) -> Tensor:
    """Draws a symbol for each frame, independently as CTC has it, by the inverse of the distribution function.

    Args:
        logits: (B, T, V).
        num_samples: K.
        seeds: B of them; an utterance's draws do not depend on its batch, nor on padding.

    Returns:
        (B, T, K) int64.
    """
    uniform = random_uniform((*logits.shape[:2], num_samples), seeds, logits.device).to(logits)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    return torch.searchsorted(cumulative, uniform, right=True).clamp_(max=logits.shape[2] - 1)


def word_error_rates(paths: Tensor, references: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Tensor:
    """Word errors of paths per word of the reference, or in all where the reference has none.

    Args:
        paths: (B, T, K) with blanks beyond an utterance's length.
        references: words of each utterance.
        tokenizer: labels -> words.

    Returns:
        (B, K) on the CPU.
    """
    symbols = paths.transpose(1, 2).cpu()
    kept = symbols != tokenizer.blank_id
    kept[:, :, 1:] &= symbols[:, :, 1:] != symbols[:, :, :-1]
    labels, counts = symbols[kept].tolist(), kept.sum(dim=2).tolist()
    rates, stop = [], 0
    for reference, counts_of_samples in zip(references, counts, strict=True):
        known: dict[tuple[int, ...], float] = {}  # samples are often the same
        for count in counts_of_samples:
            sample, stop = tuple(labels[stop : stop + count]), stop + count
            if sample not in known:
                errors = Levenshtein.distance(reference, tokenizer.decode(sample).split())
                known[sample] = errors / max(1, len(reference))
            rates.append(known[sample])
    return torch.tensor(rates).view(symbols.shape[:2])


def expected_risk(logits: Tensor, lengths: Tensor, paths: Tensor, risks: Tensor) -> Tensor:
    """The mean risk of sampled paths, whose gradient is REINFORCE's estimate for the expected risk (Williams 1992).

    Each sample's risk is compared with the mean of the others (a leave-one-out baseline: Kool et al. 2019, "Buy 4
    REINFORCE samples, get a baseline for free!"), which leaves the estimate without bias. The K differences sum to 0,
    so of the gradient of log p(path) = sum_t logit(path_t, t) - logsumexp only the first part remains.

    Args:
        logits: (B, T, V).
        lengths: (B,) frames.
        paths: (B, T, K) sampled from the logits, K > 1.
        risks: (B, K).

    Returns:
        (B,), differentiable once.
    """
    mean = risks.mean(dim=1, keepdim=True)
    advantages = (risks - mean) / (risks.shape[1] - 1)  # less the mean of the others, over K
    inside = length_mask(lengths, logits.shape[1])
    gradient = torch.zeros_like(logits).scatter_add_(2, paths, advantages[:, None] * inside[:, :, None])
    return with_gradient(logits, mean[:, 0], gradient)


class MinimumWordErrorRate(LossTerm):
    """Adds `weight` times the expected word error rate, estimated on transcripts that the network itself samples.

    Shannon 2017 (arXiv 1706.02776) samples as here; CTC's frames being independent, a path takes one draw a frame and
    no search (Graves and Jaitly 2014). Prabhavalkar et al. 2018 (arXiv 1712.01818) take the best texts of a beam
    search instead, and interpolate with the likelihood as here, against drifting away. Their errors are counts; here
    they are divided by the words of the reference, so that a weight means the same for long and short utterances, for
    words and characters. The risk is that of paths: alignments are sampled with the texts.

    It refines a network that recognises something already, and is off until `start_fraction` of the training is over.
    The draws of an utterance follow from its seed in the batch, whatever the number of processes.

    Args:
        weight: nats of loss for a word error rate of 100 %.
        num_samples: paths an utterance, at least 2.
        start_fraction: share of the training that passes without, in [0, 1).

    Raises:
        ValueError: an argument out of its range; see also `LossTerm`.
    """

    def __init__(self, weight: float = 1.0, *, num_samples: int = 4, start_fraction: float = 0.5) -> None:
        super().__init__(weight)
        if num_samples < 2:
            raise ValueError(f"`num_samples` must be at least 2, got {num_samples}.")
        if not 0.0 <= start_fraction < 1.0:
            raise ValueError(f"`start_fraction` must lie in [0, 1), got {start_fraction}.")
        self.num_samples, self.start_fraction = num_samples, start_fraction
        self._has_started = False

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._has_started = trainer.global_step >= self.start_fraction * trainer.estimated_stepping_batches

    def is_active(self) -> bool:
        return self._has_started and super().is_active()

    def term(self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """(B,) the mean word error rate of the samples."""
        tokenizer: Tokenizer = self._task.tokenizer
        seeds = seeds_for("minimum word error rate", self._batch.seeds)
        paths = sample_paths(logits.detach(), self.num_samples, seeds or [])
        outside = ~length_mask(input_lengths, logits.shape[1])
        paths.masked_fill_(outside[:, :, None], tokenizer.blank_id)
        texts = zip(targets.tolist(), target_lengths.tolist(), strict=True)
        references = [tokenizer.decode(labels[:count]).split() for labels, count in texts]
        risks = word_error_rates(paths, references, tokenizer).to(logits)
        return expected_risk(logits, input_lengths, paths, risks)
