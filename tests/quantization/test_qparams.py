"""Codes against PyTorch's kernels and ONNX Runtime, over every code, ties, infinities and a million random values."""

from dataclasses import FrozenInstanceError

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from speechkit.parts import build, describe
from speechkit.quantization import QParams, dequantize, fake_quantize, fake_quantize_learned, quantize

ONNX_TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16}
DYADIC = [
    QParams(1 / 32, 0, "int8"),
    QParams(1 / 32, 3, "int8"),
    QParams(2.0, -128, "int8"),
    QParams(2.0**-9, 131, "uint8"),
    QParams(1 / 1024, -7, "int16"),
]
OTHERS = [QParams(0.0371, 0, "int8"), QParams(1 / 127, -5, "int8"), QParams(7.77, 20, "uint8")]
PER_AXIS_DYADIC = QParams((0.25, 1.0, 2.0**-7), (0, -128, 5), "int8", axis=1)
PER_AXIS = QParams((0.0371, 1.3, 0.004), (7, 0, 255), "uint8", axis=-2)


def in_onnx_runtime(operator: str, values: Tensor, qparams: QParams) -> Tensor:
    code, real = ONNX_TYPES[qparams.dtype], TensorProto.FLOAT
    source, target = (real, code) if operator == "QuantizeLinear" else (code, real)
    attributes = {} if qparams.axis is None else {"axis": qparams.axis}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "scale", "zero_point"], ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", source, list(values.shape))],
        [helper.make_tensor_value_info("y", target, list(values.shape))],
        [
            numpy_helper.from_array(np.asarray(qparams.scale, dtype=np.float32), "scale"),
            numpy_helper.from_array(np.asarray(qparams.zero_point, dtype=qparams.dtype), "zero_point"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": values.numpy()})[0])


def in_torch(x: Tensor, qparams: QParams) -> Tensor:
    limits = qparams.quant_min, qparams.quant_max
    if qparams.axis is None:
        return torch.fake_quantize_per_tensor_affine(x, qparams.scale, qparams.zero_point, *limits)
    scale, zero_point = torch.tensor(qparams.scale), torch.tensor(qparams.zero_point, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point, qparams.axis % x.ndim, *limits)


def hard_values(qparams: QParams, *, count: int = 1_000_000) -> Tensor:
    """(2, channels or 1, values): ties and codes within and beyond the range, every magnitude, random values."""
    scale = torch.tensor(qparams.scale).reshape(-1, 1)
    zero_point = torch.tensor(qparams.zero_point).reshape(-1, 1)
    halves = torch.arange(2 * qparams.quant_min - 40, 2 * qparams.quant_max + 40) / 2
    reach = (qparams.quant_max - qparams.quant_min) / 4
    generator = torch.Generator().manual_seed(0)
    random = reach * torch.randn(2, len(scale), count // (2 * len(scale)), generator=generator)
    powers = torch.logspace(-30, 15, 91)
    steps = torch.cat([halves, powers, -powers]).expand(2, len(scale), -1) - zero_point
    return torch.cat([steps, random], dim=-1) * scale


@pytest.mark.parametrize("qparams", [*DYADIC, *OTHERS, PER_AXIS_DYADIC, PER_AXIS], ids=str)
def test_codes_are_those_of_onnx_runtime(qparams: QParams) -> None:
    x = hard_values(qparams)
    assert torch.equal(quantize(x, qparams), in_onnx_runtime("QuantizeLinear", x, qparams))


@pytest.mark.parametrize("qparams", [*DYADIC, PER_AXIS_DYADIC], ids=str)
def test_dyadic_scales_give_the_values_of_torch(qparams: QParams) -> None:
    x = hard_values(qparams)
    assert torch.equal(fake_quantize(x, qparams), in_torch(x, qparams))
    assert torch.equal(dequantize(quantize(x, qparams), qparams), in_torch(x, qparams))


@pytest.mark.parametrize("qparams", [*OTHERS, PER_AXIS], ids=str)
def test_other_scales_differ_from_torch_by_one_step_in_a_few_values(qparams: QParams) -> None:
    x = hard_values(qparams)
    mine, theirs = fake_quantize(x, qparams), in_torch(x, qparams)
    differs = mine != theirs
    assert differs[..., -300_000 // max(1, x.shape[1]) :].float().mean() < 1e-5  # of the random values
    assert differs.float().mean() < 1e-3  # with the ties
    widest = torch.tensor(qparams.scale).max().item()
    assert (mine - theirs).abs().max() <= 1.0001 * widest


@pytest.mark.parametrize("qparams", [*DYADIC, *OTHERS], ids=str)
def test_every_code_is_dequantized_as_in_onnx_runtime_and_comes_back(qparams: QParams) -> None:
    codes = torch.arange(qparams.quant_min, qparams.quant_max + 1).to(qparams.torch_dtype)
    real = dequantize(codes, qparams)
    assert real.dtype == torch.float32
    assert torch.equal(real, in_onnx_runtime("DequantizeLinear", codes, qparams))
    assert torch.equal(quantize(real, qparams), codes)


@pytest.mark.parametrize("qparams", [PER_AXIS_DYADIC, PER_AXIS], ids=str)
def test_every_code_of_every_channel_is_dequantized_as_in_onnx_runtime(qparams: QParams) -> None:
    codes = torch.arange(qparams.quant_min, qparams.quant_max + 1).to(qparams.torch_dtype).expand(2, 3, -1).clone()
    real = dequantize(codes, qparams)
    assert torch.equal(real, in_onnx_runtime("DequantizeLinear", codes, qparams))
    assert torch.equal(quantize(real, qparams), codes)


@pytest.mark.parametrize("qparams", [*DYADIC, *OTHERS, PER_AXIS], ids=str)
def test_fake_quantization_is_there_and_back(qparams: QParams) -> None:
    x = hard_values(qparams, count=60_000)
    assert torch.equal(fake_quantize(x, qparams), dequantize(quantize(x, qparams), qparams))


def test_infinity_saturates_and_nan_has_no_code() -> None:
    qparams = QParams(1 / 32, 3, "int8")
    x = torch.tensor([torch.inf, -torch.inf, torch.nan])
    assert quantize(x, qparams).tolist() == [127, -128, -128]
    assert fake_quantize(x, qparams)[:2].tolist() == [124 / 32, -131 / 32]
    assert fake_quantize(x, qparams)[2].isnan()
    per_axis = QParams((1 / 32,), 3, "int8", axis=0)
    assert quantize(x[None], per_axis).tolist() == [[127, -128, -128]]


@pytest.mark.parametrize("qparams", [*DYADIC, *OTHERS, PER_AXIS_DYADIC], ids=str)
def test_the_gradient_is_that_of_torch(qparams: QParams) -> None:
    x = hard_values(qparams, count=60_000)
    weights = torch.randn_like(x)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (fake_quantize(mine, qparams) * weights).sum().backward()
    (in_torch(theirs, qparams) * weights).sum().backward()
    saturates = x.abs() < 2.0**62 * torch.tensor(qparams.scale).min()  # torch's kernel for channels overflows beyond
    assert (mine.grad != theirs.grad)[saturates].float().mean() <= (0 if qparams not in OTHERS else 1e-3)
    assert (mine.grad == 0).any()
    assert (mine.grad == weights).float().mean() > 0.4


@pytest.mark.parametrize(
    ("zero_point", "dtype", "axis"),  # torch's op for one scale takes -6 for -5 in its backward pass
    [(0, "int8", None), (6, "int8", None), (128, "uint8", None), (0, "int8", 1), (-6, "int8", 1), (128, "uint8", 1)],
)
def test_the_gradient_of_the_scale_is_that_of_torch(zero_point: int, dtype: str, axis: int | None) -> None:
    torch.manual_seed(0)
    domain = QParams(1.0, zero_point, dtype)
    limits = domain.quant_min, domain.quant_max
    scale = torch.tensor(2.0**-5) if axis is None else torch.tensor([2.0**-5, 2.0**-9, 0.5])
    x = torch.randn(40, 3, 50) * 4
    weights = torch.randn_like(x)
    mine = [x.clone().requires_grad_(), scale.clone().requires_grad_()]
    theirs = [x.clone().requires_grad_(), scale.reshape(-1).clone().requires_grad_()]
    points = torch.full((theirs[1].numel(),), float(zero_point))
    result = fake_quantize_learned(*mine, zero_point, dtype=dtype, axis=axis)
    if axis is None:
        expected = torch._fake_quantize_learnable_per_tensor_affine(*theirs, points, *limits, 1.0)
    else:
        expected = torch._fake_quantize_learnable_per_channel_affine(*theirs, points, axis, *limits, 1.0)
    assert torch.equal(result, expected)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(mine[0].grad, theirs[0].grad)
    torch.testing.assert_close(mine[1].grad.reshape(-1), theirs[1].grad, rtol=1e-4, atol=1e-3)


def test_the_gradient_of_the_scale_is_equation_3_of_lsq() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([0.6, -0.4, 100.0, -100.0])  # x / scale: 1.2, -0.8, and beyond both ends
    expected = [1 - 1.2, -1 + 0.8, 127.0, -128.0]
    for value, gradient in zip(x, expected, strict=True):
        assert torch.autograd.grad(fake_quantize_learned(value, scale), scale)[0].item() == pytest.approx(gradient)


def test_a_scale_is_learned() -> None:
    torch.manual_seed(0)
    x, scale = torch.randn(20_000), torch.tensor(0.2, requires_grad=True)
    optimizer = torch.optim.Adam([scale], lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (fake_quantize_learned(x, scale) - x).square().mean().backward()
        optimizer.step()
    assert 3.6 < 127 * scale.item() < 4.2  # the best for a Gaussian is 3.92


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(1000).bfloat16()
    qparams = QParams(0.0371, 3, "int8")
    assert fake_quantize(x, qparams).dtype == torch.float32
    assert torch.equal(quantize(x, qparams), quantize(x.float(), qparams))


def test_a_description_survives_yaml() -> None:
    for qparams in (QParams(0.1, 3, "uint8"), PER_AXIS):
        description = yaml.safe_load(yaml.safe_dump(describe(qparams)))
        assert build(description, trusted_packages=("speechkit.quantization",)) == qparams


def test_tensors_become_plain_values_of_full_precision() -> None:
    scale = torch.tensor([0.1, 0.3], dtype=torch.float64)
    qparams = QParams(scale, 0, "int8", axis=0)
    assert qparams == QParams((0.1, 0.3), (0, 0), "int8", axis=0)
    assert hash(qparams) == hash(QParams([0.1, 0.3], torch.tensor([0, 0]), "int8", axis=0))
    with pytest.raises(FrozenInstanceError):
        qparams.axis = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0, "int8"), "`scale` must lie in"),
        ((-1.0, 0, "int8"), "`scale` must lie in"),
        ((float("nan"), 0, "int8"), "`scale` must lie in"),
        ((float("inf"), 0, "int8"), "`scale` must lie in"),
        ((1e-40, 0, "int8"), "`scale` must lie in"),
        (([0.1, 0.0], 0, "int8", 0), "`scale` must lie in"),
        ((torch.ones(2, 2), 0, "int8", 0), "`scale` must lie in"),
        (("0.1", 0, "int8"), "`scale` must lie in"),
        ((0.1, 128, "int8"), r"`zero_point` must be an integer in \[-128, 127\], got 128"),
        ((0.1, -1, "uint8"), "`zero_point` must be an integer in"),
        ((0.1, 0.5, "int8"), "`zero_point` must be an integer in"),
        ((0.1, (0, 0), "int8"), "`zero_point` must fit"),
        (((0.1, 0.2), (0, 0, 0), "int8", 0), "`zero_point` must fit"),
        ((0.1, 0, "int4"), "`dtype` must be one of int8, uint8, int16, got 'int4'"),
        ((0.1, 0, "int8", 0), "`axis` must be given"),
        (((0.1, 0.2), 0, "int8"), "`axis` must be given"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        QParams(*arguments)
    assert "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="`axis` 1 must hold 3 channels, got shape"):
        quantize(torch.zeros(3, 4), PER_AXIS_DYADIC)
    with pytest.raises(ValueError, match="`axis` 1 must hold 3 channels, got shape"):
        fake_quantize(torch.zeros(3), PER_AXIS_DYADIC)
    with pytest.raises(ValueError, match="`q` must be int8, got uint8"):
        dequantize(torch.zeros(3, dtype=torch.uint8), QParams(1.0, 0, "int8"))
    with pytest.raises(ValueError, match="`scale` must be 1-D with `axis`"):
        fake_quantize_learned(torch.zeros(3), torch.ones(3))
