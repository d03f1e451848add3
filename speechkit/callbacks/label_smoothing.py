"""Label smoothing for CTC: a share of what each frame is trained towards goes to other symbols."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.loss_term import LossTerm
from speechkit.data.datamodule import SpeechDataModule
from speechkit.losses import ctc_occupancies
from speechkit.masking import length_mask
from speechkit.text import Tokenizer

KINDS = ("uniform", "unigram", "alignment")


def unigram_distribution(texts: Iterable[str], tokenizer: Tokenizer) -> Tensor:
    """The labels of texts by their frequency, and the blank at 1 / V as in the uniform distribution: (V,) float64.

    No text tells how often the blank is right. At 1 / V, texts in which all labels are equally frequent give the
    uniform distribution.
    """
    counts = Counter(label for text in texts for label in tokenizer.encode(text))
    frequencies = torch.zeros(tokenizer.vocab_size, dtype=torch.float64)
    for label, count in counts.items():
        frequencies[label] = count
    of_blank = 1.0 / tokenizer.vocab_size
    frequencies *= (1.0 - of_blank) / frequencies.sum()
    frequencies[tokenizer.blank_id] = of_blank
    return frequencies


def moved_from_labels(occupancies: Tensor, blank: int) -> Tensor:
    """What all labels getting an equal part of the labels' occupancy takes from each: (B, T, V), no blank's.

    Args:
        occupancies: (B, T, V) see `speechkit.losses.ctc_occupancies`; overwritten.
        blank: id of the blank.
    """
    occupancies[:, :, blank] = 0.0
    occupancies -= occupancies.sum(dim=2, keepdim=True) / (occupancies.shape[2] - 1)
    occupancies[:, :, blank] = 0.0
    return occupancies


class LabelSmoothing(LossTerm):
    """Trains each frame towards (1 - e) times what CTC asks for plus e times another distribution.

    What CTC asks of a frame is the occupancy: its gradient is softmax less occupancies. The share e of it goes

    - "uniform": to all symbols alike, the blank among them, in every frame (Kim et al. 2018, arXiv 1711.10212);
    - "unigram": to the labels by their frequency in the training texts, so that rare ones are not pushed up (unigram
      smoothing, as in Pereyra et al. 2017, arXiv 1701.06548); the blank gets 1 / V as above;
    - "alignment": to all labels alike, but only of the occupancy of labels: what CTC asks of the blank stays.

    Most frames are blanks, and there the first two ask for labels where none is spoken: the more frames a label has,
    the more it costs, so for words a hundredth is already much. The third acts only where a label is emitted, as
    smoothing does in the models with one output a label that it was made for (Szegedy et al. 2016, arXiv 1512.00567),
    and leaves the blank alone, of which CTC makes too much by itself (Zeyer et al. 2021, arXiv 2105.14849). A tenth of
    it means the same for words and characters. The occupancies are those of the network, not differentiated. To smooth
    towards the neighbours in the text instead (Chorowski and Jaitly 2017, arXiv 1612.02695) would do nothing for a
    recording of one word.

    Given the occupancies, the moved share is linear in the logits: e sum_t sum_v (from - to) logit(v, t). So there are
    no log-probabilities, and "uniform" is a part of the loss's own kernel.

    Args:
        smoothing: the share e, in [0, 1).
        kind: "uniform", "unigram" or "alignment".

    Raises:
        ValueError: a share or a kind outside its range; when a training starts, two of the kinds "uniform" and
            "unigram", or "unigram" without the texts of a `SpeechDataModule`; see also `LossTerm`.
    """

    def __init__(self, smoothing: float = 0.01, *, kind: str = "uniform") -> None:
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"`smoothing` must lie in [0, 1), got {smoothing}.")
        if kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
        super().__init__(smoothing)
        self.smoothing, self.kind = smoothing, kind
        self._from_uniform = torch.zeros(0)

    def prepare(self, trainer: lightning.Trainer, task: Any) -> None:
        others = [other for other in trainer.callbacks if other is not self]  # type: ignore[attr-defined]
        if self._sets_option() and any(isinstance(other, LabelSmoothing) and other._sets_option() for other in others):
            raise ValueError('`callbacks` must hold one LabelSmoothing of kind "uniform" or "unigram", got more.')
        if self.kind != "unigram":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SpeechDataModule):
            raise ValueError(f'`kind` "unigram" needs the texts of a SpeechDataModule, got {type(data).__name__}.')
        prior = unigram_distribution((text or "" for text in data.training_texts()), task.tokenizer)
        self._from_uniform = 1.0 / len(prior) - prior

    def attach(self, loss: Any) -> list[RemovableHandle]:
        handles = [] if self.kind == "uniform" else super().attach(loss)
        if self._sets_option():
            handles.append(loss.register_forward_pre_hook(self._with_uniform, with_kwargs=True))
        return handles

    def _sets_option(self) -> bool:
        """Whether the loss's own `label_smoothing` is set: there is one for all plug-ins."""
        return self.kind != "alignment" and self.weight > 0.0

    def term(self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """(B,) what smoothing costs per label; of "unigram", that beyond the cost of "uniform"."""
        if self.kind == "unigram":
            of_frames = logits @ self._from_uniform.to(logits)
            cost = of_frames.masked_fill(~length_mask(input_lengths, logits.shape[1]), 0.0).sum(dim=1)
        else:
            blank = self._task.tokenizer.blank_id
            occupancies = ctc_occupancies(logits, targets, input_lengths, target_lengths, blank=blank, validate=False)
            cost = (moved_from_labels(occupancies, blank) * logits).sum(dim=(1, 2))
        return cost / target_lengths.clamp(min=1)

    def _with_uniform(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args, {**kwargs, "label_smoothing": self.smoothing} if self._task.training else kwargs)
