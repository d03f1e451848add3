"""Compressed recordings as 16-bit WAV at one rate: a training would decode and resample them in every epoch."""

import json
from pathlib import Path

import soundfile

from speechkit.audio import load_audio


def decode_audio(manifest: Path, out: Path, sample_rate_hz: int) -> Path:
    """Writes the recordings of a manifest and a manifest of the same name into a folder, once; returns the latter."""
    decoded = out / manifest.name
    if decoded.exists():
        return decoded
    out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    for row in rows:
        samples = load_audio(manifest.parent / row["audio_filepath"], sample_rate_hz=sample_rate_hz)
        row["audio_filepath"] = row["audio_filepath"].replace("/", "-") + ".wav"
        soundfile.write(out / row["audio_filepath"], samples, sample_rate_hz, subtype="PCM_16")
    decoded.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return decoded
