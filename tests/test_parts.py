"""Every part describes itself, and the description builds an equal one; strangers' classes are refused."""

import importlib
import inspect
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from speechkit.codebooks import KMeansCodebook
from speechkit.encoders import ConvGRUEncoder, Wav2VecEncoder
from speechkit.features import MFB, MFCC, FrontEnd, GlobalCMVN, MicroMFB, UtteranceCMVN, WhisperMFB
from speechkit.heads import CTCHead
from speechkit.parts import build, describe
from speechkit.quantization import QParams
from speechkit.text import CharTokenizer

PACKAGES = (
    "speechkit.features",
    "speechkit.quantization",
    "speechkit.encoders",
    "speechkit.codebooks",
    "speechkit.heads",
    "speechkit.text",
)
NOT_PARTS = {
    "CodeUse",
    "DomainClassifier",
    "FeatureStream",
    "FixedPointMultiplier",
    "MinMaxObserver",
    "MSEObserver",
    "PercentileObserver",
    "Quantized",
    "ReceptiveField",
}  # tools, and what no bundle holds
CLASSES = [
    member
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if name not in NOT_PARTS
    if inspect.isclass(member := getattr(importlib.import_module(package), name)) and not inspect.isabstract(member)
]
REQUIRED = {
    "input_dim": 6, "context_dim": 4, "latent_dim": 5, "num_steps": 3, "vocab_size": 7, "num_features": 4,
    "features": MFB(num_mels=8), "mfb": MFB(num_mels=8), "front_end": MFB(num_mels=8),
    "qparams": QParams(0.5, 1, "int8"), "scale": 0.25, "zero_point": 3, "dtype": "int8",
    "codebook": KMeansCodebook(input_dim=4, num_codes=4, output_dim=4),
    "encoder": Wav2VecEncoder(input_dim=6, channels=4, context_kernel_sizes=(2, 3)),
}  # fmt: skip
SMALL = {
    "channels": 4,
    "hidden_size": 4,
    "kernel_sizes": (3, 5),
    "num_heads": 2,
    "position_groups": 2,
    "num_codes": 3,
    "strides": (2, 1),
    "output_dim": 4,
    "num_mels": 16,
    "num_coefficients": 12,
}


def make(cls: type) -> Any:
    """An instance whose arguments differ from the defaults where that is cheap."""
    parameters = inspect.signature(cls).parameters
    known = {**REQUIRED, **SMALL, "symbols": ["b", "a"], "sample_rate_hz": 8000, "dropout": 0.25, "num_pieces": 31}
    if cls in (MicroMFB, WhisperMFB):  # they have one rate
        del known["sample_rate_hz"]
    return cls(**{name: value for name, value in known.items() if name in parameters})


def test_all_packages_were_found() -> None:
    assert {ConvGRUEncoder, FrontEnd, CTCHead, CharTokenizer} <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_description_builds_an_equal_part(cls: type) -> None:
    part = make(cls)
    description = describe(part)
    copy = build(yaml.safe_load(yaml.safe_dump(description)))
    assert type(copy) is cls
    assert describe(copy) == description


@pytest.mark.parametrize("cls", CLASSES)
def test_class_path_is_public(cls: type) -> None:
    assert describe(make(cls))["class_path"] == ".".join([*cls.__module__.split(".")[:2], cls.__name__])


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, nn.Module)])
def test_built_module_takes_the_weights(cls: type) -> None:
    part = make(cls)
    copy = build(describe(part))
    copy.load_state_dict(part.state_dict())
    for name, value in part.state_dict().items():
        assert torch.equal(copy.state_dict()[name], value)


def test_description_states_only_what_differs_from_the_defaults() -> None:
    assert describe(MFB(num_mels=8)) == {"class_path": "speechkit.features.MFB", "init_args": {"num_mels": 8}}
    assert describe(MFCC()) == {"class_path": "speechkit.features.MFCC", "init_args": {}}


def test_parts_inside_parts() -> None:
    part = FrontEnd(features=MFB(num_mels=8), cmvn=GlobalCMVN(8))
    copy = build(describe(part))
    assert (copy.num_features, copy.cmvn.num_features) == (8, 8)


class Chain(nn.Module):
    """A part that holds a list of parts."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_lists_of_parts_are_built() -> None:
    description = {"class_path": f"{__name__}.Chain", "init_args": {"parts": [describe(UtteranceCMVN(floor=0.5))]}}
    (part,) = build(description, trusted_packages=("speechkit", __name__.split(".")[0])).parts
    assert part.floor == 0.5


def test_part_that_forgets_its_argument_is_refused() -> None:
    class Forgetful:
        def __init__(self, width: int) -> None: ...

    with pytest.raises(ValueError, match="Forgetful must keep its argument `width`"):
        describe(Forgetful(3))


@pytest.mark.parametrize(
    "path",
    ["os.system", "subprocess.Popen", "torch.nn.Linear", "builtins.eval", "speechkit_evil.Class", "speechkit2.x.Class"],
)
def test_class_outside_speechkit_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must lie in a trusted package"):
        build({"class_path": path, "init_args": {}})


@pytest.mark.parametrize("path", ["speechkit.features.front_end.Tensor", "speechkit.text.tokenizers.ABC"])
def test_class_that_speechkit_only_imports_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must name a class of a trusted package"):
        build({"class_path": path})


@pytest.mark.parametrize(
    "path", ["speechkit.pipelines.training.TrainingCLI", "speechkit.bundle.Path", "speechkit.featureset.MFB"]
)
def test_class_of_speechkit_that_is_no_part_of_a_model_is_refused(path: str) -> None:
    """Some of them run code when they are built."""
    with pytest.raises(ValueError, match="must lie in a trusted package"):
        build({"class_path": path, "init_args": {"args": ["fit"]}})


@pytest.mark.parametrize("path", ["speechkit.features.mfcc.dct_matrix", "speechkit.text.normalize_text"])
def test_function_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must name a class"):
        build({"class_path": path, "init_args": {"path": "/"}})


def test_trusted_packages_may_be_named() -> None:
    part = build({"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}},
                 trusted_packages=("torch",))  # fmt: skip
    assert part.weight.shape == (3, 2)


def test_trust_reaches_nested_descriptions() -> None:
    inner = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}
    with pytest.raises(ValueError, match="must lie in a trusted package"):
        build({"class_path": "speechkit.features.FrontEnd", "init_args": {"features": inner}})


@pytest.mark.parametrize("description", [{}, {"class_path": 3}, {"class_path": "speechkit"}, "MFB", 3, None, []])
def test_what_is_no_description_is_refused(description: Any) -> None:
    with pytest.raises(ValueError, match="`class_path` must"):
        build(description)


@pytest.mark.parametrize("path", ["features.Nothing", "features.nothing.MFB", "text..CharTokenizer"])
def test_class_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ValueError, match="names no class of this version"):
        build({"class_path": f"speechkit.{path}"})


@pytest.mark.parametrize("init_args", [{"nope": 1}, {"num_mels": "many"}, {"sample_rate_hz": {}}, [1], {1: 2}])
def test_arguments_that_do_not_fit_are_refused(init_args: Any) -> None:
    with pytest.raises(ValueError, match=r"`init_args` of speechkit\.features\.MFB"):
        build({"class_path": "speechkit.features.MFB", "init_args": init_args})
