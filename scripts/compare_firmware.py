"""The exported C against the numpy executor: every code of every layer, and the text, on real recordings.

`python scripts/compare_firmware.py BUNDLE MANIFEST` exports an int8 bundle, compiles it, and adds a row to
benchmarks/results/firmware.json: codes compared, whether all are equal, memory, size, and processor seconds.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from speechkit.audio import load_audio
from speechkit.data.manifest import expand_path, read_utterances
from speechkit.decoding import greedy_spans
from speechkit.export import FirmwareFrontEnd, RecognizerExport, export_recognizer
from speechkit.export.network_c import write_network_vectors
from speechkit.export.recognizer_c import write_wav
from speechkit.integer_bundle import IntegerBundle, load_integer_bundle
from speechkit.runtime.front_end import INT16_SCALE, IntegerFrontEnd

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "firmware.json"


def run(*command: str, folder: Path) -> str:
    """Standard output; a failure is shown and ends the script."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed: {done.stdout[-2000:]}")
    return done.stdout


def write_reference(bundle: IntegerBundle, samples: np.ndarray, vectors: Path) -> str:
    """Vectors of one recording, and its text."""
    vectors.mkdir()
    pcm = np.rint(samples * INT16_SCALE).clip(-32768, 32767).astype(np.int16)
    codes = IntegerFrontEnd(bundle.tables)(samples)
    (vectors / "input_int16.bin").write_bytes(pcm.astype("<i2").tobytes())
    (vectors / "codes_int8.bin").write_bytes(codes.tobytes())
    write_wav(vectors / "input.wav", pcm, bundle.sample_rate_hz)
    logits = write_network_vectors(bundle.network, codes, vectors)[-1]
    return bundle.tokenizer.decode(greedy_spans(logits)[0])


def export(bundle: IntegerBundle, folder: Path) -> RecognizerExport:
    """Into a folder, compiled."""
    domain = bundle.network.domain
    front_end = FirmwareFrontEnd(bundle.tables, bundle.sample_rate_hz, domain.scale, domain.zero_point)
    result = export_recognizer(front_end, bundle.network, bundle.tokenizer, folder)
    run("make", "-s", "recognize", "check_network", "CFLAGS=-O3", folder=folder)
    return result


def code_bytes(folder: Path, flash_bytes: int) -> int:
    """Machine code and constants of the three files for the product, without tables and weights."""
    sizes = run("make", "-s", "size", "CFLAGS=-Os", folder=folder)
    return sum(int(text) for text in re.findall(r"^\s*(\d+)\s", sizes, re.MULTILINE)) - flash_bytes


def compare(bundle: IntegerBundle, manifest: str, count: int) -> dict[str, Any]:
    """One row of the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = export(bundle, folder)
        utterances = read_utterances(expand_path(manifest))
        seconds, texts, names = 0.0, [], []
        for place, utterance in enumerate(utterances[:: max(1, len(utterances) // count)][:count]):
            samples = load_audio(utterance.audio_path, bundle.sample_rate_hz)
            seconds += len(samples) / bundle.sample_rate_hz
            names.append(f"recording{place}")
            texts.append(write_reference(bundle, samples, folder / names[-1]))
        checked = run("./check_network", *names, folder=folder)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        heard = run("./recognize", *(f"{name}/input.wav" for name in names), folder=folder).splitlines()
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        return {
            "utterances": len(names),
            "audio_seconds": round(seconds, 1),
            "utterances_with_all_codes_equal": checked.count("equal:"),
            "codes_compared": sum(int(number) for number in re.findall(r"^equal: (\d+)", checked, re.MULTILINE)),
            "texts_equal": sum(first == second for first, second in zip(heard, texts, strict=True)),
            "ram_bytes": sum(exported.ram_bytes.values()),
            "flash_bytes": exported.flash_bytes,
            "code_bytes_x86_64": code_bytes(folder, exported.flash_bytes),
            "multiply_adds_per_second": exported.multiply_adds_per_second,
            "times_real_time": round(seconds / spent, 1),
        }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", help="int8")
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("--name", required=True, help="of the row")
    parser.add_argument(
        "--utterances", type=int, default=200, metavar="N", help="spread over the manifest (%(default)s)"
    )
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[arguments.name] = compare(
        load_integer_bundle(arguments.bundle), arguments.manifest, arguments.utterances
    ) | {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "compiler": subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
            0
        ],
    }
    print(json.dumps(results[arguments.name], indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
