"""The acoustic model in float: front end, encoder and head as modules, from segments of audio to logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.audio import AudioSegment
from speechkit.encoders.receptive_field import encoder_stride, receptive_field
from speechkit.features.framing import first_frame_seconds

_GRID_SECONDS = 2  # batches of few different lengths: kernels are kept, and memory is found again, by shape


class AcousticModel:
    """Front end, encoder, head.

    Args:
        front_end: waveform -> features.
        encoder: features -> representations.
        head: representations -> logits.
        device: where they run.

    Raises:
        ValueError: a device that torch cannot use here.
    """

    def __init__(self, *, front_end: nn.Module, encoder: nn.Module, head: nn.Module, device: str = "cpu") -> None:
        check_device(device)
        self.front_end: Any
        self.front_end, self.encoder, self.head = (part.to(device).eval() for part in (front_end, encoder, head))
        self.device = device
        self.step_seconds = encoder_stride(encoder) * self.front_end.hop_seconds
        self.first_seconds = first_frame_seconds(self.front_end.features)

    @property
    def sample_rate_hz(self) -> int:
        return self.front_end.sample_rate_hz

    def describe_latency(self) -> str:
        """What a frame of the encoder sees, in words."""
        return receptive_field(self.encoder).describe(self.front_end.hop_seconds)

    @torch.inference_mode()
    def logits(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> logits (B, T', V), frames (B,)."""
        features, frames = self.front_end(waveform.to(self.device), lengths.to(self.device))
        return self.head(*self.encoder(features, frames))

    def segment_logits(self, segments: Sequence[AudioSegment]) -> list[Tensor]:
        """Logits (T, V) of each, on the CPU."""
        if not segments:
            return []
        lengths = torch.tensor([len(segment.samples) for segment in segments])
        if int(self.front_end.output_lengths(lengths).max()) == 0:
            nothing: Any = self.head
            return [torch.zeros(0, nothing.vocab_size) for _ in segments]
        grid = _GRID_SECONDS * self.sample_rate_hz
        padded = torch.zeros(len(segments), -(-int(lengths.max()) // grid) * grid)
        for row, segment in zip(padded, segments, strict=True):
            row[: len(segment.samples)] = torch.from_numpy(segment.samples)
        logits, frames = self.logits(padded, lengths)
        return [row[:count] for row, count in zip(logits.float().cpu(), frames.tolist(), strict=True)]


def check_device(device: str) -> None:
    """Raises ValueError where the device does not exist or this torch cannot use it."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`device` must be one that torch can use here, got {device!r}: {reason}") from None
