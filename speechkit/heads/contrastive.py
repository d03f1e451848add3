"""Predictors of contrastive predictive coding: from the context up to a frame, the latents of the frames after it."""

import torch
from torch import Tensor, nn


class StepPredictors(nn.Module):
    """W_k c_t for k = 1 .. K (van den Oord et al. 2018, arXiv 1807.03748, equation 3).

    Args:
        context_dim: D of the context.
        latent_dim: D of the latents that are predicted.
        num_steps: K.
    """

    def __init__(self, *, context_dim: int, latent_dim: int, num_steps: int) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
        self.context_dim, self.latent_dim, self.num_steps = context_dim, latent_dim, num_steps
        self.projection = nn.Linear(context_dim, num_steps * latent_dim, bias=False)

    def forward(self, context: Tensor) -> Tensor:
        """c (B, T, context_dim) -> predictions (B, T, K, latent_dim); [:, t, k - 1] is of frame t + k."""
        return self.projection(context).unflatten(-1, (self.num_steps, self.latent_dim))


class TransformerPredictors(nn.Module):
    """A causal transformer layer over c_1 .. c_t for each step ahead, then W_k (Riviere et al. 2020, arXiv 2002.02848).

    Causal, so padding, which comes last, changes nothing.

    Args:
        context_dim: D of the context.
        latent_dim: D of the latents that are predicted.
        num_steps: K.
        num_heads: of the attention; must divide `context_dim`.
        shared: one layer for all steps, K times cheaper, in place of one for each.
        dropout: inside the layers.
    """

    def __init__(
        self,
        *,
        context_dim: int,
        latent_dim: int,
        num_steps: int,
        num_heads: int = 4,
        shared: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
        if num_heads < 1 or context_dim % num_heads:
            raise ValueError(f"`num_heads` must divide `context_dim`, {context_dim}, got {num_heads}.")
        self.context_dim, self.latent_dim, self.num_steps = context_dim, latent_dim, num_steps
        self.num_heads, self.shared, self.dropout = num_heads, shared, dropout
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                context_dim, num_heads, 4 * context_dim, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(1 if shared else num_steps)
        )
        self.projections = nn.ModuleList(nn.Linear(context_dim, latent_dim, bias=False) for _ in range(num_steps))

    def forward(self, context: Tensor) -> Tensor:
        """c (B, T, context_dim) -> predictions (B, T, K, latent_dim); [:, t, k - 1] is of frame t + k."""
        later = nn.Transformer.generate_square_subsequent_mask(context.shape[1], context.device, context.dtype)
        summaries = [layer(context, src_mask=later, is_causal=True) for layer in self.layers]
        if self.shared:
            summaries = summaries * self.num_steps
        return torch.stack([map_(of) for map_, of in zip(self.projections, summaries, strict=True)], dim=2)
