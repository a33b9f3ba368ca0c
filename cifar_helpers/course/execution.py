"""Execute notebooks in fresh kernels, and keep the executed copies: what the extra `[notebooks]` is for."""

import base64
import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from cifar_helpers._storage import write_whole
from cifar_helpers.course._ownership import EXECUTED, claim_folder, digest_cells, write_own
from cifar_helpers.course.minutes import describe_seconds
from cifar_helpers.course.notebooks import FOLDERS, NotebookResult, check_output, remove_traces

__all__ = ["execute", "expected_seconds", "merge_streams", "replace_source", "run_notebooks"]


@contextlib.contextmanager
def _surroundings(variables: Mapping[str, str]) -> Iterator[None]:
    """Add variables to those of this process inside the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Schedule:
    """How many seconds are left of a series: what its notebooks expect, times how far off the finished ones were.

    Args:
        expected: seconds by name, in the order of execution; empty if a notebook does not say.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.expected = dict(expected)
        self.taken: dict[str, float] = {}

    def left(self, name: str, seconds: float) -> float | None:
        """Return what is left `seconds` after the start of a notebook; None if nothing is expected."""
        if not self.expected:
            return None
        hoped = sum(self.expected[done] for done in self.taken)
        factor = sum(self.taken.values()) / hoped if hoped else 1.0
        later = sum(s for other, s in self.expected.items() if other not in {*self.taken, name})
        return factor * later + max(0.0, factor * self.expected[name] - seconds)


class _Watch:
    """Shows which cell of a notebook runs and what is left, and keeps the largest memory of its kernel."""

    def __init__(self, name: str, cells: int, schedule: _Schedule) -> None:
        self.name, self.cells, self.schedule = name, cells, schedule
        self.start = time.perf_counter()
        self.cell, self.peak_bytes, self.done = 0, 0, False

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def show(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Print notebook, cell, elapsed time and what is left; in a terminal in place, else a line per cell."""
        if cell.cell_type != "code":
            return
        self.cell += 1
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        left = self.schedule.left(self.name, self.seconds)
        remaining = "" if left is None else f"{describe_seconds(left)} left  "
        line = f"{self.name}  cell {self.cell:2d} of {self.cells}  {self.seconds:5.0f} s  {remaining}{first[:60]}"
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


def expected_seconds(path: Path, environment: Mapping[str, str]) -> float | None:
    """Return how long a notebook expects to take on this machine; None if it has no cell tagged "minutes".

    That cell and those before it, imports and parameters, are executed in this process: its variable `expected` is what
    `course.expect` returned. A cell with a command for IPython is left out. None also where one of them fails, which
    the execution of the notebook will show.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = next((i for i, cell in enumerate(cells) if "minutes" in cell.metadata.get("tags", [])), None)
    if last is None:
        return None
    names: dict[str, Any] = {}
    quiet = contextlib.redirect_stdout(io.StringIO())
    with _surroundings(environment), quiet, contextlib.suppress(Exception):
        for cell in cells[: last + 1]:
            if not re.search(r"^\s*[%!]", cell.source, re.MULTILINE):
                exec(compile(cell.source, path.name, "exec"), names)
    return names["expected"].seconds if "expected" in names else None


def execute(
    path: Path,
    copy: Path,
    environment: dict[str, str],
    timeout: float | None = None,
    schedule: _Schedule | None = None,
) -> NotebookResult:
    """Execute one notebook in a fresh kernel and write the executed copy, whether it fails or not.

    Args:
        copy: where to; a file there that is no unchanged executed copy stays, and the result says so.
        environment: variables added to those of this process.
        timeout: seconds that one cell may take; None for no bound.
        schedule: of the series that the notebook is one of.
    """
    source = path.read_bytes()
    notebook = nbformat.reads(source.decode(), as_version=4)
    watch = _Watch(path.stem, sum(cell.cell_type == "code" for cell in notebook.cells), schedule or _Schedule({}))
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
    for name in FOLDERS:
        claim_folder(out / name)
    results = []
    schedule = _make_schedule(paths, environment)
    for path in paths:
        remove_traces(path.stem, out, environment)
        result = execute(path, out / "notebooks" / path.name, environment, schedule=schedule)
        schedule.taken[path.stem] = result.seconds
        verdict = "failed" if result.error else "done"
        _say(f"{result.name}  {verdict} in {result.seconds:.0f} s, {result.peak_bytes / 2**30:.1f} GiB")
        if result.error:
            print(f"  {result.error}\n  executed copy: {result.executed}")
        results.append(result)
    return results


def _make_schedule(paths: Sequence[Path], environment: Mapping[str, str]) -> _Schedule:
    """Return what the notebooks expect, and say their sum."""
    expected = {path.stem: expected_seconds(path, environment) for path in paths}
    known = {name: seconds for name, seconds in expected.items() if seconds is not None}
    if len(known) < len(expected):
        return _Schedule({})
    print(f"notebooks: {len(known)}, {describe_seconds(sum(known.values()))} on this machine", flush=True)
    return _Schedule(known)


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
