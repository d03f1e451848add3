"""The int8 bundle: what a recogniser in integers needs, read and written without torch.

config.yaml      format, front end as it was trained, tokenizer, settings of decoding
qparams.json     every layer of the integer network with its domain; constants of the integer front end
qparams.npz      their arrays
model.int8.onnx  the same network for ONNX Runtime
tokens.model, lm.arpa, card.md  as in a float bundle
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

import speechkit
from speechkit.bundle_files import (
    FORMAT,
    build_tokenizer,
    read_bundle_files,
    read_config,
    read_decoding,
    write_bundle_files,
)
from speechkit.parts import TRUSTED_PACKAGES, describe
from speechkit.runtime import IntegerNetwork
from speechkit.runtime.front_end import IntegerTables
from speechkit.runtime.network import network_from_files, network_to_files, pack_arrays, unpack_arrays
from speechkit.text import Tokenizer

_TABLES = "front_end."


@dataclass
class IntegerBundle:
    """The parts of an int8 recogniser.

    Attributes:
        tables: of the integer front end.
        sample_rate_hz: of its waveform.
        network: the layers.
        onnx: the same network as an ONNX file that takes `codes`; empty if there is none.
        tokenizer: label ids -> text.
        front_end: description of the front end that was trained, for people.
        card: data, metrics, licence.
        decoding: as in `speechkit.bundle.Bundle`.
        language_model: the content of an ARPA file; empty if there is none.
    """

    tables: IntegerTables
    sample_rate_hz: int
    network: IntegerNetwork
    onnx: bytes
    tokenizer: Tokenizer
    front_end: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    decoding: dict[str, float] = field(default_factory=dict)
    language_model: bytes = b""


def save_integer_bundle(bundle: IntegerBundle, path: str | os.PathLike[str]) -> None:
    """Writes a folder, or an archive where `path` ends in .zip."""
    network, arrays = network_to_files(bundle.network)
    tables = {entry.name: getattr(bundle.tables, entry.name) for entry in dataclasses.fields(IntegerTables)}
    constants = {name: value for name, value in tables.items() if isinstance(value, int)}
    arrays |= {_TABLES + name: value for name, value in tables.items() if name not in constants}
    description = {"network": network, "front_end": {"sample_rate_hz": bundle.sample_rate_hz, **constants}}
    config: dict[str, Any] = {"format": FORMAT, "speechkit": speechkit.__version__}
    config |= {"front_end": dict(bundle.front_end), "tokenizer": describe(bundle.tokenizer)}
    if bundle.decoding:
        config["decoding"] = dict(bundle.decoding)
    files = {
        "config.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode(),
        "qparams.json": json.dumps(description, indent=1).encode(),
        "qparams.npz": pack_arrays(arrays),
        "card.md": bundle.card.encode(),
        **bundle.tokenizer.files(),
    }
    files |= {"model.int8.onnx": bundle.onnx} if bundle.onnx else {}
    files |= {"lm.arpa": bundle.language_model} if bundle.language_model else {}
    write_bundle_files(files, path)


def load_integer_bundle(path: str | os.PathLike[str], *, trusted_packages: Sequence[str] = ()) -> IntegerBundle:
    """Reads a folder or .zip.

    Raises:
        ValueError: not an int8 bundle, another format, or a damaged file; one line.
    """
    files = read_bundle_files(path)
    try:
        return integer_bundle_from_files(files, trusted_packages=trusted_packages)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def integer_bundle_from_files(files: Mapping[str, bytes], *, trusted_packages: Sequence[str] = ()) -> IntegerBundle:
    """What `load_integer_bundle` reads, from contents by name.

    Raises:
        ValueError: as `load_integer_bundle`, without the path.
    """
    config = read_config(files, ("tokenizer",))
    missing = [name for name in ("qparams.json", "qparams.npz") if name not in files]
    if missing:
        raise ValueError(f"not an int8 bundle, it lacks {' and '.join(missing)}; speechkit quantize makes one")
    arrays = unpack_arrays(files["qparams.npz"])
    try:
        description = json.loads(files["qparams.json"])
        front_end = dict(description["front_end"])
        sample_rate_hz = int(front_end.pop("sample_rate_hz"))
        if sample_rate_hz < 1:
            raise ValueError(f"`sample_rate_hz` must be positive, got {sample_rate_hz}")
        own = {name.removeprefix(_TABLES): value for name, value in arrays.items() if name.startswith(_TABLES)}
        tables = IntegerTables(**front_end, **own)
        network = description["network"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"qparams.json is damaged ({type(error).__name__}: {error})") from None
    tokenizer = build_tokenizer(config, files, (*TRUSTED_PACKAGES, *trusted_packages))
    assert tokenizer is not None
    return IntegerBundle(
        tables=tables,
        sample_rate_hz=sample_rate_hz,
        network=network_from_files(network, arrays),
        onnx=files.get("model.int8.onnx", b""),
        tokenizer=tokenizer,
        front_end=config.get("front_end") or {},
        card=files.get("card.md", b"").decode("utf-8", errors="replace"),
        decoding=read_decoding(config),
        language_model=files.get("lm.arpa", b""),
    )
