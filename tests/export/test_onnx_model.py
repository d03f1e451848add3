"""Float models as ONNX graphs: what ONNX Runtime makes of them is what torch makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from speechkit.bundle import Bundle
from speechkit.encoders import ConvGRUEncoder, ConvLSTMEncoder, SeparableConvEncoder, Wav2Vec2Encoder
from speechkit.features import MFB, MFCC, Deltas, FrontEnd, GlobalCMVN, SlidingCMVN, Waveform
from speechkit.heads import CTCHead
from speechkit.runtime.onnx_session import session_arguments

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
onnx_model = pytest.importorskip("speechkit.export.onnx_model")


def bundle_of(encoder: nn.Module, front_end: nn.Module) -> Bundle:
    head = CTCHead(input_dim=int(encoder.output_dim), vocab_size=9)  # type: ignore[call-overload]
    return Bundle(front_end=front_end.eval(), encoder=encoder.eval(), head=head.eval())


def run(path: Path, name: str, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, **session_arguments())
    result: np.ndarray = session.run(None, {name: x.numpy()})[0]
    return result


@torch.no_grad()
def torch_logits(bundle: Bundle, waveform: torch.Tensor) -> np.ndarray:
    """As a recogniser computes them, with masks."""
    parts: Any = bundle
    lengths = torch.tensor([waveform.shape[1]])
    logits: np.ndarray = parts.head(*parts.encoder(*parts.front_end(waveform, lengths)))[0].numpy()
    return logits


@pytest.mark.parametrize("kind", [ConvGRUEncoder, ConvLSTMEncoder])
def test_recurrent_layers_become_those_of_onnx(kind: type[ConvGRUEncoder], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = kind(input_dim=12, channels=16, hidden_size=8, num_layers=2, bidirectional=kind is ConvGRUEncoder)
    front_end = FrontEnd(features=MFCC(num_coefficients=4, num_mels=20), cmvn=SlidingCMVN(), deltas=Deltas())
    bundle = bundle_of(encoder, front_end)
    written = onnx_model.export_model(bundle, tmp_path / "model.onnx")
    assert written.largest_difference < 1e-4
    assert written.num_bytes == (tmp_path / "model.onnx").stat().st_size
    waveform = 0.1 * torch.randn(1, 7000)
    np.testing.assert_allclose(
        run(tmp_path / "model.onnx", "waveform", waveform), torch_logits(bundle, waveform), atol=1e-4
    )


TRANSFORMER: dict[str, Any] = {
    "channels": 24,
    "output_dim": 64,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_dim": 128,
    "position_kernel_size": 8,
    "position_groups": 2,
}


def test_a_transformer_over_samples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = bundle_of(Wav2Vec2Encoder(**TRANSFORMER, exit_key="zero"), FrontEnd(features=Waveform()))
    onnx_model.export_model(bundle, tmp_path / "model.onnx")
    waveform = torch.randn(1, 9123)
    np.testing.assert_allclose(
        run(tmp_path / "model.onnx", "waveform", waveform), torch_logits(bundle, waveform), atol=1e-4
    )


def test_weights_of_a_transformer_in_int8_and_the_front_end_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder(
        **TRANSFORMER,
        input_dim=20,
        kernel_sizes=(5, 5),
        strides=(2, 2),
        padded=True,
        conv_norm="layer",
        conv_bias=True,
    )
    bundle = bundle_of(encoder, FrontEnd(features=MFB(num_mels=20)))
    whole = onnx_model.export_model(bundle, tmp_path / "model.onnx")
    small = onnx_model.export_model(bundle, tmp_path / "int8.onnx", int8_weights=True)
    waveform = torch.randn(1, 9123) * torch.linspace(1e-4, 0.3, 9123)  # whose products with mel filters span decades
    expected = torch_logits(bundle, waveform)
    logits = run(tmp_path / "int8.onnx", "waveform", waveform)
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
    products = sum(parameter.numel() for parameter in encoder.layers.parameters() if parameter.ndim == 2)
    assert whole.num_bytes - small.num_bytes > 2.5 * products  # of 4 bytes one is left


def test_without_a_head_the_representations_are_given(tmp_path: Path) -> None:
    encoder = SeparableConvEncoder(input_dim=20, channels=8, kernel_sizes=(3,), output_dim=16).eval()
    bundle = Bundle(front_end=FrontEnd(features=MFB(num_mels=20)), encoder=encoder)
    assert onnx_model.export_model(bundle, tmp_path / "m.onnx", input_name="features").output_name == "representations"
    x = torch.randn(1, 77, 20)
    with torch.no_grad():
        expected, _ = encoder(x, torch.tensor([77]))
    np.testing.assert_allclose(run(tmp_path / "m.onnx", "features", x), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("front_end", "message"),
    [
        (
            FrontEnd(features=MFB(num_mels=20, edges="mirror")),
            "`input_name` must be 'features' for MFB with edges 'mirror'",
        ),
        (FrontEnd(features=MFB(num_mels=20, dither=1.0)), "`dither` must be 0 in an exported front end, got 1.0"),
        (FrontEnd(features=MFB(num_mels=20), cmvn=GlobalCMVN(20)), "`cmvn` must have statistics"),
    ],
    ids=["edges", "dither", "cmvn"],
)
def test_front_ends_without_a_graph(front_end: FrontEnd, message: str, tmp_path: Path) -> None:
    encoder = SeparableConvEncoder(input_dim=20, channels=8, kernel_sizes=(3,), output_dim=16)
    with pytest.raises(ValueError, match=message):
        onnx_model.export_model(bundle_of(encoder, front_end), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsteady(SeparableConvEncoder):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y, lengths = super().forward(x, lengths)
            return y + (100.0 if torch.compiler.is_compiling() else 0.0), lengths

    encoder = Unsteady(input_dim=20, channels=8, kernel_sizes=(3,), output_dim=16)
    bundle = bundle_of(encoder, FrontEnd(features=MFB(num_mels=20)))
    with pytest.raises(ValueError, match="the model's graph gives other logits than torch"):
        onnx_model.export_model(bundle, tmp_path / "model.onnx", input_name="features")


def test_unknown_input(tmp_path: Path) -> None:
    bundle = bundle_of(SeparableConvEncoder(input_dim=20), FrontEnd(features=MFB(num_mels=20)))
    with pytest.raises(ValueError, match="`input_name` must be one of features, waveform, got 'codes'"):
        onnx_model.export_model(bundle, tmp_path / "model.onnx", input_name="codes")
