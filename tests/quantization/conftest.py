"""A small recogniser of separable convolutions with statistics of its own, and its quantized network."""

import pytest
import torch
from quantized_cases import speech
from torch import nn

from speechkit.encoders import SeparableConvEncoder
from speechkit.heads import CTCHead
from speechkit.quantization import UNIT_VARIANCE
from speechkit.quantization.conversion import quantized_network
from speechkit.quantization.quantized_network import QuantizedNetwork


@pytest.fixture
def parts() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder = SeparableConvEncoder(input_dim=12, channels=16, kernel_sizes=(5, 7), stride=2, output_dim=24)
    for norm in encoder.modules():
        if hasattr(norm, "running_mean"):
            for tensor in (norm.running_mean, norm.bias.data):
                tensor.normal_(std=0.3)
            norm.running_var.uniform_(0.05, 0.3)
    return encoder.eval(), CTCHead(input_dim=24, vocab_size=7).eval()


@pytest.fixture
def network(parts: tuple[nn.Module, nn.Module]) -> QuantizedNetwork:
    network = quantized_network(*parts, qparams=UNIT_VARIANCE)
    network.set_mode("observe")
    with torch.no_grad():
        for seed in range(3):
            network(*speech(seed))
    network.calibrate()
    return network
