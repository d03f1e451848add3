"""`speechkit features` as a user calls it: exit status, what is printed, what is written."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from speechkit.bundle import Bundle, save_bundle
from speechkit.cli.main import main
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, MFCC, Deltas, FrontEnd, GlobalCMVN, QuantizedFrontEnd, UtteranceCMVN, Waveform
from speechkit.quantization import QParams


def fitted(num_features: int) -> GlobalCMVN:
    cmvn = GlobalCMVN(num_features)
    cmvn.fit([(12.0 + 3.0 * torch.randn(1, 50, num_features), torch.tensor([50]))])
    return cmvn


@pytest.fixture
def save(tmp_path: Path) -> Callable[[nn.Module], str]:
    """Saves a front end in a bundle; an encoder is there since a bundle has one."""

    def write(front_end: nn.Module) -> str:
        encoder = SeparableConvEncoder(
            input_dim=front_end.num_features, channels=4, kernel_sizes=(3,), repeats=1, output_dim=4
        )
        save_bundle(Bundle(front_end, encoder), tmp_path / "model.zip")
        return str(tmp_path / "model.zip")

    return write


@pytest.fixture
def quantized(save: Callable[[nn.Module], str]) -> str:
    mfb = MFB(sample_rate_hz=8000, num_mels=40)
    return save(QuantizedFrontEnd(mfb, fitted(40), QParams(0.04, 2, "int8"), arithmetic="integer", output="values"))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def read_figure(path: Path) -> np.ndarray:
    """Grey values (height, width) of a PNG file."""
    image = pytest.importorskip("matplotlib.image")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return np.asarray(image.imread(path))[:, :, :3].mean(axis=2)


def panels(image: np.ndarray) -> int:
    """Bands of the figure that are not blank along its left part, where the axes are."""
    inked = image[:, 80 : image.shape[1] // 2].std(axis=1) > 0.05
    return int(np.count_nonzero(np.diff(inked.astype(int)) == 1))


def test_export_writes_what_passes_its_check(
    quantized: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", "export", quantized, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "codes are int8, r = S (q - Z), S = 0.04, Z = 2"
    assert printed[1] == f"{tmp_path / 'out'}: 298 frames of reference vectors"
    assert re.fullmatch(r"RAM \d+ bytes .*, ROM \d+ bytes .*, \d+ multiply-adds a frame", printed[2])
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) on this machine")
    command = ["cc", "-std=c99", "-DSPEECHKIT_CHECK", "front_end.c", "check.c", "-o", "check"]
    subprocess.run(command, cwd=tmp_path / "out", check=True)
    done = subprocess.run(["./check", "vectors"], cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "equal: 298 frames, every step and every code\n")


def test_export_of_a_recording_takes_its_first_seconds(
    quantized: str, tmp_path: Path, make_tone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    audio = make_tone("tone.wav", seconds=11.0, rate=8000)
    assert main(["features", "export", quantized, str(tmp_path / "out"), "--audio", str(audio)]) == 0
    assert ": 998 frames of reference vectors, " in capsys.readouterr().out
    pcm = np.fromfile(tmp_path / "out" / "vectors" / "input_int16.bin", "<i2")
    assert np.array_equal(pcm, soundfile.read(audio, dtype="int16")[0][:80000])


def test_export_does_not_overwrite_unless_asked(
    quantized: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["features", "export", quantized, str(tmp_path / "out")]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert error_line(capsys).startswith("speechkit features: `out_dir` must be new or empty unless `overwrite` is")
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("cmvn", [fitted(13), None])
def test_export_of_a_plain_front_end_says_that_it_takes_the_default_domain(
    cmvn: GlobalCMVN | None, save: Callable[[nn.Module], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = save(FrontEnd(features=MFCC(), cmvn=cmvn))
    assert main(["features", "export", bundle, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        "the bundle's front end has no domain of its own: the default one is taken",
        "codes are int8, r = S (q - Z), S = 0.03125, Z = 0",
    ]
    assert ("no CMVN: most codes may be clipped; train with GlobalCMVN" in printed) == (cmvn is None)


@pytest.mark.parametrize(
    ("front_end", "expected"),
    [
        (FrontEnd(features=MFB(), cmvn=UtteranceCMVN()), "got UtteranceCMVN; train with QuantizedFrontEnd, or"),
        (FrontEnd(features=Waveform()), "got Waveform; train with QuantizedFrontEnd, or"),
        (FrontEnd(features=MFB(edges="zero"), cmvn=fitted(80)), "`edges` must be 'snip'"),
        (QuantizedFrontEnd(MFB(), GlobalCMVN(80)), "never fitted"),
    ],
)
def test_export_of_another_front_end_is_refused(
    front_end: nn.Module,
    expected: str,
    save: Callable[[nn.Module], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["features", "export", save(front_end), str(tmp_path / "out")]) == 2
    assert expected in error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("action", ["export", "plot"])
@pytest.mark.parametrize(("content", "expected"), [(None, "no such file"), (b"not audio", "not readable as audio")])
def test_audio_that_cannot_be_read_is_one_line(
    action: str,
    content: bytes | None,
    expected: str,
    quantized: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    audio, out = tmp_path / "a.wav", tmp_path / "out"
    if content is not None:
        audio.write_bytes(content)
    arguments = [quantized, str(out), "--audio", str(audio)] if action == "export" else [str(audio), "--out", str(out)]
    assert main(["features", action, *arguments]) == 2
    line = error_line(capsys)
    assert line.startswith(f"speechkit features: {audio}: ")
    assert expected in line
    assert not out.exists()


def test_plot_of_a_recording_alone(
    tmp_path: Path,
    make_tone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    audio = make_tone("audio/tone.wav")
    monkeypatch.chdir(tmp_path)
    assert main(["features", "plot", str(audio)]) == 0
    printed = capsys.readouterr().out
    match = re.fullmatch(r"tone\.features\.png: quantization: SNR (\d+\.\d) dB, (.*)% of the codes clipped\n", printed)
    assert match is not None
    assert 35.0 < float(match[1]) < 42.0  # 40.9 dB: variance 1 against 1/12 of (1/32)^2
    image = read_figure(tmp_path / "tone.features.png")
    assert image.shape == (1200, 1100)
    assert image.std() > 0.1
    assert panels(image) >= 5


@pytest.mark.parametrize(
    "front_end",
    [
        QuantizedFrontEnd(MFB(num_mels=23), fitted(23), arithmetic="integer", output="values"),
        FrontEnd(features=MFCC(use_energy=True, htk_compat=True), cmvn=UtteranceCMVN(), deltas=Deltas()),
    ],
    ids=["quantized", "plain"],
)
def test_plot_with_the_front_end_of_a_model(
    front_end: nn.Module, save: Callable[[nn.Module], str], tmp_path: Path, make_tone: Callable[..., Path]
) -> None:
    audio, figure = make_tone("tone.wav", rate=8000), tmp_path / "figures" / "f.png"
    arguments = ["--model", save(front_end), "--out", str(figure), "--seconds", "0.5"]
    assert main(["features", "plot", str(audio), *arguments]) == 0
    assert panels(read_figure(figure)) >= 5


@pytest.mark.parametrize("seconds", [0.01, 0.025])
def test_plot_of_a_short_or_silent_recording(
    seconds: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(int(16000 * seconds)), 16000)
    code = main(["features", "plot", str(tmp_path / "a.wav"), "--out", str(tmp_path / "f.png")])
    assert code == (0 if seconds >= 0.025 else 2)
    if code == 2:
        assert "must hold a frame (of 400 samples" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seconds", "0"], "`--seconds` must be positive, got 0"),
        (["--out", "figure.doc"], "Format 'doc' is not supported"),
        (["--model", "none"], "no such bundle"),
    ],
)
def test_plot_refuses_arguments_in_one_line(
    arguments: list[str], expected: str, make_tone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", "plot", str(make_tone("tone.wav")), *arguments]) == 2
    assert expected in error_line(capsys)


def test_plot_of_another_front_end_is_refused(
    save: Callable[[nn.Module], str], make_tone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for front_end, expected in (
        (FrontEnd(features=Waveform()), "must be made of MFB or MFCC to plot it, got Waveform"),
        (FrontEnd(features=MFB(), cmvn=GlobalCMVN(80)), "never fitted"),
    ):
        assert main(["features", "plot", str(make_tone("tone.wav")), "--model", save(front_end)]) == 2
        assert expected in error_line(capsys)


def test_plot_without_matplotlib_names_the_extra(
    make_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["features", "plot", str(make_tone("tone.wav"))]) == 2
    assert error_line(capsys) == "speechkit features: matplotlib is missing: pip install speechkit[plot]"
