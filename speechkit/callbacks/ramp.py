"""A strength that changes while a task trains: a straight line over a share of the training, then constant."""

from dataclasses import dataclass

import lightning


@dataclass(frozen=True)
class Ramp:
    """Stands in a recipe where a callback takes a number or a ramp: `probability: {start: 0.0, end: 0.5, until: 0.3}`.

    It is a function of the optimizer's steps that are done, so a resumed run goes on where it was.

    Attributes:
        start: value when training begins.
        end: value from `until` on.
        until: share of the training that the way takes.

    Raises:
        ValueError: a share outside (0, 1].
    """

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.until <= 1.0:
            raise ValueError(f"`until` must lie in (0, 1], got {self.until}.")


def check_share(name: str, value: float | Ramp) -> None:
    """Raises ValueError where a number, or a ramp's start or end, lies outside [0, 1]."""
    for number in (value.start, value.end) if isinstance(value, Ramp) else (value,):
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"`{name}` must lie in [0, 1], got {number}.")


def value_at(value: float | Ramp, progress: float) -> float:
    """The number itself, or where a ramp stands after a share of the training in [0, 1].

    >>> value_at(Ramp(0.0, 0.5, until=0.5), 0.25)
    0.25
    """
    if not isinstance(value, Ramp):
        return value
    return value.start + (value.end - value.start) * min(1.0, progress / value.until)


def training_progress(trainer: lightning.Trainer) -> float:
    """Share in [0, 1] of the optimizer's steps that are done; 0 throughout where training has no known end."""
    num_steps = trainer.estimated_stepping_batches
    return min(1.0, trainer.global_step / num_steps) if num_steps > 0 else 0.0
