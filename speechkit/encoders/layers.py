"""What the layers of an encoder give on the way: one of them, or a learned mixture, instead of the last.

An encoder takes part if its layers are an `nn.ModuleList` named `layers`, each called once in a pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechkit.encoders.receptive_field import encoder_stride
from speechkit.masking import zero_padding


class LayerFormat(NamedTuple):
    """How the layers of an encoder lay out their outputs.

    Attributes:
        time_axis: 1 for (B, T, D), 2 for (B, D, T), 0 for (T, B, D).
        dim: D.
    """

    time_axis: int
    dim: int


def layer_format(encoder: nn.Module) -> LayerFormat:
    """Found out by a pass over noise of two lengths: time is the axis that grows.

    Raises:
        ValueError: an encoder without `layers`, or whose layers differ in width or rate from each other.
    """
    if not isinstance(getattr(encoder, "layers", None), nn.ModuleList):
        raise ValueError(f"`layer` needs an encoder with `layers`, which {type(encoder).__name__} has not.")
    probed: Any = encoder
    device = next(encoder.parameters()).device
    shapes = []
    was_training = encoder.training
    encoder.eval()
    for num_outputs in (16, 17):
        num_inputs = num_outputs * encoder_stride(encoder)
        noise = torch.randn(3, num_inputs, probed.input_dim, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad(), record_layers(encoder) as outputs:
            encoder(noise, torch.full((3,), num_inputs, device=device))
        shapes.append({tuple(output.shape) for output in outputs})
    encoder.train(was_training)
    if any(len(of_length) != 1 for of_length in shapes):
        raise ValueError(f"`layer` needs layers of one width and rate, {type(encoder).__name__} has {shapes[0]}.")
    (shorter,), (longer,) = shapes
    time_axis = next(axis for axis in range(3) if shorter[axis] != longer[axis])
    return LayerFormat(time_axis, shorter[1 if time_axis == 2 else 2])


@contextmanager
def record_layers(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """While it is open, a pass through the encoder appends each layer's output to the list, as the layer gives it."""
    outputs: list[Tensor] = []
    handles = [
        layer.register_forward_hook(
            lambda module, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in encoder.layers
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def layer_outputs(encoder: nn.Module, layout: LayerFormat, x: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """(B, T, F), (B,) -> of each layer (B, T', D), zero beyond each length; (B,).

    What stands behind the layers has gradient zero, as DDP wants of every parameter.
    """
    with record_layers(encoder) as outputs:
        last, lengths = encoder(x, lengths)
    outputs[-1] = outputs[-1] + 0.0 * last.sum()
    return [zero_padding(output.movedim(layout.time_axis, 1), lengths) for output in outputs], lengths


class LayerWeightedEncoder(nn.Module):
    """A learned mixture of the layers of an encoder: softmax weights, one a layer (Yang et al. 2021, arXiv 2105.01051).

    What fine-tuning needs is often not in the last layer of a pretrained encoder. In a recipe, wrap the encoder; a
    pretrained bundle of the encoder itself is then still `encoder_from`.

    Args:
        encoder: one with `layers`.

    Raises:
        ValueError: an encoder without, or whose layers differ in width.
    """

    def __init__(self, *, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self._layout = layer_format(encoder)
        self.input_dim, self.output_dim = encoder.input_dim, self._layout.dim
        self.layer_weights = nn.Parameter(torch.zeros(len(encoder.layers)))  # before the softmax

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) frames out."""
        return self.encoder.output_lengths(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, input_dim), (B,) -> (B, T', output_dim), (B,)."""
        outputs, lengths = layer_outputs(self.encoder, self._layout, x, lengths)
        weights = self.layer_weights.softmax(dim=0)
        return torch.stack([weight * output for weight, output in zip(weights, outputs, strict=True)]).sum(
            dim=0
        ), lengths
