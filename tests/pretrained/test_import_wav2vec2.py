"""Checkpoints of Hugging Face: hidden states and losses are theirs; what cannot be read is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechkit.bundle import load_bundle
from speechkit.cli.main import main
from speechkit.codebooks import diversity_loss
from speechkit.features import FrontEnd, Waveform
from speechkit.losses import Negatives, draw_negatives_per_anchor
from speechkit.pretrained import import_wav2vec2
from speechkit.tasks import MaskedContrastivePretraining

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16] * 4, "conv_kernel": [10, 3, 3, 2], "conv_stride": [5, 2, 2, 2],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 6, "num_codevector_groups": 2, "codevector_dim": 8, "proj_codevector_dim": 12,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0,
    "feat_proj_dropout": 0.0, "feat_quantizer_dropout": 0.0,
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
}


def make_checkpoint(folder: Path, layout: str) -> Any:
    """A small model with random weights, none of them 0 or 1, saved to the folder."""
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**SIZES, **LAYOUTS[layout]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def make_task(bundle: Path) -> MaskedContrastivePretraining:
    """The imported parts, over samples as they are."""
    parts = load_bundle(bundle)
    task = MaskedContrastivePretraining(
        front_end=FrontEnd(features=Waveform()),
        encoder=parts.encoder,
        codebook=parts.head.codebook,
        prediction_dim=parts.head.output_dim,
    )
    task.head.load_state_dict(parts.head.state_dict())
    return task.eval()


@pytest.fixture(params=LAYOUTS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, MaskedContrastivePretraining]:
    model = make_checkpoint(tmp_path / "source", request.param)
    assert main(["import", "wav2vec2", str(tmp_path / "source"), str(tmp_path / "bundle")]) == 0
    return model, make_task(tmp_path / "bundle")


def masked_batch() -> tuple[Tensor, Tensor, Negatives, Tensor]:
    """Waveform, mask, and negatives as places among the masked frames and, as Hugging Face wants them, in the batch."""
    torch.manual_seed(1)
    waveform = torch.randn(2, 4000)
    mask = torch.zeros(2, 99, dtype=torch.bool)
    mask[0, 10:30] = mask[0, 50:65] = mask[1, 3:40] = True
    counts = mask.sum(dim=1)
    places = draw_negatives_per_anchor(counts, 7).frame
    in_batch = torch.zeros(2, 99, 7, dtype=torch.long)
    for row in range(2):
        frames = mask[row].nonzero()[:, 0]
        in_batch[row, frames] = 99 * row + frames[places[row, : len(frames)]]
    return waveform, mask, Negatives(None, places), in_batch


def test_hidden_states(pair: tuple[Any, MaskedContrastivePretraining]) -> None:
    model, task = pair
    waveform = torch.randn(2, 4000)
    with torch.no_grad():
        theirs = model.wav2vec2(waveform).last_hidden_state
        ours, frames = task.encoder(waveform[:, :, None], torch.tensor([4000, 4000]))
    assert frames.tolist() == [theirs.shape[1]] * 2
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_hidden_states_of_a_padded_batch(pair: tuple[Any, MaskedContrastivePretraining]) -> None:
    """Theirs of large with an attention mask; those of base depend on padding, so each utterance is alone there."""
    model, task = pair
    lengths = torch.tensor([4000, 2500])
    waveform = torch.randn(2, 4000)
    waveform[1, 2500:] = 0
    with torch.no_grad():
        if model.config.do_stable_layer_norm:
            attention_mask = torch.arange(4000) < lengths[:, None]
            theirs = list(model.wav2vec2(waveform, attention_mask=attention_mask.long()).last_hidden_state)
        else:
            alone = [model.wav2vec2(row[None, :length]) for row, length in zip(waveform, lengths, strict=True)]
            theirs = [output.last_hidden_state[0] for output in alone]
        ours, frames = task.encoder(waveform[:, :, None], lengths)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(ours[row, :count], theirs[row][:count], atol=1e-4, rtol=0)


def test_losses_and_gradients(pair: tuple[Any, MaskedContrastivePretraining]) -> None:
    model, task = pair
    task.latent_gradient_scale = 1.0
    waveform, mask, places, in_batch = masked_batch()
    theirs = model(waveform, mask_time_indices=mask, sampled_negative_indices=in_batch)
    ours = task(waveform, torch.tensor([4000, 4000]), mask, places)
    total = (ours.contrast.loss * ours.contrast.predictions).sum()
    torch.testing.assert_close(total, theirs.contrastive_loss, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        mask.sum() * diversity_loss(ours.codes.usage), theirs.diversity_loss, atol=1e-4, rtol=1e-5
    )
    total.backward()
    theirs.contrastive_loss.backward()
    for own, other in (
        (task.encoder.subsampling.convs[0].weight, model.wav2vec2.feature_extractor.conv_layers[0].conv.weight),
        (task.encoder.mask_embedding, model.wav2vec2.masked_spec_embed),
        (task.encoder.layers[0].narrow.weight, model.wav2vec2.encoder.layers[0].feed_forward.output_dense.weight),
        (task.head.codebook.codewords, model.quantizer.codevectors),
    ):
        torch.testing.assert_close(own.grad, other.grad.reshape(own.shape), atol=1e-3, rtol=1e-3)


def test_diversity_loss_of_training(pair: tuple[Any, MaskedContrastivePretraining]) -> None:
    """In training it is that of the codes' probabilities, which no draw changes."""
    model, task = pair
    waveform, mask, places, in_batch = masked_batch()
    theirs = model.train()(waveform, mask_time_indices=mask, sampled_negative_indices=in_batch).diversity_loss
    ours = diversity_loss(task.train()(waveform, torch.tensor([4000, 4000]), mask, places).codes.soft_usage)
    torch.testing.assert_close(mask.sum() * ours, theirs, atol=1e-4, rtol=1e-5)
    (codebook,) = torch.autograd.grad(ours, task.head.codebook.projection.weight)
    (quantizer,) = torch.autograd.grad(theirs / mask.sum(), model.quantizer.weight_proj.weight)
    torch.testing.assert_close(codebook, quantizer, atol=1e-6, rtol=1e-3)


def test_older_weights_without_a_quantizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pytorch_model.bin, the names that weight norm had, and a preprocessor's settings."""
    model = make_checkpoint(tmp_path / "source", "base")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, value in model.wav2vec2.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "source" / "pytorch_model.bin")
    (tmp_path / "source" / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 8000}')
    assert main(["import", "wav2vec2", str(tmp_path / "source"), str(tmp_path / "bundle.zip")]) == 0
    assert "no head" in capsys.readouterr().out
    bundle = load_bundle(tmp_path / "bundle.zip")
    assert (bundle.head, bundle.front_end.cmvn, bundle.front_end.sample_rate_hz) == (None, None, 8000)
    waveform = torch.randn(1, 3000)
    with torch.no_grad():
        ours, _ = bundle.encoder(*bundle.front_end(waveform, torch.tensor([3000])))
        torch.testing.assert_close(ours, model.wav2vec2(waveform).last_hidden_state, atol=1e-4, rtol=0)


def test_samples_are_normalised_as_theirs(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source", "base")
    front_end = import_wav2vec2(tmp_path / "source").front_end
    waveform = 0.1 * torch.randn(3000) + 0.05
    theirs = transformers.Wav2Vec2FeatureExtractor()(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
    ours, _ = front_end(waveform[None], torch.tensor([3000]))
    torch.testing.assert_close(ours[:, :, 0], theirs.input_values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "hubert"}, "`model_type` must be wav2vec2, got 'hubert'"),
        ({"hidden_act": "relu"}, "`hidden_act` must be gelu"),
        ({"num_hidden_layers": 4}, "lacks 'encoder.layers.3"),
        ({"intermediate_size": 50}, "size mismatch"),
        ({"conv_dim": [16, 16, 16, 8]}, "`conv_dim` must be the same"),
        ({"conv_kernel": [10, 3]}, "`kernel_sizes` and `strides` must be as many"),
    ],
)
def test_another_model_is_named(
    change: dict[str, Any], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_checkpoint(tmp_path, "base")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    capsys.readouterr()
    assert main(["import", "wav2vec2", str(tmp_path), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks config\.json"):
        import_wav2vec2(tmp_path)
    make_checkpoint(tmp_path, "base")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="damaged or not safe"):
        import_wav2vec2(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": Path("code")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="damaged or not safe"):
        import_wav2vec2(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks model\.safetensors or pytorch_model\.bin"):
        import_wav2vec2(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        import_wav2vec2(tmp_path / "missing")
