"""Recognition with quantized weights and activations: quantization-aware training of a float bundle."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from speechkit.losses import CTCLoss
from speechkit.quantized_parts import quantized_parts
from speechkit.tasks.recognition import Recognition
from speechkit.text import Tokenizer


class _Logits(nn.Module):
    """The head of a network that ends in logits."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return x, lengths


class QuantizedRecognition(Recognition):
    """`Recognition` whose encoder is a `QuantizedNetwork` that ends in logits; `QuantizationAwareTraining` leads it.

    Args:
        bundle_path: the float bundle to begin with; `speechkit quantize` fills it in.
        tokenizer: that of the data, which must be the bundle's.
        weight_bits: of the weights, 2 to 8.
        float_layers: names of layers whose weights stay in float.
        loss: CTC with other options than its defaults.
        learning_rate: peak of AdamW's rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.
        trusted_packages: packages besides speechkit whose classes the bundle may name.

    Raises:
        ValueError: a bundle without an int8 form, or of another vocabulary than the data's.
    """

    def __init__(
        self,
        *,
        bundle_path: str,
        tokenizer: Tokenizer,
        weight_bits: int = 8,
        float_layers: Sequence[str] = (),
        loss: CTCLoss | None = None,
        learning_rate: float = 3e-4,
        weight_decay: float = 0.0,
        warmup_fraction: float = 0.1,
        trusted_packages: Sequence[str] = (),
    ) -> None:
        parts = quantized_parts(
            bundle_path,
            arithmetic="float",
            weight_bits=weight_bits,
            float_layers=float_layers,
            trusted_packages=trusted_packages,
        )
        own = parts.bundle.tokenizer
        assert own is not None
        theirs, ours = (each.label_texts() for each in (tokenizer, own))
        if theirs != ours:
            raise ValueError(f"`tokenizer` must be that of {bundle_path}, {ours[:5]}..., got {theirs[:5]}...")
        super().__init__(
            front_end=parts.front_end.train(),
            encoder=parts.network.train(),
            tokenizer=own,
            loss=loss,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
        self._origin = {
            "bundle": parts.bundle.digest(),
            "weight_bits": weight_bits,
            "float_layers": list(float_layers),
        }
        self.head: nn.Module = _Logits()  # type: ignore[assignment]
        object.__setattr__(self, "parts", parts)  # its float modules are no part of this task's state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says what the weights began as: a network alone does not tell to which front end it belongs."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["quantized_from"] = self._origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError for a checkpoint of another float bundle, or of another number of bits."""
        super().on_load_checkpoint(checkpoint)
        theirs = checkpoint.get("quantized_from", {})
        for name, value in self._origin.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"--ckpt: the checkpoint has another {name}, {theirs.get(name, 'unknown')} and not {value}; "
                    "begin a new run, in another folder"
                )
