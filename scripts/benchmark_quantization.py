"""Word errors of a float recogniser and of its int8, 6-bit and 4-bit forms, by calibration alone and by training.

`python scripts/benchmark_quantization.py NAME BUNDLE --calibration MANIFEST --qat RECIPE --tests MANIFEST...` adds a
part NAME to benchmarks/results/quantization.{json,md}. Calibration, training and what chooses its best checkpoint (the
recipe's `data.dev`) see no test. What is in the run folder already is kept, and an interrupted training goes on.

Few words cannot tell a tenth of a point: so the difference to float is taken over all tests, with a 95 % interval by a
bootstrap over utterances in which both forms hear the same draws.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from training_runs import speechkit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NUM_DRAWS = 5000


def quantized(
    bundle: Path, runs: Path, calibration: Path, weight_bits: int, recipe: str | None, overrides: list[str]
) -> Path:
    """The bundle with weights of so many bits, calibrated, or trained by a recipe."""
    out = runs / f"{'calibrated' if recipe is None else 'trained'}-{weight_bits}"
    if not (out / "config.yaml").exists():
        options = ["--calibration", str(calibration), "--weight-bits", str(weight_bits), "-o", str(out)]
        options += [] if recipe is None else ["--qat", recipe, "--ckpt", "auto", *overrides]
        speechkit(runs / "log.txt", "quantize", str(bundle), *options)
    return out


def score(bundle: Path, manifest: Path, out: Path) -> dict[str, Any]:
    """Word errors and words, greedily."""
    if not out.exists():
        speechkit(out.parent / "log.txt", "evaluate", str(bundle), str(manifest), "--json", str(out))
    found = json.loads(out.read_text(encoding="utf-8"))
    return {key: found[key] for key in ("wer", "cer", "words")}


def difference(form: list[Path], of_float: list[Path]) -> dict[str, float]:
    """Word error rate over all utterances, and its difference to float's, with an interval; in points."""
    errors, float_errors, words = (
        np.array([value(row) for path in paths for row in json.loads(path.read_text("utf-8"))["per_utterance"]])
        for paths, value in (
            (form, lambda row: row["word_errors"]),
            (of_float, lambda row: row["word_errors"]),
            (of_float, lambda row: len(row["reference"].split())),
        )
    )
    draws = np.random.default_rng(0).multinomial(len(words), np.full(len(words), 1 / len(words)), size=NUM_DRAWS)
    low, high = np.quantile(draws @ (errors - float_errors) / (draws @ words), [0.025, 0.975])
    change = (errors.sum() - float_errors.sum()) / words.sum()
    return {"wer": errors.sum() / words.sum(), "change": float(change), "low": float(low), "high": float(high)}


def write_table(parts: dict[str, Any], path: Path) -> None:
    """quantization.md from the JSON."""
    lines = ["# What few bits cost", "", "Made by `scripts/benchmark_quantization.py` from `quantization.json`."]
    for name, part in parts.items():
        tests = list(part["tests"])
        lines += ["", f"## {name}", ""]
        lines += [f"| form | {' | '.join(f'{test}, WER %' for test in tests)} | all, WER % | against float, points |"]
        lines += [f"|---|{'---|' * (len(tests) + 2)}"]
        for form, scores in part["forms"].items():
            whole = part["all"][form]
            cells = [f"{100 * scores[test]['wer']:.2f}" for test in tests] + [f"{100 * whole['wer']:.2f}"]
            interval = f"[{100 * whole['low']:+.2f}, {100 * whole['high']:+.2f}]"
            cells.append("" if form == "float" else f"{100 * whole['change']:+.2f} {interval}")
            lines.append(f"| {form} | {' | '.join(cells)} |")
        words = ", ".join(f"{test} {next(iter(part['forms'].values()))[test]['words']}" for test in tests)
        lines += ["", f"Words: {words}. {part['machine']}, {part['date']}."]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a float recogniser that has an int8 form")
    parser.add_argument("--calibration", type=Path, required=True, metavar="MANIFEST")
    parser.add_argument("--qat", metavar="RECIPE", help="(none: by calibration alone)")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--tests", type=Path, nargs="+", required=True, metavar="MANIFEST")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4], help="of the weights (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/quantization"), help="(%(default)s)")
    arguments = parser.parse_args()
    runs = arguments.runs.resolve() / arguments.name
    runs.mkdir(parents=True, exist_ok=True)
    tests = {f"{path.parent.name}/{path.stem}": path.resolve() for path in arguments.tests}
    forms: dict[str, Path] = {"float": arguments.bundle.resolve()}
    for how, recipe in {"calibrated": None, **({"trained": arguments.qat} if arguments.qat else {})}.items():
        for bits in arguments.bits:
            forms[f"{bits} bits, {how}"] = quantized(
                forms["float"], runs, arguments.calibration, bits, recipe, arguments.overrides
            )
    scores: dict[str, dict[str, Any]] = {form: {} for form in forms}
    pages: dict[str, list[Path]] = {form: [] for form in forms}
    for form, bundle in forms.items():
        for test, manifest in tests.items():
            out = runs / f"{form}-{test}.json".replace(", ", "-").replace(" ", "-").replace("/", "-")
            scores[form][test] = score(bundle, manifest, out)
            pages[form].append(out)
    path = RESULTS / "quantization.json"
    parts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts[arguments.name] = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: importlib.metadata.version(package) for package in ("torch", "onnxruntime")},
        "tests": {test: len(path.read_text(encoding="utf-8").splitlines()) for test, path in tests.items()},
        "forms": scores,
        "all": {form: difference(pages[form], pages["float"]) for form in forms},
    }
    path.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    write_table(parts, RESULTS / "quantization.md")
    print((RESULTS / "quantization.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
