"""An int8 bundle against its float model, from waveform to text, one thread.

`python scripts/benchmark_inference.py FLOAT INT8 MANIFEST...` writes benchmarks/results/inference.{json,md}: time and
text of ONNX Runtime int8 (the bundle as it is), ONNX Runtime float32 in its best form (norms folded, convolutions
over time as 1 x k, the same front end) and torch eager (the float bundle), in turn in one process, medians; the
networks alone; sizes of files; the time from the command line to the first text; and the step of training with and
without quantization.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import onnxruntime
import torch

from speechkit import Recognizer
from speechkit.audio import AudioSegment, load_audio
from speechkit.data import Utterance, read_utterances
from speechkit.decoding import count_errors, greedy_decode
from speechkit.export.onnx_network import float_network, network_model
from speechkit.integer_bundle import load_integer_bundle
from speechkit.integer_model import as_uint8
from speechkit.quantized_parts import quantized_parts
from speechkit.text import normalize_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ROUNDS = 7


def interleaved(jobs: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of the processor for each job, all in turn in every round; the first round is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start = time.process_time()  # one thread, so it is the time on an idle machine
            job()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def open_float_session(bundle: str) -> tuple[Any, int]:
    """ONNX Runtime over the folded float32 network, one thread; and the bytes of its file."""
    parts = quantized_parts(bundle)
    content = network_model(float_network(parts.network), input_name="features").SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]), len(content)


def bench_recognition(float_bundle: str, int8_bundle: str, utterances: list[Utterance]) -> dict[str, Any]:
    """Waveform to text, one utterance after another, and the networks alone."""
    bundle = load_integer_bundle(int8_bundle)
    tokenizer, domain = bundle.tokenizer, bundle.network.domain
    waves = [
        load_audio(item.audio_path, bundle.sample_rate_hz, offset_seconds=item.offset_seconds,
                   duration_seconds=item.duration_seconds)
        for item in utterances
    ]  # fmt: skip
    seconds = sum(map(len, waves)) / bundle.sample_rate_hz
    eager, integer = Recognizer.load(float_bundle), Recognizer.load(int8_bundle)
    front_end = integer.model.front_end
    session, _ = open_float_session(float_bundle)
    texts: dict[str, list[str]] = {}

    def text_of(logits: Any) -> str:
        (labels,) = greedy_decode(logits[None], np.array([len(logits)]), blank=tokenizer.blank_id)
        return tokenizer.decode(labels)

    def run_int8() -> None:
        texts["int8"] = [text_of(integer.model.logits(wave)) for wave in waves]

    def run_float32() -> None:
        features = (domain.values(front_end(wave)) for wave in waves)
        texts["float32"] = [text_of(session.run(None, {"features": x[None]})[0][0]) for x in features]

    def run_eager() -> None:
        levels = np.zeros(0, np.float32)
        segments = [AudioSegment(wave, levels, 0, 0, len(wave)) for wave in waves]
        texts["torch eager"] = [text_of(eager.segment_logits([segment])[0]) for segment in segments]

    codes = [front_end(wave) for wave in waves]
    values = [domain.values(each)[None] for each in codes]
    quantized = [as_uint8(each)[None] for each in codes]
    int8_session: Any = integer.model._session
    whole = interleaved({"int8": run_int8, "float32": run_float32, "torch eager": run_eager})
    alone = interleaved(
        {
            "front end": lambda: [front_end(wave) for wave in waves],
            "int8 network": lambda: [int8_session.run(None, {"codes": each}) for each in quantized],
            "float32 network": lambda: [session.run(None, {"features": each}) for each in values],
        }
    )
    references = [normalize_text(item.text or "").split() for item in utterances]
    return {
        "utterances": len(waves),
        "audio_seconds": seconds,
        "seconds": whole,
        "times_real_time": {name: seconds / value for name, value in whole.items()},
        "seconds_of_parts": alone,
        "wer": {
            name: sum(count_errors(r, h.split()).errors for r, h in zip(references, hypotheses, strict=True))
            / max(1, sum(map(len, references)))
            for name, hypotheses in texts.items()
        },
        "int8_over_float32": whole["float32"] / whole["int8"],
        "int8_over_float32_network": alone["float32 network"] / alone["int8 network"],
        "int8_over_eager": whole["torch eager"] / whole["int8"],
    }


def sizes(float_bundle: str, int8_bundle: str) -> dict[str, int]:
    """Bytes of bundles and of ONNX files."""
    return {
        "float32 onnx": open_float_session(float_bundle)[1],
        "int8 onnx": len(load_integer_bundle(int8_bundle).onnx),
        "float bundle": _bytes(Path(float_bundle)),
        "int8 bundle": _bytes(Path(int8_bundle)),
    }


def bench_start(int8_bundle: str, file: Path) -> dict[str, float]:
    """From the command line to the text of one file, with a warm disk cache: median and least of processes."""
    command = [sys.executable, "-m", "speechkit", "transcribe", "--model", int8_bundle, str(file)]
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return {"median_seconds": statistics.median(seconds[1:]), "least_seconds": min(seconds[1:])}


def bench_training(float_bundle: str) -> dict[str, Any]:
    """A step of AdamW on noise (8 utterances of 4 s): the float model, live norms, and folded norms."""
    parts = quantized_parts(float_bundle, arithmetic="float")
    head, encoder = parts.bundle.head, parts.bundle.encoder
    assert head is not None
    hop = parts.front_end.hop_seconds
    x = torch.randn(8, round(4.0 / hop), parts.front_end.num_features)
    frames = torch.full((8,), x.shape[1])
    parts.network.set_mode("observe")
    with torch.no_grad():
        parts.network(x, frames)
    parts.network.calibrate()
    parts.network.train()
    encoder.train()

    def step(module: Any, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(x, frames)[0].square().mean().backward()
        optimizer.step()

    def float_step() -> None:
        step(lambda x, frames: head(*encoder(x, frames)), float_optimizer)

    def quantized_step(*, frozen: bool) -> None:
        parts.network.set_mode("quantize", frozen=frozen)
        step(parts.network, optimizer)

    float_optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-5)
    optimizer = torch.optim.AdamW(parts.network.parameters(), lr=1e-5)
    seconds = interleaved(
        {
            "float": float_step,
            "live norms": lambda: quantized_step(frozen=False),
            "folded norms": lambda: quantized_step(frozen=True),
        },
        rounds=3 * ROUNDS,
    )
    return {
        "seconds": seconds,
        "live_over_float": seconds["live norms"] / seconds["float"],
        "folded_over_float": seconds["folded norms"] / seconds["float"],
    }


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def _recognition_table(name: str, part: Mapping[str, Any]) -> list[str]:
    seconds = part["audio_seconds"]
    return [
        "",
        f"## {name}: {part['utterances']} utterances, {seconds:.0f} s of audio, one by one",
        "",
        "| waveform to text | ms a second of audio | times real time | WER % |",
        "|---|---|---|---|",
        *(
            f"| {way} | {1000 * value / seconds:.2f} | {part['times_real_time'][way]:.0f} "
            f"| {100 * part['wer'][way]:.2f} |"
            for way, value in part["seconds"].items()
        ),
        *(f"| {step} | {1000 * value / seconds:.2f} | | |" for step, value in part["seconds_of_parts"].items()),
        "",
        f"int8 is {part['int8_over_float32']:.2f} x as fast as float32 under ONNX Runtime from waveform to text, "
        f"{part['int8_over_float32_network']:.2f} x in the network alone, and {part['int8_over_eager']:.1f} x as fast "
        "as torch eager.",
    ]


def as_markdown(results: Mapping[str, Any]) -> str:
    """The figures for people."""
    training = results["training"]
    tables = [line for name, part in results["recognition"].items() for line in _recognition_table(name, part)]
    sizes = ", ".join(f"{name} {size}" for name, size in results["bytes"].items())
    return "\n".join(
        [
            "# Inference in int8",
            "",
            f"{results['machine']}, one thread; {results['command']}; {results['date']}.",
            *tables,
            "",
            f"Bytes: {sizes}. Start to text: {results['start']['median_seconds']:.2f} s.",
            "",
            f"A step of training with quantization takes {training['live_over_float']:.2f} of a float step while norms "
            f"live, {training['folded_over_float']:.2f} once they are folded.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_bundle")
    parser.add_argument("int8_bundle")
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--most", type=int, default=200, help="utterances of each (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "inference.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = {}
    for manifest in map(Path, arguments.manifests):
        every = read_utterances(manifest)
        sets[f"{manifest.parent.name}/{manifest.stem}"] = every[:: max(1, len(every) // arguments.most)][
            : arguments.most
        ]
    first = next(iter(sets.values()))[0]
    results = {
        "date": date.today().isoformat(),
        "command": "python scripts/benchmark_inference.py FLOAT INT8 MANIFEST...",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
        "recognition": {
            name: bench_recognition(arguments.float_bundle, arguments.int8_bundle, utterances)
            for name, utterances in sets.items()
        },
        "bytes": sizes(arguments.float_bundle, arguments.int8_bundle),
        "start": bench_start(arguments.int8_bundle, Path(first.audio_path)),
        "training": bench_training(arguments.float_bundle),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(as_markdown(results), encoding="utf-8")
    print(as_markdown(results))


if __name__ == "__main__":
    main()
