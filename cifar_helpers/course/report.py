"""One HTML page of what the executed notebooks leave behind."""

import base64
import datetime
import html
from pathlib import Path
from typing import Any

from cifar_helpers._arguments import require, require_path
from cifar_helpers._storage import read_lines
from cifar_helpers.course._ownership import GENERATOR, write_own
from cifar_helpers.course.notebooks import NotebookResult
from cifar_helpers.course.verdicts import read_verdicts
from cifar_helpers.course.workspace import home_folder, newest_rows, read_figure
from cifar_helpers.runtime import environment_line, pick_device

__all__ = ["write_report"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem }
nav a { margin-right: 1rem; white-space: nowrap } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th { text-align: left; border-bottom: 2px solid #888 }
th, td { padding: .3rem .6rem; vertical-align: top } td { border-bottom: 1px solid #e5e5e5 }
td.number, th.number { text-align: right }
figure { margin: 2rem 0 } figure img { max-width: 100%; height: auto } figcaption { font-size: .9rem }
.facts { color: #595959; font-size: .85rem }
.synthetic { background: #fff3cd; padding: .6rem 1rem; border-left: 4px solid #e0a800 }
"""


def write_report(out: Path, results: list[NotebookResult]) -> Path:
    """Write `report.html` below `out` from its notebooks, figures and run log and the results; return its path.

    What became of the hypotheses comes first, then the runs and the figures, by notebook; the machine is last. The page
    needs no other file: every picture is inside. Pictures that this program did not write are left out.

    Raises:
        ValueError: there is a report.html that this program did not write.
    """
    require_path("out", out)
    known = all(isinstance(result, NotebookResult) for result in results)
    require(known, "results", results, "NotebookResults, such as run_notebooks returns")
    found = {figure: fact for figure in (out / "figures").glob("*.png") if (fact := read_figure(figure))}
    facts = {path: found[path] for path in sorted(found, key=lambda path: (path.name[:2], path.stat().st_mtime_ns))}
    rows = read_lines(out / "figures" / "runs.jsonl")
    synthetic = any(fact.get("data_source") == "synthetic" for fact in facts.values())
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    by_notebook: dict[str, list[str]] = {}
    for path, fact in facts.items():
        by_notebook.setdefault(fact.get("notebook", "?"), []).append(_figure_block(path, fact))
    sections = {
        "What became of the hypotheses": _verdicts_table([result.executed for result in results]),
        "Runs": _results_table(rows),
        **{f"Figures of {name}": "\n".join(blocks) for name, blocks in by_notebook.items()},
        "Time and memory": _times_table(results),
        "Environment": f"<p>{html.escape(environment_line(pick_device()))}</p>",
    }
    links = [f"<a href='#s{i}'>{html.escape(title)}</a>" for i, title in enumerate(sections)]
    parts = [
        f"<h1>CIFAR notebooks: report</h1><p class='facts'>{html.escape(now)}</p>",
        "<p class='synthetic'>Made from synthetic data: no number on this page is about CIFAR.</p>" * synthetic,
        f"<nav>{' '.join(links)}</nav>",
        *(f"<h2 id='s{i}'>{html.escape(title)}</h2>{text}" for i, (title, text) in enumerate(sections.items())),
    ]
    about = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html><html lang='en'>{about}{GENERATOR}<title>CIFAR notebooks: report</title>"
    page = out / "report.html"
    write_own(page, "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</html>\n"]).encode())
    return page


def _verdicts_table(executed: list[Path]) -> str:
    """Return what the executed notebooks say of their hypotheses, beside what the published ones say."""
    rows = []
    for path in filter(Path.is_file, executed):
        published = home_folder() / "notebooks" / path.name
        known = {row[0]: f"{row[1]}: {row[2]}" for row in read_verdicts(published)} if published.is_file() else {}
        rows += [[path.stem, *row, known.get(row[0], "–")] for row in read_verdicts(path)]
    columns = ["notebook", "hypothesis", "here", "measured here", "in the published notebook"]
    return _table(columns, rows, numeric_from=len(columns)) if rows else "<p>No notebook came to its end.</p>"


def _table(columns: list[str], rows: list[list[str]], numeric_from: int) -> str:
    """Return an HTML table; columns from `numeric_from` on are set flush right."""

    def line(cells: list[str], tag: str) -> str:
        marks = [" class='number'" if i >= numeric_from else "" for i in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for c, m in zip(cells, marks, strict=True)) + "</tr>"

    body = "".join(line([html.escape(c) for c in row], "td") for row in rows)
    return f"<div class='wide'><table>{line(columns, 'th')}{body}</table></div>"


def _results_table(rows: list[dict[str, Any]]) -> str:
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
    table = _table(columns, cells, numeric_from=5) if cells else "<p>No network was trained.</p>"
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
    return _table(["notebook", "outcome", "seconds", "peak memory (GiB)"], cells, numeric_from=2)


def _figure_block(path: Path, facts: dict[str, str]) -> str:
    """Return one figure with its caption and its provenance, the picture inside the page."""
    picture = base64.b64encode(path.read_bytes()).decode()
    title, caption = (html.escape(facts.get(key, "")) for key in ("title", "caption"))
    source = " · ".join(facts.get(key, "?") for key in ("notebook", "profile", "device"))
    return (
        f"<figure id='{html.escape(path.stem)}'><img alt='{title}' src='data:image/png;base64,{picture}'>"
        f"<figcaption><strong>{title}.</strong> {caption}<br><span class='facts'>{html.escape(source)} · "
        f"{html.escape(facts.get('data_source', '?'))} data</span></figcaption></figure>"
    )
