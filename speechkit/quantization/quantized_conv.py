"""A convolution for quantization-aware training whose forward pass is the integer arithmetic itself, in float tensors.

Activations travel as steps n = q - Z, whole numbers in float32, with their scale S beside them. Steps times whole
weights are exact in any order of summation, so the codes are those of `speechkit.runtime.reference` and of ONNX
Runtime, not merely near them; gradients pass the roundings straight (Bengio et al. 2013, arXiv 1308.3432). The scale's
gradient through y / S and S n is that of LSQ (Esser et al. 2020, arXiv 1902.08153, equation 3).

While the batch norm lives, weights are quantized as they will be folded, with W f, f = gamma / sigma of the running
statistics (Jacob et al. 2018, arXiv 1712.05877, section 3.2). The usual way then divides the output by f again. But a
batch norm does not see the scale of its input, apart from epsilon: with k the value of one unit of the integer sum,

    BN(k a; eps) = gamma (a - mean a) / sqrt(var a + eps / k^2) + beta

so nothing is divided and no copy of the output is kept for it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.masking import length_mask
from speechkit.quantization.masked_norm import masked_norm
from speechkit.quantization.observers import MSEObserver
from speechkit.runtime import Domain, IntegerLayer

_EXACT_IN_FLOAT32 = 1 << 24
_LARGEST_BIAS = float(1 << 30)  # in units of the sums, which are 32 bits: matters where weights are next to nothing
_SMALLEST_FACTOR = 1e-8  # stands for gamma / sigma of a channel that a batch norm has switched off
MODES = ("float", "observe", "quantize")


class Activation(NamedTuple):
    """Steps n = q - Z (B, C, T) and the scale S (), r = S n. Of a float pass, steps that are not rounded."""

    steps: Tensor
    scale: Tensor


class ConvPart(nn.Module):
    """A convolution over one input, and the batch norm behind it.

    Args:
        weight: (C', C / groups, taps).
        bias: (C',) or none.
        norm: with parameters and running statistics, or none.
        stride: step in frames.
        groups: as in `torch.nn.Conv1d`.
        padding: zeros before the first and after the last frame.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm: nn.Module | None,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.norm: Any = norm
        self.stride, self.groups, self.padding = stride, groups, padding

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the batch norm's running statistics in them, with gradients."""
        if self.norm is None:
            return self.weight, self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        factor = self.factor()
        bias = self.norm.bias - self.norm.running_mean * factor
        return self.weight * factor[:, None, None], bias if self.bias is None else bias + self.bias * factor

    def factor(self) -> Tensor:
        """(C',) gamma / sigma of the running statistics."""
        factor = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        smallest = torch.full_like(factor, _SMALLEST_FACTOR).copysign(factor.detach())
        return torch.where(factor.abs() < _SMALLEST_FACTOR, smallest, factor)

    def convolve(self, x: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', T'), reading zeros beyond each length."""
        num_frames = -(-x.shape[2] // self.stride)
        left, right = self.padding
        if (left, right) != (0, 0):
            x = x * length_mask(lengths, x.shape[2])[:, None, :].to(x.dtype)
        missing = int(num_frames == 0)  # a batch without frames: the kernel still needs something to stand on
        x = F.pad(x, (left, right + missing))
        return F.conv1d(x, weight, stride=self.stride, groups=self.groups)[:, :, :num_frames]

    def normalise(self, sums: Tensor, unit: Tensor, scale: Tensor, lengths: Tensor) -> Tensor:
        """Batch norm over real frames of sums (B, C', T') that are worth unit / factor each, in units of `scale`."""
        norm = self.norm
        value = unit / self.factor().detach()  # k; its sign is gamma's
        y, mean, var, count = masked_norm(
            sums,
            length_mask(lengths, sums.shape[2])[:, None, :],
            norm.weight * value.sign() / scale,
            norm.bias / scale,
            norm.eps / value.square(),
            getattr(norm, "joined", lambda *sums: sums),  # over ranks, where the batch norm joins them
        )
        if getattr(norm, "update_running", True):
            with torch.no_grad():
                bias = 0.0 if self.bias is None else self.bias
                unbiased = var * value.square() * count / (count - 1).clamp(min=1)
                momentum = norm.momentum * (count > 0).to(count)  # a rank without work in a step has no frames
                norm.running_mean.lerp_(mean * value + bias, momentum)
                norm.running_var.lerp_(unbiased, momentum)
        return y


class QuantizedConv(nn.Module):
    """Convolutions over one or more inputs, summed, with ReLU or without, into an int8 domain of its own.

    Args:
        parts: one for each input, with as many outputs each.
        name: for tables and errors.
        relu: whether negative values become 0.
        weight_bits: of the weights, 2 to 8; they are symmetric and have a scale for each output channel.

    Attributes:
        mode: "float", "observe" (float, and takes note of the range) or "quantize".
        frozen: batch norms use their running statistics, also in training.
        is_float: weights stay in float; the output has a domain all the same.
        lowest: smaller outputs need not be told apart, so no domain is widened for them.
    """

    def __init__(self, parts: list[ConvPart], *, name: str, relu: bool, weight_bits: int = 8) -> None:
        super().__init__()
        if not 2 <= weight_bits <= 8:
            raise ValueError(f"`weight_bits` must lie in [2, 8], got {weight_bits}.")
        self.parts: Any = nn.ModuleList(parts)
        self.name, self.relu, self.weight_bits = name, relu, weight_bits
        self.mode, self.frozen, self.is_float, self.lowest = "float", True, False, -np.inf
        self.zero_point = -128 if relu else 0
        self.log_scale = nn.Parameter(torch.full((), torch.nan))  # of the output's S; learned, and always positive
        self.log_clip = nn.Parameter(torch.zeros(len(parts[0].weight)))  # part of the largest weight that is kept
        self.observer = MSEObserver()

    @property
    def stride(self) -> int:
        return self.parts[0].stride

    @property
    def scale(self) -> Tensor:
        """S of the output, ().

        Raises:
            ValueError: never calibrated.
        """
        if self.log_scale.isnan():
            raise ValueError(f"layer {self.name!r} was never calibrated: run the network over recordings first.")
        return self.log_scale.exp()

    def calibrate(self, scales: list[Tensor]) -> None:
        """Takes the output's domain from what was observed, and each weight channel's range where it has few bits.

        Args:
            scales: of the inputs.

        Raises:
            ValueError: nothing was observed, or nothing but zeros.
        """
        qparams = self.observer.qparams("int8", symmetric=not self.relu)
        low, high = self.observer.limits
        if low == high:
            raise ValueError(f"layer {self.name!r}: the calibration recordings make it give {low:.3g} only.")
        with torch.no_grad():
            self.log_scale.fill_(float(np.log(qparams.scale)))
            if self.weight_bits < 8:
                self.log_clip.copy_(_best_clip(self._matrix(scales), self._largest_step).log())

    @property
    def _largest_step(self) -> int:
        return (1 << (self.weight_bits - 1)) - 1

    def _matrix(self, scales: list[Tensor]) -> Tensor:
        """(C', everything it reads): folded weights of all parts, in the scale of the first input."""
        weights = [part.folded()[0].flatten(1) for part in self.parts]
        weights = [weight * (scale / scales[0]) for weight, scale in zip(weights, scales, strict=True)]
        return torch.cat(weights, dim=1)

    def whole_weights(self, scales: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Whole weights of each part, and the scale (C',) of one unit."""
        matrix = self._matrix(scales)
        largest = matrix.detach().abs().amax(dim=1).clamp(min=1e-30)
        step = largest * self.log_clip.exp() / self._largest_step
        step = torch.maximum(step, self._bias().detach().abs() / (scales[0].detach() * _LARGEST_BIAS))
        whole = rounded(matrix / step[:, None], -self._largest_step, self._largest_step)
        sizes = [part.weight[0].numel() for part in self.parts]
        pieces = whole.split(sizes, dim=1)
        return [piece.view_as(part.weight) for piece, part in zip(pieces, self.parts, strict=True)], step

    def forward(self, inputs: list[Activation], lengths: Tensor) -> tuple[Activation, Tensor]:
        """Activations (B, C, T), frames (B,) -> activation (B, C', T'), frames (B,)."""
        frames = (lengths + self.stride - 1).div(self.stride, rounding_mode="floor")
        if self.mode != "quantize":
            values = self._float_sum(inputs, lengths)
            values = values.relu() if self.relu else values
            if self.mode == "observe":
                real = values.movedim(1, 2)[length_mask(frames, values.shape[2])]
                self.observer.observe(real.clamp(min=self.lowest))
            scale = values.new_ones(()) if self.log_scale.isnan() else self.scale
            return Activation(values / scale, scale), frames
        low, high = (0, 255) if self.relu else (-128, 127)
        scale = _LSQScale.apply(self.scale, inputs[0].steps.shape[2] * len(self.log_clip) * high)
        if self.is_float:
            ratio = self._float_sum(inputs, lengths) / scale
        elif self.training and not self.frozen:
            ratio = self._live_sum(inputs, lengths, frames, scale)
        else:
            ratio = self._whole_sum(inputs, lengths, scale)
        return Activation(rounded(ratio, low, high), scale), frames

    def _float_sum(self, inputs: list[Activation], lengths: Tensor) -> Tensor:
        total: Any = 0.0
        for part, x in zip(self.parts, inputs, strict=True):
            weight, bias = part.folded()
            total = total + part.convolve(x.steps * x.scale, weight, lengths) + bias[:, None]
        return total

    def _live_sum(self, inputs: list[Activation], lengths: Tensor, frames: Tensor, scale: Tensor) -> Tensor:
        """The sum in units of the output's scale, each batch norm with the statistics of this batch."""
        weights, step = self.whole_weights([x.scale for x in inputs])
        unit = (inputs[0].scale * step).detach()
        total: Any = 0.0
        for part, x, weight in zip(self.parts, inputs, weights, strict=True):
            sums = part.convolve(x.steps, weight, lengths)
            if part.norm is not None:
                sums = part.normalise(sums, unit, scale, frames)
            else:
                sums = sums * (unit / scale)[:, None]
                sums = sums if part.bias is None else sums + (part.bias / scale)[:, None]
            total = total + sums
        return total

    def _whole_sum(self, inputs: list[Activation], lengths: Tensor, scale: Tensor) -> Tensor:
        """The sum in units of the output's scale, exactly as `IntegerLayer` defines it."""
        weights, step = self.whole_weights([x.scale for x in inputs])
        bias = rounded(self._bias() / (inputs[0].scale * step))
        dtype = (
            torch.float32 if self.training or self._largest_sum(weights, bias) < _EXACT_IN_FLOAT32 else torch.float64
        )
        total: Any = bias.to(dtype)[:, None]
        for part, x, weight in zip(self.parts, inputs, weights, strict=True):
            total = total + part.convolve(x.steps.to(dtype), weight.to(dtype), lengths)
        return total.float() * (inputs[0].scale * step / scale)[:, None]

    def _bias(self) -> Tensor:
        total: Any = 0.0
        for part in self.parts:
            total = total + part.folded()[1]
        return total

    @staticmethod
    def _largest_sum(weights: list[Tensor], bias: Tensor) -> float:
        total = sum(weight.detach().double().abs().sum(dim=(1, 2)) for weight in weights)
        return float((total * 255 + bias.detach().double().abs()).max())

    @torch.no_grad()
    def to_integer(self, inputs: tuple[int, ...], scales: list[Tensor]) -> IntegerLayer:
        """Its description for other executors; several parts become one matrix over their channels side by side."""
        weights, step = self.whole_weights(scales)
        bias = rounded(self._bias() / (scales[0] * step)).to(torch.int32)
        multiplier = scales[0] * step / self.scale
        weight = torch.cat(weights, dim=1).to(torch.int8)
        if self.is_float:
            weight = torch.cat([part.folded()[0] for part in self.parts], dim=1)
            bias, multiplier, step = self._bias(), step[:0], step[:0]
        return IntegerLayer(
            name=self.name,
            inputs=inputs,
            weight=weight.cpu().numpy(),
            bias=bias.cpu().numpy(),
            multiplier=multiplier.cpu().numpy(),
            weight_scale=step.cpu().numpy(),
            domain=Domain(float(self.scale), self.zero_point),
            relu=self.relu,
            stride=self.stride,
            groups=self.parts[0].groups,
            padding=self.parts[0].padding,
        )


def rounded(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """The nearest whole number, ties to even, within [low, high]; gradients pass inside and are 0 outside."""
    result: Tensor = _Round.apply(x, low, high)
    return result


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float | None, high: float | None) -> Tensor:
        if low is None:
            return x.round()
        ctx.save_for_backward(x)
        ctx.limits = low - 0.5, high + 0.5
        return x.clamp(low, high).round_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.saved_tensors:
            return torch.ops.aten.hardtanh_backward(grads[0], *ctx.saved_tensors, *ctx.limits), None, None
        return grads[0], None, None


class _LSQScale(torch.autograd.Function):
    """The scale itself; its gradient divided by sqrt(values * largest step) (LSQ, section 2.2)."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, count: int) -> Tensor:
        ctx.factor = max(float(count), 1.0) ** -0.5
        return scale.view_as(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.factor, None


def _best_clip(rows: Tensor, largest_step: int) -> Tensor:
    """(C', values) -> (C',) the part of each row's largest magnitude whose grid has the least squared error."""
    largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    parts = torch.arange(32, 9, -1, device=rows.device) / 32
    errors = []
    for part in parts:
        step = largest * part / largest_step
        errors.append(((rows / step).round().clamp(-largest_step, largest_step) * step - rows).square().sum(dim=1))
    return parts[torch.stack(errors).argmin(dim=0)]
