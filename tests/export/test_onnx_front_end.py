"""The integer front end as an ONNX graph gives the codes of its definition in numpy."""

from typing import Any

import numpy as np
import pytest
import torch

from speechkit.features import MFB, MFCC, GlobalCMVN, QuantizedFrontEnd
from speechkit.quantization import QParams
from speechkit.runtime.front_end import INT16_SCALE, IntegerTables, integer_codes

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def tables_of(features: MFB) -> IntegerTables:
    """With random statistics about those of speech."""
    generator = torch.Generator().manual_seed(3)
    cmvn = GlobalCMVN(features.num_features)
    cmvn.mean.copy_(12.0 + 4.0 * torch.randn(features.num_features, generator=generator))
    cmvn.std.copy_(2.0 + 3.0 * torch.rand(features.num_features, generator=generator))
    twin: Any = QuantizedFrontEnd(features, cmvn, QParams(0.04, 5, "int8")).integer()
    tables: IntegerTables = twin.tables
    return tables


def session_of(tables: IntegerTables, code_type: str) -> Any:
    from speechkit.export.onnx_front_end import add_integer_front_end
    from speechkit.export.onnx_graph import Graph

    graph = Graph()
    codes = add_integer_front_end(
        graph, tables, "waveform", code_type=code_type, offset={"int8": 0, "uint8": 128}[code_type]
    )
    graph.node("Identity", codes, output="codes")
    model = graph.model(
        graph.tensor("waveform", np.float32, ["batch", "samples"]),
        graph.tensor("codes", code_type, ["batch", "frames", len(tables.offset)]),
        {},
    )
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize(
    "features",
    [
        MFB(),
        MFB(sample_rate_hz=8000, num_mels=40),
        MFCC(num_coefficients=20, num_mels=40),
        MFB(num_mels=23, remove_dc=False, preemphasis=0.0, window="hann", log="db", frame_seconds=0.032),
        MFB(num_mels=40, round_to_power_of_two=False, frame_seconds=0.025, hop_seconds=0.03),
    ],
    ids=["mfb 16 kHz", "mfb 8 kHz", "mfcc", "no options", "400-point"],
)
def test_the_graph_gives_the_codes_of_the_definition(features: MFB) -> None:
    tables, generator = tables_of(features), np.random.default_rng(0)
    # silence, a level of single bits, speech's, one that is clipped: energies of 0 and on both sides of 2^23 and 2^31
    levels = np.repeat([0.0, 5e-5, 1e-3, 0.05, 0.5, 1.5], 2000)
    waveform = (levels * generator.uniform(-1, 1, len(levels))).astype(np.float32)
    samples = np.clip(np.rint(waveform * np.float32(INT16_SCALE)), -32768, 32767).astype(np.int16)
    frames = np.lib.stride_tricks.sliding_window_view(samples, tables.frame_length)[:: tables.hop_length]
    steps: dict[str, Any] = {}
    expected = integer_codes(frames, tables, steps=steps)
    assert steps["energy"].min() < 2**23
    assert steps["energy"].max() > 2**33
    for code_type, offset in (("int8", 0), ("uint8", 128)):
        (codes,) = session_of(tables, code_type).run(None, {"waveform": np.stack([waveform, waveform[::-1]])})
        assert codes.dtype == code_type
        assert codes.shape == (2, *expected.shape)
        assert np.array_equal(codes[0].astype(np.int64) - offset, expected)
