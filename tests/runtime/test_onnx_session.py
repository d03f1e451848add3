"""Products of uint8 and int8 are right under ONNX Runtime, also on processors where its fastest ones are not."""

from typing import Any

import numpy as np
import pytest

from speechkit.runtime import onnx_session
from speechkit.runtime.onnx_session import products_saturate, session_options

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def operands() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (50, 64), dtype=np.uint8)
    return x, generator.integers(-128, 128, (64, 32), dtype=np.int8)


def product(x: np.ndarray, w: np.ndarray, options: Any) -> np.ndarray:
    """Of a graph that has the weights in it, as exported networks have."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", kinds.UINT8, list(x.shape))],
        [helper.make_tensor_value_info("y", kinds.INT32, [len(x), w.shape[1]])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def test_products_are_exact(operands: tuple[np.ndarray, np.ndarray]) -> None:
    x, w = operands
    assert np.array_equal(product(x, w, session_options()), x.astype(np.int64) @ w.astype(np.int64))


def test_it_is_told_where_the_fastest_ones_are_wrong(operands: tuple[np.ndarray, np.ndarray]) -> None:
    x, w = operands
    are_right = np.array_equal(product(x, w, onnxruntime.SessionOptions()), x.astype(np.int64) @ w.astype(np.int64))
    assert products_saturate() == (not are_right)


def test_what_is_tried_out_is_one_product() -> None:
    model = onnx.load_from_string(onnx_session._PRODUCT)
    onnx.checker.check_model(model)
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [("MatMulInteger", ["x", "w"])]
    kinds = [onnx.TensorProto.DataType.Name(given.type.tensor_type.elem_type) for given in model.graph.input]
    assert kinds == ["UINT8", "INT8"]
