"""Which transcripts of a model are good enough to learn from as if they were true."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from speechkit.masking import length_mask
from speechkit.text import normalize_text


@dataclass(frozen=True)
class PseudoLabelFilter:
    """Keeps what a model is sure of and what is neither cut short nor made up.

    A sequence model fails in ways a classifier cannot: it loses words or repeats them, surely. So besides confidence
    (Kahn et al. 2020, arXiv 1909.09116, section 3.2) the rate of speech counts, against that of the true texts.

    Args:
        min_confidence: least confidence, in [0, 1].
        min_length_ratio: fewest characters a second, over those of the true texts.
        max_length_ratio: most of them.

    Raises:
        ValueError: a confidence outside [0, 1], or ratios that leave nothing.
    """

    min_confidence: float
    min_length_ratio: float
    max_length_ratio: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ValueError(f"`min_confidence` must lie in [0, 1], got {self.min_confidence}.")
        if not 0.0 <= self.min_length_ratio < self.max_length_ratio:
            raise ValueError(
                f"`min_length_ratio` and `max_length_ratio` must satisfy 0 <= min < max, got {self.min_length_ratio} "
                f"and {self.max_length_ratio}."
            )

    def keeps(self, text: str, *, seconds: float, confidence: float, usual_rate: float) -> bool:
        """Whether an utterance is kept; one without a character never is.

        Args:
            text: what was heard.
            seconds: of audio.
            confidence: of the text.
            usual_rate: characters a second, see `characters_per_second`.
        """
        if not text or seconds <= 0:
            return False
        ratio = len(text) / seconds / usual_rate
        return confidence >= self.min_confidence and self.min_length_ratio <= ratio <= self.max_length_ratio


def characters_per_second(texts: Iterable[str | None], seconds: Iterable[float]) -> float:
    """Of transcribed utterances together, their texts normalised.

    Raises:
        ValueError: no text, or no audio.
    """
    characters, total = 0, 0.0
    for text, duration in zip(texts, seconds, strict=True):
        if text:
            characters, total = characters + len(normalize_text(text)), total + duration
    if not characters or total <= 0:
        raise ValueError("`texts` must hold a text of audio that is not empty, got none.")
    return characters / total


def emission_confidence(logits: Tensor, lengths: Tensor, *, blank: int = 0) -> Tensor:
    """The geometric mean of the best path's probabilities over the frames in which it emits a label.

    Frames of blank are left out: CTC has many of them and is sure of most, whatever it thinks of the labels.

    Args:
        logits: (B, T, V).
        lengths: (B,) frames.
        blank: id of the blank.

    Returns:
        (B,) in [0, 1]; 0 where nothing is emitted.
    """
    best, symbols = logits.float().log_softmax(dim=-1).max(dim=-1)
    emits = length_mask(lengths, logits.shape[1]) & (symbols != blank)
    count = emits.sum(dim=1)
    mean = best.masked_fill(~emits, 0.0).sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 0, mean.exp(), 0.0)
