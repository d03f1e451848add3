"""From a float bundle to an int8 bundle that transcribes where there is no torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechkit import Recognizer
from speechkit.bundle import Bundle, load_bundle, save_bundle
from speechkit.bundle_files import update_decoding
from speechkit.cli.main import main
from speechkit.data import read_utterances
from speechkit.encoders import ConvGRUEncoder, SeparableConvEncoder
from speechkit.features import MFB, FrontEnd, GlobalCMVN
from speechkit.heads import CTCHead
from speechkit.integer_bundle import load_integer_bundle
from speechkit.integer_model import IntegerModel
from speechkit.pipelines.quantize import measure, quantize, waveform_batches
from speechkit.text import WordTokenizer

RATE = 8000
WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
from speechkit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
BLOCKED = ("torch", "torchaudio", "lightning", "lhotse", "librosa", "numba", "scipy", "safetensors", "rapidfuzz")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of noises whose loudness comes and goes."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    rows = []
    for place in range(4):
        samples = rng.standard_normal(RATE) * np.sin(np.arange(RATE) / 700) * 0.1
        soundfile.write(folder / f"{place}.wav", samples, RATE)
        rows.append({"audio_filepath": f"{place}.wav", "duration": 1.0, "text": "yes"})
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "all.jsonl"


def save(path: Path, encoder: torch.nn.Module) -> Path:
    cmvn = GlobalCMVN(num_features=20)
    front_end = FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20), cmvn=cmvn)
    cmvn.fit([front_end.features(0.1 * torch.randn(2, RATE), torch.tensor([RATE, RATE]))])
    head = CTCHead(input_dim=encoder.output_dim, vocab_size=3)
    save_bundle(Bundle(front_end, encoder, head, WordTokenizer(["no", "yes"]), "# a test\n"), path)
    return path


@pytest.fixture(scope="module")
def float_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = SeparableConvEncoder(input_dim=20, channels=12, kernel_sizes=(5,), output_dim=16)
    return save(tmp_path_factory.mktemp("float") / "bundle", encoder)


@pytest.fixture(scope="module")
def int8_bundle(float_bundle: Path, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "bundle.zip"
    quantize(float_bundle, recordings, out)
    return out


def test_both_engines_give_the_logits_of_training(int8_bundle: Path, float_bundle: Path, recordings: Path) -> None:
    waveform, _ = soundfile.read(recordings.parent / "1.wav", dtype="float32")
    bundle = load_integer_bundle(int8_bundle)
    model, slow = (
        IntegerModel(
            tables=bundle.tables,
            sample_rate_hz=bundle.sample_rate_hz,
            network=bundle.network,
            onnx=bundle.onnx,
            engine=engine,
        )
        for engine in ("onnxruntime", "reference")
    )
    parts = quantize(float_bundle, recordings, int8_bundle.with_name("again"))
    expected, _ = parts.logits(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert np.array_equal(model.logits(waveform), expected[0].detach().numpy())
    assert np.array_equal(slow.logits(waveform), expected[0].detach().numpy())
    assert model.logits(waveform[:10]).shape == (0, 3)


def test_it_transcribes_without_torch(int8_bundle: Path, recordings: Path, tmp_path: Path) -> None:
    arguments = ["transcribe", "--model", str(int8_bundle), "--format", "json", str(recordings)]
    script = WITHOUT_TORCH.format(blocked=BLOCKED)
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = sorted(json.loads(line)["text"] for line in run.stdout.splitlines())
    inputs = [recordings.parent / f"{place}.wav" for place in range(4)]
    assert found == sorted(transcript.text for transcript in Recognizer.load(int8_bundle).transcribe(inputs))


def test_a_float_bundle_without_torch_says_what_to_install(float_bundle: Path, recordings: Path) -> None:
    arguments = ["transcribe", "--model", str(float_bundle), str(recordings.parent / "0.wav")]
    script = WITHOUT_TORCH.format(blocked=BLOCKED)
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "a float bundle needs pip install 'speechkit[train]'" in run.stderr


def test_times_and_latency_are_those_of_the_float_bundle(int8_bundle: Path, float_bundle: Path) -> None:
    integer, floating = Recognizer.load(int8_bundle), Recognizer.load(float_bundle)
    assert integer.sample_rate_hz == floating.sample_rate_hz
    assert integer.model.step_seconds == pytest.approx(floating.model.step_seconds)
    assert integer.model.first_seconds == pytest.approx(floating.model.first_seconds)
    assert integer.describe_latency() == floating.describe_latency()


def test_it_is_small_and_says_how_it_was_made(int8_bundle: Path) -> None:
    assert int8_bundle.stat().st_size < 40_000
    assert "calibrated on all.jsonl, 4 recordings" in load_integer_bundle(int8_bundle).card


def test_empty_and_silent_calibration(float_bundle: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("")
    with pytest.raises(ValueError, match=r"holds no recordings|no utterance"):
        quantize(float_bundle, manifest, tmp_path / "out")
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    manifest.write_text(json.dumps({"audio_filepath": "silence.wav", "duration": 1.0}) + "\n")
    with pytest.raises(ValueError, match="are silent"):
        quantize(float_bundle, manifest, tmp_path / "out")


def test_a_float_bundle_is_not_written_over(float_bundle: Path, recordings: Path) -> None:
    before = (float_bundle / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="`out` must not be a float bundle"):
        quantize(float_bundle, recordings, float_bundle)
    assert (float_bundle / "config.yaml").read_bytes() == before


def test_a_file_is_not_written_over(float_bundle: Path, recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder or end in \.zip, got the file"):
        quantize(float_bundle, recordings, tmp_path / "notes.txt")


def test_an_older_bundle_leaves_nothing_behind(float_bundle: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    quantize(float_bundle, recordings, out)
    (out / "lm.arpa").write_text("of another model")
    quantize(float_bundle, recordings, out)
    assert not (out / "lm.arpa").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lm.arpa").write_text("no part of a bundle")
    quantize(float_bundle, recordings, tmp_path / "other")
    assert (tmp_path / "other" / "lm.arpa").exists()


def test_batches_of_calibration_hold_a_minute(tmp_path: Path) -> None:
    seconds = [1.0] * 50 + [130.0, 40.0, 40.0, 0.01]
    for place, length in enumerate(seconds):
        soundfile.write(tmp_path / f"{place}.wav", np.zeros(round(1000 * length)), 1000)
    rows = [{"audio_filepath": f"{place}.wav", "duration": length} for place, length in enumerate(seconds)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batches = list(waveform_batches(read_utterances(tmp_path / "all.jsonl"), 1000))
    assert max(waveform.numel() for waveform, _ in batches) <= 60_000
    assert sum(int(lengths.sum()) for _, lengths in batches) == sum(round(1000 * length) for length in seconds)


def test_settings_of_decoding_are_written_into_an_int8_bundle(int8_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / int8_bundle.name
    (shutil.copytree if int8_bundle.is_dir() else shutil.copy)(int8_bundle, copy)
    update_decoding(copy, {"temperature": 1.5})
    assert Recognizer.load(copy).temperature == 1.5
    with pytest.raises(ValueError, match=r"`decoding` must hold temperature, .* got 'heat'"):
        update_decoding(copy, {"heat": 1.0})


def test_an_encoder_without_an_int8_form(recordings: Path, tmp_path: Path) -> None:
    bundle = save(tmp_path / "gru", ConvGRUEncoder(input_dim=20, channels=8, hidden_size=8))
    with pytest.raises(ValueError, match="has no int8 form"):
        quantize(bundle, recordings, tmp_path / "out")


def test_an_int8_bundle_is_no_float_bundle(int8_bundle: Path) -> None:
    with pytest.raises(ValueError, match="holds an int8 model only"):
        load_bundle(int8_bundle)
    with pytest.raises(ValueError, match="`device` must be 'cpu' for an int8 bundle, got 'cuda'"):
        Recognizer.load(int8_bundle, device="cuda")


def test_training_with_quantization(float_bundle: Path, recordings: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""\
trainer:
  max_epochs: 2
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: speechkit.callbacks.QuantizationAwareTraining
    - class_path: speechkit.callbacks.FloatTeacher
data:
  train: [{recordings}]
  dev: [{recordings}]
  num_workers: 0
"""
    )
    before = quantize(float_bundle, recordings, tmp_path / "before").network.state_dict()
    after = quantize(float_bundle, recordings, tmp_path / "after", recipe=str(recipe)).network.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert {"layers.0.log_scale", "layers.1.parts.0.weight", "layers.1.parts.0.norm.running_mean"} <= set(moved)
    assert len(load_integer_bundle(tmp_path / "after").network.layers) == len(
        load_integer_bundle(tmp_path / "before").network.layers
    )
    torch.manual_seed(7)
    encoder = SeparableConvEncoder(input_dim=20, channels=12, kernel_sizes=(5,), output_dim=16)
    retrained = save(tmp_path / "retrained", encoder)
    for bundle, bits, reason in (
        (retrained, 8, "another bundle"),
        (float_bundle, 4, "another weight_bits, 8 and not 4"),
    ):
        with pytest.raises(ValueError, match=reason):
            quantize(
                bundle, recordings, tmp_path / "after", recipe=str(recipe), weight_bits=bits, resume_from="last",
                overrides=["trainer.max_epochs=3"],
            )  # fmt: skip


def test_recordings_without_a_frame_are_no_calibration(float_bundle: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.ones(20) * np.arange(20) / 100, RATE)
    (tmp_path / "one.jsonl").write_text(json.dumps({"audio_filepath": "click.wav"}) + "\n")
    with pytest.raises(ValueError, match="too short: none of them holds a frame"):
        quantize(float_bundle, tmp_path / "one.jsonl", tmp_path / "out")


def test_what_each_layer_costs_in_words(
    float_bundle: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measure(quantize(float_bundle, recordings, tmp_path / "out"), read_utterances(recordings))
    assert all(0.0 <= row.word_error_rate <= 200.0 for row in rows[1:])  # type: ignore[operator]
    textless = recordings.with_name("textless.jsonl")
    textless.write_text(recordings.read_text().replace(', "text": "yes"', ""))
    rows = measure(quantize(float_bundle, textless, tmp_path / "other"), read_utterances(textless))
    assert [row.word_error_rate for row in rows] == [None] * len(rows)
    wrong = {"--plot must end in .png": ["--plot", "x.foo"], "--qat few_labels: no such": ["--qat", "few_labels"]}
    for message, options in wrong.items():
        arguments = ["quantize", str(float_bundle), "--calibration", str(recordings), "-o", str(tmp_path / "third")]
        assert main([*arguments, *options]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_recipe_trains_with_quantization(
    float_bundle: Path,
    int8_bundle: Path,
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPEECHKIT_DATA", str(tmp_path))
    arguments = ["quantize", str(float_bundle), "--calibration", str(recordings), "-o", str(tmp_path / "out")]
    options = [f"data.train=[{recordings}]", f"data.dev=[{recordings}]", "trainer.max_steps=6", "data.num_workers=0"]
    assert main([*arguments, "--qat", "digits", *options]) == 0
    trained, calibrated = load_integer_bundle(tmp_path / "out"), load_integer_bundle(int8_bundle)
    assert "trained with quantization by digits" in trained.card
    pairs = zip(trained.network.layers, calibrated.network.layers, strict=True)
    assert any((one.weight != other.weight).any() for one, other in pairs)
    capsys.readouterr()
    assert main([*arguments, "--qat", "digits", *options]) == 2
    assert "holds a run already; go on with it by --ckpt last" in capsys.readouterr().err
    assert main([*arguments, "--qat", "digits", "--ckpt", "auto", "model.weight_bits=4"]) == 2
    assert "`weight_bits` is that of the quantization" in capsys.readouterr().err
    twice = [str(tmp_path / "twice"), "--qat", "digits"]
    half, whole = ([option.replace("max_steps=6", f"max_epochs={count}") for option in options] for count in (1, 2))
    assert main([*arguments[:-1], *twice, *half]) == 0
    shutil.rmtree(tmp_path / "twice")
    assert main([*arguments[:-1], *twice, *whole, "--ckpt", "last"]) == 0
    last = torch.load(tmp_path / "twice.run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert "Epoch 0" not in capsys.readouterr().out.split("written to")[-2]
