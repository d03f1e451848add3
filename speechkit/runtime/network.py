"""The integer network: a list of convolutions from int8 codes to int8 codes, exact in numpy, ONNX Runtime and C alike.

Tensor 0 is the codes of the front end, tensor i the output of layer i - 1; all are int8 with one scale and zero point,
r = S (q - Z). A layer reads one tensor, or several of equal length whose channels stand side by side (so a residual
sum of two pointwise convolutions is a single one over both). With int32 sums it computes

    sum    = bias + sum over taps and channels of weight * (q_in - Z_in)
    q_out  = clamp(rint(float32(sum) * multiplier) + Z_out, low, 127)        low = Z_out after a ReLU, else -128

where `multiplier` is float32, one an output channel, the product is one float32 rounding and `rint` breaks ties to
even: what ONNX Runtime's QLinearConv computes, and C99 with `rintf`. Batch norm and ReLU are folded; what is beyond the
ends of an utterance has the code Z_in. The codes of the last layer are the logits.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FORMAT = 1
CODE_MIN, CODE_MAX = -128, 127


@dataclass(frozen=True)
class Domain:
    """r = S (q - Z), int8.

    Args:
        scale: S, a float32 number.
        zero_point: Z, the code of 0.0.

    Raises:
        ValueError: a scale that is not positive, or a zero point outside of int8.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not self.scale > 0 or not np.isfinite(self.scale):
            raise ValueError(f"`scale` must be positive and finite, got {self.scale}.")
        if not CODE_MIN <= self.zero_point <= CODE_MAX:
            raise ValueError(f"`zero_point` must lie in [{CODE_MIN}, {CODE_MAX}], got {self.zero_point}.")

    def values(self, codes: np.ndarray) -> np.ndarray:
        """int8 codes of any shape -> S (q - Z), float32."""
        values: np.ndarray = (codes.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)
        return values

    def codes(self, values: np.ndarray) -> np.ndarray:
        """float32 values of any shape -> clamp(rint(r / S) + Z), int8."""
        codes = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        return np.clip(codes, CODE_MIN, CODE_MAX).astype(np.int8)


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution over time.

    Attributes:
        name: that of the float model's convolution.
        inputs: numbers of the tensors that it reads.
        weight: int8 (C', C / groups, taps), symmetric. float32 in a layer that was left in float.
        bias: int32 (C',), in units of S_in * weight scale. float32 in a layer that was left in float.
        multiplier: float32 (C',), S_in * weight scale / S_out. Empty in a layer that was left in float.
        weight_scale: float32 (C',), of an int8 weight; for conversion back to float, not for the arithmetic.
        domain: of the output.
        relu: whether negative values become 0.
        stride: frames in for one frame out.
        groups: C for a depthwise convolution.
        padding: frames of Z_in before the first and after the last frame.
    """

    name: str
    inputs: tuple[int, ...]
    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    weight_scale: np.ndarray
    domain: Domain
    relu: bool = False
    stride: int = 1
    groups: int = 1
    padding: tuple[int, int] = (0, 0)

    @property
    def is_float(self) -> bool:
        return self.weight.dtype != np.int8

    @property
    def code_low(self) -> int:
        return self.domain.zero_point if self.relu else CODE_MIN


@dataclass(frozen=True)
class IntegerNetwork:
    """Layers in the order in which they run; checked when it is made.

    Attributes:
        num_features: F, channels of tensor 0.
        domain: of tensor 0.
        layers: see `IntegerLayer`; the output of the last one are the logits.

    Raises:
        ValueError: layers that do not fit each other; the line names the layer.
    """

    num_features: int
    domain: Domain
    layers: tuple[IntegerLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("`layers` must hold at least one layer, got none.")
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            name = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"layer {name!r}: every layer must have a name of its own, got it twice.")
        channels = [self.num_features]
        for place, layer in enumerate(self.layers):
            _check_layer(layer, place, channels, self)
            channels.append(len(layer.weight))

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Of every tensor."""
        return (self.domain, *(layer.domain for layer in self.layers))

    @property
    def num_outputs(self) -> int:
        return len(self.layers[-1].weight)

    @property
    def stride(self) -> int:
        """Frames in for one frame out."""
        strides = [1]
        for layer in self.layers:
            strides.append(strides[layer.inputs[0]] * layer.stride)
        return strides[-1]

    @property
    def context(self) -> tuple[int, int]:
        """Frames of tensor 0 before and after its own that a frame of the last tensor sees."""
        fields = [(0, 0, 1)]  # before, after, frames of tensor 0 from one frame to the next
        for layer in self.layers:
            before, after, step = (max(values) for values in zip(*(fields[n] for n in layer.inputs), strict=True))
            taps_after = layer.weight.shape[2] - 1 - layer.padding[0]
            fields.append((before + layer.padding[0] * step, after + taps_after * step, step * layer.stride))
        return fields[-1][:2]

    def multiply_adds(self) -> int:
        """For one frame out."""
        rates = [self.stride]  # frames of a tensor for one of the last
        total = 0
        for layer in self.layers:
            rates.append(rates[layer.inputs[0]] // layer.stride)
            total += layer.weight.size * rates[-1]
        return total

    def weight_bytes(self) -> int:
        """Of all arrays a device needs: weights, biases, multipliers."""
        return sum(layer.weight.nbytes + layer.bias.nbytes + layer.multiplier.nbytes for layer in self.layers)


def network_to_files(network: IntegerNetwork) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A description that JSON can hold, and arrays by name; `network_from_files` is the inverse."""
    layers = []
    arrays = {}
    for layer in network.layers:
        fields = {name: getattr(layer, name) for name in _ARRAYS}
        arrays.update({f"{layer.name}.{name}": array for name, array in fields.items()})
        plain = {name: value for name, value in vars(layer).items() if name not in _ARRAYS}
        layers.append(plain | {"inputs": list(layer.inputs), "padding": list(layer.padding)} | _domain(layer.domain))
    description = {"format": FORMAT, "num_features": network.num_features, **_domain(network.domain), "layers": layers}
    return description, arrays


def network_from_files(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> IntegerNetwork:
    """Raises ValueError for another format, a missing field or array, or layers that do not fit each other."""
    if not isinstance(description, Mapping):
        raise ValueError(f"integer network: must be a description, got {description!r}.")
    if description.get("format") != FORMAT:
        raise ValueError(f"integer network: format must be {FORMAT}, got {description.get('format')!r}.")
    try:
        layers = tuple(
            IntegerLayer(
                **{name: arrays[f"{entry['name']}.{name}"] for name in _ARRAYS},
                **entry
                | {
                    "domain": Domain(**entry["domain"]),
                    "inputs": tuple(entry["inputs"]),
                    "padding": tuple(entry["padding"]),
                },
            )
            for entry in description["layers"]
        )
        return IntegerNetwork(description["num_features"], Domain(**description["domain"]), layers)
    except (KeyError, TypeError) as error:
        raise ValueError(f"integer network: damaged or incomplete ({type(error).__name__}: {error}).") from None


def network_digest(network: IntegerNetwork) -> str:
    """A fingerprint of every number in it, by which a file made from a network is known to be of that one."""
    description, arrays = network_to_files(network)
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()[:32]


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of an .npz file; the same bytes for the same arrays."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **dict(arrays))
    return content.getvalue()


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Raises ValueError where the file is damaged or holds objects instead of numbers."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"qparams.npz is damaged ({error})") from None


_ARRAYS = ("weight", "bias", "multiplier", "weight_scale")


def _domain(domain: Domain) -> dict[str, Any]:
    return {"domain": asdict(domain)}


def _check_layer(layer: IntegerLayer, place: int, channels: list[int], network: IntegerNetwork) -> None:
    for rule, value, is_met in _rules(layer, place, channels):
        if not is_met:
            raise ValueError(f"layer {layer.name!r}: {rule}, got {value}.")
    if not layer.is_float:
        largest = int(np.abs(layer.weight.astype(np.int64)).sum(axis=(1, 2)).max()) * 255
        largest += int(np.abs(layer.bias.astype(np.int64)).max())
        if largest >= 1 << 31:
            raise ValueError(f"layer {layer.name!r}: sums must fit in 32 bits, got up to {largest}.")


def _rules(layer: IntegerLayer, place: int, channels: list[int]) -> Iterator[tuple[str, Any, bool]]:
    """(rule, what was found, whether it is met)."""
    outputs = len(layer.weight)
    yield (
        "`inputs` must name tensors made before it",
        layer.inputs,
        bool(layer.inputs) and all(0 <= number <= place for number in layer.inputs),
    )
    yield "`weight` must have 3 dimensions", layer.weight.shape, layer.weight.ndim == 3
    yield "`weight` must be int8 or float32", layer.weight.dtype, layer.weight.dtype in (np.int8, np.float32)
    yield "`stride` and `groups` must be positive", (layer.stride, layer.groups), min(layer.stride, layer.groups) > 0
    yield "`padding` must not be negative", layer.padding, len(layer.padding) == 2 and min(layer.padding) >= 0
    expected = sum(channels[number] for number in layer.inputs)
    given = layer.weight.shape[1] * layer.groups
    yield f"`weight` must read {expected} channels", given, given == expected
    yield "`groups` must divide the outputs", (layer.groups, outputs), outputs % layer.groups == 0
    dtype = np.float32 if layer.is_float else np.int32
    yield (
        f"`bias` must be {np.dtype(dtype)} ({outputs},)",
        layer.bias.dtype,
        (layer.bias.dtype == dtype and layer.bias.shape == (outputs,)),
    )
    size = 0 if layer.is_float else outputs
    for array in (layer.multiplier, layer.weight_scale):
        yield (
            f"`multiplier` and `weight_scale` must be float32 ({size},)",
            array.shape,
            (array.shape == (size,) and array.dtype == np.float32),
        )
