"""What pretraining is worth where few recordings have text: read sentences, and strings of digits.

`python scripts/benchmark_label_efficiency.py` pretrains with every objective on real speech without text, fine-tunes on
minutes of it with and without, and writes benchmarks/results/label_efficiency.{json,md} and
docs/label-efficiency.png. Read sentences are recognised as phonemes, and decoded with trigrams of English at large
(--text: what scripts/general_text.py wrote), whose weight each run chooses on the development sets. Trainings of one
thread run side by side (`--jobs`). A fine-tuning whose row is in the JSON is not done again, nor is what is in the run
folder, and what was interrupted goes on; delete both to repeat it.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from digit_strings import STRANGERS, make_strings
from label_efficiency_read import CORPORA, DATA, LABELS, OBJECTIVES, ROOT, ReadSentences
from label_efficiency_report import Row, plot, write_table
from training_runs import score, speechkit, train

RESULTS = ROOT / "benchmarks" / "results"
ENVIRONMENT = ("command", "date", "machine", "versions")


def side_by_side(jobs: int, calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Results in order; at most so many at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def measure_strings(runs: Path, jobs: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Digits joined to strings, labels of four speakers: with and without pretraining, known speakers and strangers."""
    strings = runs / "strings"
    make_strings(strings, DATA / "digits")
    os.environ["SPEECHKIT_STRINGS"] = str(strings)
    manifests = [str(DATA / name / "train.jsonl") for name in CORPORA] + [str(strings / "unlabelled.jsonl")]
    options = ["--config", "cpc_8khz", f"data.train={json.dumps(manifests)}"]
    encoder = train(runs / "pretrained-8khz", "pretrain", *options)

    def finetune(seed: int, *, pretrained: bool) -> Row:
        start = "pretrained" if pretrained else "scratch"
        options = [f"model.encoder_from={encoder}"] if pretrained else []
        out = runs / f"strings-{start}-{seed}"
        bundle = train(out, "finetune", "--config", "digit_strings", f"seed_everything={seed}", *options)
        tests = {test: score(bundle, test, strings / f"{test}.jsonl") for test in ("dev", "test", "unseen")}
        row = {"start": start, "seed": seed, **tests}
        print(json.dumps(row), flush=True)
        return row

    calls = [partial(finetune, seed, pretrained=pretrained) for seed in seeds for pretrained in (False, True)]
    rows = side_by_side(jobs, calls)
    reductions = {}
    for test in ("test", "unseen"):
        of = {
            start: statistics.mean(row[test]["wer"] for row in rows if row["start"] == start)
            for start in ("scratch", "pretrained")
        }
        reductions[test] = 1.0 - of["pretrained"] / of["scratch"]
    known_and_strangers = strings / "known-and-strangers.jsonl"
    known_and_strangers.write_text(
        "".join((strings / f"{test}.jsonl").read_text(encoding="utf-8") for test in ("test", "unseen")),
        encoding="utf-8",
    )
    aligner = runs / f"strings-pretrained-{seeds[0]}" / "bundle"
    kept = {what: probe(encoder, known_and_strangers, what, aligner) for what in ("features", "latents", "context")}
    return {
        "strangers": list(STRANGERS),
        "runs": rows,
        "relative_reduction_of_wer": reductions,
        "what_the_encoder_keeps": kept,
    }


def probe(bundle: Path, manifest: Path, what: str, aligner: Path) -> dict[str, float]:
    """What frames tell of the speaker and of the words, by linear probes and ABX."""
    out = bundle.parent / f"probe-{what}.json"
    if not out.exists():
        options = ["--what", what, "--aligner", str(aligner), "--json", str(out)]
        speechkit(bundle.parent / "log.txt", "probe", str(bundle), str(manifest), *options)
    figures = json.loads(out.read_text(encoding="utf-8"))
    return {
        "speaker": figures["speaker"]["accuracy"],
        "speaker_chance": figures["speaker"]["chance"],
        "word": figures["label"]["accuracy"],
        "abx_within": figures["abx_within"]["error"],
        "abx_across": figures["abx_across"]["error"],
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["read", "strings", []], metavar="PART", help="read, strings")
    parser.add_argument("--runs", type=Path, default=Path("runs/label-efficiency"), help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(%(default)s)")
    parser.add_argument("--text", type=Path, default=Path("runs/general-text"), help="for read (%(default)s)")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="for read (all)")
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=LABELS, help="minutes, for read (all)")
    parser.add_argument("--precision", default="32-true", help="of read sentences; bf16-mixed where the CPU has it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time (%(default)s)")
    arguments = parser.parse_args()
    runs, path = arguments.runs.resolve(), RESULTS / "label_efficiency.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save(part: str, measured: dict[str, Any]) -> None:
        result[part] = {
            "command": " ".join(["python", *sys.argv]),
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning")},
            **{key: value for key, value in measured.items() if key not in ENVIRONMENT},
        }
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        write_table(result, RESULTS)
        if "read" in result:
            plot(result, ROOT / "docs" / "label-efficiency.png")

    if "read" in (arguments.parts or ("read", "strings")):
        read = ReadSentences(
            runs / "read",
            text=arguments.text,
            precision=arguments.precision,
            before=result.get("read", {}),
            save=partial(save, "read"),
        )
        read.measure(arguments.objectives, arguments.labels, arguments.seeds, arguments.jobs)
    if "strings" in (arguments.parts or ("read", "strings")):
        save("digit strings", measure_strings(runs, arguments.jobs, arguments.seeds))


if __name__ == "__main__":
    main()
