"""An exponential moving average of the weights, which validation, the best checkpoint and the bundle use."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from speechkit.callbacks.averaging import AverageOfWeights


class EMA(AverageOfWeights):
    """Averages the weights: after each optimizer step, average <- d average + (1 - d) weights (Polyak and Juditsky
    1992, SIAM J. Control Optim. 30, 838-855; Tarvainen and Valpola 2017, arXiv 1703.01780).

    Lightning's `WeightAveraging` does the work: the copy, the swap around validation, the checkpoint. Its
    `EMAWeightAveraging` has the same average with a fixed decay; this one adds

    - a warm-up of the decay, d = min(decay, (1 + n) / (10 + n)) after n steps (TensorFlow's `num_updates`): the average
      would otherwise hold on to the first, random weights for 1 / (1 - decay) steps;
    - integer buffers are copied, not averaged and cut off;
    - all tensors in one fused operation, where Lightning's has three for each;
    - sharded parameters and a second average are refused at the start.

    Running statistics of batch normalisation are averaged like weights, over the same steps, so they fit them.

    Args:
        decay: d, of which the average looks back over about 1 / (1 - decay) steps.
        warmup: whether the decay rises.

    Raises:
        ValueError: a decay outside [0, 1); at the start, sharded parameters or another average of weights.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must lie in [0, 1), got {decay}.")
        super().__init__(multi_avg_fn=self._average)
        self.decay, self.warmup = decay, warmup

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        take_buffers_of_first_rank(pl_module)
        super().on_train_batch_end(trainer, pl_module, *args)

    def _average(self, averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor | int) -> None:
        """Tensors of one type and device, in place."""
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, weights)
            return
        steps = int(num_averaged)
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
        torch._foreach_lerp_(averages, weights, 1.0 - decay)


@torch.no_grad()
def take_buffers_of_first_rank(module: nn.Module) -> None:
    """Running statistics of batches differ between ranks; DDP makes them those of rank 0 before the next pass.

    A copy that follows a task must see the same on every rank, or ranks and checkpoints would differ.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                torch.distributed.broadcast(buffer, src=0)
