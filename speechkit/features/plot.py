"""A figure of what a front end makes of a recording: waveform, MFB, MFCC, int8 codes, and what quantization costs."""

import inspect
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from speechkit.features.cmvn import GlobalCMVN
from speechkit.features.framing import left_edge
from speechkit.features.front_end import FrontEnd
from speechkit.features.mel import hz_to_mel
from speechkit.features.mfb import MFB
from speechkit.features.mfcc import MFCC
from speechkit.features.quantized import QuantizedFrontEnd
from speechkit.quantization import QParams, quantize

_WAVEFORM_POINTS = 4000
_NUM_CEPSTRA = 13
_TICKS_HZ = (200, 500, 1000, 2000, 4000, 8000, 16000)
_LOG_UNITS = {"ln": "ln energy", "log10": "log10 energy", "db": "dB", "none": "energy"}


class Quantized(NamedTuple):
    """Features on their way into a network's domain.

    Attributes:
        codes: (T, F), int8 unless `qparams` says otherwise.
        error: float32 (T, F), the value minus that of its code, in steps of S.
        qparams: the domain.
        snr_db: power of the values over that of the error; infinite without an error.
        clipped_share: of the codes, 0 to 1.
    """

    codes: Tensor
    error: Tensor
    qparams: QParams
    snr_db: float
    clipped_share: float

    def __str__(self) -> str:
        return f"SNR {self.snr_db:.1f} dB, {self.clipped_share:.2%} of the codes clipped"


def file_front_end(waveform: Tensor, sample_rate_hz: int) -> QuantizedFrontEnd:
    """Kaldi's MFB, normalised over this waveform (N,) itself, in the domain S = 1/32, Z = 0.

    80 mels, below 16 kHz 40: the spectrum has no more bins to give.

    Raises:
        ValueError: the waveform is shorter than a frame.
    """
    mfb = MFB(sample_rate_hz=sample_rate_hz, num_mels=80 if sample_rate_hz >= 16000 else 40)
    cmvn = GlobalCMVN(mfb.num_features)
    cmvn.fit([mfb(waveform[None], torch.tensor([len(waveform)]))])
    return QuantizedFrontEnd(mfb, cmvn)


@torch.no_grad()
def quantized_features(front_end: QuantizedFrontEnd | FrontEnd, waveform: Tensor) -> Quantized:
    """The codes of a waveform (N,) and what they lose; a plain `FrontEnd` is quantized with S = 1/32, Z = 0."""
    batch, lengths = waveform[None], torch.tensor([len(waveform)])
    if isinstance(front_end, QuantizedFrontEnd):
        features, cmvn, qparams = front_end.features, front_end.cmvn, front_end.qparams
        values = FrontEnd(features=features, cmvn=cmvn)(batch, lengths)[0][0]
        coder = QuantizedFrontEnd(features, cmvn, qparams, arithmetic=front_end.arithmetic, output="codes")
        codes = coder(batch, lengths)[0][0]
    else:
        values, qparams = front_end(batch, lengths)[0][0], QParams(1 / 32, 0, "int8")
        codes = quantize(values, qparams)
    assert isinstance(qparams.scale, float)
    steps = values / qparams.scale
    error = steps - (codes.float() - qparams.zero_point)
    clipped = (codes == qparams.quant_min) | (codes == qparams.quant_max)
    return Quantized(codes, error, qparams, _ratio_db(steps, error), float(clipped.float().mean()))


def plot_features(
    waveform: Tensor, front_end: nn.Module, path: str | os.PathLike[str], *, title: str = ""
) -> Quantized:
    """Writes the figure; its panels share a time axis in seconds.

    Args:
        waveform: (N,) in [-1, 1] at the front end's rate.
        front_end: `QuantizedFrontEnd`, or `FrontEnd` of MFB or MFCC; see `file_front_end`.
        path: of the figure; the suffix says its format. Folders are made.
        title: of the figure.

    Raises:
        ValueError: another front end or one without statistics, a waveform shorter than a frame, or an unknown format.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(front_end, QuantizedFrontEnd | FrontEnd) or not isinstance(front_end.features, MFB):
        features = getattr(front_end, "features", front_end)
        raise ValueError(f"`front_end` must be made of MFB or MFCC to plot it, got {type(features).__name__}.")
    if isinstance(front_end.cmvn, GlobalCMVN) and not front_end.cmvn.is_fitted:
        raise ValueError("`cmvn` must have statistics, got a GlobalCMVN that was never fitted.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("matplotlib is missing: pip install speechkit[plot]") from None
    quantized = quantized_features(front_end, waveform)
    mfb, mfcc = _panels_of(front_end.features)
    figure = Figure(figsize=(11.0, 12.0), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(5, 1, sharex=True, height_ratios=(1, 2, 1.2, 2, 2))
    _draw_waveform(axes[0], waveform, mfb.sample_rate_hz)
    _draw_mfb(axes[1], waveform, mfb)
    _draw_mfcc(axes[2], waveform, mfcc)
    _draw_quantized(axes[3], axes[4], quantized, mfb)
    axes[4].set_xlim(0.0, len(waveform) / mfb.sample_rate_hz)
    axes[4].set_xlabel("s")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format=Path(path).suffix[1:] or "png")
    return quantized


def _ratio_db(signal: Tensor, noise: Tensor) -> float:
    powers = [float(values.square().sum()) for values in (signal, noise)]
    if powers[1] == 0.0:
        return math.inf
    return 10.0 * math.log10(powers[0] / powers[1]) if powers[0] > 0.0 else -math.inf


def _panels_of(features: MFB) -> tuple[MFB, MFCC]:
    """The MFB and MFCC that share a front end's options; of the two, its own is taken as it is."""
    options = {name: getattr(features, name) for name in inspect.signature(MFB.__init__).parameters if name != "self"}
    options |= {"use_energy": False, "htk_compat": False}
    if isinstance(features, MFCC):
        return MFB(**options), features
    return features, MFCC(num_coefficients=min(_NUM_CEPSTRA, features.num_mels), **options)


def _draw_waveform(axes: Any, waveform: Tensor, sample_rate_hz: int) -> None:
    """Lowest and highest sample of each short span, so that a long recording draws as fast as a short one."""
    size = max(1, math.ceil(len(waveform) / _WAVEFORM_POINTS))
    padding = torch.full((-len(waveform) % size,), float(waveform[-1]))
    spans = torch.cat([waveform, padding]).view(-1, size)
    time = np.arange(len(spans)) * size / sample_rate_hz
    heights = torch.stack([spans.amin(dim=1), spans.amax(dim=1)], dim=1).flatten().numpy()
    axes.plot(np.repeat(time, 2), heights, linewidth=0.5, color="black")
    axes.set(title="waveform", ylabel="amplitude")


def _draw_image(
    axes: Any,
    values: Tensor,
    mfb: MFB,
    *,
    label: str,
    cmap: str,
    low: float | None = None,
    high: float | None = None,
    first: int = 0,
) -> None:
    """(T, F), frame t a hop wide around its middle."""
    hop, rate = mfb.hop_length, mfb.sample_rate_hz
    middle = mfb.frame_length / 2 - left_edge(mfb.frame_length, hop, mfb.edges)
    start = (middle - hop / 2) / rate
    extent = (start, start + len(values) * hop / rate, first - 0.5, first + values.shape[1] - 0.5)
    image = axes.imshow(values.T.numpy(), origin="lower", aspect="auto", extent=extent, cmap=cmap, vmin=low, vmax=high)
    axes.figure.colorbar(image, ax=axes, label=label)


def _draw_mfb(axes: Any, waveform: Tensor, mfb: MFB) -> None:
    with torch.no_grad():
        energies = mfb(waveform[None], torch.tensor([len(waveform)]))[0][0]
    if mfb.use_energy:
        energies = energies[:, :-1] if mfb.htk_compat else energies[:, 1:]
    _draw_image(axes, energies, mfb, label=_LOG_UNITS[mfb.log], cmap="magma")
    axes.set(title=f"MFB, {mfb.num_mels} mels", ylabel="Hz")
    _label_mels(axes, mfb)


def _draw_mfcc(axes: Any, waveform: Tensor, mfcc: MFCC) -> None:
    """Without C0 or energy, which is many times the others, unless there is nothing else."""
    with torch.no_grad():
        cepstra = mfcc(waveform[None], torch.tensor([len(waveform)]))[0][0]
    first = int(cepstra.shape[1] > 1)
    cepstra = (cepstra.roll(1, dims=1) if mfcc.htk_compat else cepstra)[:, first:]
    high = float(cepstra.abs().max()) or 1.0
    _draw_image(axes, cepstra, mfcc, label="cepstrum", cmap="coolwarm", low=-high, high=high, first=first)
    axes.set(title=f"MFCC, {mfcc.num_coefficients} coefficients{first * ', without C0'}", ylabel="coefficient")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _draw_quantized(codes_axes: Any, error_axes: Any, quantized: Quantized, mfb: MFB) -> None:
    qparams = quantized.qparams
    low, high = qparams.quant_min, qparams.quant_max
    _draw_image(codes_axes, quantized.codes.float(), mfb, label="code", cmap="coolwarm", low=low, high=high)
    codes_axes.set(title=f"{qparams.dtype} codes, S = {qparams.scale:g}, Z = {qparams.zero_point}", ylabel="feature")
    _draw_image(error_axes, quantized.error, mfb, label="LSB", cmap="coolwarm", low=-1.0, high=1.0)
    error_axes.set(title=f"quantization error, value minus its code's: {quantized}", ylabel="feature")


def _label_mels(axes: Any, mfb: MFB) -> None:
    """Round frequencies at their places among the filters, whose middles are equally spaced in mels."""
    top_hz = mfb.high_hz if mfb.high_hz > 0 else mfb.sample_rate_hz / 2 + mfb.high_hz
    low, high = hz_to_mel(torch.tensor([mfb.low_hz, top_hz], dtype=torch.float64), mfb.mel_scale).tolist()
    ticks = [hz for hz in _TICKS_HZ if mfb.low_hz < hz <= top_hz]
    mels = hz_to_mel(torch.tensor(ticks, dtype=torch.float64), mfb.mel_scale)
    places = (mels - low) / (high - low) * (mfb.num_mels + 1) - 1.0
    inside = [
        (place, str(hz))
        for place, hz in zip(places.tolist(), ticks, strict=True)
        if -0.5 <= place <= mfb.num_mels - 0.5
    ]
    axes.set_yticks([place for place, _ in inside], [name for _, name in inside])
