"""CTC checkpoints of Hugging Face: logits are theirs; what cannot be read is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.pretrained import import_hf

TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAON'"]
KINDS = [(kind, layout) for kind in ("Wav2Vec2ForCTC", "HubertForCTC") for layout in ("base", "large")]


def make_waveforms() -> list[Tensor]:
    torch.manual_seed(1)
    return [0.1 * torch.randn(size) + 0.02 for size in (4000, 2321, 3000)]


@pytest.fixture(params=KINDS, ids="-".join)
def triple(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Any], make_processor: Callable[..., Any]
) -> tuple[Any, Any, Recognizer]:
    folder, model = make_checkpoint(*request.param, vocab_size=len(TOKENS))
    return model, make_processor(TOKENS), Recognizer.from_hf(folder)


@torch.inference_mode()
def logits_of(model: Any, processor: Any, waveforms: list[Tensor]) -> Tensor:
    """Theirs, of samples as the processor pads and normalises them; with the attention mask where there is padding."""
    samples = [waveform.numpy() for waveform in waveforms]
    inputs = processor(samples, sampling_rate=16000, return_tensors="pt", padding=True)
    return model(inputs.input_values, inputs.attention_mask if len(waveforms) > 1 else None).logits


def test_logits_of_one_utterance(triple: tuple[Any, Any, Recognizer]) -> None:
    model, processor, recognizer = triple
    waveform = make_waveforms()[0]
    theirs = logits_of(model, processor, [waveform])
    ours, frames = recognizer.model.logits(waveform[None], torch.tensor([len(waveform)]))
    assert frames.tolist() == [theirs.shape[1]]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_logits_of_a_padded_batch(triple: tuple[Any, Any, Recognizer]) -> None:
    """Theirs of large with the mask; those of base change with padding whatever the mask, so each is alone there."""
    model, processor, recognizer = triple
    waveforms = make_waveforms()
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    ours, frames = recognizer.model.logits(pad_sequence(waveforms, batch_first=True), lengths)
    if model.config.feat_extract_norm == "layer":
        theirs = list(logits_of(model, processor, waveforms))
    else:
        theirs = [logits_of(model, processor, [waveform])[0] for waveform in waveforms]
    for own, other, count in zip(ours, theirs, frames.tolist(), strict=True):
        torch.testing.assert_close(own[:count], other[:count], atol=1e-4, rtol=0)


def test_the_blank_comes_first(make_checkpoint: Callable[..., Any], make_processor: Callable[..., Any]) -> None:
    """As in fine-tuned XLSR: [PAD] is the last row, and <s> and </s> have none."""
    folder, model = make_checkpoint("Wav2Vec2ForCTC", vocab_size=5)
    processor = make_processor(["|", "e", "t", "[UNK]", "[PAD]"], unk_token="[UNK]", pad_token="[PAD]")
    assert json.loads((folder / "added_tokens.json").read_text()) == {"<s>": 5, "</s>": 6}
    recognizer = Recognizer.from_hf(folder)
    waveform = make_waveforms()[0]
    theirs = logits_of(model, processor, [waveform])
    ours, _ = recognizer.model.logits(waveform[None], torch.tensor([len(waveform)]))
    torch.testing.assert_close(ours, theirs[:, :, [4, 0, 1, 2, 3]], atol=1e-4, rtol=0)
    assert recognizer.tokenizer.encode("te et") == [3, 2, 1, 2, 3]


def test_a_bundle_is_written(
    make_checkpoint: Callable[..., Any],
    make_processor: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = make_checkpoint("HubertForCTC", "large", vocab_size=len(TOKENS), final_dropout=0.25)
    make_processor(TOKENS, do_normalize=False)
    assert main(["import-hf", str(folder), str(tmp_path / "bundle")]) == 0
    assert capsys.readouterr().out == f"bundle: {tmp_path / 'bundle'}\n"
    loaded, direct = Recognizer.load(tmp_path / "bundle"), Recognizer.from_hf(folder)
    assert (loaded.model.front_end.cmvn, loaded.model.head.dropout) == (None, 0.25)
    waveform = make_waveforms()[0]
    ours, theirs = (item.model.logits(waveform[None], torch.tensor([4000]))[0] for item in (loaded, direct))
    assert torch.equal(ours, theirs)
    assert "HuBERT" in (tmp_path / "bundle" / "card.md").read_text()


def test_a_model_tuned_without_masks(make_checkpoint: Callable[..., Any], make_processor: Callable[..., Any]) -> None:
    folder, model = make_checkpoint("Wav2Vec2ForCTC", vocab_size=len(TOKENS), mask_time_prob=0.0)
    make_processor(TOKENS)
    assert not any("masked_spec_embed" in name for name in model.state_dict())
    assert not import_hf(folder).encoder.mask_embedding.any()


def test_what_is_no_recogniser_is_named(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    folder, _ = make_checkpoint("HubertModel")
    with pytest.raises(ValueError, match="without a CTC head"):
        Recognizer.from_hf(folder)
    assert main(["import-hf", str(folder), str(tmp_path / "bundle")]) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "data2vec-audio"}, "`model_type` must be wav2vec2 or hubert, got 'data2vec-audio'"),
        ({"hidden_act": "relu"}, "`hidden_act` must be gelu"),
        ({"add_adapter": True}, "`add_adapter` must be False, got True"),
        ({"adapter_attn_dim": 16}, "`adapter_attn_dim` must be None, got 16"),
        ({"feat_proj_layer_norm": False}, "`feat_proj_layer_norm` must be True"),
        ({"num_hidden_layers": 3}, "lacks 'encoder.layers.2"),
        ({"intermediate_size": 50}, "size mismatch"),
        ({"conv_dim": [16, 16, 16, 16, 16, 16, 8]}, "`conv_dim` must be the same"),
        ({"conv_kernel": [10, 3]}, "`kernel_sizes` and `strides` must be as many"),
    ],
)
def test_another_model_is_named(
    change: dict[str, Any],
    expected: str,
    make_checkpoint: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = make_checkpoint("HubertForCTC", vocab_size=len(TOKENS))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    capsys.readouterr()
    assert main(["import-hf", str(folder), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()
