"""Passages -> what a decoder finds in them, and when the words are said; in batches that take little memory."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from speechkit.decoding import GreedySearch, Hypothesis, WordSpan, find_greedy_words, find_words, greedy_spans
from speechkit.text import Tokenizer
from speechkit.transcription.joining import Passage

if TYPE_CHECKING:
    from torch import Tensor

_MOST_LOGITS = 1 << 24  # of a batch, padding included: 64 MB


class Decoder(Protocol):
    """Logits (B, T, V) and frames (B,) -> hypotheses of each utterance, best first; see `BeamSearch.decode`."""

    def decode(
        self,
        logits: "Tensor",
        lengths: "Tensor",
        *,
        num_best: int | None = None,
        begins: Sequence[bool] | None = None,
        ends: Sequence[bool] | None = None,
    ) -> list[list[Hypothesis]]: ...


def search_passages(decoder: Decoder, passages: Sequence[Passage], num_best: int = 1) -> list[list[Hypothesis]]:
    """Hypotheses of each passage, best first."""
    if isinstance(decoder, GreedySearch):  # which needs no torch
        return [[decoder.decode_one(passage.logits)] for passage in passages]
    found: list[list[Hypothesis]] = [[] for _ in passages]
    for places in _batches(passages):
        batch = [passages[place] for place in places]
        logits, frames = _padded(batch)
        begins, ends = ([getattr(passage, name) for passage in batch] for name in ("begins", "ends"))
        rows = decoder.decode(logits, frames, num_best=num_best, begins=begins, ends=ends)
        for place, row in zip(places, rows, strict=True):
            found[place] = row
    return found


def passage_words(
    passages: Sequence[Passage], hypotheses: Sequence[Hypothesis], tokenizer: Tokenizer, temperature: float
) -> list[list[WordSpan]]:
    """The words of what was found in each passage, with their frames and confidences."""
    spans: list[list[WordSpan]] = [[] for _ in passages]
    searched = []
    for place, (passage, hypothesis) in enumerate(zip(passages, hypotheses, strict=True)):
        if hypothesis.labels == greedy_spans(passage.logits, blank=tokenizer.blank_id)[0]:
            spans[place] = find_greedy_words(passage.logits, tokenizer, temperature=temperature)
        else:
            searched.append(place)
    for group in _batches([passages[place] for place in searched]):
        places = [searched[index] for index in group]
        logits, frames = _padded([passages[place] for place in places])
        labels = [hypotheses[place].labels for place in places]
        rows = find_words(logits, frames, labels, tokenizer, temperature=temperature)
        for place, row in zip(places, rows, strict=True):
            spans[place] = row
    return [
        [span._replace(text=word) for span, word in zip(row, hypothesis.words or (), strict=False)] or row
        for row, hypothesis in zip(spans, hypotheses, strict=True)
    ]


def _batches(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Places of passages of like length."""
    batch: list[int] = []
    for place in sorted(range(len(passages)), key=lambda place: len(passages[place].logits)):
        frames, num_symbols = passages[place].logits.shape
        if batch and (len(batch) + 1) * frames * num_symbols > _MOST_LOGITS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _padded(passages: Sequence[Passage]) -> tuple[Any, Any]:
    """Logits (B, T, V) and frames (B,), on the CPU."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    logits = [torch.as_tensor(passage.logits).detach() for passage in passages]
    return pad_sequence(logits, batch_first=True), torch.tensor([len(row) for row in logits])
