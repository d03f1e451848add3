"""The recognisers in the wheel: `transcribe` without a model takes the first one here."""

from pathlib import Path

DIGITS = Path(__file__).parent / "digits"  # strings of English digits, int8; its card.md says how it was trained
