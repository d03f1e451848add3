"""Every shipped overlay takes a step on top of the smallest recipe."""

import json
from pathlib import Path

import pytest

from speechkit.bundle import load_bundle
from speechkit.cli.main import main
from speechkit.pipelines.recipes import OVERLAY, find_recipe, list_recipes

SMALL = str(Path(__file__).with_name("small.yaml"))


@pytest.fixture
def two_corpora(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that overlays read under $SPEECHKIT_DATA."""
    for name in ("arctic", "speechocean"):
        for split in ("train", "dev"):
            rows = [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text().splitlines()]
            rows = [{**row, "audio_filepath": f"../{row['audio_filepath']}"} for row in rows]
            (corpus / name).mkdir(exist_ok=True)
            (corpus / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    monkeypatch.setenv("SPEECHKIT_DATA", str(corpus))
    return corpus


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in list_recipes()[OVERLAY]])
def test_every_overlay_takes_a_step(name: str, two_corpora: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    options = ["data.dev=[]", "trainer.max_steps=1"]
    assert main(["finetune", "--config", SMALL, "--config", name, "--out", out, *options]) == 0
    assert load_bundle(tmp_path / "run" / "bundle").head is not None


def test_an_overlay_is_found_for_any_command() -> None:
    assert find_recipe("pseudo_labels", "finetune") == find_recipe("pseudo_labels", "pretrain")
    with pytest.raises(ValueError, match=r"no such recipe; there are: .*digits.*pseudo_labels"):
        find_recipe("nonsense", "finetune")
