"""What recordings without text add to some with it, by pseudo-labels in rounds: more of the same, and another domain.

`python scripts/semi_supervised.py` writes benchmarks/results/semi_supervised.{json,md}. In `few_labels` ten minutes of
arctic and speechocean have text, and the rest of their train sets, nearly three hours, has none. In `domain` all of
arctic's train set has text, and speechocean's has none; nothing of speechocean is seen in choosing checkpoints or
weights. The labels are phonemes and the encoder wav2vec's, from scratch; words are decoded with trigrams of English at
large (--text: what scripts/general_text.py wrote), whose weight each model chooses on its development sets. Round 0 is
trained on the texts alone; each later round on these and on what the model before it has transcribed and is sure of.
Every training takes as many steps.

A training whose row is in the JSON is not done again, and what was interrupted goes on. Both trials may run at a time.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

from label_efficiency_read import DATA, FINE_TUNING, ROOT, ReadSentences, label_errors, write_encoder, write_labels
from training_runs import score, speechkit, train

RESULTS = ROOT / "benchmarks" / "results"
ENCODER = "wav2vec"
SURE = "0.4"  # the least confidence of a transcript that is learned from
STEPS = 1600  # of every training, so that more to hear is not more training
TRAINING = (
    "trainer.max_epochs=-1",
    f"trainer.max_steps={STEPS}",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=200",
    "data.batch_seconds=36",
)
TEST = {"few_labels": ("arctic", "speechocean"), "domain": ("speechocean",)}


class Trial:
    """The rounds of one trial with one seed.

    Args:
        name: "few_labels" or "domain".
        seed: of the trainings.
        read: the recordings, decoded, and the language model.
    """

    def __init__(self, name: str, seed: int, read: ReadSentences) -> None:
        self.name, self.seed, self.read = name, seed, read
        self.runs = read.runs / f"semi-supervised-{name}-{seed}"
        corpora = {corpus: read.manifests[corpus] for corpus in ("arctic", "speechocean")}
        if name == "few_labels":
            self.labelled, self.unlabelled = write_labels(read.runs / "labels-10", 10, corpora), list(corpora.values())
            self.dev = read.splits["dev"]
        else:
            self.labelled, self.unlabelled = corpora["arctic"], [corpora["speechocean"]]
            self.dev = DATA / "arctic" / "dev.jsonl"

    def round(self, number: int) -> dict[str, Any]:
        """One row: what the model before has heard as text, a training, and its errors."""
        out = self.runs / f"round-{number}"
        train_sets = [str(self.labelled)]
        row: dict[str, Any] = {"trial": self.name, "seed": self.seed, "round": number}
        if number:
            heard = self.runs / f"round-{number}.jsonl"
            if not heard.exists():
                self.transcribe(self.runs / f"round-{number - 1}" / "bundle", heard)
            lines = heard.read_text(encoding="utf-8").splitlines()
            row["pseudo_labelled_hours"] = sum(json.loads(line)["duration"] for line in lines) / 3600
            train_sets.append(str(heard))
        recipes = [*FINE_TUNING, str(write_encoder(self.read.runs, ENCODER))]
        bundle = train(
            out,
            "finetune",
            *(part for recipe in recipes for part in ("--config", recipe)),
            f"seed_everything={self.seed}",
            f"trainer.precision={self.read.precision}",
            f"data.train={json.dumps(train_sets)}",
            f"data.dev={json.dumps([str(self.dev)])}",
            *TRAINING,
        )
        if not (bundle / "lm.arpa").exists():
            tuning = ["--lm", str(self.read.english), "--beam", "20", "--rate", "cer"]
            speechkit(out / "log.txt", "lm", "tune", str(bundle), str(self.dev), *tuning)
        row["dev_label_errors"] = label_errors(out)
        for corpus in TEST[self.name]:
            row[f"{corpus}/test"] = score(bundle, f"{corpus}-test", DATA / corpus / "test.jsonl")
        counts = [row[f"{corpus}/test"] for corpus in TEST[self.name]]
        for rate, errors, of in (("cer", "character_errors", "characters"), ("wer", "word_errors", "words")):
            row[rate] = sum(count[errors] for count in counts) / sum(count[of] for count in counts)
        return row

    def transcribe(self, teacher: Path, out: Path) -> None:
        """What the teacher hears in the recordings without text, where it is sure enough."""
        sets = [*map(str, self.unlabelled), "--labelled", str(self.labelled), "--out", str(out)]
        speechkit(self.runs / "log.txt", "pseudo-label", str(teacher), *sets, "--min-confidence", SURE)


def write_table(result: dict[str, Any], path: Path) -> None:
    """semi_supervised.md from the JSON."""
    lines = [
        "# What recordings without text add",
        "",
        f"Made by `scripts/semi_supervised.py` from `semi_supervised.json`; {STEPS} steps a training.",
    ]
    titles = {
        "few_labels": "Ten minutes with text, the rest of both train sets without",
        "domain": "`arctic` with text, `speechocean` without, tested on `speechocean`",
    }
    for trial, title in titles.items():
        rows = [row for row in result["runs"] if row["trial"] == trial]
        if not rows:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            "| round | seeds | hours of pseudo-labels | labels wrong, dev % | CER % | WER % | CER against round 0 |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for number in sorted({row["round"] for row in rows}):
            own = [row for row in rows if row["round"] == number]
            alone = [row["cer"] for row in rows if row["round"] == 0 and row["seed"] in {one["seed"] for one in own}]
            means = [statistics.mean(row[key] for row in own) for key in ("dev_label_errors", "cer", "wer")]
            hours = statistics.mean(row.get("pseudo_labelled_hours", 0.0) for row in own)
            change = f"{100 * (means[1] / statistics.mean(alone) - 1):+.0f} %" if number and alone else ""
            cells = [str(number), str(len(own)), f"{hours:.2f}", *(f"{100 * value:.1f}" for value in means), change]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{result['machine']}, one thread a training, {result['date']}."]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help="few_labels, domain (both)")
    parser.add_argument("--runs", type=Path, default=Path("runs/label-efficiency"), help="(%(default)s)")
    parser.add_argument("--text", type=Path, default=Path("runs/general-text"), help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of pseudo-labels (%(default)s)")
    parser.add_argument("--precision", default="32-true", help="bf16-mixed where the CPU has it")
    arguments = parser.parse_args()
    path = RESULTS / "semi_supervised.json"
    read = ReadSentences(
        arguments.runs.resolve() / "read",
        text=arguments.text,
        precision=arguments.precision,
        before={},
        save=lambda _: None,
    )
    for seed in arguments.seeds:
        for name in arguments.trials or TEST:
            trial = Trial(name, seed, read)
            for number in range(arguments.rounds + 1):
                if any((row["trial"], row["seed"], row["round"]) == (name, seed, number) for row in read_rows(path)):
                    continue
                row = trial.round(number)
                result: dict[str, Any] = {"runs": [*read_rows(path), row]}
                result["runs"].sort(key=lambda row: (row["trial"], row["round"], row["seed"]))
                result |= {
                    "command": " ".join(["python", *sys.argv]),
                    "date": date.today().isoformat(),
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "versions": {package: importlib.metadata.version(package) for package in ("torch", "lightning")},
                }
                path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
                write_table(result, RESULTS / "semi_supervised.md")


if __name__ == "__main__":
    main()
