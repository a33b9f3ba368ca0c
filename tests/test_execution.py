"""Executing notebooks with real kernels: good ones, failing ones and ones whose kernel is killed."""

import os
import re
import time
from pathlib import Path

import nbformat
import pytest
from notebook_files import DRAW, write_notebook

from cifar_helpers.course.execution import (
    _Schedule,
    execute,
    expected_seconds,
    merge_streams,
    replace_source,
    run_notebooks,
)
from cifar_helpers.course.notebooks import NotebookResult, find_notebooks, notebook_metadata

ROOT = Path(__file__).resolve().parents[1]


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
    assert cells[0].outputs[-1].metadata["image/png"]["alt"] == "A line. It rises & rises."
    assert all("execution" not in cell.metadata for cell in cells)


def test_a_failing_notebook_names_cell_and_error_and_stops_there(executed):
    _, (_, bad) = executed
    assert bad.error == "cell 2: KeyError: 'no such class'"
    cells = nbformat.read(bad.executed, as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, None]


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
    assert [path.name for path in find_notebooks(tmp_path, ["10"])] == ["10_b.ipynb"]
    assert [path.name for path in find_notebooks(tmp_path, ["notebooks/10_b.ipynb", "2"])] == [
        "02_a.ipynb",
        "10_b.ipynb",
    ]
    with pytest.raises(ValueError, match="--only 7: no such notebook"):
        find_notebooks(tmp_path, ["2", "7"])


def test_pieces_of_a_stream_are_joined():
    out, err = (
        lambda text, n=name: nbformat.v4.new_output("stream", name=n, text=text) for name in ("stdout", "stderr")
    )
    cell = nbformat.v4.new_code_cell(outputs=[out("a"), out("b"), err("c"), out("d")])
    merge_streams(cell)
    assert [(o.name, o.text) for o in cell.outputs] == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


def test_outside_the_repository_it_is_said_what_is_needed(tmp_path):
    with pytest.raises(
        ValueError, match=r"no notebooks in .*: expected the folder notebooks/ of the repository"
    ) as error:
        find_notebooks(tmp_path / "notebooks")
    assert "git clone https://" in str(error.value)
    assert f"--notebooks {ROOT / 'notebooks'}" in str(error.value)
    write_notebook(tmp_path / "notes.ipynb")
    with pytest.raises(ValueError, match="no notebooks in"):
        find_notebooks(tmp_path, ["01"])


def test_an_executed_copy_takes_the_place_of_its_source_alone(tmp_path):
    path = write_notebook(tmp_path / "01_good.ipynb", "print('fine')")
    result = execute(path, tmp_path / "copy.ipynb", {})
    before = path.read_bytes()
    path.write_bytes(before + b"\n")  # changed while it ran
    with pytest.raises(ValueError, match="changed while it was executed"):
        replace_source(path, result)
    assert path.read_bytes() == before + b"\n"
    path.write_bytes(before)
    replace_source(path, result)
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].outputs[0].text == "fine\n"
    assert notebook.metadata == notebook_metadata(path.name)
    path.unlink()
    with pytest.raises(ValueError, match="changed while it was executed"):
        replace_source(path, result)


def test_a_source_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "01_good.ipynb", "1")
    result = execute(path, tmp_path / "copy.ipynb", {})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        replace_source(path, result)
    assert path.read_bytes() == before


# --- how long it will take ---

MINUTES = """
from cifar_helpers.course import BASELINE, Work, expect, get_budget
from cifar_helpers.runtime import pick_device
expected = expect([Work(BASELINE, 100)] * 0, get_budget(), pick_device(), other_seconds=SECONDS)
print(expected)
"""


def notebook_with_minutes(path, seconds):
    write_notebook(
        path, "%matplotlib inline", f"SECONDS = {seconds}", MINUTES, "raise RuntimeError('not before its turn')"
    )
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata["tags"] = ["minutes"]
    nbformat.write(notebook, path)
    return path


def test_a_notebook_says_how_long_it_takes_without_being_run(tmp_path, capfd):
    good = notebook_with_minutes(tmp_path / "01_long.ipynb", 300)
    assert expected_seconds([good], {"CIFAR_PROFILE": "laptop"}) == {"01_long": 300}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seconds", ["1 / 0", "__import__('sys').exit(3)", "1\nexpected = 5"])
def test_a_notebook_that_does_not_say_is_named(tmp_path, capfd, seconds):
    good = notebook_with_minutes(tmp_path / "01_long.ipynb", 300)
    broken = notebook_with_minutes(tmp_path / "02_broken.ipynb", seconds)
    silent = write_notebook(tmp_path / "03_silent.ipynb", "expected = 3")
    if "expected" in seconds:
        broken = write_notebook(broken, "%matplotlib inline", "expected = 5")
    assert expected_seconds([broken, good, silent], {}) == {"01_long": 300}
    said = capfd.readouterr().err
    assert "02_broken does not say how long it takes" in said
    assert "03_silent does not say" in said


def test_a_series_says_what_is_left_of_it(tmp_path, capsys):
    paths = [notebook_with_minutes(tmp_path / f"0{i}_long.ipynb", 100 * i) for i in (1, 2)]
    run_notebooks(paths, tmp_path / "out", {"CIFAR_DATA": "synthetic", "CIFAR_PROFILE": "quick"})
    said = capsys.readouterr().out
    assert "notebooks: 2, about 5 minutes on this machine" in said
    assert re.search(r"01_long +cell +1 of 4 .* about 5 minutes left", said)


def finished(name, seconds, error=None):
    return NotebookResult(name, seconds, 0, Path(), error, b"")


def test_what_is_left_follows_what_the_first_notebooks_took():
    schedule = _Schedule({"a": 100.0, "b": 200.0, "c": 50.0, "d": 10.0})
    assert schedule.left("a", 30.0) == 330
    schedule.finish(finished("a", 200.0))
    assert schedule.left("b", 0.0) == 520
    assert schedule.left("b", 450.0) == 120  # longer than expected: nothing is left of it, and all of the next
    schedule.finish(finished("b", 1.0, "cell 1 failed"))
    assert schedule.left("c", 0.0) == 120
    assert _Schedule({}).left("a", 1.0) is None
