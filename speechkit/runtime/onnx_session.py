"""How ONNX Runtime is asked to compute, so that its integers are the reference's on every processor."""

import functools
from typing import Any

import numpy as np

# y (4, 16) = MatMulInteger(x uint8 (4, 4), w int8 (4, 16)), opset 13, as an ONNX file
_PRODUCT = (
    b'\x08\x08:\\\n\x18\n\x01x\n\x01w\x12\x01y"\rMatMulInteger\x12\x01sZ\x13\n\x01x\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08'
    b"\x04\n\x02\x08\x04Z\x13\n\x01w\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08\x04\n\x02\x08\x10b\x13\n\x01y\x12\x0e\n\x0c"
    b"\x08\x06\x12\x08\n\x02\x08\x04\n\x02\x08\x10B\x04\n\x00\x10\r"
)
REWRITES = ["WeightBiasQuantization"]  # optimizers that would make layers int8 that were left in float
_EXACT = "session.x64quantprecision"


def session_arguments(num_threads: int = 1) -> dict[str, Any]:
    """Of `onnxruntime.InferenceSession`, beside the model, for int8 graphs and those that leave layers in float."""
    return {
        "sess_options": session_options(num_threads),
        "providers": ["CPUExecutionProvider"],
        "disabled_optimizers": REWRITES,
    }


def session_options(num_threads: int = 1) -> Any:
    """`onnxruntime.SessionOptions` for int8 graphs; layers so small lose time with more than one thread.

    On x86 without VNNI, ONNX Runtime adds products of uint8 and int8 in pairs, in 16 bits, which saturate; there it is
    asked for its exact products, which take half as long again.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = num_threads
    options.log_severity_level = 3
    if products_saturate():
        options.add_session_config_entry(_EXACT, "1")
    return options


@functools.cache
def products_saturate() -> bool:
    """Whether ONNX Runtime, unless told otherwise, computes wrong products on this processor: it is tried out."""
    import onnxruntime

    session = onnxruntime.InferenceSession(_PRODUCT, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": np.full((4, 4), 255, np.uint8), "w": np.full((4, 16), 127, np.int8)})
    return bool(np.any(product != 4 * 255 * 127))
