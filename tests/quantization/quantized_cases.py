"""Input for the small recogniser of the tests."""

import torch
from torch import Tensor

from speechkit.quantization import UNIT_VARIANCE, QParams, fake_quantize


def speech(seed: int, *, qparams: QParams = UNIT_VARIANCE) -> tuple[Tensor, Tensor]:
    """Values of the input domain (3, 40, 12) with their frames."""
    x = torch.randn(3, 40, 12, generator=torch.Generator().manual_seed(seed))
    return fake_quantize(x, qparams), torch.tensor([40, 17, 31])
