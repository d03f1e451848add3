"""CTC on a GPU: the kernels of `triton_kernels` over a batch, and their gradient.

Nothing waits for the GPU, and every result is the same bit for bit each time. Where a gradient is wanted, the loss
keeps K + 2 numbers for each frame, K being U + 1 rounded up to 32, 128 or 512, and while it is computed K/8 more;
there is no tensor of log-probabilities. The operations are opaque to `torch.compile`, which can be used around them.

A kernel is compiled when a batch first needs its shape of U, in some seconds, and kept in TRITON_CACHE_DIR.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechkit.losses.ctc import triton_kernels as kernels
from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.once import only_once

CHUNK = 16  # frames between states that are kept, and between corrections of their scale
WIDTHS = (32, 128, 512)  # threads of a program
MOST_PER_THREAD = 4  # labels; with more, exp2 and log2 on one of the four parts of a multiprocessor take most time
MOST_LABELS = WIDTHS[-1] * MOST_PER_THREAD - 1
TILE = 1024  # logits that a program takes at a time: 8 for each of its threads


class _Layout(NamedTuple):
    """How the labels of an utterance are spread over the threads of a program: R to each."""

    per_lane: int  # R
    lanes: int

    @property
    def places(self) -> int:
        """K."""
        return self.per_lane * self.lanes

    @property
    def group(self) -> int:
        """Frames whose emissions are loaded together, ahead of time: as many as registers allow."""
        return 4 if self.per_lane <= 2 else 2


def _layout(num_labels: int) -> _Layout:
    """Of at most MOST_LABELS; one warp where it can hold them, since several wait for each other in every frame."""
    lanes = next(lanes for lanes in WIDTHS if num_labels < lanes * MOST_PER_THREAD)
    return _Layout(num_labels // lanes + 1, lanes)


def _real(dtype: torch.dtype) -> torch.dtype:
    """The type that is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _is_fast(dtype: torch.dtype) -> bool:
    """Whether the instructions of NVIDIA's GPUs for exp2 and log2 can be used."""
    return dtype != torch.float64 and torch.version.cuda is not None and not triton.knobs.runtime.interpret


def _tile(shape: torch.Size, num_labels: int) -> tuple[int, int]:
    """Frames and symbols that a program takes at a time, powers of 2."""
    symbols = min(triton.next_power_of_2(shape[2]), TILE)
    return max(1, min(64, TILE // max(symbols, triton.next_power_of_2(num_labels)))), symbols


def _alignment(*tensors: Tensor) -> int:
    """A number that divides V and the strides of utterances and frames: without it, loads are of one number each."""
    strides = [n for x in tensors for n in (x.stride(0), x.stride(1)) if x.stride(2) == 1]
    return math.gcd(16, tensors[0].shape[2], *strides) if len(strides) == 2 * len(tensors) else 1


@torch.library.custom_op("speechkit::ctc", mutates_args=())
def _ctc(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
    label_smoothing: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses (B,), and what the gradient needs: losses (B,) without their options, log2 of the sum of exp(logits)
    (B, T), occupancies of the blank (B, T), and of the labels (B, T, K), both up to a factor for each frame."""
    (size, num_frames, num_symbols), num_labels = logits.shape, targets.shape[1]
    layout, real = _layout(num_labels), _real(logits.dtype)
    assert num_frames * layout.places < 2**31, "the scans count the emissions of an utterance in 32 bits"
    frames, symbols = _tile(logits.shape, layout.lanes)
    align, fast = _alignment(logits), _is_fast(logits.dtype)
    new = logits.new_empty
    plain_losses, log_sums, blanks = (new(shape, dtype=real) for shape in ((size,), *[(size, num_frames)] * 2))
    labels = new((size, num_frames, layout.places), dtype=real)
    uniform = logits.new_zeros((size, num_frames if label_smoothing else 0), dtype=real)
    chunks = triton.cdiv((num_frames + 1) // 2, CHUNK) if needs_gradient else 0
    states = new((size, 2, 1 + chunks, 2, layout.places), dtype=real)
    offsets = new((size, 2, 1 + chunks), dtype=real)
    scratch = new((size, 2, CHUNK if needs_gradient else 0, 2, layout.places), dtype=real)
    options: dict[str, Any] = {
        "R": layout.per_lane,
        "LANES": layout.lanes,
        "DTYPE": tl.float64 if real == torch.float64 else tl.float32,
        "FAST": fast,
        "num_stages": 1,  # loads are pipelined by hand: Triton would move some above the stores that they wait for
    }
    scan = {**options, "CHUNK": CHUNK, "GROUP": layout.group, "KEPT": needs_gradient, "num_warps": layout.lanes // 32}
    integers = targets, input_lengths, target_lengths
    with torch.cuda.device_of(logits):
        kernels.emissions_kernel[triton.cdiv(num_frames, frames), size](
            logits, *integers, log_sums, blanks, labels, uniform, num_frames, num_symbols // align, num_labels, blank,
            logits.stride(0) // align, logits.stride(1) // align, logits.stride(2), *targets.stride(),
            FRAMES=frames, SYMBOLS=symbols, ALIGN=align, SMOOTHED=label_smoothing > 0, **options,
        )  # fmt: skip
        shape = num_frames, num_labels, *targets.stride(), 1 + chunks
        kernels.halves_kernel[size, 2](blanks, labels, *integers, states, offsets, *shape, **scan)
        sides = 2 if needs_gradient else 1
        kernels.meeting_kernel[size, sides](
            blanks, labels, *integers, states, offsets, scratch, plain_losses, *shape, **scan
        )
    losses = plain_losses.clone()
    if label_smoothing:
        uniform = uniform.sum(dim=1) * (-math.log(2) / num_symbols)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if zero_infinity:
        losses = losses.masked_fill(plain_losses == torch.inf, 0.0)
    return losses, plain_losses, log_sums, blanks, labels


@_ctc.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
    label_smoothing: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    size, num_frames, _ = logits.shape
    shapes: list[tuple[int, ...]] = [(size,), (size,), (size, num_frames), (size, num_frames)]
    shapes.append((size, num_frames, _layout(targets.shape[1]).places))
    losses, plain_losses, *kept = (logits.new_empty(shape, dtype=_real(logits.dtype)) for shape in shapes)
    return losses, plain_losses, kept[0], kept[1], kept[2]


@torch.library.custom_op("speechkit::ctc_gradient", mutates_args=())
def _ctc_gradient(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    plain_losses: Tensor,
    log_sums: Tensor,
    blanks: Tensor,
    labels: Tensor,
    weights: Tensor,
    blank: int,
    softmax: float,
    occupancy: float,
    uniform: float,
    dtype: torch.dtype,
) -> Tensor:
    """weights (B,) times (softmax p + occupancy o + uniform), (B, T, V): softmaxes p and occupancies o of symbols."""
    num_labels, layout = targets.shape[1], _layout(targets.shape[1])
    gradient = torch.empty_like(logits, dtype=dtype)
    padding = torch.arange(num_labels, device=targets.device) >= target_lengths[:, None]
    in_order, order = targets.masked_fill(padding, torch.iinfo(targets.dtype).max).sort(dim=1, stable=True)
    width = triton.next_power_of_2(max(1, num_labels))
    frames, symbols = _tile(logits.shape, width)
    align = _alignment(logits, gradient)
    with torch.cuda.device_of(logits):
        kernels.gradient_kernel[triton.cdiv(logits.shape[1], frames), logits.shape[0]](
            logits, gradient, in_order, order, input_lengths, target_lengths, log_sums, blanks, labels, plain_losses,
            weights.contiguous(), softmax, occupancy, uniform, logits.shape[1], logits.shape[2] // align, num_labels,
            blank, *[x.stride(d) // (align if d < 2 else 1) for x in (logits, gradient) for d in range(3)],
            FRAMES=frames, SYMBOLS=symbols, LABELS=width, R=layout.per_lane, LANES=layout.lanes, ALIGN=align,
            FAST=_is_fast(logits.dtype), num_stages=1,
        )  # fmt: skip
    return gradient


@_ctc_gradient.register_fake
def _(logits: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(logits, dtype=arguments[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])
    ctx.options = inputs[4:7]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, weights: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    logits, *kept = ctx.saved_tensors
    blank, zero_infinity, label_smoothing = ctx.options
    shares = weights.detach().masked_fill(kept[3] == torch.inf, 0.0 if zero_infinity else torch.nan)
    coefficients = 1.0, label_smoothing - 1.0, -label_smoothing / logits.shape[2]
    gradient = _ctc_gradient(logits.detach(), *kept, shares, blank, *coefficients, logits.dtype)
    return only_once(gradient, logits, weights), *(None,) * 7


_ctc.register_autograd(_backward, setup_context=_keep)


def _prepared(batch: Batch) -> Batch:
    """Contiguous lengths on the device of the logits, and integers of 32 or 64 bits."""
    targets, *lengths = (x if x.dtype in (torch.int32, torch.int64) else x.long() for x in batch[1:4])
    lengths = [x.to(batch.logits.device, non_blocking=True).contiguous() for x in lengths]
    return Batch(batch.logits, targets, lengths[0], lengths[1], batch.blank)


def ctc_losses(batch: Batch, *, zero_infinity: bool, label_smoothing: float) -> Tensor:
    """Losses (B,), differentiable with respect to the logits; arguments as in `speechkit.losses.ctc_loss`."""
    needs_gradient = batch.logits.requires_grad and torch.is_grad_enabled()
    losses: Tensor = _ctc(*_prepared(batch), zero_infinity, label_smoothing, needs_gradient)[0]
    return losses


def ctc_occupancies(batch: Batch) -> Tensor:
    """Occupancies (B, T, V); see `speechkit.losses.ctc_occupancies`."""
    batch = _prepared(batch._replace(logits=batch.logits.detach()))
    _, *kept = _ctc(*batch, False, 0.0, True)
    weights = torch.ones_like(kept[0])
    occupancies: Tensor = _ctc_gradient(*batch[:4], *kept, weights, batch.blank, 0.0, 1.0, 0.0, weights.dtype)
    return occupancies
