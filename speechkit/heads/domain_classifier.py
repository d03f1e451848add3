"""Where a recording comes from, told from representations that are trained to hide it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.masking import mean_over_frames, zero_padding


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reverse_gradient(x: Tensor, scale: float) -> Tensor:
    """x itself, whose gradient is multiplied by `-scale` on its way back (Ganin et al. 2016, arXiv 1505.07818)."""
    reversed_: Tensor = _ReversedGradient.apply(x, scale)
    return reversed_


class DomainClassifier(nn.Module):
    """Two layers, on the mean of an utterance's frames or on each of them.

    The conditional one (CDAN, Long et al. 2018, arXiv 1705.10667) sees representations bound to posteriors by its
    randomised multilinear map, frame by frame, before any mean: so it compares the sounds of one domain with the same
    sounds of the other, and not a vowel with a pause.

    Args:
        input_dim: D of the representations.
        num_domains: classes.
        hidden_size: of the layer between, and of the multilinear map.
        vocab_size: V of the posteriors, for the conditional one; 0 for the plain one.
        framewise: whether each frame is told its domain, or the mean of all.
    """

    def __init__(
        self, *, input_dim: int, num_domains: int, hidden_size: int = 128, vocab_size: int = 0, framewise: bool = False
    ) -> None:
        super().__init__()
        self.framewise, self.is_conditional = framewise, vocab_size > 0
        if vocab_size:
            generator = torch.Generator().manual_seed(0)  # the maps are drawn once for all: nothing to save
            for name, size in (("of_frames", input_dim), ("of_posteriors", vocab_size)):
                self.register_buffer(name, torch.randn(size, hidden_size, generator=generator), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(hidden_size if vocab_size else input_dim, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, num_domains),
        )

    def forward(self, x: Tensor, lengths: Tensor, posteriors: Tensor) -> Tensor:
        """Logits of domains.

        Args:
            x: (B, T, D).
            lengths: (B,) frames.
            posteriors: (B, T, V), which only the conditional one reads.

        Returns:
            (B, T, num_domains) with `framewise`, otherwise (B, 1, num_domains).
        """
        if self.is_conditional:
            bound: Any = self.of_posteriors
            x = (x @ self.of_frames) * (posteriors.to(x.dtype) @ bound) / bound.shape[1] ** 0.5
        if not self.framewise:
            x = zero_padding(x, lengths).sum(dim=1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
        return self.layers(x)


def domain_losses(logits: Tensor, lengths: Tensor, domains: Tensor) -> Tensor:
    """Cross entropy of each utterance, the mean over its frames where each is told its domain.

    Args:
        logits: (B, T, num_domains), or (B, 1, num_domains).
        lengths: (B,) frames.
        domains: (B,) true classes.

    Returns:
        (B,) in nats; 0 for an utterance without frames.
    """
    frames = logits.shape[1]
    losses = F.cross_entropy(logits.float().movedim(2, 1), domains[:, None].expand(-1, frames), reduction="none")
    return mean_over_frames(losses, lengths.clamp(max=frames))
