"""Recordings with their text; and what was said, with the logits of what a recogniser heard: for tuning."""

import os
from collections.abc import Callable
from typing import Any

from speechkit.data import Utterance, read_utterances
from speechkit.recognizer import Passage, Recognizer, Span
from speechkit.text import normalize_text


def read_transcribed(manifest: str | os.PathLike[str]) -> list[Utterance]:
    """Utterances that can be scored.

    Raises:
        ValueError: no manifest, an utterance without text, or no words in any of them.
    """
    utterances = read_utterances(manifest)
    for utterance in utterances:
        if utterance.text is None:
            raise ValueError(f"{manifest}: {utterance.id} has no `text` to compare with")
    if not any(normalize_text(utterance.text or "") for utterance in utterances):
        raise ValueError(f"{manifest}: must hold an utterance whose `text` has words, got none in {len(utterances)}")
    return utterances


def read_development_set(
    recognizer: Recognizer,
    manifest: str | os.PathLike[str],
    *,
    on_progress: Callable[[float], Any] = lambda seconds: None,
) -> list[tuple[list[str], list[Passage]]]:
    """Words and passages of each utterance.

    Args:
        recognizer: its encoder runs once over each recording.
        manifest: JSON lines with `text`.
        on_progress: called with the seconds of audio that were done.

    Raises:
        ValueError: no manifest, an utterance without text, no words in any of them, or a file that cannot be read.
    """
    utterances = read_transcribed(manifest)
    spans = [Span(item.audio_path, item.offset_seconds, item.duration_seconds) for item in utterances]
    found = []
    for place, passages in recognizer.passages_iter(spans):
        if isinstance(passages, Exception):
            raise ValueError(str(passages))
        found.append((normalize_text(utterances[place].text or "").split(), passages))
        on_progress(sum(passage.end_seconds - passage.start_seconds for passage in passages))
    return found
