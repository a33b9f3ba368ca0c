"""JupyterLab on copies: nothing of a reader's is overwritten, and the copies find the package and the data."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from notebook_files import write_notebook

from cifar_helpers.course import commands
from cifar_helpers.course.commands import main
from cifar_helpers.course.lab import copy_notebooks, require_lab

ROOT = Path(__file__).resolve().parent.parent

# Stands for JupyterLab, which takes seconds to start: `make browser-test` starts it.
PROGRAM = """
import json, os, pathlib, sys
names = "CIFAR_OUT", "CIFAR_PROFILE", "PYTHONPATH"
seen = {"arguments": sys.argv[1:], **{name: os.environ.get(name) for name in names}}
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(seen))
sys.exit(5)
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Work in a folder with notebooks, pages they link to, and a program that stands for JupyterLab."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setattr(commands, "prepare", lambda profile, _: {"CIFAR_PROFILE": profile})
    (tmp_path / "jupyterlab.py").write_text(PROGRAM)
    for name, content in {"benchmarks/NOTES.md": "notes", "notebooks/README.md": "words", "README.md": "all"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    write_notebook(tmp_path / "notebooks" / "01_a.ipynb", "'[contents](../README.md)'", "'[n](../benchmarks/NOTES.md)'")
    write_notebook(tmp_path / "notebooks" / "02_b.ipynb", "2")
    return tmp_path


@pytest.fixture
def copies(course):
    """Return a function that copies the notebooks and returns the names of the copies that are behind."""
    sources = sorted((course / "notebooks").glob("*.ipynb"))
    return lambda: [copy.name for copy in copy_notebooks(sources, course / "build" / "lab" / "notebooks")]


def read(folder: Path) -> dict[str, str]:
    """Return the visible files of a folder, by name."""
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


def test_copies_link_to_the_pages_beside_them(course, copies):
    before = read(course / "notebooks")
    assert copies() == []
    made = read(course / "build" / "lab" / "notebooks")
    assert made == before | {
        "NOTES.md": "notes",
        "01_a.ipynb": before["01_a.ipynb"].replace("../README.md", "README.md").replace("../benchmarks/", ""),
    }
    assert made["README.md"] == "words"  # the contents that the notebooks have themselves
    assert read(course / "notebooks") == before


def test_the_notebooks_of_the_course_link_to_nothing_that_their_copies_lack(tmp_path):
    copy_notebooks(sorted((ROOT / "notebooks").glob("*.ipynb")), tmp_path / "copies")
    texts = read(tmp_path / "copies")
    assert len(texts) > 8
    assert not [name for name, text in texts.items() if "](../" in text]
    assert "NOTES.md" in texts


def test_a_copy_that_was_changed_is_never_overwritten(course, copies):
    copies()
    folder = course / "build" / "lab" / "notebooks"
    (folder / "01_a.ipynb").write_text("mine")
    (folder / "02_b.ipynb").unlink()
    assert copies() == []
    assert read(folder)["01_a.ipynb"] == "mine"  # and there is nothing newer
    assert read(folder)["02_b.ipynb"] == read(course / "notebooks")["02_b.ipynb"]  # made again
    for name in ("01_a.ipynb", "02_b.ipynb"):
        write_notebook(course / "notebooks" / name, "'newer'")
    for _ in range(2):
        assert copies() == ["01_a.ipynb"]
        assert read(folder)["01_a.ipynb"] == "mine"
        assert read(folder)["02_b.ipynb"] == read(course / "notebooks")["02_b.ipynb"]  # nobody had changed it
    (folder / "01_a.ipynb").rename(folder / "01_mine.ipynb")
    assert copies() == []
    assert "newer" in read(folder)["01_a.ipynb"]
    assert read(folder)["01_mine.ipynb"] == "mine"


def test_without_its_log_every_copy_counts_as_changed(course, copies):
    copies()
    folder = course / "build" / "lab" / "notebooks"
    (folder / ".copies.jsonl").unlink()
    assert copies() == []  # equal to their sources
    (folder / ".copies.jsonl").unlink()
    write_notebook(course / "notebooks" / "02_b.ipynb", "'newer'")
    before = read(folder)
    assert copies() == ["02_b.ipynb"]
    assert read(folder) == before


def test_a_folder_of_yours_gets_no_copies(course, capsys):
    (course / "build" / "lab" / "notebooks").mkdir(parents=True)
    (course / "build" / "lab" / "notebooks" / "01_a.ipynb").write_text("mine")
    assert main(["lab"]) == 2
    assert "was not made by cifar_helpers" in capsys.readouterr().err
    assert main(["lab", "--out", "."]) == 2  # where the notebooks of the course are
    assert not (course / "seen.json").exists()
    assert read(course / "build" / "lab" / "notebooks") == {"01_a.ipynb": "mine"}


def test_lab_opens_the_copies_with_what_a_notebook_needs(course, capsys):
    assert main(["lab", "--profile", "laptop", "--", "--no-browser", "--port=8889"]) == 5  # JupyterLab's own
    seen = json.loads((course / "seen.json").read_text())
    folder = course / "build" / "lab"
    assert seen["arguments"] == [str(Path("build/lab/notebooks")), "--no-browser", "--port=8889"]
    assert (seen["CIFAR_OUT"], seen["CIFAR_PROFILE"]) == (str(folder.resolve()), "laptop")
    assert seen["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert str(folder.resolve() / "notebooks") in capsys.readouterr().out
    write_notebook(course / "notebooks" / "02_b.ipynb", "'newer'")
    (folder / "notebooks" / "02_b.ipynb").write_text("mine")
    assert main(["lab", "--only", "02"]) == 5
    seen = json.loads((course / "seen.json").read_text())
    assert seen["arguments"] == [str(Path("build/lab/notebooks/02_b.ipynb"))]
    assert "02_b.ipynb was changed by you and stays" in capsys.readouterr().out


def test_without_jupyterlab_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"JupyterLab is not installed: pip install 'cifar-helpers\[notebooks\]'"):
        require_lab()


@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C to a group of processes")
def test_ctrl_c_is_answered_by_jupyterlab(course):
    """As in a terminal, both processes get it: JupyterLab asks first, and its answer ends the command."""
    (course / "jupyterlab.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), sys.exit(7)))\n"
        "pathlib.Path('up').touch()\ntime.sleep(60)\n"
    )
    code = "from pathlib import Path; from cifar_helpers.course.lab import open_lab; exit(open_lab(Path(), {}))"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while not (course / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 7
