"""The inference bundle: load, transcribe. The one way into a trained model."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.audio import AudioError, load_audio, read_audio_info, resample
from speechkit.bundle import load_bundle
from speechkit.decoding import greedy_decode
from speechkit.pretrained import import_hf
from speechkit.text import Tokenizer

Input = str | os.PathLike[str] | np.ndarray | Tensor


@dataclass(frozen=True)
class Span:
    """A part of a file: what a manifest's row names."""

    path: str | os.PathLike[str]
    offset_seconds: float = 0.0
    duration_seconds: float | None = None


@dataclass(frozen=True)
class Transcript:
    """What was heard in one input; `error` is the reason where it could not be read, and the text is then empty."""

    text: str
    duration_seconds: float
    error: str | None = None


class Recognizer:
    """Front end, encoder, head, decoder.

    Args:
        front_end: waveform -> features.
        encoder: features -> representations.
        head: representations -> logits.
        tokenizer: label ids -> text.
        device: where the modules run.
    """

    def __init__(
        self, *, front_end: nn.Module, encoder: nn.Module, head: nn.Module, tokenizer: Tokenizer, device: str = "cpu"
    ) -> None:
        check_device(device)
        self.front_end: Any
        self.front_end, self.encoder, self.head = (part.to(device).eval() for part in (front_end, encoder, head))
        self.tokenizer = tokenizer
        self.device = device

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str = "cpu", trusted_packages: Sequence[str] = ()
    ) -> "Recognizer":
        """Reads a bundle (folder or .zip).

        Raises:
            ValueError: not a bundle, or one without a head (a pretrained encoder); one line.
        """
        bundle = load_bundle(path, trusted_packages=trusted_packages)
        if bundle.head is None or bundle.tokenizer is None:
            raise ValueError(f"{path}: a pretrained encoder without a head; fine-tune it first (speechkit finetune)")
        return cls(
            front_end=bundle.front_end,
            encoder=bundle.encoder,
            head=bundle.head,
            tokenizer=bundle.tokenizer,
            device=device,
        )

    @classmethod
    def from_hf(cls, path_or_name: str | os.PathLike[str], *, device: str = "cpu") -> "Recognizer":
        """Takes a `Wav2Vec2ForCTC` or `HubertForCTC` of Hugging Face: a folder, or a name on its hub.

        Raises:
            ValueError: no such checkpoint, another model, or one without a CTC head; one line.
            ImportError: a name on the hub, and huggingface_hub is not installed.
        """
        bundle = import_hf(path_or_name)
        if bundle.head is None or bundle.tokenizer is None:
            raise ValueError(f"{path_or_name}: a pretrained encoder without a CTC head; import and fine-tune it first")
        return cls(
            front_end=bundle.front_end,
            encoder=bundle.encoder,
            head=bundle.head,
            tokenizer=bundle.tokenizer,
            device=device,
        )

    @property
    def sample_rate_hz(self) -> int:
        return self.front_end.sample_rate_hz

    @torch.inference_mode()
    def logits(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> logits (B, T', V), frames (B,)."""
        features, frames = self.front_end(waveform.to(self.device), lengths.to(self.device))
        return self.head(*self.encoder(features, frames))

    def transcribe(
        self, inputs: Sequence[Input | Span], *, sample_rate_hz: int | None = None, batch_seconds: float = 120.0
    ) -> list[Transcript]:
        """Transcribes files and arrays; results in the order of the inputs.

        Args:
            inputs: paths, spans of files, or samples (N,) in [-1, 1].
            sample_rate_hz: rate of the arrays; the model's own if none.
            batch_seconds: audio in one batch, padding included.

        Returns:
            One `Transcript` for each input. A file that cannot be read has `error` set; the others are done.
        """
        results = dict(self.transcribe_iter(inputs, sample_rate_hz=sample_rate_hz, batch_seconds=batch_seconds))
        return [results[place] for place in range(len(inputs))]

    def transcribe_iter(
        self, inputs: Sequence[Input | Span], *, sample_rate_hz: int | None = None, batch_seconds: float = 120.0
    ) -> Iterator[tuple[int, Transcript]]:
        """Like `transcribe`, but yields (place in the inputs, transcript) as batches are done, shortest first."""
        if batch_seconds <= 0:
            raise ValueError(f"`batch_seconds` must be positive, got {batch_seconds}.")
        rate = sample_rate_hz or self.sample_rate_hz
        durations: dict[int, float] = {}
        for place, item in enumerate(inputs):
            try:
                durations[place] = _duration_seconds(item, rate)
            except AudioError as error:
                yield place, Transcript("", 0.0, str(error))
        for batch in _batches(durations, batch_seconds):
            waveforms: dict[int, np.ndarray] = {}
            for place in batch:
                try:
                    waveforms[place] = self._load(inputs[place], rate)
                except AudioError as error:
                    yield place, Transcript("", 0.0, str(error))
            for place, text in zip(waveforms, self._recognize(list(waveforms.values())), strict=True):
                yield place, Transcript(text, len(waveforms[place]) / self.sample_rate_hz)

    def _recognize(self, waveforms: list[np.ndarray]) -> list[str]:
        if not waveforms:
            return []
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        if int(self.front_end.output_lengths(lengths).max()) == 0:
            return [""] * len(waveforms)
        padded = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
        paths = greedy_decode(*self.logits(padded, lengths), blank=self.tokenizer.blank_id)
        return [self.tokenizer.decode(path) for path in paths]

    def _load(self, item: Input | Span, rate: int) -> np.ndarray:
        if isinstance(item, np.ndarray | Tensor):
            samples = np.asarray(item)
            if not np.issubdtype(samples.dtype, np.floating):
                raise ValueError(f"`inputs` must hold float samples in [-1, 1], got {samples.dtype}.")
            samples = samples.astype(np.float32)
            if samples.ndim != 1:
                raise ValueError(f"`inputs` must hold arrays of shape (N,), got {samples.shape}.")
            if not np.isfinite(samples).all():
                raise AudioError("array: holds samples that are NaN or infinite")
            return resample(samples, rate, self.sample_rate_hz)
        span = item if isinstance(item, Span) else Span(item)
        return load_audio(
            span.path,
            self.sample_rate_hz,
            offset_seconds=span.offset_seconds,
            duration_seconds=span.duration_seconds,
        )


def check_device(device: str) -> None:
    """Raises ValueError where the device does not exist or this torch cannot use it."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`device` must be one that torch can use here, got {device!r}: {reason}") from None


def _duration_seconds(item: Input | Span, rate: int) -> float:
    if isinstance(item, np.ndarray | Tensor):
        return len(item) / rate
    if isinstance(item, Span) and item.duration_seconds is not None:
        return item.duration_seconds
    return read_audio_info(Path(item.path if isinstance(item, Span) else item)).duration_seconds


def _batches(durations: dict[int, float], batch_seconds: float) -> Iterator[list[int]]:
    """Places in order of duration, in groups whose padded duration stays within the limit (or of one alone)."""
    batch: list[int] = []
    for place in sorted(durations, key=lambda place: durations[place]):
        if batch and durations[place] * (len(batch) + 1) > batch_seconds:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
