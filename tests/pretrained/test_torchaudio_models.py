"""torchaudio's wav2vec 2.0: logits are theirs, from a model and from a pipeline's weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.pretrained import import_torchaudio

LABELS = ("-", "|", *"ETAON'")
SIZES: dict[str, Any] = {
    "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
    "encoder_embed_dim": 32, "encoder_projection_dropout": 0.1, "encoder_pos_conv_kernel": 128,
    "encoder_pos_conv_groups": 16, "encoder_num_layers": 2, "encoder_num_heads": 4, "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 48, "encoder_ff_interm_dropout": 0.0, "encoder_dropout": 0.1,
    "encoder_layer_drop": 0.05, "aux_num_out": len(LABELS),
}  # fmt: skip
BASE = {**SIZES, "extractor_mode": "group_norm", "extractor_conv_bias": False, "encoder_layer_norm_first": False}
LARGE = {**SIZES, "extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}


def make_model(params: dict[str, Any]) -> nn.Module:
    from torchaudio.models import wav2vec2_model

    torch.manual_seed(0)
    model = wav2vec2_model(**params).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_waveforms() -> list[Tensor]:
    torch.manual_seed(1)
    return [0.1 * torch.randn(size) for size in (4000, 2321, 3000)]


@pytest.mark.parametrize("params", [BASE, LARGE], ids=["base", "large"])
@torch.inference_mode()
def test_logits(params: dict[str, Any]) -> None:
    """Alone, and in a padded batch; theirs of base change with padding, so each utterance is alone there."""
    model = make_model(params)
    bundle = import_torchaudio(model, labels=LABELS)
    waveforms = make_waveforms()
    lengths, padded = torch.tensor([4000, 2321, 3000]), pad_sequence(waveforms, batch_first=True)
    ours, frames = bundle.head(*bundle.encoder(*bundle.front_end(padded, lengths)))
    alone = [model(waveform[None])[0][0] for waveform in waveforms]
    theirs = alone if params is BASE else list(model(padded, lengths)[0])
    for place, count in enumerate(frames.tolist()):
        assert count == len(alone[place])
        torch.testing.assert_close(ours[place, :count], theirs[place][:count], atol=1e-4, rtol=0)
    assert bundle.tokenizer.decode([2, 4, 1, 3]) == "ea t"


def test_a_pipeline_whose_weights_torch_hub_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As pipelines are: three rows of the file stand for nothing, and samples are normalised."""
    from torchaudio import pipelines

    model = make_model({**LARGE, "aux_num_out": len(LABELS) + 3})
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "hub" / "checkpoints" / "small.pth")
    pipeline = pipelines.Wav2Vec2ASRBundle("small.pth", LARGE, 16000, True, "Wav2Vec2", LABELS[1:])
    monkeypatch.setattr(pipelines, "SMALL", pipeline, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["import-torchaudio", "SMALL", str(tmp_path / "bundle")]) == 0
    assert "# SMALL" in (tmp_path / "bundle" / "card.md").read_text()
    recognizer = Recognizer.load(tmp_path / "bundle")
    for waveform in make_waveforms():
        ours, _ = recognizer.model.logits(waveform[None], torch.tensor([len(waveform)]))
        with torch.inference_mode():
            theirs, _ = pipeline.get_model()(waveform[None])
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_model_without_outputs_gives_an_encoder() -> None:
    bundle = import_torchaudio(make_model({**BASE, "aux_num_out": None}), sample_rate_hz=8000)
    assert (bundle.head, bundle.tokenizer, bundle.front_end.sample_rate_hz) == (None, None, 8000)


@pytest.mark.parametrize("labels", [None, LABELS[:-1]])
def test_labels_that_do_not_fit_are_named(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"`labels` must be as many as the model's 8 outputs, got (none|7)"):
        import_torchaudio(make_model(BASE), labels=labels)


def test_other_models_are_named() -> None:
    from torchaudio.models import wavlm_model

    wavlm = wavlm_model(**BASE, encoder_num_buckets=8, encoder_max_distance=16)
    for model in (nn.Linear(1, 1), wavlm):
        with pytest.raises(ValueError, match=r"`model` must be a wav2vec 2\.0 or HuBERT of torchaudio"):
            import_torchaudio(model)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NOPE", "must be one of torchaudio's pipelines HUBERT_ASR_LARGE, "),
        ("WAVLM_BASE", "must be one of torchaudio's pipelines"),
        ("MMS_FA", "must be one of torchaudio's pipelines"),
        ("SMALL", "torchaudio's SMALL: no weights"),
    ],
)
def test_pipelines_without_weights_are_named(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchaudio import pipelines

    pipeline = pipelines.Wav2Vec2Bundle("https://invalid.invalid/small.pth", BASE, 16000, False, "Wav2Vec2")
    monkeypatch.setattr(pipelines, "SMALL", pipeline, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["import-torchaudio", name, str(tmp_path / "bundle")]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
