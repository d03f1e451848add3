"""Cepstral mean and variance normalisation of features (B, T, F): over an utterance, a sliding window, or a corpus."""

from collections.abc import Iterable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from speechkit.masking import length_mask, zero_padding


class UtteranceCMVN(nn.Module):
    """Each feature of each utterance to mean 0 and, if asked, variance 1. Needs the whole utterance: no streaming.

    Args:
        variance: also divide by the standard deviation.
        floor: added to the variance, so that silence stays finite.
    """

    def __init__(self, *, variance: bool = True, floor: float = 1e-5) -> None:
        super().__init__()
        self.variance, self.floor = variance, floor

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> the same shapes."""
        counts = lengths.clamp(min=1)[:, None, None]
        mean = zero_padding(features, lengths).sum(dim=1, keepdim=True) / counts
        centered = zero_padding(features - mean, lengths)
        if self.variance:
            centered = centered * (centered.square().sum(dim=1, keepdim=True) / counts + self.floor).rsqrt()
        return centered, lengths


class SlidingCMVN(nn.Module):
    """Normalises each frame with the frames around or before it (Kaldi's `apply-cmvn-sliding`).

    Args:
        window_frames: length of the window.
        min_frames: at the start of an utterance the window reaches as far ahead as it takes to hold this many.
        center: the frame stands in the middle of its window; else at its end, which streams.
        variance: also divide by the standard deviation.
        floor: least variance.

    Raises:
        ValueError: windows that are not 1 <= min_frames <= window_frames.
    """

    def __init__(
        self,
        *,
        window_frames: int = 600,
        min_frames: int = 100,
        center: bool = False,
        variance: bool = False,
        floor: float = 1e-10,
    ) -> None:
        super().__init__()
        if not 1 <= min_frames <= window_frames:
            raise ValueError(f"`min_frames` must lie in [1, `window_frames` = {window_frames}], got {min_frames}.")
        self.window_frames, self.min_frames, self.center = window_frames, min_frames, center
        self.variance, self.floor = variance, floor

    def window(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """First and last + 1 frame of the windows of some frames: (B or 1, T), (B,) -> two (B, T)."""
        ends_at = lengths[:, None]
        if self.center:
            start = frames - self.window_frames // 2
            end = start + self.window_frames
        else:
            start = frames - self.window_frames
            end = frames + 1
        end = torch.where(start < 0, end - start, end)
        start = start.clamp(min=0)
        if not self.center:
            end = torch.minimum(end, (frames + 1).clamp(min=self.min_frames))
        start = torch.where(end > ends_at, (start - (end - ends_at)).clamp(min=0), start)
        return start, torch.minimum(end, ends_at)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> the same shapes."""
        num_frames = features.shape[1]
        start, end = self.window(torch.arange(num_frames, device=features.device)[None], lengths)
        sums = functional.pad(zero_padding(features, lengths).double().cumsum(dim=1), (0, 0, 1, 0))
        count = (end - start).clamp(min=1)[:, :, None]
        mean = _between(sums, start, end) / count
        result = features - mean
        if self.variance:
            squares = functional.pad(zero_padding(features, lengths).double().square().cumsum(dim=1), (0, 0, 1, 0))
            spread = _between(squares, start, end) / count - mean.square()
            result = result * spread.clamp(min=self.floor).rsqrt()
        return zero_padding(result.to(features.dtype), lengths), lengths


def _between(sums: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Differences of running sums (B, T + 1, F) at places (B, T)."""
    index = [place.clamp(min=0)[:, :, None].expand(-1, -1, sums.shape[2]) for place in (start, end)]
    return sums.gather(1, index[1]) - sums.gather(1, index[0])


class GlobalCMVN(nn.Module):
    """Normalises with the mean and standard deviation of a training corpus; a multiply-add, so it streams and folds.

    The statistics are part of the state dict. Until `fit` was called the module refuses to run.

    Args:
        num_features: F.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.zeros(num_features))

    @property
    def is_fitted(self) -> bool:
        return bool((self.std > 0).all())

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Sets mean and standard deviation from batches of features (B, T, F) and lengths (B,).

        Raises:
            ValueError: no frames at all.
        """
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for features, lengths in batches:
            valid = features[length_mask(lengths, features.shape[1])].double()
            count, total, square = count + len(valid), total + valid.sum(dim=0), square + valid.square().sum(dim=0)
        if count == 0:
            raise ValueError("`batches` must hold at least one frame, got none.")
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((square / count - mean.square()).clamp(min=1e-10).sqrt())

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> the same shapes.

        Raises:
            RuntimeError: the statistics were never set.
        """
        if not torch.jit.is_tracing() and not torch.compiler.is_compiling() and not self.is_fitted:
            raise RuntimeError("GlobalCMVN has no statistics: call fit(), or load a trained model.")
        return zero_padding((features - self.mean) / self.std, lengths), lengths
