"""A float bundle and recordings -> an int8 bundle, by calibration alone or with training that knows the rounding."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import speechkit
from speechkit.audio import load_audio
from speechkit.bundle import Bundle, load_bundle
from speechkit.data import Utterance, read_utterances
from speechkit.export import as_quantized_front_end
from speechkit.export.onnx_network import network_model
from speechkit.features import QuantizedFrontEnd
from speechkit.integer_bundle import IntegerBundle, save_integer_bundle
from speechkit.parts import describe
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork

_BATCH_SECONDS = 60.0
_QUIETEST = 1e-6  # of full scale: what never passes it is silence


@dataclass
class QuantizedParts:
    """What becomes an int8 bundle.

    Attributes:
        front_end: waveform -> values S (q - Z) of int8 codes, in integers.
        network: the encoder and the head.
        bundle: the float one that they were made from.
    """

    front_end: QuantizedFrontEnd
    network: QuantizedNetwork
    bundle: Bundle

    def logits(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N), lengths (B,) in samples -> logits (B, T', V), frames (B,)."""
        return self.network(*self.front_end(waveform, lengths))


def quantize(
    bundle_path: str | os.PathLike[str],
    calibration: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weight_bits: int = 8,
    float_layers: Sequence[str] = (),
    train: Callable[[QuantizedParts], None] | None = None,
    trusted_packages: Sequence[str] = (),
    on_progress: Callable[[float], Any] = lambda seconds: None,
) -> QuantizedParts:
    """Writes an int8 bundle.

    Args:
        bundle_path: of a recogniser in float, with a front end that `as_quantized_front_end` takes and an encoder
            that `quantized_network` takes.
        calibration: manifest of some minutes of recordings like those to come; never a test set.
        out: the int8 bundle, a folder or .zip.
        weight_bits: of the weights, 2 to 8.
        float_layers: names of layers whose weights stay in float.
        train: trains the calibrated parts where they stand; none: post-training quantization.
        trusted_packages: packages besides speechkit whose classes may be built.
        on_progress: called with the seconds of audio that were done.

    Raises:
        ValueError: parts without an int8 form, or recordings that are missing, damaged, or silent.
    """
    parts = quantizable_parts(bundle_path, weight_bits=weight_bits, trusted_packages=trusted_packages)
    parts.network.set_float_layers(float_layers)
    utterances = read_utterances(calibration)
    if not utterances:
        raise ValueError(f"{calibration}: holds no recordings to calibrate with")
    calibrate(parts, utterances, on_progress=on_progress)
    how = f"post-training quantization, calibrated on {Path(calibration).name} ({len(utterances)} recordings)"
    if train is not None:
        train(parts)
        how = f"quantization-aware training, calibrated on {Path(calibration).name}"
    save_integer_bundle(integer_bundle(parts, f"{how}, weights of {weight_bits} bits"), out)
    return parts


def quantizable_parts(
    bundle_path: str | os.PathLike[str], *, weight_bits: int = 8, trusted_packages: Sequence[str] = ()
) -> QuantizedParts:
    """The bundle's parts in a form that can be calibrated.

    Raises:
        ValueError: a bundle without a head, or parts without an int8 form; one line.
    """
    bundle = load_bundle(bundle_path, trusted_packages=trusted_packages)
    if bundle.head is None or bundle.tokenizer is None:
        raise ValueError(f"{bundle_path}: a pretrained encoder without a head; fine-tune it first (speechkit finetune)")
    try:
        front_end = as_quantized_front_end(bundle.front_end)
        front_end = QuantizedFrontEnd(
            front_end.front_end, front_end.cmvn, front_end.qparams, arithmetic="integer", output="values"
        )
        if front_end.edges != "snip":
            raise ValueError(f"`edges` must be 'snip' in an int8 model, got {front_end.edges!r}")
        network = quantized_network(bundle.encoder, bundle.head, qparams=front_end.qparams, weight_bits=weight_bits)
    except ValueError as error:
        raise ValueError(f"{bundle_path}: {error}") from None
    return QuantizedParts(front_end, network, bundle)


@torch.no_grad()
def calibrate(
    parts: QuantizedParts,
    utterances: Sequence[Utterance],
    *,
    on_progress: Callable[[float], Any] = lambda seconds: None,
) -> None:
    """Runs the recordings through the float network, and takes every domain from what it gives.

    Raises:
        ValueError: a recording that cannot be read, or nothing but silence.
    """
    parts.network.eval().set_mode("observe")
    loudest = 0.0
    for waveform, lengths in waveform_batches(utterances, parts.front_end.sample_rate_hz):
        loudest = max(loudest, float(waveform.abs().max()) if waveform.numel() else 0.0)
        parts.logits(waveform, lengths)
        on_progress(float(lengths.sum()) / parts.front_end.sample_rate_hz)
    if loudest < _QUIETEST:
        raise ValueError("the calibration recordings are silent: they say nothing of what speech will give")
    parts.network.calibrate()


def waveform_batches(utterances: Sequence[Utterance], sample_rate_hz: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Waveforms (B, N) and lengths (B,) in samples, in the order of the utterances.

    Raises:
        AudioError: a recording that cannot be read.
    """
    waiting: list[np.ndarray] = []
    for place, item in enumerate(utterances):
        waiting.append(
            load_audio(
                item.audio_path,
                sample_rate_hz,
                offset_seconds=item.offset_seconds,
                duration_seconds=item.duration_seconds,
            )
        )
        longest = max(map(len, waiting))
        if place + 1 == len(utterances) or longest * len(waiting) > _BATCH_SECONDS * sample_rate_hz:
            tensors = [torch.from_numpy(samples) for samples in waiting]
            yield pad_sequence(tensors, batch_first=True), torch.tensor([len(samples) for samples in waiting])
            waiting = []


def integer_bundle(parts: QuantizedParts, how: str) -> IntegerBundle:
    """The parts in integers; `how` goes into the card."""
    network = parts.network.to_integer()
    bundle = parts.bundle
    assert bundle.tokenizer is not None
    twin: Any = parts.front_end.integer()
    front_end: nn.Module = bundle.front_end
    return IntegerBundle(
        tables=twin.tables,
        sample_rate_hz=parts.front_end.sample_rate_hz,
        network=network,
        onnx=network_model(network, input_name="codes").SerializeToString(),
        tokenizer=bundle.tokenizer,
        front_end=describe(front_end),
        card=f"{bundle.card}- int8: {how}, by speechkit {speechkit.__version__}\n",
        decoding=bundle.decoding,
        language_model=bundle.language_model,
    )
