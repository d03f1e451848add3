"""CTC on a GPU: four kernels in Triton, which `triton_cuda` launches one after the other.

The states blank, label, ..., blank of U labels are split into blank k, k = 0 ... U, and the label k that follows it, so
that a step looks at one neighbour only: label k - 1. A program holds the states of an utterance in registers, as a
tuple of 2 R vectors of LANES numbers, of which entry r holds blank k = lane R + r and entry R + r label k: one shift
by a lane serves a whole step, and takes one warp shuffle where LANES is 32. There are K = R LANES > U places for each
kind; in memory k has the place (k mod R) LANES + k div R, so that neighbours among the lanes are neighbours there.

Beta is alpha with time and labels reversed (Graves et al. 2006, equations 6 to 11), so one program does either: half
of the frames each, from both ends at once (`halves_kernel`), which leaves the state at the middle and before every
chunk of frames. Where they meet they give the loss, and each goes on through the half of the other
(`meeting_kernel`), whose states it computes again, chunk by chunk. The occupancies replace the emissions in place.

Probabilities are log2, since the GPU has exp2 and log2. Every chunk starts from states whose largest is in [0, 1), the
rest being kept as a whole number, so that precision does not suffer from the number of frames.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
# ruff: noqa: N803, RUF005 (constants are in capitals, as in Triton's own kernels, and it has no unpacking)

import triton
import triton.language as tl

NEVER = tl.constexpr(-1e30)  # log-probability of what cannot be; finite, so that differences are never NaN
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _exp2(x, FAST: tl.constexpr):
    if FAST:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def _log2(x, FAST: tl.constexpr):
    """`tl.log2` is a polynomial of twelve steps, and not the instruction, whose error is 2^-22 between 1 and 2."""
    if FAST:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.log2(x)


@triton.jit
def _log_add(a, b, FAST: tl.constexpr):
    """log2(2^a + 2^b), and NaN where either is NaN."""
    less = tl.abs(a - b) * -1.0  # both set the sign bit; a minus would be the subtraction 0 - |a - b|
    return tl.maximum(a, b) + _log2(1.0 + _exp2(less, FAST), FAST)


@triton.jit
def _lengths(input_lengths, target_lengths, b, T, U):
    """Frames and labels of an utterance, within the limits of memory whatever was given."""
    num_frames = tl.minimum(tl.maximum(tl.load(input_lengths + b), 0), T).to(tl.int32)
    num_labels = tl.minimum(tl.maximum(tl.load(target_lengths + b), 0), U).to(tl.int32)
    return num_frames, num_labels


@triton.jit
def _place(k, valid, R: tl.constexpr, LANES: tl.constexpr):
    """Where label or blank k is in memory; what is not valid, in the last place, which no label takes as U < K."""
    return tl.where(valid, (k % R) * LANES + k // R, R * LANES - 1)


# ---- emissions -------------------------------------------------------------------------------------------------------


@triton.jit
def emissions_kernel(
    logits,  # (B, T, V), in the strides below
    targets,  # (B, U), in the strides below
    input_lengths,  # (B,)
    target_lengths,  # (B,)
    log_sums,  # (B, T) out: log2 sum_v 2^(logit log2 e)
    blanks,  # (B, T) out: log2-probability of the blank
    labels,  # (B, T, K) out: log2-probability of each label, at its place; NEVER in places of none
    uniform,  # (B, T) out, where SMOOTHED: sum over symbols of the log2-probability
    T,
    V,  # in units of ALIGN, as the strides of utterances and frames
    U,
    blank,
    utterance_stride,
    frame_stride,
    symbol_stride,
    target_utterance_stride,
    target_stride,
    FRAMES: tl.constexpr,
    SYMBOLS: tl.constexpr,
    R: tl.constexpr,
    LANES: tl.constexpr,
    ALIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    SMOOTHED: tl.constexpr,
    FAST: tl.constexpr,
):
    """Program (i, b): FRAMES frames of utterance b, whose symbols are read once."""
    b = tl.program_id(1).to(tl.int64)
    num_frames, num_labels = _lengths(input_lengths, target_lengths, b, T, U)
    start = tl.program_id(0) * FRAMES
    if start >= num_frames:
        return
    frame = start + tl.arange(0, FRAMES)
    inside = frame < num_frames
    rows = logits + b * utterance_stride * ALIGN + frame.to(tl.int64)[:, None] * frame_stride * ALIGN
    num_symbols = V * ALIGN

    top = tl.full((FRAMES, SYMBOLS), float("-inf"), DTYPE)
    total = tl.zeros((FRAMES, SYMBOLS), DTYPE)  # of 2^(logit - top), of every SYMBOLS-th symbol
    plain = tl.zeros((FRAMES, SYMBOLS), DTYPE)
    for first in range(0, num_symbols, SYMBOLS):
        symbol = first + tl.arange(0, SYMBOLS)
        mask = inside[:, None] & (symbol < num_symbols)[None, :]
        logit = tl.load(rows + symbol.to(tl.int64)[None, :] * symbol_stride, mask, float("-inf")).to(DTYPE) * LOG2E
        less = tl.where(logit == top, 1.0, _exp2(tl.abs(logit - top) * -1.0, FAST))  # both may be -inf
        total = tl.where(logit > top, total * less + 1.0, total + less)
        top = tl.maximum(top, logit)
        if SMOOTHED:
            plain += tl.where(mask, logit, 0.0)
    highest = tl.max(top, 1)
    log_sum = highest + tl.log2(tl.sum(total * tl.exp2(top - highest[:, None]), 1))
    log_sum = tl.where(tl.abs(log_sum) < float("inf"), log_sum, float("nan"))  # a frame of +inf, or of -inf only

    row = b * T + frame
    tl.store(log_sums + row, log_sum, inside)
    if SMOOTHED:
        tl.store(uniform + row, tl.sum(plain, 1) - log_sum * num_symbols, inside)
    blank64 = b * 0 + blank
    of_blank = tl.load(rows + blank64 * symbol_stride, inside[:, None], 0.0).to(DTYPE) * LOG2E - log_sum[:, None]
    tl.store(blanks + row[:, None], tl.where(of_blank < NEVER, NEVER, of_blank), inside[:, None])
    lane = tl.arange(0, LANES)
    for r in range(R):
        k = lane * R + r
        label = tl.load(targets + b * target_utterance_stride + k * target_stride, k < num_labels, -1)
        known = (label >= 0) & (label < num_symbols) & (label != blank)  # others cannot be; memory is safe from them
        places = rows + label.to(tl.int64)[None, :] * symbol_stride
        emission = tl.load(places, inside[:, None] & known[None, :], 0.0).to(DTYPE) * LOG2E - log_sum[:, None]
        emission = tl.where((emission < NEVER) | (known == 0)[None, :], NEVER, emission)
        out = labels + row[:, None] * (R * LANES) + (r * LANES + lane)[None, :]
        tl.store(out, emission, inside[:, None])


# ---- forward and backward variables ----------------------------------------------------------------------------------


@triton.jit
def _start(lane, R: tl.constexpr, LANES: tl.constexpr, DTYPE: tl.constexpr):
    """All paths start in the first blank, before any frame."""
    state = (tl.where(lane == 0, 0.0, NEVER).to(DTYPE),)
    for _ in tl.static_range(2 * R - 1):
        state = state + (tl.full((LANES,), NEVER, DTYPE),)
    return state


@triton.jit
def _transition(state, may_skip, lane, R: tl.constexpr, FAST: tl.constexpr):
    """The states a frame later, whose emission is still to be added.

    blank k is reached from itself and label k - 1; label k from itself and from whatever reaches blank k or, where it
    repeats label k - 1, from blank k alone.
    """
    blanks = ()
    labels = ()
    before = tl.where(lane == 0, NEVER, tl.gather(state[2 * R - 1], tl.maximum(lane - 1, 0), 0))  # label k - 1
    for r in tl.static_range(R):
        blank = _log_add(state[r], before, FAST)
        blanks = blanks + (blank,)
        labels = labels + (_log_add(state[R + r], tl.where(may_skip[r], blank, state[r]), FAST),)
        before = state[R + r]
    return blanks + labels


@triton.jit
def _emitted(state, after, emissions, active, R: tl.constexpr):
    """The state `after` a transition with the emissions of its frame, of the blank and R of labels, or as it was."""
    result = ()
    for r in tl.static_range(R):
        result = result + (tl.where(active, after[r] + emissions[0], state[r]),)
    for r in tl.static_range(R):
        result = result + (tl.where(active, after[R + r] + emissions[1 + r], state[R + r]),)
    return result


@triton.jit
def _rescaled(state, offset, R: tl.constexpr):
    """The same state, its largest number in [0, 1); what is subtracted is whole and goes to the offset."""
    top = state[0]
    for i in tl.static_range(1, 2 * R):
        top = tl.maximum(top, state[i])
    whole = tl.floor(tl.max(top, 0))
    result = ()
    for i in tl.static_range(2 * R):
        result = result + (state[i] - whole,)
    return result, offset + whole


@triton.jit
def _save(row, state, lane, R: tl.constexpr, LANES: tl.constexpr):
    for i in tl.static_range(2 * R):
        tl.store(row + i * LANES + lane, state[i])


@triton.jit
def _restore(row, lane, R: tl.constexpr, LANES: tl.constexpr):
    state = ()
    for i in tl.static_range(2 * R):
        state = state + (tl.load(row + i * LANES + lane),)
    return state


@triton.jit
def _label_order(targets, stride, direction, num_labels, lane, R: tl.constexpr, LANES: tl.constexpr):
    """Of each label of a direction: its place among the emissions, and whether a path may skip the blank before it."""
    places = ()
    may_skip = ()
    for r in tl.static_range(R):
        k = lane * R + r
        j = tl.where(direction == 0, k, num_labels - 1 - k)
        before = tl.where(direction == 0, j - 1, j + 1)
        label = tl.load(targets + j * stride, k < num_labels, -1)
        neighbour = tl.load(targets + before * stride, (k > 0) & (k < num_labels), -1)
        places = places + (_place(j, k < num_labels, R, LANES),)
        may_skip = may_skip + (label != neighbour,)
    return places, may_skip


@triton.jit
def _frame(direction, step, num_frames):
    """The frame of a step in a direction; one that exists, whatever the step."""
    frame = tl.where(direction == 0, step, num_frames - 1 - step)
    return tl.maximum(tl.minimum(frame, num_frames - 1), 0)


@triton.jit
def _emissions(blanks, labels, places, direction, step, num_frames, R: tl.constexpr, LANES: tl.constexpr):
    """Emissions in a step, of the blank and R of labels, to be loaded long before they are used."""
    frame = _frame(direction, step, num_frames)
    emissions = (tl.load(blanks + frame),)
    for r in tl.static_range(R):
        emissions = emissions + (tl.load(labels + (frame * (R * LANES) + places[r])),)
    return emissions


@triton.jit
def _group(
    blanks, labels, places, direction, step, num_frames, R: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr
):
    """Emissions in GROUP steps."""
    emissions = ()
    for i in tl.static_range(GROUP):
        emissions = emissions + _emissions(blanks, labels, places, direction, step + i, num_frames, R, LANES)
    return emissions


@triton.jit
def halves_kernel(
    blanks,  # (B, T), from `emissions_kernel`, as labels
    labels,  # (B, T, K)
    targets,  # (B, U)
    input_lengths,  # (B,)
    target_lengths,  # (B,)
    states,  # (B, 2, SLOTS, 2, K) out: at the middle in slot 0, where KEPT before chunk c in slot 1 + c
    offsets,  # (B, 2, SLOTS) out: what is to be added to the states
    T,
    U,
    target_utterance_stride,
    target_stride,
    slots,
    R: tl.constexpr,
    LANES: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
    DTYPE: tl.constexpr,
    FAST: tl.constexpr,
):
    """Program (b, 0): utterance b from its start to its middle; (b, 1): from its end to there."""
    b = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(1)
    lane = tl.arange(0, LANES)
    num_frames, num_labels = _lengths(input_lengths, target_lengths, b, T, U)
    num_steps = (num_frames + 1 - direction) // 2
    targets += b * target_utterance_stride
    blanks += b * T
    labels += b * T * (R * LANES)
    offsets += (b * 2 + direction) * slots
    states += (b * 2 + direction) * slots * (2 * R * LANES)

    places, may_skip = _label_order(targets, target_stride, direction, num_labels, lane, R, LANES)
    state = _start(lane, R, LANES, DTYPE)
    offset = tl.zeros((), DTYPE)
    ahead = _group(blanks, labels, places, direction, 0, num_frames, R, LANES, GROUP)
    slot = b * 0  # int64
    for chunk in range(tl.cdiv(num_steps, CHUNK)):
        state, offset = _rescaled(state, offset, R)
        slot += 1
        if KEPT:
            _save(states + slot * (2 * R * LANES), state, lane, R, LANES)
            tl.store(offsets + slot, offset)
        for step in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, num_steps), GROUP):
            emissions = ahead
            ahead = ()
            for i in tl.static_range(GROUP):
                ahead = ahead + _emissions(blanks, labels, places, direction, step + i + GROUP, num_frames, R, LANES)
                after = _transition(state, may_skip, lane, R, FAST)
                emission = emissions[i * (R + 1) : (i + 1) * (R + 1)]
                state = _emitted(state, after, emission, step + i < num_steps, R)
    state, offset = _rescaled(state, offset, R)
    _save(states, state, lane, R, LANES)
    tl.store(offsets, offset)


@triton.jit
def _mirrored(num_labels, lane, R: tl.constexpr, LANES: tl.constexpr):
    """Places of the blanks and labels of one direction in a state of the other: either way the same."""
    blanks = ()
    labels = ()
    for r in tl.static_range(R):
        k = lane * R + r
        blanks = blanks + (_place(num_labels - k, k <= num_labels, R, LANES),)
        labels = labels + (_place(num_labels - 1 - k, k < num_labels, R, LANES) + R * LANES,)
    return blanks, labels


@triton.jit
def _joint(state, may_skip, their_states, mirrored_blanks, mirrored_labels, lane, R: tl.constexpr, FAST: tl.constexpr):
    """Log-probability of all paths through each state where the directions meet."""
    after = _transition(state, may_skip, lane, R, FAST)
    joint = ()
    for r in tl.static_range(R):
        joint = joint + (after[r] + tl.load(their_states + mirrored_blanks[r]),)
    for r in tl.static_range(R):
        joint = joint + (after[R + r] + tl.load(their_states + mirrored_labels[r]),)
    return joint


@triton.jit
def _compute_again(
    state,
    scratch,
    blanks,
    labels,
    places,
    may_skip,
    mirrored_blanks,
    mirrored_labels,
    direction,
    begun,
    count,
    num_frames,
    num_labels,
    lane,
    R: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    FAST: tl.constexpr,
):
    """`count` steps of a direction, in which `begun` are done; its states go to the scratch memory, mirrored."""
    ahead = _group(blanks, labels, places, direction, begun, num_frames, R, LANES, GROUP)
    for step in range(0, count, GROUP):
        emissions = ahead
        ahead = ()
        for i in tl.static_range(GROUP):
            ahead = ahead + _emissions(
                blanks, labels, places, direction, begun + step + i + GROUP, num_frames, R, LANES
            )
            after = _transition(state, may_skip, lane, R, FAST)
            state = _emitted(state, after, emissions[i * (R + 1) : (i + 1) * (R + 1)], True, R)
            row = scratch + (step + i) * (2 * R * LANES)
            for r in tl.static_range(R):
                tl.store(row + mirrored_blanks[r], state[r], lane * R + r <= num_labels)
                tl.store(row + mirrored_labels[r], state[R + r], lane * R + r < num_labels)


@triton.jit
def _occupy(
    after, theirs, blanks, labels, places, frame, num_labels, active, lane, R: tl.constexpr, LANES: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Writes the occupancies of a frame over its emissions (Graves et al. 2006, equation 14, up to a factor)."""
    of_blank = after[0] * 0.0
    for r in tl.static_range(R):
        k = lane * R + r
        of_blank += tl.where(k <= num_labels, _exp2(after[r] + theirs[r], FAST), 0.0)
        of_label = _exp2(after[R + r] + theirs[R + r], FAST)
        tl.store(labels + (frame * (R * LANES) + places[r]), of_label, active & (k < num_labels))
    tl.store(blanks + frame, tl.sum(of_blank, 0), active)


@triton.jit
def _go_on(
    state,
    scratch,
    blanks,
    labels,
    places,
    may_skip,
    direction,
    begun,
    count,
    num_frames,
    num_labels,
    lane,
    R: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    FAST: tl.constexpr,
):
    """`count` steps of a direction through frames whose states of the other direction are in the scratch memory."""
    ahead = _group(blanks, labels, places, direction, begun, num_frames, R, LANES, GROUP)
    theirs_ahead = _restore(scratch + (count - 1) * (2 * R * LANES), lane, R, LANES)
    for step in range(0, count, GROUP):
        emissions = ahead
        ahead = ()
        for i in tl.static_range(GROUP):
            theirs = theirs_ahead
            row = scratch + tl.maximum(count - 2 - step - i, 0) * (2 * R * LANES)
            theirs_ahead = _restore(row, lane, R, LANES)
            ahead = ahead + _emissions(
                blanks, labels, places, direction, begun + step + i + GROUP, num_frames, R, LANES
            )
            after = _transition(state, may_skip, lane, R, FAST)
            active = step + i < count
            frame = _frame(direction, begun + step + i, num_frames)
            _occupy(after, theirs, blanks, labels, places, frame, num_labels, active, lane, R, LANES, FAST)
            state = _emitted(state, after, emissions[i * (R + 1) : (i + 1) * (R + 1)], active, R)
    return state


@triton.jit
def meeting_kernel(
    blanks,  # (B, T) in: emissions; out: occupancies, up to a factor for each frame; as labels
    labels,  # (B, T, K)
    targets,  # (B, U)
    input_lengths,  # (B,)
    target_lengths,  # (B,)
    states,  # (B, 2, SLOTS, 2, K), from `halves_kernel`
    offsets,  # (B, 2, SLOTS)
    scratch,  # (B, 2, CHUNK, 2, K): states of the other direction in the order of this one
    losses,  # (B,) out: in nats
    T,
    U,
    target_utterance_stride,
    target_stride,
    slots,
    R: tl.constexpr,
    LANES: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
    DTYPE: tl.constexpr,
    FAST: tl.constexpr,
):
    """Program (b, 0): the loss of utterance b and, where states are KEPT, from its middle to its end; (b, 1): back."""
    b = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(1)
    lane = tl.arange(0, LANES)
    num_frames, num_labels = _lengths(input_lengths, target_lengths, b, T, U)
    done = (num_frames + 1 - direction) // 2
    to_do = num_frames - done
    targets += b * target_utterance_stride
    blanks += b * T
    labels += b * T * (R * LANES)
    scratch += (b * 2 + direction) * (CHUNK * 2 * R * LANES)
    their_states = states + (b * 2 + 1 - direction) * slots * (2 * R * LANES)
    their_offsets = offsets + (b * 2 + 1 - direction) * slots

    places, may_skip = _label_order(targets, target_stride, direction, num_labels, lane, R, LANES)
    their_places, they_may_skip = _label_order(targets, target_stride, 1 - direction, num_labels, lane, R, LANES)
    mirrored_blanks, mirrored_labels = _mirrored(num_labels, lane, R, LANES)

    state = _restore(states + (b * 2 + direction) * slots * (2 * R * LANES), lane, R, LANES)
    offset = tl.load(offsets + (b * 2 + direction) * slots)
    joint = _joint(state, may_skip, their_states, mirrored_blanks, mirrored_labels, lane, R, FAST)
    joint, whole = _rescaled(joint, offset + tl.load(their_offsets), R)
    paths = tl.zeros((LANES,), DTYPE)
    for i in tl.static_range(2 * R):
        paths += tl.exp2(joint[i])
    if direction == 0:
        log_total = whole + tl.log2(tl.sum(paths, 0))
        legal = (tl.load(input_lengths + b) == num_frames) & (tl.load(target_lengths + b) == num_labels)
        loss = tl.where(log_total < 0.5 * NEVER, float("inf"), -log_total * LN2)
        tl.store(losses + b, tl.where(legal, loss, float("nan")))

    if KEPT:
        num_chunks = tl.cdiv(to_do, CHUNK)
        for i in range(num_chunks):
            slot = (num_chunks - i).to(tl.int64)
            first = (num_chunks - i - 1) * CHUNK  # of their steps
            count = tl.minimum(to_do - first, CHUNK)
            state, offset = _rescaled(state, offset, R)
            shift = offset + tl.load(their_offsets + slot) - whole  # from here on, the sum of both is joint
            kept = _restore(their_states + slot * (2 * R * LANES), lane, R, LANES)
            their_state = ()
            for j in tl.static_range(2 * R):
                their_state = their_state + (kept[j] + shift,)
            _compute_again(
                their_state, scratch, blanks, labels, their_places, they_may_skip, mirrored_blanks, mirrored_labels,
                1 - direction, first, count, num_frames, num_labels, lane, R, LANES, GROUP, FAST,
            )  # fmt: skip
            tl.debug_barrier()  # other lanes read the scratch memory, and write over the emissions
            state = _go_on(
                state, scratch, blanks, labels, places, may_skip, direction, num_frames - first - count, count,
                num_frames, num_labels, lane, R, LANES, GROUP, FAST,
            )  # fmt: skip
            tl.debug_barrier()  # the scratch memory has been read


# ---- gradient --------------------------------------------------------------------------------------------------------


@triton.jit
def _sum_of_segment(sum_a, label_a, sum_b, label_b):
    """Of sorted labels: what those equal to the last have so far."""
    return tl.where(label_a == label_b, sum_a + sum_b, sum_b), label_b


@triton.jit
def gradient_kernel(
    logits,  # (B, T, V), in the strides below
    gradient,  # (B, T, V) out, in the strides below
    sorted_labels,  # (B, U), in the first places the labels of the utterance, ascending
    order,  # (B, U) places of those in the targets
    input_lengths,  # (B,)
    target_lengths,  # (B,)
    log_sums,  # (B, T), from `emissions_kernel`
    blanks,  # (B, T), from `meeting_kernel`, as labels
    labels,  # (B, T, K)
    losses,  # (B,)
    weights,  # (B,) of the utterances
    softmax: tl.float64,  # weight of the softmax
    occupancy: tl.float64,  # weight of the occupancies
    uniform: tl.float64,  # a number that is the same for every symbol
    T,
    V,  # in units of ALIGN, as the strides of utterances and frames
    U,
    blank,
    utterance_stride,
    frame_stride,
    symbol_stride,
    gradient_utterance_stride,
    gradient_frame_stride,
    gradient_symbol_stride,
    FRAMES: tl.constexpr,
    SYMBOLS: tl.constexpr,
    LABELS: tl.constexpr,
    R: tl.constexpr,
    LANES: tl.constexpr,
    ALIGN: tl.constexpr,
    FAST: tl.constexpr,
):
    """Program (i, b): weight (softmax p + occupancy o + uniform) in FRAMES frames of utterance b, 0 beyond its end.

    First without the occupancies o; then, for the blank and each distinct label, once more with them.
    """
    b = tl.program_id(1).to(tl.int64)
    num_frames, num_labels = _lengths(input_lengths, target_lengths, b, T, U)
    start = tl.program_id(0) * FRAMES
    frame = start + tl.arange(0, FRAMES)
    inside = frame < num_frames
    frame64 = frame.to(tl.int64)[:, None]
    rows = logits + b * utterance_stride * ALIGN + frame64 * frame_stride * ALIGN
    out = gradient + b * gradient_utterance_stride * ALIGN + frame64 * gradient_frame_stride * ALIGN
    num_symbols = V * ALIGN
    row = b * T + frame
    log_sum = tl.load(log_sums + row, inside, 0.0)
    weight = tl.load(weights + b)

    for first in range(0, num_symbols, SYMBOLS):
        symbol = first + tl.arange(0, SYMBOLS)
        known = (symbol < num_symbols)[None, :]
        symbol = symbol.to(tl.int64)[None, :]
        logit = tl.load(rows + symbol * symbol_stride, inside[:, None] & known, 0.0).to(log_sum.dtype)
        p = _exp2(logit * LOG2E - log_sum[:, None], FAST)
        result = tl.where(inside[:, None], weight * (p * softmax + uniform), 0.0)
        tl.store(out + symbol * gradient_symbol_stride, result, (frame < T)[:, None] & known)
    if start >= num_frames:
        return
    tl.debug_barrier()  # other threads write over some of it

    k = tl.arange(0, LABELS)
    valid = k < num_labels
    label = tl.load(sorted_labels + b * U + k, valid, -1).to(tl.int64)
    following = tl.load(sorted_labels + b * U + k + 1, k + 1 < num_labels, -1)
    place = _place(tl.load(order + b * U + k, valid, 0), valid, R, LANES)
    occupied = frame < tl.where(tl.load(losses + b) == float("inf"), 0, num_frames)
    of_labels = tl.load(labels + row[:, None] * (R * LANES) + place[None, :], occupied[:, None] & valid[None, :], 0.0)
    of_blank = tl.load(blanks + row, occupied, 1.0)
    scale = tl.where(occupied, occupancy / (tl.sum(of_labels, 1) + of_blank), 0.0)

    same = tl.broadcast_to(label[None, :], (FRAMES, LABELS))
    of_labels, _ = tl.associative_scan((of_labels, same), 1, _sum_of_segment)
    last = valid & (label != following) & (label >= 0) & (label < num_symbols) & (label != blank)
    mask = inside[:, None] & last[None, :]
    logit = tl.load(rows + label[None, :] * symbol_stride, mask, 0.0).to(log_sum.dtype)
    p = _exp2(logit * LOG2E - log_sum[:, None], FAST)
    result = weight * (p * softmax + of_labels * scale[:, None] + uniform)
    tl.store(out + label[None, :] * gradient_symbol_stride, result, mask)

    blank64 = b * 0 + blank
    logit = tl.load(rows + blank64 * symbol_stride, inside[:, None], 0.0).to(log_sum.dtype)
    p = _exp2(logit * LOG2E - log_sum[:, None], FAST)
    result = weight * (p * softmax + (of_blank * scale)[:, None] + uniform)
    tl.store(out + blank64 * gradient_symbol_stride, result, inside[:, None])
