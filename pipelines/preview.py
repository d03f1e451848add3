"""A recipe and some utterances -> what each augmentation step makes of them, as figures and as audio.

Waveform perturbations are applied as the data workers do. Then one step is trained on the batch of all utterances, and
the output of the front end is written down behind each callback: whatever hooks `front_end` is seen, one's own as well.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks import StepSeed
from speechkit.callbacks.composition import Order
from speechkit.data import SpeechBatch
from speechkit.pipelines.pretrain import pretraining_task
from speechkit.pipelines.recipes import find_recipe, read_recipe
from speechkit.pipelines.training import fit_global_cmvn, parse
from speechkit.tasks import Recognition

_BATCH_SECONDS = 1e9


class Step(NamedTuple):
    """What one step has made of an utterance.

    Attributes:
        name: of the class that acted, or "original".
        waveform: (N,) behind it; none behind a callback.
        features: (T, F) behind it.
    """

    name: str
    waveform: np.ndarray | None
    features: Tensor


def preview(manifest: str, configs: Sequence[str], *, num_utterances: int = 2) -> tuple[dict[str, list[Step]], int]:
    """Takes the first utterances of a manifest through the first step of a training.

    Args:
        manifest: where they come from; also the vocabulary, and the statistics of a `GlobalCMVN`.
        configs: recipes, later ones overlay earlier ones.
        num_utterances: which make one batch, so that what mixes utterances is seen.

    Returns:
        For each utterance's id its steps, those left out that changed nothing this time; and the sample rate in Hz.

    Raises:
        ValueError: a wrong recipe or manifest, or fewer than one utterance.
    """
    if num_utterances < 1:
        raise ValueError(f"`num_utterances` must be at least 1, got {num_utterances}.")
    recipes = [find_recipe(name) for name in configs]
    has_text = any((read_recipe(path).get("data") or {}).get("tokenizer") for path in recipes)
    options = ["logger=false", "enable_checkpointing=false", "max_steps=1", "accelerator=cpu", "devices=1"]
    options += ["enable_progress_bar=false", "enable_model_summary=false", "limit_val_batches=0"]
    cli = parse(
        Recognition if has_text else pretraining_task(configs),
        recipes,
        [f"data.train=[{manifest}]", "data.dev=[]", "data.num_workers=0", *(f"trainer.{item}" for item in options)],
        trainer_defaults={"callbacks": [StepSeed()]},
    )
    trainer: Any = cli.trainer
    task, data = cli.model, cli.datamodule
    fit_global_cmvn(task, data)
    data.train_cuts = data.train_cuts[:num_utterances]
    data.batch_seconds, data.num_buckets, data.min_seconds = _BATCH_SECONDS, 1, 0.0
    callbacks = [callback for callback in trainer.callbacks if _may_change_batches(callback)]
    taps = [_Tap(type(callback).__name__) for callback in callbacks]
    trainer.callbacks = [part for pair in zip(callbacks, taps, strict=True) for part in pair]
    trainer.fit(task, datamodule=data)
    steps = _waveform_steps(task, data)
    for place, name in enumerate(taps[0].ids):
        # the seed of the step changes no features, but a batch of several may differ from one in the last bit
        steps[name][-1] = steps[name][-1]._replace(features=taps[0].features[place])
        for tap in taps[1:]:
            features = tap.features[place]
            if not torch.equal(features, steps[name][-1].features):
                steps[name].append(Step(tap.name, None, features))
    return steps, task.front_end.sample_rate_hz


def _may_change_batches(callback: lightning.Callback) -> bool:
    """Not what watches a training, stops it or writes it down: Lightning's own, and those of `Order.WATCH`."""
    order = getattr(callback, "order", None)
    return order is not Order.WATCH and (order is not None or not type(callback).__module__.startswith("lightning."))


class _Tap(lightning.Callback):
    """Keeps what the front end gives in the first pass, behind the callbacks that stand before this one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ids: list[str] = []
        self.features: list[Tensor] = []
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        def keep(module: Any, args: Any, output: tuple[Tensor, Tensor]) -> None:
            if pl_module.training and not self.features:
                features, lengths = output
                self.features = [x[:length].detach().clone() for x, length in zip(features, lengths, strict=True)]

        self._handle = pl_module.front_end.register_forward_hook(keep)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: SpeechBatch, batch_idx: int) -> None:
        self.ids = batch.ids

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.remove()


@torch.no_grad()
def _waveform_steps(task: Any, data: Any) -> dict[str, list[Step]]:
    """The original and what each perturbation of the data module has changed, from the generator of epoch 0."""
    front_end, steps = task.front_end.eval(), {}

    def step(name: str, samples: np.ndarray) -> Step:
        waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None]
        features, lengths = front_end(waveform, torch.tensor([waveform.shape[1]]))
        return Step(name, samples, features[0, : lengths[0]])

    dataset = data.train_set
    for index, cut in enumerate(dataset.cuts):
        generator = np.random.default_rng((data.seed, 0, index))
        samples = dataset.original(index, cut)
        of_cut = [step("original", samples)]
        for perturb in data.perturbations:
            before, samples = samples, perturb(samples, generator)
            if not np.array_equal(before, samples):
                of_cut.append(step(type(perturb).__name__, samples))
        steps[cut.id] = of_cut
    return steps


def save_preview(steps: dict[str, list[Step]], sample_rate_hz: int, out: str | os.PathLike[str]) -> list[Path]:
    """Writes a figure of each utterance and a WAV file of each of its waveforms.

    Args:
        steps: as `preview` gives them.
        sample_rate_hz: of the waveforms.
        out: folder; made where it is missing.

    Returns:
        The files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder, files = Path(out), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, of_utterance in steps.items():
        stem = re.sub(r"[^\w.-]+", "_", Path(name).stem) or "utterance"
        files.append(folder / f"{stem}.png")
        _draw(of_utterance, files[-1], sample_rate_hz, title=name)
        for place, step in enumerate(of_utterance):
            if step.waveform is not None:
                files.append(folder / f"{stem}.{place}-{step.name}.wav")
                soundfile.write(files[-1], np.clip(step.waveform, -1.0, 1.0), sample_rate_hz)
    return files


def _draw(steps: Sequence[Step], path: Path, sample_rate_hz: int, *, title: str) -> None:
    """A row a step: left its waveform or, behind a callback, what it has changed; right the features."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("matplotlib is missing: pip install speechkit[plot]") from None
    figure = Figure(figsize=(11.0, 1.0 + 1.8 * len(steps)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(steps), 2, squeeze=False)
    low, high = (float(value) for value in torch.quantile(steps[0].features.flatten(), torch.tensor([0.01, 0.99])))
    before = steps[0]
    for (left, right), step in zip(axes, steps, strict=True):
        if step.waveform is not None:
            left.plot(np.arange(len(step.waveform)) / sample_rate_hz, step.waveform, linewidth=0.5, color="black")
            left.set(title=step.name, xlabel="s", ylim=(-1.0, 1.0))
        else:
            shared = min(len(step.features), len(before.features))  # what mixes utterances may lengthen one
            change = (step.features[:shared] - before.features[:shared]).T
            bound = float(change.abs().max()) or 1.0
            image = left.imshow(change.numpy(), origin="lower", aspect="auto", cmap="coolwarm", vmin=-bound, vmax=bound)
            figure.colorbar(image, ax=left)
            left.set(title=f"what {step.name} has changed", ylabel="feature")
        image = right.imshow(step.features.T.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high)
        figure.colorbar(image, ax=right)
        right.set(title=f"features behind {step.name}", xlabel="frame", ylabel="feature")
        before = step
    figure.savefig(path, dpi=100)
