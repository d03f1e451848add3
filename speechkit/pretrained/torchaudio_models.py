"""torchaudio's wav2vec 2.0 and HuBERT models -> the parts of a bundle."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from speechkit.bundle import Bundle
from speechkit.encoders import Wav2Vec2Encoder
from speechkit.pretrained.vocabulary import make_vocabulary
from speechkit.pretrained.wav2vec2 import load_encoder, make_ctc_head, make_front_end


def import_torchaudio_pipeline(name: str) -> Bundle:
    """A model of `torchaudio.pipelines`, with its labels; torch.hub fetches its weights once and keeps them.

    Args:
        name: such as "WAV2VEC2_ASR_BASE_960H".

    Raises:
        ValueError: no such pipeline, its weights cannot be fetched, or what `import_torchaudio` refuses; one line.
    """
    from torchaudio import pipelines

    known = {
        other: pipeline
        for other, pipeline in vars(pipelines).items()
        if isinstance(pipeline, pipelines.Wav2Vec2Bundle)
        and not isinstance(pipeline, pipelines.Wav2Vec2FABundle)  # it aligns, and has no word delimiter
        and not other.startswith("WAVLM")  # its attention has gated relative positions
    }
    if name not in known:
        raise ValueError(f"`name` must be one of torchaudio's pipelines {', '.join(sorted(known))}, got {name!r}.")
    pipeline = known[name]
    try:
        model = pipeline.get_model(dl_kwargs={"map_location": "cpu", "weights_only": True})
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"torchaudio's {name}: no weights, {' '.join(str(error).split())[:200]}") from None
    labels = pipeline.get_labels() if isinstance(pipeline, pipelines.Wav2Vec2ASRBundle) else None
    bundle = import_torchaudio(model, labels=labels, sample_rate_hz=int(pipeline.sample_rate))
    bundle.card = bundle.card.replace("# A model", f"# {name}", 1)
    return bundle


def import_torchaudio(model: nn.Module, *, labels: Sequence[str] | None = None, sample_rate_hz: int = 16000) -> Bundle:
    """Front end, encoder and, where the model has `aux`, head and tokenizer.

    Args:
        model: a `torchaudio.models.Wav2Vec2Model`, which HuBERT is too, or what a pipeline makes of one.
        labels: of the outputs; the first is the blank, "|" the end of a word.
        sample_rate_hz: of the audio it was trained on.

    Raises:
        ValueError: another model, such as WavLM, or labels that are not as many as the outputs.
    """
    from torchaudio.models import Wav2Vec2Model

    normalized = getattr(model, "normalize_waveform", False)  # what a pipeline wraps around the model of some
    model = getattr(model, "model", model)
    if not isinstance(model, Wav2Vec2Model) or not hasattr(model.encoder.transformer.layers[0].attention, "q_proj"):
        raise ValueError(f"`model` must be a wav2vec 2.0 or HuBERT of torchaudio, got {type(model).__name__}.")
    weights = dict(_named_weights(model))
    encoder = _encoder(model)
    load_encoder(encoder, weights)
    head, tokenizer = None, None
    if model.aux is not None:
        if labels is None or len(labels) != model.aux.out_features:
            got = "none" if labels is None else len(labels)
            raise ValueError(f"`labels` must be as many as the model's {model.aux.out_features} outputs, got {got}.")
        vocabulary = make_vocabulary(labels, blank=labels[0], word_delimiter="|")
        tokenizer = vocabulary.tokenizer
        head = make_ctc_head(weights, vocabulary.rows, dropout=0.0).eval()
    card = (
        "# A model of torchaudio\n\n"
        "- imported from torchaudio\n"
        "- licence and data: those of that model; fill in before you share it\n"
    )
    front_end = make_front_end(sample_rate_hz, variance_floor=1e-5 if normalized else None)
    return Bundle(front_end, encoder.eval(), head, tokenizer, card)


def _named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """By the names that Hugging Face has for them, which came after."""
    for name, value in model.state_dict().items():
        for ours, theirs in (
            ("encoder.feature_projection.", "feature_projection."),
            ("encoder.transformer.", "encoder."),
            ("aux.", "lm_head."),
        ):
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        yield name, value


def _encoder(model: Any) -> Wav2Vec2Encoder:
    blocks, transformer = model.feature_extractor.conv_layers, model.encoder.transformer
    channels = {block.conv.out_channels for block in blocks}
    if len(channels) != 1:
        raise ValueError(f"`model` must have convolutions of the same width, got {sorted(channels)}.")
    layer, positions = transformer.layers[0], transformer.pos_conv_embed
    return Wav2Vec2Encoder(
        channels=channels.pop(),
        kernel_sizes=[block.kernel_size for block in blocks],
        strides=[block.stride for block in blocks],
        conv_norm="group" if isinstance(blocks[0].layer_norm, nn.GroupNorm) else "layer",
        conv_bias=blocks[0].conv.bias is not None,
        output_dim=positions.embed_dim,
        num_layers=len(transformer.layers),
        num_heads=layer.attention.num_heads,
        feed_forward_dim=layer.feed_forward.intermediate_dense.out_features,
        pre_norm=layer.layer_norm_first,
        position_kernel_size=positions.kernel_size,
        position_groups=positions.conv.groups,
        dropout=transformer.dropout.p,
        attention_dropout=layer.attention.dropout,
        layer_drop=transformer.layer_drop,
    )
