"""bfloat16 is for processors that compute in it."""

from pathlib import Path

import pytest

from speechkit.pipelines import training
from speechkit.tasks import Recognition

SMALL = Path(__file__).with_name("small.yaml")


@pytest.mark.parametrize(
    ("overrides", "has_bfloat16", "precision"),
    [
        (["trainer.precision=bf16-mixed", "trainer.accelerator=cpu"], False, "32-true"),
        (["trainer.precision=bf16-mixed", "trainer.accelerator=cpu"], True, "bf16-mixed"),
        (["trainer.precision=64-true", "trainer.accelerator=cpu"], False, "64-true"),
    ],
)
def test_a_cpu_without_bfloat16_trains_in_float32(
    overrides: list[str],
    has_bfloat16: bool,
    precision: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(training, "_has_bfloat16", lambda: has_bfloat16)
    cli = training.parse(Recognition, [SMALL], ["trainer.logger=false", *overrides])
    assert cli.trainer.precision == cli.config.trainer.precision == precision
    said = "this processor computes in bfloat16 many times slower; training in 32-true" in caplog.text
    assert said == (precision not in overrides[0])
