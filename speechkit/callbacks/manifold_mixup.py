"""Manifold Mixup: Mixup of what a random layer of the encoder gives, or of the features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.callbacks.activation_checkpointing import ActivationCheckpointing
from speechkit.callbacks.mixup import Mixup, Pairs, mix_rows
from speechkit.callbacks.ramp import Ramp
from speechkit.losses import CTCLoss
from speechkit.quantization.quantized_network import QuantizedNetwork


class ManifoldMixup(Mixup):
    """Mixes pairs of utterances as `Mixup` does, in each step at another depth of the network.

    Verma et al. 2019 (arXiv 1806.05236): a place is drawn evenly from the input and the layers, and both utterances
    go through all before it unmixed. For sequences: a layer cannot make an utterance longer for those behind it, so
    both of a pair count as long as the longer one from the front end on, whatever the place, and what the shorter one
    holds there until then are zeros, as if it ended in features that are all mean.

    Args:
        probability: as of `Mixup`.
        alpha: as of `Mixup`; Verma et al. take 2 and greater.
        weight: as of `Mixup`.
        modules: submodules of the task whose outputs are mixed, the batch being their first axis; an `nn.ModuleList`
            stands for each of its members. "front_end" is the input.

    Raises:
        ValueError: as of `Mixup`; at the start of training, a name that the task lacks, or one within a module whose
            activations `ActivationCheckpointing` computes again, after the mixing is over.
    """

    def __init__(
        self,
        probability: float | Ramp = 0.3,
        alpha: float = 2.0,
        *,
        weight: float | Ramp | None = None,
        modules: Sequence[str] = ("front_end", "encoder.layers"),
    ) -> None:
        super().__init__(probability, alpha, weight=weight)
        self.modules = tuple(modules)
        if not self.modules:
            raise ValueError("`modules` must name at least one, got none.")
        self._front_end: nn.Module | None = None
        self._places: list[nn.Module] = []
        self._place: nn.Module | None = None  # where this step is still to mix

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._front_end, self._places, self._place = pl_module.front_end, [], None
        for name in self.modules:
            try:
                module = pl_module.get_submodule(name)
            except AttributeError:
                raise ValueError(f"`modules` must name submodules of the task, got {name!r}.") from None
            self._places += list(module) if isinstance(module, nn.ModuleList) else [module]
            _check_not_computed_twice(name, trainer)
        is_inside = any(place is not pl_module.front_end for place in self._places)
        if isinstance(pl_module.encoder, QuantizedNetwork) and is_inside:
            raise ValueError("`modules` must be front_end alone with a QuantizedNetwork: its steps are whole numbers.")
        inner = [place for place in self._places if place is not self._front_end]
        self._handles += [place.register_forward_hook(self._mix_output) for place in inner]

    def _mix_features(self, features: Tensor, pairs: Pairs) -> Tensor:
        self._place = self._places[int(torch.randint(len(self._places), ()))]
        if self._place is not self._front_end:
            return features
        self._place = None
        return mix_rows(features, pairs)

    def _mix_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Tensor (B, ...), or a tuple that begins with it -> the same, mixed if this is the place of the step."""
        if self._pairs is None or module is not self._place:
            return output
        self._place = None
        if isinstance(output, Tensor):
            return mix_rows(output, self._pairs)
        return mix_rows(output[0], self._pairs), *output[1:]

    def _mix_losses(
        self, encoder: Any, module: CTCLoss, args: tuple[Any, ...], kwargs: dict[str, Any], losses: Tensor
    ) -> Tensor:
        if self._place is not None:  # layer drop has gone past it, so nothing was mixed
            self._pairs = self._place = None
        return super()._mix_losses(encoder, module, args, kwargs, losses)


def _check_not_computed_twice(name: str, trainer: Any) -> None:
    for callback in trainer.callbacks:
        for outer in callback.modules if isinstance(callback, ActivationCheckpointing) else ():
            if name.startswith(f"{outer}."):
                raise ValueError(
                    f"`modules` must not lie in {outer!r}, which ActivationCheckpointing computes twice, got {name!r}."
                )
