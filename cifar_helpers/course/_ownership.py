"""What this program made: a folder is known by the marker in it, a file by what stands inside.

Nothing else is ever removed or overwritten.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from cifar_helpers._arguments import require
from cifar_helpers._hashing import hash_json
from cifar_helpers._storage import name_kind, read_lines, write_whole

MARKER = ".made-by-cifar_helpers"
_NOTE = "cifar_helpers made this folder. A command of it removes and overwrites its own files here, and no others.\n"

# In the head of a report, and in the metadata of an executed notebook.
GENERATOR = "<meta name='generator' content='cifar_helpers'>"
EXECUTED = "cifar_helpers"

FIGURE_FACTS = frozenset({"title", "caption", "notebook", "profile", "device", "data_source"})
_LOG_FACTS = {
    "runs.jsonl": {"notebook", "name", "dataset", "data_source", "profile", "run_hash", "date"},
    "test_access.jsonl": {"kind", "purpose", "result", "date"},
    "progress.jsonl": {"run", "notebook", "state"},
}


# --- folders ---


def is_project(folder: Path) -> bool:
    """Return whether a folder is this repository: its figures/ is published, has no marker, and is never cleared."""
    return (folder / "pyproject.toml").is_file() and (folder / "cifar_helpers" / "course").is_dir()


def require_own_folder(folder: Path) -> None:
    """Raise a ValueError if there is something at this path that this program did not make; an empty folder will do."""
    if not folder.exists() or (folder / MARKER).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise ValueError(
            f"{folder} was not made by cifar_helpers (it holds no {MARKER}) and stays as it is: "
            "move it away, or choose another folder (--out, or CIFAR_OUT)"
        )


def claim_folder(folder: Path) -> None:
    """Make a folder with the marker in it, unless it is there.

    Raises:
        ValueError: there is something that this program did not make.
    """
    require_own_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARKER).exists():
        write_whole(folder / MARKER, _NOTE.encode())


# --- files ---


def require_name(name: str) -> None:
    """Raise a ValueError if a file of this name would lie elsewhere than in its folder or below it."""
    path = PureWindowsPath(name) if isinstance(name, str) else PureWindowsPath()  # knows both kinds of slashes
    inside = bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name
    require(inside, "name", name, "the name of a file inside its folder, such as 'cnn' or 'sweep/cnn'")


def is_own_file(path: Path) -> bool:
    """Return whether this program wrote a file, and, of a notebook, whether its cells are still the same."""
    recognise = _RECOGNISERS.get(path.suffix)
    return recognise is not None and path.is_file() and not path.is_symlink() and recognise(path)


def require_own_file(path: Path) -> None:
    """Raise a ValueError if there is a file at this path that this program did not write, or that was changed since."""
    if (path.exists() or path.is_symlink()) and not is_own_file(path):
        raise ValueError(
            f"{path} was not written by cifar_helpers, or was changed since, and stays as it is: "
            "move it away, or choose another folder (--out, or CIFAR_OUT)"
        )


def write_own(path: Path, content: bytes) -> None:
    """Write a file whole, where there is none or one that this program wrote.

    Raises:
        ValueError: there is another file; it is untouched.
    """
    require_own_file(path)
    write_whole(path, content)


def remove_own_files(folder: Path, patterns: Iterable[str]) -> None:
    """Remove those files that match a pattern, in a folder that this program made, and that it wrote itself."""
    require_own_folder(folder)
    for path in {path for pattern in patterns for path in folder.glob(pattern)}:
        inside = path.parent.resolve().is_relative_to(folder.resolve())  # not behind a link to elsewhere
        if inside and is_own_file(path):
            path.unlink()


# --- how a file is recognised ---


def read_figure_facts(path: Path) -> dict[str, str]:
    """Return what `Workspace.save_figure` wrote into a PNG; {} for any other file, or none."""
    if name_kind(path):
        return {}
    try:
        with Image.open(path) as image:
            facts = json.loads(image.info.get("Description", "{}"))
    except Exception:  # a broken picture raises any of a dozen
        return {}
    known = isinstance(facts, dict) and facts.keys() >= FIGURE_FACTS
    return facts if known and all(isinstance(value, str) for value in facts.values()) else {}


def digest_cells(cells: Iterable[dict[str, Any]]) -> str:
    """Return what identifies the cells that a person writes in a notebook: types, sources and attached pictures."""
    return hash_json([[cell["cell_type"], "".join(cell["source"]), cell.get("attachments", {})] for cell in cells])


def _is_figure(path: Path) -> bool:
    return bool(read_figure_facts(path))


def _is_log(path: Path) -> bool:
    """Return whether a file is the run log, the test-access log or the log of what was executed."""
    if path.name not in _LOG_FACTS:
        return False
    try:
        rows = read_lines(path)
        return all(row.keys() >= _LOG_FACTS[path.name] for row in rows) and bool(rows or not path.stat().st_size)
    except (OSError, ValueError):
        return False


def _is_tensors(path: Path) -> bool:
    """Return whether `_storage.save_tensors` wrote a file; its header alone is read."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).keys() >= {"about", "sha256"}
    except (OSError, SafetensorError):
        return False


def _is_executed_copy(path: Path) -> bool:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return notebook["metadata"][EXECUTED]["cells"] == digest_cells(notebook["cells"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_report(path: Path) -> bool:
    try:
        return GENERATOR.encode() in path.read_bytes()[:1000]
    except OSError:
        return False


_RECOGNISERS: dict[str, Callable[[Path], bool]] = {
    ".html": _is_report,
    ".ipynb": _is_executed_copy,
    ".jsonl": _is_log,
    ".png": _is_figure,
    ".previous": _is_tensors,
    ".safetensors": _is_tensors,
}
