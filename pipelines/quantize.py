"""A float bundle and recordings -> an int8 bundle, by calibration alone or with training that knows the rounding."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.utils.rnn import pad_sequence

import speechkit
from speechkit.audio import load_audio
from speechkit.bundle_files import read_bundle_files
from speechkit.data import Utterance, read_utterances
from speechkit.decoding import count_errors, greedy_decode
from speechkit.export.onnx_network import network_model
from speechkit.integer_bundle import IntegerBundle, save_integer_bundle
from speechkit.parts import describe
from speechkit.pipelines.recipes import find_recipe, read_recipe
from speechkit.quantization.quantized_network import QuantizedNetwork
from speechkit.quantization.sensitivity import LayerReport, measure_layers
from speechkit.quantized_parts import QuantizedParts, quantized_parts
from speechkit.text import normalize_text

_BATCH_SECONDS = 60.0
_QUIETEST = 1e-6  # of full scale, from the least sample to the largest: what never passes it is silence


def quantize(
    bundle_path: str | os.PathLike[str],
    calibration: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weight_bits: int = 8,
    float_layers: Sequence[str] = (),
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    resume_from: str | None = None,
    trusted_packages: Sequence[str] = (),
    on_progress: Callable[[float], Any] = lambda seconds: None,
) -> QuantizedParts:
    """Writes an int8 bundle.

    Args:
        bundle_path: of a recogniser in float, with a front end that `as_quantized_front_end` takes and an encoder
            that `quantized_network` takes.
        calibration: manifest of some minutes of recordings like those to come; never a test set.
        out: the int8 bundle, a folder or .zip. With a recipe, the run's logs and checkpoints are in `out`.run.
        weight_bits: of the weights, 2 to 8.
        float_layers: names of layers whose weights stay in float.
        recipe: of quantization-aware training, a name or a file; none: post-training quantization. One that names no
            tokenizer has the bundle's.
        overrides: `key=value` for the recipe.
        resume_from: a checkpoint of `out`.run, "last" for its newest, or "auto" for that if there is one.
        trusted_packages: packages besides speechkit whose classes may be built.
        on_progress: called with the seconds of audio that were calibrated with.

    Returns:
        The parts as they were written.

    Raises:
        ValueError: parts without an int8 form, a wrong recipe, recordings that are missing, damaged, or silent, or a
            float bundle where `out` is to be.
    """
    check_target(Path(out), Path(bundle_path))
    settings = {
        "bundle_path": bundle_path,
        "weight_bits": weight_bits,
        "float_layers": list(float_layers),
        "trusted_packages": list(trusted_packages),
    }
    checkpoint = training = None
    if recipe is not None:
        from speechkit.pipelines.checkpoints import checkpoint_to_resume

        training = find_recipe(recipe, "quantize", option="--qat")
        checkpoint = checkpoint_to_resume(resume_from, Path(f"{out}.run"))
        for override in overrides:
            if (name := override.lstrip("-").partition("=")[0].removeprefix("model.")) in settings:
                raise ValueError(f"{override}: `{name}` is that of the quantization, and no key of its recipe")
    parts = quantized_parts(
        bundle_path, weight_bits=weight_bits, float_layers=float_layers, trusted_packages=trusted_packages
    )
    utterances = read_utterances(calibration)
    if not utterances:
        raise ValueError(f"{calibration}: holds no recordings to calibrate with")
    calibrate(parts, utterances, on_progress=on_progress)
    how = f"calibrated on {Path(calibration).name}, {len(utterances)} recordings"
    if training is not None:
        own = [f"model.{name}={value}" for name, value in settings.items()]
        if "tokenizer" not in (read_recipe(training).get("data") or {}):
            own.append(f"data.tokenizer={json.dumps(describe(parts.bundle.tokenizer))}")
        train_quantized(parts.network, training, [*own, *overrides], Path(f"{out}.run"), checkpoint)
        how += f", trained with quantization by {training.stem}"
    if not distributed.is_initialized() or distributed.get_rank() == 0:  # all hold the same after training
        save_integer_bundle(integer_bundle(parts, f"{how}, weights of {weight_bits} bits"), out)
    return parts


def check_target(out: Path, source: Path) -> None:
    """Raises ValueError where an int8 bundle cannot be written, or would spoil a float one."""
    if out.is_file() and out.suffix != ".zip":
        raise ValueError(f"`out` must be a folder or end in .zip, got the file {out}.")
    if out.resolve() == source.resolve() or (out.exists() and "model.safetensors" in read_bundle_files(out)):
        raise ValueError(f"`out` must not be a float bundle, which would be spoilt, got {out}.")


def train_quantized(
    network: QuantizedNetwork, recipe: Path, overrides: Sequence[str], folder: Path, checkpoint: Path | None = None
) -> None:
    """Trains a calibrated network where it stands, and keeps what was best on the development set.

    Raises:
        ValueError: a wrong recipe.
    """
    from speechkit.pipelines.checkpoints import keep_best
    from speechkit.pipelines.training import fit, parse, prepare, trainer_defaults
    from speechkit.tasks import QuantizedRecognition

    defaults = trainer_defaults(folder, checkpoint_every_n_steps=200)
    cli = parse(QuantizedRecognition, [recipe], overrides, trainer_defaults=defaults)
    prepare(cli)
    task: Any = cli.model
    task.encoder.load_state_dict(network.state_dict())
    best = keep_best(cli.trainer, folder, task.monitor) if cli.datamodule.dev else None
    fit(cli, checkpoint)
    cli.trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=False)
    if best is not None and best.best_model_path:
        task.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"])
    network.load_state_dict(task.encoder.state_dict())
    network.eval().set_mode("quantize")


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
    loudest, num_frames = 0.0, 0
    for waveform, lengths in waveform_batches(utterances, parts.front_end.sample_rate_hz):
        loudest = max(loudest, float((waveform.amax(dim=1) - waveform.amin(dim=1)).max()) if waveform.numel() else 0.0)
        num_frames += int(parts.logits(waveform, lengths)[1].sum())
        on_progress(float(lengths.sum()) / parts.front_end.sample_rate_hz)
    if loudest < _QUIETEST:
        raise ValueError("the calibration recordings are silent: they say nothing of what speech will give")
    if num_frames == 0:
        raise ValueError("the calibration recordings are too short: none of them holds a frame of the model")
    parts.network.calibrate()


def waveform_batches(utterances: Sequence[Utterance], sample_rate_hz: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Waveforms (B, N) and lengths (B,) in samples, in the order of the utterances, a minute at most in a batch.

    A longer recording comes in pieces of a minute.

    Raises:
        AudioError: a recording that cannot be read.
    """
    most = round(_BATCH_SECONDS * sample_rate_hz)
    waiting: list[Tensor] = []

    def batch() -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(samples) for samples in waiting])
        return pad_sequence(waiting, batch_first=True), lengths

    for item in utterances:
        samples = load_audio(
            item.audio_path,
            sample_rate_hz,
            offset_seconds=item.offset_seconds,
            duration_seconds=item.duration_seconds,
        )
        for piece in torch.from_numpy(samples).split(most) if len(samples) else [torch.zeros(0)]:
            if waiting and max(map(len, [*waiting, piece])) * (len(waiting) + 1) > most:
                yield batch()
                waiting = []
            waiting.append(piece)
    if waiting:
        yield batch()


def measure(
    parts: QuantizedParts, utterances: Sequence[Utterance], *, most_seconds: float = 600.0
) -> list[LayerReport]:
    """Domains, clipping and what each layer costs on recordings: in SNR, and in word errors where they have texts.

    Args:
        parts: calibrated.
        utterances: as many of them are taken as make up the seconds.
        most_seconds: of audio.

    Raises:
        AudioError: a recording that cannot be read.
    """
    batches, seconds, rows = [], 0.0, 0
    for waveform, lengths in waveform_batches(utterances, parts.front_end.sample_rate_hz):
        batches.append(parts.front_end(waveform, lengths))
        seconds, rows = seconds + float(lengths.sum()) / parts.front_end.sample_rate_hz, rows + len(lengths)
        if seconds >= most_seconds:
            break
    texts = [normalize_text(item.text or "").split() for item in utterances[:rows]]
    whole = all((item.duration_seconds or math.inf) <= _BATCH_SECONDS for item in utterances[:rows])
    tokenizer = parts.bundle.tokenizer
    assert tokenizer is not None

    def word_error_rate(outputs: Sequence[tuple[Tensor, Tensor]]) -> float:
        heard = [tokenizer.decode(labels).split() for output in outputs for labels in greedy_decode(*output)]
        errors = sum(count_errors(text, words).errors for text, words in zip(texts, heard, strict=True))
        return 100.0 * errors / sum(map(len, texts))

    return measure_layers(parts.network, batches, word_error_rate=word_error_rate if whole and all(texts) else None)


def integer_bundle(parts: QuantizedParts, how: str) -> IntegerBundle:
    """The parts in integers; `how` goes into the card."""
    network = parts.network.to_integer()
    bundle = parts.bundle
    assert bundle.tokenizer is not None
    twin: Any = parts.front_end.integer()
    return IntegerBundle(
        tables=twin.tables,
        sample_rate_hz=parts.front_end.sample_rate_hz,
        network=network,
        onnx=network_model(network, input_name="codes").SerializeToString(),
        tokenizer=bundle.tokenizer,
        front_end=describe(bundle.front_end),
        card=f"{bundle.card}- int8: {how}, by speechkit {speechkit.__version__}\n",
        decoding=bundle.decoding,
        language_model=bundle.language_model,
    )
