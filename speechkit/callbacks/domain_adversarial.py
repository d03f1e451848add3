"""Domain-adversarial training: representations from which nobody can tell where a recording comes from."""

import math
import os
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.added_loss import AddedLoss
from speechkit.callbacks.composition import Order
from speechkit.callbacks.cutmix import CutMix
from speechkit.callbacks.evaluation_mode import evaluation_mode
from speechkit.callbacks.mixup import Mixup
from speechkit.data import ArchivedCuts, SpeechBatch, UnlabelledSpeech
from speechkit.heads import DomainClassifier, domain_losses, reverse_gradient
from speechkit.tasks import Recognition

DOMAINS = ("manifest", "speaker")
_NAME = "domain_classifier"  # of the submodule that the task has while it trains


def reversal_scale(progress: float, gamma: float) -> float:
    """2 / (1 + exp(-gamma p)) - 1 (Ganin et al. 2016, section 5.2.2): from 0 towards 1 with the share p of training."""
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


class DomainAdversarial(AddedLoss):
    """A classifier learns domains from a layer, and the layer learns against it by gradient reversal.

    Ganin et al. 2016 (arXiv 1505.07818), with batches without text of the domain that is to be adapted to beside the
    labelled ones; the conditional variant is that of Long et al. 2018 (arXiv 1705.10667), with the posteriors of CTC
    for those of classes. For sequences the classifier sees the mean of an utterance's own frames, which holds what
    stays the same throughout (channel, room, accent) and little of the words; `framewise` judges each frame instead.

    The classifier is a submodule of the task while it trains, so the task's optimizer, its schedule, gradient clipping
    and DistributedDataParallel see it; it adds no key to the task's state and nothing to the bundle. The classifier
    learns at its full rate, and `weight` and the schedule scale only the reversed gradient.

    Args:
        unlabelled: recordings without text of other domains; none where the labelled ones have several.
        weight: of the reversed gradient, on top of its schedule; 0 is off.
        domain: "manifest", or "speaker", which all manifests must then name.
        layer: submodule of the task that gives `(y (B, T, D), lengths)`.
        gamma: steepness of the schedule.
        hidden_size: of the classifier.
        conditional: whether it also sees the posteriors.
        framewise: whether it judges frames, not means.

    Raises:
        ValueError: an argument outside its range; at start, a layer that does not exist or gives something else, a
            single domain, an utterance without one, sharded parameters, a callback that mixes utterances, or another
            task than `Recognition`.
    """

    order = Order.PARAMETERS
    changes_optimizer = True

    def __init__(
        self,
        unlabelled: UnlabelledSpeech | None = None,
        weight: float = 0.1,
        domain: str = "manifest",
        layer: str = "encoder",
        gamma: float = 10.0,
        hidden_size: int = 128,
        conditional: bool = False,
        framewise: bool = False,
    ) -> None:
        super().__init__(weight, unlabelled)
        if domain not in DOMAINS:
            raise ValueError(f"`domain` must be one of {', '.join(DOMAINS)}, got {domain!r}.")
        for name, value in (("gamma", gamma), ("hidden_size", hidden_size)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        self.domain, self.layer, self.gamma, self.hidden_size = domain, layer, gamma, hidden_size
        self.conditional, self.framewise = conditional, framewise
        self._classifier: DomainClassifier | None = None
        self._places: dict[str | None, int] = {}

    def attach(self, trainer: lightning.Trainer, task: Recognition) -> None:
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError("DomainAdversarial needs whole parameters, and `trainer.strategy` shards them.")
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        for other in callbacks[: callbacks.index(self) if self in callbacks else 0]:
            if isinstance(other, WeightAveraging):  # it has copied the task, and pairs parameters by their places
                raise ValueError(f"`callbacks` must list DomainAdversarial before {type(other).__name__}.")
        for other in callbacks:
            if isinstance(other, (Mixup, CutMix)):  # a mixture of two domains is of neither
                raise ValueError(f"`callbacks` must hold one of DomainAdversarial and {type(other).__name__}.")
        self._places = self._find_domains(trainer)
        try:
            layer = task.get_submodule(self.layer)
        except AttributeError:
            raise ValueError(f"`layer` must name a submodule of the task, got {self.layer!r}.") from None
        for key, module in (("layer", layer), ("head", task.head)):
            self._handles.append(module.register_forward_hook(self._keeping(key)))
        input_dim = self._find_width(task)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._classifier = DomainClassifier(
                input_dim=input_dim,
                num_domains=len(self._places),
                hidden_size=self.hidden_size,
                vocab_size=task.tokenizer.vocab_size if self.conditional else 0,
                framewise=self.framewise,
            )
        task.add_module(_NAME, self._classifier)
        self._handles += _keep_out_of_state(task, self._classifier)

    def state_dict(self) -> dict[str, Any]:
        classifier = {} if self._classifier is None else {"classifier": dict(self._classifier.state_dict())}
        return {**super().state_dict(), **classifier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._classifier is not None and "classifier" in state_dict:
            self._classifier.load_state_dict(state_dict["classifier"])

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if hasattr(pl_module, _NAME):
            delattr(pl_module, _NAME)

    def added_loss(self, trainer: lightning.Trainer, task: Recognition, batch: SpeechBatch) -> Tensor:
        scale = self.weight * reversal_scale(trainer.global_step / trainer.estimated_stepping_batches, self.gamma)
        losses = [self._loss(task, batch, scale)]
        if self.unlabelled is not None:
            heard = self.next_unlabelled(task)
            self._seen.clear()
            representations = task.encoder(*task.front_end(heard.waveform, heard.lengths))
            if self.conditional:
                task.head(*representations)
            losses.append(self._loss(task, heard, scale))
        loss = torch.stack(losses).mean()
        task.log("domain_loss", loss.detach(), batch_size=len(batch.ids), sync_dist=True)
        return loss

    def _keeping(self, key: str) -> Callable[[nn.Module, Any, Any], None]:
        """A forward hook that keeps the output of the first pass since the last was forgotten."""

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._seen.setdefault(key, output)

        return keep

    def _loss(self, task: Recognition, batch: SpeechBatch, scale: float) -> Tensor:
        """Of the pass that was seen: the classifier's loss, whose gradient turns around at the layer."""
        assert self._classifier is not None
        names = map(os.path.realpath, batch.manifests) if self.domain == "manifest" else batch.speakers
        domains = torch.tensor([self._places[name] for name in names], device=task.device)
        y, lengths = self._seen["layer"]
        posteriors = self._seen["head"][0].detach().softmax(dim=-1) if self.conditional else y
        logits = self._classifier(reverse_gradient(y, scale), lengths, posteriors)
        return batch.loss_scale * (batch.weights * domain_losses(logits, lengths, domains)).sum()

    def _find_domains(self, trainer: lightning.Trainer) -> dict[str | None, int]:
        data: Any = getattr(trainer, "datamodule", None)
        if data is None or isinstance(data.train_cuts, ArchivedCuts):
            raise ValueError("DomainAdversarial needs a data module whose training set is manifests.")
        cuts = [*data.train_cuts, *(self.unlabelled.cuts if self.unlabelled is not None else ())]
        by_manifest = self.domain == "manifest"  # one of two spellings is one
        names = [os.path.realpath(cut.manifest) if by_manifest else cut.supervisions[0].speaker for cut in cuts]
        if None in names:
            cut = cuts[names.index(None)]
            raise ValueError(f"{cut.manifest}: {cut.id} has no `speaker`, which `domain` speaker needs.")
        if getattr(data, "joining", None) is not None and len(set(names)) > 1:
            raise ValueError("`data.joining` must be none with DomainAdversarial: what it joins may be of two domains.")
        places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        if len(places) < 2:
            raise ValueError(f"`domain` must tell two domains apart, got one {self.domain}, {names[0]!r}.")
        return places

    def _find_width(self, task: Recognition) -> int:
        """D of the layer, by a look at what it makes of a second of noise."""
        rate: Any = task.front_end.sample_rate_hz
        noise = 0.1 * torch.randn(1, rate, generator=torch.Generator().manual_seed(0)).to(task.device)
        with evaluation_mode(task):
            task(noise, torch.tensor([rate], device=task.device))
        seen: Any = self._seen.get("layer")
        head = self._seen["head"]
        self._seen.clear()
        is_pair = isinstance(seen, tuple) and len(seen) == 2 and all(isinstance(part, Tensor) for part in seen)
        if not is_pair or seen[0].dim() != 3 or seen[1].dim() != 1:
            raise ValueError(f"`layer` must give (y (B, T, D), lengths), and {self.layer!r} does not.")
        if self.conditional and seen[0].shape[1] != head[0].shape[1]:
            raise ValueError(f"`layer` must have the head's frames where `conditional` is true, got {self.layer!r}.")
        return int(seen[0].shape[2])


def _keep_out_of_state(task: Recognition, classifier: DomainClassifier) -> list[RemovableHandle]:
    """Hooks by which a task's state neither holds the classifier's weights nor misses them when it is loaded."""

    def without(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for key in classifier.state_dict():
            state.pop(f"{prefix}{_NAME}.{key}", None)

    def as_it_is(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
        state.update({f"{prefix}{_NAME}.{key}": value for key, value in classifier.state_dict().items()})

    return [task.register_state_dict_post_hook(without), task.register_load_state_dict_pre_hook(as_it_is)]
