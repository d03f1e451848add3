"""A checkpoint in the format of Hugging Face, a folder or a name on its hub -> settings and weights.

The folder holds config.json and weights: model.safetensors, in one file or in the shards that
model.safetensors.index.json names, or pytorch_model.bin. They are read without running code.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_ONE_FILE = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_OLDER = "pytorch_model.bin"


def find_checkpoint(source: str | os.PathLike[str]) -> Path:
    """The folder, fetched from the hub where there is none of that name.

    Raises:
        ValueError: neither a folder nor a name on the hub, or the hub cannot be reached; one line.
        ImportError: a name on the hub, and huggingface_hub is not installed.
    """
    return Path(source) if Path(source).exists() else _download(str(source))


def _download(name: str) -> Path:
    """Settings and weights alone: of the older format only where there is no other, never both."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ImportError(
            f"{name} is no folder; to fetch it from the Hugging Face hub, install speechkit[hub]"
        ) from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "model*.safetensors"]))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", _OLDER]))
    except HFValidationError:
        raise ValueError(f"{name}: no such folder, and no name on the Hugging Face hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name}: no such folder, and the Hugging Face hub gave none ({reason})") from None
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError, one line, where the file is missing or holds no keys and values."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path.parent}: not a whole checkpoint of Hugging Face, it lacks {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path}: not valid JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold keys and values, got {type(content).__name__}")
    return content


def read_optional_json(path: Path) -> dict[str, Any]:
    """Nothing where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights by name, in float32.

    Raises:
        ValueError: there are none, a shard is missing, or a file is damaged or not safe to read; one line.
    """
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                part = safetensors.torch.load_file(path)
            else:
                part = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise ValueError(f"{folder}: not a whole checkpoint of Hugging Face, it lacks {path.name}") from None
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: damaged or not safe to read ({type(error).__name__})") from None
        if not isinstance(part, dict) or not all(isinstance(value, Tensor) for value in part.values()):
            raise ValueError(f"{path}: must hold tensors by name")
        weights.update({name: value.float() for name, value in part.items()})
    return weights


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _ONE_FILE).is_file():
        return [folder / _ONE_FILE]
    if (folder / _SHARDS).is_file():
        names = read_json(folder / _SHARDS).get("weight_map")
        if not isinstance(names, dict) or not all(
            isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
            for name in names.values()
        ):
            raise ValueError(f"{folder / _SHARDS}: `weight_map` must name .safetensors files beside it")
        return [folder / name for name in sorted(set(names.values()))]
    if (folder / _OLDER).is_file():
        return [folder / _OLDER]
    raise ValueError(f"{folder}: not a whole checkpoint of Hugging Face, it lacks {_ONE_FILE}, {_SHARDS} or {_OLDER}")
