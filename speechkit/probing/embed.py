"""Frames of many files, each written as it is done."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
from torch import Tensor

from speechkit.audio import AudioError
from speechkit.data import Utterance
from speechkit.probing.extraction import FeatureExtractor

FORMATS = ("npy", "safetensors")


class Embedded(NamedTuple):
    """What became of a recording: its frames were written, were there already (`num_frames` none), or why neither."""

    utterance: Utterance
    target: Path
    num_frames: int | None
    error: str | None


def embed_files(
    extractor: FeatureExtractor,
    utterances: Sequence[Utterance],
    targets: Sequence[Path],
    *,
    file_format: str = "npy",
    batch_seconds: float = 120.0,
) -> Iterator[Embedded]:
    """Writes frames float32 (T, D) and times float64 (T,) of each file; yields as they are done.

    "safetensors" holds both as `features` and `times`; beside NAME.npy, the times are NAME.times.npy. A target that is
    there is kept, and none is ever there in part: an interrupted job goes on where it was.

    Args:
        extractor: what to write.
        utterances: files, or parts of files.
        targets: a file for each; folders are made.
        file_format: "npy" or "safetensors".
        batch_seconds: audio in one batch, padding included.

    Raises:
        ValueError: another format.
    """
    if file_format not in FORMATS:
        raise ValueError(f"`file_format` must be one of {', '.join(FORMATS)}, got {file_format!r}.")
    missing = []
    for utterance, target in zip(utterances, targets, strict=True):
        if target.exists():
            yield Embedded(utterance, target, None, None)
        else:
            missing.append((utterance, target))
    frames = extractor.read([utterance for utterance, _ in missing], batch_seconds=batch_seconds)
    for (utterance, target), features in zip(missing, frames, strict=True):
        if isinstance(features, AudioError):
            yield Embedded(utterance, target, None, str(features))
            continue
        _write(target, features.contiguous(), extractor.times(len(features)), file_format)
        yield Embedded(utterance, target, len(features), None)


def _write(target: Path, features: Tensor, times: Tensor, file_format: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    if file_format == "safetensors":
        partial.write_bytes(safetensors.torch.save({"features": features, "times": times}))
    else:
        np.save(target.with_suffix(".times.npy"), times.numpy())
        with partial.open("wb") as file:
            np.save(file, features.numpy())
    os.replace(partial, target)
