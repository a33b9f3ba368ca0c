"""Find the notebooks, and keep in order what executing them leaves; `execution` executes them."""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import torch

from cifar_helpers._arguments import require, require_path
from cifar_helpers._hashing import hash_json
from cifar_helpers._storage import PARTIALS, append_line, exclusive, read_lines, remove_abandoned
from cifar_helpers.course._ownership import (
    claim_folder,
    digest_cells,
    is_own_file,
    is_project,
    remove_own_files,
    require_own_file,
    require_own_folder,
)
from cifar_helpers.runtime import device_name, pick_device

__all__ = [
    "FOLDERS",
    "NotebookResult",
    "Progress",
    "check_output",
    "clear_output",
    "find_notebooks",
    "hold_output",
    "notebook_metadata",
    "published_profile",
    "remove_traces",
    "repository_address",
]

FOLDERS = ("figures", "notebooks", "checkpoints")
_LOGS = ("runs.jsonl", "test_access.jsonl")
_PROGRESS = "progress.jsonl"


@dataclass(frozen=True)
class NotebookResult:
    """How the execution of one notebook went.

    Attributes:
        seconds: wall clock, kernel start included.
        peak_bytes: largest resident memory of the kernel seen, sampled four times a second.
        executed: path of the executed copy.
        error: None, or which cell failed and with what.
        source: content of the notebook that was executed.
        interrupted: whether a person stopped it, which `error` says too.
    """

    name: str
    seconds: float
    peak_bytes: int
    executed: Path
    error: str | None
    source: bytes = field(repr=False)
    interrupted: bool = False


def find_notebooks(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Return the numbered notebooks of a folder in order, or those of them whose names begin as `only` says.

    Args:
        only: numbers, such as "1" or "01", names or paths.

    Raises:
        ValueError: there are none, or none for one of `only`.
    """
    require_path("folder", folder)
    numbered = isinstance(only, list | tuple) and all(isinstance(number, str) for number in only)
    require(numbered, "only", only, "numbers of notebooks as texts, such as ['01', '03']")
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(
            f"no notebooks in {folder.resolve()}: expected the folder notebooks/ of the repository "
            f"(git clone {repository_address()}, then cd into it), or --notebooks {_own_folder()}"
        )
    chosen = {number: [path for path in found if path.name.startswith(Path(number).name.zfill(2))] for number in only}
    for number, paths in chosen.items():
        if not paths:
            raise ValueError(
                f"--only {number}: no such notebook in {folder.resolve()}, which holds "
                f"{', '.join(path.stem for path in found)}: pass the number of one of them, or --notebooks FOLDER if "
                "those of the course are elsewhere"
            )
    return sorted({path for paths in chosen.values() for path in paths}) if only else found


def _own_folder() -> str:
    """Return the notebooks of the repository around this package, where there is one."""
    project = Path(__file__).resolve().parents[2]
    return str(project / "notebooks") if is_project(project) else "FOLDER"


def repository_address() -> str:
    """Return the address of the repository, as the installed package knows it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.metadata("cifar-helpers").get_all("Project-URL") or []:
            if line.startswith("Repository, "):
                return line.removeprefix("Repository, ")
    return "…"


def published_profile(path: Path) -> str:
    """Return the profile whose outputs a notebook holds, as its first cells print it; empty if it holds none."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r'"(\w+) profile, real data', text)
    return found[1] if found else ""


def notebook_metadata(name: str) -> dict[str, Any]:
    """Return the metadata of a notebook of this file name: its kernel, and that Colab gives it a GPU, a T4."""
    return {
        "accelerator": "GPU",
        "colab": {"gpuType": "T4", "name": name},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


# --- what an execution writes, and may remove ---


def check_output(out: Path, paths: Sequence[Path]) -> None:
    """Raise a ValueError if executing notebooks into `out` would touch what this program did not write.

    Args:
        out: gets the folders figures, notebooks and checkpoints, and report.html.
        paths: the notebooks.
    """
    copies = out / "notebooks"
    if any(path.resolve().parent == copies.resolve() for path in paths):
        raise ValueError(f"{copies} is the folder of the notebooks themselves: choose another folder with --out")
    for name in FOLDERS:
        require_own_folder(out / name)
    logs = [out / "figures" / name for name in _LOGS]
    for file in (*logs, copies / _PROGRESS, *(copies / path.name for path in paths), out / "report.html"):
        require_own_file(file)


def clear_output(out: Path, *, checkpoints: bool = False) -> None:
    """Remove the figures, logs, logits and ranks that this program wrote below `out`, so that all that is shown is new.

    What a killed process left half-written goes too.

    Args:
        checkpoints: remove these as well.

    Raises:
        ValueError: a folder there was not made by this program; nothing was removed.
    """
    for name in FOLDERS:
        require_own_folder(out / name)
        remove_abandoned(out / name, f"**/{PARTIALS}")
    remove_own_files(out / "figures", ("*.png", *_LOGS, "logits/*.safetensors", "ranks/*.safetensors"))
    remove_own_files(out / "notebooks", (_PROGRESS,))
    if checkpoints:
        remove_own_files(out / "checkpoints", ("**/*.safetensors", "**/*.safetensors.previous"))


def remove_traces(notebook: str, out: Path, environment: Mapping[str, str], *, checkpoints: bool = True) -> None:
    """Remove what an earlier execution of the same notebook, profile and data left.

    Args:
        checkpoints: remove these as well.
    """
    name = escape(notebook)
    remove_own_files(out / "figures", (f"{escape(notebook.split('_')[0])}_*.png",))
    remove_own_files(out / "notebooks", (f"{name}.ipynb",))
    if checkpoints:
        source, profile = (environment.get(variable, "") for variable in ("CIFAR_DATA", "CIFAR_PROFILE"))
        kept = f"{name}/{source}/{profile}/**/*.safetensors"
        remove_own_files(out / "checkpoints", (kept, f"{kept}.previous"))


@contextlib.contextmanager
def hold_output(out: Path) -> Iterator[None]:
    """Make the folders below `out`, and keep other runs out of them meanwhile.

    Raises:
        ValueError: a folder there was not made by this program, or another run writes there.
    """
    for name in FOLDERS:
        claim_folder(out / name)
    busy = f"another run writes to {out}: wait until it is over, or choose another folder with --out"
    with exclusive(out / "notebooks", busy):
        yield


# --- how far a run has come ---


class Progress:
    """Which notebooks a run has begun and executed whole, so that the same run goes on after it was killed.

    It is the same run if cells, variables, code of the package, versions and device are the same.

    Args:
        out: whose folder notebooks keeps the executed copies, and the lines of what was done.
        paths: the notebooks of the run.
        variables: of the environment, that their kernels get.
    """

    def __init__(self, out: Path, paths: Sequence[Path], variables: Mapping[str, str]) -> None:
        self.copies = out / "notebooks"
        cells = {path.name: _digest(path) for path in paths}
        machine = [device_name(pick_device()), torch.__version__, platform.python_version()]
        self.run = hash_json([cells, dict(variables), _digest_package(), machine])
        rows = [row for row in read_lines(self.copies / _PROGRESS) if row["run"] == self.run]
        over = max((i for i, row in enumerate(rows) if row["state"] == "over"), default=-1)
        self._rows = {(row["state"], row["notebook"]): row for row in rows[over + 1 :]}

    def __bool__(self) -> bool:
        """Whether the run was begun and is not over."""
        return bool(self._rows)

    def begun(self, notebook: str) -> bool:
        return ("begun", notebook) in self._rows

    def result(self, path: Path) -> NotebookResult | None:
        """Return the result of a notebook that was executed whole and whose copy is still there, else None."""
        row, copy = self._rows.get(("done", path.stem)), self.copies / path.name
        if row is None or not is_own_file(copy) or _digest(copy) != _digest(path):
            return None
        return NotebookResult(path.stem, row["seconds"], row["peak_bytes"], copy, None, path.read_bytes())

    def note(self, state: str, notebook: str = "", **facts: float) -> None:
        """Add what has happened: a notebook was "begun" or is "done", or the run is "over"."""
        row = {"run": self.run, "notebook": notebook, "state": state, **facts}
        append_line(self.copies / _PROGRESS, row)
        self._rows[state, notebook] = row


def _digest(path: Path) -> str:
    """Return what identifies the cells of a notebook; outputs do not count.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        return digest_cells(json.loads(path.read_text(encoding="utf-8"))["cells"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook of format 4 ({error!r})") from error


def _digest_package() -> str:
    """Return what identifies the code of this package."""
    files = sorted(Path(__file__).resolve().parents[1].rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
