"""The files of a bundle, a folder or a .zip, and what of them needs no torch: settings, tokenizer, decoding.

A zipped bundle is read in memory: nothing of it is ever written to disk.
"""

import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

import speechkit
from speechkit.parts import build
from speechkit.text import Tokenizer

FORMAT = 1
_LARGEST_ARCHIVE_BYTES = 16 << 30
_DECODING = ("temperature", "lm_weight", "word_bonus", "beam_size")
_KNOWN_FILES = (
    "config.yaml",
    "model.safetensors",
    "model.int8.onnx",
    "qparams.json",
    "qparams.npz",
    "tokens.model",
    "lexicon.txt.gz",
    "lm.arpa",
    "card.md",
)


def files_digest(files: Mapping[str, bytes]) -> str:
    """Of names and contents: bundles of one digest are the same."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def holds_integers(files: Mapping[str, bytes]) -> bool:
    """Whether these are the files of an int8 bundle."""
    return "qparams.json" in files and "model.safetensors" not in files


def write_bundle_files(files: Mapping[str, bytes], path: str | os.PathLike[str]) -> None:
    """Writes a folder, or an archive where `path` ends in .zip; what was there is replaced once all is written.

    Raises:
        ValueError: a name that would not be read again.
    """
    for name in files:
        if not _is_known(name):
            raise ValueError(f"`files` of a tokenizer must be called tokens.SUFFIX, got {name!r}.")
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
    before = _names(target) if (target / "config.yaml").exists() else []
    _replace_files(files, target)
    for name in set(before) - set(files):
        (target / name).unlink()


def _replace_files(files: Mapping[str, bytes], folder: Path) -> None:
    """All of them once all are written."""
    for name, content in files.items():
        (folder / (name + ".partial")).write_bytes(content)
    for name in files:
        os.replace(folder / (name + ".partial"), folder / name)


def _is_known(name: str) -> bool:
    """Whether a bundle may hold a file of this name; `tokens.` is what tokenizers may keep."""
    return name in _KNOWN_FILES or (name.startswith("tokens.") and "/" not in name and not name.endswith(".partial"))


def _names(folder: Path) -> list[str]:
    """Of the files of a bundle."""
    return sorted(file.name for file in folder.iterdir() if _is_known(file.name) and file.is_file())


def read_bundle_files(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """Name -> content of what a bundle holds.

    Raises:
        ValueError: no such folder or file, or a damaged or unsafe archive; one line.
    """
    return _read_archive(Path(path)) if Path(path).is_file() else _read_folder(Path(path))


def read_config(files: Mapping[str, bytes], required: Sequence[str]) -> dict[str, Any]:
    """The content of config.yaml.

    Raises:
        ValueError: missing, not YAML, another format, or without what is required.
    """
    if "config.yaml" not in files:
        raise ValueError("not a bundle, it lacks config.yaml")
    try:
        config = yaml.safe_load(files["config.yaml"])
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError("config.yaml is not valid YAML") from None
    if not isinstance(config, dict) or any(name not in config for name in required):
        names = [f"`{name}`" for name in ("format", *required)]
        raise ValueError(f"config.yaml must hold {', '.join(names[:-1])} and {names[-1]}")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"bundle format {config.get('format')!r} (written by speechkit {config.get('speechkit', 'unknown')}) "
            f"cannot be read by speechkit {speechkit.__version__}, which reads format {FORMAT}"
        )
    return config


def build_tokenizer(
    config: Mapping[str, Any], files: Mapping[str, bytes], trusted_packages: Sequence[str]
) -> Tokenizer | None:
    """The tokenizer that a bundle describes, if it has one.

    Raises:
        ValueError: a description of something else.
    """
    if not config.get("tokenizer"):
        return None
    tokenizer = build(config["tokenizer"], trusted_packages=trusted_packages)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"`tokenizer` must be a Tokenizer, got {type(tokenizer).__name__}")
    try:
        tokenizer.load_files(files)
    except LookupError as error:
        raise ValueError(f"lacks {error} of the tokenizer") from None
    return tokenizer


def read_decoding(config: Mapping[str, Any]) -> dict[str, float]:
    """Settings of decoding: numbers by name, each of them known."""
    settings = config.get("decoding") or {}
    if not isinstance(settings, dict):
        raise ValueError(f"config.yaml: `decoding` must hold names and numbers, got {type(settings).__name__}")
    for name, value in settings.items():
        if name not in _DECODING:
            raise ValueError(f"config.yaml: `decoding` must hold {', '.join(_DECODING)}, got {name!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"config.yaml: `decoding.{name}` must be a number, got {value!r}")
    return settings


def update_decoding(
    path: str | os.PathLike[str], settings: Mapping[str, float], *, language_model: bytes = b""
) -> None:
    """Writes settings of decoding into a bundle, in float or int8, beside those that it has.

    Args:
        path: of the bundle.
        settings: numbers by name.
        language_model: the content of an ARPA file, plain or gzip, in place of the one that the bundle may have.

    Raises:
        ValueError: not a bundle, or a setting that is not known.
    """
    files = read_bundle_files(path)
    config = read_config(files, ())
    config["decoding"] = {**read_decoding(config), **settings}
    read_decoding(config)
    content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    changed = {"config.yaml": content, **({"lm.arpa": language_model} if language_model else {})}
    if Path(path).is_dir():
        _replace_files(changed, Path(path))
    else:
        write_bundle_files({**files, **changed}, path)


def _read_folder(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        raise ValueError(f"{path}: no such bundle (a folder or .zip)")
    return {name: (path / name).read_bytes() for name in _names(path)}


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
            files = {name: archive.read(member) for name, member in names.items() if _is_known(name)}
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
