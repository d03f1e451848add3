"""network.c gives the codes of the numpy executor, in every layer and for every length, without undefined behaviour."""

import itertools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechkit.export.c_source import c_array, copy_sources
from speechkit.export.network_c import (
    SOURCES,
    layer_costs,
    network_header,
    network_ram_bytes,
    refuse_unsupported,
    ring_frames,
)
from speechkit.runtime import Domain, IntegerLayer, IntegerNetwork, run_layers

FLAGS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LENGTHS = (0, 1, 2, 3, 7, 50)
DRIVER = r"""
#include <stdio.h>
#include "network.h"

void speechkit_check_frame(int32_t tensor, int32_t frame, const int8_t *codes)
{
    (void)frame;
    putchar(tensor);
    fwrite(codes, 1, (size_t)speechkit_check_channels[tensor], stdout);
}

int main(void)
{
    int8_t codes[64];
    int frames;

    while ((frames = getchar()) != EOF) {
        speechkit_network_start();
        while (frames-- > 0 && fread(codes, 1, speechkit_check_channels[0], stdin) > 0) {
            speechkit_network_push(codes);
        }
        while (speechkit_network_finish() != NULL) {
        }
        putchar(255);
    }
    return 0;
}
"""
REQUANTIZE_DRIVER = r"""
#include <stdio.h>
#include "requantize.h"

int main(void)
{
    struct { int32_t sum; float multiplier; } in;

    while (fread(&in, sizeof(in), 1, stdin) == 1) {
        putchar((unsigned char)speechkit_requantize(in.sum, in.multiplier, -7, -100));
    }
    return 0;
}
"""
NO_FLOATS = np.zeros(0, np.float32)


@pytest.fixture
def compiler() -> str:
    """The test is skipped where there is none."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler (gcc or cc) on this machine")
    return found


def compile_c(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "-fsanitize=address,undefined" in command and re.search("cannot find.*[au]b?san", done.stderr):
        pytest.skip("the compiler has no sanitizers")
    assert (done.returncode, done.stderr) == (0, "")


def make_layer(
    generator: np.random.Generator,
    name: str,
    inputs: tuple[int, ...],
    shape: tuple[int, int, int],
    *,
    groups: int = 1,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
    relu: bool = True,
) -> IntegerLayer:
    """Random weights, and multipliers for which the codes fill their range and some are clamped."""
    outputs, group, taps = shape
    spread = np.float32(1.2 / np.sqrt(group * taps))
    return IntegerLayer(
        name=name,
        inputs=inputs,
        weight=generator.integers(-128, 128, shape).astype(np.int8),
        bias=generator.integers(-3000, 3000, outputs).astype(np.int32),
        multiplier=(spread * generator.uniform(0.005, 0.02, outputs)).astype(np.float32),
        weight_scale=np.ones(outputs, np.float32),
        domain=Domain(0.05, -128 if relu else int(generator.integers(-20, 20))),
        relu=relu,
        stride=stride,
        groups=groups,
        padding=((taps - 1) // 2, taps // 2) if padding is None else padding,
    )


def make_network(kind: str) -> IntegerNetwork:
    generator = np.random.default_rng(5)
    layers: list[IntegerLayer] = []

    def add(inputs: tuple[int, ...], shape: tuple[int, int, int], **options: object) -> int:
        layers.append(make_layer(generator, f"layer.{len(layers)}", inputs, shape, **options))  # type: ignore[arg-type]
        return len(layers)

    if kind == "separable":  # what SeparableConvEncoder becomes
        x = add((0,), (6, 1, 5), groups=6, stride=2, relu=False)
        x = add((x,), (8, 6, 1))
        for taps in (3, 9):
            h = add((add((x,), (8, 1, taps), groups=8, relu=False),), (8, 8, 1))
            x = add((add((h,), (8, 1, taps), groups=8, relu=False), x), (8, 16, 1))
        add((x,), (5, 8, 1), relu=False)
    elif kind == "dense":  # convolutions over channels and time, strides in the midst
        x = add((0,), (7, 6, 4), stride=2)
        x = add((x,), (7, 7, 3), padding=(0, 2))
        x = add((x,), (7, 1, 5), groups=7, stride=3, padding=(4, 0), relu=False)
        add((x,), (4, 7, 6), stride=2, relu=False)
    else:  # paths of different lookahead, joined over several frames each
        short = add((0,), (5, 6, 1), relu=False)
        long = add((add((0,), (6, 1, 11), groups=6, padding=(2, 8)),), (3, 6, 7))
        last = add((short, long, 0), (4, 14, 3))
        add((last, short), (4, 9, 1), relu=False)
    return IntegerNetwork(6, Domain(1 / 32, 3), tuple(layers))


def with_four_bits(network: IntegerNetwork) -> IntegerNetwork:
    """The same with the upper bits of its weights, and multipliers that make up for it."""
    layers = [
        replace(layer, weight=(layer.weight >> 4).clip(-7, 7), bias=layer.bias >> 4, multiplier=layer.multiplier * 16)
        for layer in network.layers
    ]
    return replace(network, layers=tuple(layers))


def write_network(network: IntegerNetwork, folder: Path, *, packed: bool = False) -> None:
    copy_sources(SOURCES, folder)
    (folder / "network_weights.h").write_text(network_header(network, packed=packed))
    channels = np.array([network.num_features, *(len(layer.weight) for layer in network.layers)], np.int32)
    (folder / "driver.c").write_text(
        c_array("check_channels", channels).replace("static", "#include <stdint.h>\nstatic") + DRIVER
    )


def run_driver(program: Path, network: IntegerNetwork, utterances: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Every tensor of every utterance, as the C code makes it."""
    sent = b"".join(bytes([len(codes)]) + codes.tobytes() for codes in utterances)
    received = subprocess.run([program], input=sent, capture_output=True, check=True).stdout
    channels = [network.num_features, *(len(layer.weight) for layer in network.layers)]
    found, tensors, place = [], [b""] * len(channels), 0
    while place < len(received):
        tensor, place = received[place], place + 1
        if tensor == 255:
            found.append(
                [
                    np.frombuffer(content, np.int8).reshape(-1, width)
                    for content, width in zip(tensors, channels, strict=True)
                ]
            )
            tensors = [b""] * len(channels)
        else:
            tensors[tensor] += received[place : place + channels[tensor]]
            place += channels[tensor]
    return found


@pytest.mark.parametrize("kind", ["separable", "dense", "joined"])
@pytest.mark.parametrize(
    ("options", "packed"),
    [(SANITIZE, False), ([*SANITIZE, "-DSPEECHKIT_NO_FLOAT"], False), (SANITIZE, True)],
    ids=["float", "no float", "packed"],
)
def test_every_layer_equals_the_reference(
    kind: str, options: list[str], packed: bool, compiler: str, tmp_path: Path
) -> None:
    network = with_four_bits(make_network(kind)) if packed else make_network(kind)
    write_network(network, tmp_path, packed=packed)
    program = tmp_path / "driver"
    compile_c(
        [compiler, *FLAGS, *options, "-DSPEECHKIT_CHECK", "network.c", "driver.c", "-o", str(program), "-lm"], tmp_path
    )
    generator = np.random.default_rng(1)
    utterances = [generator.integers(-128, 128, (length, 6)).astype(np.int8) for length in LENGTHS]
    for codes, tensors in zip(utterances, run_driver(program, network, utterances), strict=True):
        for found, expected in zip(tensors, run_layers(network, codes), strict=True):
            assert np.array_equal(found, expected)
    assert min(len(np.unique(tensor)) for tensor in tensors) > 10  # constant codes would prove nothing


def test_rings_are_as_long_as_the_network_needs() -> None:
    network = make_network("separable")
    assert ring_frames(network) == (5, 1, 3, 1, 3, 1, 9, 1, 9, 1, 1, 1)
    assert network_ram_bytes(network) == {
        "input ring": 5 * 6,
        "layer rings": 6 + 8 * (3 + 1 + 3 + 1 + 9 + 1 + 9 + 1 + 1) + 5,
        "counters": 8 * 12 + 4 * 9,
    }


def test_a_ring_one_frame_shorter_differs(compiler: str, tmp_path: Path) -> None:
    network = make_network("joined")
    rings, codes = ring_frames(network), np.random.default_rng(2).integers(-128, 128, (30, 6)).astype(np.int8)
    for tensor in [number for number, frames in enumerate(rings) if frames > 1]:
        write_network(network, tmp_path)
        header = (tmp_path / "network_weights.h").read_text()
        entry = f"{{speechkit_ring_{tensor}, {rings[tensor]}, "
        assert header.count(entry) == 1
        shorter = entry.replace(f" {rings[tensor]},", f" {rings[tensor] - 1},")
        (tmp_path / "network_weights.h").write_text(header.replace(entry, shorter))
        program = tmp_path / "driver"
        compile_c([compiler, *FLAGS, "-DSPEECHKIT_CHECK", "network.c", "driver.c", "-o", str(program), "-lm"], tmp_path)
        (tensors,) = run_driver(program, network, [codes])
        assert not np.array_equal(tensors[-1], run_layers(network, codes)[-1])


@pytest.mark.parametrize("packed", [False, True])
def test_the_memory_is_what_was_said(packed: bool, compiler: str, tmp_path: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine")
    network = with_four_bits(make_network("separable"))
    write_network(network, tmp_path, packed=packed)
    compile_c([compiler, *FLAGS, "-c", "network.c"], tmp_path)
    symbols = subprocess.run(["nm", "-S", "network.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\w+ (\w+) ([bBdDrR]) speechkit_(\w+)", symbols, re.MULTILINE)
    ram = [int(size, 16) for size, kind, _ in found if kind in "bB"]
    ram += [int(size, 16) for size, kind, name in found if kind in "dD" and re.match("made|total|window", name)]
    flash = [int(size, 16) for size, _, name in found if re.match(r"(weight|bias|multiplier)_\d", name)]
    assert sum(ram) == sum(network_ram_bytes(network, packed=packed, pointer_bytes=8).values())
    assert sum(flash) == sum(cost.flash_bytes for cost in layer_costs(network, 100.0, packed=packed))
    assert not re.search(r" U \w*(alloc|free)$", symbols, re.MULTILINE)


def test_weights_of_more_bits_are_not_packed() -> None:
    network = make_network("dense")
    with pytest.raises(
        ValueError, match=re.escape("layer 'layer.0' must have weights of 4 bits, in [-8, 7], for two to")
    ):
        network_header(network, packed=True)


def test_requantization_without_floats_equals_that_with(compiler: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    sums = np.concatenate([
        generator.integers(-(2**31), 2**31, 40000), generator.integers(-4000, 4000, 40000), [0, -(2**31), 2**31 - 1, 1]
    ]).astype(np.int32)  # fmt: skip
    ties = 2.0 ** -generator.integers(0, 12, len(sums) // 2)
    others = generator.uniform(1, 2, len(sums) - len(ties)) * 2.0 ** -generator.integers(0, 40, len(sums) - len(ties))
    multipliers = generator.permutation(np.concatenate([ties, others])).astype(np.float32)
    copy_sources(["requantize.h"], tmp_path)
    (tmp_path / "driver.c").write_text(REQUANTIZE_DRIVER)
    steps = np.rint(sums.astype(np.float32) * multipliers)
    expected = np.clip(steps - 7, -100, 127).astype(np.int8)
    assert len(np.unique(expected)) == 228
    pairs = np.rec.fromarrays([sums, multipliers]).tobytes()
    for options in ([], ["-DSPEECHKIT_NO_FLOAT"]):
        compile_c([compiler, *FLAGS, *options, *SANITIZE, "driver.c", "-o", "driver", "-lm"], tmp_path)
        done = subprocess.run([tmp_path / "driver"], input=pairs, capture_output=True, check=True)
        assert np.array_equal(np.frombuffer(done.stdout, np.int8), expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"weight": np.zeros((8, 6, 1), np.float32), "bias": np.zeros(8, np.float32)}
            | dict.fromkeys(("multiplier", "weight_scale"), NO_FLOATS),
            "have int8 weights to be exported to C, got float32 ones: it was left in float; quantize this layer too.",
        ),
        (
            {"weight": np.zeros((8, 3, 1), np.int8), "groups": 2},
            "be depthwise over one tensor, or have one group to be exported to C, got 2 groups; use groups = 1, or",
        ),
        ({"padding": (1, 0)}, "be padded by less than its 1 taps to be exported to C, got (1, 0); leave out what"),
    ],
)
def test_a_layer_that_c_lacks_is_named(change: dict[str, object], expected: str) -> None:
    network = make_network("separable")
    layers = (network.layers[0], replace(network.layers[1], **change), *network.layers[2:])
    with pytest.raises(ValueError, match=re.escape(f"layer 'layer.1' must {expected}")):
        network_header(replace(network, layers=layers))


def test_a_layer_of_too_many_tensors_is_named() -> None:
    layer = make_layer(np.random.default_rng(0), "sum", (0,) * 5, (4, 10, 1))
    network = IntegerNetwork(2, Domain(1.0, 0), (layer,))
    with pytest.raises(ValueError, match="layer 'sum' must read at most 4 tensors"):
        refuse_unsupported(network)


def test_floats_are_written_exactly() -> None:
    table = np.float32([1 / 3, 2.0**-130, 1e30, 0.0])
    written = c_array("multiplier", table)
    assert written.startswith("static const float speechkit_multiplier[4] = {")
    numbers = re.findall(r"(-?0x[0-9a-f.]+p[+-]\d+)f", written)
    assert [float.fromhex(number) for number in numbers] == table.tolist()
    assert all(first != second for first, second in itertools.pairwise(numbers))
