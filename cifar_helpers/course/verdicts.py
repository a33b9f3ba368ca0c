"""The table of hypotheses with which a notebook ends: a row of it, and the rows of the published notebooks."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from cifar_helpers._arguments import require, require_path
from cifar_helpers._storage import write_whole
from cifar_helpers.course.profiles import profile_rank

__all__ = ["describe_judged", "published_verdicts", "read_verdicts", "verdict", "write_published"]

_OUTCOMES = ("held", "failed", "not judged")
# What the published notebooks print, for those who have this package without them: `publish` writes it.
_PUBLISHED = Path(__file__).with_name("verdicts.json")
# The lowest profile and the data that a hypothesis needs, where that is less than the laptop profile and real data.
_NEEDS_LESS = {
    "1 validation beats training in epoch 1": ("quick", "real"),
    "2 random labels by heart": ("quick", "synthetic"),
    "3 the accuracy hides half of the bugs": ("quick", "real"),
}


def verdict(hypothesis: str, holds: bool, measured: str, *, judged: bool) -> tuple[str, str, str]:
    """Return the hypothesis, "held" or "failed", and what was measured, as a row for `tables.format_table`.

    Args:
        judged: whether data and budget are enough to judge; otherwise the row says "not judged", and in a second line
            what the published notebook found, if there is one.

    Raises:
        ValueError: `holds` is something else than True or False, such as a probability.
    """
    right = str(getattr(holds, "dtype", type(holds).__name__)) in ("bool", "torch.bool")  # also of NumPy and torch
    require(right, "holds", holds, "True or False")
    if judged:
        return hypothesis, "held" if holds else "failed", measured
    for name, outcome, found in (row for rows in published_verdicts().values() for row in rows):
        if name == hypothesis and outcome != "not judged":
            return hypothesis, f"not judged\npublished: {outcome}", f"{measured}\n{found}"
    return hypothesis, "not judged", measured


def describe_judged(notebooks: Iterable[str], profile: str, data_source: str) -> str:
    """Return a sentence on how many hypotheses of notebooks a profile can judge on such data; empty if it judges all.

    Args:
        notebooks: their names, such as "04_cnn"; one that is not published has no hypotheses.
        data_source: "real" or "synthetic".
    """
    published = published_verdicts()
    rows = [row for notebook in notebooks for row in published.get(notebook, [])]
    judged = sum(_can_judge(hypothesis, profile, data_source) for hypothesis, _, _ in rows)
    if judged == len(rows):
        return ""
    others = "beside the others stand the published verdicts" if judged else "beside each stands the published verdict"
    return f"The {profile} profile on {data_source} data judges {judged or 'none'} of {len(rows)} hypotheses; {others}."


def _can_judge(hypothesis: str, profile: str, data_source: str) -> bool:
    least, source = _NEEDS_LESS.get(hypothesis, ("laptop", "real"))
    return profile_rank(profile) >= profile_rank(least) and (data_source == "real" or source == "synthetic")


# --- what notebooks have printed ---


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


def published_verdicts() -> dict[str, list[tuple[str, str, str]]]:
    """Return by notebook what `read_verdicts` finds in the published ones, from a file that this package brings."""
    stored = json.loads(_PUBLISHED.read_text(encoding="utf-8"))
    return {
        name: [(hypothesis, outcome, found) for hypothesis, outcome, found in rows] for name, rows in stored.items()
    }


def write_published(notebooks: Path) -> Path:
    """Write the file of `published_verdicts` from the published notebooks in a folder; return its path.

    Raises:
        ValueError: `notebooks` is no path, or there is none in the folder; nothing was written.
    """
    require_path("notebooks", notebooks)
    found = {path.stem: read_verdicts(path) for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))}
    require(bool(found), "notebooks", notebooks, "the folder of the published notebooks")
    write_whole(_PUBLISHED, (json.dumps(found, ensure_ascii=False, indent=1) + "\n").encode())
    return _PUBLISHED
