"""An ONNX graph as it is written: nodes and constants by name, checked at the end."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from speechkit.export.four_bits import pack_rows
from speechkit.text import Tokenizer

OPSET = 20
IR_VERSION = 9  # the newest that onnxruntime 1.17 reads
WITH_INT4 = (21, 10)  # opset and version of graphs that hold weights of four bits: onnxruntime 1.19


class Graph:
    """Nodes and constants as they are added.

    Raises:
        ImportError: onnx is not installed.
    """

    def __init__(self) -> None:
        self._onnx = import_onnx()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._versions = (OPSET, IR_VERSION)

    def node(self, kind: str, *inputs: str, name: str = "", output: str = "", **attributes: Any) -> str:
        """Adds an operator of one output, and returns that one's name."""
        output = output or f"{kind[0]}{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Adds an array, or a list of integers as int64, and returns its name.

        Raises:
            ValueError: the name stands for another value already.
        """
        array = np.asarray(value, dtype=np.int64 if isinstance(value, list) else None)
        return self._keep(name, self._onnx.numpy_helper.from_array(array, name))

    def packed(self, name: str, value: np.ndarray) -> str:
        """Adds int8 values in [-8, 7], two to a byte, and returns the name under which they are int8 again.

        ONNX Runtime unpacks them as it loads the graph.
        """
        helper, types = self._onnx.helper, self._onnx.TensorProto
        pairs = pack_rows(value.reshape(1, -1))
        self._keep(name, helper.make_tensor(name, types.INT4, value.shape, pairs.tobytes(), raw=True))
        self._versions = WITH_INT4
        return self.node("Cast", name, to=types.INT8)

    def _keep(self, name: str, constant: Any) -> str:
        if self._constants.setdefault(name, constant) != constant:
            raise ValueError(f"layers must have names that give no constant two values, got {name!r} twice.")
        return name

    def tensor(self, name: str, kind: Any, shape: Sequence[int | str]) -> Any:
        """The description of an input or output; `kind` is a numpy type."""
        return self._onnx.helper.make_tensor_value_info(name, self.type_number(kind), list(shape))

    def type_number(self, kind: Any) -> int:
        """What ONNX calls a numpy type."""
        number: int = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return number

    def model(self, source: Any, target: Any, metadata: dict[str, str]) -> Any:
        """The `onnx.ModelProto`."""
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes, "speechkit", [source], [target], initializer=list(self._constants.values())
        )
        opset, ir_version = self._versions
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="speechkit"
        )
        helper.set_model_props(model, metadata)
        self._onnx.checker.check_model(model)
        return model


def recognizer_metadata(sample_rate_hz: int, tokenizer: Tokenizer | None) -> dict[str, str]:
    """What a reader of the file needs beside the graph.

    Returns:
        "sample_rate_hz", and "labels": their texts as JSON, the blank's ("") first.
    """
    labels = {} if tokenizer is None else {"labels": json.dumps(["", *tokenizer.label_texts()])}
    return {"sample_rate_hz": str(sample_rate_hz), **labels}


def import_onnx() -> Any:
    """The package `onnx`; raises ImportError with what to install."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise ImportError("writing ONNX files needs onnx: pip install 'speechkit[export]'") from None
    return onnx
