"""The CTC kernels in Triton: what they compute, in Triton's interpreter, and what a GPU would run, compiled offline."""

# ruff: noqa: E402 (without Triton, these tests are skipped)

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_ctc_backends import draw, laid_out, loss_and_gradient, per_utterance
from torch import Tensor

from speechkit.losses import ctc_loss, ctc_occupancies

triton = pytest.importorskip("triton")

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from speechkit.losses.ctc import triton_cuda, triton_kernels

IN_INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not IN_INTERPRETER, reason="runs within test_in_the_interpreter")
compiled = pytest.mark.skipif(IN_INTERPRETER, reason="the interpreter compiles nothing")
SHARED = (  # of the tests of all backends, those that do not take the interpreter long
    "triton and (derivative or weight or sum_to_one or not_numbers or padding or cannot_be)"
)


@compiled
@pytest.mark.parametrize(
    "selection",
    [[__file__], [str(Path(__file__).with_name("test_ctc_backends.py")), "-k", SHARED]],
    ids=["own", "shared"],
)
def test_in_the_interpreter(selection: list[str]) -> None:
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ["-p", "triton_interpreter", "-p", "no:cacheprovider", "-W", "ignore:All-NaN slice:RuntimeWarning"]
    program = [sys.executable, "-m", "pytest", *options, *selection]
    result = subprocess.run(
        program, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\b[1-9]\d* passed", result.stdout), result.stdout


# ---- values, in the interpreter --------------------------------------------------------------------------------------


def use_layout(monkeypatch, *, lanes: int, chunk: int, tile: int = triton_cuda.TILE) -> None:
    monkeypatch.setattr(triton_cuda, "WIDTHS", (lanes,))
    monkeypatch.setattr(triton_cuda, "CHUNK", chunk)
    monkeypatch.setattr(triton_cuda, "TILE", tile)


def assert_is_reference(logits: Tensor, *arguments: Tensor, near: dict, **options) -> None:
    options = {"zero_infinity": True, **options}
    expected = loss_and_gradient(per_utterance, logits.double(), *arguments, backend="reference", **options)
    found = loss_and_gradient(per_utterance, logits, *arguments, backend="triton", **options)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, **near)
    assert found[1].double().sum(dim=-1).abs().max() < 100 * near["atol"]


def ragged(num_frames: list[int], num_labels: list[int], *, num_symbols: int = 5, dtype=torch.float64):
    """Utterances of given lengths, of few symbols, so that labels repeat."""
    size = len(num_frames)
    logits = torch.randn(size, max(num_frames), num_symbols, dtype=dtype)
    targets = torch.randint(1, num_symbols, (size, max(num_labels)))
    return logits, targets, torch.tensor(num_frames), torch.tensor(num_labels)


@interpreted
@pytest.mark.parametrize(
    ("lanes", "num_labels", "chunk", "tile", "smoothing"),
    [(8, 5, 4, 1024, 0.0), (8, 5, 4, 4, 0.1), (4, 6, 8, 16, 0.1), (4, 11, 4, 8, 0.1), (4, 13, 16, 1024, 0.0)],
    ids=["R=1", "R=1, tiles of 4", "R=2, tiles of 16", "R=3, tiles of 8", "R=4"],
)
def test_every_layout_is_the_reference_at_every_length(
    lanes: int, num_labels: int, chunk: int, tile: int, smoothing: float, monkeypatch
) -> None:
    use_layout(monkeypatch, lanes=lanes, chunk=chunk, tile=tile)
    batch = ragged([2 * num_labels + 3, 9, 3, 2, 1, 1, 0, 0], [num_labels, 4, 2, 2, 1, 0, 0, 1])
    assert triton_cuda._layout(num_labels).lanes == lanes
    assert_is_reference(*batch, near={"atol": 1e-10, "rtol": 0}, label_smoothing=smoothing)


@interpreted
@pytest.mark.parametrize(
    ("dtype", "layout", "blank", "integer", "joined"),
    [
        (torch.float64, "time first", 3, torch.int32, True),
        (torch.float32, "plain", 0, torch.int64, False),
        (torch.float32, "symbols apart", 6, torch.int32, False),
        (torch.bfloat16, "part of a larger one", 3, torch.uint8, True),
        (torch.float16, "time first", 0, torch.int16, False),
    ],
)
def test_every_type_and_memory_layout_is_the_reference(dtype, layout: str, blank: int, integer, joined: bool) -> None:
    logits, targets, *lengths = draw(4, 12, 7, 5, blank=blank)
    logits, targets, lengths = logits.to(dtype), targets.to(integer), [x.to(integer) for x in lengths]
    options = {"blank": blank, "zero_infinity": True, "label_smoothing": 0.1}
    expected = loss_and_gradient(per_utterance, logits.double(), targets, *lengths, backend="reference", **options)
    occupancies = ctc_occupancies(logits.double(), targets, *lengths, blank=blank, backend="reference")
    if joined:
        targets = torch.cat([row[:count] for row, count in zip(targets, lengths[1], strict=True)])
    arguments = (laid_out(logits, layout), targets, *lengths)
    loss, gradient = loss_and_gradient(per_utterance, *arguments, backend="triton", **options)
    found = ctc_occupancies(*arguments, blank=blank, backend="triton")
    single = torch.float64 if dtype == torch.float64 else torch.float32
    assert (loss.dtype, found.dtype, gradient.dtype) == (single, single, dtype)
    near = {"atol": 1e-10, "rtol": 0} if dtype == torch.float64 else {"atol": 2e-5, "rtol": 1e-6}
    torch.testing.assert_close(loss.double(), expected[0], **near)
    torch.testing.assert_close(found.double(), occupancies, **near)
    torch.testing.assert_close(gradient.double(), expected[1], atol=max(near["atol"], torch.finfo(dtype).eps), rtol=0)
    if layout in ("time first", "symbols apart"):
        assert gradient.stride() == arguments[0].stride()


@interpreted
def test_single_precision_is_no_worse_than_torchs_in_a_long_utterance(monkeypatch) -> None:
    use_layout(monkeypatch, lanes=8, chunk=16)
    torch.manual_seed(0)
    logits, *arguments = ragged([200], [7], dtype=torch.float32)
    logits *= 5

    def of_torch(x: Tensor, *arguments: Tensor) -> Tensor:
        return F.ctc_loss(x.log_softmax(-1).transpose(0, 1), *arguments, reduction="none")

    truth = loss_and_gradient(of_torch, logits.double(), *arguments)
    mine = loss_and_gradient(per_utterance, logits, *arguments, backend="triton")
    theirs = loss_and_gradient(of_torch, logits, *arguments)
    torch.testing.assert_close(mine[0].double(), truth[0], atol=0, rtol=3e-7)  # some units in its last place
    assert (mine[1] - truth[1]).abs().max() <= (theirs[1] - truth[1]).abs().max()
    assert (mine[1] - truth[1]).abs().max() < 2e-5


@interpreted
def test_the_loss_is_the_same_without_a_gradient_and_each_time() -> None:
    logits, *arguments = ragged([20, 9], [3, 4], dtype=torch.float32)
    first, again = (loss_and_gradient(per_utterance, logits, *arguments, backend="triton") for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert torch.equal(per_utterance(logits, *arguments, backend="triton"), first[0])


@interpreted
def test_what_is_illegal_and_not_looked_at_cannot_be_or_is_no_number() -> None:
    logits, targets, frames, labels = ragged([6] * 6, [2] * 6)
    targets[0, 1], targets[1, 0], targets[2, 1] = 5, -1, 0
    frames[3], labels[4] = 7, 3
    options = {"backend": "triton", "validate": False}
    losses, gradient = loss_and_gradient(per_utterance, logits, targets, frames, labels, **options)
    assert (losses[:3] == torch.inf).all()
    assert losses[3:5].isnan().all()
    assert losses[5].isfinite()
    assert gradient[:3].isnan().all()
    assert gradient[5].isfinite().all()


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # where torch.compile itself looks
def test_torch_compile_takes_it_as_one_graph() -> None:
    logits, *arguments = ragged([5, 4], [2, 1], dtype=torch.float32)

    def loss(x: Tensor, *arguments: Tensor) -> Tensor:
        options = {"zero_infinity": True, "label_smoothing": 0.1, "validate": False, "backend": "triton"}
        return per_utterance(x, *arguments, **options)

    expected = loss_and_gradient(loss, logits, *arguments)
    for backend in ("eager", "aot_eager"):
        found = loss_and_gradient(torch.compile(loss, backend=backend, fullgraph=True), logits, *arguments)
        assert all(map(torch.equal, found, expected))


def test_other_devices_and_more_labels_than_a_program_holds_are_refused() -> None:
    batch = [x.to("meta") for x in draw(2, 9, 5, 2)]
    with pytest.raises(ValueError, match=r"`backend` .* meta"):
        ctc_loss(*batch, backend="triton")
    if not IN_INTERPRETER:
        with pytest.raises(ValueError, match=r"`backend` .* cpu"):
            ctc_loss(*draw(2, 9, 5, 2), backend="triton")
        return
    batch = draw(1, 3, 5, triton_cuda.MOST_LABELS + 1)
    with pytest.raises(ValueError, match=r"`backend` .* for more than 2047 labels"):
        ctc_loss(*batch, backend="triton")


# ---- machine code, compiled without a GPU ----------------------------------------------------------------------------

ARCHITECTURES = (80, 90, 100)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INTEGERS = dict.fromkeys(("targets", "input_lengths", "target_lengths", "sorted_labels", "order"), "*i64")
SCALARS = {"softmax": "fp64", "occupancy": "fp64"}


def machine_code(
    kernel, constants: dict, *, dtype: str, logits: str, num_warps: int, architecture: int, tmp_path: Path
) -> SimpleNamespace:
    """Compiles a kernel as `triton_cuda` calls it: pointers aligned, symbols and labels being neighbours in memory."""
    constants = {
        **constants,
        **{name: 1 for name in kernel.arg_names if name.endswith(("symbol_stride", "target_stride"))},
    }
    types = {**INTEGERS, **SCALARS, "logits": f"*{logits}", "gradient": f"*{logits}"}
    if kernel is triton_kernels.gradient_kernel:
        types["uniform"] = "fp64"
    for name in kernel.arg_names[: kernel.arg_names.index("T")]:
        types.setdefault(name, f"*{dtype}")
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name][0] == "*"}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": num_warps, "num_stages": 1}
    code = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(code.asm["cubin"])
    usage = subprocess.run(
        [TOOLS / "cuobjdump", "-res-usage", binary], capture_output=True, text=True, check=True
    ).stdout
    used = {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", usage)}
    ptx = code.asm["ptx"]
    return SimpleNamespace(
        registers=used["REG"],
        spilled=used["STACK"] + used["LOCAL"],
        shuffles=ptx.count("shfl.sync"),
        shared=code.metadata.shared,
        shared_accesses=len(re.findall(r"\b(?:ld|st)\.shared", ptx)),
        logarithms=ptx.count("lg2.approx.ftz.f32"),
        vectors=ptx.count("global.v4.b32") + ptx.count("global.v2.b64"),
    )


def scan_code(kernel, per_lane: int, lanes: int, dtype: str, architecture: int, tmp_path: Path) -> SimpleNamespace:
    layout = triton_cuda._Layout(per_lane, lanes)
    constants = {
        "R": per_lane,
        "LANES": lanes,
        "CHUNK": triton_cuda.CHUNK,
        "GROUP": layout.group,
        "KEPT": True,
        "DTYPE": tl.float64 if dtype == "fp64" else tl.float32,
        "FAST": dtype == "fp32",
    }
    options = {"dtype": dtype, "logits": dtype, "num_warps": lanes // 32, "architecture": architecture}
    return machine_code(kernel, constants, **options, tmp_path=tmp_path)


# R, lanes, type, architecture: registers of either scan
SCANS = {
    **{(1, 32, "fp32", architecture): (63, 64) for architecture in ARCHITECTURES},
    **{(4, 32, "fp32", architecture): (64, 166) for architecture in ARCHITECTURES},
    (4, 512, "fp32", 90): (101, 128),
    (2, 32, "fp64", 90): (84, 144),
}


@compiled
@pytest.mark.parametrize("scan", SCANS, ids=str)
def test_scans_spill_nothing_and_shift_by_one_shuffle(scan: tuple, tmp_path: Path) -> None:
    kernels = triton_kernels.halves_kernel, triton_kernels.meeting_kernel
    halves, meeting = (scan_code(kernel, *scan, tmp_path) for kernel in kernels)
    (per_lane, lanes, dtype, _), group = scan, triton_cuda._Layout(*scan[:2]).group
    assert halves.registers <= SCANS[scan][0]
    assert meeting.registers <= SCANS[scan][1]
    assert halves.spilled == meeting.spilled == 0
    if dtype == "fp32":  # two sums of probabilities a label, and none by the polynomial of `tl.log2`
        assert halves.logarithms == 2 * per_lane * group
    if lanes == 32:  # the largest number, or a sum, takes 5 shuffles; a shuffle moves 32 bits
        words = 2 if dtype == "fp64" else 1
        assert halves.shuffles <= words * (group + 2 * 5)
        assert meeting.shuffles <= words * (group + group * (1 + 5) + 1 + 3 * 5)
        assert halves.shared == meeting.shared == halves.shared_accesses == meeting.shared_accesses == 0


# frames, symbols, alignment, type: registers of emissions and gradient, vectors of 16 bytes that each loads and stores
TILES = {
    "32 symbols": (32, 32, 16, "fp32", (54, 4), (96, 2)),
    "5000 symbols": (1, 1024, 8, "fp32", (40, 2), (36, 4)),
    "5000 symbols in half precision": (1, 1024, 8, "bf16", (40, 1), (37, 2)),
    "double precision": (32, 32, 16, "fp64", (124, 8), (128, 4)),
}


@compiled
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tile", TILES)
def test_emissions_and_gradient_move_vectors_and_spill_nothing(tile: str, architecture: int, tmp_path: Path) -> None:
    frames, symbols, align, logits, *expected = TILES[tile]
    dtype = "fp64" if logits == "fp64" else "fp32"
    constants = {"SYMBOLS": symbols, "ALIGN": align, "R": 2, "LANES": 32, "FAST": dtype == "fp32"}
    of_emissions = {"FRAMES": frames, "DTYPE": tl.float64 if dtype == "fp64" else tl.float32, "SMOOTHED": True}
    of_gradient = {"FRAMES": max(1, frames // 2), "LABELS": 64}
    options = {"dtype": dtype, "logits": logits, "num_warps": 4, "architecture": architecture, "tmp_path": tmp_path}
    for kernel, more, (registers, vectors) in (
        (triton_kernels.emissions_kernel, of_emissions, expected[0]),
        (triton_kernels.gradient_kernel, of_gradient, expected[1]),
    ):
        code = machine_code(kernel, {**constants, **more}, **options)
        assert code.registers <= registers
        assert code.vectors == vectors
        assert code.spilled == 0
