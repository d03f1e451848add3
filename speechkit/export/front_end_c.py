"""The integer front end as C99 source, tables and reference vectors, with a program that compares; without torch.

`front_end.c`, `front_end.h` and `check.c` are the same for every front end; what differs is `front_end_tables.h`.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import speechkit
from speechkit.export.c_source import c_array, copy_sources, refuse_used_folder
from speechkit.runtime.front_end import (
    FILTER_BITS,
    INT16_SCALE,
    LOG_BITS,
    POWER_SHIFT,
    SAMPLE_BITS,
    WINDOW_BITS,
    IntegerTables,
    integer_codes,
)

SOURCES = ("front_end.c", "front_end.h", "check.c")
VECTOR_TYPES = {
    "windowed": "int32",
    "real": "int32",
    "imaginary": "int32",
    "power": "int64",
    "energy": "int64",
    "log2": "int32",
    "codes": "int8",
}


@dataclass(frozen=True)
class FirmwareFrontEnd:
    """All that the C source of a front end is made from.

    Attributes:
        tables: see `IntegerTables`.
        sample_rate_hz: of the samples.
        scale: S of the codes.
        zero_point: Z of the codes.
    """

    tables: IntegerTables
    sample_rate_hz: int
    scale: float
    zero_point: int

    @property
    def num_features(self) -> int:
        return len(self.tables.offset)

    @property
    def is_matrix(self) -> bool:
        """Whether log energies are mixed (MFCC), not only scaled (MFB)."""
        multiplier = self.tables.multiplier
        return multiplier.shape[0] != multiplier.shape[1] or bool((multiplier != np.diag(multiplier.diagonal())).any())

    @property
    def summary(self) -> str:
        """For people."""
        filters = f" of {len(self.tables.filter_start)} mel filters" if self.is_matrix else ""
        return f"{'MFCC' if self.is_matrix else 'MFB'}, {self.num_features} features{filters}, {self.sample_rate_hz} Hz"

    def c_tables(self) -> dict[str, np.ndarray]:
        """The tables as C has them: an MFB's multiplier is a diagonal matrix and becomes a vector."""
        named = {field.name: getattr(self.tables, field.name) for field in fields(self.tables)}
        arrays = {name: value for name, value in named.items() if isinstance(value, np.ndarray)}
        multiplier = self.tables.multiplier if self.is_matrix else self.tables.multiplier.diagonal()
        return arrays | {"multiplier": multiplier.astype(np.int32)}  # below 2^30: that is how `shift` is chosen

    def ram_bytes(self) -> int:
        """Static buffers of front_end.c: work (int32), power (int64), log (int32)."""
        tables = self.tables
        return 4 * tables.fft_length + 8 * (tables.fft_length // 2 + 1) + 4 * len(tables.filter_start)

    def rom_bytes(self) -> int:
        """Tables, without the code."""
        return sum(table.nbytes for table in self.c_tables().values())

    def multiply_adds(self) -> int:
        """Of a frame: pre-emphasis, window, folded Fourier transform, power, filters, logarithm, output."""
        tables = self.tables
        num_bins, num_mels = tables.fft_length // 2 + 1, len(tables.filter_start)
        count = 2 * tables.frame_length + 2 * num_bins + int(tables.filter_length.sum()) + num_mels
        count += tables.multiplier.size if self.is_matrix else num_mels
        length, step = tables.fft_length, 1
        while length % 4 == 0:
            count += 2 * len(range(step, num_bins, 2 * step)) * (length // 4)
            length, step = length // 2, step * 2
        return count + 2 * len(range(0, num_bins, step)) * length


@dataclass(frozen=True)
class FirmwareExport:
    """What was written of a front end, and what it costs on a device.

    Attributes:
        num_frames: frames of the reference vectors.
        clipped_share: share of their codes that lie at an end of the range, 0 to 1.
        ram_bytes: static scratch memory.
        rom_bytes: tables, without the code.
        multiply_adds: of a frame.
    """

    num_frames: int
    clipped_share: float
    ram_bytes: int
    rom_bytes: int
    multiply_adds: int

    @property
    def cost(self) -> str:
        """One line for people."""
        return (
            f"RAM {self.ram_bytes} bytes (static), ROM {self.rom_bytes} bytes (tables, without the code), "
            f"{self.multiply_adds} multiply-adds a frame"
        )


def write_front_end(
    front_end: FirmwareFrontEnd, out_dir: str | Path, samples: np.ndarray | None = None, *, overwrite: bool = False
) -> FirmwareExport:
    """Writes C99 source, tables and reference vectors of a front end; the folder's README.md says how to use them.

    Args:
        front_end: what it is made from.
        out_dir: a folder that is made, or is empty.
        samples: (N,) at the front end's rate, int16 or float in [-1, 1]; `synthetic_signal` if not given. Seconds, not
            hours: each makes about 0.7 MB of vectors.
        overwrite: write into a folder that holds something; files of other names stay.

    Raises:
        ValueError: samples without a frame, or a folder in use.
    """
    tables = front_end.tables
    pcm = synthetic_signal(front_end.sample_rate_hz) if samples is None else as_int16(samples)
    if len(pcm) < tables.frame_length:
        raise ValueError(f"`samples` must hold a frame of {tables.frame_length} samples, got {len(pcm)}.")
    out = refuse_used_folder(out_dir, overwrite=overwrite)
    frames = np.lib.stride_tricks.sliding_window_view(pcm, tables.frame_length)[:: tables.hop_length]
    steps: dict[str, Any] = {}
    steps["codes"] = integer_codes(frames, tables, steps=steps)
    clipped = np.isin(steps["codes"], (tables.code_min, tables.code_max)).mean()
    result = FirmwareExport(
        len(frames), float(clipped), front_end.ram_bytes(), front_end.rom_bytes(), front_end.multiply_adds()
    )
    out.mkdir(parents=True, exist_ok=True)
    copy_sources(SOURCES, out)
    (out / "front_end_tables.h").write_text(_header(front_end, result), encoding="utf-8")
    (out / "README.md").write_text(_readme(front_end, result), encoding="utf-8")
    domain = {"scale": front_end.scale, "zero_point": front_end.zero_point}
    np.savez(out / "tables.npz", **asdict(tables), **domain, sample_rate_hz=front_end.sample_rate_hz)
    _write_vectors(out / "vectors", pcm, steps)
    return result


def synthetic_signal(sample_rate_hz: int, seconds: float = 3.0) -> np.ndarray:
    """int16 (N,), always the same: a chirp, noise that grows, digital silence, a square wave of full scale."""
    size = int(sample_rate_hz * seconds / 4)
    time = np.arange(size) / sample_rate_hz
    highest_hz = 0.48 * sample_rate_hz
    chirp = 12000.0 * np.sin(np.pi * highest_hz * time**2 / time[-1])
    noise = np.geomspace(0.5, 8000.0, size) * np.random.default_rng(0).standard_normal(size)
    square = np.where(np.sin(2.0 * np.pi * 110.0 * time) < 0.0, -32768.0, 32767.0)
    signal = np.concatenate([chirp, noise, np.zeros(size), square])
    pcm: np.ndarray = np.clip(np.rint(signal), -32768, 32767).astype(np.int16)
    return pcm


def as_int16(samples: np.ndarray) -> np.ndarray:
    """int16 as it is; float in [-1, 1] rounded as `IntegerMFB` does.

    Raises:
        ValueError: another type or number of dimensions, or samples that are not finite.
    """
    if samples.ndim != 1:
        raise ValueError(f"`samples` must have one dimension, got shape {samples.shape}.")
    if samples.dtype == np.int16:
        return samples
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"`samples` must be int16 or float, got {samples.dtype}.")
    if not np.isfinite(samples).all():
        raise ValueError("`samples` must be finite, got NaN or infinity.")
    pcm: np.ndarray = np.clip(np.rint(samples * INT16_SCALE), -32768, 32767).astype(np.int16)
    return pcm


_TABLE_COMMENTS = {
    "window": "analysis window, SPEECHKIT_WINDOW_BITS fraction bits",
    "cosine": "cos(2 pi n / SPEECHKIT_FFT_LENGTH), SPEECHKIT_TWIDDLE_BITS fraction bits",
    "filter_start": "first bin of each mel filter",
    "filter_length": "number of its bins",
    "filter_weight": "the weights, one filter behind the other, SPEECHKIT_FILTER_BITS fraction bits",
    "log_table": "log2(1 + i / 256), SPEECHKIT_LOG_BITS fraction bits",
    "multiplier": "log energies -> features: a vector, one a feature; or a matrix, mel filter by feature",
    "offset": "added to the products; the sum has SPEECHKIT_SHIFT fraction bits",
}


def _constants(front_end: FirmwareFrontEnd) -> dict[str, object]:
    """Names behind SPEECHKIT_ -> values."""
    tables = front_end.tables
    bits = {"SAMPLE_BITS": SAMPLE_BITS, "WINDOW_BITS": WINDOW_BITS, "POWER_SHIFT": POWER_SHIFT}
    bits |= {"FILTER_BITS": FILTER_BITS, "LOG_BITS": LOG_BITS}
    scalars = {field.name.upper(): getattr(tables, field.name) for field in fields(tables) if field.type is int}
    return {
        "SAMPLE_RATE_HZ": front_end.sample_rate_hz,
        "NUM_FEATURES": front_end.num_features,
        "NUM_MELS": len(tables.filter_start),
        "NUM_BINS": tables.fft_length // 2 + 1,
        **{name: f"({value})" if value < 0 else value for name, value in scalars.items()},
        **bits,
        "MULTIPLIER_IS_MATRIX": int(front_end.is_matrix),
    }


def _header(front_end: FirmwareFrontEnd, export: FirmwareExport) -> str:
    """front_end_tables.h."""
    tables, scale, zero_point = front_end.tables, front_end.scale, front_end.zero_point
    defines = [f"#define SPEECHKIT_{name} {value}" for name, value in _constants(front_end).items()]
    arrays = [c_array(name, table, _TABLE_COMMENTS[name]) for name, table in front_end.c_tables().items()]
    return "\n".join(
        [
            "/*",
            f" * Tables and constants of an integer front end: {front_end.summary}",
            " *",
            f" * Frames of {tables.frame_length} samples, one every {tables.hop_length} samples.",
            f" * Codes are int8, r = S (q - Z) with S = {scale!r}, Z = {zero_point}.",
            f" * RAM: {export.ram_bytes} bytes of static scratch memory. ROM: {export.rom_bytes} bytes of tables.",
            f" * {export.multiply_adds} multiply-adds a frame.",
            " *",
            f" * Made by speechkit {speechkit.__version__} (speechkit features export); not to be edited.",
            " */",
            "#ifndef SPEECHKIT_FRONT_END_TABLES_H",
            "#define SPEECHKIT_FRONT_END_TABLES_H",
            "",
            *defines,
            "",
            "/* For the network's sake; the front end itself does not use them. */",
            f"#define SPEECHKIT_SCALE {scale!r}",
            f"#define SPEECHKIT_ZERO_POINT ({zero_point})",
            "",
            "/* The tables are for front_end.c alone, which defines SPEECHKIT_TABLES. */",
            "#ifdef SPEECHKIT_TABLES",
            "",
            "#include <stdint.h>",
            "",
            *arrays,
            "#endif",
            "",
            "#endif",
            "",
        ]
    )


def _write_vectors(folder: Path, pcm: np.ndarray, steps: dict[str, np.ndarray]) -> None:
    """Raw little-endian files and a README.md that lists them."""
    folder.mkdir(exist_ok=True)
    lines = ["# Reference vectors", "", "Raw little-endian numbers, the last dimension running fastest; T frames."]
    lines += ["", "| file | type | shape |", "|---|---|---|"]
    for name, array, dtype in [
        ("input", pcm, "int16"),
        *((name, steps[name], VECTOR_TYPES[name]) for name in VECTOR_TYPES),
    ]:
        path = folder / f"{name}_{dtype}.bin"
        path.write_bytes(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
        lines.append(f"| `{path.name}` | {dtype} | ({', '.join(map(str, array.shape))}) |")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _readme(front_end: FirmwareFrontEnd, export: FirmwareExport) -> str:
    tables, scale, zero_point = front_end.tables, front_end.scale, front_end.zero_point
    flags = "-std=c99 -O2 -Wall -Wextra -pedantic"
    return f"""\
# Front end in integers

{front_end.summary}. One call turns a frame of {tables.frame_length} samples (16 bits) into {front_end.num_features}
int8 codes q. Their values are r = S (q - Z), S = {scale!r}, Z = {zero_point}: the input domain of the network.
Made by speechkit {speechkit.__version__}.

{export.cost}.

## Compile and check

```sh
cc {flags} -c front_end.c
cc {flags} -DSPEECHKIT_CHECK front_end.c check.c -o check
./check vectors
```

The first line makes what goes into the product: `front_end.o`, from `front_end.c`, `front_end.h` and
`front_end_tables.h`. The others compare every intermediate result of every frame with `vectors/` and print one line;
exit status 0: all equal, 1: not. Run `check` on the target or its simulator too.

## Call it from a stream

```c
#include <string.h>
#include "front_end.h"

static int16_t frame[SPEECHKIT_FRAME_LENGTH]; /* fill it once, with the first samples */
static int8_t codes[SPEECHKIT_NUM_FEATURES];

void on_hop(const int16_t *fresh) /* SPEECHKIT_HOP_LENGTH = {tables.hop_length} new samples: the frame moves on */
{{
    memmove(frame, frame + SPEECHKIT_HOP_LENGTH, sizeof(frame) - SPEECHKIT_HOP_LENGTH * sizeof(frame[0]));
    memcpy(frame + SPEECHKIT_FRAME_LENGTH - SPEECHKIT_HOP_LENGTH, fresh, SPEECHKIT_HOP_LENGTH * sizeof(frame[0]));
    speechkit_front_end(frame, codes);
}}
```

Frame t is samples [{tables.hop_length} t, {tables.hop_length} t + {tables.frame_length}), and needs no others.

Edges: frames lie wholly inside the recording ("snip"). Nothing is padded: the first codes come with sample
{tables.frame_length}, and samples at the end that fill no frame give none.

## Files

- `front_end.c`, `front_end.h`: the code. C99, integers only, no heap; needs `<stdint.h>` and `<string.h>`. Right
  shifts of negative numbers must keep the sign; a compiler that differs is stopped by an assertion.
- `front_end_tables.h`: all tables and constants. `tables.npz`: the same for numpy.
- `check.c`, `vectors/`: the comparison; `vectors/README.md` lists types and shapes.
"""
