"""A built part <-> its description `{class_path, init_args}`, the same form that YAML uses.

Every part keeps each constructor argument in an attribute of the same name (scikit-learn's convention), so a
description needs nothing but the object. Building refuses classes from outside trusted packages: a description may
come from a stranger.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

TRUSTED_PACKAGES = (
    "speechkit.features",
    "speechkit.quantization",
    "speechkit.encoders",
    "speechkit.codebooks",
    "speechkit.heads",
    "speechkit.text",
)


def describe(part: object) -> dict[str, Any]:
    """The description from which `build` makes an equal part (weights apart).

    Raises:
        ValueError: a constructor argument is not kept in an attribute of the same name.
    """
    cls = type(part)
    init_args = {}
    for name, parameter in _constructor_parameters(cls).items():
        if not hasattr(part, name):
            raise ValueError(f"{cls.__name__} must keep its argument `{name}` in an attribute of that name.")
        value = getattr(part, name)
        if parameter.default is inspect.Parameter.empty or not _is_default(value, parameter.default):
            init_args[name] = _describe_value(value)
    return {"class_path": _public_path(cls), "init_args": init_args}


def build(description: Mapping[str, Any], *, trusted_packages: Sequence[str] = TRUSTED_PACKAGES) -> Any:
    """Imports the class and calls it with its arguments, nested descriptions first.

    Raises:
        ValueError: not a description, a class outside `trusted_packages`, or arguments the class refuses.
    """
    if not isinstance(description, Mapping):
        raise ValueError(f"`class_path` must stand in a mapping, got {description!r}.")
    path = description.get("class_path")
    if not isinstance(path, str) or "." not in path:
        raise ValueError(f"`class_path` must name a class as package.Class, got {path!r}.")
    if not _is_inside(path, trusted_packages):
        raise ValueError(f"`class_path` must lie in a trusted package ({', '.join(trusted_packages)}), got {path!r}.")
    module_name, class_name = path.rsplit(".", 1)
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise ValueError(f"`class_path` names no class of this version: {path!r}.") from None
    if not inspect.isclass(cls) or not _is_inside(cls.__module__, trusted_packages):
        raise ValueError(f"`class_path` must name a class of a trusted package, got {path!r}.")
    init_args = description.get("init_args") or {}
    if not isinstance(init_args, Mapping) or not all(isinstance(name, str) for name in init_args):
        raise ValueError(f"`init_args` of {path} must map names to values, got {init_args!r}.")
    try:
        return cls(**{name: _build_value(value, trusted_packages) for name, value in init_args.items()})
    except (
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        MemoryError,
    ) as error:  # values of a wrong kind
        raise ValueError(f"`init_args` of {path}: {' '.join(str(error).split())}") from None


def _constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Arguments of the constructor; where it hands `**options` on, those of the class above as well."""
    parameters: dict[str, inspect.Parameter] = {}
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        own = list(inspect.signature(vars(ancestor)["__init__"]).parameters.values())[1:]
        hands_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own)
        named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters |= {parameter.name: parameter for parameter in named if parameter.name not in parameters}
        if not hands_on:
            break
    return parameters


def _is_inside(path: str, packages: Sequence[str]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def _build_value(value: Any, trusted_packages: Sequence[str]) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return build(value, trusted_packages=trusted_packages)
    return [_build_value(item, trusted_packages) for item in value] if isinstance(value, list) else value


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _describe_value(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_describe_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _describe_value(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return describe(value)


def _public_path(cls: type) -> str:
    """speechkit.features.mfb.MFB -> speechkit.features.MFB: the path that survives a moved file."""
    package = ".".join(cls.__module__.split(".")[:2])
    public = getattr(importlib.import_module(package), cls.__qualname__, None)
    return f"{package if public is cls else cls.__module__}.{cls.__qualname__}"
