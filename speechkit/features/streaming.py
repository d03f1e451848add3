"""Front ends over a stream: pieces of a waveform of any length in, the frames of the whole waveform out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.features.cmvn import GlobalCMVN, SlidingCMVN
from speechkit.features.framing import edge_indices, left_edge


class FeatureStream:
    """Gives each frame as soon as its last sample has come.

    Args:
        features: a module with frames: `MFB`, `MFCC`, their presets or their integer twins.
        cmvn: `GlobalCMVN`, `SlidingCMVN` that is not centred, or none.

    Raises:
        ValueError: `features` or `cmvn` need the whole utterance.
    """

    def __init__(self, features: Any, cmvn: nn.Module | None = None) -> None:
        if not hasattr(features, "of_edged"):
            raise ValueError(
                f"`features` must be MFB, MFCC, a preset or an integer twin, got {type(features).__name__}."
            )
        if getattr(features, "dynamic_range", None) is not None:
            raise ValueError(
                f"`dynamic_range` must be none, since it needs the whole utterance, got {features.dynamic_range}."
            )
        if cmvn is not None and not (
            isinstance(cmvn, GlobalCMVN) or (isinstance(cmvn, SlidingCMVN) and not cmvn.center)
        ):
            raise ValueError(f"`cmvn` must not need what is still to come, got {type(cmvn).__name__}.")
        self._features, self._cmvn = features, cmvn
        self._device = next(features.buffers()).device
        self._left = left_edge(features.frame_length, features.hop_length, features.edges)
        self._skip = max(-self._left, 0)
        self._pending = torch.zeros(0, device=self._device)  # edged samples from the first of the next frame on
        self._beginning: list[Tensor] = []  # samples kept until the left edge can be laid on
        self._end = torch.zeros(0, device=self._device)  # last samples, which the right edge turns around
        self._samples, self._frames, self._started, self._finished = 0, 0, False, False
        self._nothing: Tensor = features.of_edged(torch.zeros(1, features.frame_length, device=self._device), 1)[0, :0]
        self._history = self._nothing[None]
        self._given = 0

    @property
    def latency_seconds(self) -> float:
        """How far behind a frame's middle its features come: half a frame; the first one later where edges turn."""
        return self._features.frame_length / 2 / self._features.sample_rate_hz

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """Samples (N,) in [-1, 1] -> the features (T, F) of the frames that they complete.

        Raises:
            ValueError: not one-dimensional, or the stream was finished.
        """
        if samples.dim() != 1:
            raise ValueError(f"`samples` must have one dimension, got shape {tuple(samples.shape)}.")
        if self._finished:
            raise ValueError("`push` must not follow `finish`.")
        samples = samples.float().to(self._device)
        self._samples += len(samples)
        keep = self._features.frame_length + abs(self._left)
        self._end = torch.cat([self._end, samples])[-keep:]
        if not self._started:
            self._beginning.append(samples)
            if self._samples <= max(self._left, 0):
                return self._normalised(self._nothing, last=False)
            samples = self._with_left_edge(torch.cat(self._beginning))
        return self._normalised(self._complete_frames(samples), last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The features (T, F) of the frames that lie across the end; the stream takes no more samples."""
        if self._finished:
            return self._nothing
        samples = torch.zeros(0, device=self._device)
        total = int(self._features.output_lengths(torch.tensor(self._samples)))
        if not self._started and self._samples > 0:
            samples = self._with_left_edge(torch.cat(self._beginning))
        self._finished = True
        if self._features.edges != "snip" and self._samples > 0:
            samples = torch.cat([samples, self._right_edge()])
        frames = self._complete_frames(samples, most=total - self._frames)
        return self._normalised(frames, last=True)

    def _with_left_edge(self, samples: Tensor) -> Tensor:
        self._started, self._beginning = True, []
        left = self._left
        if left <= 0:
            return samples
        if self._features.edges == "zero":
            return F.pad(samples, (left, 0))
        places = edge_indices(
            torch.arange(-left, 0, device=self._device)[None],
            torch.tensor([len(samples)], device=self._device),
            self._features.edges,
        )
        return torch.cat([samples[places[0]], samples])

    def _right_edge(self) -> Tensor:
        length = self._features.frame_length
        if self._features.edges == "zero":
            return torch.zeros(length, device=self._device)
        places = self._samples + torch.arange(length, device=self._device)[None]
        indices = edge_indices(places, torch.tensor([self._samples], device=self._device), self._features.edges)[0]
        return self._end[indices - (self._samples - len(self._end))]

    def _complete_frames(self, samples: Tensor, most: int | None = None) -> Tensor:
        pending = torch.cat([self._pending, samples])
        skipped = min(self._skip, len(pending))
        self._skip -= skipped
        pending = pending[skipped:]
        length, hop = self._features.frame_length, self._features.hop_length
        count = max(0, (len(pending) - length) // hop + 1)
        count = count if most is None else min(count, most)
        if count == 0:
            self._pending = pending
            return self._nothing
        features = self._features.of_edged(pending[None, : (count - 1) * hop + length], count)[0]
        if not bool(torch.isfinite(features.float().sum())):
            raise ValueError("`samples` must be finite, got NaN or infinity.")
        self._frames += count
        self._skip = max(0, count * hop - len(pending))
        self._pending = pending[count * hop :].clone()
        return features

    def _normalised(self, features: Tensor, *, last: bool) -> Tensor:
        """CMVN of new frames; a sliding one keeps the frames of its window, and waits for its first `min_frames`."""
        if not isinstance(self._cmvn, SlidingCMVN):
            if self._cmvn is None or len(features) == 0:
                return features
            return self._cmvn(features[None], torch.tensor([len(features)], device=self._device))[0][0]
        self._history = torch.cat([self._history, features[None]], dim=1)
        size = self._history.shape[1]
        if size == self._given or (size < self._cmvn.min_frames and self._frames == size and not last):
            return self._nothing
        normalised = self._cmvn(self._history, torch.tensor([size], device=self._device))[0][0, self._given :]
        self._history = self._history[:, -self._cmvn.window_frames :]
        self._given = self._history.shape[1]
        return normalised
