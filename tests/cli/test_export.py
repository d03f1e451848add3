"""`speechkit export onnx` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechkit.bundle import Bundle, save_bundle
from speechkit.cli.main import main
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.heads import CTCHead
from speechkit.integer_bundle import load_integer_bundle
from speechkit.models import DIGITS
from speechkit.runtime.onnx_session import session_arguments
from speechkit.text import CharTokenizer

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def float_bundle(tmp_path: Path) -> Path:
    tokenizer = CharTokenizer(["a", "b"])
    encoder = SeparableConvEncoder(input_dim=20, channels=8, kernel_sizes=(3,), output_dim=16)
    head = CTCHead(input_dim=16, vocab_size=tokenizer.vocab_size)
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=20))
    save_bundle(Bundle(front_end=front_end, encoder=encoder, head=head, tokenizer=tokenizer), tmp_path / "float")
    return tmp_path / "float"


def test_an_int8_bundle_becomes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "digits.onnx"
    assert main(["export", "onnx", str(DIGITS), str(out)]) == 0
    assert "waveform -> logits, activations in uint8" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out, **session_arguments())
    assert session.run(None, {"waveform": np.zeros((2, 8000), np.float32)})[0].shape == (2, 49, 11)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["sample_rate_hz"] == "8000"
    assert json.loads(metadata["labels"])[:3] == ["", *load_integer_bundle(DIGITS).tokenizer.label_texts()[:2]]


def test_a_float_bundle_is_held_against_torch(
    float_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "onnx", str(float_bundle), str(tmp_path / "float.onnx")]) == 0
    assert "waveform -> logits" in (printed := capsys.readouterr().out)
    assert "against torch at most" in printed
    session = onnxruntime.InferenceSession(tmp_path / "float.onnx")
    assert session.get_modelmeta().custom_metadata_map["sample_rate_hz"] == "8000"
    assert "labels" in session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "codes"], "--input codes is for int8 bundles"),
        (["--codes", "int8"], "--codes is for int8 bundles"),
    ],
)
def test_options_of_int8_bundles(
    float_bundle: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "onnx", str(float_bundle), str(tmp_path / "m.onnx"), *options]) != 0
    assert message in capsys.readouterr().err


def test_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "onnx", str(DIGITS), str(tmp_path / "m.onnx"), "--int8-weights"]) != 0
    assert "is in int8 already" in capsys.readouterr().err
    assert main(["export", "onnx", str(DIGITS), str(tmp_path / "folder")]) != 0
    assert "OUT must end in .onnx" in capsys.readouterr().err
