"""Checkpoints as transformers writes them: small, with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16] * 7, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "layerdrop": 0.0, "feat_proj_dropout": 0.0,
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Saves a model of a kind, such as "HubertForCTC", and a layout, "base" or "large"; gives its folder and itself."""
    transformers = pytest.importorskip("transformers")

    def make(kind: str, layout: str = "base", **changes: Any) -> tuple[Path, Any]:
        torch.manual_seed(0)
        model_class = getattr(transformers, kind)
        model = model_class(model_class.config_class(**{**SIZES, **LAYOUTS[layout], **changes}))
        with torch.no_grad():
            for parameter in model.parameters():  # none is 0 or 1
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "source")
        return tmp_path / "source", model.eval()

    return make


@pytest.fixture
def make_processor(tmp_path: Path) -> Callable[..., Any]:
    """Saves what transformers normalises samples and reads labels by, beside a checkpoint's weights."""
    transformers = pytest.importorskip("transformers")

    def make(tokens: list[str], *, do_normalize: bool = True, **roles: Any) -> Any:
        vocabulary = tmp_path / "tokens.json"
        vocabulary.write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
        processor = transformers.Wav2Vec2Processor(
            transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=do_normalize),
            transformers.Wav2Vec2CTCTokenizer(vocabulary, **roles),
        )
        processor.save_pretrained(tmp_path / "source")
        return processor

    return make
