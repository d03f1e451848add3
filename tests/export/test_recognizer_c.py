"""An exported recogniser hears in C what the numpy executor hears, and says what is wrong with a file or a part."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechkit.audio import load_audio
from speechkit.cli.main import main
from speechkit.decoding import greedy_spans
from speechkit.encoders import SeparableConvEncoder
from speechkit.export import FirmwareFrontEnd, export_recognizer
from speechkit.export.firmware import integer_front_end
from speechkit.export.network_c import write_network_vectors
from speechkit.features import MFB, GlobalCMVN, QuantizedFrontEnd
from speechkit.heads import CTCHead
from speechkit.integer_bundle import IntegerBundle, save_integer_bundle
from speechkit.models import DIGITS
from speechkit.quantization.conversion import quantized_network
from speechkit.runtime import IntegerNetwork, run_layers
from speechkit.runtime.front_end import IntegerFrontEnd
from speechkit.text import CharTokenizer, SentencePieceTokenizer, Tokenizer, WordTokenizer

RATE = 8000
SANITIZE = "CFLAGS=-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
Parts = tuple[FirmwareFrontEnd, IntegerNetwork, Tokenizer]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Random weights, calibrated on noise of changing level and colour; labels that need escapes in C."""
    torch.manual_seed(4)
    generator = np.random.default_rng(4)
    mfb = MFB(sample_rate_hz=RATE, num_mels=20)
    noise = generator.standard_normal(4 * RATE).cumsum() * 0.97 ** np.arange(4 * RATE).clip(max=50)
    waveform = torch.from_numpy((0.002 * noise * np.geomspace(0.1, 10, len(noise))).clip(-1, 1)).float()[None]
    lengths = torch.tensor([waveform.shape[1]])
    cmvn = GlobalCMVN(20)
    cmvn.fit([mfb(waveform, lengths)])
    front_end = QuantizedFrontEnd(mfb, cmvn)
    encoder = SeparableConvEncoder(input_dim=20, channels=16, kernel_sizes=(5, 7), output_dim=24).eval()
    tokenizer = CharTokenizer([" ", *"abé?'\"\\"])
    head = CTCHead(input_dim=24, vocab_size=tokenizer.vocab_size).eval()
    with torch.no_grad():
        values, frames = front_end.fake()(waveform, lengths)
        head.projection.bias -= head(*encoder(values, frames))[0].mean(dim=(0, 1))  # so that no label is always best
    network = quantized_network(encoder, head, qparams=front_end.qparams)
    network.set_mode("observe")
    network(values, frames)
    network.calibrate()
    return integer_front_end(front_end), network.to_integer(), tokenizer


@pytest.fixture
def out(parts: Parts, tmp_path: Path) -> Path:
    """The exported folder; the test is skipped where nothing can be compiled."""
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no make or no C compiler (cc) on this machine")
    export_recognizer(*parts, tmp_path / "out")
    return tmp_path / "out"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def make(folder: Path, *arguments: str) -> None:
    done = run("make", "-s", *arguments, folder=folder)
    if re.search("cannot find.*[au]b?san", done.stderr):
        pytest.skip("the compiler has no sanitizers")
    assert (done.returncode, done.stderr) == (0, "")


def reference_text(parts: Parts, samples: np.ndarray) -> str:
    front_end, network, tokenizer = parts
    return tokenizer.decode(greedy_spans(run_layers(network, IntegerFrontEnd(front_end.tables)(samples))[-1])[0])


def digit_recordings(recordings: Path, count: int) -> list[np.ndarray]:
    folder = recordings / "digits"
    lines = [line for name in ("dev", "train") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    step = len(lines) // count
    paths = [folder / json.loads(line)["audio_filepath"] for line in lines[::step][:count]]
    return [load_audio(path, RATE) for path in paths]


def compare_recordings(parts: Parts, out: Path, recordings: list[np.ndarray]) -> None:
    """Every code of every layer, and the text."""
    front_end, network, _ = parts
    names, expected = [], []
    for place, samples in enumerate(recordings):
        vectors = out / f"recording{place}"
        vectors.mkdir()
        pcm = np.rint(samples * 32768.0).clip(-32768, 32767).astype("<i2")
        codes = IntegerFrontEnd(front_end.tables)(samples)
        (vectors / "input_int16.bin").write_bytes(pcm.tobytes())
        (vectors / "codes_int8.bin").write_bytes(codes.tobytes())
        write_network_vectors(network, codes, vectors)
        soundfile.write(vectors / "input.wav", pcm, RATE, subtype="PCM_16")
        names.append(vectors.name)
        expected.append(reference_text(parts, samples))
    checked = run("./check_network", *names, folder=out)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert [line.partition(":")[0] for line in checked.stdout.splitlines()] == ["equal"] * len(recordings)
    heard = run("./recognize", *(f"{name}/input.wav" for name in names), folder=out)
    assert (heard.returncode, heard.stderr, heard.stdout.splitlines()) == (0, "", expected)
    assert len(set(expected)) > 1


def test_the_makefile_checks_all_without_undefined_behaviour(out: Path) -> None:
    make(out, "check", SANITIZE)
    assert (out / "vectors" / "text.txt").read_text().strip()


@pytest.mark.data
def test_c_equals_the_reference_on_recordings(parts: Parts, out: Path, recordings: Path) -> None:
    make(out, "recognize", "check_network", SANITIZE)
    compare_recordings(parts, out, digit_recordings(recordings, 20))


@pytest.mark.data
@pytest.mark.slow
def test_c_equals_the_reference_on_200_recordings(parts: Parts, out: Path, recordings: Path) -> None:
    make(out, "recognize", "check_network", "OPTIONS=-DSPEECHKIT_NO_FLOAT")
    compare_recordings(parts, out, digit_recordings(recordings, 200))


def test_a_changed_or_missing_vector_is_found(out: Path) -> None:
    make(out, "check_network")
    path = out / "vectors" / "layer_03_int8.bin"
    content = path.read_bytes()
    for changed, expected in [
        (bytes([content[0] ^ 1]) + content[1:], "differs: frame 0, channel 0 of layers.0.convs.0.pointwise is "),
        (content[:-1], "differs: the reference of layers.0.convs.0.pointwise ends in frame "),
        (content + b"\0", "differs: the reference of layers.0.convs.0.pointwise goes on after the last frame"),
    ]:
        path.write_bytes(changed)
        done = run("./check_network", folder=out)
        assert (done.returncode, done.stdout.count("\n")) == (1, 1)
        assert done.stdout.startswith(expected)
    path.unlink()
    done = run("./check_network", "vectors", folder=out)
    assert (done.returncode, done.stdout) == (1, "differs: cannot read vectors/layer_03_int8.bin\n")


def test_files_that_cannot_be_read_are_named_and_the_others_heard(parts: Parts, out: Path) -> None:
    make(out, "recognize", SANITIZE)
    samples = (0.1 * np.random.default_rng(0).standard_normal((RATE, 2))).clip(-1, 1)
    soundfile.write(out / "rate.wav", samples[:, 0], 16000)
    soundfile.write(out / "stereo.wav", samples, RATE)
    soundfile.write(out / "wide.wav", samples[:, 0], RATE, subtype="PCM_24")
    soundfile.write(out / "tiny.wav", samples[:100, 0], RATE)
    soundfile.write(out / "good.wav", samples[:, 0], RATE)
    good = (out / "good.wav").read_bytes()
    (out / "chunks.wav").write_bytes(good[:12] + b"LIST\x03\0\0\0abc\0" + good[12:])
    (out / "cut.wav").write_bytes(good[:30])
    (out / "text.wav").write_bytes(b"no audio at all")
    names = ["rate", "stereo", "wide", "cut", "text", "missing", "tiny", "good", "chunks"]
    done = run("./recognize", *(f"{name}.wav" for name in names), folder=out)
    pcm = soundfile.read(out / "good.wav")[0]
    assert done.stdout.splitlines() == ["", *[reference_text(parts, pcm)] * 2]
    assert done.stderr.splitlines() == [
        "recognize: rate.wav has another sample rate than the front end",
        "recognize: stereo.wav must have one channel",
        "recognize: wide.wav must be 16-bit PCM",
        "recognize: cut.wav is damaged",
        "recognize: text.wav is not a WAV file",
        "recognize: missing.wav cannot be opened",
    ]
    assert done.returncode == 1
    assert run("./recognize", folder=out).returncode == 2


def test_the_readme_compiles_as_it_says(out: Path) -> None:
    (example,) = re.findall(r"```c\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    (out / "example.c").write_text(example)
    done = run("cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-c", "example.c", folder=out)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "tokenizer",
    [WordTokenizer(["ja", "nein"]), CharTokenizer([" ", *"aü?\\\"'1"]), SentencePieceTokenizer(12, "bpe")],
    ids=lambda tokenizer: type(tokenizer).__name__,
)
def test_labels_have_the_tokenizers_texts(tokenizer: Tokenizer, parts: Parts, out: Path, tmp_path: Path) -> None:
    if tokenizer.vocab_size == 1:
        tokenizer.fit(["ab ba", "abba baab", "aa bb"])
    front_end, network, _ = parts
    last = network.layers[-1]
    arrays = ("weight", "bias", "multiplier", "weight_scale")
    sized = {
        name: np.resize(getattr(last, name), (tokenizer.vocab_size, *getattr(last, name).shape[1:])) for name in arrays
    }
    fitting = replace(network, layers=(*network.layers[:-1], replace(last, **sized)))
    export_recognizer(front_end, fitting, tokenizer, out, overwrite=True)
    (out / "labels.c").write_text(
        '#include <stdio.h>\n#include "ctc.h"\n#include "network.h"\n'
        "int main(void)\n{\n    int32_t label;\n    for (label = 0; label < SPEECHKIT_NUM_LABELS; label++) {\n"
        "        puts(speechkit_label_text(label));\n    }\n    return 0;\n}\n"
    )
    assert run("cc", "-std=c99", "-Werror", "-Wall", "labels.c", "ctc.c", "-o", "labels", folder=out).stderr == ""
    texts = [tokenizer.label_text(label) for label in range(1, tokenizer.vocab_size)]
    assert run("./labels", folder=out).stdout.splitlines() == ["", *texts]


def test_the_command_writes_what_passes_its_check(
    parts: Parts, tmp_path: Path, make_tone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    front_end, network, tokenizer = parts
    bundle = IntegerBundle(front_end.tables, RATE, network, b"", tokenizer)
    save_integer_bundle(bundle, tmp_path / "int8.zip")
    audio = make_tone("tone.wav", seconds=11.0, rate=RATE)
    command = ["export", "c", str(tmp_path / "int8.zip"), str(tmp_path / "out"), "--audio", str(audio)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^stem.depthwise +depthwise +20 x 11 x 20 +380 +20 +11000$", printed, re.MULTILINE)
    assert re.search(r"^RAM \d+ bytes, all static, for utterances of any length", printed, re.MULTILINE)
    assert ": 998 frames of reference vectors; heard: " in printed
    assert main(command) == 2
    assert "`out_dir` must be new or empty" in capsys.readouterr().err
    assert main(["export", "c", str(audio), str(tmp_path / "other")]) == 2
    capsys.readouterr()
    assert main(["export", "c", str(tmp_path / "int8.zip"), str(tmp_path / "other"), "--pack-weights"]) == 2
    assert "must have weights of 4 bits, in [-8, 7], for two to fit into a byte" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_packed_weights_halve_the_flash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no make or no C compiler (cc) on this machine")
    sizes = []
    for name, options in (("bytes", []), ("packed", ["--pack-weights"])):
        assert main(["export", "c", str(DIGITS), str(tmp_path / name), *options]) == 0
        (found,) = re.findall(r"^flash (\d+) bytes", capsys.readouterr().out, re.MULTILINE)
        sizes.append(int(found))
        make(tmp_path / name, "check")
    assert sizes[1] < 0.55 * sizes[0]


def test_a_bundle_that_is_not_int8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "float").mkdir()
    (tmp_path / "float" / "config.yaml").write_text(
        "format: 1\ntokenizer: {class_path: speechkit.text.CharTokenizer}\n"
    )
    assert main(["export", "c", str(tmp_path / "float"), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not an int8 bundle, it lacks qparams.json and qparams.npz; speechkit quantize makes one" in line
    assert not (tmp_path / "out").exists()


def test_parts_that_do_not_fit_are_refused(parts: Parts, tmp_path: Path) -> None:
    front_end, network, tokenizer = parts
    skipping = replace(front_end.tables, hop_length=front_end.tables.frame_length + 1)
    for changed, expected in [
        (
            (replace(front_end, scale=0.5), network, tokenizer),
            "`network` must have the front end's domain (0.5, 0), got",
        ),
        ((front_end, network, CharTokenizer("ab")), "`tokenizer` must have 9 labels, got 3."),
        ((replace(front_end, tables=skipping), network, tokenizer), "`front_end` must not skip samples between frames"),
    ]:
        with pytest.raises(ValueError, match=re.escape(expected)):
            export_recognizer(*changed, tmp_path / "out")
    tables = front_end.tables
    narrow = replace(tables, offset=tables.offset[:-1], multiplier=tables.multiplier[:, :-1])
    with pytest.raises(ValueError, match=re.escape("`network` must read 19 features, got 20.")):
        export_recognizer(replace(front_end, tables=narrow), network, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
