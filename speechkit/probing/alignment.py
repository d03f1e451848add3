"""When each character of an utterance is said, by CTC: from a recogniser, or from a head fitted on frozen frames."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.heads import CTCHead
from speechkit.losses import ctc_align, ctc_feasible, ctc_loss

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
