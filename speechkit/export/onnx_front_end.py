"""The integer front end as an ONNX graph of standard operators, with the same codes bit for bit.

The steps are those of `speechkit.runtime.front_end`. Sums that stay below 2^53 are products in double precision, the
rest are 64-bit integers. ONNX shifts unsigned numbers only and its division is towards zero, so what may be negative is
raised by a multiple of the divisor first.
"""

import numpy as np

from speechkit.export.onnx_graph import Graph
from speechkit.runtime.front_end import (
    INT16_SCALE,
    LOG_BITS,
    POWER_SHIFT,
    SAMPLE_BITS,
    WINDOW_BITS,
    IntegerTables,
    dft_tables,
    filter_matrix,
)

_HALF = 1 << 24  # powers are split there for their products with filters
_RAISED = 1 << 62


def add_integer_front_end(graph: Graph, tables: IntegerTables, waveform: str, *, code_type: str, offset: int) -> str:
    """Adds the steps from a waveform to codes.

    Args:
        graph: to add to.
        tables: of the front end.
        waveform: name of float32 (batch, samples) in [-1, 1]; at least one frame long.
        code_type: of the codes, "uint8" or "int8".
        offset: added to the int8 codes, so that they fit that type.

    Returns:
        The name of the codes (batch, frames, F) of the frames that lie wholly inside.
    """
    steps = _Steps(graph)
    x = _frames(steps, tables, waveform)
    x = steps.apply("Mul", x, float(1 << SAMPLE_BITS))
    if tables.remove_dc:
        total = graph.node("ReduceSum", x, steps.constant([2]), keepdims=1)
        doubled = steps.apply("Add", steps.apply("Mul", total, 2.0), float(tables.frame_length))
        mean = graph.node("Floor", steps.apply("Div", doubled, 2.0 * tables.frame_length))
        x = graph.node("Sub", x, mean)
    before = graph.node("Gather", x, steps.constant([0, *range(tables.frame_length - 1)]), axis=2)
    before = steps.apply("Mul", before, float(tables.preemphasis))
    emphasised = graph.node("Sub", steps.apply("Mul", x, float(1 << WINDOW_BITS)), before)
    windowed = graph.node(
        "Mul", steps.floor_shift(emphasised, WINDOW_BITS), steps.constant(tables.window.astype(float))
    )
    windowed = steps.floor_shift(windowed, WINDOW_BITS)
    squares = [
        graph.node("Mul", part, part)
        for table in dft_tables(tables)
        for part in [steps.integers(steps.floor_shift(steps.apply("MatMul", windowed, table), tables.twiddle_bits))]
    ]
    power = steps.shift(graph.node("Add", *squares), POWER_SHIFT)
    high = steps.apply("Div", power, _HALF)
    low = graph.node("Sub", power, steps.apply("Mul", high, _HALF))
    filters = filter_matrix(tables)
    high, low = (steps.integers(steps.apply("MatMul", steps.doubles(half), filters)) for half in (high, low))
    log = _log2(steps, tables, graph.node("Add", steps.apply("Mul", high, _HALF), low))
    features = steps.apply("Add", steps.apply("MatMul", log, tables.multiplier), tables.offset)
    if tables.shift:
        raised = steps.apply("Add", features, _RAISED)
        lowered = _RAISED >> tables.shift
        features = steps.apply("Sub", steps.shift(raised, tables.shift), lowered)
    codes = graph.node("Clip", features, steps.constant(tables.code_min), steps.constant(tables.code_max))
    return graph.node("Cast", steps.apply("Add", codes, offset), to=graph.type_number(code_type))


def _frames(steps: "_Steps", tables: IntegerTables, waveform: str) -> str:
    """Whole samples in double precision, (batch, frames, frame_length)."""
    graph = steps.graph
    samples = graph.node("Round", steps.apply("Mul", waveform, np.float32(INT16_SCALE)))
    samples = graph.node("Clip", samples, steps.constant(np.float32(-32768)), steps.constant(np.float32(32767)))
    size = graph.node("Squeeze", graph.node("Shape", waveform, start=1, end=2), steps.constant([0]))
    end = steps.apply("Sub", size, tables.frame_length - 1)
    starts = graph.node("Range", steps.constant(0), end, steps.constant(tables.hop_length))
    starts = graph.node("Unsqueeze", starts, steps.constant([1]))
    places = steps.apply("Add", starts, np.arange(tables.frame_length))
    return steps.doubles(graph.node("Gather", samples, places, axis=1))


def _log2(steps: "_Steps", tables: IntegerTables, energy: str) -> str:
    """log2 with 20 fraction bits of integers from 0 to 2^63 - 1."""
    graph = steps.graph
    is_some = graph.node("Greater", energy, steps.constant(0))
    # not Max, which onnxruntime 1.31 takes of the low 32 bits on some processors
    energy = graph.node("Where", is_some, energy, steps.constant(1))
    top, rest = steps.constant(0), energy  # the leading bit, by bisection
    for bits in (32, 16, 8, 4, 2, 1):
        is_above = graph.node("GreaterOrEqual", rest, steps.constant(1 << bits))
        rest = graph.node("Where", is_above, steps.apply("Div", rest, 1 << bits), rest)
        top = graph.node("Add", top, graph.node("Where", is_above, steps.constant(bits), steps.constant(0)))
    powers = np.array([1 << bits for bits in range(40)])
    drop = steps.apply("Sub", top, 23)
    too_much = graph.node("Gather", steps.constant(powers), graph.node("Max", drop, steps.constant(0)))
    too_little = graph.node(
        "Gather", steps.constant(powers), graph.node("Max", graph.node("Neg", drop), steps.constant(0))
    )
    mantissa = graph.node("Mul", graph.node("Div", energy, too_much), too_little)
    mantissa = steps.apply("Sub", mantissa, 1 << 23)
    place = steps.apply("Div", mantissa, 1 << 15)
    rest = graph.node("Sub", mantissa, steps.apply("Mul", place, 1 << 15))
    table = steps.constant(tables.log_table.astype(np.int64))
    low = graph.node("Gather", table, place)
    rise = graph.node("Sub", graph.node("Gather", table, steps.apply("Add", place, 1)), low)
    between = steps.apply("Div", graph.node("Mul", rise, rest), 1 << 15)
    log = graph.node("Add", graph.node("Add", steps.apply("Mul", top, 1 << LOG_BITS), low), between)
    return graph.node("Where", is_some, log, steps.constant(tables.zero_energy_log))


class _Steps:
    """Operators with a constant as their second input; whole numbers are int64."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._count = 0

    def constant(self, value: object) -> str:
        self._count += 1
        return self.graph.constant(f"front_end.{self._count}", np.asarray(value))

    def apply(self, kind: str, x: str, value: object) -> str:
        return self.graph.node(kind, x, self.constant(value))

    def doubles(self, x: str) -> str:
        return self.graph.node("Cast", x, to=self.graph.type_number(np.float64))

    def integers(self, x: str) -> str:
        return self.graph.node("Cast", x, to=self.graph.type_number(np.int64))

    def shift(self, x: str, bits: int) -> str:
        """(x + half) >> bits of what is not negative."""
        return self.apply("Div", self.apply("Add", x, 1 << (bits - 1)), 1 << bits)

    def floor_shift(self, x: str, bits: int) -> str:
        """(x + half) >> bits of whole numbers in double precision."""
        return self.graph.node("Floor", self.apply("Mul", self.apply("Add", x, float(1 << (bits - 1))), 2.0**-bits))
