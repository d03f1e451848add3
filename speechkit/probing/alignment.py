"""When each character of an utterance is said, by CTC: from a recogniser, or from a head fitted on frozen frames."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.audio import AudioError
from speechkit.bundle import Bundle
from speechkit.data import Utterance
from speechkit.heads import CTCHead
from speechkit.losses import ctc_align, ctc_feasible, ctc_loss
from speechkit.probing.extraction import FeatureExtractor
from speechkit.text import CharTokenizer, WordTokenizer, normalize_text

_BATCH_UTTERANCES = 32


class Label(NamedTuple):
    """A label where it is said; its first and last frame are inside."""

    symbol: str
    start_seconds: float
    end_seconds: float


def fit_ctc_head(
    frames: Sequence[Tensor], targets: Sequence[Tensor], vocab_size: int, *, num_steps: int = 400, seed: int = 0
) -> CTCHead:
    """A linear CTC head, with the frames' statistics folded in; nothing else learns.

    Args:
        frames: (T, D) of each utterance; those too short for their labels teach nothing.
        targets: (U,) of each.
        vocab_size: V.
        num_steps: of Adam, each with 32 utterances.
        seed: of their order.
    """
    joined = torch.cat(list(frames))
    mean, std = joined.mean(dim=0), joined.std(dim=0, correction=0).clamp(min=1e-6)
    head = CTCHead(input_dim=joined.shape[1], vocab_size=vocab_size)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_steps)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(num_steps):
        order = order or torch.randperm(len(frames), generator=generator).tolist()
        batch, order = order[:_BATCH_UTTERANCES], order[_BATCH_UTTERANCES:]
        lengths = torch.tensor([len(frames[place]) for place in batch])
        target_lengths = torch.tensor([len(targets[place]) for place in batch])
        x = (pad_sequence([frames[place] for place in batch], batch_first=True) - mean) / std
        labels = pad_sequence([targets[place] for place in batch], batch_first=True)
        loss = ctc_loss(head(x, lengths)[0], labels, lengths, target_lengths, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        head.projection.weight.div_(std)
        head.projection.bias.sub_(head.projection.weight @ mean)
    return head.eval()


def align_labels(
    logits: Tensor, targets: Tensor, symbols: Sequence[str], times: Tensor, step_seconds: float
) -> list[Label] | None:
    """The best path of one utterance through its labels.

    Args:
        logits: (T, V), blank 0.
        targets: (U,).
        symbols: of the labels 1, 2, ...
        times: (T,) seconds, the middles of the frames.
        step_seconds: from one frame to the next.

    Returns:
        Its labels in order; none where the frames are too few for them.
    """
    lengths, target_lengths = torch.tensor([len(logits)]), torch.tensor([len(targets)])
    if len(targets) == 0 or not bool(ctc_feasible(targets[None], lengths, target_lengths)):
        return None
    path = ctc_align(logits[None], targets[None], lengths, target_lengths)
    labels = []
    for label, start, end in zip(targets.tolist(), path.starts[0].tolist(), path.ends[0].tolist(), strict=True):
        first, last = float(times[start]), float(times[end - 1])
        labels.append(Label(symbols[label - 1], first - step_seconds / 2, last + step_seconds / 2))
    return labels


def align_text(logits: Tensor, text: str, tokenizer: Any, extractor: FeatureExtractor) -> list[Label] | None:
    """The characters or words of a normalised text; none where they do not fit, or the tokenizer lacks one.

    Args:
        logits: (T, V) of a head over the extractor's frames.
        text: what is said.
        tokenizer: `CharTokenizer` or `WordTokenizer`.
        extractor: knows when the frames are.
    """
    try:
        targets = torch.tensor(tokenizer.encode(text), dtype=torch.long)
    except ValueError:
        return None
    return align_labels(logits, targets, tokenizer.symbols, extractor.times(len(logits)), extractor.step_seconds)


def align_by(aligner: Bundle, utterances: Sequence[Utterance], *, device: str = "cpu") -> list[list[Label] | None]:
    """When a recogniser says that the characters or words of each utterance's text are said.

    Args:
        aligner: a recogniser.
        utterances: of a manifest.
        device: where it runs.

    Returns:
        Labels of each utterance; none where it has no text, or none that can be aligned.

    Raises:
        ValueError: not a recogniser of characters or words.
    """
    if aligner.head is None or not isinstance(aligner.tokenizer, CharTokenizer | WordTokenizer):
        kind = "an encoder" if aligner.head is None else f"one with {type(aligner.tokenizer).__name__}"
        raise ValueError(f"`aligner` must be a recogniser with CharTokenizer or WordTokenizer, got {kind}.")
    extractor = FeatureExtractor(aligner.front_end, aligner.encoder, device=device)
    head = aligner.head.cpu().eval()
    labels: list[list[Label] | None] = []
    for utterance, frames in zip(utterances, extractor.read(utterances), strict=True):
        text = normalize_text(utterance.text or "")
        if isinstance(frames, AudioError) or not text:
            labels.append(None)
        else:
            labels.append(align_text(head_logits(head, frames), text, aligner.tokenizer, extractor))
    return labels


@torch.no_grad()
def head_logits(head: nn.Module, frames: Tensor) -> Tensor:
    """(T, D) of one utterance -> (T, V)."""
    return head(frames[None], torch.tensor([len(frames)]))[0][0]


def labels_of_frames(labels: Sequence[Label], times: Tensor) -> list[str | None]:
    """The label in which each frame's middle (T,) lies; none between labels."""
    of_frames: list[str | None] = [None] * len(times)
    for label in labels:
        inside = (times >= label.start_seconds) & (times < label.end_seconds)
        for place in inside.nonzero()[:, 0].tolist():
            of_frames[place] = label.symbol
    return of_frames


def words_of(labels: Sequence[Label], *, are_words: bool) -> list[Label]:
    """Characters between spaces, joined; labels that are words already are left as they are."""
    if are_words:
        return list(labels)
    words: list[list[Label]] = [[]]
    for label in labels:
        if label.symbol == " ":
            words.append([])
        else:
            words[-1].append(label)
    return [
        Label("".join(label.symbol for label in word), word[0].start_seconds, word[-1].end_seconds)
        for word in words
        if word
    ]
