"""Multinomial logistic regression: what can be read off frames by a linear map."""

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearProbe:
    """Fitted to the optimum by L-BFGS (Liu and Nocedal 1989, Mathematical Programming 45), so it has no seed or rate.

    Args:
        num_classes: C.
        l2: weight of half the squared weights, of standardised features.
        max_iterations: of L-BFGS.
    """

    def __init__(self, num_classes: int, *, l2: float = 1e-4, max_iterations: int = 100) -> None:
        self.num_classes, self.l2, self.max_iterations = num_classes, l2, max_iterations
        self.mean, self.std = torch.zeros(0), torch.ones(0)
        self.weight, self.bias = torch.zeros(num_classes, 0), torch.zeros(num_classes)

    def fit(self, features: Tensor, labels: Tensor) -> "LinearProbe":
        """Features (N, D), labels (N,) in [0, C) -> itself.

        Raises:
            ValueError: no features.
        """
        if len(features) == 0:
            raise ValueError("`features` must hold at least one frame, got none.")
        self.mean, self.std = features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=1e-6)
        x = (features - self.mean) / self.std
        weight = torch.zeros(self.num_classes, x.shape[1], requires_grad=True)
        bias = torch.zeros(self.num_classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=self.max_iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.5 * self.l2 * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        self.weight, self.bias = weight.detach(), bias.detach()
        return self

    def log_probs(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, C)."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias).log_softmax(dim=1)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of frames (N, D) whose label (N,) is the likeliest."""
        return float((self.log_probs(features).argmax(dim=1) == labels).float().mean())
