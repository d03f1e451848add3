"""Integer rescaling against gemmlowp's definitions in C++ and against exact rational arithmetic."""

import math
import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from speechkit.quantization import (
    FixedPointMultiplier,
    QParams,
    apply_table,
    dequantize,
    multiply_fixed_point,
    quantize,
    requantization_table,
    requantize,
)

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

# The definitions of gemmlowp's fixedpoint.h, read from standard input as (value, mantissa, shift), and of TensorFlow
# Lite's QuantizeMultiplier, read as a double.
ORACLE = r"""
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

static int32_t high_mul(int32_t a, int32_t b) {  // SaturatingRoundingDoublingHighMul
  if (a == INT32_MIN && b == INT32_MIN) return INT32_MAX;
  const int64_t product = int64_t(a) * int64_t(b);
  const int64_t nudge = product < 0 ? 1 - (int64_t(1) << 30) : int64_t(1) << 30;
  return int32_t((product + nudge) / (int64_t(1) << 31));  // truncates
}

static int32_t divide_by_pot(int32_t x, int exponent) {  // RoundingDivideByPOT
  const int32_t mask = int32_t((int64_t(1) << exponent) - 1);
  const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return (x >> exponent) + ((x & mask) > threshold ? 1 : 0);
}

static int32_t multiply_by_pot(int32_t x, int exponent) {  // SaturatingRoundingMultiplyByPOT
  const int64_t shifted = int64_t(x) * (int64_t(1) << exponent);
  return shifted > INT32_MAX ? INT32_MAX : shifted < INT32_MIN ? INT32_MIN : int32_t(shifted);
}

int main(int, char** arguments) {
  if (!std::strcmp(arguments[1], "multiply")) {
    int32_t triple[3];
    while (std::fread(triple, 4, 3, stdin) == 3) {
      const int left = triple[2] > 0 ? triple[2] : 0, right = triple[2] > 0 ? 0 : -triple[2];
      const int32_t result = divide_by_pot(high_mul(multiply_by_pot(triple[0], left), triple[1]), right);
      std::fwrite(&result, 4, 1, stdout);
    }
    return 0;
  }
  double real;
  while (std::fread(&real, 8, 1, stdin) == 1) {
    int shift;
    int64_t mantissa = int64_t(std::round(std::frexp(real, &shift) * double(int64_t(1) << 31)));
    if (mantissa == int64_t(1) << 31) mantissa /= 2, ++shift;
    const int32_t result[2] = {int32_t(mantissa), shift};
    std::fwrite(result, 4, 2, stdout);
  }
}
"""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile gemmlowp's definitions with")
    folder = tmp_path_factory.mktemp("oracle")
    (folder / "oracle.cpp").write_text(ORACLE, encoding="utf-8")
    subprocess.run(["g++", "-O2", "-o", folder / "oracle", folder / "oracle.cpp"], check=True)
    return folder / "oracle"


def run_oracle(oracle: Path, mode: str, values: np.ndarray) -> np.ndarray:
    result = subprocess.run([oracle, mode], input=values.tobytes(), stdout=subprocess.PIPE, check=True)
    return np.frombuffer(result.stdout, dtype=np.int32)


def random_multipliers(count: int, *, shifts: tuple[int, int] = (-31, 30)) -> list[FixedPointMultiplier]:
    generator = random.Random(0)
    edges = [FixedPointMultiplier(mantissa, 0) for mantissa in (1 << 30, (1 << 31) - 1)]
    others = [
        FixedPointMultiplier(generator.randrange(1 << 30, 1 << 31), generator.randint(*shifts))
        for _ in range(count - len(edges))
    ]
    return edges + others


def random_accumulators(shape: tuple[int, int]) -> torch.Tensor:
    """Of every magnitude up to 2^31, with zero and the ends of int32 in the first of many columns."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 32, shape, generator=generator)
    values = torch.randint(-(2**31), 2**31, shape, generator=generator) >> bits
    edges = torch.tensor([INT32_MIN, INT32_MIN + 1, -(2**30), -3, -2, -1, 0, 1, 2, 3, 2**30, INT32_MAX - 1, INT32_MAX])
    values[:, : len(edges)] = edges
    return values


def test_double_rounding_is_gemmlowps(oracle: Path) -> None:
    multipliers = random_multipliers(1200)
    values = random_accumulators((1200, 1000))
    mine = multiply_fixed_point(values, multipliers, rounding="double", axis=0)
    triples = np.empty((1200, 1000, 3), dtype=np.int32)
    triples[..., 0] = values.numpy()
    triples[..., 1] = np.array([one.mantissa for one in multipliers])[:, None]
    triples[..., 2] = np.array([one.shift for one in multipliers])[:, None]
    theirs = run_oracle(oracle, "multiply", triples).reshape(1200, 1000)
    assert np.array_equal(mine.numpy(), theirs)


def test_multipliers_are_tensorflow_lites(oracle: Path) -> None:
    generator = np.random.default_rng(0)
    reals = np.exp2(generator.uniform(-32, 30, 20_000))
    reals = np.concatenate([reals, np.exp2(np.arange(-32, 30)), np.nextafter(np.exp2(np.arange(-31, 30)), 0)])
    mine = [FixedPointMultiplier.from_real(float(real)) for real in reals]
    theirs = run_oracle(oracle, "quantize", reals).reshape(-1, 2).tolist()
    assert [[one.mantissa, one.shift] for one in mine] == theirs
    assert max(abs(one.real / real - 1) for one, real in zip(mine, reals, strict=True)) <= 2.0**-31


def test_single_rounding_is_the_exact_product_rounded_half_up() -> None:
    multipliers = random_multipliers(250)
    values = random_accumulators((250, 400))
    mine = multiply_fixed_point(values, multipliers, rounding="single", axis=0).tolist()
    for one, row, results in zip(multipliers, values.tolist(), mine, strict=True):
        factor = Fraction(one.mantissa) * Fraction(2) ** (one.shift - 31)
        assert results == [math.floor(value * factor + Fraction(1, 2)) for value in row]


def test_a_factor_that_is_a_power_of_two_makes_ties() -> None:
    half = FixedPointMultiplier.from_real(0.25)
    values = torch.tensor([-6, -2, 2, 6])
    assert multiply_fixed_point(values, half, rounding="single").tolist() == [-1, 0, 1, 2]
    assert multiply_fixed_point(values, half, rounding="double").tolist() == [-2, -1, 1, 2]


@pytest.mark.parametrize("right_shift", [0, 1, 3, 8])
def test_double_rounding_differs_from_single_as_often_as_documented(right_shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    multipliers = random_multipliers(200, shifts=(-right_shift, -right_shift))[2:]
    reach = 128 << right_shift  # results span int8
    values = torch.randint(-reach, reach, (len(multipliers), 5000), generator=generator)
    single, double = (
        multiply_fixed_point(values, multipliers, rounding=rounding, axis=0) for rounding in ("single", "double")
    )
    assert (single - double).abs().max() == (right_shift > 0)
    expected = 2.0 ** -(right_shift + 1) if right_shift else 0.0
    assert (single != double).float().mean().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("rounding", ["single", "double"])
def test_requantized_codes_are_the_exact_ones_or_their_neighbours(rounding: str) -> None:
    source, target = QParams(0.0371, 5, "int8"), QParams(0.05, -3, "int8")
    codes = torch.arange(-128, 128).to(torch.int8)
    multiplier = FixedPointMultiplier.from_real(source.scale / target.scale)
    mine = requantize(codes.int() - source.zero_point, multiplier, target.zero_point, "int8", rounding=rounding)
    assert mine.dtype == torch.int8
    exact = apply_table(codes, requantization_table(source, target))
    assert torch.equal(mine, exact)  # no ties between these scales


def test_results_saturate_at_the_ends_of_the_type() -> None:
    large = FixedPointMultiplier.from_real(1000.25)
    values = torch.tensor([INT32_MIN, -1, 0, 1, INT32_MAX])
    for rounding in ("single", "double"):
        assert requantize(values, large, 3, "int8", rounding=rounding).tolist() == [-128, -128, 3, 127, 127]
        assert requantize(values, large, 3, "uint8", rounding=rounding).tolist() == [0, 0, 3, 255, 255]
        assert requantize(values, large, 3, "int16", rounding=rounding).tolist() == [-32768, -997, 3, 1003, 32767]


def test_every_channel_has_its_multiplier() -> None:
    multipliers = random_multipliers(3, shifts=(-9, -9))
    values = random_accumulators((3, 20)).T >> 8
    together = requantize(values, multipliers, 7, axis=1)
    alone = [requantize(values[:, k], multipliers[k], 7) for k in range(3)]
    assert torch.equal(together, torch.stack(alone, dim=1))


def test_arrays_are_taken_like_tensors() -> None:
    values = np.arange(-500, 500, dtype=np.int32)
    multiplier = FixedPointMultiplier.from_real(0.3)
    assert torch.equal(requantize(values, multiplier, 0), requantize(torch.from_numpy(values), multiplier, 0))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (QParams(1 / 32, 0, "int8"), QParams(1 / 16, 0, "int8")),
        (QParams(1 / 32, -3, "int8"), QParams(1 / 128, 12, "int8")),
        (QParams(1 / 32, 200, "uint8"), QParams(1 / 8, 12, "int8")),
        (QParams(1 / 256, 0, "int16"), QParams(1 / 2, 1, "uint8")),
    ],
    ids=str,
)
def test_a_table_between_dyadic_domains_is_dequantization_and_quantization(source: QParams, target: QParams) -> None:
    codes = torch.arange(source.quant_min, source.quant_max + 1).to(source.torch_dtype)
    table = requantization_table(source, target)
    assert torch.equal(apply_table(codes, table), quantize(dequantize(codes, source), target))
    assert torch.equal(apply_table(codes.flip(0)[None], table), table.flip(0)[None])


def test_a_table_rounds_exactly_with_ties_to_even() -> None:
    table = requantization_table(QParams(0.5, 0, "int8"), QParams(1.0, 0, "int8"))
    assert table.dtype == torch.int8
    assert table[128 - 5 : 128 + 6].tolist() == [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2]
    finer = requantization_table(QParams(0.1, 0, "int8"), QParams(0.03, 10, "int8"))
    assert finer.tolist() == [min(max(math.floor(q * 10 / 3 + 0.5) + 10, -128), 127) for q in range(-128, 128)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedPointMultiplier(1 << 29, 0), "`mantissa` must lie in"),
        (lambda: FixedPointMultiplier(1 << 31, 0), "`mantissa` must lie in"),
        (lambda: FixedPointMultiplier(1 << 30, 31), "`shift` must lie in"),
        (lambda: FixedPointMultiplier.from_real(0.0), "`real` must lie in"),
        (lambda: FixedPointMultiplier.from_real(math.nan), "`real` must lie in"),
        (lambda: FixedPointMultiplier.from_real(2.0**30), "`real` must lie in"),
        (lambda: requantize(torch.zeros(2), FixedPointMultiplier(1 << 30, 0), 0), "`accumulator` must hold integers"),
        (lambda: requantize(torch.tensor([1 << 31]), FixedPointMultiplier(1 << 30, 0), 0), "`accumulator` must fit"),
        (lambda: requantize(torch.tensor([1]), FixedPointMultiplier(1 << 30, 0), 128), "`zero_point` must be"),
        (lambda: requantize(torch.tensor([1]), FixedPointMultiplier(1 << 30, 0), 0, axis=0), "`axis` must be given"),
        (lambda: requantize(torch.tensor([1]), [FixedPointMultiplier(1 << 30, 0)], 0), "`axis` must be given"),
        (
            lambda: requantize(torch.tensor([1, 2]), [FixedPointMultiplier(1 << 30, 0)], 0, axis=0),
            "`axis` 0 must hold 1 channels",
        ),
        (
            lambda: requantize(torch.tensor([1]), FixedPointMultiplier(1 << 30, 0), 0, rounding="triple"),
            "`rounding` must be one of single, double, got 'triple'",
        ),
        (
            lambda: requantization_table(QParams((1.0,), 0, "int8", axis=0), QParams(1.0, 0, "int8")),
            "`source` and `target` must have one scale",
        ),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
