"""From a float encoder and its CTC head to a `QuantizedNetwork`: reads the graph, joins what computes one thing.

Understood are convolutions over time and linear layers, batch norms behind them, ReLU, sums of two convolutions
without padding, and what does nothing in evaluation (dropout, transposition). Two things are made simpler on the way:

- A depthwise convolution of one tap is a factor a channel, and goes into the pointwise convolution behind it.
- y = relu(pointwise(h) + shortcut(x)) is one pointwise convolution over the channels of h and x side by side. Its
  32-bit sums hold both, so neither is rounded to 8 bits before they are added.
"""

import itertools
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from speechkit.quantization.passes import linear_map, trace
from speechkit.quantization.qparams import QParams
from speechkit.quantization.quantized_conv import ConvPart, QuantizedConv
from speechkit.quantization.quantized_network import QuantizedNetwork

_SUMS = (operator.add, torch.add, operator.iadd)
_RELUS = (F.relu, torch.relu, "relu", "relu_")
_ADVICE = (
    "an int8 network is made of convolutions, linear layers, batch norms, ReLU and sums of them, such as "
    "SeparableConvEncoder; other encoders stay in float, under torch"
)
_TENSOR_MODULES = (nn.Conv1d, nn.Linear, nn.ReLU, nn.Dropout, nn.Identity, nn.BatchNorm1d)


class _Chain(nn.Module):
    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.encoder(x, lengths)
        return self.head(x, lengths)


@dataclass
class _Pending:
    """A convolution whose batch norm, ReLU or sum may still come. As a tensor, its number in the network."""

    name: str
    inputs: list[Any]
    parts: list[ConvPart]
    relu: bool = False
    number: int | None = None


@dataclass
class _Reader:
    """State while a graph is read."""

    modules: dict[str, nn.Module]
    weight_bits: int
    layers: list[QuantizedConv] = field(default_factory=list)
    inputs: list[tuple[int, ...]] = field(default_factory=list)

    def number(self, value: Any) -> int:
        """Of the tensor, which is made a layer's output now if it is none yet."""
        if isinstance(value, int):
            return value
        if value.number is None:
            numbers = tuple(self.number(source) for source in value.inputs)
            name = value.name.removeprefix("encoder.").removeprefix("head.")
            taken = [layer.name for layer in self.layers]
            numbered = (f"{name}.{number}" for number in itertools.count(2))
            name = next(one for one in itertools.chain([name, value.name], numbered) if one not in taken)
            self.layers.append(QuantizedConv(value.parts, name=name, relu=value.relu, weight_bits=self.weight_bits))
            self.inputs.append(numbers)
            value.number = len(self.layers)
        return value.number

    def branched(self, value: Any, node: fx.Node) -> Any:
        """The tensor that a node passes on: what others read too is made a layer's output as it is."""
        readers = [user for user in node.args[0].users if user.target is not operator.getitem or user.args[1] == 0]
        if isinstance(value, _Pending) and len(readers) > 1:
            return self.number(value)
        return value


def quantized_network(
    encoder: nn.Module, head: nn.Module, *, qparams: QParams, weight_bits: int = 8
) -> QuantizedNetwork:
    """A network with copies of the weights; in mode "float" it computes what encoder and head do in evaluation.

    Args:
        encoder: features -> representations.
        head: representations -> logits.
        qparams: the input domain, int8.
        weight_bits: of the weights, 2 to 8.

    Raises:
        ValueError: an operation that has no int8 form here; the line names it and says what to do.
    """
    if qparams.dtype != "int8" or qparams.axis is not None:
        raise ValueError(f"`qparams` must be int8 with one scale, got {qparams}.")
    try:
        graph = trace(_Chain(encoder, head).eval())
    except ValueError as error:
        raise ValueError(f"{type(encoder).__name__} has no int8 form ({error}): {_ADVICE}.") from None
    reader = _Reader(dict(graph.named_modules()), weight_bits)
    values: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = 0 if not values else None  # None stands for lengths
        elif node.op == "output":
            reader.number(values[node.args[0][0]])
        else:
            values[node] = _read(node, values, reader)
    network = QuantizedNetwork(reader.layers, reader.inputs, input_dim=encoder.input_dim, qparams=qparams)
    return network.eval()


def _read(node: fx.Node, values: dict[fx.Node, Any], reader: _Reader) -> Any:
    """What a node gives: a tensor (its number, or pending), or None for lengths."""
    sources = [values.get(argument) for argument in node.all_input_nodes]
    if all(source is None for source in sources):
        return None  # of lengths
    source = values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    module = reader.modules[str(node.target)] if node.op == "call_module" else None
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    if node.kwargs and (module is not None or node.target in _SUMS):
        raise ValueError(f"{what} ({node.name}): {', '.join(node.kwargs)}= has no int8 form here: {_ADVICE}.")
    if node.target is operator.getitem and node.args[1] in (0, 1) and _gives_a_pair(node.args[0], reader):
        return reader.branched(source, node) if node.args[1] == 0 else None
    if module is not None and linear_map(module) is not None:
        return _read_convolution(str(node.target), module, source, reader)
    if isinstance(module, nn.Dropout | nn.Identity) or node.target in ("transpose", "contiguous"):
        return reader.branched(source, node)
    if node.target in _RELUS or isinstance(module, nn.ReLU):
        if _is_open(source, node):
            source.relu = True
            return source
    elif module is not None and getattr(module, "running_mean", None) is not None:
        if _is_open(source, node) and len(source.parts) == 1 and source.parts[0].norm is None:
            if getattr(module, "weight", None) is None or module.momentum is None:
                raise ValueError(f"{node.target}: a batch norm must have weights and a momentum: {_ADVICE}.")
            source.parts[0].norm = module
            return source
    elif node.target in _SUMS:
        terms = [values.get(term) for term in node.args]
        if all(_is_open(term, node, place) and _is_plain(term) for place, term in enumerate(terms)):
            return _joined(terms)
    raise ValueError(f"{what} ({node.name}) has no int8 form here: {_ADVICE}.")


def _gives_a_pair(node: fx.Node, reader: _Reader) -> bool:
    """Values and lengths: what sequence modules give. A tensor of its own would be sliced."""
    return node.op == "call_module" and not isinstance(reader.modules[str(node.target)], _TENSOR_MODULES)


def _read_convolution(name: str, module: nn.Module, source: Any, reader: _Reader) -> _Pending:
    layer: Any = linear_map(module)
    if isinstance(layer, nn.Linear):
        part = ConvPart(layer.weight[:, :, None], layer.bias, None)
    elif isinstance(layer, nn.Conv1d) and layer.dilation == (1,) and layer.padding in ((0,), 0):
        padding = getattr(module, "padding", (0, 0)) if module is not layer else (0, 0)
        if sum(padding) != layer.kernel_size[0] - 1:
            raise ValueError(f"{name}: must give a frame for each step, as MaskedConv1d does, padded: {_ADVICE}.")
        part = ConvPart(
            layer.weight, layer.bias, None, stride=layer.stride[0], groups=layer.groups, padding=tuple(padding)
        )
    else:
        raise ValueError(f"{name}: {type(layer).__name__} with dilation or own padding has no int8 form: {_ADVICE}.")
    name = name.removesuffix(".conv")
    if isinstance(source, _Pending) and _is_factor(source) and part.weight.shape[2] == 1 and part.groups == 1:
        part.weight.data *= source.parts[0].weight.data[:, 0, 0][None, :, None]
        return _Pending(name, source.inputs, [part])
    reader.number(source)
    return _Pending(name, [source], [part])


def _is_open(value: Any, node: fx.Node, place: int = 0) -> bool:
    """A convolution that is no tensor yet and whose only use is as this argument of this node."""
    return isinstance(value, _Pending) and value.number is None and not value.relu and len(node.args[place].users) == 1


def _is_factor(pending: _Pending) -> bool:
    """A depthwise convolution of one tap, and nothing else."""
    part = pending.parts[0]
    return (
        pending.number is None
        and not pending.relu
        and part.norm is None
        and part.bias is None
        and part.stride == 1
        and tuple(part.weight.shape[1:]) == (1, 1)
        and part.groups == len(part.weight)
    )


def _is_plain(pending: _Pending) -> bool:
    """A pointwise convolution that can be summed with another in one."""
    return all(part.weight.shape[2] == 1 and part.groups == part.stride == 1 for part in pending.parts)


def _joined(terms: list[Any]) -> _Pending:
    return _Pending(
        terms[0].name,
        [source for term in terms for source in term.inputs],
        [part for term in terms for part in term.parts],
    )
