"""Graphs of modules to look at before and after a pass: as a table, and as an SVG."""

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

from torch import fx

from speechkit.quantization.passes import linear_map

_WIDTH, _HEIGHT, _STEP, _MARGIN = 260, 34, 50, 90  # of a node, from node to node, and beside a column, in pixels
_COLOURS = {"placeholder": "#e8e8e8", "output": "#e8e8e8", "call_module": "#d7e7fb"}  # others are white


class _Row(NamedTuple):
    node: fx.Node
    does: str
    num_parameters: int


def _rows(graph: fx.GraphModule) -> list[_Row]:
    modules = dict(graph.named_modules())
    rows = []
    for node in graph.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        inner = module if module is None else (linear_map(module) or module)
        does = getattr(node.target, "__name__", str(node.target)) if module is None else type(module).__name__
        size = 0 if inner is None else sum(parameter.numel() for parameter in inner.parameters())
        rows.append(_Row(node, does if node.op != "output" else "output", size))
    return rows


def graph_table(graph: fx.GraphModule) -> str:
    """The graph as text, a line a node; print it before and after a pass."""
    rows = [("node", "does", "reads", "parameters")]
    for node, does, size in _rows(graph):
        rows.append((node.name, does, ", ".join(source.name for source in node.all_input_nodes), str(size or "")))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def draw_graphs(graphs: Mapping[str, fx.GraphModule], path: str | os.PathLike[str]) -> None:
    """Draws graphs side by side, a box a node from top to bottom; what skips nodes goes around them.

    Args:
        graphs: title -> graph, from left to right.
        path: of the SVG file.
    """
    columns, height = [], 0
    for place, (title, graph) in enumerate(graphs.items()):
        rows = _rows(graph)
        height = max(height, 40 + _STEP * len(rows))
        columns.append(_draw(title, rows, left=_MARGIN + place * (_WIDTH + 2 * _MARGIN)))
    width = len(graphs) * (_WIDTH + 2 * _MARGIN)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>'
        f'<rect width="{width}" height="{height}" fill="white"/>'
    )
    Path(path).write_text("\n".join([head, *columns, "</svg>"]) + "\n", encoding="utf-8")


def _draw(title: str, rows: list[_Row], *, left: int) -> str:
    tops = {row.node: 30 + _STEP * place for place, row in enumerate(rows)}
    right, middle = left + _WIDTH, left + _WIDTH // 2
    parts = [f'<text x="{middle}" y="18" text-anchor="middle" font-weight="bold">{escape(title)}</text>']
    for node, does, size in rows:
        top = tops[node]
        for source in node.all_input_nodes:
            start, steps = tops[source] + _HEIGHT, (top - tops[source]) // _STEP
            bend = right + min(20 + 8 * steps, _MARGIN - 10)
            shape = (
                f"M{middle} {start}V{top}"
                if steps == 1
                else f"M{right} {start - 10}C{bend} {start},{bend} {top},{right} {top + 10}"
            )
            parts.append(f'<path d="{shape}" fill="none" stroke="#555" marker-end="url(#arrow)"/>')
        label = f"{does}  ·  {size:,} parameters" if size else does
        parts.append(
            f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" stroke="#555" '
            f'fill="{_COLOURS.get(node.op, "white")}"/>'
            f'<text x="{middle}" y="{top + 14}" text-anchor="middle">{escape(label)}</text>'
            f'<text x="{middle}" y="{top + 28}" text-anchor="middle" font-size="10">{escape(node.name)}</text>'
        )
    return "\n".join(parts)
