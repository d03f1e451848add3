"""The part of scripts/benchmark_label_efficiency.py on read sentences, recognised as phonemes."""

import csv
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import soundfile
import yaml
from benchmark_recipes import join_manifests
from label_efficiency_report import Row, mean
from training_runs import score, speechkit, train

from speechkit.audio import load_audio

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.setdefault("SPEECHKIT_DATA", str(ROOT.parent / "shared" / "data")))
CORPORA = ("libri-unlabelled", "arctic", "speechocean")
LABELLED = ("arctic", "speechocean")
LABELS = ("10", "30", "all")  # minutes
OBJECTIVES = {"cpc": 50, "wav2vec": 10, "vq_wav2vec": 10, "wav2vec2_tiny": 10}  # recipe -> epochs
FINE_TUNING = ("read_phonemes", "few_labels")  # recipes


class ReadSentences:
    """Every objective with 10 minutes of labels, the best one with 30 and with all; saved row by row.

    Args:
        runs: folder of the trainings, of what they read and of English at large.
        text: what scripts/general_text.py wrote.
        precision: of the trainings.
        before: what was measured already.
        save: called with all of it after each row.
    """

    def __init__(
        self,
        runs: Path,
        *,
        text: Path,
        precision: str,
        before: Mapping[str, Any],
        save: Callable[[dict[str, Any]], None],
    ) -> None:
        runs.mkdir(parents=True, exist_ok=True)
        self.runs, self.precision, self.save = runs, precision, save
        self.splits = {split: runs / f"{split}.jsonl" for split in ("dev", "test")}
        for split, manifest in self.splits.items():
            join_manifests([f"{corpus}/{split}" for corpus in LABELLED], manifest)
        self.english = runs / "english.arpa.gz"
        if not self.english.exists():
            texts = sorted(map(str, text.glob("*.txt")))
            if not texts:
                raise SystemExit(f"--text must hold what scripts/general_text.py wrote, got {text}.")
            speechkit(runs / "english.txt", "lm", "train", *texts, "--prune", "0", "0", "1", "-o", str(self.english))
        self.manifests = decode_train_sets(runs / "decoded")
        self.result = {"pretraining": {}, "runs": [], **before}
        self.rows: list[Row] = self.result["runs"]
        self.saving = threading.Lock()

    def measure(self, objectives: Sequence[str], labels: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
        """What of this has no row yet; `jobs` trainings at a time."""
        if "10" in labels:
            self.fill("10", objectives, seeds, jobs)
        tried = {row["encoder"] for row in self.rows if (row["labels"], row["start"]) == ("10", "pretrained")}
        if not tried:
            return
        best = min(tried, key=lambda name: mean(self.rows, "10", name, "pretrained", "dev", "cer"))
        self.result["best_on_dev"] = best
        self.save(self.result)
        for count in labels:
            if count != "10":
                self.fill(count, [best], seeds[:1], jobs)

    def fill(self, labels: str, objectives: Iterable[str], seeds: Sequence[int], jobs: int) -> None:
        """Trains what has no row yet, from scratch first: that need not wait for pretraining."""
        done = {(row["labels"], row["encoder"], row["start"], row["seed"]) for row in self.rows}
        wanted = [(start, name, seed) for start in ("scratch", "pretrained") for name in objectives for seed in seeds]
        missing = [(start, name, seed) for start, name, seed in wanted if (labels, name, start, seed) not in done]
        with ThreadPoolExecutor(jobs) as pool:
            needed = dict.fromkeys(name for start, name, _ in missing if start == "pretrained")
            pretrained = {name: pool.submit(self.pretrain, name) for name in needed}
            waits = [pretrained[name] if start == "pretrained" else None for start, name, _ in missing]
            for future in [
                pool.submit(self.finetune, labels, name, start, seed, wait)
                for (start, name, seed), wait in zip(missing, waits, strict=True)
            ]:
                future.result()

    def pretrain(self, objective: str) -> None:
        """On the train sets of all corpora, without their texts."""
        out = self.runs / f"pretrained-{objective}"
        epochs = OBJECTIVES[objective]
        everything = json.dumps(list(map(str, self.manifests.values())))
        options = [f"data.train={everything}", f"trainer.max_epochs={epochs}", f"trainer.precision={self.precision}"]
        train(out, "pretrain", "--config", objective, *options)
        seconds = sum(json.loads((out / "seconds.json").read_text()))
        with self.saving:
            self.result["pretraining"][objective] = {
                "epochs": epochs,
                "precision": self.precision,
                "seconds": seconds,
            }
            self.save(self.result)

    def finetune(self, labels: str, objective: str, start: str, seed: int, pretrained: Future[None] | None) -> None:
        """One row: trains, weighs the language model on the development sets, scores."""
        if pretrained is not None:
            pretrained.result()
        out = self.runs / f"{labels}-{objective}-{start}-{seed}"
        options = [f"seed_everything={seed}", f"trainer.precision={self.precision}"]
        if start == "pretrained":
            options += [f"model.encoder_from={self.runs / f'pretrained-{objective}' / 'bundle'}"]
        if labels == "all":
            train_sets = [str(self.manifests[corpus]) for corpus in LABELLED]
            options += ["trainer.max_epochs=12", "data.batch_seconds=36"]  # see the whole as often as is affordable
        else:
            train_sets = [str(write_labels(self.runs / f"labels-{labels}", int(labels), self.manifests))]
        if labels == "30":
            options += ["trainer.max_epochs=24"]  # 12 hours heard, where ten minutes are heard for 10 and all for 32
        options += [f"data.train={json.dumps(train_sets)}"]
        recipes = (*FINE_TUNING, str(write_encoder(self.runs, objective)))
        bundle = train(out, "finetune", *(part for recipe in recipes for part in ("--config", recipe)), *options)
        if not (bundle / "lm.arpa").exists():
            tuning = ["--lm", str(self.english), "--beam", "20", "--rate", "cer"]
            speechkit(out / "log.txt", "lm", "tune", str(bundle), str(self.splits["dev"]), *tuning)
        row: Row = {"labels": labels, "encoder": objective, "start": start, "seed": seed}
        row["dev_label_errors"] = label_errors(out)
        for split, manifest in self.splits.items():
            row |= score_corpora(bundle, split, manifest)
        print(json.dumps({key: row[key] for key in ("labels", "encoder", "start", "seed", "test")}), flush=True)
        with self.saving:
            self.rows.append(row)
            self.rows.sort(key=place_in_table)
            self.save(self.result)


def place_in_table(row: Row) -> tuple[int, str, bool, int]:
    """By labels and encoder; from scratch first."""
    return LABELS.index(row["labels"]), row["encoder"], row["start"] == "pretrained", row["seed"]


def score_corpora(bundle: Path, split: str, manifest: Path) -> dict[str, dict[str, float]]:
    """Error rates on a split of the labelled corpora, of all together and of each by its speakers."""
    everything = score(bundle, split, manifest)
    rates = {split: {key: everything[key] for key in ("wer", "cer")}}
    rows = json.loads((bundle.parent / f"{split}.json").read_text(encoding="utf-8"))["per_utterance"]
    for corpus in LABELLED:
        lines = (DATA / corpus / f"{split}.jsonl").read_text("utf-8").splitlines()
        speakers = {json.loads(line)["speaker"] for line in lines}
        own = [row for row in rows if row["speaker"] in speakers]
        rates[f"{corpus}/{split}"] = {
            "wer": sum(row["word_errors"] for row in own) / sum(len(row["reference"].split()) for row in own),
            "cer": sum(row["character_errors"] for row in own) / sum(len(row["reference"]) for row in own),
        }
    return rates


def label_errors(out: Path) -> float:
    """Share of wrong labels on the development sets, greedily, of the checkpoint that became the bundle."""
    found = []
    for path in (out / "logs").glob("start-*/metrics.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("val_score")]  # a start that was cut short has none
        found += [(float(row["val_score"]), float(row["val_ler"])) for row in rows]
    return min(found)[1]


def decode_train_sets(out: Path) -> dict[str, Path]:
    """Decodes the compressed recordings once, since every epoch of every training would: corpus -> train manifest."""
    manifests = {}
    for corpus in CORPORA:
        manifests[corpus] = out / corpus / "train.jsonl"
        if manifests[corpus].exists():
            continue
        (out / corpus).mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in (DATA / corpus / "train.jsonl").read_text("utf-8").splitlines()]
        for row in rows:
            samples = load_audio(DATA / corpus / row["audio_filepath"], sample_rate_hz=16000)
            row["audio_filepath"] = row["audio_filepath"].replace("/", "-") + ".wav"
            soundfile.write(out / corpus / row["audio_filepath"], samples, 16000, subtype="PCM_16")
        manifests[corpus].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifests


def write_labels(out: Path, minutes: int, manifests: Mapping[str, Path]) -> Path:
    """A manifest of so many minutes, as much of each corpus; a longer one holds the shorter ones."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "train.jsonl").open("w", encoding="utf-8") as file:
        for corpus in LABELLED:
            rows = [json.loads(line) for line in manifests[corpus].read_text("utf-8").splitlines()]
            rows.sort(key=lambda row: hashlib.sha256(row["audio_filepath"].encode()).digest())
            seconds = 0.0
            for row in rows:
                if seconds >= 60 * minutes / len(LABELLED):
                    break
                seconds += row["duration"]
                row["audio_filepath"] = str(manifests[corpus].parent / row["audio_filepath"])
                file.write(json.dumps(row) + "\n")
    return out / "train.jsonl"


def write_encoder(out: Path, recipe: str) -> Path:
    """The front end and encoder of a recipe of pretraining, as an overlay for fine-tuning."""
    model = yaml.safe_load((ROOT / "configs" / "pretrain" / f"{recipe}.yaml").read_text("utf-8"))["model"]
    path = out / f"encoder-{recipe}.yaml"
    path.write_text(yaml.safe_dump({"model": {key: model[key] for key in ("front_end", "encoder")}}), encoding="utf-8")
    return path
