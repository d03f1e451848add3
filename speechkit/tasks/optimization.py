"""AdamW with a warm-up and a cosine decay: what both tasks train with."""

import math
from typing import Any

import torch
from torch import nn


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, final_fraction: float) -> float:
    """Factor on the peak rate at a step: linear from 0, then half a cosine to the floor (Loshchilov, Hutter 2017)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def adamw_warmup_cosine(
    module: nn.Module,
    *,
    total_steps: int | float,
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    final_fraction: float = 0.02,
) -> dict[str, Any]:
    """What `configure_optimizers` returns. Biases and norms (vectors) are not decayed.

    Raises:
        ValueError: the length of the training is not known, or a fraction outside [0, 1].
    """
    if not math.isfinite(total_steps):
        raise ValueError("`trainer.max_epochs` or `trainer.max_steps` must be set: the learning rate follows them.")
    if not 0.0 <= warmup_fraction <= 1.0:
        raise ValueError(f"`warmup_fraction` must lie in [0, 1], got {warmup_fraction}.")
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    warmup_steps = max(1, round(warmup_fraction * total_steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: warmup_cosine(
            step, warmup_steps=warmup_steps, total_steps=int(total_steps), final_fraction=final_fraction
        ),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
