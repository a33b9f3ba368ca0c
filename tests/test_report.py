"""Executing notebooks with real kernels: good ones, failing ones and ones whose kernel is killed."""

import os
import time
from pathlib import Path

import nbformat
import pytest

from cifar_helpers.__main__ import main
from cifar_helpers.official import SOURCES
from cifar_helpers.recipes import CHAIN, find_runs, read_judged
from cifar_helpers.report import (
    BEGIN,
    END,
    execute,
    fill_results,
    find_notebooks,
    merge_streams,
    results_markdown,
    run_notebooks,
    write_report,
)
from cifar_helpers.runs import Workspace, kept_path, read_kept
from cifar_helpers.storage import append_line, read_lines


def write_notebook(path, *sources: str):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, path)
    return path


DRAW = """
import matplotlib.pyplot as plt
from cifar_helpers.runs import open_workspace
figure, ax = plt.subplots()
ax.set_title("A line")
ax.plot([1, 2])
path = open_workspace("01_good", "quick", "cpu", ["real"]).save_figure(figure, "line", "It rises & rises.")
plt.show()
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the output folder and the results of a good and a failing notebook, executed in this order."""
    folder = tmp_path_factory.mktemp("notebooks")
    out = folder / "build"
    write_notebook(folder / "01_good.ipynb", DRAW, "print('a')\nprint('b')", "import os; os.environ['CIFAR_PROFILE']")
    write_notebook(folder / "02_bad.ipynb", "x = 1", "raise KeyError('no such class')", "print('never')")
    environment = {"CIFAR_PROFILE": "quick", "CIFAR_OUT": str(out)}
    return out, run_notebooks(find_notebooks(folder), out, environment)


def test_a_good_notebook_leaves_a_clean_executed_copy(executed):
    _, (good, _) = executed
    assert good.error is None
    assert good.seconds > 0
    assert good.peak_bytes > 20 * 2**20
    cells = nbformat.read(good.executed, as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    assert cells[1].outputs[0].text == "a\nb\n"
    assert cells[2].outputs[0].data["text/plain"] == "'quick'"
    assert "image/png" in cells[0].outputs[-1].data
    assert all("execution" not in cell.metadata for cell in cells)


def test_a_failing_notebook_names_cell_and_error_and_stops_there(executed):
    _, (_, bad) = executed
    assert bad.error == "cell 2: KeyError: 'no such class'"
    cells = nbformat.read(bad.executed, as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, None]


def test_the_report_is_one_page_with_everything_inside(executed):
    out, results = executed
    page = write_report(out, results).read_text(encoding="utf-8")
    for words in ("A line", "It rises &amp; rises.", "01_good · quick · cpu", "real data", "KeyError", "torch"):
        assert words in page
    assert page.count("data:image/png;base64,") == 1
    assert "src='data:" in page
    assert "stand-in:" not in page


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_dead_kernel_is_noticed_within_ten_seconds(tmp_path):
    last_words = f"open({str(tmp_path / 'time')!r}, 'w').write(str(time.time()))"
    path = write_notebook(
        tmp_path / "01_killed.ipynb", "import os, signal, time", f"{last_words}\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    result = execute(path, tmp_path / "copy.ipynb", {})
    assert time.time() - float((tmp_path / "time").read_text()) < 10
    assert result.error == "cell 2: the kernel died (out of memory, or killed from outside)"
    assert result.executed.exists()


def test_a_cell_that_takes_too_long_is_named(tmp_path):
    path = write_notebook(tmp_path / "01_slow.ipynb", "import time", "time.sleep(60)")
    result = execute(path, tmp_path / "copy.ipynb", {}, timeout=2)
    assert result.error.startswith("cell 2: ")


def test_notebooks_are_found_in_order_and_by_number(tmp_path):
    for name in ("10_b.ipynb", "02_a.ipynb", "notes.ipynb"):
        write_notebook(tmp_path / name)
    assert [path.name for path in find_notebooks(tmp_path)] == ["02_a.ipynb", "10_b.ipynb"]
    assert [path.name for path in find_notebooks(tmp_path, "10")] == ["10_b.ipynb"]
    with pytest.raises(ValueError, match="only='07'"):
        find_notebooks(tmp_path, "07")


def test_pieces_of_a_stream_are_joined():
    out, err = (
        lambda text, n=name: nbformat.v4.new_output("stream", name=n, text=text) for name in ("stdout", "stderr")
    )
    cell = nbformat.v4.new_code_cell(outputs=[out("a"), out("b"), err("c"), out("d")])
    merge_streams(cell)
    assert [(o.name, o.text) for o in cell.outputs] == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


# --- the command line ---


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a folder with two notebooks, in which the commands run on a stand-in for the data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cifar_helpers.__main__.prepare", lambda *_: {"CIFAR_PROFILE": "quick"})
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks" / "01_good.ipynb", "print('fine')")
    return tmp_path


def test_run_ends_with_the_path_of_the_report(project, capsys):
    assert main(["run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(project / "build" / "report.html")
    assert (project / "build" / "notebooks" / "01_good.ipynb").exists()
    assert any("01_good  cell  1 of 1" in line for line in lines)


def test_a_failing_notebook_makes_the_exit_status_1(project, capsys):
    write_notebook(project / "notebooks" / "02_bad.ipynb", "1 / 0")
    assert main(["run"]) == 1
    printed = capsys.readouterr().out
    assert "cell 1: ZeroDivisionError: division by zero" in printed
    assert f"executed copy: {Path('build/notebooks/02_bad.ipynb')}" in printed
    assert (project / "build" / "report.html").exists()


def test_publish_executes_in_place_and_leaves_a_failing_notebook_alone(project):
    bad = write_notebook(project / "notebooks" / "02_bad.ipynb", "1 / 0")
    before = bad.read_bytes()
    assert main(["publish", "--profile", "quick"]) == 1
    good = nbformat.read(project / "notebooks" / "01_good.ipynb", as_version=4)
    assert good.cells[0].outputs[0].text == "fine\n"
    assert bad.read_bytes() == before


def test_publish_refuses_a_lower_profile_than_the_published_one(project, capsys):
    notebook = project / "notebooks" / "01_good.ipynb"
    output = nbformat.v4.new_output("stream", text="laptop profile, real data: both\n")
    cell = nbformat.v4.new_code_cell("print('laptop')", execution_count=1, outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    assert main(["publish", "--profile", "quick"]) == 2
    assert "published in the higher profile 'laptop'" in capsys.readouterr().err


def test_run_never_clears_the_published_figures(project, capsys):
    (project / "figures").mkdir()
    (project / "figures" / "runs.jsonl").write_text("{}")
    assert main(["run", "--out", "."]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert (project / "figures" / "runs.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--only", "09"], "only='09'"),
        (["run", "--notebooks", "nowhere"], "no such notebook in nowhere"),
    ],
)
def test_what_the_caller_must_mend_is_said_with_status_2(project, capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_profile_is_said_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks" / "01_good.ipynb", "1")
    assert main(["run", "--profile", "quik"]) == 2
    assert "Did you mean 'quick'?" in capsys.readouterr().err


def test_doctor_prints_the_machine(capsys):
    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out


# --- the table of results ---

ROOT = Path(__file__).resolve().parent.parent


def test_the_readme_says_what_the_ledger_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n{results_markdown(ROOT)}\n{END}" in readme, "python -m cifar_helpers report"


@pytest.mark.parametrize("dataset", SOURCES)
def test_what_notebook_08_reads_is_published_and_of_one_network(dataset):
    """Else it would train for an hour where a clone should only read, or join one network's figures with another's."""
    workspace = Workspace("report", "full", "", "real", ROOT, ROOT / "build")
    receipts = [row for row in read_lines(workspace.receipts) if row["kind"] == "final" and row["dataset"] == dataset]
    asked = [(step, 0) for step in CHAIN] + [(CHAIN[-1], 1), (CHAIN[-1], 2)]
    for step, seed in asked:
        row = find_runs(dataset, workspace, seed)[step]
        judged = read_judged(row, workspace, logits=(step, seed) == (CHAIN[-1], 0))
        assert judged, row["name"]
        weights = read_kept(kept_path(workspace.figures, row["name"], "ranks"))[1]["weights"]
        receipt = [receipt for receipt in receipts if receipt["purpose"] == row["name"]][-1]
        assert (receipt["run_hash"], receipt["weights"]) == (row["run_hash"], weights)
        assert receipt["result"]["correct"] == int((judged.ranks == 0).sum())


def test_a_step_without_a_run_on_real_data_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_helpers.recipes.home_folder", lambda: tmp_path)
    for row in read_lines(ROOT / "figures" / "runs.jsonl"):
        if row["name"] != "cnn-cifar100":
            append_line(tmp_path / "figures" / "runs.jsonl", row)
    with pytest.raises(ValueError, match="no run of 'cnn' on cifar100: python -m cifar_helpers train cnn"):
        results_markdown(tmp_path)


def test_a_test_accuracy_comes_from_the_receipt_of_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar_helpers.recipes.home_folder", lambda: tmp_path)
    rows = read_lines(ROOT / "figures" / "runs.jsonl")
    for row in rows:
        append_line(tmp_path / "figures" / "runs.jsonl", row)
    finals = [row for row in rows if row["name"] == "final-cifar10" and row["data_source"] == "real"]
    result = {"loss_sum": 1.0, "correct": 8_950, "count": 10_000}
    append_line(
        tmp_path / "figures" / "receipts.jsonl", {"kind": "final", "run_hash": finals[-1]["run_hash"], "result": result}
    )
    append_line(tmp_path / "figures" / "receipts.jsonl", {"kind": "final", "run_hash": "another", "result": result})
    table = results_markdown(tmp_path)
    assert table.count("89.5 (88.9 to 90.1)") == 1
    assert "89.5" in next(line for line in table.splitlines() if line.startswith("| final |"))


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# A page\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        fill_results(page, "table")
    assert page.read_text() == "# A page\n"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    fill_results(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
