"""speechkit: from a folder of recordings to a recogniser that runs on a small device.

`Recognizer.load(path).transcribe(...)` is the one way into a trained model; everything else is found by folder
name (see README.md). Importing the package imports neither torch nor Lightning.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recognizer", "__version__"]

if TYPE_CHECKING:
    from speechkit.recognizer import Recognizer


def __getattr__(name: str) -> Any:
    if name == "Recognizer":
        from speechkit.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module 'speechkit' has no attribute {name!r}")
