"""Best-path decoding: the likeliest id of each frame, repeats collapsed, blanks dropped (Graves et al. 2006, 3.2).

Logits may be arrays or tensors; nothing here imports torch, so that an int8 model runs without it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from speechkit.decoding.hypothesis import Hypothesis

if TYPE_CHECKING:
    from torch import Tensor


class GreedySearch:
    """The likeliest path of each utterance, as a decoder: one hypothesis, whose score is the path's.

    Args:
        blank: id of the blank.
    """

    def __init__(self, *, blank: int = 0) -> None:
        self.blank = blank

    def decode(
        self, logits: "Tensor | np.ndarray", lengths: "Tensor | np.ndarray", **options: Any
    ) -> list[list[Hypothesis]]:
        """logits (B, T, V), lengths (B,) -> the one hypothesis of each; a search's options change nothing."""
        return [[self.decode_one(row[:length])] for row, length in zip(logits, lengths.tolist(), strict=True)]

    def decode_one(self, logits: "Tensor | np.ndarray") -> Hypothesis:
        """logits (T, V) of one utterance -> its hypothesis."""
        labels, _, _ = greedy_spans(logits, blank=self.blank)
        score = float(best_log_probs(logits).sum())
        return Hypothesis(labels, score, score, 0.0)


def greedy_decode(logits: "Tensor | np.ndarray", lengths: "Tensor | np.ndarray", *, blank: int = 0) -> list[list[int]]:
    """logits (B, T, V), lengths (B,) -> label ids of each utterance."""
    best = as_array(logits.argmax(-1))
    return [_runs(path[:length], blank)[0] for path, length in zip(best, lengths.tolist(), strict=True)]


def greedy_spans(logits: "Tensor | np.ndarray", *, blank: int = 0) -> tuple[list[int], list[int], list[int]]:
    """logits (T, V) of one utterance -> its label ids, and the first frame and the frame after the last of each."""
    return _runs(as_array(logits.argmax(-1)), blank)


def best_log_probs(logits: "Tensor | np.ndarray", *, temperature: float = 1.0) -> np.ndarray:
    """logits (T, V) -> (T,) natural log-probability of the likeliest id of each frame, float64."""
    scaled = as_array(logits).astype(np.float64) / temperature
    return -np.log(np.exp(scaled - scaled.max(axis=-1, keepdims=True, initial=-np.inf)).sum(axis=-1))


def as_array(x: Any) -> np.ndarray:
    """An array as it is, a tensor from wherever it is."""
    return x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()


def _runs(path: np.ndarray, blank: int) -> tuple[list[int], list[int], list[int]]:
    """Ids (T,) -> of each run that is no blank its id, first frame, and the frame after its last."""
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))[: len(starts)]
    kept = path[starts] != blank
    return path[starts[kept]].tolist(), starts[kept].tolist(), ends[kept].tolist()
