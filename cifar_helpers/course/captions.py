"""What the pictures of a notebook show, in words for those who do not see them."""

import ast
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cifar_helpers._arguments import require
from cifar_helpers.course._ownership import read_figure_facts

__all__ = ["add_alt_texts", "as_sentence", "saved_figures"]


def saved_figures(source: str) -> dict[str, str]:
    """Return the captions of the figures that a cell saves, by the name of the figure, in the order of its calls.

    Args:
        source: of the cell, in which `save_figure` gets name and caption as texts, or as variables that the cell itself
            sets to texts.

    Raises:
        ValueError: `source` is no text.
    """
    require(isinstance(source, str), "source", source, "the source of a cell")
    with contextlib.suppress(SyntaxError):  # a command for IPython
        nodes = list(ast.walk(ast.parse(source)))
        texts = {
            target.id: node.value
            for node in nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        calls = [node for node in nodes if isinstance(node, ast.Call) and _is_save(node)]
        calls.sort(key=lambda call: (call.lineno, call.col_offset))  # a walk goes by depth
        return {_text(call.args[1], texts): _text(call.args[2], texts) for call in calls}
    return {}


def as_sentence(title: str) -> str:
    """Return a title with a full stop behind it, unless it ends in another mark or there is none.

    Raises:
        ValueError: `title` is no text.
    """
    require(isinstance(title, str), "title", title, "a text")
    return title if title.endswith((".", "?", "!")) or not title else f"{title}."


def _is_save(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "save_figure" and len(call.args) == 3


def _text(node: ast.expr, texts: dict[str, ast.expr]) -> str:
    """Return the text that an expression stands for; empty if it is not plain to see."""
    node = texts.get(node.id, node) if isinstance(node, ast.Name) else node
    return str(node.value) if isinstance(node, ast.Constant) else ""


def add_alt_texts(cells: Iterable[Any], number: str = "", figures: Path | None = None) -> None:
    """Give the stored pictures of a notebook, where they have none, an alternative text in their metadata.

    It is title and caption of the figure that the cell saved, or the caption alone, as it stands in the cell.

    Args:
        cells: of a notebook in format 4; they are changed.
        number: of the notebook, such as "04", with which the names of its figures begin.
        figures: the folder in which they were saved; None if they may not be those that the notebook shows.
    """
    for cell in cells:
        saved = saved_figures(cell["source"])
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        if len(pictures) != len(saved):
            continue  # which of them is which nobody knows
        for picture, (name, caption) in zip(pictures, saved.items(), strict=True):
            facts = read_figure_facts(figures / f"{number}_{name}.png") if figures else {}
            text = f"{as_sentence(facts['title'])} {caption}" if facts.get("caption") == caption else caption
            picture.setdefault("metadata", {}).setdefault("image/png", {}).setdefault("alt", text)
