"""Probing, embedding and plotting as a user calls them, on a corpus whose answers are known."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from speechkit.bundle import Bundle, save_bundle
from speechkit.cli.main import main
from speechkit.encoders import ConvGRUEncoder, Wav2VecEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.heads import CTCHead
from speechkit.probing import probe
from speechkit.probing.plot import principal_components, read_metrics
from speechkit.text import CharTokenizer

RATE = 8000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models so small are slower on more."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


PITCHES = {"a": 400, "b": 900, "c": 1800}  # of characters; a speaker is a level
LEVELS = {"ann": 0.02, "bob": 0.4}


def write_utterance(path: Path, text: str, speaker: str, seed: int) -> None:
    """A tone of 0.12 s for each character and silence for each space, at the speaker's level."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(0.12 * RATE)) / RATE
    pieces = [LEVELS[speaker] * np.sin(2 * np.pi * PITCHES.get(symbol, 0) * time) for symbol in f" {text} "]
    samples = np.concatenate(pieces)
    soundfile.write(path, samples + generator.normal(0, 1e-3, len(samples)), RATE)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """24 utterances of two or three words by two speakers."""
    words, rows = ["ab", "ba", "ac", "cab"], []
    generator = np.random.default_rng(0)
    for place in range(24):
        text, speaker = " ".join(generator.choice(words, 2 + place % 2)), ("ann", "bob")[place % 2]
        write_utterance(tmp_path / f"{place}.wav", text, speaker, place)
        rows.append({"audio_filepath": f"{place}.wav", "text": text.upper() + ".", "speaker": speaker})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path / "m.jsonl"


def parts() -> tuple[FrontEnd, Wav2VecEncoder]:
    torch.manual_seed(0)
    encoder = Wav2VecEncoder(
        input_dim=20, channels=32, kernel_sizes=(5,), strides=(2,), context_kernel_sizes=(3, 3), dropout=0.1
    )
    return FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20)), encoder


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    save_bundle(Bundle(*parts()), tmp_path / "bundle")
    return str(tmp_path / "bundle")


def rewrite(manifest: Path, **values: str | None) -> Path:
    """The same manifest with other values in each row, or without a key."""
    rows = [{**json.loads(line), **values} for line in manifest.read_text().splitlines()]
    target = manifest.with_name("other.jsonl")
    kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
    target.write_text("\n".join(map(json.dumps, kept)) + "\n")
    return target


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.slow
def test_what_is_there_is_found(
    bundle: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "out" / "probe.json"
    arguments = ["probe", bundle, str(manifest), "--json", str(figures), "--plot", str(tmp_path / "map.png")]
    assert main([*arguments, "--triples", "100"]) == 0
    printed = capsys.readouterr().out
    assert "a frame every 20 ms (stride 2), sees 13 input frames, 2 (20 ms) ahead" in printed
    result = json.loads(figures.read_text())
    assert result["speaker"]["accuracy"] > 0.8  # frames of silence have no speaker
    assert 0.3 < result["speaker"]["chance"] < 0.7
    assert result["speaker"]["num_classes"] == 2
    assert result["label_kind"] == "character"
    assert result["label"]["num_classes"] == 4
    assert result["label"]["accuracy"] > max(0.7, 1.5 * result["label"]["chance"])
    assert result["ctc_cer"] < 0.35
    assert result["abx_within"]["error"] < 0.25
    assert result["abx_within"]["error"] <= result["abx_across"]["error"] + 0.1
    assert (result["num_utterances"], result["failures"], result["skipped"]) == (24, [], {})
    assert f"linear CTC head      CER {result['ctc_cer']:.1%}" in printed
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_given_aligner_says_when(manifest: Path) -> None:
    """Its labels count wherever it puts them, and no head is fitted."""
    front_end = FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20))
    tokenizer = CharTokenizer(" abc")
    encoder = ConvGRUEncoder(input_dim=20, channels=8, hidden_size=8)
    aligner = Bundle(front_end, encoder, CTCHead(input_dim=8, vocab_size=5), tokenizer)
    result = probe(*parts(), manifest, aligner=aligner, num_triples=20)
    again = probe(*parts(), manifest, aligner=aligner, num_triples=20)
    assert result.as_dict() == again.as_dict()
    assert result.ctc_cer is None
    assert result.label is not None
    assert result.label.num_classes == 4
    with pytest.raises(ValueError, match="`aligner` must be a recogniser"):
        probe(*parts(), manifest, aligner=Bundle(front_end, encoder))


@pytest.mark.slow
def test_what_the_manifest_does_not_allow_is_said(
    bundle: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", bundle, str(rewrite(manifest, text=None))]) == 0
    printed = capsys.readouterr().out
    assert (
        "ABX across speakers  skipped: the manifest has no `text` in utterances both to fit and to test on" in printed
    )
    assert "right of 2" in printed
    result = probe(*parts(), rewrite(manifest, speaker="ann"), num_triples=20)
    assert result.skipped.keys() == {"speaker", "abx_across"}
    assert "has 1 speakers" in result.skipped["speaker"]
    assert result.abx_within is not None
    assert main(["probe", bundle, str(rewrite(manifest, text=None, speaker=None))]) == 2
    line = error_line(capsys)
    assert "nothing can be probed" in line
    assert "has 0 speakers" in line


@pytest.mark.slow
def test_bad_files_are_named_and_the_rest_is_probed(
    bundle: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest.parent / "0.wav").write_text("no audio")
    assert main(["probe", bundle, str(rewrite(manifest, text=None))]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"failed: {manifest.parent / '0.wav'}: not readable as audio")
    assert "23 utterances" in printed.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--what", "latents", "--layer", "1"], "`layer` goes with 'context' only"),
        (["--layer", "5"], "`layer` must lie in [0, 1], got 5"),
        (["--minutes", "0"], "`minutes` must be positive, got 0"),
        (["--aligner", "none"], "no such bundle"),
        (["--device", "nonsense"], "`device` must be one that torch can use here"),
    ],
)
def test_wrong_calls_are_one_line(
    arguments: list[str], expected: str, bundle: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", bundle, str(manifest), *arguments]) == 2
    assert expected in error_line(capsys)


@pytest.mark.parametrize("file_format", ["npy", "safetensors"])
def test_embed_writes_frames_and_times_and_keeps_what_is_there(
    file_format: str, bundle: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    inputs = [str(manifest.parent / "1.wav"), str(tmp_path / "bad.wav"), str(manifest.parent / "2.wav")]
    arguments = ["embed", bundle, *inputs, "-o", str(tmp_path / "out"), "--what", "latents", "--format", file_format]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}: 2 files written, 0 kept: 32 numbers every 20 ms\n"
    assert "bad.wav: not readable as audio" in printed.err
    suffixes = (".npy", ".times.npy") if file_format == "npy" else (".safetensors",)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{n}{s}" for n in "12" for s in suffixes}
    if file_format == "npy":
        features, times = (np.load(tmp_path / "out" / f"1{suffix}") for suffix in suffixes)
    else:
        stored = safetensors.torch.load_file(tmp_path / "out" / "1.safetensors")
        features, times = stored["features"].numpy(), stored["times"].numpy()
    assert features.shape == (len(times), 32)
    assert features.dtype == np.float32
    assert np.diff(times) == pytest.approx(0.02)
    written = (tmp_path / "out" / f"1{suffixes[0]}").stat().st_mtime_ns
    (tmp_path / "out" / f"2{suffixes[0]}").unlink()
    assert main(arguments) == 1
    assert "1 files written, 1 kept" in capsys.readouterr().out
    assert (tmp_path / "out" / f"1{suffixes[0]}").stat().st_mtime_ns == written


def test_embed_refuses_a_wrong_batch(
    bundle: str, make_tone: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", bundle, str(make_tone("t.wav")), "-o", "out", "--batch-seconds", "0"]) == 2
    assert "`--batch-seconds` must be positive, got 0" in error_line(capsys)


def write_run(folder: Path) -> None:
    for start, rows in (
        (
            "start-9",
            "epoch,step,train_loss,code_perplexity,audio_s_per_s\n0,9,3.0,,100\n0,19,2.5,40.0,100\n0,29,9.9,,100\n",
        ),
        ("start-10", "epoch,step,train_loss,probe_cer\n0,29,2.0,\n1,39,1.5,\n1,39,,0.4\n"),
    ):
        (folder / "logs" / start).mkdir(parents=True)
        (folder / "logs" / start / "metrics.csv").write_text(rows)


def test_plot_of_a_run_that_was_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "run")
    assert read_metrics(tmp_path / "run")["train_loss"] == [(9, 3.0), (19, 2.5), (29, 2.0), (39, 1.5)]
    assert main(["plot-run", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'run.png'}: probe_cer, code_perplexity, train_loss\n"
    assert (tmp_path / "run" / "run.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["plot-run", str(tmp_path)]) == 2
    assert "holds no logs/*/metrics.csv" in error_line(capsys)


def test_principal_components() -> None:
    torch.manual_seed(0)
    plane = torch.randn(200, 2) @ torch.randn(2, 6)
    places, shares = principal_components(plane)
    assert shares.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert shares[0] >= shares[1]
    torch.testing.assert_close((places.T @ places)[0, 1], torch.tensor(0.0), atol=1e-2, rtol=0)
    assert principal_components(torch.randn(5, 1))[0].shape == (5, 2)
