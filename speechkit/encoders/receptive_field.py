"""How much of its input one frame of an encoder's output sees, and how far ahead: measured, for any encoder."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechkit.encoders.quantized import QuantizedEncoder

_INPUTS = 2  # random inputs whose fields are joined, since a ReLU that is shut hides a path
_PROBES = (64, 512)  # output frames of one that most fields lie in, and of one for the others


class ReceptiveField(NamedTuple):
    """What output frame t sees of its input, in input frames. It stands at input frame t * stride.

    Attributes:
        before: frames before that one; none where it reaches back to the start of the utterance.
        ahead: frames after that one, which is the latency; none where it reaches to the end of the utterance.
        stride: input frames from one output frame to the next.
    """

    before: int | None
    ahead: int | None
    stride: int

    @property
    def frames(self) -> int | None:
        """All of them; none without a limit."""
        return None if self.before is None or self.ahead is None else self.before + 1 + self.ahead

    def describe(self, hop_seconds: float) -> str:
        """In words, with milliseconds of audio from one input frame to the next as `hop_seconds` says."""

        def milliseconds(frames: int) -> str:
            return f"{1000 * frames * hop_seconds:.4g} ms"

        sees = "sees the whole utterance"
        if self.before is not None and self.ahead is not None:
            sees = f"sees {self.before + 1 + self.ahead} input frames, {self.ahead} ({milliseconds(self.ahead)}) ahead"
        elif self.ahead is not None:
            sees = f"sees all before it and {self.ahead} input frames ({milliseconds(self.ahead)}) ahead"
        elif self.before is not None:
            sees = f"sees {self.before} input frames ({milliseconds(self.before)}) before it and all ahead"
        return f"a frame every {milliseconds(self.stride)} (stride {self.stride}), {sees}"


def receptive_field(encoder: nn.Module, what: str = "context") -> ReceptiveField:
    """Measures the field from gradients, with the encoder's own weights: which input frames move an output frame.

    A field that still reaches an end of the input when 256 output frames lie on that side counts as without a limit.
    Through code words there are no gradients, so of a `QuantizedEncoder` the encoder that it wraps is measured.

    Args:
        encoder: any, with `input_dim` and `output_lengths`; it is left as it is.
        what: "context" for the output, "latents" for those of an encoder that has some.

    Raises:
        ValueError: latents of an encoder without.
    """
    encoder = encoder.encoder if isinstance(encoder, QuantizedEncoder) else encoder
    probed: Any = copy.deepcopy(encoder).cpu().double().eval()
    for name in ("latents", "context"):  # callbacks that record them have put their own there, for the original
        probed.__dict__.pop(name, None)
    if what == "latents" and not hasattr(probed, "latents"):
        raise ValueError(f"`what` must be 'context' for {type(encoder).__name__}, which has no latents, got {what!r}.")
    function = probed.latents if what == "latents" else probed
    stride = encoder_stride(probed)
    for num_outputs in _PROBES:
        before, ahead, is_cut = _field(function, probed.input_dim, stride, num_outputs)
        if not any(is_cut):
            break
    return ReceptiveField(None if is_cut[0] else before, None if is_cut[1] else ahead, stride)


def encoder_stride(encoder: nn.Module) -> int:
    """Input frames from one output frame to the next."""
    shorter, longer = encoder.output_lengths(torch.tensor([1 << 20, 1 << 21])).tolist()
    return round((1 << 20) / (longer - shorter))


def _field(function: Any, input_dim: int, stride: int, num_outputs: int) -> tuple[int, int, tuple[bool, bool]]:
    """Frames before and ahead that the middle output frame sees, and whether an end of the input cuts them off."""
    num_inputs = num_outputs * stride
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_INPUTS, num_inputs, input_dim, generator=generator, dtype=torch.float64, requires_grad=True)
    output: Tensor = function(x, torch.full((_INPUTS,), num_inputs))[0]
    place = num_outputs // 2
    weights = torch.randn(output.shape[2], generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((output[:, place] @ weights).sum(), x)
    seen = (gradient != 0).any(dim=2).any(dim=0).nonzero()[:, 0]
    first, last, own = int(seen[0]), int(seen[-1]), place * stride
    return max(0, own - first), max(0, last - own), (first == 0, last == num_inputs - 1)
