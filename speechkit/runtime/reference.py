"""The integer network in numpy: the definition that every other executor is held to, bit for bit."""

import numpy as np

from speechkit.runtime.network import CODE_MAX, IntegerLayer, IntegerNetwork


def run_layers(network: IntegerNetwork, codes: np.ndarray) -> list[np.ndarray]:
    """Every tensor of one utterance.

    Args:
        network: the layers.
        codes: int8 (T, F), of the front end.

    Returns:
        int8 (T', C) of each tensor, `codes` first.

    Raises:
        ValueError: codes of another type or number of features.
    """
    if codes.dtype != np.int8 or codes.ndim != 2 or codes.shape[1] != network.num_features:
        raise ValueError(
            f"`codes` must be int8 (frames, {network.num_features}), got {codes.dtype} {tuple(codes.shape)}."
        )
    tensors = [codes]
    for layer in network.layers:
        tensors.append(_run_layer(layer, network, tensors))
    return tensors


def run_network(network: IntegerNetwork, codes: np.ndarray) -> np.ndarray:
    """int8 codes (T, F) of one utterance -> logits (T', V), float32."""
    return network.layers[-1].domain.values(run_layers(network, codes)[-1])


def _run_layer(layer: IntegerLayer, network: IntegerNetwork, tensors: list[np.ndarray]) -> np.ndarray:
    """-> int8 (T', C')."""
    domains = [network.domains[number] for number in layer.inputs]
    if layer.is_float:
        parts = [domain.values(tensors[number]) for number, domain in zip(layer.inputs, domains, strict=True)]
    else:
        parts = [
            tensors[number].astype(np.float64) - domain.zero_point
            for number, domain in zip(layer.inputs, domains, strict=True)
        ]
    sums = convolve(np.concatenate(parts, axis=1), layer)
    if layer.is_float:
        codes = np.rint((sums + layer.bias) / np.float32(layer.domain.scale))
    else:
        accumulator = sums.astype(np.int64) + layer.bias
        codes = np.rint(accumulator.astype(np.float32) * layer.multiplier)
    return np.clip(codes + layer.domain.zero_point, layer.code_low, CODE_MAX).astype(np.int8)


def convolve(x: np.ndarray, layer: IntegerLayer) -> np.ndarray:
    """(T, C), zero beyond its ends -> sums (T', C') without bias, in the type of `x`.

    A matrix product a group: integers in float64 stay below 2^53, so it is exact in any order.
    """
    taps = layer.weight.shape[2]
    num_frames = max(0, (len(x) + sum(layer.padding) - taps) // layer.stride + 1)
    if num_frames == 0:
        return np.zeros((0, len(layer.weight)), dtype=x.dtype)
    padded = np.pad(x.T, ((0, 0), layer.padding))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=1)[:, :: layer.stride]  # (C, T', taps)
    grouped = windows.reshape(layer.groups, -1, num_frames, taps).swapaxes(2, 3).reshape(layer.groups, -1, num_frames)
    weight = layer.weight.reshape(layer.groups, len(layer.weight) // layer.groups, -1).astype(x.dtype)
    sums: np.ndarray = (weight @ grouped).reshape(len(layer.weight), num_frames).T
    return sums
