"""Waveforms -> frames of an encoder (T, D) and the times at which they stand, whatever is asked for of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit.audio import AudioError, load_audio
from speechkit.data import Utterance
from speechkit.encoders.layers import layer_format, layer_outputs
from speechkit.encoders.receptive_field import encoder_stride
from speechkit.encoders.wav2vec2 import WaveformConvs
from speechkit.features.framing import first_frame_seconds

REPRESENTATIONS = ("context", "latents", "features")


class FeatureExtractor:
    """Frames of a frozen encoder.

    Args:
        front_end: waveform -> features.
        encoder: features -> representations.
        what: "context" (the encoder's output), "latents" (of one that has some), or "features": those of the front end,
            against which an encoder can be held.
        layer: one of `encoder.layers` instead of the output, counted from 0 or, if negative, from the end.
        device: where the modules run.

    Raises:
        ValueError: something that the encoder does not have.
    """

    def __init__(
        self,
        front_end: nn.Module,
        encoder: nn.Module,
        *,
        what: str = "context",
        layer: int | None = None,
        device: str = "cpu",
    ) -> None:
        if what not in REPRESENTATIONS:
            raise ValueError(f"`what` must be one of {', '.join(REPRESENTATIONS)}, got {what!r}.")
        if what == "latents" and not hasattr(encoder, "latents"):
            raise ValueError(f"`what` must not be 'latents' for {type(encoder).__name__}, which has none.")
        if layer is not None and what != "context":
            raise ValueError(f"`layer` goes with 'context' only, got {layer} and {what!r}.")
        self.front_end: Any = front_end.to(device).eval()
        self.encoder: Any = encoder.to(device).eval()
        self.what, self.layer, self.device = what, layer, device
        self._layout = None if layer is None else layer_format(encoder)
        if layer is not None and not -len(self.encoder.layers) <= layer < len(self.encoder.layers):
            raise ValueError(f"`layer` must lie in [0, {len(self.encoder.layers) - 1}], got {layer}.")
        self._stride = 1 if what == "features" else encoder_stride(encoder)

    @property
    def sample_rate_hz(self) -> int:
        return self.front_end.sample_rate_hz

    @property
    def dim(self) -> int:
        """D."""
        if self._layout is not None:
            return self._layout.dim
        if self.what == "features":
            return self.front_end.num_features
        return self.encoder.latent_dim if self.what == "latents" else self.encoder.output_dim

    @property
    def step_seconds(self) -> float:
        """From one frame to the next."""
        return self._stride * self.front_end.hop_seconds

    def times(self, num_frames: int) -> Tensor:
        """Seconds at which frames stand, float64 (T,): the middle of the input frame that each is centred on."""
        first = first_frame_seconds(self.front_end.features)
        convs = getattr(self.encoder, "subsampling", None)
        if self.what != "features" and isinstance(convs, WaveformConvs):  # unpadded: a latent begins where it stands
            first += (convs.receptive_field - 1) / 2 * self.front_end.hop_seconds
        return first + self.step_seconds * torch.arange(num_frames, dtype=torch.float64)

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Samples (N,) in [-1, 1] at the front end's rate -> float32 (T, D) of each, on the CPU; T may be 0."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        if int(self.front_end.output_lengths(lengths).max()) == 0:
            return [torch.zeros(0, self.dim) for _ in waveforms]
        padded = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True)
        frames, counts = self._represent(*self.front_end(padded.to(self.device), lengths.to(self.device)))
        return [row[:count].float().cpu() for row, count in zip(frames, counts.tolist(), strict=True)]

    def read(self, utterances: Sequence[Utterance], *, batch_seconds: float = 120.0) -> Iterator[Tensor | AudioError]:
        """Frames (T, D) of each utterance in order, or why its file cannot be read.

        Args:
            utterances: of a manifest.
            batch_seconds: audio in one batch, padding included.
        """
        waiting: list[np.ndarray | AudioError] = []
        longest = 0
        for utterance in utterances:
            try:
                item: np.ndarray | AudioError = load_audio(
                    utterance.audio_path,
                    self.sample_rate_hz,
                    offset_seconds=utterance.offset_seconds,
                    duration_seconds=utterance.duration_seconds,
                )
            except AudioError as error:
                item = error
            size = 0 if isinstance(item, AudioError) else len(item)
            if waiting and (len(waiting) + 1) * max(longest, size) > batch_seconds * self.sample_rate_hz:
                yield from self._finish(waiting)
                waiting, longest = [], 0
            waiting.append(item)
            longest = max(longest, size)
        yield from self._finish(waiting)

    def _finish(self, waiting: Sequence[np.ndarray | AudioError]) -> Iterator[Tensor | AudioError]:
        waveforms = [item for item in waiting if not isinstance(item, AudioError)]
        frames = iter(self(waveforms) if waveforms else [])
        for item in waiting:
            yield item if isinstance(item, AudioError) else next(frames)

    def _represent(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.what == "features":
            return features, lengths
        if self.layer is not None and self._layout is not None:
            outputs, lengths = layer_outputs(self.encoder, self._layout, features, lengths)
            return outputs[self.layer], lengths
        return self.encoder.latents(features, lengths) if self.what == "latents" else self.encoder(features, lengths)


def draw_utterances(utterances: Sequence[Utterance], minutes: float, seed: int) -> list[Utterance]:
    """Utterances at random until they are so long together; one without a duration counts as 10 s."""
    if not minutes > 0:
        raise ValueError(f"`minutes` must be positive, got {minutes:g}.")
    chosen, seconds = [], 0.0
    for place in np.random.default_rng(seed).permutation(len(utterances)):
        if seconds >= 60.0 * minutes:
            break
        chosen.append(utterances[place])
        seconds += utterances[place].duration_seconds or 10.0
    return chosen
