"""Calibration: what range a quantized domain should cover, found from batches of real values.

    observer = MSEObserver()
    for batch in batches:
        observer.observe(batch)
    qparams = observer.qparams("int8", dyadic=True)

A dyadic scale, a power of two, is divided by without rounding: x / S and x * (1 / S) are one number, so that all
runtimes that break ties alike give the same codes, and moving between two such domains is a shift. Runtimes also differ
in whether Z is added before the rounding or after. Where Z is even the two agree on ties, where it is odd they never
do; so dyadic domains get an even Z. Adding Z in float32 is itself rounded, which moves up to 3 in 10^6 Gaussian inputs
all the same; with Z = 0 nothing is left to differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.quantization.qparams import SMALLEST_SCALE, QParams

# For values of mean 0 and variance 1: four standard deviations each way, 40.6 dB signal to noise on a Gaussian.
UNIT_VARIANCE = QParams(1 / 32, 0, "int8")

_BLOCK_VALUES = 1 << 18
_SMALLEST_EXPONENT = -100  # ranges below 2^-100 are taken for it, so that bin widths are normal in float32


def range_qparams(
    low: Tensor,
    high: Tensor,
    *,
    dtype: str = "int8",
    symmetric: bool = True,
    dyadic: bool = False,
    axis: int | None = None,
) -> QParams:
    """The domain that covers [low, high] and 0.0, which always has a code of its own. A range of only 0.0 gets S = 1.

    Args:
        low: () or, with `axis`, (C,).
        high: likewise.
        dtype: "int8", "uint8" or "int16".
        symmetric: Z in the middle (0, or 128 for uint8), as many steps on both sides; else Z where the range wants it.
        dyadic: S is rounded up to a power of two, Z is even.
        axis: where the channels lie.

    Raises:
        ValueError: an unknown dtype, or `axis` that does not fit.
    """
    scale, zero_point = _domain(low, high, QParams(1.0, 0, dtype), symmetric, dyadic)
    return QParams(scale, zero_point.long(), dtype, axis)


class MinMaxObserver:
    """The range from the smallest to the largest value.

    Give it real values only: padding counts like any other zero.

    Args:
        axis: where channels lie that get a scale each; None for one scale.
    """

    def __init__(self, *, axis: int | None = None) -> None:
        self.axis = axis
        self._low = self._high = torch.empty(0)  # (C,) once something was observed; C is 1 without `axis`

    def observe(self, x: Tensor) -> None:
        """Takes a batch into account, of any shape.

        Raises:
            ValueError: values that are not finite, or another number of channels than before.
        """
        rows = self._rows(x)
        if not rows.numel():
            return
        low, high = torch.aminmax(rows, dim=1)
        if not (low.isfinite() & high.isfinite()).all():
            raise ValueError(f"`x` must be finite, got values from {low.min()} to {high.max()}.")
        if len(self._low):
            if len(low) != len(self._low):
                raise ValueError(f"`x` must have {len(self._low)} channels on axis {self.axis}, got {len(low)}.")
            low, high = torch.minimum(low, self._low), torch.maximum(high, self._high)
        self._low, self._high = low, high

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value of all channels.

        Raises:
            ValueError: nothing was observed.
        """
        self._refuse_nothing()
        return float(self._low.min()), float(self._high.max())

    def qparams(self, dtype: str = "int8", *, symmetric: bool = True, dyadic: bool = False) -> QParams:
        """The domain for what was observed; the arguments are those of `range_qparams`.

        Raises:
            ValueError: nothing was observed, or a dtype out of the observer's reach.
        """
        self._refuse_nothing()
        low, high = self._range(QParams(1.0, 0, dtype), symmetric, dyadic)
        if self.axis is None:
            low, high = low[0], high[0]
        return range_qparams(low, high, dtype=dtype, symmetric=symmetric, dyadic=dyadic, axis=self.axis)

    def _refuse_nothing(self) -> None:
        if not len(self._low):
            raise ValueError(f"{type(self).__name__} has observed nothing.")

    def _range(self, domain: QParams, symmetric: bool, dyadic: bool) -> tuple[Tensor, Tensor]:
        """(C,) lowest and (C,) highest value to cover."""
        return self._low, self._high

    def _rows(self, x: Tensor) -> Tensor:
        """Any shape -> (C, values) in float32."""
        x = x.detach().float()
        if self.axis is None:
            return x.reshape(1, -1)
        if not -x.ndim <= self.axis < x.ndim:
            raise ValueError(f"`x` must have an axis {self.axis}, got shape {tuple(x.shape)}.")
        return x.movedim(self.axis, 0).flatten(1)


class _HistogramObserver(MinMaxObserver):
    """Counts in `bins` equal bins over [-R, R) for each channel; R, a power of two, doubles when a value falls outside.

    Doubling merges bins in pairs, so the counts are those of one pass with the last R. A bin is at most 4 / bins of the
    largest magnitude wide.
    """

    def __init__(self, *, axis: int | None = None, bins: int = 8192) -> None:
        super().__init__(axis=axis)
        if bins < 256 or bins & (bins - 1):
            raise ValueError(f"`bins` must be a power of two of 256 or more, got {bins}.")
        self.bins = bins
        self._counts = torch.empty(0)  # (C, bins)
        self._exponents = torch.empty(0)  # (C,), R = 2^exponent

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        rows = self._rows(x)
        if not rows.numel():
            return
        _, exponents = torch.frexp(rows.abs().amax(dim=1))  # |x| < 2^exponent
        exponents = exponents.clamp(min=_SMALLEST_EXPONENT)
        if not len(self._counts):
            self._exponents = exponents
            self._counts = torch.zeros(len(rows), self.bins, dtype=torch.int64, device=rows.device)
        self._widen(exponents)
        places = (rows / self._width()[:, None]).floor().long() + self.bins // 2
        places += self.bins * torch.arange(len(rows), device=rows.device)[:, None]
        self._counts += torch.bincount(places.flatten(), minlength=self._counts.numel()).view_as(self._counts)

    def _widen(self, exponents: Tensor) -> None:
        while (grows := self._exponents < exponents).any():
            pairs = self._counts[grows].view(-1, self.bins // 2, 2).sum(dim=2)
            self._counts[grows] = F.pad(pairs, (self.bins // 4, self.bins // 4))
            self._exponents = self._exponents + grows

    def _width(self) -> Tensor:
        """(C,) width of a bin."""
        return torch.ldexp(
            torch.full(self._exponents.shape, 2 / self.bins, device=self._exponents.device), self._exponents
        )


class PercentileObserver(_HistogramObserver):
    """The range that holds a given share of the values; the rest is clipped.

    A symmetric range holds `percentile` percent of the magnitudes; an asymmetric one cuts half of the rest at each end.
    Memory is bounded; the range is the exact one or wider, by less than a bin: 4 / bins of the largest magnitude.

    Args:
        percentile: in (50, 100].
        axis: where channels lie that get a scale each; None for one scale.
        bins: of the histogram, a power of two.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, percentile: float = 99.99, *, axis: int | None = None, bins: int = 8192) -> None:
        super().__init__(axis=axis, bins=bins)
        if not 50.0 < percentile <= 100.0:
            raise ValueError(f"`percentile` must lie in (50, 100], got {percentile}.")
        self.percentile = percentile

    def _range(self, domain: QParams, symmetric: bool, dyadic: bool) -> tuple[Tensor, Tensor]:
        share, half, width = self.percentile / 100, self.bins // 2, self._width()
        if symmetric:
            magnitudes = self._counts[:, half:] + self._counts[:, :half].flip(1)
            reach = torch.minimum(_bins_holding(magnitudes, share) * width, torch.maximum(-self._low, self._high))
            return -reach, reach
        share = (1 + share) / 2
        high = (_bins_holding(self._counts, share) - half) * width
        low = (half - _bins_holding(self._counts.flip(1), share)) * width
        return torch.maximum(low, self._low), torch.minimum(high, self._high)


class MSEObserver(_HistogramObserver):
    """The range whose domain has the smallest mean squared error, rounding and clipping together, over a histogram.

    Tries parts k/128 of the observed range, or k/32 of each end where it is asymmetric, and takes the centre of a bin
    for its values. For a Gaussian and int8 it finds 3.9 standard deviations, 40.6 dB; the analysis of Banner et al.
    2019 (arXiv 1810.05723, section 3) has its optimum at 3.92.

    Args:
        axis: where channels lie that get a scale each; None for one scale.
        bins: of the histogram, a power of two.

    Raises:
        ValueError: an argument out of its range.
    """

    def _range(self, domain: QParams, symmetric: bool, dyadic: bool) -> tuple[Tensor, Tensor]:
        if domain.dtype == "int16":
            raise ValueError("`dtype` must be int8 or uint8, the histogram does not resolve the steps of int16.")
        centres = torch.arange(self.bins, device=self._counts.device) - self.bins / 2 + 0.5  # in widths of a bin
        lowest, highest = self._low / self._width(), self._high / self._width()
        shares = self._counts / self._counts.sum(dim=1, keepdim=True)
        parts = _parts(symmetric).to(shares)
        errors = []
        for low_part, high_part in parts[:, :, None].split(max(1, _BLOCK_VALUES // shares.numel()), dim=1):
            low, high = low_part * lowest, high_part * highest  # (parts, C)
            scale, zero_point = (value.float()[..., None] for value in _domain(low, high, domain, symmetric, dyadic))
            codes = (centres / scale).round_().add_(zero_point).clamp_(domain.quant_min, domain.quant_max)
            error = codes.sub_(zero_point).mul_(scale).sub_(centres).square_().mul_(shares)
            errors.append(error.sum(dim=2))
        low_part, high_part = parts[:, torch.cat(errors).argmin(dim=0)]
        return low_part * self._low, high_part * self._high


def _parts(symmetric: bool) -> Tensor:
    """(2, parts) of the lower and of the upper range to try, the whole first."""
    if symmetric:
        return (torch.arange(128, 0, -1) / 128).expand(2, -1)
    steps = torch.arange(32, 0, -1) / 32
    return torch.cartesian_prod(steps, steps).T


def _bins_holding(counts: Tensor, share: float) -> Tensor:
    """(C, bins) -> (C,) how many bins from the first on hold at least this share of the values."""
    wanted = share * counts.sum(dim=1, keepdim=True).double()
    return (counts.cumsum(dim=1) < wanted).sum(dim=1) + 1


def _domain(low: Tensor, high: Tensor, codes: QParams, symmetric: bool, dyadic: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point (float64, in the shape of `low`) of the domain that covers [low, high] and 0.0."""
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    if symmetric:
        middle = (codes.quant_min + codes.quant_max + 1) // 2
        scale = _tidy_scale(torch.maximum(-low, high) / (codes.quant_max - middle), dyadic)
        return scale, torch.full_like(scale, middle)
    steps = codes.quant_max - codes.quant_min - 2 * dyadic  # two steps are the price of an even zero point
    scale = _tidy_scale((high - low) / steps, dyadic)
    zero_point = codes.quant_min - low / scale
    return scale, 2 * (zero_point / 2).ceil() if dyadic else zero_point.round()


def _tidy_scale(scale: Tensor, dyadic: bool) -> Tensor:
    """1 for 0, not below the smallest scale, and if asked for, rounded up to a power of two."""
    scale = torch.where(scale == 0, 1.0, scale).clamp(min=SMALLEST_SCALE)
    if not dyadic:
        return scale
    fraction, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), exponent - (fraction == 0.5).int())
