"""The CTC loss against torch's own, forward and backward from logits: times, ratios, and error in hard regimes.

`python scripts/benchmark_ctc.py` writes benchmarks/results/ctc.json and ctc.md. Peers take turns within one run;
medians of rounds. Ratios last, seconds do not. Without a GPU the cells of CUDA stay empty.
"""

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.losses import ctc_loss

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FRAMES, SYMBOLS, LABELS, BATCHES = (250, 500, 1000, 2000), (32, 128, 1024, 5000), (25, 50, 100, 200), (8, 32, 128)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def torch_loss(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """The peer; its operator takes no half precision."""
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, frames, labels)


PEERS: dict[str, Loss] = {"torch": torch_loss, "speechkit": ctc_loss}


def make_batch(shape: tuple[int, int, int, int], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random logits and targets of (T, V, U, B), no utterance padded."""
    num_frames, num_symbols, num_labels, batch = shape
    noise = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, num_frames, num_symbols, generator=noise).to(device),
        torch.randint(1, num_symbols, (batch, num_labels), generator=noise).to(device),
        torch.full((batch,), num_frames),
        torch.full((batch,), num_labels),
    )


def measure(
    shape: tuple[int, int, int, int], dtype: str, device: str, rounds: int, most_seconds: float
) -> dict[str, Any]:
    """Median seconds of each peer for one forward and backward pass."""
    logits, *rest = make_batch(shape, device)
    logits = logits.to(DTYPES[dtype])
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    began = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() - began > most_seconds:
            break
        for name, loss in PEERS.items():
            x = logits.clone().requires_grad_()
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            loss(x, *rest).backward()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        **dict(zip(("frames", "symbols", "labels", "batch"), shape, strict=True)),
        "dtype": dtype,
        "device": device,
        "rounds": len(times["torch"]),
        "seconds": seconds,
        "ratio": seconds["torch"] / seconds["speechkit"],
    }


def measure_error() -> list[dict[str, Any]]:
    """Largest error of the gradient of single precision against torch's float64, in regimes where it is hard."""
    rows = []
    for name, shape, scale, for_blank in (
        ("20000 frames, 200 labels", (20000, 32, 200, 1), 1.0, 0.0),
        ("logits times ten", (1000, 32, 100, 2), 10.0, 0.0),
        ("blank 50 above the rest", (1000, 32, 100, 2), 1.0, 50.0),
        ("5000 symbols, logits times three", (500, 5000, 100, 2), 3.0, 0.0),
    ):
        logits, *rest = make_batch(shape, "cpu")
        logits = scale * logits
        logits[..., 0] += for_blank
        gradients = {}
        for peer, loss, x in (("truth", torch_loss, logits.double()), *((*peer, logits) for peer in PEERS.items())):
            x = x.clone().requires_grad_()
            loss(x, *rest).backward()
            gradients[peer] = shape[2] * shape[3] * x.grad.double()  # of the sum of losses, not of their mean
        error = {peer: float((gradients[peer] - gradients["truth"]).abs().max()) for peer in PEERS}
        rows.append({"regime": name, "largest_error": error})
    return rows


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean log."""
    return math.exp(statistics.mean(map(math.log, ratios)))


def write_table(result: dict[str, Any], folder: Path) -> None:
    """ctc.md from the JSON."""
    lines = [
        "# CTC loss",
        "",
        "Made by `scripts/benchmark_ctc.py` from `ctc.json`: forward and backward from logits.",
        "",
    ]
    lines += ["| times faster than torch | geometric mean | least | shapes |", "|---|---|---|---|"]
    for device in ("cpu", "cuda"):
        cells = [cell for cell in result["cells"] if cell["device"] == device]
        groups: list[tuple[str, list[float]]] = [(device, [cell["ratio"] for cell in cells])]
        if cells:
            for dtype, symbols in itertools.product(DTYPES, SYMBOLS):
                ratios = [cell["ratio"] for cell in cells if cell["dtype"] == dtype and cell["symbols"] == symbols]
                groups.append((f"{device}, {dtype}, V = {symbols}", ratios))
        for name, ratios in groups:
            if ratios:
                lines.append(f"| {name} | {geometric_mean(ratios):.1f} | {min(ratios):.1f} | {len(ratios)} |")
            elif name == device:
                lines.append(f"| {name} | | | 0 |")
    lines += ["", "| largest error of the gradient in fp32 | speechkit | torch |", "|---|---|---|"]
    for row in result["error"]:
        error = row["largest_error"]
        lines.append(f"| {row['regime']} | {error['speechkit']:.1e} | {error['torch']:.1e} |")
    lines += ["", "| device | type | T | V | U | B | torch, ms | speechkit, ms | ratio |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for cell in result["cells"]:
        shape = " | ".join(str(cell[key]) for key in ("device", "dtype", "frames", "symbols", "labels", "batch"))
        milliseconds = " | ".join(f"{1e3 * cell['seconds'][peer]:.1f}" for peer in PEERS)
        lines.append(f"| {shape} | {milliseconds} | {cell['ratio']:.1f} |")
    if result["skipped"]:
        lines += ["", f"Skipped, as their logits exceed {result['most_gigabytes']} GB or there is no GPU:"]
        lines += [f"- {line}" for line in result["skipped"]]
    lines += ["", f"{result['machine']}, {result['threads']} threads, {result['date']}."]
    (folder / "ctc.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES, help="T (%(default)s)")
    parser.add_argument("--symbols", type=int, nargs="+", default=SYMBOLS, help="V (%(default)s)")
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="U (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="B (%(default)s)")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=tuple(DTYPES), help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="at most, for each shape (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="for a shape, after which no round starts (%(default)s)"
    )
    parser.add_argument("--gigabytes", type=float, default=1.5, help="of fp32 logits, above which a shape is skipped")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="eight small shapes in fp32, three rounds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.symbols, arguments.labels = [250, 500], [32, 1024], [25, 50]
        arguments.batches, arguments.dtypes, arguments.rounds = [8], ["fp32"], 3
    torch.set_num_threads(arguments.threads)
    grid = list(
        itertools.product(
            arguments.dtypes,
            itertools.product(arguments.frames, arguments.symbols, arguments.labels, arguments.batches),
        )
    )
    cells, skipped = [], []
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            skipped.append("cuda: there is no GPU")
            print(skipped[-1])
            continue
        for dtype, shape in grid:
            num_frames, num_symbols, num_labels, batch = shape
            name = f"{device}, {dtype}, T = {num_frames}, V = {num_symbols}, U = {num_labels}, B = {batch}"
            if num_frames * num_symbols * batch * 4 > arguments.gigabytes * 1e9:
                skipped.append(name)
                continue
            cells.append(measure(shape, dtype, device, arguments.rounds, arguments.seconds))
            print(f"{name}: {cells[-1]['ratio']:.1f}", flush=True)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": arguments.threads,
        "python": platform.python_version(),
        "versions": {
            package: importlib.metadata.version(package) for package in ("torch", "numba", "llvmlite", "numpy")
        },
        "most_gigabytes": arguments.gigabytes,
        "geometric_mean": {},
        "least": {},
        "error": measure_error(),
        "cells": cells,
        "skipped": skipped,
    }
    for device in ("cpu", "cuda"):
        ratios = [cell["ratio"] for cell in cells if cell["device"] == device]
        result["geometric_mean"][device] = geometric_mean(ratios) if ratios else None
        result["least"][device] = min(ratios, default=None)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "ctc.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(result, arguments.results)


if __name__ == "__main__":
    main()
