"""The table and the plot of scripts/benchmark_label_efficiency.py, from label_efficiency.json."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def mean(rows: Sequence[Row], labels: str, encoder: str, start: str, test: str, rate: str) -> float:
    """Over seeds."""
    return statistics.mean(values(rows, labels, encoder, start, test, rate))


def values(rows: Sequence[Row], labels: str, encoder: str, start: str, test: str, rate: str) -> list[float]:
    """Of each seed."""
    return [row[test][rate] for row in chosen(rows, labels, encoder, start)]


def chosen(rows: Sequence[Row], labels: str, encoder: str, start: str) -> list[Row]:
    """Those of all seeds."""
    wanted = {"labels": labels, "encoder": encoder, "start": start}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def write_table(result: dict[str, Any], folder: Path) -> None:
    """label_efficiency.md from the JSON."""
    lines = [
        "# What pretraining is worth where few recordings have text",
        "",
        "Made by `scripts/benchmark_label_efficiency.py` from `label_efficiency.json`.",
    ]
    if "read" in result:
        lines += ["", "## Read sentences (`arctic` and `speechocean`, both test sets together)", ""]
        lines += [
            "Phonemes, decoded with trigrams of English at large, whose weight each run chose by CER on `dev`: where"
        ]
        lines += [
            "hardly a word is right, that may insert more words than it hears. Labels wrong: phonemes, greedily.",
            "",
        ]
        lines += [
            "| labels | encoder | start | seeds | labels wrong, `dev` % | CER % | WER % | CER arctic | CER speechocean "
            "| CER against scratch |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        rows = result["read"]["runs"]
        for labels, encoder, start in dict.fromkeys((row["labels"], row["encoder"], row["start"]) for row in rows):
            of = {
                (test, rate): values(rows, labels, encoder, start, test, rate)
                for test, rate in (
                    ("test", "cer"),
                    ("test", "wer"),
                    ("arctic/test", "cer"),
                    ("speechocean/test", "cer"),
                )
            }
            change = ""
            if start == "pretrained" and values(rows, labels, encoder, "scratch", "test", "cer"):
                scratch = mean(rows, labels, encoder, "scratch", "test", "cer")
                change = f"{100 * (statistics.mean(of['test', 'cer']) / scratch - 1):+.0f} %"
            heard = [row["dev_label_errors"] for row in chosen(rows, labels, encoder, start)]
            cells = [spread(heard), *(spread(numbers) for numbers in of.values())]
            minutes = labels if labels == "all" else f"{labels} min"
            count = len(of["test", "cer"])
            lines.append(f"| {' | '.join([minutes, encoder, start, str(count), *cells, change])} |")
        if "best_on_dev" in result["read"]:
            lines += ["", f"Best at 10 minutes on the development sets: {result['read']['best_on_dev']}."]
        lines += ["", where(result["read"])]
    if "digit strings" in result:
        strings = result["digit strings"]
        lines += ["", "## Strings of digits, 10 minutes of labels of four speakers, greedily", ""]
        lines += ["| start | seeds | WER % same speakers | WER % strangers |", "|---|---|---|---|"]
        for start in ("scratch", "pretrained"):
            rows = [row for row in strings["runs"] if row["start"] == start]
            cells = [spread([row[test]["wer"] for row in rows]) for test in ("test", "unseen")]
            lines.append(f"| {start} | {len(rows)} | {' | '.join(cells)} |")
        fewer = [f"{100 * strings['relative_reduction_of_wer'][test]:.0f} %" for test in ("test", "unseen")]
        lines.append(f"| fewer errors | | {' | '.join(fewer)} |")
        lines += [
            "",
            "What frames tell of six speakers, two of them strangers (linear probes; ABX error, chance 50 %):",
            "",
        ]
        lines += ["| frames | speaker % right | word % right | ABX within a speaker % | ABX across speakers % |"]
        lines += ["|---|---|---|---|---|"]
        for what, kept in strings["what_the_encoder_keeps"].items():
            cells = [f"{100 * kept[key]:.1f}" for key in ("speaker", "word", "abx_within", "abx_across")]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        lines += ["", where(strings)]
    (folder / "label_efficiency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def where(part: dict[str, Any]) -> str:
    """Machine and date of a part."""
    return f"{part['machine']}, one thread a training, {part['date']}. `+-`: from least to largest seed, halved."


def spread(numbers: Sequence[float]) -> str:
    """Mean, and half of the range, in percent."""
    text = f"{100 * statistics.mean(numbers):.1f}"
    return text if len(numbers) == 1 else f"{text} +- {50 * (max(numbers) - min(numbers)):.1f}"


def plot(result: dict[str, Any], path: Path) -> None:
    """CER on the read sentences by labels and start, a dot a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["read"]["runs"]
    bars = list(dict.fromkeys((row["labels"], row["encoder"], row["start"]) for row in rows))
    figure, axes = plt.subplots(figsize=(6.8, 0.32 * len(bars) + 1.0), layout="constrained")
    for place, (labels, encoder, start) in enumerate(bars):
        numbers = [100 * value for value in values(rows, labels, encoder, start, "test", "cer")]
        color = "0.75" if start == "scratch" else "tab:blue"
        axes.barh(place, statistics.mean(numbers), color=color, height=0.7)
        axes.plot(numbers, [place] * len(numbers), "k.", markersize=4)
    names = [f"{labels}{'' if labels == 'all' else ' min'}, {encoder}, {start}" for labels, encoder, start in bars]
    axes.set_yticks(range(len(bars)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("character error rate on read sentences, % (bar: mean; dot: a seed; grey: without pretraining)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
