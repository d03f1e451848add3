"""Graph passes: a module's graph in, a changed copy out, the module itself left alone.

| pass | inverse |
|---|---|
| `fold_conv_bn` | none, the statistics are gone; keep the graph that went in |
| `replace` | `replace` back, where `build` kept what it replaced |
| `insert_fake_quant` | `strip` |
| `strip` | `insert_fake_quant` |

Graphs are those of torch.fx, with modules as nodes. A convolution with its padding and mask (`MaskedConv1d`, by
its property `linear_map`) and a module with running statistics are one node each.
"""

import copy
import itertools
import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from speechkit.masking import length_mask, mean_over_frames, zero_padding

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__(autowrap_functions=(length_mask, mean_over_frames, zero_padding))

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return super().is_leaf_module(module, qualified_name) or linear_map(module) is not None or _is_norm(module)


def trace(module: nn.Module) -> fx.GraphModule:
    """The graph of a module, with copies of its parts.

    Raises:
        ValueError: what it does depends on values, so there is no one graph.
    """
    module = copy.deepcopy(module)
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"`module` must have one graph for all inputs, {type(module).__name__} has not: {reason}"
        ) from None


def linear_map(module: nn.Module) -> Any:
    """The convolution or linear layer that a module is, or names as its `linear_map`; None for other modules."""
    inner = getattr(module, "linear_map", module)
    return inner if isinstance(inner, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)) else None


def fold_conv_bn(graph: fx.GraphModule) -> fx.GraphModule:
    """Folds each batch norm in evaluation into the convolution or linear layer before it, if that feeds nothing else.

    With W and b of the layer: W gamma / sqrt(var + eps) and (b - mean) gamma / sqrt(var + eps) + beta (Jacob et al.
    2018, arXiv 1712.05877, section 3.2), computed in float64. All paddings fold, for a padded zero stays one. A linear
    layer must give (B, C), or a `MaskedBatchNorm1d` follow it.

    Raises:
        ValueError: a graph in training mode, whose statistics are those of the batch.
    """
    if graph.training:
        raise ValueError("`graph` must be in evaluation mode to fold, got one in training mode.")
    graph = copy.deepcopy(graph)
    modules = dict(graph.named_modules())
    for norm_node in list(graph.graph.nodes):
        norm = modules.get(norm_node.target) if norm_node.op == "call_module" else None
        if norm is None or not _is_norm(norm) or norm.running_mean is None:
            continue
        source = norm_node.all_input_nodes[0]
        layer_node = source.args[0] if source.target is operator.getitem else source
        layer = modules.get(layer_node.target) if layer_node.op == "call_module" else None
        inner = None if layer is None else linear_map(layer)
        if inner is None or norm.training or _num_calls(graph, layer_node.target) > 1:
            continue
        if any(len(node.users) > 1 for node in _firsts(layer_node) or [layer_node]) or len(_firsts(layer_node)) > 1:
            continue
        weight, bias = folded_weights(inner, norm)
        inner.weight = nn.Parameter(weight)
        inner.bias = nn.Parameter(bias)
        norm_node.replace_all_uses_with(source)
        graph.graph.erase_node(norm_node)
    return _finished(graph)


def folded_weights(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution or linear layer and the batch norm behind it, in the layer's type."""
    statistics: Any = norm
    scale = (statistics.running_var.double() + statistics.eps).rsqrt()
    scale = scale if statistics.weight is None else scale * statistics.weight.double()
    shift = -statistics.running_mean.double() * scale
    shift = shift if statistics.bias is None else shift + statistics.bias.double()
    weight, bias = _parameters(layer)
    folded_bias = shift if bias is None else bias.double() * scale + shift
    return (weight.double() * _over_outputs(layer, scale)).to(weight.dtype).detach(), folded_bias.to(
        weight.dtype
    ).detach()


def replace(
    graph: fx.GraphModule, matches: Callable[[nn.Module], bool], build: Callable[[nn.Module], nn.Module]
) -> fx.GraphModule:
    """Every module that matches becomes what `build` makes of it, called with the same arguments."""
    graph = copy.deepcopy(graph)
    for name, module in _called_modules(graph):
        if matches(module):
            graph.set_submodule(name, build(module))
    return _finished(graph)


def insert_fake_quant(graph: fx.GraphModule, make: Callable[[str, nn.Module], nn.Module | None]) -> fx.GraphModule:
    """Puts a module of one argument behind modules of the graph.

    Args:
        graph: left alone.
        make: (name, module) -> what to put behind it, or None. It sees the first output where there are several.
    """
    graph = copy.deepcopy(graph)
    quantizers = {name: make(name, module) for name, module in _called_modules(graph)}
    names: dict[str, str] = {}  # of the modules -> of what stands behind them, once, wherever they are called
    for node in list(graph.graph.nodes):
        quantizer = quantizers.get(str(node.target)) if node.op == "call_module" else None
        if quantizer is None:
            continue
        if node.target not in names:
            names[node.target] = _free_name(graph, f"{node.target}_fake_quantized".replace(".", "_"))
            graph.add_submodule(names[node.target], quantizer)
        name = names[node.target]
        for place in _firsts(node) or [node]:
            with graph.graph.inserting_after(place):
                inserted = graph.graph.call_module(name, (place,))
            place.replace_all_uses_with(inserted, delete_user_cb=partial(operator.is_not, inserted))
    return _finished(graph)


def strip(graph: fx.GraphModule, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> fx.GraphModule:
    """Takes out modules of one argument: dropouts, identities, what `insert_fake_quant` put in."""
    graph = copy.deepcopy(graph)
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], kind):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.graph.erase_node(node)
    return _finished(graph)


def _firsts(node: fx.Node) -> list[fx.Node]:
    """The nodes that take the first of what a node gives."""
    return [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]


def _free_name(graph: fx.GraphModule, name: str) -> str:
    taken = dict(graph.named_modules())
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _finished(graph: fx.GraphModule) -> fx.GraphModule:
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph


def _is_norm(module: nn.Module) -> bool:
    return hasattr(module, "running_mean") and hasattr(module, "running_var") and hasattr(module, "eps")


def _num_calls(graph: fx.GraphModule, name: str) -> int:
    return sum(node.op == "call_module" and node.target == name for node in graph.graph.nodes)


def _called_modules(graph: fx.GraphModule) -> Iterator[tuple[str, nn.Module]]:
    names = dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    return ((name, graph.get_submodule(name)) for name in names)


def _parameters(layer: Any) -> tuple[Tensor, Tensor | None]:
    return layer.weight, layer.bias


def _over_outputs(layer: Any, scale: Tensor) -> Tensor:
    """(C',) -> a shape that broadcasts over the outputs of the layer's weight."""
    trailing = [1] * (layer.weight.ndim - 2)
    if not isinstance(layer, _TRANSPOSED):
        return scale.view(-1, 1, *trailing)
    per_group = scale.view(layer.groups, 1, -1).expand(-1, layer.in_channels // layer.groups, -1)
    return per_group.reshape(layer.in_channels, -1, *trailing)
