"""Beam search against flashlight-text and pyctcdecode: the same answers on recordings, word errors, and time.

`python scripts/benchmark_decoding.py` writes benchmarks/results/decoding.json and decoding.md. It needs the recordings
under SPEECHKIT_DATA for their texts, the bundles of `scripts/benchmark_recipes.py` for the answers (without them that
part is left out), and the peers: `pip install speechkit[bench]` and `pip install --no-deps pyctcdecode` (which asks for
a NumPy that is too old, and works with a new one). Peers take turns within one run, one thread each; medians of rounds.

Each peer meets a search of its own settings: flashlight-text a beam threshold of 20 nats and 40 symbols a frame, with
its lexicon or without words; pyctcdecode its defaults, a threshold of 10 nats and symbols above e^-5, without lexicon.
Error rates are given at equal weights of the language model, and at those that each chose on the development sets with
beams of 50 (pyctcdecode judges unfinished words otherwise, so that its best weights are others).
"""

import argparse
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from decoding_peers import Decode, LanguageModel, Weights, make_flashlight, make_own, make_pyctcdecode
from torch import Tensor

from speechkit.audio import load_audio
from speechkit.decoding import (
    count_errors,
    error_rate,
    greedy_decode,
)
from speechkit.recognizer import Recognizer
from speechkit.text import CharTokenizer, SentencePieceTokenizer, Tokenizer, WordTokenizer, normalize_text

os.environ.setdefault("SPEECHKIT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
SYMBOLS, BEAMS = (32, 128, 1024), (10, 50, 200)
TRAINING = {"read": ("arctic/train", "speechocean/train"), "digits": ("digits/train",)}
MEASURED = {
    "read": ("arctic/dev", "arctic/test", "speechocean/dev", "speechocean/test"),
    "digits": ("digits/dev", "digits/test"),
}
TRIED_WEIGHTS, TRIED_BONUSES, TRIED_BEAM = (0.3, 0.6, 1.0, 1.4), (-1.0, 0.0, 1.0, 2.0, 3.0), 50
AS_FLASHLIGHT = {"beam_threshold": 20.0, "token_beam_size": 40}
AS_PYCTCDECODE = {"beam_threshold": 10.0, "token_threshold": -5.0}
WIDE = {"beam_threshold": 50.0}  # flashlight-text's default
PEERS = ("flashlight-text", "pyctcdecode")
ARTIFICIAL = "artificial"


def read_manifest(name: str) -> list[dict[str, Any]]:
    """Rows of a manifest below $SPEECHKIT_DATA, their texts normalised."""
    path = Path(os.environ["SPEECHKIT_DATA"]) / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{**row, "path": path.parent / row["audio_filepath"], "text": normalize_text(row["text"])} for row in rows]


def make_tokenizer(num_symbols: int, texts: Sequence[str]) -> Tokenizer:
    """Characters, filled up with digits, for 32 symbols; pieces trained on the texts for more."""
    if num_symbols <= 32:
        return CharTokenizer([*sorted(set("".join(texts))), *"0123456789"][: num_symbols - 1])
    tokenizer = SentencePieceTokenizer(num_pieces=num_symbols - 1)
    tokenizer.fit(texts)
    return tokenizer


def make_log_probs(tokenizer: Tokenizer, text: str, generator: torch.Generator) -> Tensor:
    """What a CTC model might give for a text, (T, V): four frames a label, mostly blank, and some labels wrong.

    Symbols have logits from N(-ln V / 32, 1.5), so that their sum is the same for all V. In each frame the one that is
    meant is raised by m from U(4, 20), and three others by m u^2, u from U(0, 1). One label in ten is another than was
    meant. That makes 32 symbols about as sure as those of the `read` bundle on speechocean.
    """
    labels = torch.tensor(tokenizer.encode(text))
    wrong = torch.rand(len(labels), generator=generator) < 0.1
    labels[wrong] = torch.randint(2, tokenizer.vocab_size, (int(wrong.sum()),), generator=generator)
    meant = F.pad(labels[:, None], (1, 2)).flatten()  # blank, label, blank, blank
    logits = 1.5 * torch.randn(len(meant), tokenizer.vocab_size, generator=generator)
    logits -= math.log(tokenizer.vocab_size / 32)
    margins = 4.0 + 16.0 * torch.rand(len(meant), 1, generator=generator)
    rivals = torch.randint(0, tokenizer.vocab_size, (len(meant), 3), generator=generator)
    logits.scatter_add_(1, rivals, margins * torch.rand(len(meant), 3, generator=generator).square())
    return logits.scatter_add_(1, meant[:, None], margins).log_softmax(-1)


def recorded_log_probs(recognizer: Recognizer, rows: Iterable[dict[str, Any]]) -> list[Tensor]:
    """A recogniser's own, one recording after another."""
    results = []
    for row in rows:
        waveform = torch.from_numpy(load_audio(row["path"], recognizer.sample_rate_hz))
        logits, frames = recognizer.model.logits(waveform[None], torch.tensor([len(waveform)]))
        results.append(logits[0, : int(frames[0])].float().log_softmax(-1).clone())
    return results


def measure_cell(
    tokenizer: Tokenizer, words: LanguageModel | None, utterances: Sequence[Tensor], beam_size: int, rounds: int
) -> dict[str, Any]:
    """Medians over rounds, in microseconds a frame, for each peer and for speechkit with its settings."""
    with tempfile.TemporaryDirectory() as folder:
        decoders = {
            "flashlight-text": make_flashlight(tokenizer, words, Path(folder), beam_size=beam_size, **AS_FLASHLIGHT),
            "as flashlight-text": make_own(
                tokenizer, words, closed=words is not None, beam_size=beam_size, **AS_FLASHLIGHT
            ),
            "pyctcdecode": make_pyctcdecode(tokenizer, words, beam_size),
            "as pyctcdecode": make_own(tokenizer, words, closed=False, beam_size=beam_size, **AS_PYCTCDECODE),
        }
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for turn in range(rounds + 1):
        for name, decode in decoders.items():
            start = time.process_time()  # of the processor, which other programs share
            for log_probs in utterances:
                decode(log_probs)
            if turn:  # the first round warms up
                times[name].append(time.process_time() - start)
    frames = sum(map(len, utterances))
    medians = {name: 1e6 * statistics.median(values) / frames for name, values in times.items()}
    return {
        "beam_size": beam_size,
        "words": words is not None,
        "frames": frames,
        "microseconds_per_frame": medians,
        "times_faster": {peer: medians[peer] / medians[f"as {peer}"] for peer in PEERS},
    }


def measure_answers(name: str, bundle: Path, folder: Path, beam_size: int) -> list[dict[str, Any]]:
    """The same 1-best as flashlight-text's, and the word error rates of all, on each manifest."""
    recognizer = Recognizer.load(bundle)
    tokenizer = recognizer.tokenizer
    words = LanguageModel([row["text"] for manifest in TRAINING[name] for row in read_manifest(manifest)], folder)
    has_lexicon = not isinstance(tokenizer, WordTokenizer)
    decoders = {
        "speechkit": make_own(tokenizer, words, closed=has_lexicon, beam_size=beam_size, **WIDE),
        "flashlight-text": make_flashlight(tokenizer, words, folder, beam_size=beam_size, **WIDE),
        "speechkit, any words": make_own(tokenizer, words, closed=False, beam_size=beam_size, **WIDE),
        "pyctcdecode": make_pyctcdecode(tokenizer, words, beam_size),
        "greedy": lambda log_probs: tokenizer.decode(greedy_decode(log_probs[None], torch.tensor([len(log_probs)]))[0]),
    }
    results = []
    for manifest in MEASURED[name]:
        rows = read_manifest(manifest)
        utterances = recorded_log_probs(recognizer, rows)
        texts = {peer: [decode(log_probs) for log_probs in utterances] for peer, decode in decoders.items()}
        pairs = list(zip(texts["speechkit"], texts["flashlight-text"], strict=True))
        rates = {peer: word_error_rate(rows, found) for peer, found in texts.items()}
        results.append(
            {
                "bundle": name,
                "manifest": manifest,
                "utterances": len(rows),
                "beam_size": beam_size,
                "same_as_flashlight": sum(own == peer for own, peer in pairs),
                "differences": [pair for pair in pairs if pair[0] != pair[1]],
                "word_error_rate": rates,
            }
        )
    return results


def word_error_rate(rows: Sequence[dict[str, Any]], texts: Iterable[str]) -> float:
    """A fraction."""
    pairs = zip(rows, texts, strict=True)
    return error_rate([count_errors(row["text"].split(), text.split()) for row, text in pairs]).value


def measure_own_weights(bundle_name: str, bundle: Path, folder: Path, beams: Sequence[int]) -> list[dict[str, Any]]:
    """Word error rates of speechkit and pyctcdecode, each at the weights that are its best on the development sets."""
    recognizer = Recognizer.load(bundle)
    tokenizer = recognizer.tokenizer
    texts = [row["text"] for manifest in TRAINING[bundle_name] for row in read_manifest(manifest)]
    words = LanguageModel(texts, folder)
    has_lexicon = not isinstance(tokenizer, WordTokenizer)
    makers: dict[str, Callable[[int, Weights], Decode]] = {
        "speechkit": lambda beam, weights: make_own(
            tokenizer, words, closed=has_lexicon, beam_size=beam, weights=weights, **WIDE
        ),
        "pyctcdecode": lambda beam, weights: make_pyctcdecode(tokenizer, words, beam, weights),
    }
    sets = {manifest: read_manifest(manifest) for manifest in MEASURED[bundle_name]}
    utterances = {manifest: recorded_log_probs(recognizer, rows) for manifest, rows in sets.items()}
    dev = [manifest for manifest in sets if manifest.endswith("/dev")]
    dev_rows = [row for manifest in dev for row in sets[manifest]]
    dev_utterances = [log_probs for manifest in dev for log_probs in utterances[manifest]]
    results = []
    for peer, make in makers.items():
        tried = {}
        for weights in itertools.starmap(Weights, itertools.product(TRIED_WEIGHTS, TRIED_BONUSES)):
            decode = make(TRIED_BEAM, weights)
            tried[weights] = word_error_rate(dev_rows, map(decode, dev_utterances))
        best = min(tried, key=lambda weights: tried[weights])
        for beam_size in beams:
            decode = make(beam_size, best)
            rates = {
                manifest: word_error_rate(rows, map(decode, utterances[manifest])) for manifest, rows in sets.items()
            }
            row = {
                "bundle": bundle_name,
                "decoder": peer,
                "beam_size": beam_size,
                **best._asdict(),
                "word_error_rate": rates,
            }
            print(json.dumps(row), flush=True)
            results.append(row)
    return results


FIRST_CALL = """
import time, torch
from speechkit.decoding import BeamSearch
from speechkit.text import CharTokenizer
start = time.perf_counter()
BeamSearch(tokenizer=CharTokenizer(" ab")).decode(torch.randn(1, 50, 4), torch.tensor([50]))
print(time.perf_counter() - start)
"""


def measure_first_call() -> dict[str, float]:
    """Seconds until a process's first search is done, with nothing compiled and then from the disk."""
    with tempfile.TemporaryDirectory() as folder:
        command, environment = [sys.executable, "-c", FIRST_CALL], {**os.environ, "NUMBA_CACHE_DIR": folder}
        calls = [
            float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(4)
        ]
    return {"nothing compiled": calls[0], "from the disk, median": statistics.median(calls[1:])}


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean log."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def summarize(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each peer the geometric mean and the least of the ratios of the artificial utterances."""
    result: dict[str, dict[str, float]] = {}
    for peer in PEERS:
        for name, kinds in (("with words", (True,)), ("without words", (False,)), ("all", (True, False))):
            ratios = [
                cell["times_faster"][peer] for cell in cells if cell["words"] in kinds and cell["source"] == ARTIFICIAL
            ]
            result[f"{peer}, {name}"] = {"geometric_mean": geometric_mean(ratios), "least": min(ratios)}
    return result


def write_table(result: dict[str, Any], folder: Path) -> None:
    """decoding.md from the JSON."""
    lines = [
        "# Beam search",
        "",
        "Made by `scripts/benchmark_decoding.py` from `decoding.json`; its docstring says what is set equal.",
        "",
        "## Answers",
        "",
        "Trigram of the training texts, weight 1; with characters a bonus of 1 a word and, but for pyctcdecode and the",
        "column beside it, the words of the training texts as lexicon. Word error rates.",
        "",
        "| bundle | manifest | beam | same 1-best as flashlight-text | speechkit | flashlight-text "
        "| speechkit, any words | pyctcdecode | greedy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["answers"]:
        rates = " | ".join(f"{100 * rate:.2f}%" for rate in row["word_error_rate"].values())
        lines.append(
            f"| {row['bundle']} | {row['manifest']} | {row['beam_size']} | {row['same_as_flashlight']} of"
            f" {row['utterances']} | {rates} |"
        )
    lines += [
        "",
        f"At weights that each decoder chose on the development sets, with beams of {TRIED_BEAM}. Word error rates.",
        "",
        "| bundle | manifest | beam | speechkit | pyctcdecode |",
        "|---|---|---|---|---|",
    ]
    own = {(row["decoder"], row["bundle"], row["beam_size"]): row for row in result["own_weights"]}
    for (decoder, bundle, beam_size), row in own.items():
        if decoder == "speechkit":
            theirs = own["pyctcdecode", bundle, beam_size]["word_error_rate"]
            for manifest, rate in row["word_error_rate"].items():
                lines.append(
                    f"| {bundle} | {manifest} | {beam_size} | {100 * rate:.2f}% | {100 * theirs[manifest]:.2f}% |"
                )
    lines += [
        "",
        "## Time",
        "",
        f"One thread; artificial log-probabilities ({result['material']}), and those of a bundle.",
        "",
        "| times faster than | geometric mean | least |",
        "|---|---|---|",
    ]
    for name, ratios in result["summary"].items():
        lines.append(f"| {name} | {ratios['geometric_mean']:.1f} | {ratios['least']:.1f} |")
    cold, warm = result["first_call_seconds"].values()
    lines += [
        "",
        f"A process's first search takes {cold:.1f} s with nothing compiled, then {warm:.2f} s from the disk.",
    ]
    lines += ["", "| utterances | V | beam | words | flashlight-text, µs a frame | speechkit | times faster "]
    lines[-1] += "| pyctcdecode, µs a frame | speechkit | times faster |"
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for cell in result["cells"]:
        figures = " | ".join(
            f"{cell['microseconds_per_frame'][peer]:.0f} | {cell['microseconds_per_frame'][f'as {peer}']:.1f}"
            f" | {cell['times_faster'][peer]:.1f}"
            for peer in PEERS
        )
        words = "yes" if cell["words"] else "no"
        lines.append(f"| {cell['source']} | {cell['symbols']} | {cell['beam_size']} | {words} | {figures} |")
    lines += ["", f"{result['machine']}, {result['threads']} thread, {result['date']}."]
    (folder / "decoding.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure_speed(arguments: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The cells of all vocabularies, beams and kinds, and a description of the artificial utterances."""
    training = [row["text"] for manifest in TRAINING["read"] for row in read_manifest(manifest)]
    words = LanguageModel(training, folder)
    rows = read_manifest("arctic/dev")[: arguments.utterances]
    generator = torch.Generator().manual_seed(0)
    material = []
    for num_symbols in arguments.symbols:
        tokenizer = make_tokenizer(num_symbols, training)
        material.append((ARTIFICIAL, tokenizer, [make_log_probs(tokenizer, row["text"], generator) for row in rows]))
    tops = torch.cat([log_probs.amax(1).exp() for _, _, utterances in material for log_probs in utterances])
    description = (
        f"the likeliest symbol has {tops.mean():.2f} on average, over 0.9 in {(tops > 0.9).float().mean():.0%}"
    )
    if (arguments.bundles / "read" / "bundle").exists():
        recognizer = Recognizer.load(arguments.bundles / "read" / "bundle")
        material.append(("read bundle", recognizer.tokenizer, recorded_log_probs(recognizer, rows)))
    cells = []
    for source, tokenizer, utterances in material:
        for beam_size, model in itertools.product(arguments.beams, (None, words)):
            cell = measure_cell(tokenizer, model, utterances, beam_size, arguments.rounds)
            cells.append({"source": source, "symbols": tokenizer.vocab_size, **cell})
            print(json.dumps(cells[-1]), flush=True)
    return cells, description


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, nargs="+", default=SYMBOLS, help="V (%(default)s)")
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS, help="(%(default)s)")
    parser.add_argument("--utterances", type=int, default=10, help="of arctic/dev, for the time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (%(default)s)")
    parser.add_argument("--bundles", type=Path, default=Path("runs/bench"), help="NAME/bundle, read and digits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # pyctcdecode's, of words and spaces
    answers, own_weights = [], []
    with tempfile.TemporaryDirectory() as folder:
        cells, material = measure_speed(arguments, Path(folder))
        for name, beam_size in itertools.product(MEASURED, arguments.beams):
            bundle = arguments.bundles / name / "bundle"
            if bundle.exists():
                answers += measure_answers(name, bundle, Path(folder), beam_size)
        for name in MEASURED:
            bundle = arguments.bundles / name / "bundle"
            if bundle.exists():
                own_weights += measure_own_weights(name, bundle, Path(folder), arguments.beams)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": 1,
        "python": platform.python_version(),
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("torch", "numba", "numpy", "flashlight-text", "pyctcdecode", "kenlm")
        },
        "material": material,
        "summary": summarize(cells),
        "first_call_seconds": measure_first_call(),
        "answers": answers,
        "own_weights": own_weights,
        "cells": cells,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "decoding.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(result, arguments.results)


if __name__ == "__main__":
    main()
