"""What a command needs beyond the base installation is said in one line, with the extra that brings it."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from speechkit.cli.main import _COMMANDS, _EXTRAS
from speechkit.models import DIGITS

RUN_ALL = """
import json, sys

for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it were not installed
from speechkit.cli.main import main

for arguments in json.loads(sys.argv[2]):
    print(main(arguments))
"""
WITHOUT = ("configs", "export", "transcribe")  # work in the base installation
CALLS = {
    "data": ["data", "check", "m.jsonl"],
    "import-hf": ["import-hf", "model", "out"],
    "import-torchaudio": ["import-torchaudio", "model", "out"],
    "callbacks": ["callbacks"],
    "augment": ["augment", "preview", "m.jsonl", "--config", "digits", "-o", "out"],
    "pretrain": ["pretrain", "--config", "demo", "--out", "out"],
    "finetune": ["finetune", "--config", "digits", "--out", "out"],
    "plot-run": ["plot-run", "run"],
    "plot-codes": ["plot-codes", "bundle", "--out", "x.png"],
    "probe": ["probe", "bundle", "m.jsonl"],
    "embed": ["embed", "bundle", "x.wav", "-o", "out"],
    "evaluate": ["evaluate", str(DIGITS), "m.jsonl"],
    "pseudo-label": ["pseudo-label", str(DIGITS), "m.jsonl", "--labelled", "m.jsonl", "--out", "out.jsonl"],
    "calibrate": ["calibrate", str(DIGITS), "m.jsonl"],
    "lm": ["lm", "tune", "bundle", "m.jsonl", "--lm", "x.arpa"],
    "features": ["features", "plot", "x.wav"],
    "quantize": ["quantize", "bundle", "--calibration", "m.jsonl", "-o", "out"],
}


def test_every_command_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    assert {*CALLS, *WITHOUT} == set(_COMMANDS)
    packages = [name for names in _EXTRAS.values() for name in names]
    command = [sys.executable, "-c", RUN_ALL, json.dumps(packages), json.dumps(list(CALLS.values()))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * len(CALLS)
    for name, line in zip(CALLS, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"speechkit {name}: ")
        assert "pip install 'speechkit[train]'" in line


@pytest.mark.parametrize("extra", _EXTRAS)
def test_extras_are_those_of_the_package(extra: str) -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    listed = ast.literal_eval(re.search(rf"^{extra} = (\[.*?\])$", project, flags=re.MULTILINE | re.DOTALL)[1])
    names = {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in listed}
    assert set(_EXTRAS[extra]) <= names
