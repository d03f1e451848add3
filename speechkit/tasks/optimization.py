"""AdamW with a warm-up and a cosine decay: what both tasks train with."""

import math
from functools import partial
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
    held: nn.Module | None = None,
    held_fraction: float = 0.0,
) -> dict[str, Any]:
    """What `configure_optimizers` returns. Biases and norms (vectors) are not decayed.

    Args:
        module: whose parameters are trained.
        total_steps: length of the training.
        learning_rate: peak rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.
        final_fraction: of the peak rate, at the end.
        held: a part of `module` whose rate is 0 at first and then rises as the others' did.
        held_fraction: for which share of the training.

    Raises:
        ValueError: the length of the training is not known, or a fraction outside [0, 1].
    """
    if not math.isfinite(total_steps):
        raise ValueError("`trainer.max_epochs` or `trainer.max_steps` must be set: the learning rate follows them.")
    if not 0.0 <= warmup_fraction <= 1.0:
        raise ValueError(f"`warmup_fraction` must lie in [0, 1], got {warmup_fraction}.")
    still = {id(parameter) for parameter in held.parameters()} if held is not None else set()
    warmup_steps, held_steps = max(1, round(warmup_fraction * total_steps)), round(held_fraction * total_steps)

    def factor(step: int, first_step: int) -> float:
        if step < first_step:
            return 0.0
        rate = warmup_cosine(
            step, warmup_steps=warmup_steps, total_steps=int(total_steps), final_fraction=final_fraction
        )
        return rate * min(1.0, (step - first_step + 1) / warmup_steps) if first_step else rate

    groups, factors = [], []
    for is_held in (False, True):
        parameters = [
            parameter
            for parameter in module.parameters()
            if parameter.requires_grad and (id(parameter) in still) == is_held
        ]
        for decay, chosen in (
            (weight_decay, [parameter for parameter in parameters if parameter.dim() > 1]),
            (0.0, [parameter for parameter in parameters if parameter.dim() <= 1]),
        ):
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay})
                factors.append(partial(factor, first_step=held_steps if is_held else 0))
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
