"""Find the notebooks, and keep in order what executing them leaves; `execution` executes them."""

import contextlib
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from cifar_helpers.course._ownership import remove_own_files, require_own_file, require_own_folder

__all__ = [
    "FOLDERS",
    "NotebookResult",
    "check_output",
    "clear_output",
    "find_notebooks",
    "published_profile",
    "remove_traces",
]

FOLDERS = ("figures", "notebooks", "checkpoints")
_LOGS = ("runs.jsonl", "test_access.jsonl")


@dataclass(frozen=True)
class NotebookResult:
    """How the execution of one notebook went.

    Attributes:
        seconds: wall clock, kernel start included.
        peak_bytes: largest resident memory of the kernel seen, sampled four times a second.
        executed: path of the executed copy.
        error: None, or which cell failed and with what.
        source: content of the notebook that was executed.
    """

    name: str
    seconds: float
    peak_bytes: int
    executed: Path
    error: str | None
    source: bytes = field(repr=False)


def find_notebooks(folder: Path, only: str | None = None) -> list[Path]:
    """Return the numbered notebooks of a folder in order, or those whose name starts with `only`.

    Raises:
        ValueError: there are none.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(
            f"no notebooks in {folder.resolve()}: expected the folder notebooks/ of the repository "
            f"(git clone {_repository()}, then cd into it), or --notebooks FOLDER"
        )
    chosen = [path for path in found if path.name.startswith(only or "")]
    if not chosen:
        raise ValueError(f"only={only!r}: no such notebook in {folder}; expected a number such as 01")
    return chosen


def _repository() -> str:
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
    for file in (*logs, *(copies / path.name for path in paths), out / "report.html"):
        require_own_file(file)


def clear_output(out: Path, *, checkpoints: bool = False) -> None:
    """Remove the figures, logs, logits and ranks that this program wrote below `out`, so that all that is shown is new.

    Args:
        checkpoints: remove these as well.

    Raises:
        ValueError: a folder there was not made by this program; nothing was removed.
    """
    for name in FOLDERS:
        require_own_folder(out / name)
    remove_own_files(out / "figures", ("*.png", *_LOGS, "logits/*.safetensors", "ranks/*.safetensors"))
    if checkpoints:
        remove_own_files(out / "checkpoints", ("**/*.safetensors",))


def remove_traces(notebook: str, out: Path, environment: dict[str, str]) -> None:
    """Remove what an earlier execution of the same notebook, profile and data left."""
    name = escape(notebook)
    remove_own_files(out / "figures", (f"{escape(notebook.split('_')[0])}_*.png",))
    source, profile = (environment.get(variable, "") for variable in ("CIFAR_DATA", "CIFAR_PROFILE"))
    remove_own_files(out / "checkpoints", (f"{name}/{source}/{profile}/**/*.safetensors",))
    remove_own_files(out / "notebooks", (f"{name}.ipynb",))
