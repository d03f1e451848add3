"""Every backend of the CTC loss against all paths, against torch in float64, and against each other."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.losses import ctc_loss, ctc_occupancies
from speechkit.losses.ctc import api, numba_kernels

OWN = ("numba", "loop", "reference")
if os.environ.get("TRITON_INTERPRET") == "1":  # see test_ctc_triton.py, which chooses those that it has time for
    OWN += ("triton",)
BACKENDS = (*OWN, "torch")
TIGHT = {"atol": 1e-10, "rtol": 0}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def of_torch(logits: Tensor, *arguments: Tensor, **options) -> Tensor:
    """torch's own losses, which take log-probabilities (T, B, V)."""
    return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), *arguments, reduction="none", **options)


def loss_and_gradient(loss, logits: Tensor, *arguments: Tensor, **options) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    losses = loss(logits, *arguments, **options)
    return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


def per_utterance(*arguments: Tensor, **options) -> Tensor:
    return ctc_loss(*arguments, reduction="none", **options)


def draw(batch: int, num_frames: int, num_symbols: int, num_labels: int, *, blank: int = 0, dtype=torch.float64):
    """A padded batch: logits, targets, frames, labels; one in five has more labels than frames allow."""
    labels = torch.tensor([v for v in range(num_symbols) if v != blank])
    return (
        torch.randn(batch, num_frames, num_symbols, dtype=dtype),
        labels[torch.randint(len(labels), (batch, num_labels))],
        torch.randint(0, num_frames + 1, (batch,)),
        torch.randint(0, num_labels + 1, (batch,)),
    )


@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("num_symbols", [1, 2, 3])
def test_losses_gradients_and_occupancies_are_sums_over_all_paths(num_symbols: int, backend: str) -> None:
    for num_frames, blank in itertools.product(range(6), range(num_symbols)):
        logits = torch.randn(num_frames, num_symbols, dtype=torch.float64)
        log_probs = logits.log_softmax(-1)
        symbols = [v for v in range(num_symbols) if v != blank]
        targets = [list(t) for count in range(6) for t in itertools.product(symbols, repeat=count)]
        paths = torch.tensor(list(itertools.product(range(num_symbols), repeat=num_frames)), dtype=torch.long)
        paths = paths.reshape(num_symbols**num_frames, num_frames)
        scores = log_probs[torch.arange(num_frames), paths].sum(dim=1)
        collapsed = [[v for v, _ in itertools.groupby(path) if v != blank] for path in paths.tolist()]
        visits = F.one_hot(paths, num_symbols).double()
        losses, occupancies = [], []
        for target in targets:
            mine = torch.tensor([path == target for path in collapsed])
            loss = -scores[mine].logsumexp(dim=0) if mine.any() else torch.tensor(torch.inf, dtype=torch.float64)
            losses.append(loss)
            share = (scores + loss).exp() * mine if mine.any() else torch.zeros(len(paths), dtype=torch.float64)
            occupancies.append((share[:, None, None] * visits).sum(dim=0))
        batch = len(targets)
        arguments = (
            torch.tensor([target + [blank] * (5 - len(target)) for target in targets]),
            torch.full((batch,), num_frames),
            torch.tensor([len(target) for target in targets]),
        )
        many = logits.expand(batch, -1, -1)
        loss, gradient = loss_and_gradient(per_utterance, many, *arguments, blank=blank, backend=backend)
        found = ctc_occupancies(many, *arguments, blank=blank, backend=backend)
        torch.testing.assert_close(loss, torch.stack(losses), **TIGHT)
        torch.testing.assert_close(found, torch.stack(occupancies), **TIGHT)
        possible = loss.isfinite()
        torch.testing.assert_close(gradient[possible], (log_probs.exp() - torch.stack(occupancies))[possible], **TIGHT)
        assert gradient[~possible].isnan().all()


def test_numba_and_torch_agree_in_float64_over_500_random_batches() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        batch, num_frames, num_symbols, num_labels = (int(n) for n in generator.integers([1, 1, 2, 1], [5, 40, 12, 12]))
        blank = int(generator.integers(num_symbols))
        logits, *arguments = draw(batch, num_frames, num_symbols, num_labels, blank=blank)
        logits *= float(generator.choice([1.0, 10.0]))
        options = {"blank": blank, "zero_infinity": bool(generator.integers(2))}
        loss, gradient = loss_and_gradient(per_utterance, logits, *arguments, backend="numba", **options)
        expected, expected_gradient = loss_and_gradient(of_torch, logits, *arguments, **options)
        torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
        inside = torch.arange(num_frames) < arguments[1][:, None]
        torch.testing.assert_close(gradient[inside], expected_gradient[inside], atol=1e-9, rtol=0, equal_nan=True)
        assert (gradient[~inside] == 0).all()
        if loss.isfinite().all():
            assert gradient.sum(dim=-1).abs().max() < 1e-12


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers in other strides."""
    if layout == "time first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "symbols apart":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "part of a larger one":
        return F.pad(x, (3, 2, 1, 4))[:, 1 : 1 + x.shape[1], 3 : 3 + x.shape[2]]
    return x


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["plain", "time first", "symbols apart", "part of a larger one"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_backend_is_the_reference_whatever_the_type_and_layout(backend: str, layout: str, dtype) -> None:
    for blank, integer, joined in ((0, torch.int64, False), (3, torch.int32, True), (6, torch.int32, False)):
        logits, targets, *lengths = draw(6, 20, 7, 8, blank=blank)
        logits, lengths = logits.to(dtype), [x.to(integer) for x in lengths]
        options = {"blank": blank, "zero_infinity": True, "label_smoothing": 0.1}
        expected = loss_and_gradient(per_utterance, logits.double(), targets, *lengths, backend="reference", **options)
        occupancies = ctc_occupancies(logits.double(), targets, *lengths, blank=blank, backend="reference")
        if joined:
            targets = torch.cat([row[:count] for row, count in zip(targets, lengths[1], strict=True)])
        arguments = (laid_out(logits, layout), targets.to(integer), *lengths)
        loss, gradient = loss_and_gradient(per_utterance, *arguments, backend=backend, **options)
        found = ctc_occupancies(*arguments, blank=blank, backend=backend)
        single = torch.float64 if dtype == torch.float64 else torch.float32
        assert (loss.dtype, found.dtype, gradient.dtype) == (single, single, dtype)
        near = {"atol": 1e-10, "rtol": 0} if dtype == torch.float64 else {"atol": 2e-5, "rtol": 1e-6}
        torch.testing.assert_close(loss.double(), expected[0], **near)
        torch.testing.assert_close(found.double(), occupancies, **near)
        torch.testing.assert_close(
            gradient.double(), expected[1], atol=max(near["atol"], torch.finfo(dtype).eps), rtol=0
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("backend", OWN)
def test_gradients_are_numerical_ones(backend: str, smoothing: float) -> None:
    logits = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tensor([[1, 1, 2], [3, 0, 0], [0, 0, 0]]), torch.tensor([6, 4, 5]), torch.tensor([3, 1, 0]))
    options = {"label_smoothing": smoothing, "backend": backend}
    assert torch.autograd.gradcheck(lambda x: per_utterance(x, *arguments, **options), logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_smoothing_has_the_gradient_of_its_definition(dtype) -> None:
    logits, targets, _, _ = draw(5, 30, 9, 6, dtype=dtype)
    lengths = torch.tensor([30, 25, 20, 16, 0]), torch.tensor([6, 0, 3, 5, 0])

    def definition(x: Tensor, *arguments: Tensor) -> Tensor:
        inside = torch.arange(30) < lengths[0][:, None]
        uniform = -(x.log_softmax(-1).mean(-1) * inside).sum(1)
        return 0.7 * of_torch(x, *arguments) + 0.3 * uniform

    expected = loss_and_gradient(definition, logits.double(), targets, *lengths)
    found = loss_and_gradient(per_utterance, logits, targets, *lengths, label_smoothing=0.3, backend="numba")
    near = {"atol": 1e-10, "rtol": 0} if dtype == torch.float64 else {"atol": 1e-6, "rtol": 1e-6}
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, **near)


@pytest.mark.parametrize(
    ("shape", "scale", "for_blank"),
    [((1, 20000, 32, 200), 1, 0), ((2, 1000, 32, 100), 10, 0), ((2, 1000, 32, 100), 1, 50), ((1, 300, 5000, 60), 3, 0)],
    ids=["20000 frames", "logits times ten", "blank dominates", "5000 symbols"],
)
def test_single_precision_is_no_worse_than_torchs_where_it_is_hard(
    shape: tuple, scale: float, for_blank: float
) -> None:
    batch, num_frames, num_symbols, num_labels = shape
    logits = scale * torch.randn(batch, num_frames, num_symbols)
    logits[..., 0] += for_blank
    arguments = (
        torch.randint(1, num_symbols, (batch, num_labels)),
        torch.full((batch,), num_frames),
        torch.full((batch,), num_labels),
    )
    truth = loss_and_gradient(of_torch, logits.double(), *arguments)
    mine = loss_and_gradient(per_utterance, logits, *arguments, backend="numba")
    theirs = loss_and_gradient(of_torch, logits, *arguments)
    for own, torchs, exact in zip(mine, theirs, truth, strict=True):
        assert own.isfinite().all()
        assert (own - exact).abs().max() <= (torchs - exact).abs().max()
    assert (mine[0] / truth[0] - 1).abs().max() < 1e-6
    assert (mine[1] - truth[1]).abs().max() < 1e-5
    assert mine[1].sum(dim=-1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_frames_computed_again_from_checkpoints_change_nothing(dtype, monkeypatch) -> None:
    batch = draw(3, 150, 6, 30, dtype=dtype)
    batch[2][0], batch[3][0] = 150, 30
    at_once = loss_and_gradient(per_utterance, *batch, zero_infinity=True, backend="numba")
    monkeypatch.setattr(numba_kernels, "CHUNK_BYTES", 0)
    assert numba_kernels.workspace(150, 30, np.dtype(np.float32))[1].shape[0] < 20
    in_chunks = loss_and_gradient(per_utterance, *batch, zero_infinity=True, backend="numba")
    assert all(map(torch.equal, at_once, in_chunks))


@pytest.mark.parametrize("backend", OWN)
def test_padding_may_hold_anything_and_gets_no_gradient(backend: str) -> None:
    logits, targets = torch.randn(2, 9, 5), torch.tensor([[1, 2, 3], [4, -7, 99]])
    frames, labels = torch.tensor([9, 6]), torch.tensor([3, 1])
    clean = loss_and_gradient(per_utterance, logits, targets, frames, labels, backend=backend)
    logits[1, 6:] = torch.nan
    dirty = loss_and_gradient(per_utterance, logits, targets, frames, labels, backend=backend)
    assert all(map(torch.equal, clean, dirty))
    assert (dirty[1][1, 6:] == 0).all()


@pytest.mark.parametrize("backend", OWN)
def test_symbols_that_cannot_be_have_no_gradient(backend: str) -> None:
    logits = torch.randn(2, 8, 5)
    logits[..., 3] = -torch.inf
    arguments = (torch.tensor([[1, 2], [1, 3]]), torch.tensor([8, 8]), torch.tensor([2, 2]))
    loss, gradient = loss_and_gradient(per_utterance, logits, *arguments, zero_infinity=True, backend=backend)
    assert loss[0] > 0
    assert loss[1] == 0
    assert gradient.isfinite().all()
    assert (gradient[..., 3] == 0).all()
    assert (gradient[1] == 0).all()
    assert per_utterance(logits, *arguments, backend=backend)[1] == torch.inf
    assert ctc_occupancies(logits, *arguments, backend=backend)[1].sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_utterance_has_the_weight_of_its_incoming_gradient(backend: str) -> None:
    batch, weights = draw(4, 20, 6, 4), torch.tensor([0.5, 0.0, -2.0, 1e3], dtype=torch.float64)
    options = {"zero_infinity": True, "backend": backend}
    _, plain = loss_and_gradient(per_utterance, *batch, **options)
    logits = batch[0].requires_grad_()
    total = (weights * per_utterance(*batch, **options)).sum()
    for _ in range(2):  # the graph may be kept
        (weighted,) = torch.autograd.grad(total, logits, retain_graph=True)
        torch.testing.assert_close(weighted, weights[:, None, None] * plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_derivative_is_refused(backend: str) -> None:
    batch = draw(2, 9, 5, 2)
    logits = batch[0].requires_grad_()
    loss = ctc_loss(*batch, zero_infinity=True, backend=backend)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"only once|not implemented"):
        torch.autograd.grad(gradient.square().sum() + logits.square().sum(), logits)


@pytest.mark.parametrize("backend", BACKENDS)
def test_occupancies_sum_to_one_where_there_is_a_path(backend: str) -> None:
    logits, targets = torch.randn(3, 12, 5, requires_grad=True), torch.tensor([[1, 1, 2], [3, 0, 0], [4, 4, 4]])
    frames, labels = torch.tensor([12, 7, 4]), torch.tensor([3, 0, 3])
    with torch.inference_mode():
        occupancies = ctc_occupancies(logits, targets, frames, labels, backend=backend)
    torch.testing.assert_close(occupancies[0].sum(-1), torch.ones(12))
    torch.testing.assert_close(occupancies[1, :7, 0], torch.ones(7))
    assert (occupancies >= 0).all()
    assert occupancies[1, 7:].sum() == occupancies[2].sum() == 0
    assert occupancies.shape == logits.shape
    assert not occupancies.requires_grad
    empty = ctc_occupancies(logits[:, :0], targets, frames * 0, labels, backend=backend)
    assert empty.shape == (3, 0, 5)


def test_a_batch_is_bitwise_its_utterances_one_by_one() -> None:
    logits, targets, frames, labels = draw(7, 60, 20, 10, dtype=torch.float32)
    together = per_utterance(logits, targets, frames, labels, backend="numba")
    for b in range(7):
        one = slice(b, b + 1)
        assert torch.equal(per_utterance(logits[one], targets[one], frames[one], labels[one]), together[one])


def large_batch() -> tuple[Tensor, ...]:
    """Work for two threads."""
    return draw(16, 120, 40, 12, dtype=torch.float32)


def test_several_threads_may_call_at_once() -> None:
    batches = [large_batch() for _ in range(6)]
    expected = [loss_and_gradient(per_utterance, *batch, zero_infinity=True, backend="numba") for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            found = pool.map(
                lambda batch: loss_and_gradient(per_utterance, *batch, zero_infinity=True, backend="numba"), batches
            )
            for mine, theirs in zip(found, expected, strict=True):
                assert all(map(torch.equal, mine, theirs))


def call_in_child(connection, batch: tuple[Tensor, ...]) -> None:
    losses, gradient = loss_and_gradient(per_utterance, *batch, zero_infinity=True, backend="numba")
    connection.send((losses.numpy(), gradient.numpy()))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="processes are not forked there")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    batch = large_batch()
    expected = loss_and_gradient(per_utterance, *batch, zero_infinity=True, backend="numba")  # starts threads here
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=call_in_child, args=(theirs, batch))
    child.start()
    try:
        assert ours.poll(60)
        for mine, sent in zip(expected, ours.recv(), strict=True):
            assert np.array_equal(mine.numpy(), sent)
    finally:
        child.kill()
        child.join()


def test_numba_is_imported_only_when_it_is_used() -> None:
    program = "import sys, speechkit.losses; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_kernels_compile_where_no_directory_can_be_written(monkeypatch) -> None:
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert numba_kernels.kernel(lambda x: x + 1)(2) == 3


def test_without_numba_torch_is_taken_and_an_explicit_backend_says_why(monkeypatch) -> None:
    batch = draw(2, 9, 5, 2)
    monkeypatch.setattr(api, "_failure", lambda name: "No module named 'numba'")
    torch.testing.assert_close(per_utterance(*batch), of_torch(*batch))
    with pytest.raises(ValueError, match=r"`backend` .*No module named 'numba'"):
        ctc_loss(*batch, backend="numba")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # where torch.compile itself looks
def test_torch_compile_takes_torchs_backend() -> None:
    logits, *rest = draw(2, 9, 5, 2)
    options = {"zero_infinity": True}
    compiled = torch.compile(lambda x: per_utterance(x, *rest, **options), backend="eager")
    found, expected = (loss_and_gradient(loss, logits) for loss in (compiled, lambda x: of_torch(x, *rest, **options)))
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_numba_does_not_take_logits_of_another_device() -> None:
    batch = [x.to("meta") for x in draw(2, 9, 5, 2)]
    with pytest.raises(ValueError, match=r"`backend` .* meta"):
        ctc_loss(*batch, backend="numba")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_numbers_are_named(value: float, backend: str) -> None:
    logits = torch.randn(3, 6, 4)
    logits[1, 4, 2] = value
    arguments = (torch.tensor([[1, 2]] * 3), torch.tensor([6, 6, 6]), torch.tensor([2, 2, 2]))
    for function in (ctc_loss, ctc_occupancies):
        with pytest.raises(ValueError, match=rf"`logits` of utterance 1 .*got {value} in frame 4"):
            function(logits, *arguments, backend=backend)
    logits[1, 4] = -torch.inf
    with pytest.raises(ValueError, match=r"`logits` of utterance 1 .*got -inf in frame 4"):
        ctc_loss(logits, *arguments, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([[1, 2], [3, 0]])}, "`targets` of utterance 1 .*blank 0, got 0"),
        ({"targets": torch.tensor([[1, 2], [5, 3]])}, "`targets` of utterance 1 .*V = 5.*got 5"),
        ({"targets": torch.tensor([1, 2, -1, 3])}, "`targets` of utterance 1 .*got -1"),
        ({"targets": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, "`targets` must be integers, got torch.float32"),
        ({"targets": torch.ones(2, 2, dtype=torch.bool)}, "`targets` must be integers"),
        ({"targets": torch.ones(2, 2, 2).long()}, "`targets` must be .* got shape"),
        ({"targets": torch.ones(2, 2, device="meta").long()}, "`targets` must be on the device .* cpu, got meta"),
        ({"input_lengths": torch.tensor([6, 7])}, "`input_lengths` of utterance 1 must lie in .0, 6., got 7"),
        ({"input_lengths": torch.tensor([-1, 6])}, "`input_lengths` of utterance 0 .*got -1"),
        ({"input_lengths": torch.tensor([6.0, 6.0])}, "`input_lengths` must be integers"),
        ({"target_lengths": torch.tensor([2, 3])}, "`target_lengths` of utterance 1 must lie in .0, 2., got 3"),
        ({"target_lengths": torch.tensor([2])}, "`target_lengths` must be .B,. = .2,., got shape"),
        ({"logits": torch.zeros(2, 6, 5).long()}, "`logits` must be floats"),
        ({"logits": torch.zeros(0, 6, 5)}, "`logits` must be .* B > 0"),
    ],
)
def test_bad_input_is_named_with_its_utterance(change: dict, message: str) -> None:
    arguments = {
        "logits": torch.randn(2, 6, 5),
        "targets": torch.tensor([[1, 2], [3, 4]]),
        "input_lengths": torch.tensor([6, 6]),
        "target_lengths": torch.tensor([2, 2]),
    }
    for function in (ctc_loss, ctc_occupancies):
        with pytest.raises(ValueError, match=message):
            function(**{**arguments, **change})
