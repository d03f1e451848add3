"""A plugin of pytest, `-p triton_interpreter`: kernels run in Triton's interpreter, which has to be asked for before
Triton is imported. It mends two weaknesses of the interpreter of Triton 3.6."""

import os
from types import FunctionType
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
from triton.runtime import interpreter

np.seterr(all="ignore")  # as on a GPU, where inf - inf is no event
_patch_lang_tensor, _patch_lang = interpreter._patch_lang_tensor, interpreter._patch_lang
_patched: list[int] = []


def _with_loops(tensor: Any, scope: Any) -> None:
    """The bounds of loops are integers: int() of an array (1,), which Triton calls, is an error in NumPy 2.4."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def _once_a_kernel(function: FunctionType) -> Any:
    """The language is patched once for a kernel, and not again for each function that it calls: twice as fast."""
    module = id(function.__globals__)
    if module in _patched:
        return interpreter._LangPatchScope()
    scope, restore = _patch_lang(function), None
    _patched.append(module)
    restore = scope.restore

    def done() -> None:
        _patched.remove(module)
        restore()

    scope.restore = done
    return scope


interpreter._patch_lang_tensor = _with_loops
interpreter._patch_lang = _once_a_kernel
