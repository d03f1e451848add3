"""A recogniser's encoder and head as a list of quantized convolutions: for calibration, training and export."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.quantization.qparams import QParams
from speechkit.quantization.quantized_conv import MODES, Activation, QuantizedConv, rounded
from speechkit.runtime import Domain, IntegerNetwork

_LOWEST_LOGIT = -32.0  # of what is above the blank: a probability of 1e-14


class QuantizedNetwork(nn.Module):
    """Values of the input domain (B, T, F) -> logits (B, T', V).

    Args:
        layers: in the order in which they run.
        inputs: of each layer, the numbers of the tensors it reads: 0 is the input, i the output of layer i - 1.
        input_dim: F.
        qparams: the input domain, that of a `QuantizedFrontEnd`.
    """

    def __init__(
        self, layers: Sequence[QuantizedConv], inputs: Sequence[tuple[int, ...]], *, input_dim: int, qparams: QParams
    ) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        self.inputs = tuple(inputs)
        self.input_dim, self.qparams = input_dim, qparams

    @property
    def output_dim(self) -> int:
        return len(self.layers[-1].log_clip)

    @property
    def is_calibrated(self) -> bool:
        return not any(bool(layer.log_scale.isnan()) for layer in self.layers)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) frames in -> (B,) frames out."""
        all_lengths = [lengths]
        for layer, inputs in zip(self.layers, self.inputs, strict=True):
            before = all_lengths[inputs[0]]
            all_lengths.append((before + layer.stride - 1).div(layer.stride, rounding_mode="floor"))
        return all_lengths[-1]

    def set_mode(self, mode: str, *, frozen: bool = True) -> None:
        """ "float", "observe" or "quantize", and whether batch norms use their running statistics in training too.

        Raises:
            ValueError: another mode, or "quantize" before `calibrate`.
        """
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}.")
        for layer in self.layers:
            if mode == "quantize":
                _ = layer.scale
            layer.mode, layer.frozen = mode, frozen

    def calibrate(self) -> None:
        """Takes all domains from what was observed in mode "observe", and quantizes from now on.

        Raises:
            ValueError: nothing was observed, or nothing but one value.
        """
        scales = [torch.tensor(self.qparams.scale)]
        for layer, numbers in zip(self.layers, self.inputs, strict=True):
            layer.calibrate([scales[number].to(layer.log_scale.device) for number in numbers])
            scales.append(layer.scale.detach())
        self.set_mode("quantize")

    @torch.no_grad()
    def shift_logits(self, blank: int) -> None:
        """Makes every logit that above the blank's, which a softmax does not see, and lets the domain end far below it.

        What is added to all logits of a frame is free in training and may grow to hundreds, and a label far below the
        blank is as good as none. A domain for the logits as they are would spend its codes on both.

        Args:
            blank: its label.

        Raises:
            ValueError: a last layer that is no plain projection.
        """
        last = self.layers[-1]
        if last.relu or any(part.norm is not None or part.groups != 1 for part in last.parts):
            raise ValueError(f"layer {last.name!r} must be a linear layer, for its outputs to be logits.")
        for part in last.parts:
            for parameter in (part.weight, part.bias):
                if parameter is not None:
                    parameter -= parameter[blank].clone()
        last.lowest = _LOWEST_LOGIT

    def set_float_layers(self, names: Sequence[str]) -> None:
        """Leaves the weights of these layers in float, and those of the others not.

        Raises:
            ValueError: a name that no layer has.
        """
        known = [layer.name for layer in self.layers]
        for name in names:
            if name not in known:
                raise ValueError(f"`float_layers` must name layers ({', '.join(known)}), got {name!r}.")
        for layer in self.layers:
            layer.is_float = layer.name in names
            layer.log_clip.requires_grad_(not layer.is_float)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> logits (B, T', V), (B,); float32 inside, also under autocast, where steps are whole."""
        with torch.autocast(x.device.type, enabled=False):
            activations, frames = self.activations(x.float(), lengths)
        last = activations[-1]
        return (last.steps * last.scale).transpose(1, 2), frames[-1]

    def activations(self, x: Tensor, lengths: Tensor) -> tuple[list[Activation], list[Tensor]]:
        """Every tensor (B, C, T) with its frames (B,), the input first."""
        scale = x.new_tensor(self.qparams.scale)
        steps = (x / scale).transpose(1, 2)
        if any(layer.mode == "quantize" for layer in self.layers):  # what callbacks made of the codes has codes too
            zero_point = float(self.qparams.zero_point)
            steps = rounded(steps, -128.0 - zero_point, 127.0 - zero_point)
        tensors = [Activation(steps, scale)]
        frames = [lengths]
        for layer, numbers in zip(self.layers, self.inputs, strict=True):
            output, out_frames = layer([tensors[number] for number in numbers], frames[numbers[0]])
            tensors.append(output)
            frames.append(out_frames)
        return tensors, frames

    @contextmanager
    def only_quantized(self, name: str) -> Iterator[None]:
        """While it is open, one layer alone is quantized, weights and output; the others compute in float."""
        modes = [layer.mode for layer in self.layers]
        try:
            for layer in self.layers:
                layer.mode = "quantize" if layer.name == name else "float"
            yield
        finally:
            for layer, mode in zip(self.layers, modes, strict=True):
                layer.mode = mode

    @torch.no_grad()
    def to_integer(self) -> IntegerNetwork:
        """The network that executors run.

        Raises:
            ValueError: never calibrated.
        """
        zero_point, scale = self.qparams.zero_point, self.qparams.scale
        assert isinstance(zero_point, int)
        assert isinstance(scale, float)
        scales = [torch.tensor(scale), *(layer.scale.cpu() for layer in self.layers)]
        return IntegerNetwork(
            num_features=self.input_dim,
            domain=Domain(scale, zero_point),
            layers=tuple(
                layer.to_integer(numbers, [scales[number] for number in numbers])
                for layer, numbers in zip(self.layers, self.inputs, strict=True)
            ),
        )
