"""Forced alignment against all paths, against the reference, and against torchaudio."""

import itertools
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechkit.losses import Alignment, ctc_align, ctc_feasible
from speechkit.losses.ctc import align, numba_viterbi

BACKENDS = ("numba", "reference")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def draw(batch: int, num_frames: int, num_symbols: int, num_labels: int, *, blank: int = 0, dtype=torch.float64):
    """A padded batch with logits of halves, so that many paths tie, and with utterances that are too short."""
    labels = torch.tensor([v for v in range(num_symbols) if v != blank])
    return (
        torch.randn(batch, num_frames, num_symbols).mul(2).round().div(2).to(dtype),
        labels[torch.randint(len(labels), (batch, num_labels))],
        torch.randint(0, num_frames + 1, (batch,)),
        torch.randint(0, num_labels + 1, (batch,)),
    )


def assert_same(found: Alignment, expected: Alignment, *, atol: float = 0.0) -> None:
    """Integers equal, floats within `atol`."""
    for name, mine, theirs in zip(Alignment._fields, found, expected, strict=True):
        theirs = theirs.to(mine.dtype)
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def states_of(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """States blank, label 1, blank, ..., counted from 0, of a path through the labels that it collapses to."""
    states, state, before = [], 0, blank
    for symbol in path:
        if symbol != before:
            state += 2 if symbol != blank and before != blank else 1
        states.append(state)
        before = symbol
    return tuple(states)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_symbols", [1, 2, 3])
@pytest.mark.parametrize("ties", [True, False])
def test_the_path_is_the_best_of_all_and_of_those_the_one_furthest_along(
    ties: bool, num_symbols: int, backend: str
) -> None:
    for num_frames, blank in itertools.product(range(6), range(num_symbols)):
        logits = torch.randn(num_frames, num_symbols, dtype=torch.float64)
        logits = logits.round() if ties else logits
        log_probs = logits.log_softmax(-1)
        best: dict[tuple[int, ...], tuple] = {}
        for path in itertools.product(range(num_symbols), repeat=num_frames):
            target = tuple(v for v, _ in itertools.groupby(path) if v != blank)
            score = float(logits[torch.arange(num_frames), list(path)].sum())
            best[target] = max(best.get(target, (-np.inf,)), (score, states_of(path, blank)[::-1], path))
        symbols = [v for v in range(num_symbols) if v != blank]
        targets = [t for count in range(6) for t in itertools.product(symbols, repeat=count)]
        found = ctc_align(
            logits.expand(len(targets), -1, -1),
            torch.tensor([[*target, *[blank] * (5 - len(target))] for target in targets]),
            torch.full((len(targets),), num_frames),
            torch.tensor([len(target) for target in targets]),
            blank=blank,
            backend=backend,
        )
        for b, target in enumerate(targets):
            if target not in best:
                assert found.log_probs[b] == -torch.inf
                assert (found.path[b] == blank).all()
                assert (found.positions[b] == -1).all()
                continue
            _, states, path = best[target]
            assert found.path[b].tolist() == list(path)
            assert found.positions[b].tolist() == [s // 2 if s % 2 else -1 for s in states[::-1]]
            expected = log_probs[torch.arange(num_frames), list(path)].sum()
            torch.testing.assert_close(found.log_probs[b], expected, atol=1e-12, rtol=0)


def test_numba_is_the_reference_over_300_random_batches() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        batch, num_frames, num_symbols, num_labels = (int(n) for n in generator.integers([1, 0, 2, 0], [5, 60, 9, 40]))
        blank = int(generator.integers(num_symbols))
        dtype = (torch.float64, torch.float32)[generator.integers(2)]
        logits, *rest = draw(batch, num_frames, num_symbols, num_labels, blank=blank, dtype=dtype)
        logits[torch.rand(logits.shape) < generator.choice([0.0, 0.1])] = -torch.inf
        logits[..., blank] = logits[..., blank].clamp(min=-1.0)  # no frame of nothing but -inf
        mine, reference = (ctc_align(logits, *rest, blank=blank, backend=backend) for backend in BACKENDS)
        assert_same(mine, reference, atol=1e-12 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["plain", "time first", "symbols apart", "part of a larger one"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_types_and_layouts_change_nothing(backend: str, layout: str, dtype) -> None:
    for blank, integer, joined in ((0, torch.int64, False), (3, torch.int32, True), (6, torch.int32, False)):
        logits, targets, *lengths = draw(6, 20, 7, 8, blank=blank, dtype=dtype)
        expected = ctc_align(logits.double(), targets, *lengths, blank=blank, backend="reference")
        logits = {
            "plain": lambda x: x,
            "time first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
            "symbols apart": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
            "part of a larger one": lambda x: F.pad(x, (3, 2, 1, 4))[:, 1:21, 3:10],
        }[layout](logits)
        lengths = [x.to(integer) for x in lengths]
        if joined:
            targets = torch.cat([row[:count] for row, count in zip(targets, lengths[1], strict=True)])
        found = ctc_align(logits, targets.to(integer), *lengths, blank=blank, backend=backend)
        single = torch.float64 if dtype == torch.float64 else torch.float32
        assert (found.scores.dtype, found.log_probs.dtype) == (single, single)
        assert {found.path.dtype, found.positions.dtype, found.starts.dtype, found.ends.dtype} == {torch.int64}
        if joined:  # as wide as the longest
            width = int(lengths[1].max())
            expected = expected._replace(
                starts=expected.starts[:, :width], ends=expected.ends[:, :width], scores=expected.scores[:, :width]
            )
        assert_same(found, expected, atol=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_torchaudio_finds_the_same_where_nothing_ties(backend: str) -> None:
    torchaudio = pytest.importorskip("torchaudio.functional")
    _, targets, frames, labels = draw(40, 60, 6, 12)
    logits = torch.randn(40, 60, 6)
    found = ctc_align(logits, targets, frames, labels, backend=backend)
    feasible = ctc_feasible(targets, frames, labels) & (labels > 0)
    assert feasible.sum() > 20
    for b in feasible.nonzero().flatten().tolist():
        log_probs = logits[b : b + 1, : frames[b]].log_softmax(-1)
        path, scores = torchaudio.forced_align(log_probs, targets[b : b + 1, : labels[b]])
        assert torch.equal(found.path[b, : frames[b]], path[0].long())
        torch.testing.assert_close(found.log_probs[b], scores.sum(), atol=1e-4, rtol=0)
        spans = torchaudio.merge_tokens(path[0], scores[0])
        assert found.starts[b, : labels[b]].tolist() == [span.start for span in spans]
        assert found.ends[b, : labels[b]].tolist() == [span.end for span in spans]
        expected = torch.tensor([span.score for span in spans])
        torch.testing.assert_close(found.scores[b, : labels[b]], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_times_and_scores_are_those_of_the_path(backend: str) -> None:
    logits, targets, frames, labels = draw(30, 40, 5, 10)
    found = ctc_align(logits, targets, frames, labels, backend=backend)
    of_frames = logits.log_softmax(-1).gather(2, found.path[:, :, None])[:, :, 0]
    assert (found.log_probs.isfinite() == ctc_feasible(targets, frames, labels)).all()
    for b, count in enumerate(labels.tolist()):
        assert (found.starts[b, count:] == -1).all()
        assert (found.ends[b, count:] == -1).all()
        assert (found.scores[b, count:] == -torch.inf).all()
        assert (found.path[b, frames[b] :] == 0).all()
        assert (found.positions[b, frames[b] :] == -1).all()
        if not found.log_probs[b].isfinite():
            assert (found.starts[b] == -1).all()
            assert (found.ends[b] == -1).all()
            assert (found.scores[b] == -torch.inf).all()
            continue
        expected = torch.full((40,), -1)
        for k in range(count):
            mine = slice(int(found.starts[b, k]), int(found.ends[b, k]))
            assert mine.stop > mine.start
            expected[mine] = k
            torch.testing.assert_close(found.scores[b, k], of_frames[b, mine].mean())
        assert torch.equal(found.positions[b], expected)
        assert torch.equal(found.path[b], torch.where(expected < 0, 0, targets[b, expected]))
        torch.testing.assert_close(found.log_probs[b], of_frames[b, : frames[b]].sum())


@pytest.mark.parametrize("chunk", [1, 2, 3, 16, 31])
def test_the_length_of_chunks_changes_nothing(chunk: int, monkeypatch) -> None:
    batch = draw(12, 120, 6, 40)
    at_once = ctc_align(*batch, backend="numba")
    assert numba_viterbi.chunk_frames(120, 40) == 120
    monkeypatch.setattr(numba_viterbi, "chunk_frames", lambda num_frames, num_labels: chunk)
    assert_same(ctc_align(*batch, backend="numba"), at_once)


def test_a_long_utterance_in_chunks_is_the_reference() -> None:
    logits, targets, *_ = draw(1, 3000, 12, 700, dtype=torch.float32)
    lengths = torch.tensor([3000]), torch.tensor([700])
    assert numba_viterbi.chunk_frames(3000, 700) < 2000
    mine, reference = (ctc_align(logits, targets, *lengths, backend=backend) for backend in BACKENDS)
    assert mine.log_probs.isfinite().all()
    assert_same(mine, reference, atol=1e-3)


def test_memory_grows_with_the_two_thirds_power_of_frames_times_labels() -> None:
    hour = sum(part.nbytes for part in numba_viterbi.workspace(180_000, 40_000))
    assert hour < 50e6
    logits, targets, *_ = draw(1, 20_000, 32, 2_000, dtype=torch.float32)
    lengths = torch.tensor([20_000]), torch.tensor([2_000])
    ctc_align(logits[:, :10], targets[:, :1], *(x // 2_000 for x in lengths))  # the compiler's own memory
    tracemalloc.start()
    try:
        found = ctc_align(logits, targets, *lengths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.log_probs.isfinite().all()
    assert peak < 1.1 * 12 * (20_000 * 2_000) ** (2 / 3) + 8 * 20_000  # and positions; T U bytes would be 40 MB


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_logits_give_each_label_its_first_frame(backend: str) -> None:
    found = ctc_align(
        torch.zeros(1, 8, 4), torch.tensor([[2, 2, 3]]), torch.tensor([8]), torch.tensor([3]), backend=backend
    )
    assert found.path.tolist() == [[2, 0, 2, 3, 0, 0, 0, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_path_that_ties_on_the_way_is_still_the_best(backend: str) -> None:
    """Two ways to the first 2 tie, and staying there is worse: torchaudio 2.11 stays, and has 1, 2, 2, 2."""
    logits = torch.tensor([[0.0, 5.0, 0.0], [5.0, 5.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 5.0]])[None]
    found = ctc_align(logits, torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]), backend=backend)
    assert found.path.tolist() == [[1, 0, 2, 2]]


def test_a_batch_is_bitwise_its_utterances_one_by_one() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        _, targets, frames, labels = draw(7, 60, 20, 10)
        logits = torch.randn(7, 60, 20).to(dtype)
        together = ctc_align(logits, targets, frames, labels)
        for b in range(7):
            one = slice(b, b + 1)
            count, length = int(labels[b]), int(frames[b])
            alone = ctc_align(logits[one], targets[one], frames[one], labels[one])
            assert all(torch.equal(mine, both[one]) for mine, both in zip(alone, together, strict=True))
            trimmed = ctc_align(logits[one, :length], targets[one, :count], frames[one], labels[one])
            assert torch.equal(trimmed.log_probs, together.log_probs[one])
            assert torch.equal(trimmed.path, together.path[one, :length])
            assert torch.equal(trimmed.scores, together.scores[one, :count])


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_may_hold_anything(backend: str) -> None:
    logits, targets = torch.randn(2, 9, 5), torch.tensor([[1, 2, 3], [4, -7, 99]])
    frames, labels = torch.tensor([9, 6]), torch.tensor([3, 1])
    clean = ctc_align(logits, targets, frames, labels, backend=backend)
    logits[1, 6:] = torch.nan
    assert_same(ctc_align(logits, targets, frames, labels, backend=backend), clean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_symbol_that_cannot_be_leaves_no_path(backend: str, dtype) -> None:
    logits = torch.randn(2, 8, 5).to(dtype)
    logits[..., 3] = -torch.inf
    found = ctc_align(
        logits, torch.tensor([[1, 2], [1, 3]]), torch.tensor([8, 8]), torch.tensor([2, 2]), backend=backend
    )
    assert found.log_probs[0].isfinite()
    assert found.log_probs[1] == -torch.inf
    assert (found.starts[1] == -1).all()
    assert (found.path[1] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("star", [-1, 5])
def test_a_star_takes_the_frames_that_its_neighbours_do_not_explain(star: int, backend: str) -> None:
    said = torch.tensor([1, 1, 0, 3, 4, 3, 4, 2, 2])
    logits = 8.0 * F.one_hot(said, 5).float()[None]
    arguments = (torch.tensor([[1, star, 2]]), torch.tensor([9]), torch.tensor([3]))
    found = ctc_align(logits, *arguments, star=star, star_penalty=0.5, backend=backend)
    assert found.path.tolist() == [[1, 1, 0, star, star, star, star, 2, 2]]
    assert found.starts.tolist() == [[0, 3, 7]]
    assert found.ends.tolist() == [[2, 7, 9]]
    of_said = float(logits[0, 0].log_softmax(-1)[1])
    torch.testing.assert_close(found.scores, torch.tensor([[of_said, -0.5, of_said]]))
    torch.testing.assert_close(found.log_probs, torch.tensor([5 * of_said - 4 * 0.5]))


def test_a_star_is_one_more_symbol_worth_all_others_less_the_penalty() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16):
        _, targets, frames, labels = draw(20, 40, 6, 8)
        logits = torch.randn(20, 40, 6).to(dtype)
        targets[torch.rand(targets.shape) < 0.3] = 6
        extended = torch.cat([logits.double(), logits.double().logsumexp(-1, keepdim=True) - 1.0], dim=-1)
        expected = ctc_align(extended, targets, frames, labels, backend="reference")
        for backend in BACKENDS:
            found = ctc_align(logits, targets, frames, labels, star=6, star_penalty=1.0, backend=backend)
            assert torch.equal(found.path, expected.path)
            exact = found.log_probs.isfinite()
            assert torch.equal(exact, expected.log_probs.isfinite())
            shift = frames * np.log1p(np.exp(-1.0))  # what one more symbol adds to every normaliser
            near = {"atol": 1e-4, "rtol": 0, "check_dtype": False}
            torch.testing.assert_close(found.log_probs[exact], (expected.log_probs + shift)[exact], **near)


def test_several_threads_may_call_at_once() -> None:
    batches = [draw(16, 120, 40, 12, dtype=torch.float32) for _ in range(6)]
    expected = [ctc_align(*batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        for mine, theirs in zip(pool.map(lambda batch: ctc_align(*batch), batches), expected, strict=True):
            assert_same(mine, theirs)


def test_results_have_no_gradient() -> None:
    logits, *rest = draw(2, 9, 5, 2)
    found = ctc_align(logits.requires_grad_(), *rest)
    assert not any(part.requires_grad for part in found)
    with torch.inference_mode():
        assert_same(ctc_align(logits, *rest), found)


def test_logits_are_copied_some_frames_at_a_time(monkeypatch) -> None:
    logits, *rest = draw(3, 30, 5, 6, dtype=torch.bfloat16)
    at_once = ctc_align(logits, *rest)
    monkeypatch.setattr(align, "CHUNK_NUMBERS", 35)
    assert_same(ctc_align(logits, *rest), at_once)


def test_without_numba_the_reference_is_taken_and_an_explicit_backend_says_why(monkeypatch) -> None:
    batch = draw(2, 9, 5, 2)
    expected = ctc_align(*batch, backend="reference")
    monkeypatch.setitem(sys.modules, "speechkit.losses.ctc.numba_viterbi", None)
    assert_same(ctc_align(*batch), expected)
    with pytest.raises(ValueError, match=r"`backend` .*cannot be imported .*numba_viterbi"):
        ctc_align(*batch, backend="numba")
    with pytest.raises(ValueError, match=r"`backend` must be one of auto, numba, reference, got 'torch'"):
        ctc_align(*batch, backend="torch")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("symbol", [0, 1, 3])
def test_logits_that_are_not_numbers_are_named(symbol: int, value: float, backend: str, dtype) -> None:
    logits = torch.randn(3, 6, 4).to(dtype)
    logits[1, 4, symbol] = value
    arguments = (torch.tensor([[1, 2]] * 3), torch.tensor([6, 6, 6]), torch.tensor([2, 2, 2]))
    with pytest.raises(ValueError, match=rf"`logits` of utterance 1 .*got {value} in frame 4"):
        ctc_align(logits, *arguments, backend=backend)
    unseen = ctc_align(logits, *arguments, validate=False, backend=backend)
    assert unseen.log_probs.isnan().tolist() == [False, True, False]
    assert (unseen.positions[1] == -1).all()
    logits[1, 4] = -torch.inf
    with pytest.raises(ValueError, match=r"`logits` of utterance 1 .*got -inf in frame 4"):
        ctc_align(logits, *arguments, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([[1, 2], [3, 0]])}, "`targets` of utterance 1 .*blank 0, got 0"),
        ({"targets": torch.tensor([[1, 2], [5, 3]])}, "`targets` of utterance 1 .*V = 5.*got 5"),
        ({"targets": torch.tensor([1, 2, -1, 3])}, "`targets` of utterance 1 .*got -1"),
        ({"targets": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, "`targets` must be integers, got torch.float32"),
        ({"input_lengths": torch.tensor([6, 7])}, "`input_lengths` of utterance 1 must lie in .0, 6., got 7"),
        ({"target_lengths": torch.tensor([2, 3])}, "`target_lengths` of utterance 1 must lie in .0, 2., got 3"),
        ({"target_lengths": torch.tensor([2])}, "`target_lengths` must be .B,. = .2,., got shape"),
        ({"logits": torch.zeros(2, 6, 5).long()}, "`logits` must be floats"),
        ({"blank": 5}, "`blank` must lie in .0, V = 5., got 5"),
        ({"star": 2}, "`star` must lie outside .0, V = 5., got 2"),
    ],
)
def test_bad_input_is_named_with_its_utterance(change: dict, message: str) -> None:
    arguments = {
        "logits": torch.randn(2, 6, 5),
        "targets": torch.tensor([[1, 2], [3, 4]]),
        "input_lengths": torch.tensor([6, 6]),
        "target_lengths": torch.tensor([2, 2]),
    }
    with pytest.raises(ValueError, match=message):
        ctc_align(**{**arguments, **change})


def test_the_whole_of_nothing_aligns() -> None:
    nothing = torch.zeros(2, 0, dtype=torch.long)
    found = ctc_align(torch.randn(2, 0, 3), nothing, torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert found.log_probs.tolist() == [0.0, 0.0]
    assert found.path.shape == found.starts.shape == (2, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_logits_on_a_gpu_are_aligned_as_on_a_cpu() -> None:
    for dtype, star in itertools.product((torch.float64, torch.float32, torch.bfloat16), (None, 6)):
        batch = draw(12, 120, 6, 40, dtype=dtype)
        expected = ctc_align(*batch, star=star)
        found = ctc_align(*(x.to("cuda") for x in batch), star=star)
        assert {part.device.type for part in found} == {"cuda"}
        assert_same(Alignment(*(part.cpu() for part in found)), expected, atol=1e-4)
