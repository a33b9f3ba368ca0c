"""Which numbers in the prose of a notebook stand in its outputs, and which do not."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Unsupported", "unsupported_numbers"]

# Written before the run, or about what others found and what the reader will find.
_EXEMPT = ("Hypothes", "Exercises", "References", "Next", "Budget", "Setup", "Question")
_NUMBER = re.compile(r"(?<![\w.,/#-])[−-]?\d[\d,]*(?:\.\d+)?(?![\w/]|\.\d)|(?<![\w.,])\.\d+(?!\w)")
# What is no finding: code, formulas, links, headings, folded answers, names such as "notebook 03", years of citations.
_NO_FINDING = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|<details>.*?</details>|^#.*$|\[[^\]]*\]\([^)]*\)|"
    r"(?:[Nn]otebooks?|[Ss]ections?|[Ee]xercises?|CIFAR-|ResNet-|VGG-)\s?\d+(?:\s?(?:,|and|to)\s?\d+)*|"
    r"(?<=[(, ])(?:19|20)\d\d(?=[);])",
    re.DOTALL | re.MULTILINE,
)


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
    """
    parameters = [_text(cell) for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    found = []
    for heading, cells in _sections(notebook["cells"]):
        if heading.startswith(_EXEMPT):
            continue
        known = [float(n) for text in (*parameters, *map(_outputs, cells)) for n in _numbers(text)]
        behind = itertools.dropwhile(lambda cell: not cell.get("outputs"), cells)
        for cell in (cell for cell in behind if cell["cell_type"] == "markdown"):
            for sentence in _sentences(_text(cell)):
                missing = [n for n in _numbers(_NO_FINDING.sub(" ", sentence)) if not _is_known(n, known)]
                found += [Unsupported(heading, number, sentence) for number in missing]
    return found


def _sections(cells: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each level-2 heading with the cells from it to the next."""
    heading, members = "", []
    for cell in cells:
        title = re.match(r"## (.+)", _text(cell)) if cell["cell_type"] == "markdown" else None
        if title:
            yield heading, members
            heading, members = title[1], []
        members.append(cell)
    yield heading, members


def _text(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


def _outputs(cell: Mapping[str, Any]) -> str:
    """Return what a cell printed, and the text form of what it showed."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return "\n".join("".join(part) for part in parts)


def _sentences(text: str) -> list[str]:
    """Return the sentences and the lines of tables and lists, without ordinals and without those that hold a link."""
    text = re.sub(r"^\s*\d+\.\s", "- ", text, flags=re.MULTILINE)
    joined = re.sub(r"\n(?![\n*|#>-]|\d+\. )", " ", text)
    pieces = re.split(r"\n|(?<=[.!?:])\s+(?=[A-Z*\[])", joined)
    return [piece.strip() for piece in pieces if piece.strip() and "](" not in piece]


def _numbers(text: str) -> list[str]:
    """Return the numbers in a text, without thousands separators."""
    return [match.replace(",", "").replace("−", "-") for match in _NUMBER.findall(text)]


def _is_known(number: str, known: list[float]) -> bool:
    """Return whether a known number, or a hundred times it, rounds to this one."""
    digits = len(number.partition(".")[2])
    value = abs(float(number))
    unit = 10.0**-digits
    return any(abs(abs(factor * other) - value) <= unit / 2 + 1e-9 for other in known for factor in (1, 100))
