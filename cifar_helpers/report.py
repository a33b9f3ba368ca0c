"""Execute the notebooks and gather what they leave behind into one HTML page."""

import base64
import contextlib
import datetime
import html
import io
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from cifar_helpers.claims import wilson_interval
from cifar_helpers.official import SOURCES
from cifar_helpers.recipes import CHAIN, RECIPES, find_runs
from cifar_helpers.runs import Workspace, newest_rows, read_figure
from cifar_helpers.runtime import environment_line, pick_device
from cifar_helpers.storage import read_lines, write_whole


@dataclass(frozen=True)
class NotebookResult:
    """How the execution of one notebook went.

    Attributes:
        seconds: wall clock, kernel start included.
        peak_bytes: largest resident memory of the kernel seen, sampled four times a second.
        executed: path of the executed copy.
        error: None, or which cell failed and with what.
    """

    name: str
    seconds: float
    peak_bytes: int
    executed: Path
    error: str | None


def find_notebooks(folder: Path, only: str | None = None) -> list[Path]:
    """Return the numbered notebooks of a folder in order, or those whose name starts with `only`.

    Raises:
        ValueError: there are none.
    """
    found = sorted(path for path in folder.glob("[0-9][0-9]_*.ipynb") if path.name.startswith(only or ""))
    if not found:
        raise ValueError(f"only={only!r}: no such notebook in {folder}; expected a number such as 01")
    return found


def published_profile(path: Path) -> str:
    """Return the profile whose outputs a notebook holds, as its first cells print it; empty if it holds none."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r'"(\w+) profile, real data', text)
    return found[1] if found else ""


class Watch:
    """Shows which cell of a notebook runs, and keeps the largest memory of its kernel."""

    def __init__(self, name: str, cells: int) -> None:
        self.name, self.cells = name, cells
        self.start = time.perf_counter()
        self.cell, self.peak_bytes, self.done = 0, 0, False

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def show(self, cell, cell_index: int) -> None:
        """Print the notebook, the cell and the elapsed time; in a terminal in place, else a line per cell."""
        if cell.cell_type != "code":
            return
        self.cell += 1
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        line = f"{self.name}  cell {self.cell:2d} of {self.cells}  {self.seconds:5.0f} s  {first[:60]}"
        say(line, end="" if sys.stdout.isatty() else "\n")

    def follow(self, client: NotebookClient) -> None:
        """Sample the memory of the client's kernel until `done`."""
        while not self.done:
            # Not started yet, or gone: the client itself notices a dead kernel.
            with contextlib.suppress(AttributeError, psutil.Error):
                self.peak_bytes = max(self.peak_bytes, psutil.Process(client.km.provisioner.pid).memory_info().rss)
            time.sleep(0.25)


def say(line: str, end: str = "\n") -> None:
    """Print a line; in a terminal over the one before."""
    print(f"\r{line:<118}" if sys.stdout.isatty() else line, end=end, flush=True)


def execute(path: Path, copy: Path, environment: dict[str, str], timeout: float | None = None) -> NotebookResult:
    """Execute one notebook in a fresh kernel and write the executed copy, whether it fails or not.

    Args:
        environment: variables added to those of this process.
        timeout: seconds that one cell may take; None for no bound.
    """
    notebook = nbformat.read(path, as_version=4)
    watch = Watch(path.stem, sum(cell.cell_type == "code" for cell in notebook.cells))
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
        error = f"cell {watch.cell}: {explain(failure)}"
    finally:
        watch.done = True
        sampler.join()
    normalise(notebook)
    write_whole(copy, nbformat.writes(notebook).encode())
    return NotebookResult(path.stem, watch.seconds, watch.peak_bytes, copy, error)


def explain(failure: Exception) -> str:
    """Return what went wrong in one line."""
    if isinstance(failure, CellExecutionError):
        return f"{failure.ename}: {failure.evalue}".splitlines()[0]
    if isinstance(failure, DeadKernelError):
        return "the kernel died (out of memory, or killed from outside)"
    return str(failure).splitlines()[0]


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Remove what changes from one execution to the next and says nothing, and make the pictures small."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink_png(output.data["image/png"])
        merge_streams(cell)


def shrink_png(encoded: str) -> str:
    """Return a base64 PNG with 256 colours instead of 16 million, a third of the size."""
    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        image.convert("RGB").quantize(256).save(content, format="png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def merge_streams(cell: nbformat.NotebookNode) -> None:
    """Join neighbouring pieces of the same stream: where a kernel cuts its output is chance."""
    merged: list = []
    for output in cell.get("outputs", []):
        last = merged[-1] if merged else {}
        if output.output_type == "stream" == last.get("output_type") and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    if cell.cell_type == "code":
        cell.outputs = merged


def run_notebooks(paths: Iterable[Path], out: Path, environment: dict[str, str]) -> list[NotebookResult]:
    """Execute notebooks one after the other; a failing one does not keep the others from running."""
    results = []
    for path in paths:
        remove_traces(path.stem, out, environment)
        result = execute(path, out / "notebooks" / path.name, environment)
        verdict = "failed" if result.error else "done"
        say(f"{result.name}  {verdict} in {result.seconds:.0f} s, {result.peak_bytes / 2**30:.1f} GiB")
        if result.error:
            print(f"  {result.error}\n  executed copy: {result.executed}")
        results.append(result)
    return results


def remove_traces(notebook: str, out: Path, environment: dict[str, str]) -> None:
    """Remove what an earlier execution of the same profile and data left, so that all that is shown is new."""
    for figure in (out / "figures").glob(f"{notebook.split('_')[0]}_*.png"):
        figure.unlink()
    source, profile = (environment.get(name, "") for name in ("CIFAR_DATA", "CIFAR_PROFILE"))
    shutil.rmtree(out / "checkpoints" / notebook / source / profile, ignore_errors=True)
    (out / "notebooks" / f"{notebook}.ipynb").unlink(missing_ok=True)


# --- the table of results ---

BEGIN, END = "<!-- results: filled by `python -m cifar_helpers report` -->", "<!-- end of results -->"


def results_markdown(home: Path) -> str:
    """Return the results of the recipe on real data as a Markdown table, from the ledger and the receipts of `home`.

    Raises:
        ValueError: a step of the chain has no run on one of the data sets.
    """
    workspace = Workspace("report", "full", "", "real", home, home / "build" / "checkpoints")
    found = {dataset: find_runs(dataset, workspace) for dataset in SOURCES}
    receipts = read_lines(workspace.receipts)
    heads = " | ".join(f"{s.title} validation (%) | {s.title} test (%) | seconds" for s in SOURCES.values())
    lines = [f"| step | notebook | {heads} |", "|---|---|" + "---:|" * 3 * len(SOURCES)]
    for step in CHAIN:
        cells = [cell for dataset in SOURCES for cell in result_cells(step, dataset, found[dataset], receipts)]
        lines.append(f"| {step} | {RECIPES[step].notebook} | {' | '.join(cells)} |")
    rows = [found[dataset][step] for dataset in SOURCES for step in CHAIN]
    made = sorted({f"{row['profile']} profile, {row['device']} in {row['versions']['dtype']}" for row in rows})
    twice = ", ".join(step for step in CHAIN if RECIPES[step].mirrored)
    about = (
        f"{' and '.join(made)}; one seed, best epoch by validation, one view. Test: with Wilson's 95 % interval, from "
        f"the receipt of the last look, two views for {twice}."
    )
    if any(" – " in line for line in lines):
        about += " –: the test split was not opened for it."
    return "\n".join([*lines, "", about])


def result_cells(step: str, dataset: str, found: dict[str, dict], receipts: list[dict]) -> list[str]:
    """Return validation accuracy, test accuracy and seconds of one step on one data set."""
    if step not in found:
        raise ValueError(f"the ledger has no run of {step!r} on {dataset}: python -m cifar_helpers train {step}")
    row = found[step]
    looks = [r for r in receipts if r["kind"] == "final" and r["run_hash"] == row["run_hash"]]
    test = "–"
    if looks:
        correct, count = looks[-1]["result"]["correct"], looks[-1]["result"]["count"]
        low, high = wilson_interval(correct, count)
        test = f"{correct / count:.1%} ({low:.1%} to {high:.1%})".replace("%", "")
    return [f"{100 * row['val_accuracy']:.1f}", test, f"{row['seconds']:.0f}"]


def fill_results(page: Path, text: str) -> None:
    """Put the table between its two marks in a Markdown file.

    Raises:
        ValueError: the file lacks the marks.
    """
    before, mark, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}, between which the results stand")
    write_whole(page, f"{before}{BEGIN}\n{text}\n{END}{after}".encode())


# --- the page ---

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem } 
th { text-align: left; border-bottom: 2px solid #888 }
th, td { padding: .3rem .6rem } td { border-bottom: 1px solid #e5e5e5 } td.number, th.number { text-align: right }
figure { margin: 2rem 0 } figure img { max-width: 100% } figcaption { font-size: .9rem }
.facts { color: #666; font-size: .85rem } .failed { color: #a40000; font-weight: 600 }
.stand-in { background: #fff3cd; padding: .6rem 1rem; border-left: 4px solid #e0a800 }
"""


def write_report(out: Path, results: list[NotebookResult]) -> Path:
    """Write `report.html` below `out` from its figures, its ledger and the results; return its path.

    The page needs no other file: every picture is inside.
    """
    figures = sorted((out / "figures").glob("*.png"), key=lambda path: (path.name[:2], path.stat().st_mtime_ns))
    rows = list(newest_rows(read_lines(out / "figures" / "runs.jsonl")).values())
    facts = [read_figure(figure) for figure in figures]
    synthetic = any(fact.get("data_source") == "synthetic" for fact in facts)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    parts = [
        f"<h1>CIFAR notebooks: report</h1><p class='facts'>{html.escape(now)}</p>",
        "<p class='stand-in'>Made from the synthetic stand-in: no number on this page is about CIFAR.</p>" * synthetic,
        f"<h2>Results</h2>{results_table(rows)}",
        f"<h2>Time and memory</h2>{times_table(results)}",
        f"<h2>Environment</h2><p>{html.escape(environment_line(pick_device()))}</p>",
        "<h2>Figures</h2>",
        *(figure_block(path, fact) for path, fact in zip(figures, facts, strict=True)),
    ]
    head = "<!doctype html><html lang='en'><meta charset='utf-8'><title>CIFAR notebooks: report</title>"
    page = out / "report.html"
    write_whole(page, "\n".join([head, f"<style>{STYLE}</style>", *parts, "</html>\n"]).encode())
    return page


def table(columns: list[str], rows: list[list[str]], numeric_from: int) -> str:
    """Return an HTML table; columns from `numeric_from` on are set flush right."""

    def line(cells: list[str], tag: str) -> str:
        marks = [" class='number'" if i >= numeric_from else "" for i in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for c, m in zip(cells, marks, strict=True)) + "</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line([html.escape(c) for c in row], 'td') for row in rows)}</table>"


def results_table(rows: list[dict]) -> str:
    """Return the runs of the ledger as an HTML table, newest row of each run."""
    columns = [
        "run",
        "notebook",
        "data",
        "profile",
        "device",
        "seed",
        "epochs",
        "seconds",
        "training (%)",
        "validation (%)",
    ]
    cells = [
        [
            row["name"],
            row["notebook"],
            f"{row['dataset']} ({row['data_source']})",
            row["profile"],
            row["device"],
            str(row["seed"]),
            str(row["epochs"]),
            f"{row['seconds']:.1f}",
            f"{row['train_accuracy']:.1%}".rstrip("%"),
            f"{row['val_accuracy']:.1%}".rstrip("%"),
        ]
        for row in rows
    ]
    return table(columns, cells, numeric_from=5) if cells else "<p>No network was trained.</p>"


def times_table(results: list[NotebookResult]) -> str:
    """Return seconds and peak memory of each notebook as an HTML table; a failed one says where."""
    cells = [[r.name, r.error or "done", f"{r.seconds:.0f}", f"{r.peak_bytes / 2**30:.1f}"] for r in results]
    return table(["notebook", "outcome", "seconds", "peak memory (GiB)"], cells, numeric_from=2)


def figure_block(path: Path, facts: dict) -> str:
    """Return one figure with its caption and its provenance, the picture inside the page."""
    picture = base64.b64encode(path.read_bytes()).decode()
    title, caption = (html.escape(facts.get(key, "")) for key in ("title", "caption"))
    source = " · ".join(facts.get(key, "?") for key in ("notebook", "profile", "device"))
    return (
        f"<figure id='{html.escape(path.stem)}'><img alt='{title}' src='data:image/png;base64,{picture}'>"
        f"<figcaption><strong>{title}.</strong> {caption}<br><span class='facts'>{html.escape(source)} · "
        f"{html.escape(facts.get('data_source', '?'))} data</span></figcaption></figure>"
    )
