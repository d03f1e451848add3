"""Smaller learning rates for the layers nearer to the input, which a pretrained encoder has to change least."""

from typing import Any

import lightning
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from speechkit.callbacks.composition import Order


class LayerwiseRateDecay(lightning.Callback):
    """Layer N of n learns at decay^(n - N) of the rate, N counted from 0 (Clark et al. 2020, arXiv 2003.10555, section
    3.1; Bao et al. 2021, arXiv 2106.08254).

    What of the encoder stands before `layers` (subsampling, projection) learns at decay^(n + 1); what stands behind
    them, and the head, at the whole rate, as in BEiT. With a decay of 1 the optimizer is left alone.

    Args:
        decay: factor from one layer to the next one below.
        layers: name of an `nn.ModuleList` in the task.

    Raises:
        ValueError: a decay outside (0, 1], or, at the start, no list of that name, a schedule that is no `LambdaLR`, or
            a checkpoint with other rates.
    """

    order = Order.GRADIENT
    changes_optimizer = True

    def __init__(self, decay: float = 0.75, layers: str = "encoder.layers") -> None:
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"`decay` must lie in (0, 1], got {decay}.")
        self.decay, self.layers = decay, layers

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "layers": self.layers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, ours in self.state_dict().items():
            if state_dict.get(name, ours) != ours:
                raise ValueError(f"`{name}` must be the checkpoint's {state_dict[name]!r}, got {ours!r}.")

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            rate_factors(pl_module, self.layers, self.decay)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Splits the optimizer's groups, before Lightning restores its state from a checkpoint."""
        if self.decay == 1.0:
            return
        factors = rate_factors(pl_module, self.layers, self.decay)
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        for optimizer, schedule in zip(trainer.optimizers, schedules, strict=True):
            if not isinstance(schedule, LambdaLR):
                raise ValueError(f"LayerwiseRateDecay needs a LambdaLR schedule, got {type(schedule).__name__}.")
            groups: list[dict[str, Any]] = []
            lambdas = []
            for group, factor_of_step in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
                for factor in sorted({factors[id(parameter)] for parameter in group["params"]}, reverse=True):
                    chosen = [parameter for parameter in group["params"] if factors[id(parameter)] == factor]
                    rates = {name: factor * group[name] for name in ("lr", "initial_lr")}
                    groups.append({**group, "params": chosen, **rates})
                    lambdas.append(factor_of_step)
            optimizer.param_groups[:] = groups
            schedule.lr_lambdas = lambdas
            schedule.base_lrs = [group["initial_lr"] for group in groups]


def rate_factors(task: nn.Module, layers: str, decay: float) -> dict[int, float]:
    """The id of each parameter of the task -> its factor on the learning rate.

    Raises:
        ValueError: `layers` names no `nn.ModuleList` of the task.
    """
    try:
        members = task.get_submodule(layers)
    except AttributeError:
        members = None
    if not isinstance(members, nn.ModuleList):
        raise ValueError(f"`layers` must name an nn.ModuleList of the task, got {layers!r}.")
    parent, num_layers, is_behind = layers.rpartition(".")[0], len(members), False
    factors: dict[int, float] = {}
    for name, parameter in task.named_parameters():
        if name.startswith(f"{layers}."):
            place = int(name[len(layers) + 1 :].partition(".")[0])
            factors[id(parameter)] = decay ** (num_layers - place)
            is_behind = True
        elif name.startswith(f"{parent}.") and not is_behind:  # modules are registered in the order of the data
            factors[id(parameter)] = decay ** (num_layers + 1)
        else:
            factors[id(parameter)] = 1.0
    return factors
