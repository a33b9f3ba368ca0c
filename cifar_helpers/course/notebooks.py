"""Find the notebooks, execute them in fresh kernels, and keep the executed copies."""

import base64
import contextlib
import importlib.metadata
import io
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from cifar_helpers._storage import write_whole
from cifar_helpers.course._ownership import (
    EXECUTED,
    claim_folder,
    digest_cells,
    remove_own_files,
    require_own_file,
    require_own_folder,
    write_own,
)

__all__ = [
    "NotebookResult",
    "check_output",
    "clear_output",
    "execute",
    "find_notebooks",
    "merge_streams",
    "published_profile",
    "replace_source",
    "run_notebooks",
]

_FOLDERS = ("figures", "notebooks", "checkpoints")
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
    for name in _FOLDERS:
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
    for name in _FOLDERS:
        require_own_folder(out / name)
    remove_own_files(out / "figures", ("*.png", *_LOGS, "logits/*.safetensors", "ranks/*.safetensors"))
    if checkpoints:
        remove_own_files(out / "checkpoints", ("**/*.safetensors",))


def _remove_traces(notebook: str, out: Path, environment: dict[str, str]) -> None:
    """Remove what an earlier execution of the same notebook, profile and data left."""
    name = escape(notebook)
    remove_own_files(out / "figures", (f"{escape(notebook.split('_')[0])}_*.png",))
    source, profile = (environment.get(variable, "") for variable in ("CIFAR_DATA", "CIFAR_PROFILE"))
    remove_own_files(out / "checkpoints", (f"{name}/{source}/{profile}/**/*.safetensors",))
    remove_own_files(out / "notebooks", (f"{name}.ipynb",))


# --- execution ---


class _Watch:
    """Shows which cell of a notebook runs, and keeps the largest memory of its kernel."""

    def __init__(self, name: str, cells: int) -> None:
        self.name, self.cells = name, cells
        self.start = time.perf_counter()
        self.cell, self.peak_bytes, self.done = 0, 0, False

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def show(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Print the notebook, the cell and the elapsed time; in a terminal in place, else a line per cell."""
        if cell.cell_type != "code":
            return
        self.cell += 1
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        line = f"{self.name}  cell {self.cell:2d} of {self.cells}  {self.seconds:5.0f} s  {first[:60]}"
        _say(line, end="" if sys.stdout.isatty() else "\n")

    def follow(self, client: Any) -> None:
        """Sample the memory of the client's kernel until `done`."""
        while not self.done:
            # Not started yet, or gone: the client itself notices a dead kernel.
            with contextlib.suppress(AttributeError, psutil.Error):
                self.peak_bytes = max(self.peak_bytes, psutil.Process(client.km.provisioner.pid).memory_info().rss)
            time.sleep(0.25)


def _say(line: str, end: str = "\n") -> None:
    """Print a line; in a terminal over the one before."""
    print(f"\r{line:<118}" if sys.stdout.isatty() else line, end=end, flush=True)


def execute(path: Path, copy: Path, environment: dict[str, str], timeout: float | None = None) -> NotebookResult:
    """Execute one notebook in a fresh kernel and write the executed copy, whether it fails or not.

    Args:
        copy: where to; a file there that is no unchanged executed copy stays, and the result says so.
        environment: variables added to those of this process.
        timeout: seconds that one cell may take; None for no bound.
    """
    source = path.read_bytes()
    notebook = nbformat.reads(source.decode(), as_version=4)
    watch = _Watch(path.stem, sum(cell.cell_type == "code" for cell in notebook.cells))
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=watch.show,
        extra_arguments=["--log-level=ERROR"],  # no warning about unencrypted loopback traffic
    )
    sampler = threading.Thread(target=watch.follow, args=(client,), daemon=True)
    sampler.start()
    error = None
    try:
        client.execute(env={**os.environ, **environment})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
        error = f"cell {watch.cell}: {_explain(failure)}"
    finally:
        watch.done = True
        sampler.join()
    _normalise(notebook)
    notebook.metadata[EXECUTED] = {"cells": digest_cells(notebook.cells)}
    try:
        write_own(copy, nbformat.writes(notebook).encode())
    except ValueError as refusal:
        error = f"{error}; {refusal}" if error else str(refusal)
    return NotebookResult(path.stem, watch.seconds, watch.peak_bytes, copy, error, source)


def _explain(failure: Exception) -> str:
    """Return what went wrong in one line."""
    if isinstance(failure, CellExecutionError):
        return f"{failure.ename}: {failure.evalue}".splitlines()[0]
    if isinstance(failure, DeadKernelError):
        return "the kernel died (out of memory, or killed from outside)"
    return str(failure).splitlines()[0]


def _normalise(notebook: nbformat.NotebookNode) -> None:
    """Remove what changes from one execution to the next and says nothing, and make the pictures small."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _shrink_png(output.data["image/png"])
        merge_streams(cell)


def _shrink_png(encoded: str) -> str:
    """Return a base64 PNG with 256 colours instead of 16 million, a third of the size."""
    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        image.convert("RGB").quantize(256).save(content, format="png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def merge_streams(cell: nbformat.NotebookNode) -> None:
    """Join neighbouring pieces of the same stream: where a kernel cuts its output is chance."""
    merged: list[Any] = []
    for output in cell.get("outputs", []):
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    if cell.cell_type == "code":
        cell.outputs = merged


def run_notebooks(paths: Sequence[Path], out: Path, environment: dict[str, str]) -> list[NotebookResult]:
    """Execute notebooks one after the other; a failing one does not keep the others from running.

    Raises:
        ValueError: something below `out` was not written by this program; nothing was executed.
    """
    check_output(out, paths)
    for name in _FOLDERS:
        claim_folder(out / name)
    results = []
    for path in paths:
        _remove_traces(path.stem, out, environment)
        result = execute(path, out / "notebooks" / path.name, environment)
        verdict = "failed" if result.error else "done"
        _say(f"{result.name}  {verdict} in {result.seconds:.0f} s, {result.peak_bytes / 2**30:.1f} GiB")
        if result.error:
            print(f"  {result.error}\n  executed copy: {result.executed}")
        results.append(result)
    return results


def replace_source(path: Path, result: NotebookResult) -> None:
    """Put the executed copy in the place of the notebook that it was made from, whole or not at all.

    Raises:
        ValueError: the notebook is no longer what was executed; it is untouched.
    """
    if not path.is_file() or path.read_bytes() != result.source:
        raise ValueError(
            f"{path} was changed while it was executed, and stays as it is; the executed copy is {result.executed}"
        )
    notebook = nbformat.read(result.executed, as_version=4)
    del notebook.metadata[EXECUTED]
    write_whole(path.resolve(), nbformat.writes(notebook).encode())
