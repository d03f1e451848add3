"""Cuts -> batches of waveforms and label ids. One item of the dataset is a whole batch, as a sampler draws it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from speechkit.audio import Perturbation, decode_audio, load_audio
from speechkit.data.archive import ArchivedCuts
from speechkit.data.joining import UtteranceJoining
from speechkit.data.sampler import Draw
from speechkit.text import Tokenizer

if TYPE_CHECKING:
    from lhotse import MonoCut


@dataclass(frozen=True)
class SpeechBatch:
    """What a training step sees; callbacks find here whatever they need of the batch."""

    waveform: Tensor  # (B, N) in [-1, 1]
    lengths: Tensor  # (B,) samples
    targets: Tensor  # (B, U) label ids
    target_lengths: Tensor  # (B,)
    weights: Tensor  # (B,) 0 for fillers
    loss_scale: float  # the loss of a step is loss_scale * sum(weights * losses)
    ids: list[str]
    texts: list[str]
    speakers: list[str | None]
    seeds: list[int]  # for what a step draws at random for each utterance, the same on whatever rank it is
    manifests: list[str | None] = field(default_factory=list)  # that name the utterances; none of archives

    def to(self, device: Any, **kwargs: Any) -> "SpeechBatch":
        """Moves the tensors; Lightning calls this."""
        return self._map(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> "SpeechBatch":
        """Pins the tensors; the loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "SpeechBatch":
        names = ("waveform", "lengths", "targets", "target_lengths", "weights")
        return replace(self, **{name: function(getattr(self, name)) for name in names})


class SpeechDataset(Dataset[SpeechBatch]):
    """Decodes, perturbs and collates.

    Args:
        cuts: utterances, each with one supervision, as `read_cuts` gives them, or `ArchivedCuts`.
        sample_rate_hz: rate of the waveforms.
        tokenizer: text -> ids; none gives empty targets.
        perturbations: applied to each waveform in order, with a generator seeded by (seed, epoch, index).
        crop_seconds: a longer utterance is cut to a random span of this length (for training without text).
        joining: makes longer utterances of several; not of archives.
        cache_bytes: decoded audio that is kept in memory.
        seed: of perturbations and crops.

    Raises:
        ValueError: a text that the tokenizer lacks, or none; of an archive, when it is drawn. `joining` with archives,
            or a perturbation for another sample rate.
    """

    def __init__(
        self,
        cuts: "Iterable[MonoCut]",
        *,
        sample_rate_hz: int,
        tokenizer: Tokenizer | None = None,
        perturbations: Sequence[Perturbation] = (),
        crop_seconds: float | None = None,
        joining: UtteranceJoining | None = None,
        cache_bytes: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.cuts = cuts if isinstance(cuts, ArchivedCuts) else list(cuts)
        self.sample_rate_hz, self.tokenizer, self.seed = sample_rate_hz, tokenizer, seed
        self.perturbations, self.crop_seconds, self.joining = tuple(perturbations), crop_seconds, joining
        if joining is not None and isinstance(self.cuts, ArchivedCuts):
            raise ValueError("`joining` must be none with archives, whose utterances cannot be had at random.")
        _check_rates(self.perturbations, sample_rate_hz)
        self._durations = [] if isinstance(self.cuts, ArchivedCuts) else self.durations_seconds
        self._targets = None if isinstance(cuts, ArchivedCuts) else [self._encode(cut) for cut in self.cuts]
        self._cache: dict[int, np.ndarray] = {}
        self._cache_bytes_left = cache_bytes

    def __len__(self) -> int:
        return len(self.cuts)

    @property
    def durations_seconds(self) -> list[float]:
        """Duration of each utterance as it will be drawn."""
        limit = self.crop_seconds or float("inf")
        return [min(cut.duration, limit) for cut in self.cuts]

    def __getitem__(self, draws: list[Draw]) -> SpeechBatch:
        """Draws of one batch -> the batch.

        Raises:
            AudioError: a file that cannot be decoded.
        """
        cuts = [self.cuts[draw.index] for draw in draws]
        items = [self._item(draw, cut) for draw, cut in zip(draws, cuts, strict=True)]
        waveforms, targets, texts = (list(column) for column in zip(*items, strict=True))
        supervisions = [cut.supervisions[0] for cut in cuts]
        real = torch.tensor([draw.weight > 0 for draw in draws])  # a filler is all padding: nothing sees it
        return SpeechBatch(
            waveform=pad_sequence(waveforms, batch_first=True),
            lengths=real * torch.tensor([len(waveform) for waveform in waveforms]),
            targets=pad_sequence(targets, batch_first=True),
            target_lengths=real * torch.tensor([len(target) for target in targets]),
            weights=torch.tensor([draw.weight for draw in draws]),
            loss_scale=draws[0].loss_scale,
            ids=[cut.id for cut in cuts],
            texts=texts,
            speakers=[supervision.speaker for supervision in supervisions],
            seeds=[self._seed(draw) for draw in draws],
            manifests=[cut.manifest if cut.has_custom("manifest") else None for cut in cuts],
        )

    def _item(self, draw: Draw, cut: "MonoCut") -> tuple[Tensor, Tensor, str]:
        """Waveform, labels and text of a draw; of those that are joined to it as well."""
        generator = np.random.default_rng((self.seed, draw.epoch, draw.index))
        waveform = self._waveform(draw.index, cut, generator)
        text = cut.supervisions[0].text or ""
        if self.joining is None:
            targets = self._encode(cut) if self._targets is None else self._targets[draw.index]
            return torch.from_numpy(waveform), targets, text
        indices = self.joining.followers(draw.index, self._durations, generator)
        waveforms = [waveform, *(self._waveform(index, self.cuts[index], generator) for index in indices)]
        text = " ".join([text, *(self.cuts[index].supervisions[0].text or "" for index in indices)])
        joined = self.joining.join(waveforms, self.sample_rate_hz, generator)
        return torch.from_numpy(joined), self._encode(cut, text), text

    def _encode(self, cut: "MonoCut", joined_text: str | None = None) -> Tensor:
        if self.tokenizer is None:
            return torch.zeros(0, dtype=torch.long)
        name, text = _name(cut), cut.supervisions[0].text
        if text is None:
            raise ValueError(f"{name}: has no `text`, which training with labels needs")
        try:
            return torch.tensor(self.tokenizer.encode(joined_text or text), dtype=torch.long)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _seed(self, draw: Draw) -> int:
        sequence = np.random.SeedSequence((self.seed, draw.epoch, draw.index))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def _waveform(self, index: int, cut: "MonoCut", generator: np.random.Generator) -> np.ndarray:
        samples = self.original(index, cut)
        if self.crop_seconds is not None and len(samples) > (wanted := round(self.crop_seconds * self.sample_rate_hz)):
            start = int(generator.integers(len(samples) - wanted + 1))
            samples = samples[start : start + wanted]
        for perturb in self.perturbations:
            samples = perturb(samples, generator)
        return np.ascontiguousarray(samples, dtype=np.float32)

    def original(self, index: int, cut: "MonoCut") -> np.ndarray:
        """The samples (N,) of an utterance before anything is changed; `cut` is the utterance of that index."""
        samples = self._cache.get(index)
        return self._load(index, cut) if samples is None else samples

    def _load(self, index: int, cut: "MonoCut") -> np.ndarray:
        source = cut.recording.sources[0]
        if source.type == "memory":
            samples = decode_audio(source.source, self.sample_rate_hz, name=_name(cut))
        else:
            samples = load_audio(
                source.source, self.sample_rate_hz, offset_seconds=cut.start, duration_seconds=cut.duration
            )
        if samples.nbytes <= self._cache_bytes_left:
            self._cache_bytes_left -= samples.nbytes
            self._cache[index] = samples
        return samples


def _check_rates(perturbations: Sequence[Perturbation], sample_rate_hz: int) -> None:
    for perturbation in perturbations:
        rate = getattr(perturbation, "sample_rate_hz", sample_rate_hz)
        if rate != sample_rate_hz:
            name = type(perturbation).__name__
            raise ValueError(f"`sample_rate_hz` of {name} must be that of the data, {sample_rate_hz}, got {rate}.")


def _name(cut: "MonoCut") -> str:
    """For messages: where the utterance comes from, and which one it is."""
    return f"{cut.manifest}: {cut.id}" if cut.has_custom("manifest") else cut.id
