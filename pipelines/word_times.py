"""When the words of a text are spoken, by CTC alignment of one recording."""

from typing import NamedTuple

import numpy as np
import torch

from speechkit.losses import ctc_align, ctc_feasible
from speechkit.probing.extraction import FeatureExtractor
from speechkit.recognizer import Recognizer


class Word(NamedTuple):
    """A word and when it is spoken."""

    text: str
    start_seconds: float
    end_seconds: float


def word_times(recognizer: Recognizer, waveform: np.ndarray, text: str) -> list[Word]:
    """Aligns the labels of a text with the recogniser's logits.

    Args:
        recognizer: the model.
        waveform: (N,) samples in [-1, 1] at the model's rate.
        text: normalised, of symbols that its tokenizer knows.

    Returns:
        The words of the text in order; none where the frames are too few for its labels.
    """
    tokenizer, lengths = recognizer.tokenizer, torch.tensor([len(waveform)])
    labels = torch.tensor([tokenizer.encode(text)], dtype=torch.long)
    if labels.numel() == 0:
        return []
    logits, frames = recognizer.logits(torch.from_numpy(waveform)[None], lengths)
    num_labels = torch.tensor([labels.shape[1]])
    if not bool(ctc_feasible(labels, frames.cpu(), num_labels)):
        return []
    aligned = ctc_align(logits.cpu(), labels, frames.cpu(), num_labels)
    extractor = FeatureExtractor(recognizer.front_end, recognizer.encoder, device=recognizer.device)
    edges = extractor.times(int(frames) + 1) - extractor.step_seconds / 2
    spans: dict[int, tuple[float, float]] = {}
    ids = labels[0].tolist()
    for place, (start, end) in enumerate(zip(aligned.starts[0].tolist(), aligned.ends[0].tolist(), strict=True)):
        if tokenizer.decode(ids[place : place + 1]):  # not a space
            word = len(tokenizer.decode(ids[: place + 1]).split()) - 1
            first, _ = spans.get(word, (float(edges[start]), 0.0))
            spans[word] = first, float(edges[end])
    return [Word(word, *spans[place]) for place, word in enumerate(text.split())]
