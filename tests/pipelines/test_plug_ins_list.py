"""What can be switched on is found by looking, and the YAML that is printed for it is valid."""

from pathlib import Path

import pytest
import yaml

from speechkit.callbacks import SpecAugment
from speechkit.cli.main import main
from speechkit.pipelines.plug_ins import find_plug_in, list_plug_ins
from speechkit.pipelines.training import parse
from speechkit.tasks import Recognition

SMALL = Path(__file__).with_name("small.yaml")


def test_callbacks_and_perturbations_are_listed_with_their_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["callbacks"]) == 0
    printed = capsys.readouterr().out
    for text in ("SpecAugment", "low_snr_db=10.0", "SpeedPerturbation", "low=0.9"):
        assert text in printed
    assert "CollapseError" not in printed
    assert "FeatureAugmentation" not in printed


def test_every_one_has_a_summary_of_one_line() -> None:
    plug_ins = list_plug_ins()
    assert len(plug_ins) > 15
    assert [plug_in.name for plug_in in plug_ins if not 10 < len(plug_in.summary) < 160] == []


def test_one_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["callbacks", "specaugment"]) == 0
    assert "max_bins: widest of them." in capsys.readouterr().out
    assert main(["callbacks", "Nothing"]) == 2
    assert "there are: ActivationCheckpointing" in capsys.readouterr().err


def test_the_printed_overlay_adds_it_to_a_recipe(corpus: Path, tmp_path: Path) -> None:
    overlays = []
    for name in ("SpecAugment", "GainPerturbation", "GradualUnfreezing"):
        overlays.append(tmp_path / f"{name}.yaml")
        overlays[-1].write_text(find_plug_in(name).overlay)
        assert yaml.safe_load(overlays[-1].read_text())
    cli = parse(Recognition, [SMALL, *overlays], ["trainer.logger=false"])
    assert sum(isinstance(callback, SpecAugment) for callback in cli.trainer.callbacks) == 2
    assert [type(item).__name__ for item in cli.datamodule.perturbations][-1] == "GainPerturbation"
