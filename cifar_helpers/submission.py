"""The file that a competition asks for: written whole, checked row by row, and scored with the hidden labels.

Predictions are joined with ids, never with positions.
"""

import csv
import io
import re
from collections import Counter
from pathlib import Path

import torch

from cifar_helpers._arguments import require, require_path, require_whole
from cifar_helpers._storage import name_kind, write_whole

__all__ = ["HEADER", "check_submission", "score_submission", "write_submission"]

HEADER = ("Id", "Prediction1")
_BOM = b"\xef\xbb\xbf"


def write_submission(
    path: str | Path,
    ids: torch.Tensor,
    predicted: torch.Tensor,
    num_classes: int,
    *,
    count: int = 10_000,
    header: tuple[str, str] = HEADER,
) -> Path:
    """Write one row for each id, in the order of the ids, and return the path; an old submission is replaced whole.

    Args:
        ids: int64 (N,), every number from 0 to count - 1 once, in any order.
        predicted: int64 (N,), the class of each.

    Raises:
        ValueError: ids are missing or doubled, predictions are no class numbers, or the path is that of a file which
            does not begin with the header; nothing was written.
    """
    _check_arguments(path, num_classes, count, header)
    path = Path(path)
    for name, values in (("ids", ids), ("predicted", predicted)):
        require(isinstance(values, torch.Tensor), name, values, _CLASSES)
        require(values.dtype == torch.int64, name, values.dtype, "torch.int64: values.long()")
        require(values.shape == (count,), name, tuple(values.shape), f"({count},), one for each image")
    wrong = torch.nonzero(ids.sort().values != torch.arange(count)).flatten()
    require(len(wrong) == 0, "ids", f"sorted, at place {wrong[:1].tolist()}", f"each of 0 to {count - 1} once")
    wrong = torch.nonzero((predicted < 0) | (predicted >= num_classes)).flatten()
    require(len(wrong) == 0, "predicted", predicted[wrong[:1]].tolist(), f"0 to {num_classes - 1}")
    _refuse_foreign(path, header)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(header)
    rows.writerows(zip(range(count), predicted[ids.argsort()].tolist(), strict=True))
    write_whole(path, text.getvalue().encode())
    return path


_CLASSES = "a tensor of torch.int64, of shape (N,)"


def _check_arguments(path: object, num_classes: object, count: object, header: object) -> None:
    require_path("path", path)
    kind = name_kind(Path(path))  # type: ignore[arg-type]  # it is a path
    require(not kind, "path", str(path), f"a file; this is {kind}")
    require_whole("num_classes", num_classes)
    require_whole("count", count)
    two = isinstance(header, list | tuple) and len(header) == 2 and all(isinstance(title, str) for title in header)
    require(two, "header", header, f"two titles, such as {HEADER}")


def _refuse_foreign(path: Path, header: tuple[str, str]) -> None:
    """Raise a ValueError if there is a file and its first line is not the header: it is no submission of ours."""
    if not path.exists():
        return
    with path.open("rb") as file:
        lines = _read_rows(file.readline())
    expected = ",".join(header)
    allowed = f"this file does not begin with {expected!r} and is not overwritten; choose another path"
    require(lines[:1] == [list(header)], "path", str(path), allowed)


def check_submission(
    path: str | Path, num_classes: int, *, count: int = 10_000, header: tuple[str, str] = HEADER
) -> list[str]:
    """Return every fault of a submission file, each with its line; an empty list is a file that can be handed in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is that of a folder or a device.
    """
    _check_arguments(path, num_classes, count, header)
    content = Path(path).read_bytes()
    faults = ["line 1: begins with a byte order mark; save as UTF-8 without BOM"] * content.startswith(_BOM)
    if b"\r" in content:
        line = content[: content.index(b"\r")].count(b"\n") + 1
        faults.append(f"line {line}: ends in CR, as on Windows; expected LF alone")
    lines = _read_rows(content)
    if not lines or tuple(lines[0]) != tuple(header):
        faults.append(f"line 1: the header is {','.join(lines[0]) if lines else ''!r}; expected {','.join(header)!r}")
    ids = []
    for number, cells in enumerate(lines[1:], start=2):
        faults += [f"line {number}: {fault}" for fault in _row_faults(cells, num_classes, count)]
        ids += [(number, int(cells[0]))] if cells and _is_whole(cells[0]) else []
    return faults + _id_faults(ids, count, len(lines) + 1)


def _read_rows(content: bytes) -> list[list[str]]:
    """Return the cells of every line, each line by itself: a quote that is never closed spoils no other."""
    text = content.removeprefix(_BOM).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    return [_read_cells(line) for line in (lines[:-1] if lines[-1] == "" else lines)]


def _read_cells(line: str) -> list[str]:
    """Return the cells of a line; one that is no CSV is a cell by itself."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return [line]


def _row_faults(cells: list[str], num_classes: int, count: int) -> list[str]:
    """Return what is wrong with the cells of one row."""
    if len(cells) != 2:
        return [f"has {len(cells)} cells; expected an id and a class"]
    limits = (("id", count), ("class", num_classes))
    found = []
    for (what, limit), cell in zip(limits, cells, strict=True):
        if not _is_whole(cell):
            found.append(f"the {what} is {cell!r}; expected a whole number")
        elif not 0 <= int(cell) < limit:
            found.append(f"the {what} is {cell}; expected 0 to {limit - 1}")
    return found


def _is_whole(cell: str) -> bool:
    """Return whether a cell holds nothing but a whole number in plain digits, as anyone would write it."""
    return re.fullmatch(r"0|-?[1-9][0-9]{0,8}", cell) is not None


def _id_faults(ids: list[tuple[int, int]], count: int, end: int) -> list[str]:
    """Return which ids are doubled or missing, and where their order breaks.

    Args:
        ids: (line, id) of all rows.
        end: the line after the last.
    """
    numbers = [i for _, i in ids]
    times = Counter(numbers)
    lines = {i: line for line, i in reversed(ids)}
    faults = [f"line {line}: id {i} is doubled, first on line {lines[i]}" for line, i in ids if line != lines[i]]
    missing = [i for i in range(count) if i not in times]
    faults += [f"line {end}: the file ends without id {i}" for i in missing]
    falls = [line for (line, i), (_, before) in zip(ids[1:], ids[:-1], strict=True) if i < before]
    if falls:
        text = numbers == sorted(numbers, key=str)
        how = "are sorted as text (0, 1, 10, 100, …)" if text else "do not rise"
        faults.append(f"line {falls[0]}: the ids {how}; a scorer that goes by position would mix up the images")
    return faults


def score_submission(
    path: str | Path, labels: torch.Tensor, num_classes: int, *, header: tuple[str, str] = HEADER
) -> float:
    """Return the accuracy of a submission against the key: `labels` (N,) of the images 0 to N - 1.

    Raises:
        ValueError: the labels are hidden, or the file has faults, with the first of them.
    """
    require(isinstance(labels, torch.Tensor), "labels", labels, _CLASSES)
    require(bool(labels.any()), "labels", "all zero", "hidden labels are no key: an accuracy on them means nothing")
    faults = check_submission(path, num_classes, count=len(labels), header=header)
    if faults:
        raise ValueError(f"{path} has {len(faults)} faults: {'; '.join(faults[:3])}")
    predicted = {int(i): int(c) for i, c in _read_rows(Path(path).read_bytes())[1:]}
    return sum(predicted[i] == label for i, label in enumerate(labels.tolist())) / len(labels)
