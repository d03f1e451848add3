"""The bundle: a folder or .zip with everything that inference needs, and nothing that could run code.

    config.yaml        format, parts as {class_path, init_args}, settings of decoding
    model.safetensors  weights and statistics
    tokens.model       the SentencePiece model, if that is the tokenizer
    card.md            data, metrics, licence

A zipped bundle is read in memory: nothing of it is ever written to disk.
"""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import nn

import speechkit
from speechkit.parts import TRUSTED_PACKAGES, build, describe
from speechkit.text import Tokenizer

FORMAT = 1
_MODULES = ("front_end", "encoder", "head")
_LARGEST_ARCHIVE_BYTES = 16 << 30
_DECOMPRESSION_ERRORS = (zlib.error, lzma.LZMAError)
_DECODING = ("temperature", "lm_weight", "word_bonus", "beam_size")
_KNOWN_FILES = ("config.yaml", "model.safetensors", "tokens.model", "card.md")


@dataclass
class Bundle:
    """The built parts of a model. A pretrained encoder has neither head nor tokenizer.

    Attributes:
        decoding: what was tuned on a development set: `temperature` of confidences, and of a search with a language
            model `lm_weight`, `word_bonus` and `beam_size`.
    """

    front_end: nn.Module
    encoder: nn.Module
    head: nn.Module | None = None
    tokenizer: Tokenizer | None = None
    card: str = ""
    decoding: dict[str, float] = field(default_factory=dict)


def save_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Writes a folder, or an archive where `path` ends in .zip; what was there is replaced once all is written.

    Raises:
        ValueError: a part that does not keep its constructor arguments.
    """
    files = _to_files(bundle)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".zip":
        partial = target.with_name(target.name + ".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        os.replace(partial, target)
        return
    target.mkdir(exist_ok=True)
    for name, content in files.items():
        partial = target / (name + ".partial")
        partial.write_bytes(content)
        os.replace(partial, target / name)


def load_bundle(path: str | os.PathLike[str], *, trusted_packages: Sequence[str] = ()) -> Bundle:
    """Reads a bundle and builds its parts, in evaluation mode, on the CPU.

    Args:
        path: folder or .zip.
        trusted_packages: packages besides speechkit whose classes may be built.

    Raises:
        ValueError: not a bundle, another format, a damaged or unsafe archive, or weights that do not fit; one line.
    """
    files = _read_archive(Path(path)) if Path(path).is_file() else _read_folder(Path(path))
    try:
        return _from_files(files, (*TRUSTED_PACKAGES, *trusted_packages))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _to_files(bundle: Bundle) -> dict[str, bytes]:
    config: dict[str, Any] = {"format": FORMAT, "speechkit": speechkit.__version__}
    weights = {}
    for name in _MODULES:
        module = getattr(bundle, name)
        if module is not None:
            config[name] = describe(module)
            weights.update({f"{name}.{key}": value.contiguous() for key, value in module.state_dict().items()})
    files = {"model.safetensors": safetensors.torch.save(weights), "card.md": bundle.card.encode()}
    if bundle.tokenizer is not None:
        config["tokenizer"] = describe(bundle.tokenizer)
        files.update(bundle.tokenizer.files())
    if bundle.decoding:
        config["decoding"] = dict(bundle.decoding)
    files["config.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    return files


def _from_files(files: Mapping[str, bytes], trusted_packages: Sequence[str]) -> Bundle:
    missing = [name for name in ("config.yaml", "model.safetensors") if name not in files]
    if missing:
        raise ValueError(f"not a bundle, it lacks {' and '.join(missing)}")
    try:
        config = yaml.safe_load(files["config.yaml"])
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError("config.yaml is not valid YAML") from None
    if not isinstance(config, dict) or "encoder" not in config or "front_end" not in config:
        raise ValueError("config.yaml must hold `format`, `front_end` and `encoder`")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"bundle format {config.get('format')!r} (written by speechkit {config.get('speechkit', 'unknown')}) "
            f"cannot be read by speechkit {speechkit.__version__}, which reads format {FORMAT}"
        )
    try:
        weights = safetensors.torch.load(files["model.safetensors"])
    except SafetensorError as error:
        raise ValueError(f"model.safetensors is damaged ({error})") from None
    modules = {name: build(config[name], trusted_packages=trusted_packages) for name in _MODULES if config.get(name)}
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise ValueError(f"`{name}` must be a module, got {type(module).__name__}")
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"model.safetensors does not fit `{name}`: {' '.join(str(error).split())}") from None
        module.eval()
    tokenizer = None
    if config.get("tokenizer"):
        tokenizer = build(config["tokenizer"], trusted_packages=trusted_packages)
        if not isinstance(tokenizer, Tokenizer):
            raise ValueError(f"`tokenizer` must be a Tokenizer, got {type(tokenizer).__name__}")
        tokenizer.load_files(files)
    card = files.get("card.md", b"").decode("utf-8", errors="replace")
    decoding = _read_decoding(config.get("decoding") or {})
    return Bundle(modules["front_end"], modules["encoder"], modules.get("head"), tokenizer, card, decoding)


def _read_decoding(settings: Any) -> dict[str, float]:
    """Numbers by name, each of them known."""
    if not isinstance(settings, dict):
        raise ValueError(f"config.yaml: `decoding` must hold names and numbers, got {type(settings).__name__}")
    for name, value in settings.items():
        if name not in _DECODING:
            raise ValueError(f"config.yaml: `decoding` must hold {', '.join(_DECODING)}, got {name!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"config.yaml: `decoding.{name}` must be a number, got {value!r}")
    return settings


def _read_folder(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        raise ValueError(f"{path}: no such bundle (a folder or .zip)")
    return {name: (path / name).read_bytes() for name in _KNOWN_FILES if (path / name).is_file()}


def _read_archive(path: Path) -> dict[str, bytes]:
    """Reads the known files of a .zip, each exactly as long as it declares, after every name was checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(path, member)
            if sum(member.file_size for member in members) > _LARGEST_ARCHIVE_BYTES:
                raise ValueError(f"{path}: declares more than {_LARGEST_ARCHIVE_BYTES >> 30} GiB")
            roots = {PurePosixPath(member.filename).parts[0] for member in members}
            prefix = f"{roots.pop()}/" if len(roots) == 1 and "config.yaml" not in roots else ""
            names = {member.filename.removeprefix(prefix): member for member in members}
            files = {name: archive.read(names[name]) for name in _KNOWN_FILES if name in names}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        RuntimeError,
        OSError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise ValueError(f"{path}: damaged or not a .zip archive ({error})") from None
    for name, content in files.items():
        if len(content) != names[name].file_size:
            raise ValueError(f"{path}: {name!r} declares {names[name].file_size} bytes, holds {len(content)}")
    return files


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise ValueError(f"{path}: refused, the archive holds an unsafe path: {name!r}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{path}: refused, the archive holds a link: {name!r}")
    if member.compress_size > 0 and member.file_size > 2000 * member.compress_size:
        raise ValueError(f"{path}: refused, {name!r} declares {member.file_size} bytes of {member.compress_size}")
