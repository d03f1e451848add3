"""A recogniser that nobody had to train: it hears two tones, each a word."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechkit import Recognizer
from speechkit.acoustic_model import AcousticModel
from speechkit.features import MFB, FrontEnd
from speechkit.heads import CTCHead
from speechkit.text import WordTokenizer

RATE = 8000
TONES_HZ = {"low": 500.0, "high": 1500.0}


class Features(nn.Module):
    """An encoder that leaves its input as it is."""

    input_dim = output_dim = 20

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return x, lengths


@pytest.fixture
def recognizer() -> Recognizer:
    front_end = FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20))
    head = CTCHead(input_dim=20, vocab_size=3)
    with torch.no_grad():
        head.projection.weight.zero_()
        head.projection.bias.copy_(torch.tensor([0.0, -10.0, -10.0]))
        time = torch.arange(RATE) / RATE
        for label, hz in enumerate(TONES_HZ.values(), start=1):
            tone = 0.3 * torch.sin(2 * torch.pi * hz * time)[None]
            loudest = front_end(tone, torch.tensor([RATE]))[0][0].mean(dim=0).argmax()
            head.projection.weight[label, loudest] = 1.0
            head.projection.bias[label] = -float(front_end(0.03 * tone, torch.tensor([RATE]))[0][0, :, loudest].mean())
    tokenizer = WordTokenizer(list(TONES_HZ))
    model = AcousticModel(front_end=front_end, encoder=Features(), head=head)
    return Recognizer(model=model, tokenizer=tokenizer)


@pytest.fixture
def say() -> Callable[..., np.ndarray]:
    """Words, each a tone of 0.2 s, and numbers, each so many seconds of faint noise -> samples."""

    def render(parts: Sequence[str | float], seed: int = 0) -> np.ndarray:
        generator = np.random.default_rng(seed)
        pieces = []
        for part in parts:
            time = np.arange(round((part if isinstance(part, float) else 0.2) * RATE)) / RATE
            tone = 0.0 * time if isinstance(part, float) else 0.3 * np.sin(2 * np.pi * TONES_HZ[part] * time)
            pieces.append(tone + 1e-4 * generator.standard_normal(len(time)))
        return np.concatenate(pieces).astype(np.float32)

    return render
