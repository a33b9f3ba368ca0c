"""JupyterLab on copies of the notebooks: what a reader runs and changes there leaves the repository as it is."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_helpers._storage import append_line, read_lines, write_whole
from cifar_helpers.course._ownership import claim_folder, is_project
from cifar_helpers.course.workspace import home_folder

__all__ = ["copy_notebooks", "open_lab", "require_lab"]

# In the folder of the copies: what each was when it was made, one line a copy; the newest line of a name counts.
_LOG = ".copies.jsonl"

# A link to a page in another folder of the repository; `../README.md`, the contents, becomes that of the notebooks.
_UPWARDS = re.compile(rb"\]\(\.\./([\w/]*?)(\w+\.md)")


def copy_notebooks(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Copy notebooks, and the pages they link to, into a folder, and return the copies that are behind their sources.

    A copy that a reader has changed stays as it is, for ever; one that nobody has changed follows its source.

    Raises:
        ValueError: the folder holds something, and this program did not make it.
    """
    claim_folder(folder)
    made = {row["name"]: row["sha256"] for row in read_lines(folder / _LOG)}
    behind = []
    for source in [*sources, *_find_pages(sources)]:
        copy, content = folder / source.name, _UPWARDS.sub(rb"](\2", source.read_bytes())
        known, wanted = made.get(copy.name), hashlib.sha256(content).hexdigest()
        if copy.exists() and known == wanted:
            continue
        if copy.exists() and hashlib.sha256(copy.read_bytes()).hexdigest() not in (known, wanted):
            behind.append(copy)
            continue
        write_whole(copy, content)
        append_line(folder / _LOG, {"name": copy.name, "sha256": wanted})
    return behind


def _find_pages(sources: Sequence[Path]) -> list[Path]:
    """Return the pages beside the notebooks, and those elsewhere in the repository that they link to."""
    beside = {page.name: page for source in sources for page in source.parent.glob("*.md")}
    linked = {
        name.decode(): source.parent.parent / folder.decode() / name.decode()
        for source in sources
        for folder, name in _UPWARDS.findall(source.read_bytes())
    }
    return [page for page in (linked | beside).values() if page.is_file()]


def require_lab() -> None:
    """Raise a ValueError that says how to install JupyterLab, if it is missing."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise ValueError("JupyterLab is not installed: pip install 'cifar-helpers[notebooks]'")


def open_lab(target: Path, environment: Mapping[str, str], options: Sequence[str] = ()) -> int:
    """Run JupyterLab until it is shut down, and return its exit status; its kernels find the package.

    Ctrl-C is JupyterLab's, which asks before it stops.

    Args:
        target: a folder, or a notebook that is opened at once.
        environment: variables added to those of this process.
        options: of `jupyter lab`, such as --no-browser.

    Raises:
        ValueError: JupyterLab is not installed.
    """
    require_lab()
    surroundings = {**os.environ, **environment}
    if is_project(home_folder()):  # installed or not
        surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home_folder()), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "jupyterlab", str(target), *options]
    process = subprocess.Popen(command, env=surroundings)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
