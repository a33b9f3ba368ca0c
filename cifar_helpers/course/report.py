"""One HTML page of what the executed notebooks leave behind."""

import datetime
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_helpers._arguments import require, require_path
from cifar_helpers._storage import read_lines
from cifar_helpers.course._ownership import write_own
from cifar_helpers.course.notebooks import NotebookResult
from cifar_helpers.course.pages import figure_block, make_page, make_sections, make_table
from cifar_helpers.course.verdicts import published_verdicts, read_verdicts
from cifar_helpers.course.workspace import newest_rows, read_figure
from cifar_helpers.runtime import environment_line, pick_device

__all__ = ["count_outcomes", "figure_sections", "results_table", "write_report"]


def write_report(out: Path, results: list[NotebookResult]) -> Path:
    """Write `report.html` below `out` from its notebooks, figures and run log and the results; return its path.

    What became of the hypotheses comes first, then the figures, by notebook, and the runs; the machine is last. The
    page needs no other file: every picture is inside. Pictures that this program did not write are left out.

    Raises:
        ValueError: there is a report.html that this program did not write.
    """
    require_path("out", out)
    known = all(isinstance(result, NotebookResult) for result in results)
    require(known, "results", results, "NotebookResults, such as run_notebooks returns")
    found = {figure: fact for figure in (out / "figures").glob("*.png") if (fact := read_figure(figure))}
    facts = {path: found[path] for path in sorted(found, key=lambda path: (path.name[:2], path.stat().st_mtime_ns))}
    synthetic = any(fact.get("data_source") == "synthetic" for fact in facts.values())
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    by_notebook: dict[str, list[str]] = {}
    for path, fact in facts.items():
        by_notebook.setdefault(fact.get("notebook", "?"), []).append(_figure_block(path, fact))
    sections = {
        "What became of the hypotheses": _verdicts_table([result.executed for result in results]),
        **figure_sections(by_notebook),
        "Runs": results_table(read_lines(out / "figures" / "runs.jsonl")),
        "Time and memory": _times_table(results),
        "Environment": f"<p>{html.escape(environment_line(pick_device()))}</p>",
    }
    head = f"<h1>CIFAR notebooks: report</h1><p class='facts'>{html.escape(now)}</p>"
    head += "<p class='synthetic'>Made from synthetic data: no number on this page is about CIFAR.</p>" * synthetic
    page = out / "report.html"
    write_own(page, make_page("CIFAR notebooks: report", head + make_sections(sections)))
    return page


def _verdicts_table(executed: list[Path]) -> str:
    """Return what the executed notebooks say of their hypotheses, beside what the published ones say."""
    published = published_verdicts()
    rows = []
    for path in filter(Path.is_file, executed):
        known = {hypothesis: [outcome, found] for hypothesis, outcome, found in published.get(path.stem, [])}
        rows += [[path.stem, *row, *known.get(row[0], ["–", "–"])] for row in read_verdicts(path)]
    columns = ["notebook", "hypothesis", "here", "measured here", "published", "measured there"]
    if not rows:
        return "<p>No notebook came to its end.</p>"
    return count_outcomes([row[2] for row in rows]) + make_table(columns, rows, len(columns), "cards")


def count_outcomes(outcomes: list[str]) -> str:
    """Return a paragraph that says how many hypotheses held, failed and were not judged."""
    counts = {outcome: outcomes.count(outcome) for outcome in ("held", "failed", "not judged")}
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"<p>Of {len(outcomes)} hypotheses: {said}.</p>"


def figure_sections(by_notebook: Mapping[str, list[str]]) -> dict[str, str]:
    """Return a section of HTML with the figures of each notebook, by title; two stand side by side on a wide screen."""
    return {
        f"Figures of {name}": "<div class='figures'>" + "\n".join(blocks) + "</div>"
        for name, blocks in by_notebook.items()
    }


def results_table(rows: list[dict[str, Any]]) -> str:
    """Return the runs of the run log as an HTML table, newest row of each run; what is no row of ours is counted."""
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
    known = [row for row in rows if _result_cells(row)]
    cells = [_result_cells(row) for row in newest_rows(known).values()]
    table = make_table(columns, cells, numeric_from=5) if cells else "<p>No network was trained.</p>"
    others = len(rows) - len(known)
    return table + f"<p>{others} lines of runs.jsonl are no runs as cifar_helpers logs them.</p>" * bool(others)


def _result_cells(row: dict[str, Any]) -> list[str]:
    """Return what the table says of a run; [] for a row that this program did not write."""
    try:
        cells = [
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
    except (KeyError, TypeError, ValueError):
        return []
    texts = (*cells, row["dataset"], row["data_source"], row.get("run_hash"))
    return cells if all(isinstance(text, str) for text in texts) else []


def _times_table(results: list[NotebookResult]) -> str:
    """Return seconds and peak memory of each notebook as an HTML table; a failed one says where."""
    cells = [[r.name, r.error or "done", f"{r.seconds:.0f}", f"{r.peak_bytes / 2**30:.1f}"] for r in results]
    return make_table(["notebook", "outcome", "seconds", "peak memory (GiB)"], cells, numeric_from=2)


def _figure_block(path: Path, facts: dict[str, str]) -> str:
    """Return one figure with its caption and its provenance, the picture inside the page."""
    source = " · ".join(facts.get(key, "?") for key in ("notebook", "profile", "device", "data_source"))
    return figure_block(
        path.read_bytes(), facts.get("title", ""), facts.get("caption", ""), f"{source} data", path.stem
    )
