"""The table of hypotheses with which a notebook ends: a row of it, and all rows that a notebook has printed."""

import re
from collections.abc import Iterable
from pathlib import Path

from cifar_helpers._arguments import require, require_path

__all__ = ["read_verdicts", "verdict"]

_OUTCOMES = ("held", "failed", "not judged")


def verdict(hypothesis: str, holds: bool, measured: str, *, judged: bool) -> tuple[str, str, str]:
    """Return the hypothesis, "held" or "failed", and what was measured, as a row for `tables.format_table`.

    Args:
        judged: whether data and budget are enough to judge; otherwise the row says "not judged".

    Raises:
        ValueError: `holds` is something else than True or False, such as a probability.
    """
    right = str(getattr(holds, "dtype", type(holds).__name__)) in ("bool", "torch.bool")  # also of NumPy and torch
    require(right, "holds", holds, "True or False")
    outcome = "held" if holds else "failed"
    return hypothesis, outcome if judged else "not judged", measured


def read_verdicts(path: Path) -> list[tuple[str, str, str]]:
    """Return hypothesis, outcome and what was measured, of each row that the stored outputs of a notebook show.

    Raises:
        ValueError: `path` is no path.
    """
    import nbformat  # here, because the library is used without Jupyter

    require_path("path", path)
    cells = nbformat.read(path, as_version=4).cells
    texts = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    return [row for text in texts for row in _rows(text.splitlines())]


def _rows(lines: list[str]) -> Iterable[tuple[str, str, str]]:
    """Yield the rows below the line of titles, whose places are those of the columns."""
    places: tuple[int, int] | None = None
    for line in lines:
        titles = re.match(r"hypothesis\s+(outcome\s+)", line)
        if titles:
            places = titles.start(1), titles.end(1)
        elif places and line[slice(*places)].strip() in _OUTCOMES:
            yield line[: places[0]].strip(), line[slice(*places)].strip(), line[places[1] :].strip()
