"""Whole jobs on a tiny corpus: pretrain, fine-tune from it, evaluate, transcribe; and what users do wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from speechkit import Recognizer
from speechkit.bundle import load_bundle
from speechkit.cli.main import main
from speechkit.pipelines.recipes import OVERLAY, list_recipes

SMALL = str(Path(__file__).with_name("small.yaml"))


@pytest.fixture
def bundle(corpus: Path, tmp_path: Path) -> Path:
    assert (
        main(
            [
                "finetune",
                "--config",
                SMALL,
                "--out",
                str(tmp_path / "run"),
                "trainer.max_epochs=1",
                "trainer.log_every_n_steps=1",
            ]
        )
        == 0
    )
    return tmp_path / "run" / "bundle"


@pytest.mark.slow
def test_a_run_folder_tells_its_story(corpus: Path, bundle: Path) -> None:
    run = bundle.parent
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
    assert json.loads((run / "versions.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    metrics = next((run / "logs").rglob("metrics.csv")).read_text()
    assert all(name in metrics for name in ("val_wer", "val_cer", "val_ler", "audio_s_per_s"))
    assert list((run / "logs").rglob("events.out.tfevents.*"))
    assert {file.name for file in bundle.iterdir()} == {"config.yaml", "model.safetensors", "card.md"}
    assert load_bundle(bundle).front_end.cmvn.is_fitted


@pytest.mark.slow
def test_learns_transcribes_and_scores(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["trainer.max_epochs=25", "model.learning_rate=0.01", "data.perturbations=[]", "trainer.callbacks=[]"]
    assert main(["finetune", "--config", SMALL, "--out", str(out), *options]) == 0
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(out / "bundle"), str(corpus / "dev.jsonl"), "--json", str(scores)]) == 0
    result = json.loads(scores.read_text())
    assert result["wer"] == 0
    assert result["words"] == 3
    assert result["wer_interval"] == pytest.approx([0.0, 0.5615], abs=1e-4)  # three words tell little
    capsys.readouterr()
    assert main(["transcribe", "--model", str(out / "bundle"), str(corpus / "dev0.wav"), str(corpus / "dev1.wav")]) == 0
    assert [line.split("\t")[1] for line in sorted(capsys.readouterr().out.splitlines())] == ["a", "b"]
    recognizer = Recognizer.load(out / "bundle")
    samples, rate = soundfile.read(corpus / "dev1.wav", dtype="float32")
    double_rate = np.repeat(samples, 2)
    assert recognizer.transcribe([samples], sample_rate_hz=rate)[0].text == "b"
    assert recognizer.transcribe([double_rate], sample_rate_hz=2 * rate)[0].text == "b"


@pytest.mark.slow
def test_pretrained_weights_are_the_start(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = {
        "class_path": "speechkit.encoders.ConvGRUEncoder",
        "init_args": {"input_dim": 20, "channels": 16, "kernel_sizes": [5], "strides": [4], "hidden_size": 16},
    }
    overlay = tmp_path / "gru.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"encoder": encoder}}))
    pretrain = yaml.safe_load(Path(SMALL).read_text())
    pretrain["model"]["encoder"] = encoder
    pretrain["trainer"]["callbacks"] = []
    pretrain["data"] = {"train": ["$SPEECHKIT_TEST/unlabelled.jsonl"], "dev": ["$SPEECHKIT_TEST/unlabelled.jsonl"]}
    recipe = tmp_path / "pretrain.yaml"
    recipe.write_text(yaml.safe_dump(pretrain))
    assert main(["pretrain", "--config", str(recipe), "--out", str(tmp_path / "pretrain")]) == 0
    pretrained = tmp_path / "pretrain" / "bundle"
    with pytest.raises(ValueError, match="without a head"):
        Recognizer.load(pretrained)
    finetune = ["finetune", "--config", SMALL, "--config", str(overlay), "--model.encoder_from", str(pretrained)]
    frozen = ["model.learning_rate=0", "model.weight_decay=0", "trainer.max_epochs=1"]
    assert main([*finetune, "--out", str(tmp_path / "finetune"), *frozen]) == 0
    before, after = load_bundle(pretrained), load_bundle(tmp_path / "finetune" / "bundle")
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(value, after.encoder.state_dict()[name])
    assert torch.equal(before.front_end.cmvn.mean, after.front_end.cmvn.mean)
    capsys.readouterr()
    wrong = ["--out", str(tmp_path / "wrong"), "model.encoder.init_args.hidden_size=8"]
    assert main([*finetune, *wrong]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "hidden_size is 16 there and 8 here" in error


@pytest.mark.slow
def test_wav2vec2_is_pretrained_resumed_and_fine_tuned(corpus: Path, tmp_path: Path) -> None:
    shape = ["model.encoder.init_args.output_dim=16", "model.encoder.init_args.num_layers=1"]
    data = [f"data.train=[{corpus / 'unlabelled.jsonl'}]", f"data.dev=[{corpus / 'unlabelled.jsonl'}]"]
    quiet = [
        "trainer.enable_progress_bar=false",
        "trainer.enable_model_summary=false",
        "trainer.log_every_n_steps=1",
        "data.num_workers=0",
    ]
    out = tmp_path / "pretrain"
    pretrain = ["pretrain", "--config", "wav2vec2_tiny", "--out", str(out), *shape, *data, *quiet]
    assert main([*pretrain, "trainer.max_epochs=1"]) == 0
    assert main([*pretrain, "trainer.max_epochs=2", "--ckpt", "last"]) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["task"].endswith("MaskedContrastivePretraining")
    metrics = "".join(path.read_text() for path in (out / "logs").rglob("metrics.csv"))
    names = ("loss", "accuracy", "score_gap", "penalty", "diversity_loss", "perplexity_0", "perplexity_1")
    assert all(f"train_{name}" in metrics for name in names)
    assert "val_accuracy" in metrics
    recipe = yaml.safe_load((out / "config.yaml").read_text())["model"]
    overlay = {"model": {name: recipe[name] for name in ("front_end", "encoder")}}
    overlay["model"]["encoder"]["init_args"]["layer_drop"] = 0.1
    (tmp_path / "encoder.yaml").write_text(yaml.safe_dump(overlay))
    finetune = ["finetune", "--config", SMALL, "--config", str(tmp_path / "encoder.yaml")]
    from_it = ["--out", str(tmp_path / "tuned"), f"model.encoder_from={out / 'bundle'}"]
    assert main([*finetune, *from_it, "trainer.max_epochs=1", "data.num_workers=0"]) == 0
    assert Recognizer.load(tmp_path / "tuned" / "bundle").transcribe([str(corpus / "dev0.wav")])[0].error is None


@pytest.mark.slow
def test_bad_files_are_named_and_the_rest_is_done(
    corpus: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "text.wav").write_text("hello")
    (folder / "empty.flac").touch()
    samples, rate = soundfile.read(corpus / "dev0.wav")
    soundfile.write(folder / "good.flac", samples, rate)
    (folder / "cut.flac").write_bytes((folder / "good.flac").read_bytes()[:700])
    soundfile.write(folder / "nan.wav", np.full(4000, np.nan, dtype=np.float32), rate, subtype="FLOAT")
    soundfile.write(folder / "stereo.wav", np.stack([samples, samples], axis=1), rate)
    soundfile.write(folder / "short.wav", samples[:10], rate)
    capsys.readouterr()
    status = main(["transcribe", "--model", str(bundle), str(folder), "--format", "json", "-o", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert status == 1
    assert "Traceback" not in printed.out + printed.err
    failures = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert sorted(Path(line.split(": ")[1]).name for line in failures) == [
        "cut.flac",
        "empty.flac",
        "nan.wav",
        "text.wav",
    ]
    done = {path.stem: json.loads(path.read_text())["text"] for path in (tmp_path / "out").iterdir()}
    assert done.keys() == {"good", "stereo", "short"}
    assert done["good"] == done["stereo"]


@pytest.mark.slow
def test_transcripts_do_not_depend_on_the_batch(corpus: Path, bundle: Path) -> None:
    recognizer = Recognizer.load(bundle)
    short, _ = soundfile.read(corpus / "dev0.wav", dtype="float32")
    long = np.tile(short, 10)
    alone, frames = recognizer.model.logits(torch.from_numpy(short)[None], torch.tensor([len(short)]))
    padded = torch.zeros(2, len(long))
    padded[0, : len(short)], padded[1] = torch.from_numpy(short), torch.from_numpy(long)
    together, _ = recognizer.model.logits(padded, torch.tensor([len(short), len(long)]))
    torch.testing.assert_close(together[0, : frames[0]], alone[0], atol=1e-4, rtol=0)
    assert recognizer.transcribe([short])[0] == recognizer.transcribe([short, long])[0]


def wrong_calls(corpus: Path, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("format: 99\nspeechkit: 9.0\nencoder: {}\nfront_end: {}\n")
    (broken / "model.safetensors").touch()
    unknown = corpus / "unknown.jsonl"
    unknown.write_text('{"audio_filepath": "dev0.wav", "duration": 0.5, "text": "z"}\n')
    finetune = ["finetune", "--config", SMALL, "--out", str(tmp_path / "x")]
    unknown_callback, wrong_option = tmp_path / "callback.yaml", tmp_path / "option.yaml"
    unknown_callback.write_text("trainer: {callbacks: [{class_path: speechkit.callbacks.EMAA}]}\n")
    wrong_option.write_text("trainer: {callbacks: [{class_path: speechkit.callbacks.EMA, init_args: {dekay: 0.9}}]}\n")
    wrong_key = tmp_path / "key.yaml"
    wrong_key.write_text("trainer: {max_epoch: 3}\n")
    return {
        "an unknown callback": (
            [*finetune, "--config", str(unknown_callback)],
            "trainer.callbacks: speechkit.callbacks.EMAA: module 'speechkit.callbacks' has no attribute 'EMAA'",
        ),
        "an unknown option of a callback": (
            [*finetune, "--config", str(wrong_option)],
            f"Option 'dekay' is not accepted ({wrong_option}); did you mean decay?",
        ),
        "a word for a number": (
            [*finetune, "trainer.max_epochs=fifty"],
            "trainer.max_epochs must be int or null, got fifty",
        ),
        "a key cut short": (
            [*finetune, "trainer.max_epoch=1"],
            "trainer.max_epoch: no such key; did you mean trainer.max_epochs?",
        ),
        "a typo in a group": ([*finetune, "modle.learning_rate=1"], "did you mean model.learning_rate?"),
        "a key without its group": ([*finetune, "learning_rate=1"], "did you mean model.learning_rate?"),
        "a key in a file": (
            [*finetune, "--config", str(wrong_key)],
            f"'max_epoch' ({wrong_key}); did you mean max_epochs?",
        ),
        "a typo in a nested key": ([*finetune, "model.encoder.init_args.chanels=3"], "did you mean channels?"),
        "a wrong type": ([*finetune, "model.learning_rate=fast"], "learning_rate"),
        "an unknown class": ([*finetune, "model.encoder.class_path=speechkit.encoders.Nonsense"], "Nonsense"),
        "a wrong value": ([*finetune, "model.front_end.init_args.features.init_args.num_mels=-3"], "num_mels"),
        "no such recipe": (["finetune", "--config", "nonsense", "--out", str(tmp_path / "x")], "nonsense"),
        "no such task": (
            ["pretrain", "--config", "cpc", "--out", str(tmp_path / "x"), "task=speechkit.tasks.Nonsense"],
            "`task` must name a class as package.Class, got 'speechkit.tasks.Nonsense'",
        ),
        "no task for pretraining": (
            ["pretrain", "--config", "cpc", "--out", str(tmp_path / "x"), "task=speechkit.encoders.ConvGRUEncoder"],
            "`task` must name a LightningModule",
        ),
        "no such manifest": ([*finetune, "data.train=[missing.jsonl]"], "missing.jsonl"),
        "an unknown character": (
            [*finetune, f"data.dev=[{unknown}]"],
            "dev0.wav: the tokenizer lacks the character(s) 'z'",
        ),
        "no checkpoint": ([*finetune, "--ckpt", "last"], "--ckpt last"),
        "a bundle of another version": (["transcribe", "--model", str(broken), str(corpus)], "bundle format 99"),
        "no bundle": (["transcribe", "--model", str(tmp_path / "none"), str(corpus)], "none: no such bundle"),
        "no input": (["evaluate", str(tmp_path / "none"), "missing.jsonl"], "missing.jsonl: no such manifest"),
        "an unset variable": ([*finetune, "data.train=[$NO_SUCH_FOLDER/a.jsonl]"], "NO_SUCH_FOLDER"),
        "dimensions that do not meet": ([*finetune, "model.encoder.init_args.input_dim=21"], "input_dim"),
    }


@pytest.mark.parametrize("case", [
    "an unknown callback", "an unknown option of a callback", "a word for a number", "a key cut short",
    "a typo in a group", "a key without its group", "a key in a file", "a typo in a nested key",
    "a wrong type", "an unknown class", "a wrong value", "no such recipe", "no such task", "no task for pretraining",
    "no such manifest", "an unknown character", "no checkpoint", "a bundle of another version", "no bundle", "no input",
    "an unset variable", "dimensions that do not meet",
])  # fmt: skip
def test_wrong_calls_are_one_line(case: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = wrong_calls(corpus, tmp_path)[case]
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("speechkit ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert len(lines[0]) < 600


@pytest.mark.slow
def test_a_run_is_not_overwritten(corpus: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--config", SMALL, "--out", str(bundle.parent)]) == 2
    assert "holds a run already" in capsys.readouterr().err


ELSEWHERE = (OVERLAY, "quantize")  # they need a bundle or another recipe: test_overlays.py, test_quantize.py
RECIPES = [
    (command, path.stem) for command, paths in list_recipes().items() for path in paths if command not in ELSEWHERE
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), RECIPES)
def test_every_recipe_takes_a_step(
    command: str, name: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHKIT_DATA", str(corpus))
    monkeypatch.setenv("SPEECHKIT_DEMO", str(corpus))
    train = corpus / ("train.jsonl" if command == "finetune" else "unlabelled.jsonl")
    options = [f"data.train=[{train}]", "data.dev=[]", "trainer.max_steps=1", "trainer.enable_progress_bar=false"]
    if name in ("wav2vec2_base", "wav2vec2_large"):  # one layer of its size, on utterances of half a second
        options += ["model.encoder.init_args.num_layers=1", "data.min_seconds=0.1", "data.batch_seconds=2"]
    assert main([command, "--config", name, "--out", str(tmp_path / "run"), *options]) == 0
    assert load_bundle(tmp_path / "run" / "bundle").encoder is not None


def test_transcribing_imports_no_lightning() -> None:
    code = (
        "import sys, speechkit.recognizer, speechkit.cli.main\n"
        "assert not sys.modules.keys() & {'lightning', 'jsonargparse', 'torchaudio'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
