"""A wav2vec 2.0 checkpoint in the format of Hugging Face -> the parts of a bundle.

The folder holds config.json, weights (model.safetensors, or pytorch_model.bin, read without running code), and often
preprocessor_config.json. Checkpoints of pretraining have a quantizer and give a head; others give an encoder alone.
"""

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from speechkit.bundle import Bundle
from speechkit.codebooks import GumbelCodebook
from speechkit.encoders import Wav2Vec2Encoder
from speechkit.features import FrontEnd, UtteranceCMVN, Waveform
from speechkit.heads import MaskedPredictionHead

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_REQUIRED = {  # what Wav2Vec2Encoder has no other form of
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
}


def import_wav2vec2(source: str | os.PathLike[str]) -> Bundle:
    """Front end, encoder and, from a checkpoint of pretraining, head.

    Args:
        source: a folder, or a name on the Hugging Face hub such as "facebook/wav2vec2-base".

    Raises:
        ValueError: no such checkpoint, another model, a variant that `Wav2Vec2Encoder` does not have, or weights that
            are damaged or of other shapes; one line.
        ImportError: a name on the hub, and huggingface_hub is not installed.
    """
    folder = Path(source) if Path(source).exists() else _download(str(source))
    config = _read_json(folder / "config.json")
    for key, needed in _REQUIRED.items():
        if config.get(key, needed) != needed:
            raise ValueError(f"{folder / 'config.json'}: `{key}` must be {needed}, got {config[key]!r}.")
    weights = _read_weights(folder)
    try:
        encoder = _encoder(config, weights)
        head = _head(config, weights, encoder) if "quantizer.codevectors" in weights else None
    except KeyError as error:
        raise ValueError(f"{folder}: lacks {error}") from None
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from None
    card = (
        f"# wav2vec 2.0 from {source}\n\n"
        "- imported from a checkpoint in the format of Hugging Face\n"
        "- licence and data: those of that checkpoint; fill in before you share it\n"
    )
    return Bundle(_front_end(folder), encoder.eval(), head.eval() if head is not None else None, card=card)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ImportError(
            f"{name} is no folder; to fetch it from the Hugging Face hub, install speechkit[hub]"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", *_WEIGHTS]))
    except HFValidationError:
        raise ValueError(f"{name}: no such folder, and no name on the Hugging Face hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name}: no such folder, and the Hugging Face hub gave none ({reason})") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: not a checkpoint of Hugging Face, it lacks {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path}: not valid JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold keys and values, got {type(content).__name__}")
    return content


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights in float32, without the prefix that models with a head have."""
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: not a checkpoint of Hugging Face in one file, it lacks {' or '.join(_WEIGHTS)}")
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: damaged or not safe to read ({type(error).__name__})") from None
    return {name.removeprefix("wav2vec2."): value.float() for name, value in weights.items()}


def _front_end(folder: Path) -> FrontEnd:
    """Samples, to mean 0 and variance 1 unless the checkpoint's preprocessor says otherwise."""
    path = folder / "preprocessor_config.json"
    settings = _read_json(path) if path.is_file() else {}
    cmvn = UtteranceCMVN(floor=1e-7) if settings.get("do_normalize", True) else None
    return FrontEnd(features=Waveform(sample_rate_hz=settings.get("sampling_rate", 16000)), cmvn=cmvn)


def _encoder(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Wav2Vec2Encoder:
    channels = set(config["conv_dim"])
    if len(channels) != 1:
        raise ValueError(f"`conv_dim` must be the same for all convolutions, got {config['conv_dim']}.")
    encoder = Wav2Vec2Encoder(
        channels=channels.pop(),
        kernel_sizes=config["conv_kernel"],
        strides=config["conv_stride"],
        conv_norm=config["feat_extract_norm"],
        conv_bias=config["conv_bias"],
        output_dim=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        feed_forward_dim=config["intermediate_size"],
        pre_norm=config["do_stable_layer_norm"],
        position_kernel_size=config["num_conv_pos_embeddings"],
        position_groups=config["num_conv_pos_embedding_groups"],
        dropout=config["hidden_dropout"],
        attention_dropout=config["attention_dropout"],
        layer_drop=config["layerdrop"],
    )
    encoder.load_state_dict({own: _weight(weights, own) for own in encoder.state_dict()})
    return encoder


def _weight(weights: Mapping[str, Tensor], own: str) -> Tensor:
    """The weight that `Wav2Vec2Encoder` calls `own`."""
    if ".attention.input_projection." in own:  # one product here, three there
        return torch.cat([weights[_name(own.replace("input_projection", f"{part}_proj"))] for part in "qkv"])
    name = _name(own)
    older = name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )
    return weights[older] if older in weights else weights[name]


def _name(own: str) -> str:
    """A name of `Wav2Vec2Encoder` -> that of Hugging Face."""
    kind, _, rest = own.partition(".")
    place, _, part = rest.partition(".")
    if kind == "subsampling":
        number, _, tensor = part.partition(".")
        module = "conv" if place == "convs" else "layer_norm"
        return f"feature_extractor.conv_layers.{number}.{module}.{tensor}"
    if kind == "layers":
        for ours, theirs in (
            ("attention_norm", "layer_norm"),
            ("feed_forward_norm", "final_layer_norm"),
            ("attention.output_projection", "attention.out_proj"),
            ("widen", "feed_forward.intermediate_dense"),
            ("narrow", "feed_forward.output_dense"),
        ):
            if part.startswith(f"{ours}."):
                part = theirs + part.removeprefix(ours)
                break
        return f"encoder.layers.{place}.{part}"
    return {
        "mask_embedding": "masked_spec_embed",
        "latent_norm": f"feature_projection.layer_norm.{rest}",
        "projection": f"feature_projection.projection.{rest}",
        "positions": f"encoder.pos_conv_embed.{rest}",
        "context_norm": f"encoder.layer_norm.{rest}",
    }[kind]


def _head(config: Mapping[str, Any], weights: Mapping[str, Tensor], encoder: Wav2Vec2Encoder) -> MaskedPredictionHead:
    codebook = GumbelCodebook(
        input_dim=encoder.latent_dim,
        num_codes=config["num_codevectors_per_group"],
        num_groups=config["num_codevector_groups"],
        output_dim=config["codevector_dim"],
    )
    head = MaskedPredictionHead(
        codebook=codebook, context_dim=encoder.output_dim, output_dim=config["proj_codevector_dim"]
    )
    names = {
        "codebook.projection": "quantizer.weight_proj",
        "predict": "project_hid",
        "project": "project_q",
    }
    state = {f"{own}.{kind}": weights[f"{name}.{kind}"] for own, name in names.items() for kind in ("weight", "bias")}
    state["codebook.codewords"] = weights["quantizer.codevectors"].reshape(codebook.codewords.shape)
    head.load_state_dict(state)
    return head
