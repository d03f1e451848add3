"""A file in any common format -> mono float32 samples in [-1, 1] at the rate that is asked for.

soundfile (libsndfile) reads WAV, FLAC, OGG, Opus and MP3; what it refuses by format goes to librosa's audioread
path. A file that decodes only in part, or holds NaN, is an error: silence about it would train on rubbish.
"""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from speechkit.audio.damage import find_damage

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".au", ".wma", ".webm")
AUDIOREAD_SUFFIXES = (".m4a", ".aac", ".wma", ".webm", ".mp4")
_UNKNOWN_FRAMES = (1 << 63) - 1  # libsndfile's SF_COUNT_MAX

_log = logging.getLogger(__name__)
_said: set[str] = set()


class AudioError(ValueError):
    """A file cannot be used as audio; the message is one line: path, reason."""


class AudioInfo(NamedTuple):
    """What a file's header declares."""

    sample_rate_hz: int
    num_samples: int
    num_channels: int

    @property
    def duration_seconds(self) -> float:
        return self.num_samples / self.sample_rate_hz


def read_audio_info(path: str | os.PathLike[str]) -> AudioInfo:
    """Reads the header only.

    Raises:
        AudioError: the file is missing, empty, not audio, or shorter than it declares (as far as its container tells).
    """
    with _errors_of(path):
        _check_file(path)
        try:
            with soundfile.SoundFile(os.fsencode(path)) as file:
                return AudioInfo(file.samplerate, _count_frames(file, path), file.channels)
        except soundfile.LibsndfileError:
            if not str(path).lower().endswith(AUDIOREAD_SUFFIXES):
                raise
            samples, rate = _read_with_librosa(path)
            return AudioInfo(rate, samples.shape[0], samples.shape[1])


def load_audio(
    path: str | os.PathLike[str],
    sample_rate_hz: int,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
) -> np.ndarray:
    """Decodes a file, or a span of it, to mono at `sample_rate_hz`.

    Returns:
        float32 samples in [-1, 1], shape (N,). Channels are averaged; another rate is resampled (soxr, HQ).

    Raises:
        AudioError: missing, empty, not audio, truncated, or with samples that are not finite.
        ValueError: a negative offset or duration.
    """
    _check_span(offset_seconds, duration_seconds)
    with _errors_of(path):
        _check_file(path)
        try:
            samples, rate = _read_with_soundfile(path, offset_seconds, duration_seconds)
        except soundfile.LibsndfileError:
            if not str(path).lower().endswith(AUDIOREAD_SUFFIXES):
                raise
            samples, rate = _read_with_librosa(path, offset_seconds, duration_seconds)
    return _to_mono(samples, rate, str(path), sample_rate_hz)


def stream_audio(
    path: str | os.PathLike[str],
    sample_rate_hz: int,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    block_seconds: float = 10.0,
) -> Iterator[np.ndarray]:
    """As `load_audio`, piece by piece: a recording of any length takes no more memory than a block of it.

    What only audioread can decode (M4A, WMA) is decoded as a whole.

    Raises:
        AudioError: as `load_audio`, but only when the place is reached.
    """
    _check_span(offset_seconds, duration_seconds)
    with _errors_of(path):
        _check_file(path)
        try:
            file = soundfile.SoundFile(os.fsencode(path))
        except soundfile.LibsndfileError:
            if not str(path).lower().endswith(AUDIOREAD_SUFFIXES):
                raise
            yield _to_mono(*_read_with_librosa(path, offset_seconds, duration_seconds), str(path), sample_rate_hz)
            return
        with file:
            rate, left = file.samplerate, _seek(file, path, offset_seconds, duration_seconds)
            resampler = Resampler(rate, sample_rate_hz)
            while left > 0:
                wanted = min(left, max(1, round(block_seconds * rate)))
                samples = file.read(wanted, dtype="float32", always_2d=True)
                left -= len(samples)
                if len(samples) < wanted:
                    raise AudioError(f"{path}: truncated, {left} of its samples could not be decoded")
                yield resampler.push(_mixed_down(samples, rate, str(path), sample_rate_hz))
            yield resampler.finish()


def decode_audio(content: bytes, sample_rate_hz: int, *, name: str) -> np.ndarray:
    """Decodes the bytes of a whole file that soundfile reads, as `load_audio` does.

    Args:
        content: of the file.
        sample_rate_hz: rate of the result.
        name: of the file, for messages.

    Raises:
        AudioError: not audio, truncated, empty, or with samples that are not finite.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, declared = file.samplerate, file.frames
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: not readable as audio ({_reason(error)})") from None
    if declared != _UNKNOWN_FRAMES and len(samples) < declared:
        raise AudioError(f"{name}: truncated, {len(samples)} of {declared} samples could be decoded")
    return _to_mono(samples, rate, name, sample_rate_hz)


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Band-limited resampling (soxr, HQ) of float samples (N,) from one rate to another."""
    if from_hz == to_hz:
        return np.ascontiguousarray(samples, dtype=np.float32)
    return soxr.resample(samples.astype(np.float32), from_hz, to_hz, quality="HQ")


class Resampler:
    """`resample` over a stream: pieces of any length in, and out at the other rate, all together the same samples."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        same = from_hz == to_hz
        self._stream = None if same else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Float samples (N,) -> those of the result that are certain by now."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> np.ndarray:
        """The samples that were waiting for more; the stream takes no others."""
        nothing = np.zeros(0, dtype=np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


def find_audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """A folder's audio files, sorted by name; it is searched through and through, behind links too.

    A folder in it that cannot be read is named and left out.

    Raises:
        ValueError: a folder without audio files.
        OSError: a folder that cannot be read.
    """

    def name_it(error: OSError) -> None:
        if str(error.filename) == str(folder):
            raise error
        _log.warning("%s: %s; left out", error.filename, (error.strerror or "").lower())

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=name_it):
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen]
        files = (Path(place, name) for name in names if name.lower().endswith(AUDIO_SUFFIXES))
        found.extend(file for file in files if file.is_file())
    if not found:
        raise ValueError(f"{folder}: the folder holds no audio files ({', '.join(AUDIO_SUFFIXES)})")
    return sorted(found)


@contextmanager
def _errors_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever opening and decoding a file raises becomes an `AudioError`, so that the other files go on."""
    try:
        yield
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless format by its suffix
        raise AudioError(f"{path}: not readable as audio ({_reason(error)})") from None
    except ImportError as error:
        raise AudioError(f"{path}: this format needs {error.name} (pip install 'speechkit[train]')") from None
    except OSError as error:
        raise AudioError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _to_mono(samples: np.ndarray, rate: int, name: str, sample_rate_hz: int) -> np.ndarray:
    """Samples (N, channels) as decoded -> (N',) at the rate that is asked for; refuses what cannot be trained on."""
    if len(samples) == 0:
        raise AudioError(f"{name}: holds no samples")
    return resample(_mixed_down(samples, rate, name, sample_rate_hz), rate, sample_rate_hz)


def _mixed_down(samples: np.ndarray, rate: int, name: str, sample_rate_hz: int) -> np.ndarray:
    """Samples (N, channels) as decoded -> (N,) at their own rate; says what is done to them."""
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: holds samples that are NaN or infinite")
    if samples.shape[1] > 1:
        _say_once("channels", f"{name}: {samples.shape[1]} channels, mixed down (said once)")
    if rate != sample_rate_hz:
        _say_once("rate", f"{name}: {rate} Hz, resampled to {sample_rate_hz} Hz (said once)")
    return mono


def _say_once(kind: str, message: str) -> None:
    """Tells of what is handled without fail, but only of the first file that it happens to."""
    if kind not in _said:
        _said.add(kind)
        _log.warning(message)


def _check_span(offset_seconds: float, duration_seconds: float | None) -> None:
    if offset_seconds < 0 or (duration_seconds is not None and duration_seconds < 0):
        span = f"{offset_seconds} and {duration_seconds}"
        raise ValueError(f"`offset_seconds` and `duration_seconds` must be at least 0, got {span}.")


def _check_file(path: str | os.PathLike[str]) -> None:
    if os.path.isdir(path):
        raise AudioError(f"{path}: is a folder")
    if not os.path.isfile(path):
        raise AudioError(f"{path}: {'is no regular file' if os.path.exists(path) else 'no such file'}")
    if os.path.getsize(path) == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    if damage := find_damage(path):
        raise AudioError(f"{path}: {damage}")


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")


def _count_frames(file: soundfile.SoundFile, path: str | os.PathLike[str]) -> int:
    """Samples of each channel that the header declares."""
    if file.frames == _UNKNOWN_FRAMES:
        raise AudioError(f"{path}: does not declare its length, as when written to a pipe; encode it to a file")
    return file.frames


def _read_with_soundfile(
    path: str | os.PathLike[str], offset_seconds: float, duration_seconds: float | None
) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(os.fsencode(path)) as file:
        rate, wanted = file.samplerate, _seek(file, path, offset_seconds, duration_seconds)
        samples = file.read(wanted, dtype="float32", always_2d=True)
    if len(samples) < wanted:
        raise AudioError(f"{path}: truncated, {len(samples)} of {wanted} samples could be decoded")
    return samples, rate


def _seek(
    file: soundfile.SoundFile, path: str | os.PathLike[str], offset_seconds: float, duration_seconds: float | None
) -> int:
    """Goes to the start of a span; how many samples it has."""
    num_frames, rate = _count_frames(file, path), file.samplerate
    if offset_seconds * rate >= num_frames + 0.5:
        raise AudioError(f"{path}: offset {offset_seconds} s is past its end ({num_frames / rate:.3f} s)")
    start = round(offset_seconds * rate)
    if start:
        file.seek(start)
    wanted = num_frames - start
    return wanted if duration_seconds is None else round(min(wanted, duration_seconds * rate))


def _read_with_librosa(
    path: str | os.PathLike[str], offset_seconds: float = 0.0, duration_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    import librosa

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples, rate = librosa.load(path, sr=None, mono=False, offset=offset_seconds, duration=duration_seconds)
    except Exception as error:  # audioread's backends raise anything, and each is a file that cannot be read
        reason = "needs ffmpeg" if type(error).__name__ == "NoBackendError" else type(error).__name__
        raise AudioError(f"{path}: not readable as audio ({reason})") from None
    return np.atleast_2d(samples).T, int(rate)
