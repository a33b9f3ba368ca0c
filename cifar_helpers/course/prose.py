"""Which numbers in the prose of a notebook stand in its outputs, and which do not."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cifar_helpers._arguments import require

__all__ = ["Unsupported", "unsupported_numbers"]

# Sections that are written before the run, or that say nothing about it.
_EXEMPT = ("Question", "Hypothes", "Budget", "Setup", "Exercises", "References", "Next")
_NUMBER = re.compile(
    r"(?<![\w.])[−-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?(?![\w⁰¹²³⁴-⁹⁻]|\.\d)"
)
# Parts of a text whose numbers are no findings: code, formulas and folded answers; headings; names; years of citations.
_BLOCKS = re.compile(r"```.*?```|\$\$.*?\$\$|<details>.*?</details>", re.DOTALL)
_PARTS = re.compile(
    r"^#.*$|^\s*\d+\.\s|`[^`]*`|\$[^$\n]*\$|\b(?:CIFAR|ResNet|VGG)-\d+|"
    r"\b(?:[Nn]otebook|[Ss]ection|[Ee]xercise|[Hh]ypothes[ie])s?\s\d+"
    r"(?:(?:, (?=\d+(?:, | and ))| and | to )\d+)*(?!\.\d)|"
    r"(?<=[(, ])(?:19|20)\d\d(?=[);])",
    re.MULTILINE,
)
_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")
_LINKED = "\0"


@dataclass(frozen=True)
class Unsupported:
    """A number that no output of its section shows.

    Attributes:
        section: the heading that it stands under.
        sentence: that it stands in.
    """

    section: str
    number: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.section}: {self.number!r} is in no output of this section: {self.sentence}"


def unsupported_numbers(notebook: Mapping[str, Any]) -> list[Unsupported]:
    """Return every number in the prose behind an output that no output of the same section shows.

    A number may be rounded, and a fraction may stand as a percentage. Numbers in the cell tagged `parameters` and in a
    sentence with a link count as known. Not looked at are those in code, in formulas and in names such as "notebook
    03", and the sections with hypotheses, exercises and references.

    Args:
        notebook: as read from its file, in format 4.

    Raises:
        ValueError: it is none.
    """
    read = isinstance(notebook, Mapping) and "cells" in notebook
    require(read, "notebook", notebook, "a notebook of format 4, as json.load reads it")
    tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    parameters = [number for cell in tagged for number in _numbers("".join(cell["source"]))]
    found = []
    for heading, parts in _sections(notebook["cells"]):
        known = [float(n) for n in (*parameters, *(n for part in parts for n in _numbers(part.printed)))]
        behind = itertools.dropwhile(lambda part: not part.has_output, parts)
        for sentence in (s for part in behind for s in _sentences(part.prose) if not heading.startswith(_EXEMPT)):
            percent = "%" in sentence or "point" in sentence
            missing = [n for n in _numbers(sentence) if not _is_known(n, known, percent)]
            found += [Unsupported(heading, number, sentence) for number in missing]
    return found


@dataclass(frozen=True)
class _Part:
    """A cell, or the part of a markdown cell that lies in one section."""

    prose: str = ""
    printed: str = ""
    has_output: bool = False


def _sections(cells: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[_Part]]]:
    """Yield each level-2 heading with what stands under it."""
    heading, parts = "", []
    for cell in cells:
        if cell["cell_type"] == "code":
            parts.append(_Part(printed=_printed(cell), has_output=bool(cell.get("outputs"))))
            continue
        for text in re.split(r"^(?=## )", "".join(cell["source"]), flags=re.MULTILINE):
            if text.startswith("## "):
                yield heading, parts
                heading, parts = text.partition("\n")[0].removeprefix("## "), []
            parts.append(_Part(prose=text))
    yield heading, parts


def _printed(cell: Mapping[str, Any]) -> str:
    """Return what a cell printed, and the text form of what it showed."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return "\n".join("".join(part) for part in parts)


def _sentences(text: str) -> list[str]:
    """Return the sentences and the lines of tables and lists that may hold findings, without those with a link."""
    text = _PARTS.sub(" ", _LINK.sub(_LINKED, _BLOCKS.sub(" ", text)))
    joined = re.sub(r"\n(?![\n*|>-])", " ", text)
    pieces = re.split(r"\n|(?<=[.!?])\s+(?=[A-Z0-9*\0])|(?<=:)\s+(?=[A-Z*\0])", joined)
    return [piece.strip() for piece in pieces if piece.strip() and _LINKED not in piece]


def _numbers(text: str) -> list[str]:
    """Return the numbers in a text as float reads them."""
    text = re.sub(r"(?<=\d)_(?=\d)", "", text)
    return [match.replace(",", "").replace("−", "-") for match in _NUMBER.findall(text) if match]


def _is_known(number: str, known: Iterable[float], percent: bool) -> bool:
    """Return whether a known number rounds to this one, or its hundredfold where percentages are spoken of.

    A number without a sign may be the size of a negative one.
    """
    value, digits = float(number), len(re.sub(r"e.*", "", number).partition(".")[2])
    tolerance = 10.0**-digits / 2 + 1e-9 if "e" not in number else abs(value) / 100
    return any(
        abs((factor * other if number.startswith("-") else abs(factor * other)) - value) <= tolerance
        for other in known
        for factor in ((1, 100) if percent else (1,))
    )
