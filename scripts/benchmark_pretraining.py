"""wav2vec 2.0's pretraining step against Hugging Face and torchaudio: audio-seconds per second and peak memory.

`python scripts/benchmark_pretraining.py` writes benchmarks/results/pretraining.json and pretraining.md. A step is
forward and backward of the contrastive and diversity losses in training mode, on the same waveforms with the same
masked frames and negatives, without dropout. torchaudio has no such losses, so its encoder works under the head of
speechkit. Peers take turns within one process; medians of rounds. Peak memory is that of one step in a process of its
own, gradients included, parameters not. Ratios last, seconds do not. Without a GPU the cells of CUDA stay empty.
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

import torch
from memory import peak_bytes
from torch import Tensor, nn

from speechkit.codebooks import GumbelCodebook, diversity_loss
from speechkit.encoders import Wav2Vec2Encoder
from speechkit.features import FrontEnd, Waveform
from speechkit.losses import Negatives, draw_negatives_per_anchor, span_mask
from speechkit.tasks import MaskedContrastivePretraining

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
DEVICES = {"cpu": ("fp32",), "cuda": ("fp32", "bf16")}
PEERS = ("huggingface", "torchaudio")
NUM_NEGATIVES = 100
LARGE = {"conv_norm": "layer", "conv_bias": True, "pre_norm": True}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"channels": 256, "output_dim": 256, "num_layers": 6, "num_heads": 4, "feed_forward_dim": 1024},
    "base": {},
    "large": {**LARGE, "output_dim": 1024, "num_layers": 24, "num_heads": 16, "feed_forward_dim": 4096},
}
Step = Callable[[], Tensor]


def make_task(size: str) -> MaskedContrastivePretraining:
    """Without dropout, weights at random."""
    encoder = Wav2Vec2Encoder(**SIZES[size], dropout=0.0, layer_drop=0.0)
    codebook = GumbelCodebook(input_dim=encoder.latent_dim)
    return MaskedContrastivePretraining(
        front_end=FrontEnd(features=Waveform()), encoder=encoder, codebook=codebook, latent_gradient_scale=1.0
    )


class TorchaudioLatents(nn.Module):
    """torchaudio's model under the names that the task of speechkit calls."""

    def __init__(self, ours: Wav2Vec2Encoder) -> None:
        super().__init__()
        from torchaudio.models import wav2vec2_model

        channels = [(ours.channels, size, stride) for size, stride in zip(ours.kernel_sizes, ours.strides, strict=True)]
        model = wav2vec2_model(
            extractor_mode="layer_norm" if ours.conv_norm == "layer" else "group_norm",
            extractor_conv_layer_config=channels,
            extractor_conv_bias=ours.conv_bias,
            encoder_embed_dim=ours.output_dim,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=ours.position_kernel_size,
            encoder_pos_conv_groups=ours.position_groups,
            encoder_num_layers=ours.num_layers,
            encoder_num_heads=ours.num_heads,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=ours.feed_forward_dim,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=ours.pre_norm,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        self.input_dim, self.latent_dim, self.output_dim = 1, ours.latent_dim, ours.output_dim
        self.extractor, self.transformer = model.feature_extractor, model.encoder
        self.latent_norm = model.encoder.feature_projection.layer_norm
        self.mask_embedding = nn.Parameter(torch.rand(ours.output_dim))

    def latents(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 1), (B,) -> (B, T, C), (B,)."""
        return self.extractor(x[:, :, 0], lengths)

    def context(self, latents: Tensor, lengths: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C), (B,), (B, T) -> (B, T, D), (B,)."""
        x = self.transformer.feature_projection(latents)
        x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        return self.transformer.transformer(x), lengths


def make_huggingface(ours: MaskedContrastivePretraining) -> nn.Module:
    """`Wav2Vec2ForPreTraining` of the same shape."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    encoder = ours.encoder
    config = Wav2Vec2Config(
        hidden_size=encoder.output_dim,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.feed_forward_dim,
        conv_dim=[encoder.channels] * len(encoder.strides),
        conv_kernel=list(encoder.kernel_sizes),
        conv_stride=list(encoder.strides),
        conv_bias=encoder.conv_bias,
        feat_extract_norm=encoder.conv_norm,
        do_stable_layer_norm=encoder.pre_norm,
        **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0),
    )
    return Wav2Vec2ForPreTraining(config)


def make_step(peer: str, size: str, batch: int, seconds: float, device: str, dtype: str) -> Step:
    """A forward pass whose result is ready for `backward`."""
    torch.manual_seed(0)
    ours = make_task(size)
    lengths = torch.full((batch,), round(16000 * seconds))
    waveform = torch.randn(batch, int(lengths[0]))
    frames = ours.encoder.output_lengths(lengths)
    mask = span_mask(frames, int(frames[0]), start_probability=0.065, span_length=10)
    counts = mask.sum(dim=1)
    places = draw_negatives_per_anchor(counts, NUM_NEGATIVES).frame
    in_batch = torch.zeros(*mask.shape, NUM_NEGATIVES, dtype=torch.long)
    for row in range(batch):
        masked = mask[row].nonzero()[:, 0]
        in_batch[row, masked] = row * mask.shape[1] + masked[places[row, : len(masked)]]
    waveform, lengths, mask, places, in_batch = (x.to(device) for x in (waveform, lengths, mask, places, in_batch))
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16")
    if peer == "huggingface":
        model = make_huggingface(ours).to(device).train()

        def theirs() -> Tensor:
            model.zero_grad()
            with autocast:
                return model(waveform, mask_time_indices=mask, sampled_negative_indices=in_batch).loss

        return theirs
    if peer == "torchaudio":
        ours.encoder = TorchaudioLatents(ours.encoder)
    task = ours.to(device).train()

    def step() -> Tensor:
        task.zero_grad()
        with autocast:
            result = task(waveform, lengths, mask, Negatives(None, places))
        count = counts.sum()
        return (result.contrast.loss * result.contrast.predictions).sum() + 0.1 * count * diversity_loss(
            result.codes.soft_usage
        )

    return step


def timed(step: Step, device: str) -> float:
    """Seconds of one forward and backward pass."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(peer: str, arguments: tuple[str, int, float, str, str]) -> int:
    """Bytes that one step takes beside parameters and batch; to be called in a fresh process."""
    timed(make_step(peer, "small", 1, 0.5, *arguments[3:]), arguments[3])  # loads what is loaded once
    step = make_step(peer, *arguments)
    return peak_bytes(lambda: timed(step, arguments[3]), arguments[3])


def measure(arguments: tuple[str, int, float, str, str], rounds: int, threads: int) -> dict[str, Any]:
    """Throughput and peak memory of all peers at one shape."""
    size, batch, seconds, device, dtype = arguments
    names = ("speechkit", *PEERS)
    memory = {}
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}  # what is freed leaves the process at once
    for name in names:
        shape = [*map(str, arguments), str(threads)]
        command = [sys.executable, __file__, "--memory-of", name, *shape]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        memory[name] = int(output.split()[-1])
    steps = {name: make_step(name, *arguments) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            took = timed(step, device)
            if turn:  # the first round warms up
                times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{"size": size, "batch": batch, "seconds": seconds, "device": device, "dtype": dtype, "rounds": rounds},
        "audio_seconds_per_second": {name: batch * seconds / value for name, value in medians.items()},
        "peak_bytes": memory,
        "times_faster": {name: medians[name] / medians["speechkit"] for name in PEERS},
        "share_of_memory": {name: memory["speechkit"] / memory[name] for name in PEERS},
    }


def write_table(result: dict[str, Any], folder: Path) -> None:
    """pretraining.md from the JSON."""
    lines = [
        "# wav2vec 2.0: a step of pretraining",
        "",
        "Made by `scripts/benchmark_pretraining.py` from `pretraining.json`: forward and backward of encoder,",
        "quantizer, contrastive and diversity losses, the same batch, mask and negatives. Memory: the peak of one step",
        "beside parameters and batch, gradients included, as a share of the peer's; without the heap that glibc keeps.",
        "",
        "| model | device | type | batch | audio s per s | peak MB | times faster than Hugging Face | memory "
        "| times faster than torchaudio | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in result["cells"]:
        ratios = " | ".join(f"{cell['times_faster'][peer]:.2f} | {cell['share_of_memory'][peer]:.2f}" for peer in PEERS)
        lines.append(
            f"| {cell['size']} | {cell['device']} | {cell['dtype']} | {cell['batch']} x {cell['seconds']:g} s |"
            f" {cell['audio_seconds_per_second']['speechkit']:.1f} | {cell['peak_bytes']['speechkit'] / 1e6:.0f} |"
            f" {ratios} |"
        )
    for device, dtypes in DEVICES.items():
        if not any(cell["device"] == device for cell in result["cells"]):
            lines += [f"| | {device} | {dtype} | | | | | | | |" for dtype in dtypes]
    lines += ["", f"{result['machine']}, {result['gpu'] or 'no GPU'}, {result['threads']} threads, {result['date']}."]
    (folder / "pretraining.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=tuple(SIZES), help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="utterances (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio in each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--memory-of", nargs=7, help=argparse.SUPPRESS)  # a call of itself
    arguments = parser.parse_args()
    if arguments.memory_of:
        peer, size, batch, seconds, device, dtype, threads = arguments.memory_of
        torch.set_num_threads(int(threads))
        print(peak_memory(peer, (size, int(batch), float(seconds), device, dtype)))
        return
    torch.set_num_threads(arguments.threads)
    cells = []
    for device in DEVICES:
        if device == "cuda" and not torch.cuda.is_available():
            continue
        for size in arguments.sizes:
            for dtype in DEVICES[device]:
                shape = (size, arguments.batch, arguments.seconds, device, dtype)
                cells.append(measure(shape, arguments.rounds, arguments.threads))
                print(json.dumps(cells[-1]), flush=True)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": arguments.threads,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torchaudio", "transformers")},
        "cells": cells,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "pretraining.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(result, arguments.results)


if __name__ == "__main__":
    main()
