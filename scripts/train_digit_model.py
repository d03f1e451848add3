"""Makes the model in the wheel, speechkit/models/digits: synthetic voices, training, int8, and what it reaches.

`python scripts/train_digit_model.py --runs runs` needs $SPEECHKIT_DATA and some two hours on one free core. What is
there already is kept, and an interrupted training goes on. The recipes are configs/finetune/digits_shipped.yaml
and, for int8, configs/quantize/digits_shipped.yaml. With --strangers the recipe is trained once more without two of
its speakers (another hour or two), and tested on strings of theirs: so are voices heard that nobody trained with.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import digit_strings
import numpy as np

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "speechkit" / "models" / "digits"
RESULTS = ROOT / "benchmarks" / "results" / "digit_model.json"
WEIGHT_BITS = 4  # as few errors as with 8 (quantization.md), a smaller file, faster where x86 has no VNNI
VOICES = ["--voices", "180", "--labelled-minutes", "45", "--unlabelled-minutes", "0"]
VOICES += ["--dev-minutes", "2", "--test-minutes", "8"]


def speechkit(*arguments: str) -> None:
    """Runs the command line."""
    subprocess.run([sys.executable, "-m", "speechkit", *arguments], check=True)


def finetune(out: Path, *overlay: str) -> None:
    """Trains the recipe, goes on, or does nothing where it is done."""
    if not (out / "bundle" / "config.yaml").exists():
        speechkit("finetune", "--config", "digits_shipped", *overlay, "--out", str(out), "--ckpt", "auto")


def make(runs: Path, data: Path) -> tuple[Path, Path]:
    """Trains and quantizes. Returns the bundles in float and in int8."""
    voices, out = runs / "voices", runs / "digit-model"
    if not (voices / "corpus.json").exists():
        speechkit("data", "synth", str(voices), *VOICES, "--overwrite")
    os.environ["SPEECHKIT_VOICES"] = str(voices)
    finetune(out)
    calibration = runs / "calibration.jsonl"
    write_calibration(calibration, [data / "digits" / "dev.jsonl", voices / "dev.jsonl"])
    if not (runs / "int8" / "config.yaml").exists():
        training = ["--calibration", str(calibration), "--weight-bits", str(WEIGHT_BITS)]
        training += ["--qat", "digits_shipped", "--ckpt", "auto"]
        speechkit("quantize", str(out / "bundle"), *training, "-o", str(runs / "int8"))
    return out / "bundle", runs / "int8"


def write_calibration(path: Path, manifests: list[Path]) -> None:
    """One manifest of several."""
    rows = []
    for manifest in manifests:
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append({**row, "audio_filepath": str((manifest.parent / row["audio_filepath"]).resolve())})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_tests(folder: Path, digits: Path, voices: Path) -> dict[str, Path]:
    """Manifests: single digits, strings of them by the same speakers, strings by synthetic voices never heard."""
    if not (folder / "strings.jsonl").exists():
        recordings = digit_strings.read_digits(digits, "test")
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(1)
        # long enough to tell a tenth of a point in a hundred words from chance, nearly
        digit_strings.write_strings(folder, "strings", recordings, sorted(recordings), 40.0, generator)
    return {
        "digits/test": digits / "test.jsonl",
        "strings of digits/test": folder / "strings.jsonl",
        "synthetic voices, unheard": voices / "test.jsonl",
    }


def count_voices(corpus: Path) -> dict[str, int]:
    """Synthetic speakers of each part."""
    splits = json.loads(corpus.read_text(encoding="utf-8"))["splits"]
    return {name: len(part["speakers"]) for name, part in splits.items() if part["speakers"]}


def score(bundle: Path, manifest: Path, out: Path) -> dict[str, Any]:
    """Word error rate with its interval, and the number of words."""
    speechkit("evaluate", str(bundle), str(manifest), "--json", str(out))
    found = json.loads(out.read_text(encoding="utf-8"))
    return {key: found[key] for key in ("wer", "wer_interval", "words")}


def score_strangers(runs: Path, data: Path) -> dict[str, Any]:
    """Of the recipe in float, trained without two speakers, on strings of theirs."""
    digit_strings.make_strings(runs / "strings", data / "digits")
    out, overlay = runs / "without-strangers", runs / "without-strangers.yaml"
    speakers = list(digit_strings.STRANGERS)
    overlay.write_text(json.dumps({"data": {"exclude_speakers": speakers}}), encoding="utf-8")
    finetune(out, "--config", str(overlay))
    found = score(out / "bundle", runs / "strings" / "unseen.jsonl", out / "unseen.json")
    return {"speakers": speakers, **found}


def card(tests: dict[str, dict[str, dict[str, Any]]], strangers: dict[str, Any] | None) -> str:
    """What a user of the model should know."""
    lines = [
        "# digits: strings of the English words zero to nine, int8",
        "",
        "- input: 8 kHz (other rates are resampled); output: the ten words, greedy CTC; other speech gives nonsense",
        "- trained by `python scripts/train_digit_model.py`, recipe configs/finetune/digits_shipped.yaml, on the Free",
        "  Spoken Digit Dataset (train, 6 speakers; Zohar Jackson et al., CC BY-SA 4.0) and 45 minutes of strings by",
        "  synthetic voices (eSpeak NG), with simulated rooms, noise, channels, speeds and vocal tracts",
        "- int8 by calibration on development sets and four epochs of quantization-aware training (the recipe",
        f"  configs/quantize/digits_shipped.yaml); weights of {WEIGHT_BITS} bits, activations of 8",
        *([] if strangers is None else _card_of_strangers(strangers)),
        "- licence: CC BY-SA 4.0, that of the recordings; attribution as above",
        "",
        "| test | words | WER float | WER int8 |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {found['int8']['words']} | {found['float']['wer']:.2%} | {found['int8']['wer']:.2%} |"
        for name, found in tests.items()
    ]
    return "\n".join(lines) + "\n"


def _card_of_strangers(found: dict[str, Any]) -> list[str]:
    low, high = found["wer_interval"]
    speakers = " and ".join(found["speakers"])
    return [
        f"- of voices that it never heard expect more errors: the recipe trained without {speakers}",
        f"  leaves {found['wer']:.1%} ({low:.1%} to {high:.1%}) of the words wrong in strings of theirs",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/digit-model"), help="folder for what is made (%(default)s)"
    )
    parser.add_argument("--strangers", action="store_true", help="also measure what voices never heard must expect")
    arguments = parser.parse_args()
    data = Path(os.environ.setdefault("SPEECHKIT_DATA", str(ROOT.parent / "shared" / "data")))
    runs = arguments.runs.resolve()
    bundles = dict(zip(("float", "int8"), make(runs, data), strict=True))
    tests = {
        name: {kind: score(bundle, manifest, runs / f"{kind}.json") for kind, bundle in bundles.items()}
        for name, manifest in write_tests(runs / "tests", data / "digits", runs / "voices").items()
    }
    strangers = json.loads(RESULTS.read_text(encoding="utf-8")).get("strangers") if RESULTS.exists() else None
    if arguments.strangers:
        strangers = score_strangers(runs, data)
    shutil.rmtree(SHIPPED, ignore_errors=True)
    shutil.copytree(bundles["int8"], SHIPPED)
    (SHIPPED / "card.md").write_text(card(tests, strangers), encoding="utf-8")
    result = {
        "command": "python scripts/train_digit_model.py",
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "bytes": sum(file.stat().st_size for file in SHIPPED.iterdir()),
        "synthetic_voices": count_voices(runs / "voices" / "corpus.json"),
        "tests": tests,
        **({} if strangers is None else {"strangers": strangers}),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(card(tests, strangers))


if __name__ == "__main__":
    main()
