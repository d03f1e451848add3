"""Checkpoints of a run folder: the last state, the best one, and going on from one."""

import logging
import math
import signal
import threading
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy

import speechkit.callbacks

_CHANGES = "changes_optimizer"  # an attribute of callbacks that add or group parameters
_log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A training ended by a signal, behind a step that is kept."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"in step {step}; --ckpt last goes on")
        self.signal = number


class LastCheckpoint(ModelCheckpoint):
    """The newest state, every so many steps, and also where a training ends within an epoch.

    That is at `trainer.max_steps`, since Lightning takes the epoch for a finished one once `fit` has returned, and what
    is left of it would never be seen; and behind the step in which Ctrl-C or SIGTERM, with which clusters take a job's
    machine away, reach any of the processes. A second one ends a training of one process at once.

    Attributes:
        interrupted_by: the signal that ends the training, where this process has got one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.interrupted_by: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}  # of the signals, while ours is in their place

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            handle = self._interrupt_alone if trainer.world_size == 1 else self._interrupt
            self._handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_end(self, *args: Any, **options: Any) -> None:
        super().on_train_end(*args, **options)
        self._put_back_handlers()

    def on_exception(self, *args: Any, **options: Any) -> None:
        super().on_exception(*args, **options)
        self._put_back_handlers()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **options: Any) -> None:
        super().on_train_batch_end(trainer, *args, **options)
        is_last = trainer.global_step == trainer.max_steps
        # processes get a signal in different steps, and can only save together
        is_interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted_by is not None, all=False)
        if (is_last and not ended_with_an_epoch(trainer)) or is_interrupted:
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)
        if is_interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, _: Any) -> None:
        self.interrupted_by = signal.Signals(number)

    def _interrupt_alone(self, number: int, _: Any) -> None:
        self.interrupted_by = signal.Signals(number)
        self._put_back_handlers()

    def _put_back_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def ended_with_an_epoch(trainer: lightning.Trainer) -> bool:
    """Whether the last batch of training was also the last of its epoch."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def signal_of(trainer: lightning.Trainer) -> int:
    """The one that has interrupted a training; that of Ctrl-C where another process has got it."""
    last = [callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]  # type: ignore[attr-defined]
    return next((callback.interrupted_by for callback in last if callback.interrupted_by), signal.SIGINT)


def keep_best(trainer: lightning.Trainer, folder: Path, monitor: str) -> ModelCheckpoint:
    """Adds the callback that keeps the checkpoint with the least `monitor`."""
    best = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="best", monitor=monitor, mode="min", enable_version_counter=False
    )
    trainer.callbacks.append(best)  # type: ignore[attr-defined]
    return best


def checkpoint_to_resume(resume_from: str | None, folder: Path) -> Path | None:
    """The checkpoint that `--ckpt` names: a file, "last" for the run folder's newest, "auto" for it if there is one.

    Raises:
        ValueError: there is none, or the folder holds a run that would be lost.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if resume_from is None and last.exists():
        raise ValueError(f"--out {folder}: holds a run already; go on with it by --ckpt last, or name another folder")
    if resume_from is None or (resume_from == "auto" and not last.is_file()):
        return None
    checkpoint = last if resume_from in ("last", "auto") else Path(resume_from)
    if not checkpoint.is_file():
        raise ValueError(f"--ckpt {resume_from}: no checkpoint at {checkpoint}")
    return checkpoint


def check_checkpoint(checkpoint: Path, task: Any, trainer: Any) -> int:
    """Whether this training can go on from a checkpoint; returns the steps that it has seen.

    Raises:
        ValueError: the file is no checkpoint, one of other parts, of another strategy's optimizer or of another
            learning rate, of other callbacks that change the optimizer, of an average of weights that the recipe
            lacks, or of a training that is as long already.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = content["state_dict"]
        numbers = [number for group in content["optimizer_states"][0]["param_groups"] for number in group["params"]]
    except Exception as error:  # whatever a damaged file makes torch's unpickler raise
        raise ValueError(f"--ckpt {checkpoint}: not a checkpoint of speechkit ({type(error).__name__})") from None
    shapes = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    different = [name for name in {**shapes, **theirs} if shapes.get(name) != theirs.get(name)]
    if different:
        name = different[0]
        difference = f"{name} is {theirs.get(name, 'missing')} there and {shapes.get(name, 'missing')} here"
        raise ValueError(f"--ckpt {checkpoint}: made with another recipe, {difference}")
    optimized = {name for name in speechkit.callbacks.__all__ if hasattr(getattr(speechkit.callbacks, name), _CHANGES)}
    before = {key.partition("{")[0] for key in content["callbacks"]} & optimized
    now = {type(callback).__name__ for callback in trainer.callbacks if hasattr(callback, _CHANGES)}
    if before != now:
        lists = [", ".join(sorted(names)) or "none" for names in (before, now)]
        raise ValueError(
            f"--ckpt {checkpoint}: of the callbacks that change the optimizer it was made with {lists[0]}, "
            f"got {lists[1]}"
        )
    averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
    if "current_model_state" in content and not averages:  # it would go on from the average, with the others' moments
        raise ValueError(f"--ckpt {checkpoint}: made with an average of the weights; name that callback here too")
    rates = [rate for schedule in content["lr_schedulers"] for rate in schedule.get("base_lrs", [])]
    was_lowered = any(state.get("times_lowered") for state in content["callbacks"].values())
    if rates and not was_lowered and not math.isclose(max(rates), rate := float(task.learning_rate)):
        raise ValueError(
            f"--ckpt {checkpoint}: goes on at its model.learning_rate, {max(rates):g}, got {rate:g}; "
            "for another one begin a run from the bundle (model.encoder_from or model.start_from)"
        )
    is_sharded = isinstance(trainer.strategy, ModelParallelStrategy)
    if is_sharded and numbers == sorted(numbers):  # Lightning would take them for places in `parameters()`
        raise ValueError(f"--ckpt {checkpoint}: made without sharding, and must be gone on with in the same way")
    done = content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs < done:
        raise ValueError(f"trainer.max_epochs: --ckpt {checkpoint} has {done} already, got {trainer.max_epochs}")
    return int(content["global_step"])


def warn_of_changes(config: Path, values: dict[str, Any]) -> None:
    """Says which keys of the model and the data, and which callbacks, are not those of the run's last start."""
    if not config.exists():
        return
    old = yaml.safe_load(config.read_text(encoding="utf-8"))
    theirs, ours = _callbacks(old), _callbacks(values)
    for name in sorted({**theirs, **ours}):
        if name not in ours:
            _log.warning("goes on without the callback %s", name)
        elif name not in theirs:
            _log.warning("goes on with a new callback %s", name)
        elif theirs[name] != ours[name]:
            _log.warning("goes on with another callback %s: %s, which was %s", name, ours[name], theirs[name])
    before, after = _flat(old), _flat(values)
    for key in sorted({**before, **after}):
        if before and key.startswith(("model.", "data.", "task")) and before.get(key) != after.get(key):
            _log.warning("goes on with another %s: %s, which was %s", key, after.get(key), before.get(key))


def _callbacks(values: dict[str, Any]) -> dict[str, Any]:
    """Class of each callback of a recipe -> its arguments."""
    listed = (values.get("trainer") or {}).get("callbacks") or []
    return {str(item["class_path"]).rpartition(".")[2]: item.get("init_args") or {} for item in listed}


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(values, dict):
        return {name: values}
    return {key: value for part in values for key, value in _flat(values[part], f"{name}.{part}".lstrip(".")).items()}
