"""The tables of the README: results, from the run log and the test-access log, and speed, from the benchmarks."""

import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from cifar_helpers._arguments import require, require_path
from cifar_helpers._storage import read_lines, write_whole
from cifar_helpers.course.recipes import CHAIN, RECIPES, find_runs, name_weights
from cifar_helpers.course.workspace import Workspace, published_folder
from cifar_helpers.data.download import SOURCES
from cifar_helpers.statistics import wilson_interval

__all__ = ["RESULTS", "SPEED", "draw_ladder", "fill_table", "results_markdown", "speed_markdown"]

# The lines between which each table stands.
RESULTS = "<!-- results: filled by `python -m cifar_helpers report` -->", "<!-- end of results -->"
SPEED = "<!-- speed: filled by `python -m cifar_helpers report` from benchmarks/results -->", "<!-- end of speed -->"


def results_markdown(home: Path) -> str:
    """Return the results of the recipe on real data as a Markdown table, from the two logs in `home`/figures.

    The chain, and behind it the fine-tuned network, where it was trained on both data sets.

    Raises:
        ValueError: a step of the chain has no run on one of the data sets.
    """
    require_path("home", home)
    workspace = Workspace("report", "full", "", "real", home, home / "build" / "checkpoints")
    found = _find_chain(workspace)
    looks = [
        row for folder in (published_folder(), workspace.figures) for row in read_lines(folder / "test_access.jsonl")
    ]
    heads = " | ".join(f"{s.title} validation (%) | {s.title} test (%) | seconds" for s in SOURCES.values())
    lines = [f"| step | notebook | {heads} |", "|---|---|" + "---:|" * 3 * len(SOURCES)]
    steps = _shown_steps(found)
    for step in steps:
        cells = [cell for dataset in SOURCES for cell in _result_cells(found[dataset][step], looks)]
        lines.append(f"| {step} | {RECIPES[step].notebook} | {' | '.join(cells)} |")
    rows = [found[dataset][step] for dataset in SOURCES for step in steps]
    made = sorted({f"{row['profile']} profile, {row['device']} in {row['versions']['dtype']}" for row in rows})
    twice = " and ".join(step for step in steps if RECIPES[step].tta)
    about = (
        f"{' and '.join(made)}; one seed, best epoch by validation, one view. Test: with Wilson's 95 % interval, from "
        f"the test-access log, two views for {twice}."
    )
    if any(" – " in line for line in lines):
        about += " –: the test split was not opened for it."
    weights = "; ".join(name_weights(row) for row in rows)
    details = f"<details><summary>Checkpoints, first digits of SHA-256</summary>{weights}</details>"
    return "\n".join([*lines, "", about, "", details])


def _find_chain(workspace: Workspace) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the rows of the run log by data set and step, or raise a ValueError that names what is missing."""
    found = {dataset: find_runs(dataset, workspace) for dataset in SOURCES}
    for dataset, step in itertools.product(SOURCES, CHAIN):
        if step not in found[dataset]:
            advice = f"CIFAR_OUT=. python -m cifar_helpers train {step}, or make publish"
            raise ValueError(f"{workspace.run_log} has no run of {step!r} on {dataset}: {advice}")
    return found


def draw_ladder(home: Path) -> Path | None:
    """Draw the validation accuracy of every step on both data sets, from the runs of `results_markdown`.

    Raises:
        ValueError: as there.
    """
    from cifar_helpers import plots  # matplotlib takes a second

    require_path("home", home)
    workspace = Workspace("README", "full", "", "real", home, home / "build" / "checkpoints")
    found = _find_chain(workspace)
    steps = _shown_steps(found)
    plots.figure_style()
    figure, axes = plots.new_axes(1, 2, size=(5, 2.9))
    for ax, (dataset, source) in zip(axes, SOURCES.items(), strict=True):
        chance = 1 / source.num_classes
        accuracies = {step: found[dataset][step]["val_accuracy"] for step in steps}
        plots.plot_accuracies({"chance": chance} | accuracies, chance, f"{source.title}: every step", ax=ax)
    weights = "; ".join(name_weights(found[dataset][step]) for dataset in SOURCES for step in steps)
    made = {key: found["cifar10"][CHAIN[0]][key] for key in ("profile", "device")}
    caption = f"Validation accuracy of every step, one view. {weights}"
    return replace(workspace, **made).save_figure(figure, "ladder", caption)


def _shown_steps(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the steps of the chain, and behind them the fine-tuned network where it was trained on all data sets."""
    return [*CHAIN, *(["finetuned"] if all("finetuned" in known for known in found.values()) else [])]


def _result_cells(row: dict[str, Any], looks: list[dict[str, Any]]) -> list[str]:
    """Return validation accuracy, test accuracy and seconds of a run."""
    scored = [look for look in looks if look["kind"] == "final" and look["run_hash"] == row["run_hash"]]
    test = "–"
    if scored:
        correct, count = scored[-1]["result"]["correct"], scored[-1]["result"]["count"]
        low, high = wilson_interval(correct, count)
        test = f"{correct / count:.1%} ({low:.1%} to {high:.1%})".replace("%", "")
    return [f"{100 * row['val_accuracy']:.1f}", test, f"{row['seconds']:.0f}"]


def speed_markdown(home: Path) -> str:
    """Return what the benchmarks measured, from `home`/benchmarks/results, as three Markdown tables.

    Raises:
        ValueError: a result is missing.
    """
    folder = home / "benchmarks" / "results"
    rates, busy = (_read_result(folder / name) for name in ("step_rate.json", "busy_cores.json"))
    runs = [_read_result(path) for path in sorted(folder.glob("time_*.json"))]
    parts = [
        "Images per second in training, and the largest memory of the process:",
        _rate_table(rates["rows"]),
        "The study network beside another program, against all threads on every operation:",
        _busy_table(busy["rows"]),
        f"Medians, and ranges over n turns: `make bench`, on {_machine(rates)}; the second table on {_machine(busy)}. "
        "Of a matrix product: operations per second of our training, as a share of those of a large matrix product in "
        "its number format.",
        "All 45,000 training images to validation accuracy, mean and range over seeds:",
        _run_table(runs),
        _ordinary_minutes(rates),
    ]
    return "\n\n".join(parts)


def _read_result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no {path}: make bench")
    return json.loads(path.read_text(encoding="utf-8"))


def _machine(result: dict[str, Any]) -> str:
    """Return what a benchmark ran on."""
    known = result["environment"]
    threads = f", {known['threads']} threads" if known["device"] == "cpu" else ""
    return f"{known['device']}{threads}, {known['dtype']}, torch {known['torch']}"


def _rate_table(rows: list[dict[str, Any]]) -> str:
    titles = ["network", "ours", "everyday loop", "ours is", "bare step", "of a matrix product"]
    lines = [f"| {' | '.join(titles)} | memory (GB), ours / everyday | n |", "|---|" + "---:|" * (len(titles) + 1)]
    for model in dict.fromkeys(row["model"] for row in rows):
        ours, everyday, bare = (next(r for r in rows if (r["model"], r["loop"]) == (model, loop)) for loop in _LOOPS)
        memory = f"{ours['peak_bytes'] / 1e9:.1f} / {everyday['peak_bytes'] / 1e9:.1f}"
        rates = [_with_range(row["rates"]) for row in (ours, everyday, bare)]
        share = f"{100 * statistics.median(ours['shares']):.0f} %"
        ratio, turns = f"{everyday['ratio']:.1f} ×", f"{len(ours['rates'])}"
        cells = [model, *rates[:2], ratio, rates[2], share, memory, turns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_LOOPS = ("ours", "everyday", "bare")


def _busy_table(rows: list[dict[str, Any]]) -> str:
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = [f"| beside | {' | '.join(ways)} | n |", "|---|" + "---:|" * (len(ways) + 1)]
    for load in dict.fromkeys(row["beside"] for row in rows):
        chosen = [next(r for r in rows if (r["beside"], r["way"]) == (load, way)) for way in ways]
        cells = [f"{_with_range(row['rates'])}, {row['ratio']:.2f} ×" for row in chosen]
        lines.append(f"| {load} | {' | '.join(cells)} | {len(chosen[0]['rates'])} |")
    return "\n".join(lines)


def _run_table(results: list[dict[str, Any]]) -> str:
    titles = ["recipe", "data", "machine", "seconds", "one view (%)", "mirrored too (%)", "n"]
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---:|---:|---:|---:|"]
    for result in sorted(results, key=lambda result: (result["dataset"], result["rows"][0]["seconds"])):
        rows = result["rows"]
        columns = [[row["seconds"] for row in rows], *([100 * row[k] for row in rows] for k in ("single", "mirrored"))]
        cells = [f"{_mean_range(column, digits)}" for column, digits in zip(columns, (0, 1, 1), strict=True)]
        changes = "".join(f", {name}={value}" for name, value in result["change"].items())
        about = [result["recipe"] + changes, SOURCES[result["dataset"]].title, _machine(result)]
        lines.append(f"| {' | '.join(about + cells)} | {len(rows)} |")
    return "\n".join(lines)


# For 92 to 93 % with a ResNet-18, at least: 20 to 30 epochs, says the tutorial.
_ORDINARY_EPOCHS = 20
_TUTORIAL = "https://lightning.ai/docs/pytorch/stable/notebooks/lightning_examples/cifar10-baseline.html"


def _ordinary_minutes(rates: dict[str, Any]) -> str:
    """Return how long the everyday loop would take with ResNet-18, from its measured rate."""
    row = next(row for row in rates["rows"] if (row["model"], row["loop"]) == ("resnet18", "everyday"))
    minutes = _ORDINARY_EPOCHS * 45_000 / statistics.median(row["rates"]) / 60
    return (
        f"For comparison: at its rate in the first table the everyday loop would take {minutes:,.0f} minutes for "
        f"{_ORDINARY_EPOCHS} epochs of a ResNet-18. [Lightning's tutorial]({_TUTORIAL}) reports 92 to 93 % after 20 to "
        "30. We have not run it to the end."
    )


def _with_range(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _mean_range(values: list[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def fill_table(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put a table between its two marks in a Markdown file.

    Raises:
        ValueError: there is no such file, or it lacks the marks.
    """
    two = isinstance(marks, list | tuple) and len(marks) == 2
    require(two, "marks", marks, "two, such as RESULTS: the lines before and behind the table")
    if not page.is_file():
        raise ValueError(f"there is no {page}; expected the README of the repository: cd into it")
    begin, end = marks
    before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closing, after = rest.partition(end)
    if not (mark and closing):
        raise ValueError(f"{page} lacks the lines {begin!r} and {end!r}, between which the table stands")
    write_whole(page, f"{before}{begin}\n{text}\n{end}{after}".encode())
