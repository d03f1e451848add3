"""Every domain of a quantized network, what it clips, and what each layer costs when it alone is quantized."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechkit.masking import length_mask
from speechkit.quantization.quantized_network import QuantizedNetwork

Features = tuple[Tensor, Tensor]  # values (B, T, F) of the input domain, frames (B,)


class LayerReport(NamedTuple):
    """One tensor of the network.

    Attributes:
        name: of the layer that gives it, or "input".
        low: smallest value of its domain.
        high: largest value of its domain.
        scale: S.
        zero_point: Z.
        smallest: value that occurred (in float, for a layer).
        largest: value that occurred.
        clipped: share of the values beyond the domain, 0 to 1.
        snr_db: of the logits when only this layer is quantized, weights and output; infinite for the input.
        word_error_rate: when only this layer is quantized, in percent; none if it was not measured.
    """

    name: str
    low: float
    high: float
    scale: float
    zero_point: int
    smallest: float
    largest: float
    clipped: float
    snr_db: float
    word_error_rate: float | None = None


@torch.no_grad()
def measure_layers(
    network: QuantizedNetwork,
    batches: Sequence[Features],
    *,
    word_error_rate: Callable[[Sequence[Features]], float] | None = None,
) -> list[LayerReport]:
    """Measures a calibrated network; it is left as it was.

    Args:
        network: calibrated.
        batches: values of the input domain, and frames.
        word_error_rate: logits (B, T', V) and frames of each batch -> word error rate in percent.

    Returns:
        The input, then each layer.
    """
    reference = [_real_frames(*network(*batch)) for batch in _in_float(network, batches)]
    ranges = _measure_ranges(network, batches)
    rows = [ranges.report(0, "input", math.inf, None)]
    for place, layer in enumerate(network.layers, start=1):
        with network.only_quantized(layer.name):
            outputs = [network(*batch) for batch in batches]
        noisy = [_real_frames(*output) for output in outputs]
        errors = None if word_error_rate is None else word_error_rate(outputs)
        signal = sum(float(x.double().square().sum()) for x in reference)
        noise = sum(float((x - y).double().square().sum()) for x, y in zip(reference, noisy, strict=True))
        snr_db = 10 * math.log10(signal / noise) if noise else math.inf
        rows.append(ranges.report(place, layer.name, snr_db, errors))
    return rows


def layer_table(rows: Sequence[LayerReport]) -> str:
    """The rows as text, the layer that costs most marked with an asterisk."""
    worst = min(rows, key=lambda row: row.snr_db).name
    width = max(len(row.name) for row in rows) + 2
    lines = [
        f"{'tensor':<{width}}{'S':>10}{'Z':>6}{'domain':>20}{'values':>20}{'clipped':>10}{'SNR dB':>9}{'WER %':>8}"
    ]
    for row in rows:
        domain, values = f"[{row.low:.2f}, {row.high:.2f}]", f"[{row.smallest:.2f}, {row.largest:.2f}]"
        snr = "" if math.isinf(row.snr_db) else f"{row.snr_db:.1f}"
        errors = "" if row.word_error_rate is None else f"{row.word_error_rate:.2f}"
        name = f"{row.name} *" if row.name == worst else row.name
        lines.append(
            f"{name:<{width}}{row.scale:>10.3g}{row.zero_point:>6}{domain:>20}{values:>20}"
            f"{row.clipped:>10.3%}{snr:>9}{errors:>8}"
        )
    return "\n".join(lines)


def plot_layers(rows: Sequence[LayerReport], path: str | os.PathLike[str]) -> None:
    """Draws domains against the values that occurred, and the SNR of each layer; format by the file's suffix.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("matplotlib is missing: pip install speechkit[plot]") from None
    places = range(len(rows))
    figure = Figure(figsize=(9.0, 0.3 * len(rows) + 1.5), layout="constrained")
    ranges, noise = figure.subplots(1, 2, sharey=True)
    ranges.barh(places, [row.high - row.low for row in rows], left=[row.low for row in rows], color="#cfd8dc")
    ranges.hlines(places, [row.smallest for row in rows], [row.largest for row in rows], color="#37474f")
    ranges.set(xlabel="domain (bar) and values (line)", yticks=list(places), yticklabels=[row.name for row in rows])
    ranges.set_xscale("symlog")
    finite = [row.snr_db if math.isfinite(row.snr_db) else 0.0 for row in rows]
    noise.barh(places, finite, color="#0277bd")
    noise.set_xlabel("SNR of the logits, only this layer quantized, dB")
    noise.invert_yaxis()
    figure.savefig(path)


def _in_float(network: QuantizedNetwork, batches: Sequence[Features]) -> Any:
    """The batches, one after another, while the network computes in float."""
    with network.only_quantized(""):
        yield from batches


def _real_frames(logits: Tensor, frames: Tensor) -> Tensor:
    """(frames of all utterances, V)."""
    return logits[length_mask(frames, logits.shape[1])]


class _Ranges:
    """Of the values of each tensor in float: least, largest, and how many lie beyond its domain."""

    def __init__(self, domains: Sequence[tuple[float, int]]) -> None:
        self.domains = domains
        self.smallest = [math.inf] * len(domains)
        self.largest = [-math.inf] * len(domains)
        self.clipped, self.count = [0] * len(domains), [0] * len(domains)

    def add(self, place: int, values: Tensor) -> None:
        if values.numel() == 0:
            return
        scale, zero_point = self.domains[place]
        low, high = scale * (-128 - zero_point), scale * (127 - zero_point)
        self.smallest[place] = min(self.smallest[place], float(values.min()))
        self.largest[place] = max(self.largest[place], float(values.max()))
        self.clipped[place] += int(((values < low - scale / 2) | (values > high + scale / 2)).sum())
        self.count[place] += values.numel()

    def report(self, place: int, name: str, snr_db: float, errors: float | None) -> LayerReport:
        scale, zero_point = self.domains[place]
        return LayerReport(
            name,
            scale * (-128 - zero_point),
            scale * (127 - zero_point),
            scale,
            zero_point,
            self.smallest[place],
            self.largest[place],
            self.clipped[place] / max(1, self.count[place]),
            snr_db,
            errors,
        )


def _measure_ranges(network: QuantizedNetwork, batches: Sequence[Features]) -> _Ranges:
    scale, zero_point = network.qparams.scale, network.qparams.zero_point
    assert isinstance(scale, float)
    assert isinstance(zero_point, int)
    ranges = _Ranges([(scale, zero_point), *((float(layer.scale), layer.zero_point) for layer in network.layers)])
    for batch in _in_float(network, batches):
        activations, frames = network.activations(*batch)
        for place, (activation, count) in enumerate(zip(activations, frames, strict=True)):
            values = (activation.steps * activation.scale).transpose(1, 2)
            ranges.add(place, values[length_mask(count, values.shape[1])])
    return ranges
