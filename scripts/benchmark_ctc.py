"""The CTC loss against torch's own and cuDNN's, forward and backward from logits: time, memory, error in hard regimes.

`python scripts/benchmark_ctc.py` writes benchmarks/results/ctc.json, ctc.md and docs/ctc.png. Peers take turns within
one run; medians of rounds. Ratios last, seconds do not. Without a GPU the cells of CUDA stay empty. A shape that has
been measured is kept, line by line, in --cells, and an interrupted run goes on behind it.
"""

import argparse
import importlib.metadata
import itertools
import json
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
from memory import peak_bytes
from torch import Tensor

from speechkit.losses import ctc_loss

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FRAMES, SYMBOLS, LABELS, BATCHES = (250, 500, 1000, 2000), (32, 128, 1024, 5000), (25, 50, 100, 200), (8, 32, 128)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Shape = tuple[int, int, int, int]


def torch_loss(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """The peer; its operator takes no half precision."""
    with torch.backends.cudnn.flags(enabled=False):
        return F.ctc_loss(logits.float().log_softmax(-1).transpose(0, 1), targets, frames, labels)


def cudnn_loss(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """cuDNN's, which torch takes for blank 0, float32, joined int32 targets of fewer than 256 labels, full lengths."""
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, targets.flatten().int(), frames.int(), labels.int())


PEERS: dict[str, dict[str, Loss]] = {
    "cpu": {"torch": torch_loss, "speechkit": ctc_loss},
    "cuda": {"torch": torch_loss, "cudnn": cudnn_loss, "speechkit": ctc_loss},
}


def make_batch(shape: Shape, device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random logits and targets of (T, V, U, B), no utterance padded."""
    num_frames, num_symbols, num_labels, batch = shape
    noise = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, num_frames, num_symbols, generator=noise).to(device, dtype),
        torch.randint(1, num_symbols, (batch, num_labels), generator=noise).to(device),
        torch.full((batch,), num_frames, device=device),
        torch.full((batch,), num_labels, device=device),
    )


def forward_backward(loss: Loss, batch: tuple[Tensor, ...], device: str) -> float:
    """Seconds of one pass."""
    logits = batch[0].detach().requires_grad_()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    torch.autograd.grad(loss(logits, *batch[1:]), logits)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(loss: Loss, batch: tuple[Tensor, ...], device: str) -> int:
    """Bytes that one pass takes beside the batch, the gradient included."""
    return peak_bytes(lambda: forward_backward(loss, batch, device), device)


def measure(shape: Shape, dtype: str, device: str, rounds: int, most_seconds: float) -> dict[str, Any]:
    """Median seconds of each peer for one forward and backward pass, and its peak memory."""
    batch = make_batch(shape, device, DTYPES[dtype])
    peers = PEERS[device]
    times: dict[str, list[float]] = {name: [] for name in peers}
    began = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() - began > most_seconds:
            break
        for name, loss in peers.items():
            seconds = forward_backward(loss, batch, device)
            if turn:  # the first round warms up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    memory = {name: peak_memory(loss, batch, device) for name, loss in peers.items()}
    others = [name for name in peers if name != "speechkit"]
    return {
        **dict(zip(("frames", "symbols", "labels", "batch"), shape, strict=True)),
        "dtype": dtype,
        "device": device,
        "rounds": len(times["torch"]),
        "seconds": medians,
        "peak_bytes": memory,
        "times_faster": {name: medians[name] / medians["speechkit"] for name in others},
        "share_of_memory": {name: memory["speechkit"] / max(memory[name], 1) for name in others},
    }


def measure_error(device: str) -> list[dict[str, Any]]:
    """Largest error of the gradient of single precision against torch's float64, in regimes where it is hard."""
    rows = []
    for name, shape, scale, for_blank in (
        ("20000 frames, 2000 labels", (20000, 32, 2000, 1), 1.0, 0.0),
        ("logits times ten", (1000, 32, 100, 2), 10.0, 0.0),
        ("blank 50 above the rest", (1000, 32, 100, 2), 1.0, 50.0),
        ("5000 symbols, logits times three", (500, 5000, 100, 2), 3.0, 0.0),
    ):
        logits, *rest = make_batch(shape, "cpu")
        logits = scale * logits
        logits[..., 0] += for_blank
        truth = gradient_of_sum(torch_loss_float64, logits, rest)
        error = {}
        for peer, loss in PEERS[device].items():
            if peer != "cudnn" or shape[2] < 256:
                found = gradient_of_sum(loss, logits.to(device), [x.to(device) for x in rest]).cpu()
                error[peer] = float((found - truth).abs().max())
        rows.append({"regime": name, "device": device, "largest_error": error})
    return rows


def torch_loss_float64(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """The truth."""
    return F.ctc_loss(logits.double().log_softmax(-1).transpose(0, 1), targets, frames, labels)


def gradient_of_sum(loss: Loss, logits: Tensor, rest: Sequence[Tensor]) -> Tensor:
    """Of the losses' sum, where the peers give their mean over labels and utterances."""
    logits = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, *rest), logits)
    return rest[2].sum().item() * gradient.double()


FIRST_CALL = """
import time, torch
from speechkit.losses import ctc_loss
logits = torch.randn(8, 250, 32, requires_grad=True)
start = time.perf_counter()
ctc_loss(logits, torch.randint(1, 32, (8, 25)), torch.full((8,), 250), torch.full((8,), 25)).backward()
print(time.perf_counter() - start)
"""


def measure_first_call() -> dict[str, float]:
    """Seconds of a process's first forward and backward pass on a CPU, with nothing compiled and then from the disk."""
    with tempfile.TemporaryDirectory() as folder:
        command, environment = [sys.executable, "-c", FIRST_CALL], {**os.environ, "NUMBA_CACHE_DIR": folder}
        calls = [
            float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(4)
        ]
    return {"nothing compiled": calls[0], "from the disk, median": statistics.median(calls[1:])}


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean log."""
    return math.exp(statistics.mean(map(math.log, ratios)))


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means and extremes over the cells of one device."""
    result = {}
    for peer in cells[0]["times_faster"] if cells else ():
        faster = [cell["times_faster"][peer] for cell in cells]
        memory = [cell["share_of_memory"][peer] for cell in cells]
        result[peer] = {
            "shapes": len(cells),
            "times_faster": {"geometric_mean": geometric_mean(faster), "least": min(faster)},
            "share_of_memory": {"geometric_mean": geometric_mean(memory), "most": max(memory)},
        }
    return result


def summary_rows(result: dict[str, Any]) -> list[str]:
    """Lines of the table: each device, and on it each type and number of symbols."""
    rows = []
    for device, peers in PEERS.items():
        cells = [cell for cell in result["cells"] if cell["device"] == device]
        groups = {device: cells}
        for dtype, symbols in itertools.product(DTYPES, SYMBOLS):
            groups[f"{device}, {dtype}, V = {symbols}"] = [
                cell for cell in cells if cell["dtype"] == dtype and cell["symbols"] == symbols
            ]
        for name, group in groups.items():
            figures = summary(group)
            for peer in peers:
                if peer in figures:
                    faster, memory = figures[peer]["times_faster"], figures[peer]["share_of_memory"]
                    rows.append(
                        f"| {name} | {peer} | {faster['geometric_mean']:.1f} | {faster['least']:.1f} |"
                        f" {memory['geometric_mean']:.2f} | {memory['most']:.2f} | {len(group)} |"
                    )
                elif peer != "speechkit" and name == device:
                    rows.append(f"| {name} | {peer} | | | | | 0 |")
    return rows


def write_table(result: dict[str, Any], folder: Path) -> None:
    """ctc.md from the JSON."""
    lines = [
        "# CTC loss",
        "",
        "Made by `scripts/benchmark_ctc.py` from `ctc.json`: forward and backward from logits. Memory: the peak of one",
        "pass beside its input, the gradient included, as a share of the peer's.",
        "",
        "| | peer | times faster, geometric mean | least | memory, geometric mean | most | shapes |",
        "|---|---|---|---|---|---|---|",
        *summary_rows(result),
        "",
        "| largest error of the gradient in fp32 | device | speechkit | torch |",
        "|---|---|---|---|",
    ]
    for row in result["error"]:
        error = row["largest_error"]
        lines.append(f"| {row['regime']} | {row['device']} | {error['speechkit']:.1e} | {error['torch']:.1e} |")
    cold, warm = result["first_call_seconds"].values()
    lines += ["", f"A process's first call takes {cold:.1f} s with nothing compiled, then {warm:.2f} s from the disk."]
    lines += ["", "| device | type | T | V | U | B | torch, ms | speechkit, ms | times faster | memory |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for cell in result["cells"]:
        shape = " | ".join(str(cell[key]) for key in ("device", "dtype", "frames", "symbols", "labels", "batch"))
        milliseconds = " | ".join(f"{1e3 * cell['seconds'][peer]:.1f}" for peer in ("torch", "speechkit"))
        ratios = f"{cell['times_faster']['torch']:.1f} | {cell['share_of_memory']['torch']:.2f}"
        lines.append(f"| {shape} | {milliseconds} | {ratios} |")
    if result["skipped"]:
        lines += ["", "Left out:"]
        lines += [f"- {line}" for line in result["skipped"]]
    lines += ["", f"{result['machine']}, {result['gpu'] or 'no GPU'}, {result['threads']} threads, {result['date']}."]
    (folder / "ctc.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def plot(result: dict[str, Any], path: Path) -> None:
    """Times faster than torch over the number of symbols, a dot a shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    for place, (device, dtype) in enumerate(itertools.product(PEERS, DTYPES)):
        cells = [cell for cell in result["cells"] if cell["device"] == device and cell["dtype"] == dtype]
        if cells:
            shift = 1.0 + 0.15 * (place % len(DTYPES))
            axes.loglog(
                [shift * cell["symbols"] for cell in cells],
                [cell["times_faster"]["torch"] for cell in cells],
                ".",
                alpha=0.5,
                label=f"{device}, {dtype}",
            )
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.set_xticks(SYMBOLS, map(str, SYMBOLS))
    axes.set_yticks((1, 2, 5, 10, 20), ("1", "2", "5", "10", "20"))
    axes.minorticks_off()
    axes.set_xlabel("symbols")
    axes.set_ylabel("times faster than torch")
    axes.set_title("CTC loss, forward and backward (a dot: a shape of T, U, B)", fontsize="medium")
    axes.legend(fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES, help="T (%(default)s)")
    parser.add_argument("--symbols", type=int, nargs="+", default=SYMBOLS, help="V (%(default)s)")
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="U (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="B (%(default)s)")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=tuple(DTYPES), help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="at most, for each shape (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="after which a shape gets no new round")
    parser.add_argument("--gigabytes", type=float, default=1.5, help="of fp32 logits, above which a CPU skips a shape")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="eight small shapes in fp32, three rounds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--cells", type=Path, default=Path("runs/ctc.jsonl"), help="to go on from (%(default)s)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.symbols, arguments.labels = [250, 500], [32, 1024], [25, 50]
        arguments.batches, arguments.dtypes, arguments.rounds = [8], ["fp32"], 3
    torch.set_num_threads(arguments.threads)
    devices = [device for device in PEERS if device == "cpu" or torch.cuda.is_available()]
    cells, skipped = measure_grid(arguments, devices)
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
        "summary": {device: summary([cell for cell in cells if cell["device"] == device]) for device in PEERS},
        "first_call_seconds": measure_first_call(),
        "error": [row for device in devices for row in measure_error(device)],
        "cells": cells,
        "skipped": skipped,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "ctc.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(result, arguments.results)
    if arguments.results == RESULTS:
        plot(result, RESULTS.parent.parent / "docs" / "ctc.png")


def measure_grid(arguments: argparse.Namespace, devices: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The cells, those that are on disk as they are, and what was left out."""
    arguments.cells.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.cells.read_text(encoding="utf-8").splitlines() if arguments.cells.exists() else []
    keys = ("device", "dtype", "frames", "symbols", "labels", "batch")
    known = {tuple(cell[key] for key in keys): cell for cell in map(json.loads, lines)}
    cells, skipped = [], [f"{device}: there is none" for device in PEERS if device not in devices]
    shapes = (arguments.frames, arguments.symbols, arguments.labels, arguments.batches)
    for device, dtype, *shape in itertools.product(devices, arguments.dtypes, *shapes):
        num_frames, num_symbols, _, batch = shape
        name = f"{device}, {dtype}, T = {num_frames}, V = {num_symbols}, U = {shape[2]}, B = {batch}"
        gigabytes = 4e-9 * num_frames * num_symbols * batch
        cell = known.get((device, dtype, *shape))
        if cell is None and device == "cpu" and gigabytes > arguments.gigabytes:
            skipped.append(f"{name}: logits of {gigabytes:.1f} GB")
            continue
        if cell is None:
            cell = measure(tuple(shape), dtype, device, arguments.rounds, arguments.seconds)
            with arguments.cells.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
            ratio, memory = cell["times_faster"]["torch"], cell["share_of_memory"]["torch"]
            print(f"{name}: {ratio:.1f} times torch's speed, {memory:.2f} of its memory", flush=True)
        cells.append(cell)
    return cells, skipped


if __name__ == "__main__":
    main()
