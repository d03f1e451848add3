"""Layers are found whatever their layout, mixed by their weights, and fine-tuned from the bare encoder's bundle."""

from pathlib import Path

import pytest
import torch
from torch import nn

from speechkit.bundle import Bundle, load_bundle, save_bundle
from speechkit.encoders import (
    ConvGRUEncoder,
    LayerWeightedEncoder,
    SeparableConvEncoder,
    Wav2Vec2Encoder,
    Wav2VecEncoder,
)
from speechkit.encoders.layers import LayerFormat, layer_format, layer_outputs
from speechkit.features import MFB, FrontEnd
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer


def wav2vec() -> Wav2VecEncoder:
    return Wav2VecEncoder(input_dim=8, channels=12, kernel_sizes=(3,), strides=(2,), context_kernel_sizes=(3, 3, 3))


class TimeFirst(nn.Module):
    """Layers over (T, B, D), as torch's transformers have them."""

    input_dim = output_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0) for _ in range(2))

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1), lengths


@pytest.mark.parametrize(
    ("encoder", "layout"),
    [
        (wav2vec(), LayerFormat(1, 12)),
        (SeparableConvEncoder(input_dim=8, channels=10, kernel_sizes=(3, 5), output_dim=6), LayerFormat(2, 10)),
        (TimeFirst(), LayerFormat(0, 8)),
    ],
    ids=["batch, time, features", "batch, features, time", "time, batch, features"],
)
def test_layouts(encoder: nn.Module, layout: LayerFormat) -> None:
    encoder.train()
    assert layer_format(encoder) == layout
    assert encoder.training
    x, lengths = torch.randn(3, 20, 8), torch.tensor([20, 16, 4])
    outputs, counts = layer_outputs(encoder.eval(), layout, x, lengths)
    assert counts.tolist() == encoder.output_lengths(lengths).tolist()
    assert [tuple(output.shape) for output in outputs] == [(3, int(counts[0]), layout.dim)] * len(encoder.layers)
    assert all(not output[2, int(counts[2]) :].any() for output in outputs)
    if encoder.output_dim == layout.dim:
        torch.testing.assert_close(outputs[-1], encoder(x, lengths)[0] * (outputs[-1] != 0))


def test_mixture_follows_its_weights() -> None:
    torch.manual_seed(0)
    mixture = LayerWeightedEncoder(encoder=wav2vec()).eval()
    x, lengths = torch.randn(2, 20, 8), torch.tensor([20, 11])
    outputs, _ = layer_outputs(mixture.encoder, LayerFormat(1, 12), x, lengths)
    torch.testing.assert_close(mixture(x, lengths)[0], sum(outputs) / 3)
    mixture.layer_weights.data = torch.tensor([-100.0, 100.0, -100.0])
    torch.testing.assert_close(mixture(x, lengths)[0], outputs[1])


def test_an_encoder_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="ConvGRUEncoder has not"):
        LayerWeightedEncoder(encoder=ConvGRUEncoder(input_dim=8))


def test_fine_tuning_from_the_bare_encoder(tmp_path: Path) -> None:
    front_end, pretrained = FrontEnd(features=MFB(num_mels=8)), wav2vec()
    save_bundle(Bundle(front_end, pretrained), tmp_path / "pretrained")
    mixture = LayerWeightedEncoder(encoder=wav2vec())
    task = Recognition(
        front_end=front_end,
        encoder=mixture,
        tokenizer=CharTokenizer("ab"),
        encoder_from=str(tmp_path / "pretrained"),
    )
    x, lengths = torch.randn(1, 20, 8), torch.tensor([20])
    torch.testing.assert_close(mixture.encoder.eval()(x, lengths), pretrained.eval()(x, lengths))
    save_bundle(task.bundle(), tmp_path / "tuned")
    loaded = load_bundle(tmp_path / "tuned").encoder
    torch.testing.assert_close(loaded(x, lengths), mixture.eval()(x, lengths))


def test_dropped_layers_count_as_what_they_pass_on() -> None:
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder(
        input_dim=8, channels=8, kernel_sizes=(5,), strides=(2,), conv_norm="layer", conv_bias=True, padded=True,
        output_dim=8, num_layers=4, num_heads=2, feed_forward_dim=8, position_kernel_size=8, position_groups=2,
        layer_drop=0.5,
    )  # fmt: skip
    mixture = LayerWeightedEncoder(encoder=encoder).train()
    for _ in range(10):
        mixture.zero_grad()
        y, lengths = mixture(torch.randn(2, 40, 8), torch.tensor([40, 30]))
        assert y.shape == (2, 20, 8)
        assert lengths.tolist() == [20, 15]
        y.square().sum().backward()
        assert [name for name, value in mixture.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("encoder", [SeparableConvEncoder(input_dim=8, channels=8, kernel_sizes=(3,)), wav2vec()])
def test_every_parameter_takes_part(encoder: nn.Module) -> None:
    """What stands behind the layers too: DDP waits for all of them."""
    mixture = LayerWeightedEncoder(encoder=encoder).train()
    mixture(torch.randn(2, 40, 8), torch.tensor([40, 30]))[0].square().sum().backward()
    assert [name for name, value in mixture.named_parameters() if value.grad is None] == []
