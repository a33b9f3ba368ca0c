"""Execute notebooks in fresh kernels, and keep the executed copies: what the extra `[notebooks]` is for."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from cifar_helpers._arguments import require
from cifar_helpers._storage import write_whole
from cifar_helpers.course._ownership import EXECUTED, claim_folder, digest_cells, write_own
from cifar_helpers.course.captions import add_alt_texts
from cifar_helpers.course.minutes import describe_seconds
from cifar_helpers.course.notebooks import (
    FOLDERS,
    NotebookResult,
    Progress,
    check_output,
    notebook_metadata,
    remove_traces,
)

__all__ = ["execute", "expected_seconds", "merge_streams", "replace_source", "run_notebooks"]


class _Schedule:
    """How many seconds are left of a series of notebooks.

    What the others expect is multiplied by the ratio of taken to expected seconds of those that are done.

    Args:
        expected: seconds by name; empty if nothing is to be said.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.left_over = dict(expected)
        self._expected = self._taken = 0.0

    def left(self, name: str, seconds: float) -> float | None:
        """Return what is left `seconds` after the start of a notebook; None if nothing is expected."""
        if not self.left_over:
            return None
        factor = self._taken / self._expected if self._expected else 1.0
        later = sum(self.left_over.values()) - self.left_over[name]
        return factor * later + max(0.0, factor * self.left_over[name] - seconds)

    def finish(self, result: NotebookResult) -> None:
        """Take note of how long a notebook took; one that failed says nothing about the others."""
        expected = self.left_over.pop(result.name, 0.0)
        if expected and not result.error:
            self._expected += expected
            self._taken += result.seconds


class _Watch:
    """Shows which cell of a notebook runs and what is left, and keeps the largest memory of its kernel."""

    def __init__(self, name: str, cells: int, schedule: _Schedule) -> None:
        self.name, self.cells, self.schedule = name, cells, schedule
        self.start = time.perf_counter()
        self.cell, self.first, self.peak_bytes, self.done = 0, "", 0, False

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def show(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Say which cell begins; in a terminal in place, else a line per cell."""
        if cell.cell_type != "code":
            return
        self.cell += 1
        self.first = next((line for line in cell.source.splitlines() if line.strip()), "")
        self._say()

    def _say(self) -> None:
        """Print notebook, cell, elapsed time and what is left."""
        left = self.schedule.left(self.name, self.seconds)
        remaining = "" if left is None else f"{describe_seconds(left)} left  "
        line = f"{self.name}  cell {self.cell:2d} of {self.cells}  {self.seconds:5.0f} s  {remaining}{self.first}"
        _say(line, end="" if sys.stdout.isatty() else "\n")

    def follow(self, client: Any) -> None:
        """Sample the memory of the client's kernel until `done`, and let the time go on in a terminal."""
        while not self.done:
            if self.cell and sys.stdout.isatty():
                self._say()
            # Not started yet, or gone: the client itself notices a dead kernel.
            with contextlib.suppress(AttributeError, psutil.Error):
                self.peak_bytes = max(self.peak_bytes, psutil.Process(client.km.provisioner.pid).memory_info().rss)
            time.sleep(0.25)


_LINE = 118  # characters


def _say(line: str, end: str = "\n") -> None:
    """Print a line; in a terminal over the one before, and never wrapped."""
    width = min(_LINE, shutil.get_terminal_size().columns - 1) if sys.stdout.isatty() else _LINE
    print(f"\r{line[:width]:<{width}}" if sys.stdout.isatty() else line[:width], end=end, flush=True)


def expected_seconds(paths: Sequence[Path], environment: Mapping[str, str]) -> dict[str, float]:
    """Return how long notebooks expect to take on this machine, by name; those that do not say are missing.

    The cell tagged "minutes" and those before it, imports and parameters, are executed in a process of their own: the
    variable `expected` is then what `course.expect` returned. A cell with a command for IPython is left out.
    """
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "  # Ctrl-C ends it without a traceback
        "from cifar_helpers.course.execution import _print_expected; _print_expected(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return json.loads(done.stdout or "{}")


def _print_expected(paths: Sequence[str]) -> None:
    """Print the expected seconds of notebooks by name, as JSON; why one does not say goes to stderr."""
    found = {}
    for path in map(Path, paths):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found[path.stem] = _run_to_minutes(path)["expected"].seconds
        except (Exception, SystemExit) as error:
            print(f"{path.stem} does not say how long it takes: {error!r}", file=sys.stderr)
    print(json.dumps(found))


def _run_to_minutes(path: Path) -> dict[str, Any]:
    """Execute the code cells of a notebook up to the one tagged "minutes"; return their variables."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    tagged = [i for i, cell in enumerate(cells) if "minutes" in cell.metadata.get("tags", [])]
    require(bool(tagged), "tags", [], "one code cell with the tag minutes")
    names: dict[str, Any] = {}
    for cell in cells[: tagged[0] + 1]:
        if not re.search(r"^\s*[%!]\w", cell.source, re.MULTILINE):
            exec(compile(cell.source, path.name, "exec"), names)
    return names


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
    error, interrupted = None, False
    try:
        interrupted = _execute(client, {**os.environ, **environment})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
        error = f"cell {watch.cell}: {_explain(failure)}"
    finally:
        watch.done = True
        sampler.join()
    if interrupted:
        error = f"cell {watch.cell}: interrupted"
    _normalise(notebook, path.name)
    out = environment.get("CIFAR_OUT")
    add_alt_texts(notebook.cells, path.stem.split("_")[0], Path(out) / "figures" if out else None)
    notebook.metadata[EXECUTED] = {"cells": digest_cells(notebook.cells)}
    try:
        write_own(copy, nbformat.writes(notebook).encode())
    except ValueError as refusal:
        error = f"{error}; {refusal}" if error else str(refusal)
    return NotebookResult(path.stem, watch.seconds, watch.peak_bytes, copy, error, source, interrupted)


def _execute(client: NotebookClient, environment: dict[str, str]) -> bool:
    """Execute the client's notebook, and return whether Ctrl-C ended it; its outputs up to there are kept.

    In a thread of its own, because in the main thread nbclient takes Ctrl-C for itself and fails.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            client.execute(env=environment)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(1.0)
    except KeyboardInterrupt:
        _stop(client, thread)
        return True
    if raised:
        raise raised[0]
    return False


def _stop(client: Any, thread: threading.Thread, patience: float = 5.0) -> None:
    """Interrupt the kernel, so that its cell ends and keeps its output; kill it if that is not enough."""
    for send in (_interrupt, psutil.Process.kill):
        with contextlib.suppress(AttributeError, psutil.Error):  # not started yet, or gone
            send(psutil.Process(client.km.provisioner.pid))
        with contextlib.suppress(KeyboardInterrupt):  # once more: then at once
            thread.join(patience)
        if not thread.is_alive():
            return


def _interrupt(kernel: psutil.Process) -> None:
    if os.name == "posix":
        kernel.send_signal(signal.SIGINT)


def _explain(failure: Exception) -> str:
    """Return what went wrong in one line."""
    if isinstance(failure, CellExecutionError):
        return f"{failure.ename}: {failure.evalue}".splitlines()[0]
    if isinstance(failure, DeadKernelError):
        return "the kernel died (out of memory, or killed from outside)"
    return str(failure).splitlines()[0]


def _normalise(notebook: nbformat.NotebookNode, name: str) -> None:
    """Remove what changes from one execution to the next and says nothing, and make the pictures small."""
    notebook.metadata = nbformat.from_dict(notebook_metadata(name))
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


def run_notebooks(
    paths: Sequence[Path], out: Path, environment: dict[str, str], *, keep_begun: bool = True
) -> list[NotebookResult]:
    """Execute notebooks one after the other; a failing one does not keep the others from running, Ctrl-C does.

    If the same run was killed or interrupted before, it goes on: what it executed whole is not executed again. The
    caller, once it has used the results, notes that the run is over.

    Args:
        keep_begun: keep the checkpoints of a notebook in which it was killed; its trainings go on from there, and say
            so in its outputs.

    Raises:
        ValueError: something below `out` was not written by this program; nothing was executed.
    """
    check_output(out, paths)
    for name in FOLDERS:
        claim_folder(out / name)
    progress = Progress(out, paths, environment)
    if progress:
        _say("this run was stopped before, and goes on")
    before = {path: result for path in paths if (result := progress.result(path))}
    schedule = _make_schedule([path for path in paths if path not in before], environment)
    results = []
    for path in paths:
        if path in before:
            _say(f"{path.stem}  done before, in {before[path].seconds:.0f} s")
            results.append(before[path])
            continue
        remove_traces(path.stem, out, environment, checkpoints=not (keep_begun and progress.begun(path.stem)))
        results.append(_run_notebook(path, out, environment, schedule, progress))
        if results[-1].interrupted:
            break
    return results


def _run_notebook(
    path: Path, out: Path, environment: dict[str, str], schedule: _Schedule, progress: Progress
) -> NotebookResult:
    """Execute one notebook of a run, note that it was begun and done, and say how it went."""
    progress.note("begun", path.stem)
    result = execute(path, out / "notebooks" / path.name, environment, schedule=schedule)
    schedule.finish(result)
    if not result.error:
        progress.note("done", path.stem, seconds=result.seconds, peak_bytes=result.peak_bytes)
    verdict = "interrupted" if result.interrupted else "failed" if result.error else "done"
    _say(f"{result.name}  {verdict} in {result.seconds:.0f} s, {result.peak_bytes / 2**30:.1f} GiB")
    if result.error:
        print(f"  {result.error}\n  executed copy: {result.executed}")
    return result


def _make_schedule(paths: Sequence[Path], environment: Mapping[str, str]) -> _Schedule:
    """Return what the notebooks expect, and say their sum; nothing is said if one of them does not say."""
    expected = expected_seconds(paths, environment) if paths else {}
    if len(expected) < len(paths) or not paths:
        return _Schedule({})
    print(f"notebooks: {len(expected)}, {describe_seconds(sum(expected.values()))} on this machine", flush=True)
    return _Schedule(expected)


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
