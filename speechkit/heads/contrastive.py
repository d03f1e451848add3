"""Predictors of contrastive predictive coding: one linear map of the context for each step ahead."""

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
