"""The command line, in a folder with notebooks: what it prints, returns and replaces."""

import subprocess
import sys

import nbformat
import pytest
from notebook_files import write_notebook

from cifar_helpers.course import commands
from cifar_helpers.course.commands import main


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a folder with a notebook, in which the commands run without data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "prepare", lambda *_: {"CIFAR_PROFILE": "quick"})
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
    assert "executed copy: build/notebooks/02_bad.ipynb" in printed.replace("\\", "/")
    assert (project / "build" / "report.html").exists()


def test_publish_executes_in_place_and_leaves_a_failing_notebook_alone(project):
    bad = write_notebook(project / "notebooks" / "02_bad.ipynb", "1 / 0")
    before = bad.read_bytes()
    assert main(["publish", "--profile", "quick"]) == 1
    good = nbformat.read(project / "notebooks" / "01_good.ipynb", as_version=4)
    assert good.cells[0].outputs[0].text == "fine\n"
    assert bad.read_bytes() == before
    bad.unlink()
    assert main(["publish", "--profile", "quick"]) == 0


def test_publish_leaves_a_notebook_alone_that_was_edited_while_it_ran(project, capsys):
    path = project / "notebooks" / "01_good.ipynb"
    write_notebook(path, f"open({str(path)!r}, 'a').write(' ')")  # as an editor would
    before = path.read_bytes()
    assert main(["publish", "--profile", "quick"]) == 1
    assert path.read_bytes() == before + b" "
    assert "01_good.ipynb was changed while it was executed" in capsys.readouterr().err


def test_publish_names_the_numbers_that_the_new_run_does_not_print(project, capsys):
    path = write_notebook(project / "notebooks" / "01_good.ipynb", "print('accuracy 91 %')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(
        nbformat.v4.new_markdown_cell("**What we see:** it is right in 91 % of all cases, not in 93 %.")
    )
    nbformat.write(notebook, path)
    assert main(["publish", "--profile", "quick"]) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if "is in no output" in line]
    assert len(named) == 1
    assert named[0].startswith("01_good, ")
    assert "'93'" in named[0]


def test_publish_refuses_a_lower_profile_than_the_published_one(project, capsys):
    notebook = project / "notebooks" / "01_good.ipynb"
    output = nbformat.v4.new_output("stream", text="laptop profile, real data: both\n")
    cell = nbformat.v4.new_code_cell("print('laptop')", execution_count=1, outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    assert main(["publish", "--profile", "quick"]) == 2
    assert "published in the higher profile 'laptop'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--only", "09"], "only='09': no such notebook"),
        (["run", "--notebooks", "nowhere"], "expected the folder notebooks/ of the repository"),
        (["run", "--out", "notebooks/01_good.ipynb"], "Not a directory"),
    ],
)
def test_what_the_caller_must_mend_is_said_with_status_2(project, capsys, arguments, words):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
    assert not (project / "build").exists()


def test_an_unknown_profile_is_said_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks" / "01_good.ipynb", "1")
    assert main(["run", "--profile", "quik"]) == 2
    assert "Did you mean 'quick'?" in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_outside_the_repository_one_sentence_says_what_is_needed(tmp_path):
    """A process of its own: what somebody types who has installed the package with pip."""
    command = [sys.executable, "-m", "cifar_helpers", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"no notebooks in {tmp_path.resolve() / 'notebooks'}: expected the folder notebooks/")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_doctor_prints_the_machine_and_where_everything_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("CIFAR_DATA_DIR", str(tmp_path / "data"))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "torch" in lines[0]
    where = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[-4:]}
    assert list(where) == ["home", "data", "figures", "checkpoints"]
    assert where["home"] == str(commands.home_folder())
    assert where["data"] == str(tmp_path / "data")
    assert where["figures"].startswith(f"{tmp_path / 'out' / 'figures'} (real data)")
    assert where["checkpoints"] == str(tmp_path / "out" / "checkpoints")
    assert not list(tmp_path.iterdir())
