"""Recordings -> their segments, read ahead by threads while the model works; long ones a piece at a time."""

import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, Union

import numpy as np

from speechkit.audio import (
    AudioError,
    AudioSegment,
    Segmenter,
    load_audio,
    read_audio_info,
    resample,
    stream_audio,
)

if TYPE_CHECKING:
    from torch import Tensor

_LONG_SECONDS = 60.0  # what is longer is never in memory as a whole
_AHEAD = 16  # segments that wait for the model


@dataclass(frozen=True)
class Span:
    """A part of a file: what a manifest's row names."""

    path: str | os.PathLike[str]
    offset_seconds: float = 0.0
    duration_seconds: float | None = None


Input = Union[str, os.PathLike[str], Span, np.ndarray, "Tensor"]


class RecordingEnd(NamedTuple):
    """After the last segment of a recording."""

    duration_seconds: float


Event = tuple[int, AudioSegment | RecordingEnd | AudioError]


def duration_seconds(item: Input, rate: int) -> float:
    """What an input declares; `rate` is that of arrays.

    Raises:
        AudioError: a file whose header cannot be read.
    """
    if _is_array(item):
        return len(item) / rate
    if isinstance(item, Span) and item.duration_seconds is not None:
        return item.duration_seconds
    offset = item.offset_seconds if isinstance(item, Span) else 0.0
    info = read_audio_info(item.path if isinstance(item, Span) else item)
    return max(0.0, info.duration_seconds - offset)


def _is_array(item: Input) -> TypeGuard["np.ndarray | Tensor"]:
    return not isinstance(item, str | os.PathLike | Span)


def read_segments(
    inputs: Sequence[Input], durations: Sequence[tuple[int, float]], rate: int, model_rate: int, num_workers: int
) -> Iterator[Event]:
    """Yields (place of the input, segment) and, after the last one of each, its end, or why it could not be read.

    Args:
        inputs: paths, spans of files, or samples (N,) in [-1, 1].
        durations: (place of an input, its seconds) of those to read, in the order in which they are wanted.
        rate: of arrays.
        model_rate: of the segments.
        num_workers: threads that read.
    """
    waiting: deque[tuple[int, Future[list[AudioSegment | RecordingEnd | AudioError]] | None]] = deque()

    def first_of_waiting() -> Iterator[Event]:
        place, future = waiting.popleft()
        found = _stream(inputs[place], rate, model_rate) if future is None else future.result()
        for event in found:
            yield place, event

    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for place, seconds in durations:
                item = inputs[place]
                is_long = seconds > _LONG_SECONDS
                waiting.append((place, None if is_long else pool.submit(_read, item, rate, model_rate)))
                if len(waiting) > 2 * num_workers:
                    yield from first_of_waiting()
            while waiting:
                yield from first_of_waiting()
        finally:
            pool.shutdown(cancel_futures=True)


def read_ahead(events: Iterator[Event]) -> Generator[Event, None, None]:
    """The same events, made in a thread of their own, a bounded number of them ahead."""
    ready: queue.Queue[Event | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: Event | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for event in events:
                put(event)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # it is raised again where the events are wanted
            put(error)

    thread = threading.Thread(target=read, name="speechkit-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _read(item: Input, rate: int, model_rate: int) -> list[AudioSegment | RecordingEnd | AudioError]:
    """All of a short recording."""
    try:
        samples = _load(item, rate, model_rate)
    except AudioError as error:
        return [error]
    segmenter = Segmenter(model_rate)
    return [*segmenter.push(samples), *segmenter.finish(), RecordingEnd(len(samples) / model_rate)]


def _stream(item: Input, rate: int, model_rate: int) -> Iterator[AudioSegment | RecordingEnd | AudioError]:
    """A long recording, piece by piece."""
    segmenter, num_samples = Segmenter(model_rate), 0
    try:
        if _is_array(item):
            pieces = iter([_load(item, rate, model_rate)])
        else:
            span = item if isinstance(item, Span) else Span(item)
            pieces = stream_audio(
                span.path,
                model_rate,
                offset_seconds=span.offset_seconds,
                duration_seconds=span.duration_seconds,
            )
        for piece in pieces:
            num_samples += len(piece)
            yield from segmenter.push(piece)
    except AudioError as error:
        yield error
        return
    yield from segmenter.finish()
    yield RecordingEnd(num_samples / model_rate)


def _load(item: Input, rate: int, model_rate: int) -> np.ndarray:
    if _is_array(item):
        samples = np.asarray(item)
        if not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"`inputs` must hold float samples in [-1, 1], got {samples.dtype}.")
        samples = samples.astype(np.float32)
        if samples.ndim != 1:
            raise ValueError(f"`inputs` must hold arrays of shape (N,), got {samples.shape}.")
        if not np.isfinite(samples).all():
            raise AudioError("array: holds samples that are NaN or infinite")
        return resample(samples, rate, model_rate)
    span = item if isinstance(item, Span) else Span(item)
    return load_audio(span.path, model_rate, offset_seconds=span.offset_seconds, duration_seconds=span.duration_seconds)
