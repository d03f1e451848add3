"""Machine code for CTC on a CPU, without the GIL, compiled by Numba at the first call.

Every probability of a path is a pair (m, e) that stands for m 2^e, 1 <= m < 2, with e a whole number held as a float:
the precision of linear space, the range of log space, and neither exp nor log in the recursion, so that it vectorises.
A label and the blank before it share an index k: "blank k" precedes "label k", and "blank U" is the last one. In a row
of states, blank k stands at place k and label k at place k + 1; place 0 of the labels is never reached.

Only the states that can be reached from the start and can still reach the end are computed: with T frames and U
labels, frame t holds max(0, U - T + t) <= k <= min(U, t).

The compiled code is kept in `__pycache__` beside this file, in the user's cache directory where that cannot be written,
or in NUMBA_CACHE_DIR where that is set; where nothing can be written, each process compiles for itself.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]

LANES = 16  # states computed together, a whole number of vector registers
CHUNK_BYTES = 2 << 20  # of states and emissions kept at once; what came before is computed again from a checkpoint
IMPOSSIBLE = -1e30  # log-probability of what cannot be; whatever is less likely counts as impossible too
LN2 = 0.6931471805599453


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles what Python calls, and keeps the result on disk where some directory can be written."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)
    with contextlib.suppress(RuntimeError):  # "no locator available": neither beside this file nor in the user's cache
        compiled.enable_caching()
    result: Callable[..., Any] = compiled
    return result


_WITHIN: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = numba.njit(fastmath={"contract"}, **_WITHIN)
_inner_sum = numba.njit(fastmath={"contract", "reassoc"}, **_WITHIN)  # sums in any order, so that they vectorise


def _layout(real: types.Float) -> tuple[Any, int, int]:
    """IEEE 754: the integer type of the same width, bits of the mantissa, bias of the exponent."""
    return (ir.IntType(32), 23, 127) if real == types.float32 else (ir.IntType(64), 52, 1023)


def _primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation in LLVM's instructions, for float32 and float64 alike."""
    operation: Callable[..., Any] = intrinsic(function)
    return operation


@_primitive
def _mantissa(typing_context: Any, x: types.Float) -> Any:
    """m of x = m 2^e > 0, 1 <= m < 2."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, bits, bias = _layout(x)
        word = builder.bitcast(arguments[0], integer)
        word = builder.and_(word, ir.Constant(integer, (1 << bits) - 1))
        word = builder.or_(word, ir.Constant(integer, bias << bits))
        return builder.bitcast(word, arguments[0].type)

    return x(x), generate


@_primitive
def _exponent(typing_context: Any, x: types.Float) -> Any:
    """e of x = m 2^e > 0, 1 <= m < 2, as a float."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, bits, bias = _layout(x)
        word = builder.ashr(builder.bitcast(arguments[0], integer), ir.Constant(integer, bits))
        return builder.sitofp(builder.sub(word, ir.Constant(integer, bias)), arguments[0].type)

    return x(x), generate


@_primitive
def _power_of_two(typing_context: Any, n: types.Float) -> Any:
    """2^n of a whole number n <= 127 (1023), exactly 0 where it is below the least normal number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, bits, bias = _layout(n)
        least = ir.Constant(arguments[0].type, -bias)
        bounded = builder.select(builder.fcmp_ordered(">", arguments[0], least), arguments[0], least)
        word = builder.add(builder.fptosi(bounded, integer), ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(word, ir.Constant(integer, bits)), arguments[0].type)

    return n(n), generate


@_primitive
def _order(typing_context: Any, x: types.Float) -> Any:
    """An integer that is greater where x is greater; its own inverse through `_from_order`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, _, _ = _layout(x)
        word = builder.bitcast(arguments[0], integer)
        sign = builder.ashr(word, ir.Constant(integer, integer.width - 1))
        return builder.xor(word, builder.and_(sign, ir.Constant(integer, (1 << (integer.width - 1)) - 1)))

    return (types.int32 if x == types.float32 else types.int64)(x), generate


@_primitive
def _from_order(typing_context: Any, key: types.Integer) -> Any:
    """The x whose `_order` is the key."""
    real = types.float32 if key == types.int32 else types.float64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, _, _ = _layout(real)
        sign = builder.ashr(arguments[0], ir.Constant(integer, integer.width - 1))
        word = builder.xor(arguments[0], builder.and_(sign, ir.Constant(integer, (1 << (integer.width - 1)) - 1)))
        return builder.bitcast(word, context.get_value_type(real))

    return real(key), generate


@_primitive
def _exp_parts(typing_context: Any, x: types.Float) -> Any:
    """(m, n) with exp(x) = m 2^n, 0.70 < m < 1.42 and n whole, for x <= 0; NaN stays NaN.

    x = n ln 2 + r with ln 2 in two parts (Cody and Waite 1980), then the Taylor polynomial of exp(r).
    """
    wide = x == types.float64
    high, low = (0.693145751953125, 1.42860682030941723212e-6) if wide else (0.693359375, -2.12194440054690583e-4)
    result = types.UniTuple(x, 2)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        contract = ("contract",)

        def constant(number: float) -> Any:
            return ir.Constant(value.type, number)

        def at_least(a: Any, number: float) -> Any:  # NaN stays
            return builder.select(builder.fcmp_ordered("<", a, constant(number)), constant(number), a)

        def at_most(a: Any, number: float) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, constant(number)), constant(number), a)

        rint = builder.module.declare_intrinsic("llvm.rint", [value.type])
        value = at_least(value, IMPOSSIBLE)
        n = builder.call(rint, [builder.fmul(value, constant(1.4426950408889634))])
        minus_n = builder.fneg(n)
        r = builder.fadd(builder.fmul(minus_n, constant(high), flags=contract), value, flags=contract)
        r = builder.fadd(builder.fmul(minus_n, constant(low), flags=contract), r, flags=contract)
        r = at_most(at_least(r, -0.35), 0.35)  # where x is too large for a fraction, any will do
        factorial = [1.0]
        for k in range(1, 14 if wide else 8):
            factorial.append(factorial[-1] * k)
        m = constant(1.0 / factorial[-1])
        for number in reversed(factorial[:-1]):
            m = builder.fadd(builder.fmul(m, r, flags=contract), constant(1.0 / number), flags=contract)
        return context.make_tuple(builder, result, (m, n))

    return result(x), generate


@_primitive
def lanes(typing_context: Any, like: types.Array) -> Any:
    """6 LANES numbers on the stack, which no array overlaps: what lets LLVM vectorise a loop over many arrays."""
    pointer = types.CPointer(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_value_type(like.dtype)
        return builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(element, 6 * LANES)), ir.PointerType(element))

    return pointer(like), generate


@_primitive
def take(typing_context: Any, counter: types.Array) -> Any:
    """The number in an int64 array (1,), which is one more for the next to ask, whatever its thread."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(counter)(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@inner
def largest(row: Array) -> Any:
    """The largest of a row, NaN where there is one with its sign bit clear."""
    best = _order(row[0])
    for v in range(1, len(row)):
        key = _order(row[v])
        best = key if key > best else best
    return _from_order(best)


@inner
def _exp(x: Any) -> Any:
    """exp(x) for x <= 0."""
    m, n = _exp_parts(x)
    return m * _power_of_two(n)


@_inner_sum
def sum_exp(row: Array, shift: Any) -> Any:
    total = shift - shift  # 0 of the type, NaN where the shift is infinite
    for v in range(len(row)):
        total += _exp(row[v] - shift)
    return total


@_inner_sum
def _sum_differences(row: Array, shift: Any) -> float:
    total = 0.0
    for v in range(len(row)):
        total += row[v] - shift
    return total


@inner
def _emit(
    row: Array, shift: Any, blank: int, labels: Array, gathered: Array, emissions: Array, first: int, end: int
) -> None:
    """emissions (2, width) <- exp(row - shift) of the blank (place 0) and of labels first <= k < end (place k + 1)."""
    emissions[0, 0], emissions[1, 0] = _exp_parts(row[blank] - shift)
    for k in range(first, min(end, len(labels))):
        gathered[np.uintp(k + 1)] = row[np.uintp(labels[np.uintp(k)])]
    for start in range(first + 1, end + 1, LANES):
        for j in range(LANES):
            place = np.uintp(start + j)
            emissions[0, place], emissions[1, place] = _exp_parts(gathered[place] - shift)


@inner
def _alpha_step(before: Array, after: Array, emissions: Array, skip: Array, first: int, end: int) -> None:
    """after (4, width) <- paths to each state of this frame from those of the frame before, first <= k < end.

    Rows: m and e of blanks, m and e of labels. skip is 0 where a label may follow its predecessor without a blank.
    """
    blank_m, blank_e = emissions[0, 0], emissions[1, 0]
    new = numba.carray(lanes(skip), (6, LANES))
    for start in range(first, end, LANES):
        for j in range(LANES):
            k, place = np.uintp(start + j), np.uintp(start + j + 1)
            b_m, b_e = before[0, k], before[1, k]
            l_m, l_e = before[2, place], before[3, place]
            p_m, p_e = before[2, k], before[3, k]  # the label before
            e = max(b_e, p_e)
            m = (b_m * _power_of_two(b_e - e) + p_m * _power_of_two(p_e - e)) * blank_m
            new[0, j], new[1, j] = _mantissa(m), e + blank_e + _exponent(m)
            p_e += skip[place]
            e = max(max(b_e, l_e), p_e)
            m = l_m * _power_of_two(l_e - e) + b_m * _power_of_two(b_e - e) + p_m * _power_of_two(p_e - e)
            m *= emissions[0, place]
            new[2, j], new[3, j] = _mantissa(m), e + emissions[1, place] + _exponent(m)
        _store(new, after, start)
    for j in range(LANES):  # the next frame may look as far
        k, place = np.uintp(end + j), np.uintp(end + j + 1)
        after[0, k], after[1, k], after[2, place], after[3, place] = 1, IMPOSSIBLE, 1, IMPOSSIBLE


@inner
def _beta_step(
    rest: Array,
    alpha: Array,
    emissions: Array,
    skip: Array,
    total_e: Any,
    of_labels: Array,
    first: int,
    end: int,
) -> Any:
    """One frame back in time: occupancies (width,) of labels at place k + 1, and returns that of all blanks.

    rest (4, width), paths from each state of the next frame to the end, that frame included, becomes that of this one.
    Occupancies are alpha beta 2^-total_e, to be divided by their sum.
    """
    most = skip.dtype.type(8)  # of the exponent of a probability over that of all, where e is too large to be exact
    blank_m, blank_e = emissions[0, 0], emissions[1, 0]
    new = numba.carray(lanes(skip), (6, LANES))
    for j in range(LANES):
        new[4, j] = 0
    for start in range(first, end, LANES):
        for j in range(LANES):
            k, place, after = np.uintp(start + j), np.uintp(start + j + 1), np.uintp(start + j + 2)
            b_m, b_e = rest[0, k], rest[1, k]
            l_m, l_e = rest[2, place], rest[3, place]
            e = max(b_e, l_e)
            m = b_m * _power_of_two(b_e - e) + l_m * _power_of_two(l_e - e)
            new[4, j] += alpha[0, k] * m * _power_of_two(min(alpha[1, k] + e - total_e, most))
            m *= blank_m
            new[0, j], new[1, j] = _mantissa(m), e + blank_e + _exponent(m)
            b_m, b_e = rest[0, place], rest[1, place]
            n_m, n_e = rest[2, after], rest[3, after] + skip[after]
            e = max(max(b_e, l_e), n_e)
            m = l_m * _power_of_two(l_e - e) + b_m * _power_of_two(b_e - e) + n_m * _power_of_two(n_e - e)
            new[5, j] = alpha[2, place] * m * _power_of_two(min(alpha[3, place] + e - total_e, most))
            m *= emissions[0, place]
            new[2, j], new[3, j] = _mantissa(m), e + emissions[1, place] + _exponent(m)
        _store(new, rest, start)
        for j in range(LANES):
            of_labels[np.uintp(start + j + 1)] = new[5, j]
    of_blanks = new[4, 0]
    for j in range(1, LANES):
        of_blanks += new[4, j]
    return of_blanks


@inner
def _store(new: Array, row: Array, start: int) -> None:
    """LANES blanks and labels from k = start on."""
    for j in range(LANES):
        row[0, np.uintp(start + j)] = new[0, j]
    for j in range(LANES):
        row[1, np.uintp(start + j)] = new[1, j]
    for j in range(LANES):
        row[2, np.uintp(start + j + 1)] = new[2, j]
    for j in range(LANES):
        row[3, np.uintp(start + j + 1)] = new[3, j]


@inner
def _only(row: Array, k: int) -> None:
    """All paths in blank k of a row (4, width)."""
    for place in range(row.shape[1]):
        row[0, place], row[1, place], row[2, place], row[3, place] = 1, IMPOSSIBLE, 1, IMPOSSIBLE
    row[1, k] = 0


@inner
def copy(source: Array, target: Array) -> None:
    for field in range(source.shape[0]):
        for place in range(source.shape[1]):
            target[field, place] = source[field, place]


@_inner_sum
def _sum(values: Array) -> Any:
    total = values[0]
    for i in range(1, len(values)):
        total += values[i]
    return total


@inner
def band(t: int, num_frames: int, num_labels: int) -> tuple[int, int]:
    """The least k of frame t that can still reach the end, and one past the last that can be reached."""
    return max(0, num_labels - num_frames + t), min(num_labels, t) + 1


@inner
def whole(first: int, end: int) -> int:
    """The end of the lanes that cover first <= k < end."""
    return first + (end - first + LANES - 1) // LANES * LANES


def workspace(num_frames: int, num_labels: int, dtype: Any) -> tuple[Array, ...]:
    """What one thread needs in `forward` for utterances of at most so many frames and labels.

    The states of a chunk of frames, row 0 being those before its first; its emissions; row 0 of each chunk; paths to
    the end; and three rows by place: skip, gathered logits, occupancies.
    """
    width = num_labels + 2 * LANES + 2
    chunk = max(1, min(num_frames, max(LANES, CHUNK_BYTES // (6 * width * dtype.itemsize))))
    alphas = np.empty((chunk + 1, 4, width), dtype)
    alphas[:, 2, 0], alphas[:, 3, 0] = 1.0, IMPOSSIBLE
    return (
        alphas,
        np.empty((chunk, 2, width), dtype),
        np.empty((-(-num_frames // chunk) + 1, 4, width), dtype),
        np.empty((4, width), dtype),
        np.empty((3, width), dtype),
    )


@kernel
def forward(
    order: Array,
    counter: Array,
    logits: Array,
    utterance_stride: int,
    frame_stride: int,
    num_symbols: int,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int,
    smoothing: float,
    losses: Array,
    feasible: Array,
    statistics: Array,
    occupancies: Array,
    alphas: Array,
    emissions: Array,
    checkpoints: Array,
    rest: Array,
    by_place: Array,
) -> None:
    """The losses of a batch, and what their gradients need. Several threads may share the work, each in its workspace.

    Args:
        order: (B,) int64, the utterances in the order of the work.
        counter: (1,) int64, how many are done or being done.
        logits: the memory of (B, T, V) logits, in one dimension, the symbols of a frame being neighbours.
        utterance_stride: from the first logit of an utterance to that of the next.
        frame_stride: from the first logit of a frame to that of the next.
        num_symbols: V.
        targets: (B, U) int64.
        input_lengths: (B,) int64.
        target_lengths: (B,) int64.
        blank: id of the blank.
        smoothing: weight of the cross entropy to uniform.
        losses: (B,) float64, written; infinite where there is no path.
        feasible: (B,) bool, written: whether there is a path.
        statistics: (B, T, 2), written: the largest logit of each frame, and the sum of exp(logit - largest).
        occupancies: (B, T, U + 1), written for the states of each frame's band: all blanks, then each label. The first
            is NaN where the loss is. If the last dimension is 0, time is not gone back through.
        alphas: this and the rest are a `workspace`.
        emissions: see above.
        checkpoints: see above.
        rest: see above.
        by_place: see above.
    """
    chunk = len(emissions)
    skip, gathered, of_labels = by_place[0], by_place[1], by_place[2]
    while True:
        i = take(counter)
        if i >= len(order):
            return
        b = order[i]
        num_frames, num_labels = input_lengths[b], target_lengths[b]
        labels = targets[b, :num_labels]
        losses[b], feasible[b] = np.inf, False
        repeats = 0
        for place in range(len(skip)):
            skip[place], gathered[place] = IMPOSSIBLE, -np.inf
        for k in range(1, num_labels):
            if labels[k] == labels[k - 1]:
                repeats += 1
            else:
                skip[k + 1] = 0
        if num_frames < num_labels + repeats:
            continue

        log_total, to_uniform = 0.0, 0.0
        _only(checkpoints[0], 0)  # all paths start before the first blank
        _only(rest, num_labels)  # and end after the last
        total_e = rest[1, num_labels]
        num_chunks = max(1, (num_frames + chunk - 1) // chunk)
        for visit in range(2 * num_chunks - 1):  # of each chunk from the first to the last, and back to the first
            c = min(visit, 2 * num_chunks - 2 - visit)
            first_frame, num_here = c * chunk, min(chunk, num_frames - c * chunk)
            copy(checkpoints[c], alphas[0])
            for i in range(num_here):
                t = first_frame + i
                start = b * utterance_stride + t * frame_stride
                row = logits[start : start + num_symbols]
                if visit < num_chunks:
                    shift = largest(row)
                    total = sum_exp(row, shift)
                    statistics[b, t, 0], statistics[b, t, 1] = shift, total
                    log_total += np.log(np.float64(total))
                    if smoothing > 0:
                        to_uniform -= _sum_differences(row, shift) / num_symbols
                first, end = band(t, num_frames, num_labels)
                end = whole(first, end)
                _emit(row, statistics[b, t, 0], blank, labels, gathered, emissions[i], first, end)
                _alpha_step(alphas[i], alphas[i + 1], emissions[i], skip, first, end)
            if visit < num_chunks - 1:
                copy(alphas[num_here], checkpoints[c + 1])
                continue
            if visit == num_chunks - 1:
                last = alphas[num_here]  # all paths end in the last label or blank
                b_e, l_e = last[1, num_labels], last[3, num_labels]
                total_e = max(b_e, l_e)
                m = last[0, num_labels] * _power_of_two(b_e - total_e) + last[2, num_labels] * _power_of_two(
                    l_e - total_e
                )
                if total_e < 0.1 * IMPOSSIBLE and log_total == log_total:
                    break
                loss = log_total - np.log(np.float64(m)) - LN2 * total_e
                if smoothing > 0:
                    loss = (1 - smoothing) * loss + smoothing * (log_total + to_uniform)
                losses[b], feasible[b] = loss, True
                if occupancies.shape[2] == 0:
                    break
                if loss != loss:
                    occupancies[b, 0, 0] = loss
                    break
            for i in range(num_here - 1, -1, -1):
                t = first_frame + i
                first, end = band(t, num_frames, num_labels)
                of_blanks = _beta_step(
                    rest, alphas[i + 1], emissions[i], skip, total_e, of_labels, first, whole(first, end)
                )
                total = of_blanks + _sum(of_labels[first + 1 : end + 1])
                scale = 1 / total if total > 0 else total
                occupancies[b, t, 0] = of_blanks * scale
                for k in range(first, min(end, num_labels)):
                    occupancies[b, t, np.uintp(k + 1)] = of_labels[np.uintp(k + 1)] * scale


@inner
def _softmax(row: Array, shift: Any, scale: Any, minus: Any, result: Array) -> None:
    for v in range(len(row)):
        result[v] = scale * _exp(row[v] - shift) - minus


@inner
def fill(row: Array, value: Any) -> None:
    for v in range(len(row)):
        row[v] = value


@kernel
def gradient(
    order: Array,
    counter: Array,
    logits: Array,
    utterance_stride: int,
    frame_stride: int,
    num_symbols: int,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int,
    smoothing: float,
    weights: Array,
    feasible: Array,
    statistics: Array,
    occupancies: Array,
    result: Array,
    result_utterance_stride: int,
    result_frame_stride: int,
) -> None:
    """Each utterance's weight times the gradient of its loss with respect to its logits, softmax less occupancy.

    Args as in `forward`, and:
        weights: (B,) of the logits' type. Where there is no path, every number of the gradient is the weight.
        result: the memory of the gradient, in one dimension; strides as those of the logits.
        result_utterance_stride: see above.
        result_frame_stride: see above.
    """
    while True:
        i = take(counter)
        if i >= len(order):
            return
        b = order[i]
        num_frames, num_labels, weight = input_lengths[b], target_lengths[b], weights[b]
        of_padding = logits.dtype.type(0)
        of_path = weight * logits.dtype.type(1 - smoothing)
        minus = weight * logits.dtype.type(smoothing / num_symbols)
        for t in range(statistics.shape[1]):
            result_start = b * result_utterance_stride + t * result_frame_stride
            result_row = result[result_start : result_start + num_symbols]
            if t >= num_frames or not feasible[b]:
                fill(result_row, weight if t < num_frames else of_padding)
                continue
            start = b * utterance_stride + t * frame_stride
            row = logits[start : start + num_symbols]
            _softmax(row, statistics[b, t, 0], weight / statistics[b, t, 1], minus, result_row)
            result_row[blank] -= of_path * occupancies[b, t, 0]
            first, end = band(t, num_frames, num_labels)
            for k in range(first, min(end, num_labels)):
                result_row[np.uintp(targets[b, np.uintp(k)])] -= of_path * occupancies[b, t, np.uintp(k + 1)]
