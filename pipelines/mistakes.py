"""What is wrong with a recipe, in one line: the key, the rule, the value, the file, and what may have been meant."""

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import lightning

from speechkit.data.datamodule import SpeechDataModule
from speechkit.pipelines.recipes import read_recipe


def one_line(error: Exception) -> str:
    """The reason at the heart of jsonargparse's message: the key, the class or the value, and the rule."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    key = re.search(r'Parser key "([^"]+)"', text)
    *_, inner = text.split("Problem with given class_path '")
    problem = re.match(r"([^']+)': (.*?)(?= - | Given value|$)", inner)
    expected = re.findall(r"Expected a <class '(\w+)'>", text)
    value = re.search(r"(?:Given|Got) value: (.*)$", text)
    if key and problem and inner != text:
        return f"{key[1]}: {problem[1]}: {problem[2]}"
    if key and expected and value:
        return f"{key[1]} must be {' or '.join(expected).replace('NoneType', 'null')}, got {value[1]}"
    return text if len(text) <= 400 else text[:200] + " ... " + text[-180:]


def describe_mistake(error: Exception, task_class: type[Any], recipes: Sequence[Path]) -> str:
    """`one_line`; of a key that is not known also the files that hold it and the key that is most like it."""
    line = one_line(error)
    groups = {"trainer": lightning.Trainer, "model": task_class, "data": SpeechDataModule}
    if argument := re.search(r"unrecognized arguments: --([\w.+]+)", line):
        key = argument[1]
        keys = [f"{group}.{name}" for group, owner in groups.items() for name in _parameters(owner)]
        ends = [known for known in keys if known.endswith(f".{key}")]
        return f"{key}: no such key{_meant(ends or difflib.get_close_matches(key, keys, n=1))}"
    wrong = re.search(r"Group '(?P<owner>[\w.]+)' does not accept option '(?P<key>[\w.]+)'", line) or re.search(
        r"(?P<owner>[\w.]+): Option '(?P<key>[\w.]+)' is not accepted", line
    )
    if wrong is None:
        return line
    owner = groups.get(wrong["owner"]) or locate(wrong["owner"])
    holders = [str(path) for path in recipes if wrong["key"] in _keys_of(read_recipe(path))]
    where = f" ({', '.join(holders)})" if holders else ""
    return f"{line}{where}{_meant(difflib.get_close_matches(wrong['key'], _parameters(owner), n=1))}"


def _meant(keys: list[str]) -> str:
    return f"; did you mean {keys[0]}?" if keys else ""


def _parameters(owner: Any) -> list[str]:
    return list(inspect.signature(owner).parameters) if callable(owner) else []


def _keys_of(values: Any) -> Iterable[str]:
    """Every key in nested mappings and lists."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield str(key)
            yield from _keys_of(value)
    elif isinstance(values, list):
        for value in values:
            yield from _keys_of(value)
