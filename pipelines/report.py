"""An evaluation -> one page that says where the errors are: self-contained, so that it can be mailed and kept.

The page is `report.html` with its scripts and the figures as JSON inside; what the browser shows is built from them as
text, never as markup. It may not load anything (its Content-Security-Policy says so).
"""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import speechkit
from speechkit.audio import load_audio
from speechkit.decoding import align_words
from speechkit.pipelines.evaluate import Evaluation, ScoredUtterance
from speechkit.pipelines.picture import picture
from speechkit.recognizer import Recognizer

_MOST_CONFUSIONS = 100
_MOST_SECONDS = 60.0  # of a recording that are drawn


def write_report(
    evaluation: Evaluation,
    recognizer: Recognizer,
    path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str],
    manifest: str | os.PathLike[str],
) -> None:
    """Writes the page.

    Args:
        evaluation: of its `worst` utterances, those with errors are drawn and can be played; they are read again.
        recognizer: the model that was evaluated.
        path: of the page.
        model: what the page calls the model.
        manifest: what the page calls the data.

    Raises:
        AudioError: a recording that can no longer be read.
    """
    data = {
        "model": str(model),
        "manifest": str(manifest),
        "created": datetime.now().astimezone().isoformat(timespec="minutes"),
        "version": speechkit.__version__,
        **_figures(evaluation),
        "worst": list(_worst(evaluation, recognizer)),
    }
    Path(path).write_text(render_page(data), encoding="utf-8")


def render_page(data: dict[str, Any]) -> str:
    """The page of these figures; whatever its texts are, none of them ends the script that holds them."""
    template, picture_script, report_script = (
        resources.files("speechkit.pipelines").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html", "picture.js", "report.js")
    )
    page = template.replace("PICTURE_SCRIPT", picture_script).replace("REPORT_SCRIPT", report_script)
    before, between, after = page.partition("REPORT_DATA")
    assert between
    return before + json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c") + after


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    substituted, deleted, inserted = (counts.most_common(_MOST_CONFUSIONS) for counts in evaluation.confusions)
    kept = ("wer", "wer_interval", "cer", "cer_interval", "words", "substitutions", "deletions", "insertions")
    every = evaluation.as_dict()
    return {
        **{key: every[key] for key in (*kept, "audio_seconds", "failures", "per_speaker", "per_length")},
        "substituted": [[*pair, count] for pair, count in substituted],
        "deleted": [[word, None, count] for word, count in deleted],
        "inserted": [[None, word, count] for word, count in inserted],
        "utterances": [_utterance(item) for item in evaluation.utterances],
    }


def _utterance(item: ScoredUtterance) -> dict[str, Any]:
    """Of its aligned words, the right ones are strings and the others pairs, which keeps large pages small."""
    return {
        "id": item.utterance.id,
        "speaker": item.utterance.speaker,
        "seconds": round(item.duration_seconds, 3),
        "errors": item.word_counts.errors,
        "words": item.word_counts.length,
        "confidence": item.transcript.confidence,
        "aligned": [word.reference if word.is_right else list(word) for word in item.alignment],
    }


def _worst(evaluation: Evaluation, recognizer: Recognizer) -> Iterator[dict[str, Any]]:
    places = {id(item): place for place, item in enumerate(evaluation.utterances)}
    for item in evaluation.worst:
        if item.word_counts.errors == 0:
            continue
        utterance = item.utterance
        waveform = load_audio(
            utterance.audio_path,
            recognizer.sample_rate_hz,
            offset_seconds=utterance.offset_seconds,
            duration_seconds=min(item.duration_seconds, _MOST_SECONDS),
        )
        words = item.transcript.words
        aligned = align_words(item.reference.split(), [word.text for word in words])
        said = [word.reference for word in aligned if word.hypothesis is not None]
        pairs = zip(words, said, strict=True)
        yield {"utterance": places[id(item)], **picture(recognizer, waveform, pairs)}
