import re
from pathlib import Path

import nbformat
import pytest

from cifar_helpers._storage import append_line, read_lines
from cifar_helpers.course.recipes import CHAIN, find_runs, read_result
from cifar_helpers.course.results import RESULTS, SPEED, fill_table, results_markdown, speed_markdown
from cifar_helpers.course.workspace import Workspace, kept_path, read_figure, read_kept
from cifar_helpers.data.download import SOURCES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_says_what_the_logs_say():
    for marks, text in ((RESULTS, results_markdown(ROOT)), (SPEED, speed_markdown(ROOT))):
        assert f"{marks[0]}\n{text}\n{marks[1]}" in README, "python -m cifar_helpers report"


def test_the_figure_of_the_readme_shows_the_runs_of_its_table():
    table = README.partition(RESULTS[0])[2].partition(RESULTS[1])[0]
    caption = read_figure(ROOT / "figures" / "README_ladder.png")["caption"]
    named = re.findall(r"[\w-]+: weights [0-9a-f]{12}", table)
    assert len(named) >= len(CHAIN) * len(SOURCES)
    assert named == re.findall(r"[\w-]+: weights [0-9a-f]{12}", caption), "python -m cifar_helpers report"
    assert "figures/README_ladder.png" in README


def test_what_the_readme_says_of_its_first_figure_stands_in_notebook_06():
    sentence = README.partition("figures/06_gap.png")[2].partition("##")[0]
    cells = nbformat.read(ROOT / "notebooks" / "06_augmentation.ipynb", as_version=4).cells
    printed = "".join(o.get("text", "") for cell in cells if cell.cell_type == "code" for o in cell.outputs)
    gains = re.findall(r"from 8 to 32 epochs \+(\d\.\d) points", printed)
    assert re.findall(r"gains (\d\.\d) points", sentence) == gains


ANSWERS = re.findall(r"^\| \[.*?\]\((notebooks/.*?)\) \| .*? \| (.*?) \| (\d+) \|$", README, flags=re.M)


@pytest.mark.parametrize(("path", "answer", "minutes"), ANSWERS)
def test_what_the_readme_says_of_a_notebook_stands_in_its_outputs(path, answer, minutes):
    cells = nbformat.read(ROOT / path, as_version=4).cells
    printed = "".join(o.get("text", "") for cell in cells if cell.cell_type == "code" for o in cell.outputs)
    numbers = re.findall(r"\d+(?:\.\d+)?", answer.replace("CIFAR-100", "").replace("CIFAR-10", ""))
    assert [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.]*\d)", printed)] == []
    assert f"about {minutes} minute" in printed


def test_the_readme_answers_for_all_notebooks():
    assert len(ANSWERS) == 8


def test_missing_benchmarks_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"step_rate\.json: make bench"):
        speed_markdown(tmp_path)


@pytest.mark.parametrize("dataset", SOURCES)
def test_what_notebook_08_reads_is_published_and_of_one_network(dataset):
    """Else it would train for an hour where a clone should only read, or join one network's figures with another's."""
    workspace = Workspace("report", "full", "", "real", ROOT, ROOT / "build")
    looks = [
        row for row in read_lines(workspace.test_access_log) if (row["kind"], row["dataset"]) == ("final", dataset)
    ]
    asked = [(step, 0) for step in CHAIN] + [(CHAIN[-1], 1), (CHAIN[-1], 2)]
    for step, seed in asked:
        row = find_runs(dataset, workspace, seed)[step]
        left = read_result(row, workspace, logits=(step, seed) == (CHAIN[-1], 0))
        assert left, row["name"]
        weights = read_kept(kept_path(workspace.figures, row["name"], "ranks"))[1]["weights"]
        look = [look for look in looks if look["purpose"] == row["name"]][-1]
        assert (look["run_hash"], look["weights"]) == (row["run_hash"], weights)
        assert look["result"]["correct"] == int((left.ranks == 0).sum())


def test_a_step_without_a_run_on_real_data_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_helpers.course.recipes.published_folder", lambda: tmp_path / "figures")
    for row in read_lines(ROOT / "figures" / "runs.jsonl"):
        if row["name"] != "cnn-cifar100":
            append_line(tmp_path / "figures" / "runs.jsonl", row)
    with pytest.raises(ValueError, match=r"no run of 'cnn' on cifar100: CIFAR_OUT=\. python -m .* cnn"):
        results_markdown(tmp_path)


def test_the_fine_tuned_network_is_shown_where_it_was_trained_on_both_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_helpers.course.recipes.published_folder", lambda: tmp_path / "figures")
    log = tmp_path / "figures" / "runs.jsonl"
    rows = read_lines(ROOT / "figures" / "runs.jsonl")
    tuned = [row for row in rows if row["name"].startswith("finetuned") and "-seed" not in row["name"]]
    for row in (row for row in rows if row not in tuned or row["dataset"] == "cifar10"):
        append_line(log, row)
    assert "| finetuned |" not in results_markdown(tmp_path)
    for row in tuned:
        append_line(log, row)
    assert "| finetuned | 07 |" in results_markdown(tmp_path)


def test_a_test_accuracy_comes_from_a_look_at_the_same_run(tmp_path, monkeypatch):
    for module in ("recipes", "results"):
        monkeypatch.setattr(f"cifar_helpers.course.{module}.published_folder", lambda: tmp_path / "figures")
    rows = read_lines(ROOT / "figures" / "runs.jsonl")
    for row in rows:
        append_line(tmp_path / "figures" / "runs.jsonl", row)
    finals = [row for row in rows if row["name"] == "final-cifar10" and row["data_source"] == "real"]
    result = {"loss_sum": 1.0, "correct": 8_950, "count": 10_000}
    for run_hash in (finals[-1]["run_hash"], "another"):
        look = {"kind": "final", "run_hash": run_hash, "result": result}
        append_line(tmp_path / "figures" / "test_access.jsonl", look)
    table = results_markdown(tmp_path)
    assert table.count("89.5 (88.9 to 90.1)") == 1
    assert "89.5" in next(line for line in table.splitlines() if line.startswith("| final |"))


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# A page\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        fill_table(page, RESULTS, "table")
    assert page.read_text() == "# A page\n"
    page.write_text(f"before\n{RESULTS[0]}\nold\n{RESULTS[1]}\nafter\n")
    fill_table(page, RESULTS, "new")
    assert page.read_text() == f"before\n{RESULTS[0]}\nnew\n{RESULTS[1]}\nafter\n"


def test_a_missing_page_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*README\.md; expected the README of the repository"):
        fill_table(tmp_path / "README.md", RESULTS, "table")
    assert not list(tmp_path.iterdir())
