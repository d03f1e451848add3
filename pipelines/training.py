"""A recipe and overrides -> a trained task in a run folder. Shared by `pretrain` and `finetune`.

The run folder holds config.yaml (as run), versions.json, logs (metrics.csv and TensorBoard), checkpoints/ and bundle/.
"""

import copy
import importlib.metadata
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

import speechkit
from speechkit.bundle import save_bundle
from speechkit.callbacks import StepSeed, Throughput, compose
from speechkit.data.datamodule import SpeechDataModule
from speechkit.features import GlobalCMVN
from speechkit.pipelines.checkpoints import (
    Interrupted,
    LastCheckpoint,
    check_checkpoint,
    checkpoint_to_resume,
    ended_with_an_epoch,
    keep_best,
    signal_of,
    warn_of_changes,
)
from speechkit.pipelines.mistakes import describe_mistake, one_line
from speechkit.pipelines.recipes import find_recipe, read_recipe

_RECORDED_PACKAGES = ("torch", "torchaudio", "lightning", "lhotse", "numpy", "soundfile", "soxr", "sentencepiece")
_CMVN_SECONDS = 3600.0  # of audio that global statistics are taken from
_log = logging.getLogger(__name__)


class TrainingCLI(LightningCLI):
    """Parses a recipe against the signatures of the task, the data module and the trainer; the tokenizer is shared."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        if "tokenizer" in self._model_class.__init__.__annotations__:
            parser.link_arguments("data.fitted_tokenizer", "model.tokenizer", apply_on="instantiate")
        else:  # pretraining, where recipes choose among tasks
            task = self._model_class
            parser.add_argument("--task", default=f"{task.__module__}.{task.__qualname__}", help="class to train")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        trainer = self.config.trainer
        if str(trainer.precision).startswith("bf16") and _trains_on_cpu(trainer.accelerator) and not _has_bfloat16():
            _log.warning(
                "trainer.precision %s: this processor computes in bfloat16 many times slower; training in 32-true",
                trainer.precision,
            )
            trainer.precision = "32-true"


def parse(
    task_class: type[lightning.LightningModule],
    recipes: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    trainer_defaults: dict[str, Any] | None = None,
) -> TrainingCLI:
    """Builds trainer, task and data from YAML files and `key=value` overrides, later ones winning.

    Raises:
        ValueError: a key, type or value that the signatures refuse, or callbacks that exclude each other; one line that
            names it.
    """
    _quieten()
    for recipe in recipes:
        read_recipe(recipe)
    args = [f"--config={path}" for path in recipes]
    args += [item if item.startswith("--") else f"--{item}" for item in overrides]
    try:
        cli = TrainingCLI(
            task_class,
            SpeechDataModule,
            run=False,
            args=args,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False, **(trainer_defaults or {})},
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        )
    except (ArgumentError, MisconfigurationException, RuntimeError) as error:  # torch's parts raise RuntimeError
        raise ValueError(describe_mistake(error, task_class, recipes)) from None
    trainer: Any = cli.trainer
    trainer.callbacks = compose(trainer.callbacks)
    return cli


def train(
    task_class: type[Any],
    configs: Sequence[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    command: str,
    resume_from: str | None = None,
    checkpoint_every_n_steps: int = 200,
) -> Path:
    """Trains and writes the bundle.

    Args:
        task_class: `Recognition`, or a task for pretraining such as `ContrastivePretraining`.
        configs: recipe names or files; later ones overlay earlier ones.
        out: run folder.
        overrides: `key=value`, such as `trainer.max_epochs=5`.
        command: subfolder of the recipes.
        resume_from: a checkpoint, "last" for the newest one of the run folder, or "auto" for that if there is one.
        checkpoint_every_n_steps: how much work an interruption can cost.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: a wrong recipe, a run folder that is in use, or no checkpoint to resume from.
    """
    folder = Path(out)
    if folder.is_file():
        raise ValueError(f"--out {folder}: is a file, and must be a folder")
    last = folder / "checkpoints" / "last.ckpt"
    checkpoint = checkpoint_to_resume(resume_from, folder)
    cli = parse(
        task_class,
        [find_recipe(name, command) for name in configs],
        overrides,
        trainer_defaults=trainer_defaults(folder, checkpoint_every_n_steps),
    )
    prepare(cli)
    trainer: Any = cli.trainer
    task, data = cli.model, cli.datamodule
    best = keep_best(trainer, folder, task_class.monitor) if data.dev else None
    if not data.dev:
        trainer.limit_val_batches = 0
    is_sharded = isinstance(trainer.strategy, ModelParallelStrategy)
    steps_before = 0 if checkpoint is None else check_checkpoint(checkpoint, task, trainer)
    if trainer.is_global_zero:
        _record(folder, cli, is_resumed=checkpoint is not None)
    fit_global_cmvn(task, data)
    whole_task = copy.deepcopy(task) if is_sharded else task
    fit(cli, checkpoint)
    if trainer.global_step == steps_before:
        _log.warning("%s is as long already as trainer.max_epochs or max_steps says: nothing was trained", checkpoint)
    if ended_with_an_epoch(trainer):
        trainer.save_checkpoint(last, weights_only=False)
    state = trainer.strategy.lightning_module_state_dict() if is_sharded else {}  # every rank has to take part
    if trainer.is_global_zero:
        if best is not None and best.best_model_path:
            state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        if state:
            whole_task.load_state_dict(state)
        save_bundle(whole_task.bundle(_card(command, configs, data, best)), folder / "bundle")
    return folder / "bundle"


def prepare(cli: TrainingCLI) -> None:
    """Shares the cores, and gives the run's seed to what draws by the step."""
    _share_cores(cli)
    seed = cli.config.seed_everything or 0
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StepSeed):
            callback.seed = seed
        unlabelled = getattr(callback, "unlabelled", None)
        if unlabelled is not None and unlabelled.seed is None:
            unlabelled.seed = seed


def fit(cli: TrainingCLI, checkpoint: Path | None) -> None:
    """Trains, from a checkpoint or from the start; an interruption is one also where Lightning has caught it.

    Raises:
        ValueError: what Lightning refuses.
    """
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:
        raise ValueError(one_line(error)) from None
    except SystemExit:  # what Lightning makes of `LastCheckpoint`'s KeyboardInterrupt
        if not cli.trainer.interrupted:
            raise
        raise Interrupted(cli.trainer.global_step, signal_of(cli.trainer)) from None


def trainer_defaults(folder: Path, checkpoint_every_n_steps: int) -> dict[str, Any]:
    """Logs, checkpoints and limits of a run in its folder, over how many processes the launcher says."""
    last = LastCheckpoint(
        dirpath=folder / "checkpoints",
        filename="last",
        every_n_train_steps=checkpoint_every_n_steps,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    starts = len(list((folder / "logs").glob("*")))  # a resumed run adds its own logs
    defaults: dict[str, Any] = {
        "default_root_dir": str(folder),
        "logger": [
            {
                "class_path": f"{kind.__module__}.{kind.__qualname__}",
                "init_args": {"save_dir": str(folder), "name": "logs", "version": f"start-{starts}"},
            }
            for kind in (CSVLogger, TensorBoardLogger)
        ],
        "callbacks": [StepSeed(), Throughput(), last],
        "log_every_n_steps": 10,
        "gradient_clip_val": 5.0,
        "num_sanity_val_steps": 0,
    }
    devices, num_nodes = _launched_processes()
    if devices * num_nodes > 1:
        defaults.update(devices=devices, num_nodes=num_nodes, strategy="ddp")
    return defaults


def _launched_processes() -> tuple[int, int]:
    """Processes a node and nodes, as torchrun or SLURM's srun has started them; otherwise one on one.

    Raises:
        ValueError: SLURM was told of tasks in a way that leaves open how many run on a node.
    """
    environment = os.environ
    if "WORLD_SIZE" in environment:  # torchrun
        local = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        return local, int(environment["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect() and int(environment["SLURM_NTASKS"]) > 1:
        if "SLURM_NTASKS_PER_NODE" not in environment:
            raise ValueError("SLURM's --ntasks-per-node must be given, one task a GPU; --ntasks alone will not do")
        return int(environment["SLURM_NTASKS_PER_NODE"]), int(environment["SLURM_NNODES"])
    return 1, 1


def _trains_on_cpu(accelerator: Any) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def _has_bfloat16() -> bool:
    """Whether oneDNN, which computes torch's layers on a CPU, says so: AVX-512 on x86, bf16 instructions on ARM."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _share_cores(cli: TrainingCLI) -> None:
    """On a CPU, leaves a core to each data worker: more threads than cores make small models many times slower.

    `OMP_NUM_THREADS` says otherwise where it is set.
    """
    if cli.trainer.strategy.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - cli.datamodule.num_workers))


def fit_global_cmvn(task: lightning.LightningModule, data: SpeechDataModule) -> None:
    """Takes the statistics of a `GlobalCMVN` from an hour of training audio, the same on every rank."""
    front_end: Any = task.front_end
    cmvn = getattr(front_end, "cmvn", None)
    if not isinstance(cmvn, GlobalCMVN) or cmvn.is_fitted:
        return

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        seconds = 0.0
        for batch in data.plain_batches(front_end.sample_rate_hz, batch_seconds=60.0):
            yield front_end.features(batch.waveform, batch.lengths)
            seconds += float(batch.lengths.sum()) / front_end.sample_rate_hz
            if seconds >= _CMVN_SECONDS:
                return

    cmvn.fit(batches())


def _record(folder: Path, cli: TrainingCLI, *, is_resumed: bool) -> None:
    """Writes what a reader needs to repeat the run, and says what is not as it was when the run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    for name in ("logger", "default_root_dir"):  # of this run folder: a run of this file elsewhere has its own
        config["trainer"].pop(name, None)
    if is_resumed:
        warn_of_changes(folder / "config.yaml", config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    versions = {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}
    facts = {
        "speechkit": speechkit.__version__,
        "command": sys.argv,
        "seed": cli.config.seed_everything,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_threads": torch.get_num_threads(),
        "packages": versions,
    }
    (folder / "versions.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _card(command: str, configs: Sequence[str], data: SpeechDataModule, best: ModelCheckpoint | None) -> str:
    score = (
        f"{best.monitor} {float(best.best_model_score):.4f}" if best and best.best_model_score is not None else "none"
    )
    return (
        f"# {command}: {', '.join(Path(name).stem for name in configs)}\n\n"
        f"- trained by speechkit {speechkit.__version__} on {data.describe_training()}\n"
        f"- best score on the development set: {score}\n"
        "- licence: that of the training data; fill in before you share it\n"
    )


def _quieten() -> None:
    """Silences what Lightning says that does not hold here or that a user cannot act on."""
    for message in (
        "LightningCLI's args parameter is intended to run",
        "You're resuming from a checkpoint that ended before",  # the sampler resumes, see SpeechDataModule.state_dict
        "The '.*dataloader' does not have many workers",  # decoded audio is cached
        ".isinstance.treespec, LeafSpec.. is deprecated",  # within Lightning
        "Be aware that when using `ckpt_path`",  # another --checkpoint-every is no other training
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed from",  # a run that goes on from another one's checkpoint keeps its own best
        ".*isn't allowed to be set to .use_distributed_sampler",
        "The number of training batches .* is smaller than the logging interval",
        "You're using the WeightAveraging callback with a model that overrides",  # only FSDP2 shards anything there
        "Precision .* is not supported by the model summary",  # it only estimates the size in MB by it
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
