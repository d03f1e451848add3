"""The wheel, installed alone: every module imports, the recipes are in it, and it transcribes."""

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from speechkit.bundle import Bundle, save_bundle
from speechkit.encoders import SeparableConvEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.heads import CTCHead
from speechkit.text import CharTokenizer

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "speechkit", "pipelines", "configs"]
IMPORT_EVERYTHING = """
import importlib, pkgutil, speechkit

def fail(name):
    raise

for module in pkgutil.walk_packages(speechkit.__path__, "speechkit.", onerror=fail):
    print(importlib.import_module(module.name).__name__)
"""
RUN_COMMAND = """
from importlib.metadata import distribution

script, = distribution("speechkit").entry_points
sys.exit(script.load()())
"""

pytestmark = pytest.mark.slow


def run_python(*arguments: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel; built from a copy, since setuptools leaves a build/ in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "tree" / name, ignore=ignore)
        else:
            (folder / "tree").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree")
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "tree", folder=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", "site"]
    run_python("-m", "pip", "install", *options, str(wheel), folder=folder)
    return folder / "site"


def run_installed(installed: Path, code: str, *arguments: str) -> list[str]:
    """Runs code that sees the wheel and the dependencies; returns the lines it prints.

    Without `-S`, the finder of an editable installation would supply what is missing in the wheel.
    """
    check = f"import sys; sys.path[:] = [{str(installed)!r}, *sys.path, *{site.getsitepackages()!r}]\n"
    check += f"import speechkit; assert speechkit.__file__.startswith({str(installed)!r}), speechkit.__file__\n"
    return run_python("-I", "-S", "-c", check + code, *arguments, folder=installed.parent).splitlines()


def test_only_one_package_is_installed(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"speechkit", "bin"}
    assert (installed / "speechkit" / "py.typed").exists()
    pipelines = {path.name for path in (installed / "speechkit" / "pipelines").iterdir()}
    assert {"report.html", "report.js", "picture.js"} <= pipelines


def test_every_module_imports(installed: Path) -> None:
    folders = {"speechkit": "speechkit", "pipelines": "speechkit.pipelines", "configs": "speechkit.configs"}
    expected = {"speechkit"}
    for folder, package in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            expected.add(".".join((package, *parts)).removesuffix(".__init__"))
    assert {"speechkit", *run_installed(installed, IMPORT_EVERYTHING)} == expected


def test_every_recipe_is_listed(installed: Path) -> None:
    listed = [tuple(line.split()[:2]) for line in run_installed(installed, RUN_COMMAND, "configs", "list")]
    assert sorted(listed) == sorted((path.parent.name, path.stem) for path in (ROOT / "configs").glob("*/*.yaml"))


def test_transcribes(installed: Path, make_tone: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = CharTokenizer("ab")
    encoder = SeparableConvEncoder(input_dim=8, channels=4, kernel_sizes=(3,), repeats=1, output_dim=6)
    head = CTCHead(input_dim=6, vocab_size=tokenizer.vocab_size)
    save_bundle(Bundle(FrontEnd(features=MFB(num_mels=8)), encoder, head, tokenizer), tmp_path / "model.zip")
    audio = make_tone("tone.wav")
    (line,) = run_installed(installed, RUN_COMMAND, "transcribe", "--model", str(tmp_path / "model.zip"), str(audio))
    path, text = line.split("\t")
    assert path == str(audio)
    assert set(text) <= {"a", "b"}
