"""CutMix: two utterances of a batch exchange some words, features and text alike."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.hooks import RemovableHandle

from speechkit.audio import PausePerturbation
from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.callbacks.mixup import Mixup, draw_pairs
from speechkit.callbacks.ramp import Ramp, check_share, training_progress, value_at
from speechkit.callbacks.spec_augment import refuse_time_warp
from speechkit.callbacks.word_borders import WordBorders, align_words
from speechkit.losses import CTCLoss
from speechkit.masking import zero_padding
from speechkit.text import Tokenizer, normalize_text


class Piece(NamedTuple):
    """Frames [start, end) of an utterance of the batch."""

    row: int
    start: int
    end: int


def choose_words(num_words: int, share: float, place: float) -> slice:
    """A stretch of `share` of the words, rounded, that begins after `place` in [0, 1) of those it can begin at."""
    length = round(share * num_words)
    first = int(place * (num_words - length + 1))
    return slice(first, first + length)


def exchange(
    own: WordBorders, other: WordBorders, out: slice, into: slice, *, rows: tuple[int, int], frames: tuple[int, int]
) -> tuple[list[Piece], str]:
    """An utterance in which words `out` give way to the words `into` of another one.

    Args:
        own: of the utterance.
        other: of the other one.
        out: words that go.
        into: words of the other one that come in their place.
        rows: of the utterance and the other one in the batch.
        frames: of each.

    Returns:
        What it is made of, and its text.
    """
    start, end = (round(own.borders[word] * frames[0]) for word in (out.start, out.stop))
    first, last = (round(other.borders[word] * frames[1]) for word in (into.start, into.stop))
    pieces = [Piece(rows[0], 0, start), Piece(rows[1], first, last), Piece(rows[0], end, frames[0])]
    return pieces, " ".join([*own.words[: out.start], *other.words[into], *own.words[out.stop :]])


def assemble(features: Tensor, lengths: Tensor, made_of: Mapping[int, Sequence[Piece]]) -> tuple[Tensor, Tensor]:
    """Rows of a batch are made anew from pieces of it.

    Args:
        features: (B, T, F).
        lengths: (B,) frames.
        made_of: row -> its pieces.

    Returns:
        (B, T', F), T' being longer than T if a row is; (B,).
    """
    num_frames, device = features.shape[1], features.device
    rows = torch.tensor(list(made_of), device=device)
    index = [
        torch.cat([torch.arange(row * num_frames + start, row * num_frames + end) for row, start, end in pieces])
        for pieces in made_of.values()
    ]
    counts = torch.tensor([len(places) for places in index], device=device)
    new_num_frames = max(num_frames, *map(len, index))
    places = pad_sequence([*index, torch.zeros(new_num_frames, dtype=torch.long)], batch_first=True)[:-1]
    new = zero_padding(features.flatten(0, 1)[places.to(device)], counts)
    features = F.pad(features, (0, 0, 0, new_num_frames - num_frames))
    return features.index_copy(0, rows, new), lengths.index_copy(0, rows, counts.to(lengths.dtype))


class CutMix(CleanedUp):
    """Exchanges words between pairs of utterances: new sentences of known words, with real joints.

    Yun et al. 2019 (arXiv 1905.04899) paste a rectangle of one image into another and mix the labels by its area. In
    speech a cut at the border of words takes its words along, so nothing is mixed: the features change at the seam
    `front_end`, the length with them, the labels at the seam `loss`, and each utterance is as long as what it is made
    of. A share of the words is drawn for each pair, and both give a stretch of so many, rounded; where that is no word,
    nothing changes.

    Borders are half way between the spikes of two words, by forced alignment with the model that trains: of passes that
    training makes anyhow, of utterances that are not cut, and kept for some epochs as shares of the utterance. So speed
    and tempo may be perturbed; what changes pauses may not, nor may utterances be joined. They are found from
    `wait_fraction` of the training on, and used from the epoch after that. They are in the checkpoint, not in the
    bundle.

    A text that does not fit into its frames any more counts 0, as the loss does with such utterances. Pairs are drawn
    within the batch of a rank, from torch's generator; only the first pass of a training step is cut. It should come
    before the callbacks that mask or warp, so that joints are masked and warped as the rest is.

    Args:
        probability: of a pair of utterances exchanging words.
        max_share: of the words; the share is uniform in [0, max_share].
        wait_fraction: of the training, before which the model's alignments are not worth having.
        refresh_epochs: how many epochs an alignment is used.

    Raises:
        ValueError: a share outside [0, 1], fewer than one epoch; at the start of training, a task without CTC, a
            `Mixup` before this callback, or data or a `SpecAugment` that move words from their share of the utterance.
    """

    order = Order.MIX
    exclusive = ("texts",)

    def __init__(
        self,
        probability: float | Ramp = 0.3,
        max_share: float = 0.5,
        *,
        wait_fraction: float = 0.2,
        refresh_epochs: int = 5,
    ) -> None:
        for name, value in (("probability", probability), ("max_share", max_share), ("wait_fraction", wait_fraction)):
            check_share(name, value)
        if refresh_epochs < 1:
            raise ValueError(f"`refresh_epochs` must be positive, got {refresh_epochs}.")
        self.probability, self.max_share = probability, max_share
        self.wait_fraction, self.refresh_epochs = wait_fraction, refresh_epochs
        self._borders: dict[str, WordBorders] = {}  # by the id of the utterance
        self._handles: list[RemovableHandle] = []
        self._batch: Any = None  # of a step whose front end has not run yet
        self._awaiting_loss: Any = None  # the batch, from the front end's pass to the loss
        self._lengths = torch.zeros(0, dtype=torch.long)  # (B,) frames before anything changed them
        self._texts: dict[int, str] = {}  # of the rows that are cut
        self._mixups: list[Mixup] = []
        self._progress, self._epoch = 1.0, 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(getattr(pl_module, "loss", None), CTCLoss):
            raise ValueError(f"CutMix needs a task with a CTC `loss`, {type(pl_module).__name__} has none.")
        _check_order(trainer, self)
        refuse_time_warp(self, trainer)
        self._mixups = [other for other in trainer.callbacks if isinstance(other, Mixup)]
        _check_data(trainer)
        self._handles = [
            pl_module.front_end.register_forward_hook(
                lambda module, args, output: self._cut(*output) if pl_module.training else output
            ),
            pl_module.loss.register_forward_pre_hook(
                lambda module, args: self._follow(pl_module, *args) if self._awaiting_loss is not None else args
            ),
        ]

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._progress, self._epoch = training_progress(trainer), trainer.current_epoch
        self._batch, self._awaiting_loss = batch, None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._share_between_ranks()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._batch = self._awaiting_loss = None

    def state_dict(self) -> dict[str, Any]:
        """The borders of all ranks; all of them must call it, as Lightning does for a checkpoint."""
        self._share_between_ranks()
        return {"borders": {name: tuple(found) for name, found in self._borders.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._borders = {name: WordBorders(*found) for name, found in state_dict["borders"].items()}

    def _share_between_ranks(self) -> None:
        """Each rank has seen other utterances in this epoch."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        new = {name: found for name, found in self._borders.items() if found.epoch == self._epoch}
        of_ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(of_ranks, new)
        for found in of_ranks:
            self._borders.update(found)

    def _cut(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F), frames (B,) -> (B, T', F), (B,)."""
        probability, batch = value_at(self.probability, self._progress), self._batch
        if batch is None or self._progress < self.wait_fraction or probability == 0.0 or self.max_share == 0.0:
            return features, lengths
        self._batch, self._awaiting_loss, self._lengths, self._texts = None, batch, lengths, {}
        pairs = draw_pairs(len(lengths), probability=probability, alpha=1.0, weight=0.5)
        draws = torch.rand(len(pairs.rows) // 2, 3).tolist()
        frames, made_of = lengths.tolist(), {}
        of_batch = [self._usable(*names) for names in zip(batch.ids, batch.texts, strict=True)]
        for (one, two), (share, *places) in zip(pairs.rows.view(-1, 2).tolist(), draws, strict=True):
            if of_batch[one] is None or of_batch[two] is None or 0 in (frames[one], frames[two]):  # a filler has 0
                continue
            words = {
                row: choose_words(len(of_batch[row].words), share * self.max_share, place)
                for row, place in zip((one, two), places, strict=True)
            }
            if all(chosen.start == chosen.stop for chosen in words.values()):
                continue
            for row, other in ((one, two), (two, one)):
                made_of[row], self._texts[row] = exchange(
                    of_batch[row],
                    of_batch[other],
                    words[row],
                    words[other],
                    rows=(row, other),
                    frames=(frames[row], frames[other]),
                )
        return assemble(features, lengths, made_of) if made_of else (features, lengths)

    def _usable(self, name: str, text: str) -> WordBorders | None:
        """Those of an earlier epoch: so it makes no difference when ranks tell each other of this one's.

        And of the same text: two manifests may have utterances of one name.
        """
        found = self._borders.get(name)
        if found is None or found.epoch >= self._epoch or " ".join(found.words) != normalize_text(text):
            return None
        return found

    def _follow(
        self, pl_module: Any, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Arguments of the loss -> the same with the labels of the new texts; aligns what is not cut."""
        batch, self._awaiting_loss = self._awaiting_loss, None
        plain_lengths = pl_module.encoder.output_lengths(self._lengths)
        # an utterance that is mixed with a longer one has other frames than its own
        is_plain = (input_lengths == plain_lengths) & (plain_lengths > 0)
        for mixup in self._mixups:  # nor has one of its equals
            is_plain[mixup.mixed_rows()] = False
        is_plain = is_plain.tolist()
        rows = [
            row for row, name in enumerate(batch.ids) if is_plain[row] and row not in self._texts and self._is_old(name)
        ]
        if rows:
            index = torch.tensor(rows, device=targets.device)
            aligned = align_words(
                logits.detach()[index],
                targets[index],
                input_lengths[index],
                target_lengths[index],
                pl_module.tokenizer,
                epoch=self._epoch,
            )
            for row, found in zip(rows, aligned, strict=True):
                words = normalize_text(batch.texts[row]).split()
                if found is not None and len(found.words) == len(words):  # labels may be spelt in other ways than words
                    self._borders[batch.ids[row]] = found._replace(words=words)
        if self._texts:
            targets, target_lengths = _with_texts(targets, target_lengths, self._texts, pl_module.tokenizer)
        return logits, targets, input_lengths, target_lengths

    def _is_old(self, name: str) -> bool:
        found = self._borders.get(name)
        return found is None or self._epoch - found.epoch >= self.refresh_epochs


def _with_texts(
    targets: Tensor, target_lengths: Tensor, texts: Mapping[int, str], tokenizer: Tokenizer
) -> tuple[Tensor, Tensor]:
    """Targets (B, U) and lengths (B,), in which some rows are of other texts."""
    labels = [torch.tensor(tokenizer.encode(text), dtype=targets.dtype) for text in texts.values()]
    num_labels = max(targets.shape[1], *map(len, labels))
    padded = pad_sequence([*labels, targets.new_zeros(num_labels, device="cpu")], batch_first=True)[:-1]
    rows = torch.tensor(list(texts), device=targets.device)
    counts = torch.tensor([len(row) for row in labels], dtype=target_lengths.dtype, device=target_lengths.device)
    targets = F.pad(targets, (0, num_labels - targets.shape[1]))
    return targets.index_copy(0, rows, padded.to(targets.device)), target_lengths.index_copy(0, rows, counts)


def _check_order(trainer: Any, callback: CutMix) -> None:
    """A mixture has two texts, and no words that could be cut out with one."""
    for other in trainer.callbacks:
        if other is callback:
            return
        if isinstance(other, Mixup):
            raise ValueError(f"`callbacks` must hold CutMix before {type(other).__name__}, got it behind.")


def _check_data(trainer: Any) -> None:
    data = getattr(trainer, "datamodule", None)
    if getattr(data, "joining", None) is not None:
        raise ValueError("`joining` must be none with CutMix, which keeps alignments from one epoch to the next.")
    if any(isinstance(perturbation, PausePerturbation) for perturbation in getattr(data, "perturbations", ())):
        raise ValueError("`perturbations` must not hold PausePerturbation with CutMix, which keeps alignments.")
