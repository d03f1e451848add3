"""Transcripts as text, subtitles, tables and JSON.

| format | holds |
|---|---|
| txt | the text, a line |
| srt, vtt | subtitles (SubRip, WebVTT): at most some seconds of words at a time, broken at pauses |
| tsv | segments: start and end in milliseconds, text (as Whisper writes it) |
| ctm | words: recording, channel, start, duration in seconds, word, confidence (NIST) |
| json | everything |
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from speechkit.transcription.transcript import Segment, Transcript, Word, confidence

_LONGEST_SUBTITLE_SECONDS = 6.0
_LONGEST_LINE = 42  # characters; a subtitle has two lines
_SUBTITLE_PAUSE_SECONDS = 0.8
_SHORTEST_SUBTITLE_SECONDS = 1.0  # where the next one leaves the time


def to_txt(name: str, transcript: Transcript) -> str:
    """The text."""
    return transcript.text + "\n"


def to_json(name: str, transcript: Transcript) -> str:
    """One object on one line."""
    return json.dumps(as_dict(name, transcript), ensure_ascii=False) + "\n"


def as_dict(name: str, transcript: Transcript) -> dict[str, Any]:
    """Everything; times in seconds, confidence null without word times."""
    return {
        "file": name,
        "text": transcript.text,
        "duration": round(transcript.duration_seconds, 3),
        "confidence": _rounded(transcript.confidence),
        "segments": [segment_as_dict(segment) for segment in transcript.segments],
    }


def segment_as_dict(segment: Segment) -> dict[str, Any]:
    """Everything of one segment."""
    return {
        "start": round(segment.start_seconds, 3),
        "end": round(segment.end_seconds, 3),
        "text": segment.text,
        "confidence": _rounded(confidence(segment.words)),
        "words": [
            {
                "word": word.text,
                "start": round(word.start_seconds, 3),
                "end": round(word.end_seconds, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in segment.words
        ],
        "alternatives": [{"text": item.text, "score": round(item.score, 4)} for item in segment.alternatives],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def to_tsv(name: str, transcript: Transcript) -> str:
    """A row a segment."""
    rows = [(segment.start_seconds, segment.end_seconds, segment.text) for segment in transcript.segments]
    return "start\tend\ttext\n" + "".join(
        f"{round(1000 * start)}\t{round(1000 * end)}\t{text}\n" for start, end, text in rows if text
    )


def to_ctm(name: str, transcript: Transcript) -> str:
    """A row a word."""
    recording = name.replace(" ", "_")
    return "".join(
        f"{recording} 1 {word.start_seconds:.3f} {word.end_seconds - word.start_seconds:.3f} "
        f"{word.text} {word.confidence:.4f}\n"
        for word in transcript.words
    )


def to_srt(name: str, transcript: Transcript) -> str:
    """Numbered subtitles."""
    return "".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_subtitles(transcript), start=1)
    )


def to_vtt(name: str, transcript: Transcript) -> str:
    """WebVTT, for players in a browser."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n\n" for start, end, text in _subtitles(transcript)
    )


FORMATS: dict[str, Callable[[str, Transcript], str]] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "json": to_json,
    "ctm": to_ctm,
    "tsv": to_tsv,
}
TIMED = frozenset(("srt", "vtt", "json", "ctm"))  # formats that want word times


def _subtitles(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of what is shown at a time; a short one stays until it can be read, or the next one comes."""
    groups = list(_groups(transcript))
    for place, words in enumerate(groups):
        start, end = words[0].start_seconds, words[-1].end_seconds
        latest = groups[place + 1][0].start_seconds if place + 1 < len(groups) else transcript.duration_seconds
        yield start, max(end, min(start + _SHORTEST_SUBTITLE_SECONDS, latest)), _in_lines(_joined(words))


def _groups(transcript: Transcript) -> Iterator[list[Word]]:
    """The words that are shown at a time."""
    shown: list[Word] = []
    for word in transcript.words:
        if shown and (
            word.start_seconds - shown[-1].end_seconds > _SUBTITLE_PAUSE_SECONDS
            or word.end_seconds - shown[0].start_seconds > _LONGEST_SUBTITLE_SECONDS
            or any(len(line) > _LONGEST_LINE for line in _in_lines(_joined([*shown, word])).split("\n"))
        ):
            yield shown
            shown = []
        shown.append(word)
    if shown:
        yield shown


def _in_lines(text: str) -> str:
    """Broken at the space that leaves the least of a longer line, where one line does not hold it."""
    if len(text) <= _LONGEST_LINE:
        return text
    spaces = [place for place, character in enumerate(text) if character == " "]
    if not spaces:
        return text
    middle = min(spaces, key=lambda place: abs(place - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


def _joined(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * max(0.0, seconds))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
