"""A recogniser that follows the one in training slowly: the mean teacher."""

from typing import Any

import torch
from torch import Tensor, nn

from speechkit.callbacks.ema import take_buffers_of_first_rank
from speechkit.parts import TRUSTED_PACKAGES, build, describe
from speechkit.tasks import Recognition


class MomentumTeacher:
    """Front end, encoder and head whose weights are the exponential moving average of a task's.

    Tarvainen and Valpola 2017, arXiv 1703.01780. The parts are built anew from their descriptions and not copied, so no
    hook of any callback is on them: the teacher hears every recording as it is.

    Args:
        task: whose weights it starts from.
        momentum: share of the old average that stays at an update, in [0, 1). The first updates keep less, (1 + n) /
            (10 + n) after n of them, so that the start is soon forgotten.

    Raises:
        ValueError: a momentum outside [0, 1).
    """

    def __init__(self, task: Recognition, momentum: float) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1), got {momentum}.")
        self.momentum, self.num_updates = momentum, 0
        self._parts = nn.ModuleDict(
            {name: _built_anew(getattr(task, name)) for name in ("front_end", "encoder", "head")}
        )

    def to(self, device: torch.device) -> None:
        """Moves the parts."""
        self._parts.to(device)

    @torch.no_grad()
    def logits(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> logits (B, T', V), frames (B,)."""
        return self._parts["head"](*self._parts["encoder"](*self._parts["front_end"](waveform, lengths)))

    @torch.no_grad()
    def update(self, task: Recognition) -> None:
        """Moves towards the task's weights; running statistics are averaged as well, counters copied."""
        take_buffers_of_first_rank(task)
        kept = min(self.momentum, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, part in self._parts.items():
            theirs = getattr(task, name).state_dict()
            for key, mine in part.state_dict().items():
                mine.lerp_(theirs[key], 1.0 - kept) if mine.is_floating_point() else mine.copy_(theirs[key])

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "weights": dict(self._parts.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_updates = state_dict["num_updates"]
        self._parts.load_state_dict(state_dict["weights"])


def _built_anew(part: nn.Module) -> nn.Module:
    own = {type(module).__module__.split(".")[0] for module in part.modules()}  # the recipe named them
    packages = (*TRUSTED_PACKAGES, *own)
    with torch.random.fork_rng(devices=[]):
        built: nn.Module = build(describe(part), trusted_packages=packages)
    built.load_state_dict(part.state_dict())
    return built.eval().requires_grad_(False)
