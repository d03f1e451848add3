"""Weights of wav2vec 2.0 and HuBERT, by the names of Hugging Face without their prefix -> speechkit's modules."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from speechkit.codebooks import GumbelCodebook
from speechkit.encoders import Wav2Vec2Encoder
from speechkit.features import FrontEnd, UtteranceCMVN, Waveform
from speechkit.heads import CTCHead, MaskedPredictionHead


def make_front_end(sample_rate_hz: int, *, variance_floor: float | None) -> FrontEnd:
    """Samples, to mean 0 and variance 1 where there is a floor of the variance."""
    cmvn = None if variance_floor is None else UtteranceCMVN(floor=variance_floor)
    return FrontEnd(features=Waveform(sample_rate_hz=sample_rate_hz), cmvn=cmvn)


def load_encoder(encoder: Wav2Vec2Encoder, weights: Mapping[str, Tensor]) -> None:
    """Raises KeyError where a weight is missing, RuntimeError where shapes differ."""
    encoder.load_state_dict({own: _weight(weights, own) for own in encoder.state_dict()})


def _weight(weights: Mapping[str, Tensor], own: str) -> Tensor:
    """The weight that `Wav2Vec2Encoder` calls `own`."""
    if ".attention.input_projection." in own:  # one product here, three there
        return torch.cat([weights[_name(own.replace("input_projection", f"{part}_proj"))] for part in "qkv"])
    name = _name(own)
    if own == "mask_embedding" and name not in weights:  # of a model that was tuned without masks, and needs none
        return torch.zeros_like(weights["feature_projection.projection.bias"])
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


def make_ctc_head(weights: Mapping[str, Tensor], rows: Sequence[int], *, dropout: float) -> CTCHead:
    """Logits in the order of `rows`: the blank first."""
    weight, bias = weights["lm_head.weight"][rows], weights["lm_head.bias"][rows]
    head = CTCHead(input_dim=weight.shape[1], vocab_size=weight.shape[0], dropout=dropout)
    head.load_state_dict({"projection.weight": weight, "projection.bias": bias})
    return head


def make_prediction_head(
    weights: Mapping[str, Tensor],
    *,
    latent_dim: int,
    context_dim: int,
    output_dim: int,
    num_codes: int,
    num_groups: int,
    code_dim: int,
) -> MaskedPredictionHead:
    """That of pretraining, with its codebook."""
    codebook = GumbelCodebook(input_dim=latent_dim, num_codes=num_codes, num_groups=num_groups, output_dim=code_dim)
    head = MaskedPredictionHead(codebook=codebook, context_dim=context_dim, output_dim=output_dim)
    names = {
        "codebook.projection": "quantizer.weight_proj",
        "predict": "project_hid",
        "project": "project_q",
    }
    state = {f"{own}.{kind}": weights[f"{name}.{kind}"] for own, name in names.items() for kind in ("weight", "bias")}
    state["codebook.codewords"] = weights["quantizer.codevectors"].reshape(codebook.codewords.shape)
    head.load_state_dict(state)
    return head
