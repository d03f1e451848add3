"""Manifests -> an archive, shard by shard, so that an interrupted call can go on.

A shard is written beside the archive and moved into it when it is whole. Which utterances it holds follows from the
manifests and the shard size alone.
"""

import gzip
import io
import itertools
import json
import math
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechkit.audio import AudioError, load_audio, read_audio_info
from speechkit.data.archive import read_description, write_index
from speechkit.data.manifest import Utterance, expand_path, iterate_utterances

FORMATS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "opus": ("OGG", "OPUS")}  # as libsndfile names them
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def write_archive(
    manifests: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    shard_hours: float = 1.0,
    shard_utterances: int | None = None,
    audio_format: str = "flac",
    sample_rate_hz: int | None = None,
    num_workers: int = 1,
    on_progress: Callable[[int], Any] = lambda utterances: None,
) -> Iterator[AudioError]:
    """Writes an archive and yields a failure for every utterance that cannot be read; the others are archived.

    How many were to be archived stands in archive.json as `job.rows`. A call that was interrupted goes on behind its
    last whole shard.

    Args:
        manifests: their utterances in order. Neighbours share a shard, so it is well to shuffle long manifests first.
        out: folder.
        shard_hours: audio in a shard, which runs over by less than one utterance.
        shard_utterances: utterances in a shard, in the place of `shard_hours`.
        audio_format: "flac" or "wav", 16 bits, or "opus", lossy.
        sample_rate_hz: resample to this rate; none keeps that of each file.
        num_workers: shards that are written at a time.
        on_progress: called with the number of utterances that were done.

    Raises:
        ValueError: an unknown option, a folder that holds something else, a bad manifest, or nothing to archive.
    """
    if audio_format not in FORMATS:
        raise ValueError(f"`audio_format` must be one of {', '.join(FORMATS)}, got {audio_format!r}.")
    if not shard_hours > 0 or (shard_utterances is not None and shard_utterances < 1):
        raise ValueError(f"A shard must hold something, got {shard_hours:g} hours or {shard_utterances} utterances.")
    if audio_format == "opus" and sample_rate_hz not in (None, *_OPUS_RATES):
        raise ValueError(f"`sample_rate_hz` of opus must be one of {_OPUS_RATES}, got {sample_rate_hz}.")
    if sample_rate_hz is not None and sample_rate_hz < 1:
        raise ValueError(f"`sample_rate_hz` must be positive, got {sample_rate_hz}.")
    if num_workers < 1:
        raise ValueError(f"`num_workers` must be at least 1, got {num_workers}.")
    folder, paths = Path(out), [expand_path(manifest) for manifest in manifests]
    size = {"utterances": shard_utterances} if shard_utterances is not None else {"hours": shard_hours}
    job = {
        "manifests": [[str(path.resolve()), path.stat().st_size if path.is_file() else 0] for path in paths],
        "shard": size,
        "audio_format": audio_format,
        "sample_rate_hz": sample_rate_hz,
    }
    shards = enumerate(_plan(paths, **size))
    first = next(shards, None)  # finds a bad manifest before anything is written
    if first is None:
        raise ValueError(f"{', '.join(map(str, paths))}: no utterances to archive")
    _start(folder, job)
    write = partial(_write_shard, folder, audio_format=audio_format, sample_rate_hz=sample_rate_hz)
    num_rows = 0
    for count, failures in _run(write, itertools.chain([first], shards), num_workers):
        num_rows += count
        on_progress(count)
        yield from (AudioError(failure) for failure in failures)
    if not any((folder / "shar").iterdir()):
        raise ValueError(f"{', '.join(map(str, paths))}: no utterance could be read")
    job["rows"] = num_rows
    _describe(folder, job)
    write_index(folder)


def _plan(
    manifests: Sequence[Path], *, hours: float = math.inf, utterances: float = math.inf
) -> Iterator[list[Utterance]]:
    """Utterances of each shard in turn."""
    shard: list[Utterance] = []
    seconds = 0.0
    for manifest in manifests:
        for utterance in iterate_utterances(manifest):
            shard.append(utterance)
            seconds += _seconds(utterance) if hours < math.inf else 0.0
            if len(shard) >= utterances or seconds >= 3600 * hours:
                yield shard
                shard, seconds = [], 0.0
    if shard:
        yield shard


def _seconds(utterance: Utterance) -> float:
    if utterance.duration_seconds is not None:
        return utterance.duration_seconds
    try:
        return read_audio_info(utterance.audio_path).duration_seconds - utterance.offset_seconds
    except AudioError:  # it is named when its turn comes
        return 0.0


def _start(folder: Path, job: dict[str, Any]) -> None:
    """Makes the folder, or sees that it holds the beginning of this very job."""
    if (folder / "archive.json").is_file():
        known = read_description(folder)
        if "utterances" in known:
            raise ValueError(f"{folder}: holds an archive already, which is not overwritten")
        if {**known.get("job", {}), "rows": 0} != {**job, "rows": 0}:
            raise ValueError(f"{folder}: holds the beginning of another archive; name another folder or remove it")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already, and is not overwritten")
    (folder / "shar").mkdir(parents=True, exist_ok=True)
    _describe(folder, job)


def _describe(folder: Path, job: dict[str, Any]) -> None:
    (folder / "archive.json").write_text(json.dumps({"job": job}, indent=2) + "\n", encoding="utf-8")


def _run(
    write: Callable[[tuple[int, list[Utterance]]], tuple[int, list[str]]],
    shards: Iterable[tuple[int, list[Utterance]]],
    num_workers: int,
) -> Iterator[tuple[int, list[str]]]:
    """Results in order, with only a few shards planned ahead."""
    pool = ThreadPoolExecutor(num_workers)  # libsndfile decodes and encodes outside the interpreter's lock
    try:
        waiting: deque[Any] = deque()
        for shard in shards:
            waiting.append(pool.submit(write, shard))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(
    folder: Path, shard: tuple[int, list[Utterance]], *, audio_format: str, sample_rate_hz: int | None
) -> tuple[int, list[str]]:
    """Writes a shard unless it is there; returns how many utterances it was to hold, and what failed."""
    number, utterances = shard
    names = (f"recording.{number:06d}.tar", f"cuts.{number:06d}.jsonl.gz")
    if (folder / "shar" / names[1]).is_file():
        return len(utterances), []
    partials = [folder / f"{name}.partial" for name in names]
    failures: list[str] = []
    try:
        with (
            tarfile.open(partials[0], "w") as tar,
            partials[1].open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as cuts,
        ):
            for place, utterance in enumerate(utterances):
                try:
                    samples, rate = _load(utterance, sample_rate_hz, audio_format)
                except ValueError as error:
                    failures.append(str(error))
                    continue
                cut = _cut(f"{number:06d}-{place:06d}", utterance, len(samples), rate)
                _add(tar, f"{cut['id']}.{audio_format}", _encode(samples, rate, audio_format))
                _add(tar, f"{cut['id']}.json", json.dumps(cut["recording"]).encode())
                cuts.write(json.dumps(cut, ensure_ascii=False).encode() + b"\n")
        if len(failures) < len(utterances):
            for file, name in zip(partials, names, strict=True):  # the cuts last: they stand for a whole shard
                os.replace(file, folder / "shar" / name)
    finally:
        for file in partials:
            file.unlink(missing_ok=True)
    return len(utterances), failures


def _load(utterance: Utterance, sample_rate_hz: int | None, audio_format: str) -> tuple[np.ndarray, int]:
    """Samples (N,) and their rate."""
    rate = sample_rate_hz or read_audio_info(utterance.audio_path).sample_rate_hz
    if audio_format == "opus" and rate not in _OPUS_RATES:
        raise AudioError(f"{utterance.audio_path}: opus has no rate of {rate} Hz; name another one to resample to")
    samples = load_audio(
        utterance.audio_path,
        rate,
        offset_seconds=utterance.offset_seconds,
        duration_seconds=utterance.duration_seconds,
    )
    return samples, rate


def _encode(samples: np.ndarray, rate: int, audio_format: str) -> bytes:
    container, subtype = FORMATS[audio_format]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _cut(key: str, utterance: Utterance, num_samples: int, rate: int) -> dict[str, Any]:
    """The utterance as a lhotse cut whose audio lies in a tar; its own name is that of the supervision."""
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    duration = num_samples / rate
    source = AudioSource(type="shar", channels=[0], source="")
    recording = Recording(id=key, sources=[source], sampling_rate=rate, num_samples=num_samples, duration=duration)
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=key,
        start=0.0,
        duration=duration,
        text=utterance.text,
        speaker=utterance.speaker,
    )
    cut = MonoCut(id=key, start=0.0, duration=duration, channel=0, recording=recording, supervisions=[supervision])
    return cut.to_dict()
