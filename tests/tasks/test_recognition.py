"""Recognition that begins with the weights of another recogniser."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from speechkit.bundle import Bundle, save_bundle
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, FrontEnd, GlobalCMVN
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer


def make(symbols: str = "ab", *, kernel: int = 3, **options: Any) -> Recognition:
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=12), cmvn=GlobalCMVN(num_features=12))
    encoder = SeparableConvEncoder(input_dim=12, channels=8, kernel_sizes=(kernel,), output_dim=8)
    return Recognition(front_end=front_end, encoder=encoder, tokenizer=CharTokenizer(symbols), **options)


@pytest.fixture
def trained(tmp_path: Path) -> Recognition:
    """A recogniser like no other, saved in `bundle`."""
    task = make()
    for parameter in task.parameters():
        nn.init.normal_(parameter)
    task.front_end.cmvn.mean.normal_()
    save_bundle(task.bundle(), tmp_path / "bundle")
    return task


def test_all_weights_and_statistics_are_the_start(trained: Recognition, tmp_path: Path) -> None:
    task = make(start_from=str(tmp_path / "bundle"), head_dropout=0.5)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(task.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": "ba"}, "its labels must be the tokenizer's, got 2, 'a' 'b' ..., for 2, 'b' 'a' ...; where"),
        ({"symbols": "abc"}, "its labels must be the tokenizer's, got 2, 'a' 'b' ..., for 3, 'a' 'b' 'c'"),
        ({"kernel": 5}, r"`start_from` .*: its encoder was built with other arguments: kernel_sizes is \[3\] there"),
        ({"encoder_from": "bundle"}, "`start_from` must stand without `encoder_from`, got both"),
    ],
)
def test_another_recogniser_is_refused(
    options: dict[str, Any], message: str, trained: Recognition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        make(**options, start_from="bundle")


def test_an_encoder_alone_is_refused(trained: Recognition, tmp_path: Path) -> None:
    save_bundle(Bundle(trained.front_end, trained.encoder), tmp_path / "encoder")
    with pytest.raises(ValueError, match="must be a recogniser, got an encoder alone; take `encoder_from`"):
        make(start_from=str(tmp_path / "encoder"))
