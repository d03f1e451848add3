"""The exported C99 computes the reference vectors bit for bit, without warnings and without undefined behaviour."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from speechkit.audio import load_audio
from speechkit.export import export_front_end, synthetic_signal
from speechkit.export.front_end_c import SOURCES, VECTOR_TYPES
from speechkit.features import (
    MFB,
    MFCC,
    Deltas,
    FrontEnd,
    GlobalCMVN,
    LibrosaMFB,
    MicroMFB,
    QuantizedFrontEnd,
    UtteranceCMVN,
    Waveform,
    as_quantized_front_end,
)
from speechkit.quantization import QParams
from speechkit.runtime.front_end import IntegerTables, integer_codes

FLAGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZE = ["-fsanitize=undefined", "-fno-sanitize-recover"]
KINDS = ["mfb 16 kHz", "mfb 8 kHz", "mfcc", "no options", "400-point"]


def make_features(kind: str) -> MFB:
    if kind == "mfb 16 kHz":
        return MFB()
    if kind == "mfb 8 kHz":
        return MFB(sample_rate_hz=8000, num_mels=40)
    if kind == "mfcc":
        return MFCC(num_coefficients=20, num_mels=40)
    if kind == "no options":
        return MFB(num_mels=23, remove_dc=False, preemphasis=0.0, window="hann", log="db", frame_seconds=0.032)
    return MFB(num_mels=40, round_to_power_of_two=False, frame_seconds=0.025, hop_seconds=0.03)


def make_front_end(kind: str) -> QuantizedFrontEnd:
    """With random statistics about those of speech."""
    features = make_features(kind)
    generator = torch.Generator().manual_seed(3)
    cmvn = GlobalCMVN(features.num_features)
    cmvn.mean.copy_(12.0 + 4.0 * torch.randn(features.num_features, generator=generator))
    cmvn.std.copy_(2.0 + 3.0 * torch.rand(features.num_features, generator=generator))
    return QuantizedFrontEnd(features, cmvn, QParams(0.04, 5, "int8"))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Compiles the check of an exported folder; the test is skipped where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc or cc) on this machine")

    def compile_check(folder: Path, *options: str) -> Path:
        program = tmp_path / "check"
        command = [compiler, *FLAGS, *options, "-DSPEECHKIT_CHECK", "front_end.c", "check.c", "-o", str(program)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if "-fsanitize=undefined" in options and "ubsan" in done.stderr:
            pytest.skip("the compiler has no UBSan")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return program

    return compile_check


def run_check(program: Path, folder: Path) -> tuple[int, str]:
    done = subprocess.run([program, "vectors"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return done.returncode, line


@pytest.mark.parametrize("kind", KINDS)
def test_c_equals_the_reference_on_the_synthetic_signal(kind: str, build: Callable[..., Path], tmp_path: Path) -> None:
    result = export_front_end(make_front_end(kind), tmp_path / "out")
    assert run_check(build(tmp_path / "out"), tmp_path / "out") == (
        0,
        f"equal: {result.num_frames} frames, every step and every code",
    )


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "manifest"),
    [("mfb 16 kHz", "arctic/dev.jsonl"), ("mfb 8 kHz", "digits/dev.jsonl"), ("mfcc", "speechocean/dev.jsonl")],
)
def test_c_equals_the_reference_on_speech(
    kind: str, manifest: str, build: Callable[..., Path], recordings: Path, tmp_path: Path
) -> None:
    path = recordings / manifest
    row = json.loads(path.read_text().splitlines()[0])
    front_end = make_front_end(kind)
    samples = load_audio(path.parent / row["audio_filepath"], front_end.sample_rate_hz)
    result = export_front_end(front_end, tmp_path / "out", samples)
    code, line = run_check(build(tmp_path / "out"), tmp_path / "out")
    assert (code, line.split()[:2]) == (0, ["equal:", str(result.num_frames)])
    codes, _ = front_end.integer()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    written = np.fromfile(tmp_path / "out" / "vectors" / "codes_int8.bin", np.int8)
    assert np.array_equal(written.reshape(codes[0].shape), codes[0].numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_c_has_no_undefined_behaviour(kind: str, build: Callable[..., Path], tmp_path: Path) -> None:
    front_end = make_front_end(kind)
    loudest = np.random.default_rng(1).choice(np.array([-32768, 32767], dtype=np.int16), front_end.sample_rate_hz)
    alternating = np.tile(np.array([-32768, 32767], dtype=np.int16), 2000)
    constant = np.full(4000, -32768, dtype=np.int16)
    signal = synthetic_signal(front_end.sample_rate_hz, 0.4)
    export_front_end(front_end, tmp_path / "out", np.concatenate([loudest, alternating, constant, signal]))
    assert run_check(build(tmp_path / "out", *SANITIZE), tmp_path / "out")[0] == 0


@pytest.mark.parametrize("name", [*VECTOR_TYPES, "input"])
def test_a_changed_vector_is_found(name: str, build: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_front_end(make_front_end("mfb 8 kHz"), out)
    program = build(out)
    path = out / "vectors" / f"{name}_{VECTOR_TYPES.get(name, 'int16')}.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x20
    path.write_bytes(content)
    code, line = run_check(program, out)
    assert code == 1
    assert re.match(rf"differs: frame \d+, {'windowed' if name == 'input' else name}\[\d+\] is ", line)


@pytest.mark.parametrize("change", ["shorter", "longer", "missing"])
def test_vectors_of_another_length_are_found(change: str, build: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_front_end(make_front_end("mfb 8 kHz"), out)
    program = build(out)
    path = out / "vectors" / "codes_int8.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if change == "shorter" else content + b"\0")
    if change == "missing":
        path.unlink()
    code, line = run_check(program, out)
    assert code == 1
    assert {"shorter": "ends in frame", "longer": "goes on", "missing": "cannot read"}[change] in line


def test_the_readme_compiles_as_it_says(build: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_front_end(make_front_end("mfb 8 kHz"), out)
    readme = (out / "README.md").read_text()
    (commands,) = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)
    (example,) = re.findall(r"```c\n(.*?)```", readme, flags=re.DOTALL)
    (out / "example.c").write_text(example)
    assert build  # there is a compiler
    for command in [*commands.splitlines(), "cc -std=c99 -Wall -Wextra -Werror -pedantic -c example.c"]:
        done = subprocess.run(command.split(), cwd=out, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_the_code_is_of_integers_and_needs_no_library(tmp_path: Path) -> None:
    export_front_end(make_front_end("mfcc"), tmp_path / "out")
    for name in ("front_end.c", "front_end.h", "front_end_tables.h"):
        text = (tmp_path / "out" / name).read_text()
        assert set(re.findall(r"#include (<.*>)", text)) <= {"<stdint.h>", "<string.h>"}
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).replace("#define SPEECHKIT_SCALE 0.04", "")
        assert not re.search(r"\b(float|double|malloc|\d+\.\d+)\b", code)


def test_tables_are_those_of_the_reference(tmp_path: Path) -> None:
    front_end = make_front_end("mfcc")
    export_front_end(front_end, tmp_path / "out")
    saved = dict(np.load(tmp_path / "out" / "tables.npz"))
    assert [float(saved.pop(name)) for name in ("sample_rate_hz", "scale", "zero_point")] == [16000, 0.04, 5]
    tables = IntegerTables(**{name: value if value.ndim else int(value) for name, value in saved.items()})
    pcm = np.fromfile(tmp_path / "out" / "vectors" / "input_int16.bin", "<i2")
    frames = np.lib.stride_tricks.sliding_window_view(pcm, 400)[::160]
    codes = np.fromfile(tmp_path / "out" / "vectors" / "codes_int8.bin", np.int8).reshape(-1, 20)
    assert np.array_equal(integer_codes(frames, tables), codes)
    header = (tmp_path / "out" / "front_end_tables.h").read_text()
    assert "static const int32_t speechkit_multiplier[40][20] = {" in header
    assert "#define SPEECHKIT_MULTIPLIER_IS_MATRIX 1\n" in header


def test_an_mfbs_multiplier_is_a_vector(tmp_path: Path) -> None:
    result = export_front_end(make_front_end("mfb 16 kHz"), tmp_path / "out")
    header = (tmp_path / "out" / "front_end_tables.h").read_text()
    assert "static const int32_t speechkit_multiplier[80] = {" in header
    assert "#define SPEECHKIT_MULTIPLIER_IS_MATRIX 0\n" in header
    assert f"RAM: {result.ram_bytes} bytes" in header
    assert result.ram_bytes == 4 * 512 + 8 * 257 + 4 * 80
    assert result.multiply_adds < 50_000


def test_every_array_of_the_vectors_is_listed(tmp_path: Path) -> None:
    export_front_end(make_front_end("mfb 8 kHz"), tmp_path / "out")
    listed = (tmp_path / "out" / "vectors" / "README.md").read_text()
    for path in (tmp_path / "out" / "vectors").glob("*.bin"):
        (shape,) = re.findall(rf"`{path.name}` \| \w+ \| \((.*?)\)", listed)
        size = int(np.prod([int(number) for number in shape.split(", ")]))
        assert path.stat().st_size == size * np.dtype(path.stem.rpartition("_")[2]).itemsize


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_samples_are_rounded_to_16_bits(dtype: type, tmp_path: Path) -> None:
    front_end = make_front_end("mfb 8 kHz")
    samples = np.clip(0.7 * np.random.default_rng(0).standard_normal(4000), -1.2, 1.2).astype(dtype)
    export_front_end(front_end, tmp_path / "out", samples)
    pcm = np.fromfile(tmp_path / "out" / "vectors" / "input_int16.bin", "<i2")
    assert np.array_equal(pcm, np.clip(np.rint(samples * 32768.0), -32768, 32767))
    export_front_end(front_end, tmp_path / "again", pcm.astype(np.int16))
    for path in (tmp_path / "out").rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()


def test_the_synthetic_signal_is_full_scale_and_always_the_same() -> None:
    signal = synthetic_signal(16000)
    assert (signal.dtype, len(signal), signal.min(), signal.max()) == (np.int16, 48000, -32768, 32767)
    assert np.array_equal(signal, synthetic_signal(16000))
    assert not signal[25000:35000].any()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.zeros(399), "`samples` must hold a frame of 400 samples, got 399."),
        (np.zeros((2, 800)), "`samples` must have one dimension, got shape (2, 800)."),
        (np.array([0.0, np.nan] * 400), "`samples` must be finite, got NaN or infinity."),
        (np.zeros(800, dtype=np.int32), "`samples` must be int16 or float, got int32."),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples: np.ndarray, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        export_front_end(make_front_end("mfb 16 kHz"), tmp_path / "out", samples)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("front_end", "expected"),
    [
        (QuantizedFrontEnd(MFB(edges="mirror")), "`edges` must be 'snip'"),
        (QuantizedFrontEnd(MFB(), GlobalCMVN(80)), "`cmvn` must have statistics"),
        (QuantizedFrontEnd(MFB(use_power=False)), "`use_power` must be true"),
        (QuantizedFrontEnd(MFB(), None, QParams(0.1, 3, "uint8")), "`qparams` must be int8"),
        (QuantizedFrontEnd(MFB(sample_rate_hz=48000)), "must keep the spectrum below 2^31 for every signal"),
        (QuantizedFrontEnd(MFB(sample_rate_hz=32000)), "must keep the mel energies below 2^63 for every signal"),
    ],
)
def test_a_front_end_without_an_integer_form_is_refused(
    front_end: QuantizedFrontEnd, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        export_front_end(front_end, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_front_end(make_front_end("mfb 8 kHz"), out)
    (out / "front_end.c").write_text("mine")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`out_dir` must be new or empty unless `overwrite` is true"):
        export_front_end(make_front_end("mfcc"), out)
    assert (out / "front_end.c").read_text() == "mine"
    export_front_end(make_front_end("mfcc"), out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert {path.name for path in out.iterdir()} == {
        *SOURCES, "front_end_tables.h", "README.md", "tables.npz", "vectors", "notes.txt"
    }  # fmt: skip
    with pytest.raises(ValueError, match="`out_dir` must be new or empty"):
        export_front_end(make_front_end("mfcc"), out / "notes.txt", overwrite=True)


def test_a_plain_front_end_takes_the_default_domain() -> None:
    features, cmvn = MFB(), GlobalCMVN(80)
    quantized = as_quantized_front_end(FrontEnd(features=features, cmvn=cmvn))
    assert (quantized.features, quantized.cmvn, quantized.qparams) == (features, cmvn, QParams(1 / 32, 0, "int8"))
    assert as_quantized_front_end(quantized) is quantized


@pytest.mark.parametrize(
    ("front_end", "expected"),
    [
        (FrontEnd(features=MFB(), cmvn=UtteranceCMVN()), "`cmvn` must be GlobalCMVN or none, got UtteranceCMVN"),
        (FrontEnd(features=Waveform()), "`features` must be an MFB or MFCC, got Waveform"),
        (FrontEnd(features=MicroMFB()), "`features` must be an MFB or MFCC, got MicroMFB"),
        (FrontEnd(features=MFB(), deltas=Deltas()), "`deltas` must be none, got Deltas"),
        (FrontEnd(features=LibrosaMFB()), "`dynamic_range` must be none"),
        (nn.Identity(), "`front_end` must be quantized or quantizable, got Identity"),
    ],
)
def test_a_front_end_that_cannot_be_quantized_is_refused(front_end: nn.Module, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        as_quantized_front_end(front_end)
    assert "\n" not in str(caught.value)
