"""From recordings of any length to transcripts: reading ahead, joining segments, streams, and file formats."""

from speechkit.transcription.formats import FORMATS, TIMED, as_dict
from speechkit.transcription.joining import Passage, PassageJoiner
from speechkit.transcription.reading import Input, RecordingEnd, Span, duration_seconds, read_ahead, read_segments
from speechkit.transcription.stream import RecognizerStream, StreamResult
from speechkit.transcription.transcript import Alternative, Segment, Transcript, Word

__all__ = [
    "FORMATS",
    "TIMED",
    "Alternative",
    "Input",
    "Passage",
    "PassageJoiner",
    "RecognizerStream",
    "RecordingEnd",
    "Segment",
    "Span",
    "StreamResult",
    "Transcript",
    "Word",
    "as_dict",
    "duration_seconds",
    "read_ahead",
    "read_segments",
]
