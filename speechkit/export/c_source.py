"""What all C exports share: constant arrays, the sources that are the same for every model, the folder they go to."""

import textwrap
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np

_TYPES = {"float32": "float"}


def c_array(name: str, table: np.ndarray, comment: str = "") -> str:
    """`static const TYPE speechkit_NAME[...] = {...};` of integers or float32, which are written exactly (as hex)."""
    dimensions = "".join(f"[{size}]" for size in table.shape)
    rows = [table] if table.ndim == 1 else list(table)
    texts = [
        textwrap.fill(", ".join(_numbers(row)), 100, initial_indent="    ", subsequent_indent="    ") for row in rows
    ]
    inside = texts[0] if table.ndim == 1 else ",\n".join(f"    {{\n{text}\n    }}" for text in texts)
    c_type = _TYPES.get(str(table.dtype), f"{table.dtype}_t")
    note = f"/* {comment} */\n" if comment else ""
    return f"{note}static const {c_type} speechkit_{name}{dimensions} = {{\n{inside}\n}};\n"


def copy_sources(names: Iterable[str], out: Path) -> None:
    """Files of speechkit/export/c, as they are."""
    for name in names:
        source = resources.files("speechkit.export").joinpath("c", name).read_text(encoding="utf-8")
        (out / name).write_text(source, encoding="utf-8")


def refuse_used_folder(out_dir: str | Path, *, overwrite: bool) -> Path:
    """Raises ValueError where something stands in the way; the folder is not made yet."""
    out = Path(out_dir)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise ValueError(f"`out_dir` must be new or empty unless `overwrite` is true, got {out}.")
    return out


def _numbers(row: np.ndarray) -> list[str]:
    if row.dtype == np.float32:
        return [f"{float(value).hex()}f" for value in row]
    return list(map(str, row.tolist()))
