"""Imports point one way, from later layers of the list to earlier ones; heavy packages stay in their places."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (  # a part may import itself and what is in a layer before its own
    ("masking", "models", "parts", "seeding", "runtime"),
    ("audio", "text", "quantization"),
    ("data", "features"),
    ("codebooks",),
    ("encoders",),
    ("heads",),
    ("losses",),
    ("decoding",),
    ("bundle_files",),
    ("bundle", "integer_bundle", "integer_model", "acoustic_model"),
    ("quantized_parts",),
    ("tasks", "probing", "pretrained"),
    ("callbacks",),
    ("transcription",),
    ("export", "recognizer"),
    ("pipelines",),
    ("cli",),
    ("__init__", "__main__"),  # of speechkit itself
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
LIGHTNING = {"lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning"}
LIGHTNING_PARTS = {"tasks", "callbacks", "pipelines"}
NOT_PACKAGES = {"scripts", "tests", "pipelines", "configs", *(path.stem for path in (ROOT / "scripts").glob("*.py"))}


class Import(NamedTuple):
    name: str  # "speechkit.data.manifest"; dots before it where it is relative
    line: int
    deferred: bool  # inside a function


def find_imports(tree: ast.Module) -> Iterator[Import]:
    """Every import wherever it stands, and every use of an attribute of `speechkit`, which may import lazily."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    deferred = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "speechkit" and not node.level:
            names = [f"speechkit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "speechkit":
            names = [f"speechkit.{node.attr}"]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) in deferred)


def is_allowed(module: str, found: Import) -> bool:
    package, _, rest = found.name.partition(".")
    own_part, part = module.split(".")[1], rest.partition(".")[0]
    if package == "speechkit":
        return part in ("", "__version__", own_part) or (part in RANK and RANK[part] < RANK[own_part])
    if package in LIGHTNING:
        return own_part in LIGHTNING_PARTS or module == "speechkit.data.datamodule"
    if package == "torchaudio":
        return found.deferred
    return package != "" and package not in NOT_PACKAGES


def violations(module: str, source: str) -> list[str]:
    refused = [found for found in find_imports(ast.parse(source)) if not is_allowed(module, found)]
    return [f"{module}:{found.line} imports {found.name}" for found in refused]


def read_modules() -> dict[str, str]:
    """Name of every module that is shipped -> its source."""
    folders = {"speechkit": ROOT / "speechkit", "speechkit.pipelines": ROOT / "pipelines"}
    return {
        ".".join((name, *path.relative_to(folder).with_suffix("").parts)): path.read_text(encoding="utf-8")
        for name, folder in folders.items()
        for path in folder.rglob("*.py")
    }


def test_imports_point_one_way() -> None:
    modules = read_modules()
    assert len(modules) > 50
    assert [problem for module, source in modules.items() for problem in violations(module, source)] == []


def test_every_part_has_a_layer() -> None:
    assert {module.split(".")[1] for module in read_modules()} <= RANK.keys()


@pytest.mark.parametrize(
    ("module", "source", "refused"),
    [
        ("speechkit.tasks.x", "from speechkit.callbacks import StepSeed", "speechkit.callbacks"),
        ("speechkit.tasks.x", "from speechkit import callbacks", "speechkit.callbacks"),
        ("speechkit.tasks.x", "import speechkit\nspeechkit.Recognizer", "speechkit.Recognizer"),
        ("speechkit.bundle", "import speechkit.recognizer", "speechkit.recognizer"),
        ("speechkit.audio.x", "def f():\n    import speechkit.text.normalization", "speechkit.text.normalization"),
        ("speechkit.data.x", "from speechkit.features import MFB", "speechkit.features"),
        ("speechkit.recognizer", "from speechkit.pipelines.recipes import find_recipe", "speechkit.pipelines.recipes"),
        ("speechkit.cli.x", "from speechkit.unknown import y", "speechkit.unknown"),
        ("speechkit.cli.x", "from pipelines.recipes import find_recipe", "pipelines.recipes"),
        ("speechkit.pipelines.x", "import scripts.demo", "scripts.demo"),
        ("speechkit.pipelines.x", "import demo", "demo"),
        ("speechkit.pipelines.x", "from . import recipes", "."),
        ("speechkit.data.dataset", "def f():\n    import lightning.pytorch", "lightning.pytorch"),
        ("speechkit.recognizer", "from pytorch_lightning import Trainer", "pytorch_lightning"),
        ("speechkit.features.x", "if True:\n    import torchaudio.functional", "torchaudio.functional"),
    ],
)
def test_a_violation_is_found(module: str, source: str, refused: str) -> None:
    assert violations(module, source) == [f"{module}:{1 + source.count(chr(10))} imports {refused}"]


def test_what_is_allowed_is_not_found() -> None:
    source = (
        "import speechkit\nfrom speechkit import __version__\nfrom speechkit.data.x import y\nspeechkit.__version__"
    )
    assert violations("speechkit.data.datamodule", source + "\nimport torch, lightning") == []
    assert violations("speechkit.callbacks.x", "from speechkit.encoders.normalization import z") == []
    assert violations("speechkit.audio.files", "def resample():\n    import torchaudio") == []
