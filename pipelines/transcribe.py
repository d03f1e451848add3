"""Recordings -> transcripts in files or on a stream: what is done is skipped, what fails is named, the rest goes on."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechkit.pipelines.recordings import Recording, output_files
from speechkit.recognizer import Recognizer, Transcript
from speechkit.transcription import FORMATS, TIMED


@dataclass
class Tally:
    """How a job went."""

    done: int = 0
    failed: int = 0
    skipped: int = 0


def transcribe(
    recognizer: Callable[[], Recognizer],
    recordings: Sequence[Recording],
    *,
    format_name: str = "txt",
    out: Path | None = None,
    overwrite: bool = False,
    batch_seconds: float = 60.0,
    num_best: int = 1,
    num_workers: int = 2,
    on_result: Callable[[Recording, Transcript], None] = lambda recording, transcript: None,
) -> Tally:
    """Transcribes what is not done yet.

    Args:
        recognizer: loads the model; not called where nothing is left to do.
        recordings: from `find_recordings`.
        format_name: one of `speechkit.transcription.FORMATS`.
        out: folder for a file each, which appears when it is whole; none: nothing is written, see `on_result`.
        overwrite: also those that are there already and no older than their audio.
        batch_seconds: audio in one batch, padding included.
        num_best: texts of each segment.
        num_workers: threads that read files ahead.
        on_result: called with each transcript, failures included, as it is ready.

    Raises:
        ValueError: an unknown format, or two recordings that would be written to one file.
        OSError: a folder that cannot be written to, before anything is transcribed.
    """
    if format_name not in FORMATS:
        raise ValueError(f"`format_name` must be one of {', '.join(FORMATS)}, got {format_name!r}.")
    targets: list[Path] | None = None
    tally = Tally()
    if out is not None:
        targets = output_files(recordings, out, format_name)
        _check_writable(out)
        left = [
            place
            for place, (recording, target) in enumerate(zip(recordings, targets, strict=True))
            if overwrite or not _is_done(target, recording)
        ]
        tally.skipped = len(recordings) - len(left)
        recordings, targets = [recordings[place] for place in left], [targets[place] for place in left]
    if not recordings:
        return tally
    results = recognizer().transcribe_iter(
        [recording.audio for recording in recordings],
        batch_seconds=batch_seconds,
        word_times=format_name in TIMED,
        num_best=num_best,
        num_workers=num_workers,
    )
    for place, transcript in results:
        if transcript.error is None and targets is not None:
            reason = _write(targets[place], FORMATS[format_name](recordings[place].name, transcript))
            transcript = transcript if reason is None else Transcript(error=reason)
        if transcript.error is not None:
            tally.failed += 1
        else:
            tally.done += 1
        on_result(recordings[place], transcript)
    return tally


def _check_writable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: must be a folder for the results, got a file")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder}: cannot be written to")


def _is_done(target: Path, recording: Recording) -> bool:
    """Whether the result is there, and not that of an older file of this name."""
    if not os.path.exists(target):  # which takes a name that is too long for one that is not there
        return False
    audio = Path(recording.audio.path)
    return not audio.exists() or target.stat().st_mtime >= audio.stat().st_mtime


def _write(target: Path, text: str) -> str | None:
    """Writes a file that appears when it is whole; returns why its name cannot be one, if so."""
    partial = target.with_name(f".{os.getpid()}.partial")  # other processes may write to this folder too
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise
        return f"{target}: {(error.strerror or str(error)).lower()}"
    return None
