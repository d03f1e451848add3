"""The bundle: a folder or .zip with everything that inference needs, and nothing that could run code.

    config.yaml        format, parts as {class_path, init_args}, settings of decoding
    model.safetensors  weights and statistics
    tokens.model       the SentencePiece model, if that is the tokenizer
    lexicon.txt.gz     the pronouncing dictionary, if the labels are phonemes
    lm.arpa            a language model over words, plain or gzip, if it decodes with one
    card.md            data, metrics, licence

An int8 bundle (`speechkit.integer_bundle`) has `model.int8.onnx`, `qparams.json` and `qparams.npz` instead of weights.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import nn

import speechkit
from speechkit.bundle_files import (
    FORMAT,
    build_tokenizer,
    holds_integers,
    read_bundle_files,
    read_config,
    read_decoding,
    write_bundle_files,
)
from speechkit.parts import TRUSTED_PACKAGES, build, describe
from speechkit.text import Tokenizer

_MODULES = ("front_end", "encoder", "head")


@dataclass
class Bundle:
    """The built parts of a model. A pretrained encoder has neither head nor tokenizer.

    Attributes:
        decoding: what was tuned on a development set: `temperature` of confidences, and of a search with a language
            model `lm_weight`, `word_bonus` and `beam_size`.
        language_model: the content of an ARPA file, plain or gzip; empty if there is none.
    """

    front_end: nn.Module
    encoder: nn.Module
    head: nn.Module | None = None
    tokenizer: Tokenizer | None = None
    card: str = ""
    decoding: dict[str, float] = field(default_factory=dict)
    language_model: bytes = b""

    def digest(self) -> str:
        """Of all that makes logits of audio: two bundles of one digest have the same modules and weights."""
        found = hashlib.sha256()
        for module in filter(None, (self.front_end, self.encoder, self.head)):
            found.update(json.dumps(describe(module), sort_keys=True).encode())
            found.update(safetensors.torch.save({key: x.contiguous() for key, x in module.state_dict().items()}))
        return found.hexdigest()


def save_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Writes a folder, or an archive where `path` ends in .zip; what was there is replaced once all is written.

    Raises:
        ValueError: a part that does not keep its constructor arguments.
    """
    write_bundle_files(_to_files(bundle), path)


def load_bundle(
    path: str | os.PathLike[str], *, trusted_packages: Sequence[str] = (), encoder_only: bool = False
) -> Bundle:
    """Reads a bundle and builds its parts, in evaluation mode, on the CPU.

    Args:
        path: folder or .zip.
        trusted_packages: packages besides speechkit whose classes may be built.
        encoder_only: leaves out head and tokenizer.

    Raises:
        ValueError: not a bundle, another format, a damaged or unsafe archive, weights that do not fit, or parts that do
            not fit each other; one line.
    """
    files = read_bundle_files(path)
    return bundle_from_files(files, path, trusted_packages=trusted_packages, encoder_only=encoder_only)


def bundle_from_files(
    files: Mapping[str, bytes],
    path: str | os.PathLike[str],
    *,
    trusted_packages: Sequence[str] = (),
    encoder_only: bool = False,
) -> Bundle:
    """What `load_bundle` makes of the contents by name; `path` is for errors."""
    try:
        return _from_files(files, (*TRUSTED_PACKAGES, *trusted_packages), encoder_only=encoder_only)
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
    if bundle.language_model:
        files["lm.arpa"] = bundle.language_model
    if bundle.decoding:
        config["decoding"] = dict(bundle.decoding)
    files["config.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    return files


def _from_files(files: Mapping[str, bytes], trusted_packages: Sequence[str], *, encoder_only: bool) -> Bundle:
    if holds_integers(files):
        raise ValueError("holds an int8 model only; take the float bundle that it was made from")
    missing = [name for name in ("config.yaml", "model.safetensors") if name not in files]
    if missing:
        raise ValueError(f"not a bundle, it lacks {' and '.join(missing)}")
    config = read_config(files, ("front_end", "encoder"))
    try:
        weights = safetensors.torch.load(files["model.safetensors"])
    except SafetensorError as error:
        raise ValueError(f"model.safetensors is damaged ({error})") from None
    wanted = [name for name in _MODULES if config.get(name) and not (encoder_only and name == "head")]
    modules = {name: build(config[name], trusted_packages=trusted_packages) for name in wanted}
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise ValueError(f"`{name}` must be a module, got {type(module).__name__}")
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"model.safetensors does not fit `{name}`: {' '.join(str(error).split())}") from None
        module.eval()
    tokenizer = None if encoder_only else build_tokenizer(config, files, trusted_packages)
    _check_sizes(modules["front_end"], modules["encoder"], modules.get("head"), tokenizer)
    card = files.get("card.md", b"").decode("utf-8", errors="replace")
    decoding = read_decoding(config)
    language_model = files.get("lm.arpa", b"")
    return Bundle(
        modules["front_end"], modules["encoder"], modules.get("head"), tokenizer, card, decoding, language_model
    )


def _check_sizes(front_end: Any, encoder: Any, head: Any, tokenizer: Tokenizer | None) -> None:
    """Raises ValueError where one part does not take what the one before it gives, or has other labels."""
    pairs = [("encoder.input_dim", encoder.input_dim, "features", front_end.num_features)]
    if hasattr(head, "vocab_size"):  # heads of pretraining have none
        pairs.append(("head.input_dim", head.input_dim, "dimensions of the encoder", encoder.output_dim))
    if hasattr(head, "vocab_size") and tokenizer is not None:
        pairs.append(("head.vocab_size", head.vocab_size, "labels of the tokenizer", tokenizer.vocab_size))
    for name, found, what, expected in pairs:
        if found != expected:
            raise ValueError(f"`{name}` must equal the {what}, {expected}, got {found}")
