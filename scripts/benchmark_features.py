"""Front ends against their peers: error, speed, memory, and the signal-to-noise ratio of quantized features.

`python scripts/benchmark_features.py` writes benchmarks/results/features.json and features.md. One thread, real audio,
peers interleaved in one run, medians; ratios last, seconds do not.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from speechkit.audio import load_audio
from speechkit.features import MFB, MFCC, GlobalCMVN, LibrosaMFB, MicroMFB, QuantizedFrontEnd
from speechkit.quantization import QParams

torch.set_num_threads(1)
RATE = 16000
DATA = Path(os.environ.get("SPEECHKIT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
SETS = ("arctic", "speechocean", "libri-unlabelled")


def read_speech(seconds: float) -> np.ndarray:
    """Files of three corpora in turn, as long as asked, float32 at 16 kHz."""
    lists = [sorted((DATA / name / "audio").rglob("*.opus")) for name in SETS]
    pieces: list[np.ndarray] = []
    total = 0.0
    for trio in zip(*[files * 20 for files in lists], strict=False):
        for file in trio:
            pieces.append(load_audio(file, RATE))
            total += len(pieces[-1]) / RATE
        if total >= seconds:
            break
    return np.concatenate(pieces)[: int(seconds * RATE)]


def run(front_end: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    """One utterance through a front end."""
    with torch.inference_mode():
        result: np.ndarray = front_end(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].numpy()
    return result


def kaldi_native_fbank(samples: np.ndarray) -> np.ndarray:
    """The peer with the same definition."""
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0.0, 80
    peer = knf.OnlineFbank(options)
    peer.accept_waveform(RATE, samples * 32768)
    peer.input_finished()
    return np.stack([peer.get_frame(place) for place in range(peer.num_frames_ready)])


def librosa_log_mel(samples: np.ndarray) -> np.ndarray:
    """librosa's own definition, with as many frames and bins."""
    import librosa

    mel = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=400, hop_length=160, n_mels=80)
    decibels: np.ndarray = librosa.power_to_db(mel, top_db=None).T
    return decibels


def torchaudio_kaldi(samples: np.ndarray) -> np.ndarray:
    """torchaudio's version of Kaldi's definition."""
    from torchaudio.compliance import kaldi

    features: np.ndarray = kaldi.fbank(32768 * torch.from_numpy(samples)[None], num_mel_bins=80, dither=0.0).numpy()
    return features


def pymicro_features(samples: np.ndarray) -> np.ndarray:
    """TensorFlow Lite Micro's front end in C."""
    from pymicro_features import MicroFrontend

    frontend, pcm, rows = MicroFrontend(), (samples * 32767).astype("<i2").tobytes(), []
    for start in range(0, len(pcm) - 319, 320):
        output = frontend.process_samples(pcm[start : start + 320])
        if output.features:
            rows.append(output.features)
    return np.array(rows)


def bench_speed(samples: np.ndarray, rounds: int) -> dict[str, Any]:
    """Seconds per hour of audio, everything once a round."""
    mfb = MFB()
    cmvn = GlobalCMVN(80)
    cmvn.fit([mfb(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))])
    quantized = QuantizedFrontEnd(mfb, cmvn)
    librosas = LibrosaMFB(sample_rate_hz=RATE, num_mels=80, frame_seconds=0.025, hop_seconds=0.010, dynamic_range=None)
    candidates: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "speechkit MFB": lambda x: run(mfb, x),
        "speechkit MFB, int8 codes": lambda x: run(quantized, x),
        "speechkit MFB, values of the codes": lambda x: run(quantized.fake(), x),
        "speechkit MFB, integers": lambda x: run(QuantizedFrontEnd(mfb, cmvn, arithmetic="integer"), x),
        "speechkit LibrosaMFB": lambda x: run(librosas, x),
        "speechkit MicroMFB": lambda x: run(MicroMFB(), x),
        "kaldi-native-fbank": kaldi_native_fbank,
        "torchaudio.compliance.kaldi": torchaudio_kaldi,
        "librosa": librosa_log_mel,
        "pymicro-features": pymicro_features,
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate(samples)
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    per_hour = 3600 * RATE / len(samples)
    seconds = {name: statistics.median(values) * per_hour for name, values in times.items()}
    return {
        "audio_seconds": len(samples) / RATE,
        "rounds": rounds,
        "seconds_per_hour": seconds,
        "times_faster_than_kaldi_native_fbank": seconds["kaldi-native-fbank"] / seconds["speechkit MFB"],
        "times_faster_than_librosa": seconds["librosa"] / seconds["speechkit MFB"],
        "int8_over_its_float_twin": seconds["speechkit MFB, int8 codes"]
        / seconds["speechkit MFB, values of the codes"],
    }


def bench_error(samples: np.ndarray) -> dict[str, Any]:
    """Against the peer with the same definition, and both against float64."""
    from speechkit.features.framing import window_function
    from speechkit.features.mel import mel_filters

    frames = torch.from_numpy(samples).double().unfold(0, 400, 160)
    exact = []
    for block in frames.split(4096):
        block = block - block.mean(dim=-1, keepdim=True)
        block = block - 0.97 * torch.cat([block[:, :1], block[:, :-1]], dim=-1)
        spectrum = torch.fft.rfft(block * 32768 * window_function("povey", 400), n=512)
        energies = spectrum.abs().square() @ mel_filters(80, 512, RATE, 20.0, 8000.0)
        exact.append(energies.clamp(min=torch.finfo(torch.float32).eps).log().numpy())
    truth, ours, peer = np.concatenate(exact), run(MFB(), samples), kaldi_native_fbank(samples)
    pairs = {
        "speechkit to kaldi-native-fbank": (ours, peer),
        "speechkit to float64": (ours, truth),
        "kaldi-native-fbank to float64": (peer, truth),
    }
    return {
        name: {"max": float(np.abs(a - b).max()), "p99.9": float(np.quantile(np.abs(a - b), 0.999))}
        for name, (a, b) in pairs.items()
    }


def bench_domains(samples: np.ndarray) -> list[dict[str, Any]]:
    """Signal-to-noise ratio of int8 features by choice of domain (decibels, mean over features and worst feature)."""
    rows = []
    for name, front_end in (("MFB 80", MFB()), ("MFCC 13 of 23", MFCC())):
        features = run(front_end, samples)
        mean, std = features.mean(axis=0), features.std(axis=0)
        low, high = float(features.min()), float(features.max())
        scale = (high - low) / 255
        raw = QParams(scale, int(np.clip(round(-128 - low / scale), -128, 127)), "int8")
        for domain, x, qparams in (
            ("raw, from least to largest", features, raw),
            ("CMVN folded, S = 1/32, Z = 0", (features - mean) / std, QParams(1 / 32, 0, "int8")),
        ):
            assert isinstance(qparams.scale, float)
            scaled = np.rint(x / qparams.scale) + qparams.zero_point
            codes = scaled.clip(-128, 127)
            noise = np.square((codes - qparams.zero_point) * qparams.scale - x).mean(axis=0)
            snr = 10 * np.log10(x.var(axis=0) / noise)
            clipped = float((codes != scaled).mean())
            rows.append(
                {
                    "features": name,
                    "domain": domain,
                    "snr_db": float(10 * np.log10(x.var(axis=0).mean() / noise.mean())),
                    "worst_snr_db": float(snr.min()),
                    "clipped": clipped,
                }
            )
    return rows


def measure_memory(seconds: float) -> dict[str, float]:
    """Peak memory of a process above what it holds before, over input + output; and its seconds."""
    program = f"""
import re, time, torch
torch.set_num_threads(1)
from speechkit.features import MFB
front_end = MFB()
noise = torch.Generator().manual_seed(0)
front_end(torch.randn(1, 32000, generator=noise), torch.tensor([32000]))
def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # Linux: the peak starts anew
waveform = torch.empty(1, int({seconds} * {RATE})).uniform_(-0.1, 0.1, generator=noise)
start = time.perf_counter()
with torch.inference_mode():
    features, _ = front_end(waveform, torch.tensor([waveform.shape[1]]))
taken = time.perf_counter() - start
print(status("VmHWM") - before, 4 * (waveform.numel() + features.numel()), taken)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    used, needed, taken = map(float, done.stdout.split())
    return {
        "audio_seconds": seconds,
        "peak_over_input_and_output": used / needed,
        "seconds_per_hour": taken * 3600 / seconds,
    }


def write_table(result: dict[str, Any]) -> None:
    """benchmarks/results/features.md from the JSON, and its tables between the marks of README.md."""
    speed = result["speed"]
    baseline = speed["seconds_per_hour"]["speechkit MFB"]
    lines = ["# Front ends", "", "Made by `scripts/benchmark_features.py` from `features.json`.", ""]
    lines += [
        "| front end (80 mels, 16 kHz, one thread) | s per hour of audio | times speechkit MFB |",
        "|---|---|---|",
    ]
    for name, seconds in sorted(speed["seconds_per_hour"].items(), key=lambda item: item[1]):
        lines.append(f"| {name} | {seconds:.2f} | {seconds / baseline:.1f} |")
    lines += ["", "| error of log energies | largest | 99.9th percentile |", "|---|---|---|"]
    lines += [f"| {name} | {row['max']:.1e} | {row['p99.9']:.1e} |" for name, row in result["error"].items()]
    lines += ["", "| int8 domain | SNR, dB | worst feature, dB | clipped |", "|---|---|---|---|"]
    for row in result["domains"]:
        name = f"{row['features']}: {row['domain']}"
        lines.append(f"| {name} | {row['snr_db']:.1f} | {row['worst_snr_db']:.1f} | {row['clipped']:.4%} |")
    lines += ["", "| one file of | peak memory / (input + output) | s per hour |", "|---|---|---|"]
    for row in result["length"]:
        memory = f"{row['peak_over_input_and_output']:.2f}" if row["audio_seconds"] >= 600 else ""
        lines.append(f"| {row['audio_seconds']:.0f} s | {memory} | {row['seconds_per_hour']:.2f} |")
    lines += ["", f"{result['machine']}, {result['date']}."]
    (RESULTS / "features.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    readme = RESULTS.parent.parent / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- features -->\n")
    after = rest.partition("<!-- end of features -->")[2]
    marked = "<!-- features -->\n" + "\n".join(lines[4:-2]) + "\n<!-- end of features -->"
    readme.write_text(before + marked + after, encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of audio (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    arguments = parser.parse_args()
    samples = read_speech(arguments.seconds)
    packages = ("torch", "numpy", "librosa", "torchaudio", "kaldi-native-fbank", "pymicro-features")
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "speed": bench_speed(samples, arguments.rounds),
        "error": bench_error(samples),
        "domains": bench_domains(samples),
        "length": [measure_memory(seconds) for seconds in (1.0, 10.0, 60.0, 600.0, 3600.0, 10800.0)],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "features.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(result)


if __name__ == "__main__":
    main()
