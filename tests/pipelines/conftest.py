"""Tiny corpora of tones and a tiny model, so that whole jobs run in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechkit.bundle import Bundle, save_bundle
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.heads import CTCHead
from speechkit.text import CharTokenizer

SMALL = Path(__file__).with_name("small.yaml")


@pytest.fixture(scope="session")
def two_speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 24 tones by two speakers, one of whose names is markup; one utterance is without words."""
    folder = tmp_path_factory.mktemp("two_speakers")
    generator = np.random.default_rng(0)
    rows = []
    for place in range(24):
        seconds = 0.3 + 0.03 * place
        time = np.arange(int(8000 * seconds)) / 8000
        samples = np.sin(2 * np.pi * 300 * (1 + place % 3) * time) * (np.sin(9 * time) > 0) / 3
        name = f"tone {place} 'quoted'.wav"
        soundfile.write(folder / name, samples + generator.normal(0, 0.003, len(time)), 8000)
        speaker = '</script><script>window.broken = "yes"</script>' if place % 2 else "ann"
        text = "" if place == 20 else ["ab", "b a", "a bb ab"][place % 3]
        rows.append({"audio_filepath": name, "duration": round(seconds, 3), "text": text, "speaker": speaker})
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "test.jsonl"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that hears something, and mostly what was not said."""
    torch.manual_seed(5)
    tokenizer = CharTokenizer("ab ")
    encoder = SeparableConvEncoder(input_dim=20, channels=8, kernel_sizes=(3,), repeats=1, output_dim=12)
    head = CTCHead(input_dim=12, vocab_size=tokenizer.vocab_size)
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20), cmvn=UtteranceCMVN())
    with torch.no_grad():
        head.projection.weight.mul_(8)
    folder = tmp_path_factory.mktemp("untrained") / "bundle"
    save_bundle(Bundle(front_end, encoder, head, tokenizer), folder)
    return folder
