"""Where the words of an utterance meet, from the forced alignment of a model that is being trained."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from speechkit.losses import ctc_align
from speechkit.text import Tokenizer


class WordBorders(NamedTuple):
    """The words of an utterance, and where they meet."""

    epoch: int  # in which it was found
    words: list[str]
    borders: list[float]  # one more than words, from 0 to 1, as shares of the utterance


def find_borders(starts: Sequence[int], ends: Sequence[int], words: Sequence[slice], num_frames: int) -> list[float]:
    """Half way between the last label of a word and the first one of the next: shares of the utterance.

    CTC puts a label wherever within a word it likes best (Sak et al. 2015, arXiv 1507.06947), so between two words
    there are most often frames of neither.

    Args:
        starts: first frame of each label.
        ends: one past the last frame of each label.
        words: which labels each word has.
        num_frames: of the utterance.
    """
    between = [(ends[one.stop - 1] + starts[next_one.start]) / 2 for one, next_one in itertools.pairwise(words)]
    return [0.0, *(frame / num_frames for frame in between), 1.0]


def align_words(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    tokenizer: Tokenizer,
    *,
    epoch: int,
) -> Iterator[WordBorders | None]:
    """Borders of each utterance, by `ctc_align`; None where it has no words, or no alignment.

    Args:
        logits: (B, T, V).
        targets: (B, U).
        input_lengths: (B,) frames.
        target_lengths: (B,) labels.
        tokenizer: labels -> words.
        epoch: that is noted.
    """
    path = ctc_align(logits, targets, input_lengths, target_lengths, blank=tokenizer.blank_id, validate=False)
    tensors = targets, path.starts, path.ends, input_lengths, target_lengths
    for labels, starts, ends, num_frames, num_labels in zip(*(tensor.tolist() for tensor in tensors), strict=True):
        own = labels[:num_labels]
        slices = tokenizer.split_words(own) if own else []
        if slices and starts[0] >= 0:
            words = [tokenizer.decode(own[word]) for word in slices]
            yield WordBorders(epoch, words, find_borders(starts, ends, slices, num_frames))
        else:
            yield None
