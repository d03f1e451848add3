"""One recording -> what a report draws of it: waveform, spectrogram, CTC posteriors, word times; and its sound.

Pictures are drawn by the page, from arrays of bytes; so there is no plotting library, and the page redraws them at any
size and in its reader's colours. Axes of time are in seconds from the start of the recording.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from speechkit.audio import AudioError
from speechkit.features import MFB
from speechkit.recognizer import Recognizer, Word

_MOST_COLUMNS = 2000
_HOP_SECONDS = 0.010
_NUM_MELS = 64
_RANGE_NATS = 16.0  # 70 dB below the loudest
_MOST_SYMBOLS = 24
_LEAST_POSTERIOR = 0.05


def picture(recognizer: Recognizer, waveform: np.ndarray, words: Iterable[tuple[Word, str | None]]) -> dict[str, Any]:
    """A recording in the form that `picture.js` draws.

    Args:
        recognizer: the model.
        waveform: (N,) samples in [-1, 1] at the model's rate.
        words: those that were heard, each with the one that was said there, none where it was inserted.

    Returns:
        What JSON can hold; arrays as base64 of bytes, a row after the other.
    """
    rate = recognizer.sample_rate_hz
    seconds = len(waveform) / rate
    return {
        "seconds": seconds,
        "waveform": _waveform(waveform, rate),
        "spectrogram": _spectrogram(waveform, rate),
        "posteriors": _posteriors(recognizer, waveform),
        "words": [
            [word.text, round(word.start_seconds, 3), round(word.end_seconds, 3), said, round(word.confidence, 3)]
            for word, said in words
            if word.start_seconds < seconds
        ],
        "audio": _wav(waveform, rate),
    }


def _waveform(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    """Least and greatest sample of each column (2, columns), relative to the loudest; 128 is zero."""
    columns = max(1, min(_MOST_COLUMNS, len(waveform)))
    edges = len(waveform) * np.arange(columns) // columns
    extremes = np.stack([np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)])
    scaled = 128 + 127 * extremes / max(float(np.abs(extremes).max()), 1e-4)
    return _matrix(scaled) | {"start": 0.0, "step": len(waveform) / rate / columns}


def _spectrogram(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    """Log mel energies (mels, frames), highest mel first, whatever the model's own front end is."""
    hop_seconds = max(_HOP_SECONDS, len(waveform) / rate / _MOST_COLUMNS)
    mel = MFB(sample_rate_hz=rate, num_mels=_NUM_MELS, hop_seconds=hop_seconds, edges="zero")
    energies = mel(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))[0][0].numpy()
    scaled = 255 * (1 + (energies - energies.max()) / _RANGE_NATS)
    step = mel.hop_length / rate
    return _matrix(scaled.T[::-1]) | {"start": -step / 2, "step": step}


def _posteriors(recognizer: Recognizer, waveform: np.ndarray) -> dict[str, Any]:
    """Of each stretch of speech, posteriors (symbols, frames): the blank's, then those of labels that are likely."""
    ((_, passages),) = recognizer.passages_iter([waveform])
    assert not isinstance(passages, AudioError)
    blank, step = recognizer.tokenizer.blank_id, recognizer.model.step_seconds
    posteriors = [torch.as_tensor(passage.logits).softmax(dim=-1) for passage in passages]
    labels = _likely_labels(posteriors, blank)
    return {
        "symbols": ["blank", *(recognizer.tokenizer.label_text(label).strip() or "space" for label in labels)],
        "passages": [
            _matrix(255 * rows[:, [blank, *labels]].T.numpy())
            | {"start": passage.first_seconds - step / 2, "step": step}
            for passage, rows in zip(passages, posteriors, strict=True)
        ],
    }


def _likely_labels(posteriors: Sequence[Tensor], blank: int) -> list[int]:
    """Ids of (T, V) each, in the order of the vocabulary."""
    frames = [rows for rows in posteriors if len(rows)]
    if not frames:
        return []
    best, ids = torch.cat(frames).amax(dim=0).sort(descending=True)
    likely = [label for label, most in zip(ids.tolist(), best.tolist(), strict=True) if most >= _LEAST_POSTERIOR]
    return sorted([label for label in likely if label != blank][:_MOST_SYMBOLS])


def _matrix(values: np.ndarray) -> dict[str, Any]:
    codes = np.ascontiguousarray(values.round().clip(0, 255).astype(np.uint8))
    return {"rows": codes.shape[0], "columns": codes.shape[1], "codes": base64.b64encode(codes.tobytes()).decode()}


def _wav(waveform: np.ndarray, rate: int) -> str:
    """A data URI of mu-law WAV: a byte a sample, and browsers find any place in it, which in short FLAC they do not."""
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV", subtype="ULAW")
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
