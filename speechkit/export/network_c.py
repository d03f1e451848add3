"""An integer network as tables for network.c, with what it costs on a device; without torch.

network.c runs frame by frame. Every tensor is a ring of the frames that some layer still has to read, so its memory
does not depend on the utterance.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import speechkit
from speechkit.export.c_source import c_array
from speechkit.export.four_bits import fits_four_bits, pack_rows
from speechkit.runtime import IntegerLayer, IntegerNetwork, run_layers

SOURCES = ("network.c", "network.h", "requantize.h", "check_network.c")
_MOST_INPUTS = 4  # SPEECHKIT_MOST_INPUTS
_POINTER_BYTES = 4  # on a device of 32 bits
_COUNTER_BYTES = 8  # frames made and in all, for each tensor


@dataclass(frozen=True)
class LayerCost:
    """One layer on a device.

    Attributes:
        name: of the layer.
        kind: "depthwise" or "dense".
        shape: input channels, taps, output channels.
        flash_bytes: weights, biases, multipliers.
        ring_bytes: frames of its output that are kept.
        multiply_adds: of one of its frames.
        frames_per_second: that it makes.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    flash_bytes: int
    ring_bytes: int
    multiply_adds: int
    frames_per_second: float


def layer_costs(network: IntegerNetwork, frames_per_second: float, *, packed: bool = False) -> tuple[LayerCost, ...]:
    """Of every layer, for so many frames of the front end in a second; `packed`: with weights two to a byte."""
    costs = []
    steps = _steps(network)
    for layer, ring, step in zip(network.layers, ring_frames(network)[1:], steps[1:], strict=True):
        outputs, group, taps = layer.weight.shape
        costs.append(
            LayerCost(
                name=layer.name,
                kind="depthwise" if layer.groups > 1 else "dense",
                shape=(group * layer.groups, taps, outputs),
                flash_bytes=_weight_array(layer, packed=packed).nbytes + layer.bias.nbytes + layer.multiplier.nbytes,
                ring_bytes=ring * outputs,
                multiply_adds=layer.weight.size,
                frames_per_second=frames_per_second / step,
            )
        )
    return tuple(costs)


def ring_frames(network: IntegerNetwork) -> tuple[int, ...]:
    """Frames of each tensor that network.c keeps, the input first.

    Frame t of a tensor is made when frame t * step + lag of the input comes. Frame m is last read for frame
    (m + left) / stride of a layer's output, and must not be written over, by frame m + n, before that was made.
    """
    steps, lags = _steps(network), _lags(network)
    rings = [1] * len(steps)
    for place, layer in enumerate(network.layers, start=1):
        for number in layer.inputs:
            behind = (lags[place] - lags[number]) // steps[number]
            rings[number] = max(rings[number], layer.padding[0] + behind + 1)
    return tuple(rings)


def lookahead_frames(network: IntegerNetwork) -> int:
    """Frames of the input behind its own for which a frame of the output waits."""
    return _lags(network)[-1]


def network_ram_bytes(
    network: IntegerNetwork, *, packed: bool = False, pointer_bytes: int = _POINTER_BYTES
) -> dict[str, int]:
    """Static memory of network.c by what it is for; `packed`: with weights two to a byte."""
    channels = [network.num_features, *(len(layer.weight) for layer in network.layers)]
    rings = [frames * count for frames, count in zip(ring_frames(network), channels, strict=True)]
    return {
        "input ring": rings[0],
        "layer rings": sum(rings[1:]),
        "counters": _COUNTER_BYTES * len(rings) + pointer_bytes * _largest_window(network),
        **({"unpacked weights": _longest_row(network)} if packed else {}),
    }


def refuse_unsupported(network: IntegerNetwork, *, packed: bool = False) -> None:
    """Raises ValueError where network.c cannot compute a layer; the line names it and says what to do.

    Args:
        network: the layers.
        packed: with weights two to a byte.
    """
    for layer in network.layers:
        for rule, value, advice in _broken_rules(layer):
            raise ValueError(f"layer {layer.name!r} must {rule} to be exported to C, got {value}; {advice}.")
        if packed and not fits_four_bits(layer.weight):
            raise ValueError(
                f"layer {layer.name!r} must have weights of 4 bits, in [-8, 7], for two to fit into a byte, got "
                f"some in [{layer.weight.min()}, {layer.weight.max()}]; quantize with --weight-bits 4."
            )


def network_header(network: IntegerNetwork, *, packed: bool = False) -> str:
    """network_weights.h.

    Args:
        network: the layers.
        packed: two weights to a byte.

    Raises:
        ValueError: as `refuse_unsupported`.
    """
    refuse_unsupported(network, packed=packed)
    names = ["the front end", *(layer.name for layer in network.layers)]
    channels = [network.num_features, *(len(layer.weight) for layer in network.layers)]
    constants = {
        "NUM_TENSORS": len(names),
        "NUM_LABELS": network.num_outputs,
        "STRIDE": network.stride,
        "LOOKAHEAD_FRAMES": lookahead_frames(network),
        "LARGEST_WINDOW": _largest_window(network),
        **({"LONGEST_ROW": _longest_row(network), "PACKED_WEIGHTS": 1} if packed else {}),
    }
    quoted = ", ".join(f'"{_plain(name)}"' for name in names)
    lines = [
        f"/* Weights of an int8 network. Made by speechkit {speechkit.__version__} (export c); not to be edited. */",
        "#ifndef SPEECHKIT_NETWORK_WEIGHTS_H",
        "#define SPEECHKIT_NETWORK_WEIGHTS_H",
        "",
        *(f"#define SPEECHKIT_{name} {value}" for name, value in constants.items()),
        "",
        "/* For check_network.c. */",
        f"#define SPEECHKIT_TENSOR_NAMES {{{quoted}}}",
        f"#define SPEECHKIT_TENSOR_CHANNELS {{{', '.join(map(str, channels))}}}",
        "",
        "/* The tables are for network.c alone, which defines SPEECHKIT_NETWORK_TABLES. */",
        "#ifdef SPEECHKIT_NETWORK_TABLES",
        "",
        *(text for place, layer in enumerate(network.layers) for text in _layer_arrays(place, layer, packed)),
        *_tensor_table(network, channels),
        *_layer_table(network),
        "#endif",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def write_network_vectors(network: IntegerNetwork, codes: np.ndarray, folder: Path) -> list[np.ndarray]:
    """Codes of every layer as `layer_NN_int8.bin`, raw, (T', C); those of the front end stand there already.

    Args:
        network: the layers.
        codes: int8 (T, F) of the front end.
        folder: that exists.

    Returns:
        What was written, the codes of the logits last.
    """
    tensors = run_layers(network, codes)[1:]
    for place, tensor in enumerate(tensors):
        (folder / f"layer_{place:02d}_int8.bin").write_bytes(tensor.tobytes())
    return tensors


def _broken_rules(layer: IntegerLayer) -> list[tuple[str, object, str]]:
    """(rule, what was found, what to do)."""
    broken: list[tuple[str, object, str]] = []
    outputs, group, taps = layer.weight.shape
    if layer.is_float:
        advice = "quantize this layer too"
        broken.append(("have int8 weights", f"{layer.weight.dtype} ones: it was left in float", advice))
    if layer.groups > 1 and not (layer.groups == outputs and group == len(layer.inputs) == 1):
        advice = "use groups = 1, or a group for each channel"
        broken.append(("be depthwise over one tensor, or have one group", f"{layer.groups} groups", advice))
    if max(layer.padding) >= taps:
        broken.append((f"be padded by less than its {taps} taps", layer.padding, "leave out what reads nothing"))
    if len(layer.inputs) > _MOST_INPUTS:
        broken.append((f"read at most {_MOST_INPUTS} tensors", len(layer.inputs), "sum fewer at once"))
    return broken


def _steps(network: IntegerNetwork) -> list[int]:
    """Of each tensor, frames of the input from one of its frames to the next."""
    steps = [1]
    for layer in network.layers:
        steps.append(steps[layer.inputs[0]] * layer.stride)
    return steps


def _lags(network: IntegerNetwork) -> list[int]:
    """Of each tensor, frames of the input behind its own for which a frame waits."""
    steps, lags = _steps(network), [0]
    for layer in network.layers:
        ahead = layer.weight.shape[2] - 1 - layer.padding[0]
        lags.append(max(lags[number] + ahead * steps[number] for number in layer.inputs))
    return lags


def _largest_window(network: IntegerNetwork) -> int:
    return max(len(layer.inputs) * layer.weight.shape[2] for layer in network.layers)


def _longest_row(network: IntegerNetwork) -> int:
    """Weights of an output channel, as many as whole bytes hold."""
    longest = max(layer.weight[0].size for layer in network.layers)
    return longest + longest % 2


def _weight_array(layer: IntegerLayer, *, packed: bool) -> np.ndarray:
    """As it stands in flash: a row for each output, [tap][input channel]."""
    rows = layer.weight.swapaxes(1, 2).reshape(len(layer.weight), -1)
    return (pack_rows(rows) if packed else rows).ravel()


def _layer_arrays(place: int, layer: IntegerLayer, packed: bool) -> list[str]:
    return [
        c_array(f"weight_{place}", _weight_array(layer, packed=packed), f"{_plain(layer.name)}: {layer.weight.shape}"),
        c_array(f"bias_{place}", layer.bias),
        c_array(f"multiplier_{place}", layer.multiplier),
    ]


def _tensor_table(network: IntegerNetwork, channels: list[int]) -> list[str]:
    rings = ring_frames(network)
    sizes = list(zip(rings, channels, strict=True))
    rows = [
        f"    {{speechkit_ring_{place}, {frames}, {count}, {domain.zero_point}}},"
        for place, ((frames, count), domain) in enumerate(zip(sizes, network.domains, strict=True))
    ]
    return [
        *(f"static int8_t speechkit_ring_{place}[{frames} * {count}];" for place, (frames, count) in enumerate(sizes)),
        "",
        "static const struct speechkit_tensor speechkit_tensors[] = {",
        *rows,
        "};",
        "",
    ]


def _layer_table(network: IntegerNetwork) -> list[str]:
    """Rows in the order of struct speechkit_layer."""
    rows = []
    for place, layer in enumerate(network.layers):
        arrays = ", ".join(f"speechkit_{name}_{place}" for name in ("weight", "bias", "multiplier"))
        inputs = ", ".join(map(str, layer.inputs))
        numbers = [len(layer.inputs), int(layer.groups > 1), layer.weight[0].size, layer.weight.shape[2]]
        numbers += [layer.stride, *layer.padding]
        rows.append(f"    {{{arrays}, {{{inputs}}}, {', '.join(map(str, numbers))}, {layer.code_low}}},")
    return ["static const struct speechkit_layer speechkit_layers[] = {", *rows, "};", ""]


def _plain(name: str) -> str:
    """A layer's name as it may stand in a C comment or string."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
