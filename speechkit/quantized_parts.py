"""A float recogniser's parts in the form that is calibrated, trained and written as an int8 bundle."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from speechkit.bundle import Bundle, load_bundle
from speechkit.features import QuantizedFrontEnd, as_quantized_front_end
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork


@dataclass
class QuantizedParts:
    """What becomes an int8 bundle.

    Attributes:
        front_end: waveform -> values S (q - Z) of int8 codes.
        network: the encoder and the head; its logits are those above the blank's.
        bundle: the float one that they were made from.
    """

    front_end: QuantizedFrontEnd
    network: QuantizedNetwork
    bundle: Bundle

    def logits(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N), lengths (B,) in samples -> logits (B, T', V), frames (B,)."""
        return self.network(*self.front_end(waveform, lengths))


def quantized_parts(
    bundle_path: str | os.PathLike[str],
    *,
    arithmetic: str = "integer",
    weight_bits: int = 8,
    float_layers: Sequence[str] = (),
    trusted_packages: Sequence[str] = (),
) -> QuantizedParts:
    """The parts of a bundle, not calibrated yet.

    Args:
        bundle_path: of a float recogniser.
        arithmetic: of the front end: "integer" is bit for bit what the int8 bundle computes, "float" is faster.
        weight_bits: of the weights, 2 to 8.
        float_layers: names of layers whose weights stay in float.
        trusted_packages: packages besides speechkit whose classes may be built.

    Raises:
        ValueError: a bundle without a head, or parts without an int8 form; one line that names them.
    """
    bundle = load_bundle(bundle_path, trusted_packages=trusted_packages)
    if bundle.head is None or bundle.tokenizer is None:
        raise ValueError(f"{bundle_path}: a pretrained encoder without a head; fine-tune it first (speechkit finetune)")
    try:
        exact = as_quantized_front_end(bundle.front_end)
        if exact.edges != "snip":
            raise ValueError(f"`edges` must be 'snip' in an int8 model, got {exact.edges!r}")
        front_end = QuantizedFrontEnd(
            exact.front_end, exact.cmvn, exact.qparams, arithmetic=arithmetic, output="values"
        )
        network = quantized_network(bundle.encoder, bundle.head, qparams=exact.qparams, weight_bits=weight_bits)
        network.shift_logits(bundle.tokenizer.blank_id)
        network.set_float_layers(float_layers)
    except ValueError as error:
        raise ValueError(f"{bundle_path}: {error}") from None
    return QuantizedParts(front_end, network, bundle)
