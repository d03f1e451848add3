"""Trades time for memory: activations inside named submodules are computed again in the backward pass."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import lightning
from torch import nn
from torch.utils.checkpoint import checkpoint

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.encoders.normalization import MaskedBatchNorm1d
from speechkit.quantization.quantized_network import QuantizedNetwork


class ActivationCheckpointing(CleanedUp):
    """Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) by torch, on any submodule, by name.

    Args:
        modules: names of submodules of the task; an `nn.ModuleList` stands for each of its members.

    Raises:
        ValueError: a name that the task lacks, parts that overlap, or a `QuantizedNetwork`.
    """

    order = Order.GRADIENT

    def __init__(self, modules: Sequence[str] = ("encoder",)) -> None:
        self.modules = tuple(modules)
        self._wrapped: list[nn.Module] = []

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if isinstance(getattr(pl_module, "encoder", None), QuantizedNetwork):
            raise ValueError(
                "ActivationCheckpointing must not be used with a QuantizedNetwork, which changes in between."
            )
        for name in self.modules:
            try:
                module = pl_module.get_submodule(name)
            except AttributeError:
                raise ValueError(f"`modules` must name submodules of the task, got {name!r}.") from None
            for member in module if isinstance(module, nn.ModuleList) else [module]:
                if any(other is member for own in self._wrapped for other in own.modules()) or any(
                    own is part for own in self._wrapped for part in member.modules()
                ):
                    raise ValueError(f"`modules` must not name a part twice, got {name!r} in {list(self.modules)}.")
                contexts = partial(_contexts, member)
                member.forward = partial(checkpoint, member.forward, use_reentrant=False, context_fn=contexts)
                self._wrapped.append(member)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for member in self._wrapped:
            vars(member).pop("forward", None)  # the class's own again
        self._wrapped.clear()


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _frozen_running_statistics(module)


@contextmanager
def _frozen_running_statistics(module: nn.Module) -> Iterator[None]:
    """The second forward pass must not count its batch again."""
    norms = [part for part in module.modules() if isinstance(part, MaskedBatchNorm1d) and part.update_running]
    for norm in norms:
        norm.update_running = False
    try:
        yield
    finally:
        for norm in norms:
            norm.update_running = True
