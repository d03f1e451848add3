"""A quantized domain and the way into it and out: r = S (q - Z) (Jacob et al. 2018, arXiv 1712.05877, equation 1).

Codes are those of ONNX's QuantizeLinear: clamp(round(x / S) + Z), ties to the even integer before Z is added, all in
float32. ONNX Runtime computes the same for every S. PyTorch's kernels multiply by the float32 1 / S: for a power of two
that is the same number; for other S the codes of 5 in 10^7 Gaussian inputs differ by one, and of 13 % of the inputs
that lie half-way between two codes as nearly as float32 can tell. Hence fake quantization is written out here: what was
trained is what an exported model computes, and values beyond 2^63 S saturate, which
`torch.fake_quantize_per_channel_affine` turns into the lowest code.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {"int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16}
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # below it float32 loses precision, and 1 / S can overflow
_LARGEST_SCALE = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class QParams:
    """Scale and zero point of a tensor, or of each of its channels. Plain values, so that YAML can hold them.

    Args:
        scale: S, the step between codes; or one for each channel (kept as a tuple; tensors and lists are accepted).
        zero_point: Z, the code of 0.0; or one for each channel. A single one serves all channels.
        dtype: "int8", "uint8" or "int16".
        axis: where the channels lie; None for one scale.

    Raises:
        ValueError: an argument out of its range, or `axis` without channels or channels without `axis`.
    """

    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...]
    dtype: str
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        scale, zero_point = _plain(self.scale), _plain(self.zero_point)
        if isinstance(scale, tuple) != (self.axis is not None):
            raise ValueError(f"`axis` must be given where `scale` has channels and only there, got {self.axis}.")
        if isinstance(scale, tuple) and not isinstance(zero_point, tuple):
            zero_point = (zero_point,) * len(scale)
        for value in scale if isinstance(scale, tuple) else (scale,):
            if not isinstance(value, int | float) or not SMALLEST_SCALE <= value <= _LARGEST_SCALE:
                raise ValueError(f"`scale` must lie in [{SMALLEST_SCALE:.3g}, {_LARGEST_SCALE:.3g}], got {value!r}.")
        for value in zero_point if isinstance(zero_point, tuple) else (zero_point,):
            if not isinstance(value, int) or not self.quant_min <= value <= self.quant_max:
                span = f"[{self.quant_min}, {self.quant_max}]"
                raise ValueError(f"`zero_point` must be an integer in {span}, got {value!r}.")
        if isinstance(zero_point, tuple) and (not isinstance(scale, tuple) or len(zero_point) != len(scale)):
            raise ValueError(f"`zero_point` must fit `scale`, got {zero_point} for {scale}.")
        object.__setattr__(self, "scale", tuple(map(float, scale)) if isinstance(scale, tuple) else float(scale))
        object.__setattr__(self, "zero_point", zero_point)

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def quant_min(self) -> int:
        return torch.iinfo(DTYPES[self.dtype]).min

    @property
    def quant_max(self) -> int:
        return torch.iinfo(DTYPES[self.dtype]).max


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Real values of any shape -> codes of the same shape: clamp(round(x / S) + Z), ties to even, in float32.

    Values beyond the range, infinite ones too, take the nearest code. NaN takes the lowest code, as in ONNX Runtime
    and in PyTorch's fake quantization on x86.

    Raises:
        ValueError: `x` does not have the channels of `qparams`.
    """
    x = x.detach().float()
    scale, zero_point = _tensors(qparams, x)
    codes = (x / scale).round_().add_(zero_point).clamp_(qparams.quant_min, qparams.quant_max)
    return codes.nan_to_num_(nan=qparams.quant_min).to(qparams.torch_dtype)


def dequantize(q: Tensor, qparams: QParams) -> Tensor:
    """Codes of any shape -> S (q - Z) in float32, one rounding; ONNX's DequantizeLinear.

    Raises:
        ValueError: `q` is of another type than `qparams`, or does not have its channels.
    """
    if q.dtype != qparams.torch_dtype:
        raise ValueError(f"`q` must be {qparams.dtype}, got {str(q.dtype).removeprefix('torch.')}.")
    scale, zero_point = _tensors(qparams, q)
    return (q.int() - zero_point) * scale


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """dequantize(quantize(x)) in float32, differentiable: the gradient passes inside the range and is zero outside.

    A value is inside where its rounded code is, as in `torch.fake_quantize_per_tensor_affine`. NaN stays NaN.

    Raises:
        ValueError: `x` does not have the channels of `qparams`.
    """
    x = x.float()
    result: Tensor = _FakeQuantize.apply(x, *_tensors(qparams, x), qparams.quant_min, qparams.quant_max)
    return result


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: int = 0, *, dtype: str = "int8", axis: int | None = None
) -> Tensor:
    """`fake_quantize` with a gradient for the scale (LSQ, Esser et al. 2020, arXiv 1902.08153, equation 3).

    The gradient is the plain sum over the values that share a scale; the paper's factor (section 2.2) is the caller's.

    Args:
        x: real values, any shape.
        scale: () or, with `axis`, (C,); must be positive, which is not checked.
        zero_point: Z of every channel.
        dtype: "int8", "uint8" or "int16".
        axis: where the C channels lie.

    Raises:
        ValueError: an argument out of its range, or `scale` does not fit `x`.
    """
    domain = QParams(1.0, zero_point, dtype)
    if scale.ndim != (axis is not None):
        raise ValueError(f"`scale` must be 1-D with `axis` and 0-D without, got {scale.ndim}-D and {axis}.")
    x = x.float()
    steps = scale.float() if axis is None else along_axis(scale.float(), axis, x)
    _, point = _tensors(domain, x)
    result: Tensor = _FakeQuantize.apply(x, steps, point, domain.quant_min, domain.quant_max)
    return result


def along_axis(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """(C,) -> a shape that broadcasts over `axis` of `x`.

    Raises:
        ValueError: `x` does not have C channels there.
    """
    if not -x.ndim <= axis < x.ndim or x.shape[axis] != len(values):
        raise ValueError(f"`axis` {axis} must hold {len(values)} channels, got shape {tuple(x.shape)}.")
    shape = [1] * x.ndim
    shape[axis] = len(values)
    return values.view(shape)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
        ratio = x / scale
        codes = ratio.round().add_(zero_point)
        inside = (codes >= quant_min) & (codes <= quant_max)
        steps = codes.clamp_(quant_min, quant_max).sub_(zero_point)
        slope = torch.where(inside, steps - ratio, steps) if ctx.needs_input_grad[1] else None  # LSQ, equation 3
        ctx.save_for_backward(inside, slope)
        ctx.scale_shape = scale.shape
        return steps * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope = ctx.saved_tensors
        scale_grad = None if slope is None else (grads[0] * slope).sum_to_size(ctx.scale_shape)
        return grads[0] * inside, scale_grad, None, None, None


def _tensors(qparams: QParams, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) on the device of `x`, in shapes that broadcast with it.

    Tensors also where there is but one scale: on a GPU, division by a Python number is multiplication by its inverse.
    """
    if isinstance(qparams.scale, tuple) and qparams.axis is not None:
        scale = torch.tensor(qparams.scale, dtype=torch.float32, device=x.device)
        zero_point = torch.tensor(qparams.zero_point, dtype=torch.int32, device=x.device)
        return along_axis(scale, qparams.axis, x), along_axis(zero_point, qparams.axis, x)
    scale = torch.full((), qparams.scale, dtype=torch.float32, device=x.device)
    return scale, torch.full((), qparams.zero_point, dtype=torch.int32, device=x.device)


def _plain(value: Any) -> Any:
    """Tensor or array -> number or list; list -> tuple."""
    value = value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
    return tuple(value) if isinstance(value, list) else value
