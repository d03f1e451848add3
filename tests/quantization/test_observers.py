"""Ranges against their definitions on all values at once, and against the known optimum for a Gaussian."""

import itertools
import math

import pytest
import torch

from speechkit.quantization import (
    UNIT_VARIANCE,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
    QParams,
    dequantize,
    fake_quantize,
    quantize,
    range_qparams,
)

OBSERVERS = [MinMaxObserver, PercentileObserver, MSEObserver]


def observe(observer: MinMaxObserver, x: torch.Tensor, *, batches: int = 7) -> MinMaxObserver:
    for batch in x.chunk(batches):
        observer.observe(batch)
    return observer


def mean_squared_error(x: torch.Tensor, qparams: QParams) -> float:
    return (fake_quantize(x, qparams) - x).double().square().mean().item()


def signal_to_noise_db(x: torch.Tensor, qparams: QParams) -> float:
    return 10 * math.log10(x.double().square().mean().item() / mean_squared_error(x, qparams))


def test_unit_variance_gives_40_db_on_a_gaussian() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert QParams(0.03125, 0, "int8") == UNIT_VARIANCE
    assert signal_to_noise_db(x, UNIT_VARIANCE) == pytest.approx(40.56, abs=0.05)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dyadic", [True, False])
def test_a_domain_covers_its_range_and_zero(dtype: str, symmetric: bool, dyadic: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(400, 2, generator=generator) * 10 ** (4 * torch.rand(400, 1, generator=generator) - 2)
    low, high = ends.amin(dim=1), ends.amax(dim=1)
    qparams = range_qparams(low, high, dtype=dtype, symmetric=symmetric, dyadic=dyadic, axis=0)
    step = torch.tensor(qparams.scale)[:, None]
    values = torch.stack([low, torch.zeros(400), high], dim=1)
    error = (fake_quantize(values, qparams) - values).abs()
    assert (error <= 0.501 * step).all()
    assert (error[:, 1] == 0).all()
    if dyadic:
        assert (torch.frexp(step)[0] == 0.5).all()
        assert all(zero_point % 2 == 0 for zero_point in qparams.zero_point)
    elif dtype != "int16":  # no more is covered than must be
        assert ((values.amax(dim=1) - values.amin(dim=1)) / step[:, 0] > (126 if symmetric else 254)).all()


@pytest.mark.parametrize("make", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dyadic", [True, False])
def test_degenerate_input_has_a_domain(make, symmetric: bool, dyadic: bool) -> None:
    arguments = {"symmetric": symmetric, "dyadic": dyadic}
    assert observe(make(), torch.zeros(100)).qparams(**arguments).scale == 1.0
    for constant in (-0.7, 1e-43, 3e38):
        x = torch.full((100,), constant)
        qparams = observe(make(), x).qparams(**arguments)
        assert ((fake_quantize(x, qparams) - x).abs() <= 0.56 * qparams.scale).all(), constant
        assert dequantize(quantize(torch.zeros(1), qparams), qparams).item() == 0


@pytest.mark.parametrize("make", OBSERVERS)
def test_what_cannot_be_observed_is_refused(make) -> None:
    observer = make(axis=1)
    with pytest.raises(ValueError, match=f"{make.__name__} has observed nothing"):
        observer.qparams()
    observer.observe(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="has observed nothing"):
        observer.qparams()
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="`x` must be finite, got values from"):
            observer.observe(torch.tensor([[0.0, bad, 1.0]]))
    observer.observe(torch.ones(4, 3))
    with pytest.raises(ValueError, match="`x` must have 3 channels on axis 1, got 2"):
        observer.observe(torch.ones(4, 2))
    with pytest.raises(ValueError, match="`x` must have an axis 1, got shape"):
        observer.observe(torch.ones(4))
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        observer.qparams("int4")
    assert observer.qparams().zero_point == (0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PercentileObserver(50.0), "`percentile` must lie in"),
        (lambda: PercentileObserver(100.1), "`percentile` must lie in"),
        (lambda: MSEObserver(bins=1000), "`bins` must be a power of two"),
        (lambda: observe(MSEObserver(), torch.ones(7)).qparams("int16"), "`dtype` must be int8 or uint8"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("make", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_channels_are_observed_apart(make, symmetric: bool) -> None:
    x = torch.randn(70, 3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 40.0])[:, None]
    together = observe(make(axis=-2), x).qparams(symmetric=symmetric)
    alone = [observe(make(), x[:, k]).qparams(symmetric=symmetric) for k in range(3)]
    assert together == QParams([one.scale for one in alone], [one.zero_point for one in alone], "int8", axis=-2)


@pytest.mark.parametrize("make", OBSERVERS)
def test_the_order_of_batches_does_not_matter(make) -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    ascending = values[values.abs().argsort()]
    for symmetric in (True, False):
        domains = {
            observe(make(), order, batches=50).qparams(symmetric=symmetric)
            for order in (values, ascending, ascending.flip(0))
        }
        assert len(domains) == 1


def test_min_max_is_the_range_of_all_batches() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 3 - 1
    qparams = observe(MinMaxObserver(), x).qparams("uint8", symmetric=False)
    assert qparams.scale == (x.max().double() - x.min().double()).item() / 255
    assert observe(MinMaxObserver(), x).qparams().scale == x.max().double().item() / 127


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("tail", [2.0, 30.0])
def test_a_percentile_is_exact_to_a_bin(percentile: float, tail: float) -> None:
    x = torch.distributions.StudentT(tail).sample((200_000,)) - 0.3
    observer = observe(PercentileObserver(percentile), x)
    bin_width = 4 / 8192 * x.abs().max().item()

    def smallest_holding(values: torch.Tensor, percent: float) -> float:
        return values.sort()[0][math.ceil(percent / 100 * len(values) - 1e-6) - 1].item()

    reach = 127 * observer.qparams().scale
    exact = smallest_holding(x.abs(), percentile)
    assert exact * 0.999999 <= reach <= exact + bin_width
    high, low = (smallest_holding(side, (100 + percentile) / 2) for side in (x, -x))
    spread = 255 * observer.qparams(symmetric=False).scale
    assert (high + low) * 0.999999 <= spread <= high + low + 2 * bin_width


def test_an_outlier_does_not_widen_a_percentile() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x[500] = 50.0
    assert observe(MinMaxObserver(), x).qparams().scale == 50.0 / 127
    assert 127 * observe(PercentileObserver(99.9), x).qparams().scale == pytest.approx(3.29, abs=0.1)


def test_the_best_range_for_a_gaussian_is_the_published_one() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    qparams = observe(MSEObserver(), x).qparams()
    assert 127 * qparams.scale == pytest.approx(3.92, abs=0.05)
    assert signal_to_noise_db(x, qparams) > signal_to_noise_db(x, observe(MinMaxObserver(), x).qparams()) + 1
    assert observe(MSEObserver(), x).qparams(dyadic=True) == UNIT_VARIANCE


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "relu", "skewed"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_other_range_has_a_much_smaller_error(kind: str, symmetric: bool) -> None:
    torch.manual_seed(0)
    x = {
        "gaussian": torch.randn(10_000),
        "laplace": torch.distributions.Laplace(0.0, 1.0).sample((10_000,)),
        "relu": torch.randn(10_000).relu(),
        "skewed": torch.distributions.Gamma(0.7, 1.0).sample((10_000,)) - 0.5,
    }[kind]
    found = mean_squared_error(x, observe(MSEObserver(), x).qparams(symmetric=symmetric))
    parts = torch.linspace(0.05, 1.0, 40) if symmetric else torch.linspace(0.2, 1.0, 9)
    ends = zip(parts, parts, strict=True) if symmetric else itertools.product(parts, repeat=2)
    others = [range_qparams(i * x.min(), k * x.max(), symmetric=symmetric) for i, k in ends]
    assert found <= 1.01 * min(mean_squared_error(x, qparams) for qparams in others)


def test_a_dyadic_scale_is_chosen_for_its_own_error() -> None:
    x = torch.distributions.Laplace(0.0, 1.0).sample((100_000,))
    found = observe(MSEObserver(), x).qparams(dyadic=True)
    errors = {exponent: mean_squared_error(x, QParams(2.0**exponent, 0, "int8")) for exponent in range(-8, 1)}
    assert found.scale == 2.0 ** min(errors, key=errors.__getitem__)


def test_runtimes_agree_on_ties_of_dyadic_domains_with_an_even_zero_point() -> None:
    ties = (torch.arange(-100, 100) + 0.5) / 32
    for zero_point, agree in ((0, True), (8, True), (-50, True), (7, False)):
        after = (ties * 32).round() + zero_point
        before = (ties * 32 + zero_point).round()
        assert torch.equal(after, before) == agree
        assert quantize(ties, QParams(1 / 32, zero_point, "int8")).tolist() == after.clamp(-128, 127).tolist()
