"""Folders of Hugging Face: whole, in shards, in half precision, older, damaged; and names on the hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from speechkit.cli.main import main
from speechkit.pretrained import import_hf
from speechkit.pretrained.checkpoint import find_checkpoint, read_weights


def test_shards_in_half_precision(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    _, model = make_checkpoint("HubertModel")
    model.half().save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    weights, expected = read_weights(tmp_path / "shards"), model.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].float())
    assert import_hf(tmp_path / "shards").encoder.num_layers == 2


def test_older_weights(make_checkpoint: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pytorch_model.bin, the names that weight norm had, and a preprocessor's settings."""
    folder, model = make_checkpoint("Wav2Vec2Model")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 8000}')
    assert main(["import-hf", str(folder), str(tmp_path / "bundle.zip")]) == 0
    assert "no head" in capsys.readouterr().out
    bundle = import_hf(folder)
    assert (bundle.head, bundle.front_end.cmvn, bundle.front_end.sample_rate_hz) == (None, None, 8000)
    waveform = torch.randn(1, 3000)
    with torch.no_grad():
        ours, _ = bundle.encoder(*bundle.front_end(waveform, torch.tensor([3000])))
        torch.testing.assert_close(ours, model(waveform).last_hidden_state, atol=1e-4, rtol=0)


def test_what_is_no_checkpoint_is_named(make_checkpoint: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks config\.json"):
        import_hf(tmp_path)
    folder, _ = make_checkpoint("Wav2Vec2Model")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged or not safe"):
        import_hf(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"a": Path("code")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: damaged or not safe"):
        import_hf(folder)
    torch.save([torch.zeros(1)], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must hold tensors by name"):
        import_hf(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks model\.safetensors, .*or pytorch_model\.bin"):
        import_hf(folder)
    with pytest.raises(ValueError, match=r"lacks config\.json"):
        import_hf(folder / "config.json")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        import_hf(folder)


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        ({"a": "model-1.safetensors"}, r"lacks model-1\.safetensors"),
        ({"a": "../model.safetensors"}, "must name .safetensors files beside it"),
        ({"a": "model.bin"}, "must name .safetensors files beside it"),
        ("a", "must name .safetensors files beside it"),
    ],
)
def test_shards_that_are_not_there_are_named(weight_map: Any, expected: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=expected):
        read_weights(tmp_path)


def test_a_name_that_the_hub_does_not_give_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"no/such: no such folder, and the Hugging Face hub gave none \(.*\)$"):
        find_checkpoint("no/such")
    with pytest.raises(ValueError, match="no such folder, and no name on the Hugging Face hub"):
        find_checkpoint(tmp_path / "missing")
