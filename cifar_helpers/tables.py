"""Rows of values as an aligned table of text."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from numbers import Integral, Real

from cifar_helpers._arguments import require

__all__ = ["format_table"]


def format_table(rows: Iterable[Sequence[object]], columns: Sequence[str] = ()) -> str:
    """Return rows as lines of aligned columns: texts to the left, numbers to the right.

    Args:
        rows: of equal length. A float is shown with three digits after the point; pass a text for any other format.
            A text with line breaks makes a row of several lines.
        columns: their titles; none by default.

    Raises:
        ValueError: a row has another length than the first one or the titles, or is no row of values.
    """
    require(not isinstance(columns, str), "columns", columns, "several titles, such as ('network', 'accuracy')")
    require(isinstance(rows, Iterable) and not isinstance(rows, str), "rows", rows, "rows of values")
    values = [_to_list(row) for row in rows]
    table = ([list(columns)] if columns else []) + [[_show(value) for value in row] for row in values]
    for row in table:
        if len(row) != len(table[0]):
            raise ValueError(f"row {row} has {len(row)} columns; the first one has {len(table[0])}")
    right = [all(_is_number(value) for value in column) for column in zip(*values, strict=True)]
    right = right or [False] * len(columns)
    lines = [line for row in table for line in zip_longest(*(text.split("\n") for text in row), fillvalue="")]
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in lines
    )


def _to_list(row: Sequence[object]) -> list[object]:
    if isinstance(row, str) or not isinstance(row, Iterable):
        raise ValueError(f"row {row!r} is a {type(row).__name__}; expected its values, such as ('cnn', 0.9)")
    return list(row)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _show(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, Real) and not isinstance(value, Integral) else str(value)
