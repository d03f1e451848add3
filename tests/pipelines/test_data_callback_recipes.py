"""Every recipe on the page about data callbacks is one that `finetune` takes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from speechkit.pipelines.training import parse
from speechkit.tasks import Recognition

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "pipelines" / "small.yaml"
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/callbacks/data.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", SNIPPETS)
def test_snippet_is_a_recipe(
    corpus: Path, tmp_path: Path, make_tone: Callable[..., Path], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tone("musan/hum.wav", rate=8000)
    monkeypatch.setenv("NOISE", str(tmp_path))
    (tmp_path / "snippet.yaml").write_text(text)
    named = re.findall(r"class_path: speechkit\.\w+\.(\w+)", text)
    cli = parse(Recognition, [SMALL, tmp_path / "snippet.yaml"])
    built = [type(part).__name__ for part in (*cli.trainer.callbacks, *cli.datamodule.perturbations)]
    assert named
    assert set(named) <= set(built)
