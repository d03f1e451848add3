"""Batch normalisation whose statistics count real frames only, optionally over all ranks."""

import torch
import torch.distributed
from torch import Tensor, nn

from speechkit.masking import length_mask


class MaskedBatchNorm1d(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) of (B, C, T) over the frames inside each utterance.

    With padding counted, an utterance's statistics would depend on the longest one of its batch. Parameter and buffer
    names are those of `torch.nn.BatchNorm1d`, so it folds into the convolution before it in the same way.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.synchronize = False  # set by the DataParallel callback: statistics over the joined batch of all ranks
        self.update_running = True  # cleared while activation checkpointing computes a forward pass again

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T), (B,) -> (B, C, T); float32 inside, also under autocast."""
        if not self.training:
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            return x * scale[:, None] + (self.bias - self.running_mean * scale)[:, None]
        with torch.autocast(x.device.type, enabled=False):
            mask = length_mask(lengths, x.shape[2])[:, None, :]
            inside = x.float() * mask
            count, total = self.joined(mask.sum().float().reshape(1), inside.sum(dim=(0, 2)))
            any_frames = (count > 0).to(count)  # a rank without work in a step has none at all
            count = count.clamp(min=1)
            mean = total / count
            centered = (inside - mean[:, None]) * mask
            (square,) = self.joined(centered.square().sum(dim=(0, 2)))
            var = square / count
            if self.update_running:
                self._update_running_statistics(mean.detach(), var.detach(), count.detach(), any_frames)
            scale = self.weight * (var + self.eps).rsqrt()
            return centered * scale[:, None] + self.bias[:, None]

    def joined(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """Sums over ranks, with gradients; one message."""
        if not (self.synchronize and torch.distributed.is_available() and torch.distributed.is_initialized()):
            return sums
        from torch.distributed.nn.functional import all_reduce

        return tuple(all_reduce(torch.cat(sums)).split([len(part) for part in sums]))

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: Tensor, any_frames: Tensor) -> None:
        unbiased = var * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean, self.momentum * any_frames)
        self.running_var.lerp_(unbiased, self.momentum * any_frames)
