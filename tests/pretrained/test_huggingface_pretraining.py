"""Checkpoints of wav2vec 2.0's pretraining: hidden states and losses are those of Hugging Face."""

from collections.abc import Callable
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
from speechkit.pretrained import import_hf
from speechkit.tasks import MaskedContrastivePretraining

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "conv_dim": [16] * 4, "conv_kernel": [10, 3, 3, 2], "conv_stride": [5, 2, 2, 2],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 6, "num_codevector_groups": 2, "codevector_dim": 8, "proj_codevector_dim": 12,
    "feat_quantizer_dropout": 0.0,
}  # fmt: skip


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


@pytest.fixture(params=["base", "large"])
def pair(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Any], tmp_path: Path
) -> tuple[Any, MaskedContrastivePretraining]:
    folder, model = make_checkpoint("Wav2Vec2ForPreTraining", request.param, **SIZES)
    assert main(["import-hf", str(folder), str(tmp_path / "bundle")]) == 0
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


def test_samples_are_normalised_as_theirs(make_checkpoint: Callable[..., Any]) -> None:
    folder, _ = make_checkpoint("Wav2Vec2ForPreTraining", **SIZES)
    front_end = import_hf(folder).front_end
    waveform = 0.1 * torch.randn(3000) + 0.05
    theirs = transformers.Wav2Vec2FeatureExtractor()(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
    ours, _ = front_end(waveform[None], torch.tensor([3000]))
    torch.testing.assert_close(ours[:, :, 0], theirs.input_values, atol=1e-5, rtol=1e-5)
