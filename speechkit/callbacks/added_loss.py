"""What callbacks that add the loss of a pass of their own have in common: the term, and batches without text for it.

A term of the plain pass's own logits is a `LossTerm`, a hook on the seam `loss`; this is for what needs another pass.

The term is computed inside `training_step`, behind the task's own pass: so DistributedDataParallel sees one forward and
one backward pass, gradients accumulate as ever, and the draws of the plain step are those of a training without the
callback. It costs the memory of its own pass on top of the plain one's.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import lightning
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.data import SpeechBatch, UnlabelledSpeech
from speechkit.tasks import Recognition


class AddedLoss(CleanedUp):
    """Adds `added_loss(...)` to the loss of each training step; weight 0 attaches nothing at all.

    Args:
        weight: of the term.
        unlabelled: recordings without text, if the term needs them.

    Raises:
        ValueError: a weight that is negative or not finite; at start, a task other than `Recognition`, or recordings of
            too low a rate.
    """

    order = Order.LOSS

    def __init__(self, weight: float, unlabelled: UnlabelledSpeech | None = None) -> None:
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"`weight` must be finite and not negative, got {weight}.")
        self.weight, self.unlabelled = weight, unlabelled
        self._handles: list[RemovableHandle] = []
        self._seen: dict[str, Any] = {}  # what hooks of a subclass keep of the plain pass, for as long as a step lasts

    @abstractmethod
    def added_loss(self, trainer: lightning.Trainer, task: Recognition, batch: SpeechBatch) -> Tensor:
        """The term, `weight` included, as the task states its own: `loss_scale * (weights * losses).sum()`.

        Args:
            trainer: of the run.
            task: in training mode, its plain step done.
            batch: the labelled batch of the step.
        """

    def attach(self, trainer: lightning.Trainer, task: Recognition) -> None:
        """What else a subclass sets up before the training; its hooks go to `self._handles`."""

    def next_unlabelled(self, task: Recognition) -> SpeechBatch:
        """The next batch without text, on the task's device."""
        assert self.unlabelled is not None
        return self.unlabelled.next_batch().to(task.device)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.unlabelled is None else {"batches_done": self.unlabelled.batches_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.unlabelled is not None:
            self.unlabelled.batches_done = state_dict["batches_done"]

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit" or not self.weight:
            return
        if not isinstance(pl_module, Recognition):
            raise ValueError(f"{type(self).__name__} needs the task Recognition, got {type(pl_module).__name__}.")
        if self.unlabelled is not None:
            self.unlabelled.check_rate(pl_module.front_end.sample_rate_hz)
        self.attach(trainer, pl_module)
        vars(pl_module)["training_step"] = self._with_term(trainer, pl_module, pl_module.training_step)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.unlabelled is not None and self.weight:
            self.unlabelled.start(
                pl_module.front_end.sample_rate_hz,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                pin_memory=pl_module.device.type == "cuda",
            )

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._seen.clear()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen.clear()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        vars(pl_module).pop("training_step", None)  # the class's own again, with whatever other callback wrapped it too
        while self._handles:
            self._handles.pop().remove()
        if self.unlabelled is not None:
            self.unlabelled.stop()
        self._seen.clear()

    def _with_term(
        self, trainer: lightning.Trainer, task: Recognition, step: Callable[[SpeechBatch, int], Tensor]
    ) -> Callable[[SpeechBatch, int], Tensor]:
        """The step and the term. A function, not a method: a copy of the task must not copy this callback."""

        def training_step(batch: SpeechBatch, batch_idx: int) -> Tensor:
            loss = step(batch, batch_idx)
            return loss + self.added_loss(trainer, task, batch)

        return training_step
