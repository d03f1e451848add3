"""A front end that ends in the network's own input domain: int8 codes q, r = S (q - Z).

CMVN and quantization are one multiply-add a feature, code = clamp(round(a x + c)), so the codes cost no more than the
normalised features. The analytic choice S = 1/32, Z = 0 covers four standard deviations each way.
"""

from typing import Any

import torch
from torch import Tensor, nn

from speechkit.features.cmvn import GlobalCMVN
from speechkit.features.convolution import ConvolutionalMFB
from speechkit.features.front_end import FrontEnd
from speechkit.features.integer import IntegerMFB
from speechkit.features.mfb import MFB
from speechkit.features.streaming import FeatureStream
from speechkit.masking import length_mask
from speechkit.quantization import UNIT_VARIANCE, QParams

ARITHMETICS = ("float", "convolution", "integer")
OUTPUTS = ("codes", "values")


class QuantizedFrontEnd(nn.Module):
    """Waveform -> int8 codes, or their values.

    Args:
        front_end: `MFB` or `MFCC`.
        cmvn: `GlobalCMVN` or none; it is folded into the quantization.
        qparams: the network's input domain, one scale for all features; by default S = 1/32, Z = 0 in int8.
        arithmetic: "float" (fast), "convolution" (standard operators, for export) or "integer" (`IntegerMFB`: bit for
            bit what firmware computes).
        output: "codes" (int8) or "values": S (q - Z) in float32, through which gradients pass straight in "float"
            and "convolution".

    Raises:
        ValueError: an unknown choice, a CMVN that does not fold, or a domain with several scales.
    """

    def __init__(
        self,
        front_end: nn.Module,
        cmvn: nn.Module | None = None,
        qparams: QParams | None = None,
        *,
        arithmetic: str = "float",
        output: str = "codes",
    ) -> None:
        super().__init__()
        for name, value, known in (("arithmetic", arithmetic, ARITHMETICS), ("output", output, OUTPUTS)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")
        if not isinstance(front_end, MFB):
            raise ValueError(f"`front_end` must be an MFB or MFCC, got {type(front_end).__name__}.")
        if front_end.dynamic_range is not None:
            raise ValueError(f"`dynamic_range` must be none in a quantized front end, got {front_end.dynamic_range}.")
        if cmvn is not None and not isinstance(cmvn, GlobalCMVN):
            raise ValueError(f"`cmvn` must be GlobalCMVN or none to fold, got {type(cmvn).__name__}.")
        if cmvn is not None and cmvn.num_features != front_end.num_features:
            raise ValueError(
                f"`cmvn.num_features` must equal the features' {front_end.num_features}, got {cmvn.num_features}."
            )
        qparams = qparams or UNIT_VARIANCE
        if qparams.axis is not None:
            raise ValueError(f"`qparams` must have one scale for all features, got axis {qparams.axis}.")
        self.front_end: MFB = front_end
        self.cmvn: GlobalCMVN | None = cmvn
        self.qparams = qparams
        self.arithmetic, self.output = arithmetic, output
        self._convolution = ConvolutionalMFB(front_end) if arithmetic == "convolution" else None
        self._integer: tuple[Tensor, IntegerMFB] | None = None
        if arithmetic == "integer" and cmvn is None:
            self.integer()

    @property
    def features(self) -> MFB:
        """The features before CMVN and quantization."""
        return self.front_end

    @property
    def num_features(self) -> int:
        return self.front_end.num_features

    @property
    def sample_rate_hz(self) -> int:
        return self.front_end.sample_rate_hz

    @property
    def hop_seconds(self) -> float:
        return self.front_end.hop_seconds

    @property
    def frame_length(self) -> int:
        return self.front_end.frame_length

    @property
    def hop_length(self) -> int:
        return self.front_end.hop_length

    @property
    def edges(self) -> str:
        return self.front_end.edges

    def fake(self) -> "QuantizedFrontEnd":
        """Its twin for training: the same parts and statistics, but the values of the codes, with gradients."""
        return QuantizedFrontEnd(self.front_end, self.cmvn, self.qparams, arithmetic=self.arithmetic, output="values")

    def integer(self) -> IntegerMFB:
        """The integer twin for the statistics as they are."""
        statistics = torch.zeros(0) if self.cmvn is None else torch.stack(self._statistics()).detach().cpu()
        if self._integer is None or not torch.equal(self._integer[0], statistics):
            mean, std = (None, None) if self.cmvn is None else statistics.clone().unbind()
            twin = IntegerMFB(self.front_end, self.qparams, mean, std)
            object.__setattr__(self, "_integer", (statistics.clone(), twin))  # no submodule: it follows from the rest
        assert self._integer is not None
        return self._integer[1].to(self.front_end.filters.device)

    def multiply_add(self) -> tuple[Tensor, Tensor]:
        """a and c of code = clamp(round(a x + c)), float32 (F,) each: CMVN and domain in one.

        Raises:
            RuntimeError: the statistics of the CMVN were never set.
        """
        scale, zero_point = self._domain()
        if self.cmvn is None:
            filters = self.front_end.filters
            return filters.new_tensor([1.0 / scale]), filters.new_tensor([zero_point])
        mean, std = self._statistics()
        factor = 1.0 / (std.double() * scale)
        return factor.float(), (zero_point - mean.double() * factor).float()

    def output_lengths(self, num_samples: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames."""
        return self.front_end.output_lengths(num_samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> int8 codes or float32 values (B, T, F), frames (B,).

        Beyond an utterance's end stands the code of zero, or zero.
        """
        if self.arithmetic == "integer":
            codes, frames = self.integer()(waveform, lengths)
            return (codes if self.output == "codes" else self._values(codes)), frames
        if self._convolution is not None:
            features, frames = self._convolution(waveform, lengths)
            result = self._quantized(features)
        else:
            result, frames = self.front_end.by_blocks(waveform, lengths, self._quantized)
        if self.output == "values" and self._convolution is None:
            return result, frames  # by_blocks has zeroed the padding
        inside = length_mask(frames, result.shape[1])[:, :, None]
        nothing: Any = self.qparams.zero_point if self.output == "codes" else 0.0
        return (result if bool(inside.all()) else result.masked_fill(~inside, nothing)), frames

    def of_edged(self, waveform: Tensor, num_frames: int | None = None) -> Tensor:
        """A waveform (B, N) whose edges are laid on -> codes or values (B, T, F) of its first, or all, whole frames."""
        if num_frames is None and self._convolution is None:
            num_frames = max(0, (waveform.shape[1] - self.frame_length) // self.hop_length + 1)
        if self.arithmetic == "integer":
            assert num_frames is not None
            codes = self.integer().of_edged(waveform, num_frames)
            return codes if self.output == "codes" else self._values(codes)
        if self._convolution is not None:
            return self._quantized(self._convolution.of_edged(waveform, num_frames))
        assert num_frames is not None
        return self.front_end.of_edged(waveform, num_frames, self._quantized)

    def stream(self) -> FeatureStream:
        """Takes a waveform in pieces of any length and gives the codes or values of `forward`."""
        return FeatureStream(self)

    def _quantized(self, features: Tensor) -> Tensor:
        """Features (B, t, F) -> codes or values."""
        factor, offset = self.multiply_add()
        scaled = features * factor + offset
        scale, zero_point = self._domain()
        low, high = self.qparams.quant_min, self.qparams.quant_max
        if self.output == "codes":
            return scaled.round_().clamp_(low, high).to(self.qparams.torch_dtype)
        if not scaled.requires_grad:
            return scaled.round_().clamp_(low, high).sub_(zero_point).mul_(scale)
        rounded = scaled.round()
        passes = (rounded >= low) & (rounded <= high)
        straight = torch.where(passes, scaled, scaled.detach())
        codes = straight + (rounded.clamp(low, high) - straight).detach()
        return (codes - zero_point) * scale

    def _values(self, codes: Tensor) -> Tensor:
        scale, zero_point = self._domain()
        return (codes.float() - zero_point) * scale

    def _domain(self) -> tuple[float, int]:
        scale, zero_point = self.qparams.scale, self.qparams.zero_point
        assert isinstance(scale, float)
        assert isinstance(zero_point, int)
        return scale, zero_point

    def _statistics(self) -> tuple[Tensor, Tensor]:
        assert self.cmvn is not None
        if not torch.compiler.is_compiling() and not self.cmvn.is_fitted:
            raise RuntimeError("GlobalCMVN has no statistics: call fit(), or load a trained model.")
        return self.cmvn.mean, self.cmvn.std


def as_quantized_front_end(front_end: nn.Module) -> QuantizedFrontEnd:
    """A front end that can be exported: itself, or MFB or MFCC with `GlobalCMVN` or none in the domain S = 1/32, Z = 0.

    Raises:
        ValueError: another front end; the line says what to train with.
    """
    if isinstance(front_end, QuantizedFrontEnd):
        return front_end
    advice = "; train with QuantizedFrontEnd, or with FrontEnd of MFB or MFCC with GlobalCMVN"
    if not isinstance(front_end, FrontEnd):
        raise ValueError(f"`front_end` must be quantized or quantizable, got {type(front_end).__name__}{advice}.")
    if not isinstance(front_end.features, MFB):
        raise ValueError(f"`features` must be an MFB or MFCC, got {type(front_end.features).__name__}{advice}.")
    if not isinstance(front_end.cmvn, GlobalCMVN | None):
        raise ValueError(f"`cmvn` must be GlobalCMVN or none, got {type(front_end.cmvn).__name__}{advice}.")
    if front_end.deltas is not None:
        raise ValueError(f"`deltas` must be none, got {type(front_end.deltas).__name__}{advice}.")
    return QuantizedFrontEnd(front_end.features, front_end.cmvn)
