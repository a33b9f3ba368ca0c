"""The table of results in the README, filled from the run log and the test-access log."""

from pathlib import Path
from typing import Any

from cifar_helpers._storage import read_lines, write_whole
from cifar_helpers.course.recipes import CHAIN, RECIPES, find_runs
from cifar_helpers.course.workspace import Workspace
from cifar_helpers.data.download import SOURCES
from cifar_helpers.statistics import wilson_interval

__all__ = ["BEGIN", "END", "fill_results", "results_markdown"]

BEGIN, END = "<!-- results: filled by `python -m cifar_helpers report` -->", "<!-- end of results -->"


def results_markdown(home: Path) -> str:
    """Return the results of the recipe on real data as a Markdown table, from the two logs in `home`/figures.

    Raises:
        ValueError: a step of the chain has no run on one of the data sets.
    """
    workspace = Workspace("report", "full", "", "real", home, home / "build" / "checkpoints")
    found = {dataset: find_runs(dataset, workspace) for dataset in SOURCES}
    looks = read_lines(workspace.test_access_log)
    heads = " | ".join(f"{s.title} validation (%) | {s.title} test (%) | seconds" for s in SOURCES.values())
    lines = [f"| step | notebook | {heads} |", "|---|---|" + "---:|" * 3 * len(SOURCES)]
    for step in CHAIN:
        cells = [cell for dataset in SOURCES for cell in _result_cells(step, dataset, found[dataset], looks)]
        lines.append(f"| {step} | {RECIPES[step].notebook} | {' | '.join(cells)} |")
    rows = [found[dataset][step] for dataset in SOURCES for step in CHAIN]
    made = sorted({f"{row['profile']} profile, {row['device']} in {row['versions']['dtype']}" for row in rows})
    twice = ", ".join(step for step in CHAIN if RECIPES[step].tta)
    about = (
        f"{' and '.join(made)}; one seed, best epoch by validation, one view. Test: with Wilson's 95 % interval, from "
        f"the test-access log, two views for {twice}."
    )
    if any(" – " in line for line in lines):
        about += " –: the test split was not opened for it."
    return "\n".join([*lines, "", about])


def _result_cells(step: str, dataset: str, found: dict[str, dict[str, Any]], looks: list[dict[str, Any]]) -> list[str]:
    """Return validation accuracy, test accuracy and seconds of one step on one data set."""
    if step not in found:
        raise ValueError(f"the run log has no run of {step!r} on {dataset}: python -m cifar_helpers train {step}")
    row = found[step]
    scored = [look for look in looks if look["kind"] == "final" and look["run_hash"] == row["run_hash"]]
    test = "–"
    if scored:
        correct, count = scored[-1]["result"]["correct"], scored[-1]["result"]["count"]
        low, high = wilson_interval(correct, count)
        test = f"{correct / count:.1%} ({low:.1%} to {high:.1%})".replace("%", "")
    return [f"{100 * row['val_accuracy']:.1f}", test, f"{row['seconds']:.0f}"]


def fill_results(page: Path, text: str) -> None:
    """Put the table between its two marks in a Markdown file.

    Raises:
        ValueError: there is no such file, or it lacks the marks.
    """
    if not page.is_file():
        raise ValueError(f"there is no {page}; expected the README of the repository: cd into it")
    before, mark, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}, between which the results stand")
    write_whole(page, f"{before}{BEGIN}\n{text}\n{END}{after}".encode())
