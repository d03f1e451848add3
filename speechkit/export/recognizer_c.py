"""An int8 recogniser as a folder of C99: integer front end, network, greedy CTC, weights, reference vectors, Makefile.

The same codes as `speechkit.runtime`, bit for bit, at every layer, and so the same text. Nothing here imports torch.
"""

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import speechkit
from speechkit.decoding import greedy_spans
from speechkit.export.c_source import copy_sources, refuse_used_folder
from speechkit.export.front_end_c import FirmwareExport, FirmwareFrontEnd, as_int16, synthetic_signal, write_front_end
from speechkit.export.network_c import (
    SOURCES,
    LayerCost,
    layer_costs,
    lookahead_frames,
    network_header,
    network_ram_bytes,
    refuse_unsupported,
    write_network_vectors,
)
from speechkit.runtime import IntegerNetwork
from speechkit.text import Tokenizer

RECOGNIZER_SOURCES = (*SOURCES, "ctc.c", "ctc.h", "wav.c", "wav.h", "recognize.c", "Makefile")


@dataclass(frozen=True)
class RecognizerExport:
    """What `export_recognizer` wrote, and what it costs on a device of 32 bits.

    Attributes:
        front_end: cost and vectors of the front end.
        layers: cost of each layer.
        ram_bytes: static memory by what it is for; it does not depend on the utterance.
        frames_per_second: of the front end.
        lookahead_seconds: what the network waits for after a moment, the front end's frame not included.
        text: what is heard in the reference vectors.
    """

    front_end: FirmwareExport
    layers: tuple[LayerCost, ...]
    ram_bytes: dict[str, int]
    frames_per_second: float
    lookahead_seconds: float
    text: str

    @property
    def flash_bytes(self) -> int:
        """Tables and weights, without the code."""
        return self.front_end.rom_bytes + sum(layer.flash_bytes for layer in self.layers)

    @property
    def multiply_adds_per_second(self) -> int:
        """Of audio."""
        network = sum(layer.multiply_adds * layer.frames_per_second for layer in self.layers)
        return round(self.front_end.multiply_adds * self.frames_per_second + network)

    def table(self) -> str:
        """Stages and layers, one a line, for people."""
        width = max(len("front end"), *(len(layer.name) for layer in self.layers))
        rows = [f"{'stage':<{width}}  {'kind':<9}  {'in x taps x out':>15}  {'flash':>8}  {'RAM':>7}  {'mult./s':>10}"]
        count = round(self.front_end.multiply_adds * self.frames_per_second)
        memory = self.front_end.ram_bytes + self.ram_bytes["input ring"]
        rows.append(
            f"{'front end':<{width}}  {'':<9}  {'':>15}  {self.front_end.rom_bytes:>8}  {memory:>7}  {count:>10}"
        )
        for layer in self.layers:
            shape = " x ".join(map(str, layer.shape))
            count = round(layer.multiply_adds * layer.frames_per_second)
            rows.append(
                f"{layer.name:<{width}}  {layer.kind:<9}  {shape:>15}  {layer.flash_bytes:>8}  "
                f"{layer.ring_bytes:>7}  {count:>10}"
            )
        ram = ", ".join(f"{name} {size}" for name, size in self.ram_bytes.items())
        return "\n".join(
            [
                *rows,
                f"RAM {sum(self.ram_bytes.values())} bytes, all static, for utterances of any length ({ram})",
                f"flash {self.flash_bytes} bytes of tables and weights, without the code",
                f"{self.multiply_adds_per_second / 1e6:.1f} million multiply-adds for a second of audio",
                f"the network looks {self.lookahead_seconds:.2f} s ahead",
            ]
        )


def export_recognizer(
    front_end: FirmwareFrontEnd,
    network: IntegerNetwork,
    tokenizer: Tokenizer,
    out_dir: str | Path,
    samples: np.ndarray | None = None,
    *,
    pack_weights: bool = False,
    overwrite: bool = False,
) -> RecognizerExport:
    """Writes C99 source, weights and reference vectors of a recogniser; the folder's README.md says how to use them.

    Args:
        front_end: samples -> codes.
        network: codes -> codes of logits, in int8 throughout.
        tokenizer: its labels' texts are written down.
        out_dir: a folder that is made, or is empty.
        samples: (N,) of the reference vectors, as in `write_front_end`.
        pack_weights: two to a byte: half the flash, about twice the time.
        overwrite: write into a folder that holds something; files of other names stay.

    Raises:
        ValueError: a layer that the C code cannot compute, weights to pack that have more than four bits, parts that
            do not fit each other, samples without a frame, or a folder in use.
    """
    _refuse_misfits(front_end, network, tokenizer)
    refuse_unsupported(network, packed=pack_weights)
    out = refuse_used_folder(out_dir, overwrite=overwrite)
    pcm = synthetic_signal(front_end.sample_rate_hz) if samples is None else as_int16(samples)
    written = write_front_end(front_end, out, pcm, overwrite=overwrite)
    vectors = out / "vectors"
    codes = np.fromfile(vectors / "codes_int8.bin", np.int8).reshape(-1, front_end.num_features)
    tensors = write_network_vectors(network, codes, vectors)
    text = tokenizer.decode(greedy_spans(tensors[-1])[0])
    (vectors / "text.txt").write_text(text + "\n", encoding="utf-8")
    write_wav(vectors / "input.wav", pcm, front_end.sample_rate_hz)
    rate = front_end.sample_rate_hz / front_end.tables.hop_length
    audio = 2 * front_end.tables.frame_length + front_end.num_features + 4  # of recognize.c and ctc.c
    memory = network_ram_bytes(network, packed=pack_weights)
    result = RecognizerExport(
        front_end=written,
        layers=layer_costs(network, rate, packed=pack_weights),
        ram_bytes={"front end": written.ram_bytes, **memory, "audio and label": audio},
        frames_per_second=rate,
        lookahead_seconds=lookahead_frames(network) / rate,
        text=text,
    )
    copy_sources(RECOGNIZER_SOURCES, out)
    (out / "network_weights.h").write_text(network_header(network, packed=pack_weights), encoding="utf-8")
    (out / "vocabulary.h").write_text(_vocabulary(tokenizer), encoding="utf-8")
    (out / "README.md").write_text(_readme(front_end, result), encoding="utf-8")
    return result


def write_wav(path: Path, pcm: np.ndarray, sample_rate_hz: int) -> None:
    """int16 (N,) as 16-bit PCM with one channel: what recognize.c reads."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(pcm.astype("<i2").tobytes())


def _refuse_misfits(front_end: FirmwareFrontEnd, network: IntegerNetwork, tokenizer: Tokenizer) -> None:
    """Raises ValueError where one part does not take what the one before gives."""
    tables = front_end.tables
    if front_end.num_features != network.num_features:
        raise ValueError(f"`network` must read {front_end.num_features} features, got {network.num_features}.")
    domain = (front_end.scale, front_end.zero_point)
    if domain != (network.domain.scale, network.domain.zero_point):
        raise ValueError(f"`network` must have the front end's domain {domain}, got {network.domain}.")
    if tokenizer.vocab_size != network.num_outputs:
        raise ValueError(f"`tokenizer` must have {network.num_outputs} labels, got {tokenizer.vocab_size}.")
    if tables.hop_length > tables.frame_length:
        raise ValueError(
            f"`front_end` must not skip samples between frames of {tables.frame_length}, got hops of "
            f"{tables.hop_length}."
        )


def _vocabulary(tokenizer: Tokenizer) -> str:
    """vocabulary.h."""
    texts = ["", *tokenizer.label_texts()]
    return "\n".join(
        [
            f"/* Texts of the labels. Made by speechkit {speechkit.__version__} (export c); not to be edited. */",
            "#ifndef SPEECHKIT_VOCABULARY_H",
            "#define SPEECHKIT_VOCABULARY_H",
            "",
            "static const char *const speechkit_label_texts[] = {",
            *(f"    {_c_string(text)}," for text in texts),
            "};",
            "",
            "#endif",
            "",
        ]
    )


def _c_string(text: str) -> str:
    """UTF-8 with octal escapes of three digits, after which any character may stand."""
    plain = set(b" ") | {ord(letter) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'-"}
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _readme(front_end: FirmwareFrontEnd, export: RecognizerExport) -> str:
    return f"""\
# A recogniser in C99

{front_end.summary}; {len(export.layers)} layers in int8; greedy CTC. No heap, no operating system: `front_end.c`,
`network.c` and `ctc.c` with their headers go into the product. Made by speechkit {speechkit.__version__}.

```
{export.table()}
```

## Compile, check, try

```sh
make check
./recognize vectors/input.wav
```

`make check` compares every step of the front end and every code of every layer with `vectors/`, and what is heard in
`vectors/input.wav` with `vectors/text.txt`. Run the same on the target or its simulator. `recognize` takes 16-bit PCM
with one channel at {front_end.sample_rate_hz} Hz.

## Call it from a stream

```c
#include <string.h>
#include "ctc.h"
#include "front_end.h"
#include "network.h"

static int16_t frame[SPEECHKIT_FRAME_LENGTH]; /* fill it once, with the first samples */
static int8_t codes[SPEECHKIT_NUM_FEATURES];

void on_start(void) /* of an utterance */
{{
    speechkit_network_start();
    speechkit_ctc_start();
}}

const char *on_frame(void) /* a frame is full: returns what it adds to the text, mostly nothing */
{{
    const int8_t *logits;

    speechkit_front_end(frame, codes);
    memmove(frame, frame + SPEECHKIT_HOP_LENGTH, sizeof(frame) - SPEECHKIT_HOP_LENGTH * sizeof(frame[0]));
    logits = speechkit_network_push(codes);
    return speechkit_label_text(logits == NULL ? 0 : speechkit_ctc_push(logits));
}}
```

At the utterance's end, `speechkit_network_finish` gives the frames for which the network was still waiting; see
`recognize.c`, which does all of this.

## On a small processor

- Without floats (Cortex-M0, M3), compile with `-DSPEECHKIT_NO_FLOAT`: from sums to codes with integers alone, the same
  bits. Never with `-ffast-math`.
- Nearly all the time is spent in `speechkit_run_dense` and `speechkit_run_depthwise` of `network.c`. On a Cortex-M with
  DSP or Helium instructions put CMSIS-NN's products there, and keep `speechkit_requantize`: CMSIS-NN's own
  requantization rounds twice, and about a thousand codes of a million then differ by one.
- The weights are `const` and stay in flash. `speechkit export c --pack-weights` puts two of four bits into a byte and
  unpacks a row at a time: half the flash, about twice the time.

## Files

- `front_end.c`, `front_end.h`, `front_end_tables.h`: samples -> codes, integers only. `tables.npz`: the same for numpy.
- `network.c`, `network.h`, `requantize.h`, `network_weights.h`: codes -> codes of logits.
- `ctc.c`, `ctc.h`, `vocabulary.h`: codes of logits -> text.
- `recognize.c`, `wav.c`, `wav.h`: the program that reads files.
- `check.c`, `check_network.c`, `vectors/`: the comparison.
"""
