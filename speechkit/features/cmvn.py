"""Cepstral mean and variance normalisation of features (B, T, F), over an utterance or a corpus."""

from collections.abc import Iterable

import torch
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


class GlobalCMVN(nn.Module):
    """Normalises with the mean and standard deviation of a training corpus; a multiply-add, so it streams and folds.

    The statistics are part of the state dict. Until `fit` was called the module refuses to run.

    Args:
        num_features: F.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
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
        if not torch.jit.is_tracing() and not self.is_fitted:
            raise RuntimeError("GlobalCMVN has no statistics: call fit(), or load a trained model.")
        return zero_padding((features - self.mean) / self.std, lengths), lengths
