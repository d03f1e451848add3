"""What a recipe can switch on: the callbacks and waveform perturbations of speechkit, found by looking at them."""

import inspect
import re
from typing import Any, NamedTuple

import lightning
import yaml

import speechkit.audio
import speechkit.callbacks
import speechkit.data


class PlugIn(NamedTuple):
    """A class that a recipe can name.

    Attributes:
        name: of the class.
        kind: "callback" or "perturbation".
        package: where a recipe finds it.
        summary: how its docstring begins.
        help: its whole docstring.
        parameters: name -> default, `inspect.Parameter.empty` where there is none.
    """

    name: str
    kind: str
    package: str
    summary: str
    help: str
    parameters: dict[str, Any]

    @property
    def signature(self) -> str:
        """The parameters in one line, with their defaults."""
        return ", ".join(
            name if _is_required(value) else f"{name}={value!r}" for name, value in self.parameters.items()
        )

    @property
    def overlay(self) -> str:
        """YAML that adds it to a recipe, with every parameter at its default."""
        section, name = {"callback": ("trainer", "callbacks"), "perturbation": ("data", "perturbations")}[self.kind]
        lines = [f"{section}:", f"  {name}+:", f"    - class_path: {self.package}.{self.name}"]
        if self.parameters:
            lines.append("      init_args:")
        return "\n".join([*lines, *(f"        {name}: {_as_yaml(value)}" for name, value in self.parameters.items())])


def list_plug_ins() -> list[PlugIn]:
    """All of them: callbacks, then perturbations, by name."""
    found = []
    for package, base, kind in (
        (speechkit.callbacks, lightning.Callback, "callback"),
        (speechkit.audio, speechkit.audio.Perturbation, "perturbation"),
        (speechkit.data, speechkit.audio.Perturbation, "perturbation"),
    ):
        classes = [getattr(package, name) for name in sorted(package.__all__)]
        found += [
            _describe(cls, kind, package.__name__)
            for cls in classes
            if isinstance(cls, type) and issubclass(cls, base) and not _is_abstract(cls)
        ]
    return found


def find_plug_in(name: str) -> PlugIn:
    """The one of that name, whatever its case.

    Raises:
        ValueError: there is none; the message lists them.
    """
    plug_ins = list_plug_ins()
    for plug_in in plug_ins:
        if plug_in.name.lower() == name.lower():
            return plug_in
    raise ValueError(f"{name}: no such callback; there are: {', '.join(plug_in.name for plug_in in plug_ins)}")


def _describe(cls: type, kind: str, package: str) -> PlugIn:
    text = inspect.getdoc(cls) or ""
    summary = re.split(r" \((?=[A-Z])|[.:;](?:\s|$)", " ".join(text.split("\n\n", 1)[0].split()))[0]
    parameters = inspect.signature(cls).parameters.values()
    named = [part for part in parameters if part.kind not in (part.VAR_POSITIONAL, part.VAR_KEYWORD)]
    return PlugIn(cls.__name__, kind, package, summary, text, {part.name: part.default for part in named})


def _is_abstract(cls: type) -> bool:
    return any(getattr(member, "__isabstractmethod__", False) for _, member in inspect.getmembers(cls))


def _is_required(value: Any) -> bool:
    return value is inspect.Parameter.empty


def _as_yaml(value: Any) -> str:
    if _is_required(value):
        return "...  # required"
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
