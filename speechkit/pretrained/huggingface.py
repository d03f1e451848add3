"""A wav2vec 2.0 or HuBERT checkpoint in the format of Hugging Face -> the parts of a bundle.

One of CTC gives a recogniser, one of wav2vec 2.0's pretraining an encoder and a head to go on with, others an encoder.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speechkit.bundle import Bundle
from speechkit.encoders import Wav2Vec2Encoder
from speechkit.features import FrontEnd
from speechkit.pretrained.checkpoint import find_checkpoint, read_json, read_optional_json, read_weights
from speechkit.pretrained.vocabulary import read_vocabulary
from speechkit.pretrained.wav2vec2 import load_encoder, make_ctc_head, make_front_end, make_prediction_head
from speechkit.text import Tokenizer

_NAMES = {"wav2vec2": "wav2vec 2.0", "hubert": "HuBERT"}
_REQUIRED = {  # what Wav2Vec2Encoder has no other form of
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}


def import_hf(source: str | os.PathLike[str]) -> Bundle:
    """Front end, encoder and, where the checkpoint has them, head and tokenizer.

    Logits and hidden states are those of `Wav2Vec2ForCTC` and `HubertForCTC`, with two differences: the blank is
    label 0, and padding never changes them, which theirs need an attention mask for and, under group norm, cannot have.

    Args:
        source: a folder, or a name on the Hugging Face hub such as "facebook/wav2vec2-base-960h".

    Raises:
        ValueError: no such checkpoint, another model, a variant that `Wav2Vec2Encoder` does not have, weights that
            are damaged or of other shapes, or a vocabulary that does not fit them; one line.
        ImportError: a name on the hub, and huggingface_hub is not installed.
    """
    folder = find_checkpoint(source)
    config = _read_config(folder / "config.json")
    prefix = f"{config['model_type']}."
    weights = {name.removeprefix(prefix): value for name, value in read_weights(folder).items()}
    try:
        encoder = _encoder(config, weights)
        head, tokenizer = _head(folder, config, weights, encoder)
    except KeyError as error:
        raise ValueError(f"{folder}: lacks {error}") from None
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from None
    card = (
        f"# {_NAMES[config['model_type']]} from {source}\n\n"
        "- imported from a checkpoint in the format of Hugging Face\n"
        "- licence and data: those of that checkpoint; fill in before you share it\n"
    )
    return Bundle(_front_end(folder), encoder.eval(), head.eval() if head is not None else None, tokenizer, card)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if (model_type := config.get("model_type", "wav2vec2")) not in _NAMES:
        raise ValueError(f"{path}: `model_type` must be {' or '.join(_NAMES)}, got {model_type!r}.")
    for key, needed in _REQUIRED.items():
        if config.get(key, needed) != needed:
            raise ValueError(f"{path}: `{key}` must be {needed}, got {config[key]!r}.")
    return {**config, "model_type": model_type}


def _front_end(folder: Path) -> FrontEnd:
    """The samples' mean and variance are normalised unless the checkpoint's preprocessor says otherwise."""
    older = read_optional_json(folder / "preprocessor_config.json")
    settings = older or read_optional_json(folder / "processor_config.json").get("feature_extractor", {})
    floor = 1e-7 if settings.get("do_normalize", True) else None
    return make_front_end(settings.get("sampling_rate", 16000), variance_floor=floor)


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
    load_encoder(encoder, weights)
    return encoder


def _head(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], encoder: Wav2Vec2Encoder
) -> tuple[nn.Module | None, Tokenizer | None]:
    if "lm_head.weight" in weights:
        vocabulary = read_vocabulary(folder, len(weights["lm_head.weight"]))
        head = make_ctc_head(weights, vocabulary.rows, dropout=config.get("final_dropout", 0.1))
        return head, vocabulary.tokenizer
    if "quantizer.codevectors" in weights:
        prediction_head = make_prediction_head(
            weights,
            latent_dim=encoder.latent_dim,
            context_dim=encoder.output_dim,
            output_dim=config["proj_codevector_dim"],
            num_codes=config["num_codevectors_per_group"],
            num_groups=config["num_codevector_groups"],
            code_dim=config["codevector_dim"],
        )
        return prediction_head, None
    return None, None
