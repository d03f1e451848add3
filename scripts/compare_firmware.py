"""The exported C and ONNX Runtime against the numpy executor: every code of every layer, and the text, on recordings.

`python scripts/compare_firmware.py BUNDLE MANIFEST` exports an int8 bundle, compiles it, and adds a row to
benchmarks/results/firmware.json: codes compared, whether all are equal, memory, size, and processor seconds. With the
float bundle that it was made from and the checkpoint of its training (--float, --ckpt) the forward pass of
quantization-aware training is compared too.
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
import onnx
import onnxruntime
import torch

from speechkit.audio import load_audio
from speechkit.data.manifest import expand_path, read_utterances
from speechkit.decoding import greedy_spans
from speechkit.export import FirmwareFrontEnd, RecognizerExport, export_recognizer
from speechkit.export.network_c import write_network_vectors
from speechkit.export.recognizer_c import write_wav
from speechkit.integer_bundle import IntegerBundle, load_integer_bundle
from speechkit.integer_model import as_uint8
from speechkit.quantization.quantized_network import QuantizedNetwork
from speechkit.quantized_parts import quantized_parts
from speechkit.runtime import run_layers
from speechkit.runtime.front_end import INT16_SCALE, IntegerFrontEnd
from speechkit.runtime.network import network_digest
from speechkit.runtime.onnx_session import session_arguments

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


def trained_network(float_bundle: str, checkpoint: str, weight_bits: int, bundle: IntegerBundle) -> QuantizedNetwork:
    """The network as it was trained, in evaluation; it must be the bundle's."""
    network = quantized_parts(float_bundle, weight_bits=weight_bits).network
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    network.load_state_dict(own)
    network.eval().set_mode("quantize")
    if network_digest(network.to_integer()) != network_digest(bundle.network):
        raise SystemExit(f"--ckpt {checkpoint} and --float {float_bundle} do not make the network of the bundle")
    return network


def session_of_all_layers(bundle: IntegerBundle) -> tuple[Any, list[str]]:
    """ONNX Runtime, giving the codes of every layer: where they are quantized in the graph."""
    model = onnx.load_from_string(bundle.onnx)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), **session_arguments()), names


class Differences:
    """Codes of ONNX Runtime and of training that are not those of numpy."""

    def __init__(self, bundle: IntegerBundle, network: QuantizedNetwork | None) -> None:
        self.bundle, self.network = bundle, network
        self.session, self.names = session_of_all_layers(bundle)
        self.num_codes = self.onnx_runtime = self.training = 0

    def add(self, samples: np.ndarray) -> None:
        codes = IntegerFrontEnd(self.bundle.tables)(samples)
        expected = run_layers(self.bundle.network, codes)[1:]
        self.num_codes += sum(tensor.size for tensor in expected)
        found = self.session.run(self.names, {"codes": as_uint8(codes)[None]})
        for tensor, output in zip(expected, found, strict=True):
            self.onnx_runtime += int((as_uint8(tensor) != output[0, :, 0].T).sum())
        if self.network is None:
            return
        values = torch.from_numpy(self.bundle.network.domain.values(codes))[None]
        with torch.inference_mode():
            activations, _ = self.network.activations(values, torch.tensor([len(codes)]))
        for tensor, activation, domain in zip(expected, activations[1:], self.bundle.network.domains[1:], strict=True):
            self.training += int((activation.steps[0].T.numpy() + domain.zero_point != tensor).sum())

    def as_dict(self) -> dict[str, int]:
        found = {"codes_of_layers": self.num_codes, "onnx_runtime_differs": self.onnx_runtime}
        return found | ({} if self.network is None else {"training_differs": self.training})


def compare(bundle: IntegerBundle, manifest: str, count: int, network: QuantizedNetwork | None) -> dict[str, Any]:
    """One row of the results."""
    differences = Differences(bundle, network)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = export(bundle, folder)
        utterances = read_utterances(expand_path(manifest))
        seconds, texts, names = 0.0, [], []
        for place, utterance in enumerate(utterances[:: max(1, len(utterances) // count)][:count]):
            samples = load_audio(utterance.audio_path, bundle.sample_rate_hz)
            seconds += len(samples) / bundle.sample_rate_hz
            names.append(f"recording{place}")
            differences.add(samples)
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
            **differences.as_dict(),
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
    parser.add_argument("--float", metavar="BUNDLE", help="that the int8 one was made from, to compare training too")
    parser.add_argument("--ckpt", metavar="FILE", help="of its quantization-aware training")
    parser.add_argument("--weight-bits", type=int, default=8, metavar="N", help="of that training (%(default)s)")
    arguments = parser.parse_args()
    if (arguments.float is None) != (arguments.ckpt is None):
        parser.error("--float and --ckpt belong together")
    bundle = load_integer_bundle(arguments.bundle)
    network = (
        trained_network(arguments.float, arguments.ckpt, arguments.weight_bits, bundle) if arguments.float else None
    )
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[arguments.name] = compare(bundle, arguments.manifest, arguments.utterances, network) | {
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
