"""Nothing is removed or overwritten that this program did not write: real commands on real files, yours beside ours."""

import importlib.util
import json
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from notebook_files import DRAW, write_notebook
from PIL import Image
from safetensors.torch import save_file

from cifar_helpers._storage import save_tensors
from cifar_helpers.course import commands
from cifar_helpers.course._ownership import (
    MARKER,
    claim_folder,
    is_own_file,
    remove_own_files,
    require_own_folder,
    write_own,
)
from cifar_helpers.course.commands import main
from cifar_helpers.course.execution import run_notebooks
from cifar_helpers.course.notebooks import clear_output

ROOT = Path(__file__).resolve().parent.parent


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content; of a link, where it leads."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in files
    }


@pytest.fixture
def prepared(monkeypatch) -> list:
    """Let the commands run without data; return the calls, which come before the first execution."""
    calls: list = []
    environment = {"CIFAR_PROFILE": "quick", "CIFAR_DATA": "synthetic"}
    monkeypatch.setattr(commands, "prepare", lambda *args: calls.append(args) or environment)
    return calls


@pytest.fixture
def repository(tmp_path, monkeypatch, prepared) -> Path:
    """Return a small repository with a notebook and some published figures and logs; the current folder is there."""
    home = tmp_path / "repository"
    (home / "cifar_helpers" / "course").mkdir(parents=True)
    (home / "pyproject.toml").touch()
    (home / "notebooks").mkdir()
    write_notebook(home / "notebooks" / "01_good.ipynb", DRAW)
    (home / "figures" / "ranks").mkdir(parents=True)
    for name in ("08_results.png", "runs.jsonl", "test_access.jsonl", "ranks/cnn-cifar10.safetensors"):
        shutil.copy(ROOT / "figures" / name, home / "figures" / name)
    monkeypatch.chdir(home)
    return home


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """Return a folder into which the notebook was run once, with the report."""
    folder = tmp_path_factory.mktemp("executed")
    (folder / "notebooks").mkdir()
    write_notebook(folder / "notebooks" / "01_good.ipynb", DRAW)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(commands, "prepare", lambda *_: {"CIFAR_PROFILE": "quick", "CIFAR_DATA": "synthetic"})
        assert main(["run", "--out", "out"]) == 0
    return folder / "out"


@pytest.fixture
def out(repository, executed, tmp_path) -> Path:
    """Return such a folder for one test, while the current folder is the repository."""
    return shutil.copytree(executed, tmp_path / "out")


def refuses(arguments: list[str], capsys, prepared: list) -> str:
    """Run a command, which must change nothing and execute nothing, and return its one sentence."""
    before, asked = contents(Path.cwd().parent), len(prepared)
    assert main(arguments) == 2
    assert contents(Path.cwd().parent) == before
    assert len(prepared) == asked
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "cell" not in printed.out
    return printed.err


# --- the three cases that destroyed something, literally ---


def test_run_out_x_leaves_the_thesis_plot_in_x_figures(repository, tmp_path, capsys, prepared):
    thesis = tmp_path / "X" / "figures" / "thesis_plot.png"
    thesis.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(thesis)
    said = refuses(["run", "--out", str(tmp_path / "X")], capsys, prepared)
    assert "figures was not made by cifar_helpers" in said
    assert "--out" in said
    assert list(contents(tmp_path / "X")) == ["figures/thesis_plot.png"]


@pytest.mark.parametrize("arguments", [["run", "--out", ".."], ["run", "--notebooks", ".", "--out", ".."]])
def test_run_from_the_notebooks_leaves_the_published_figures(repository, monkeypatch, capsys, prepared, arguments):
    monkeypatch.chdir(repository / "notebooks")
    refuses(arguments, capsys, prepared)
    assert len(contents(repository / "figures")) == 4


def test_run_from_the_notebooks_leaves_the_source_notebook(repository, monkeypatch, capsys, prepared):
    monkeypatch.chdir(repository / "notebooks")
    said = refuses(["run", "--notebooks", ".", "--only", "01", "--out", ".."], capsys, prepared)
    assert "notebooks is the folder of the notebooks themselves" in said
    assert (repository / "notebooks" / "01_good.ipynb").exists()


# --- whole folders ---


@pytest.mark.parametrize("name", ["figures", "notebooks", "checkpoints"])
@pytest.mark.parametrize("only", [[], ["--only", "01"]])
def test_a_folder_of_yours_is_refused_before_anything_is_written(repository, tmp_path, capsys, prepared, name, only):
    """With the sources elsewhere than below the output folder."""
    (tmp_path / "X" / name).mkdir(parents=True)
    (tmp_path / "X" / name / "notes.txt").write_text("mine")
    said = refuses(["run", "--out", str(tmp_path / "X"), *only], capsys, prepared)
    assert f"{name} was not made by cifar_helpers" in said


def test_a_file_in_the_place_of_a_folder_is_refused(repository, tmp_path, capsys, prepared):
    (tmp_path / "X").mkdir()
    (tmp_path / "X" / "figures").write_text("mine")
    assert "figures was not made" in refuses(["run", "--out", str(tmp_path / "X")], capsys, prepared)


def test_publish_refuses_a_build_folder_of_yours(repository, capsys, prepared):
    (repository / "build" / "checkpoints").mkdir(parents=True)
    (repository / "build" / "checkpoints" / "mine.pt").write_text("weights")
    said = refuses(["publish", "--profile", "quick"], capsys, prepared)
    assert "checkpoints was not made by cifar_helpers" in said


def test_publish_outside_the_repository_refuses_figures_of_yours(repository, capsys, prepared):
    """A copy of the notebooks in a project of your own."""
    (repository / "pyproject.toml").unlink()
    assert "figures was not made" in refuses(["publish", "--profile", "quick"], capsys, prepared)


def test_publish_leaves_the_published_figures_and_gives_them_no_marker(repository):
    before = contents(repository / "figures")
    assert main(["publish", "--profile", "quick"]) == 0
    after = contents(repository / "figures")
    assert after.pop("01_line.png")
    assert after == before


def test_an_empty_folder_is_taken_and_one_that_was_made_here_taken_again(tmp_path):
    (tmp_path / "figures").mkdir()
    for _ in range(2):
        claim_folder(tmp_path / "figures")
        require_own_folder(tmp_path / "figures")
    assert list(contents(tmp_path)) == [f"figures/{MARKER}"]
    (tmp_path / "figures" / MARKER).rename(tmp_path / "figures" / "notes")
    with pytest.raises(ValueError, match="was not made"):
        claim_folder(tmp_path / "figures")
    with pytest.raises(ValueError, match="was not made"):
        remove_own_files(tmp_path / "figures", ["*"])


# --- single files, in folders that are ours ---


def test_files_of_yours_among_ours_survive_every_run(out, tmp_path):
    """Ours are written anew; yours stay, whatever they are called."""
    data = {"01_thesis.png", "thesis.png", "notes.txt", "logits/mine.safetensors", "logits/notes.txt"}
    kept = {"01_good/synthetic/quick/mine.safetensors", "01_good/synthetic/quick/mine.pt", "mine.safetensors"}
    kept |= {"01_good/synthetic/quick/notes.previous"}
    theirs = {out / "figures" / name for name in data} | {out / "checkpoints" / name for name in kept}
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (4, 4)).save(path)
        elif path.suffix == ".safetensors":
            save_file({"weight": torch.ones(2)}, path)
        else:
            path.write_text("mine")
    ours = [out / "figures" / "01_old.png", out / "figures" / "02_old.png", out / "figures" / "runs.jsonl"]
    ours += [out / "figures" / "logits" / "cnn-val.safetensors", out / "figures" / "ranks" / "cnn.safetensors"]
    shutil.copy(out / "figures" / "01_line.png", ours[0])
    shutil.copy(out / "figures" / "01_line.png", ours[1])
    shutil.copy(ROOT / "figures" / "runs.jsonl", ours[2])
    ours += [out / "checkpoints" / "01_good" / "synthetic" / "quick" / "features" / "old.safetensors"]
    ours += [ours[-1].with_name("old.safetensors.previous")]
    for path in ours[3:]:
        save_tensors(path, {"logits": torch.ones(2)}, {})
    other = out / "checkpoints" / "01_good" / "synthetic" / "laptop" / "old.safetensors"  # of another profile
    save_tensors(other, {"weight": torch.ones(2)}, {})
    before = {path: path.read_bytes() for path in theirs}
    assert main(["run", "--out", str(out), "--only", "01"]) == 0
    assert not ours[0].exists()  # of the same notebook
    assert not any(path.exists() for path in ours[5:])
    assert all(path.exists() for path in (*ours[1:5], other))  # of others
    assert main(["run", "--out", str(out)]) == 0
    assert not any(path.exists() for path in ours)
    assert other.exists()
    assert (out / "figures" / "01_line.png").exists()
    clear_output(out, checkpoints=True)  # as pytest does before the notebooks
    assert not other.exists()
    assert not (out / "figures" / "01_line.png").exists()
    assert {path: path.read_bytes() for path in theirs} == before


def test_a_notebook_says_which_picture_of_yours_is_in_its_way(out, capsys):
    path = out / "figures" / "01_line.png"
    Image.new("RGB", (4, 4)).save(path)
    before = path.read_bytes()
    assert main(["run", "--out", str(out)]) == 1
    assert "01_line.png was not written by cifar_helpers" in capsys.readouterr().out
    assert path.read_bytes() == before


def edit(path: Path, change) -> None:
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook: notebook.cells[0].update(source="my_analysis = 1"),
        lambda notebook: notebook.cells.append(nbformat.v4.new_markdown_cell("What I make of it")),
        lambda notebook: notebook.cells[0].update(attachments={"mine.png": {"image/png": "aGk="}}),
        lambda notebook: notebook.metadata.pop("cifar_helpers"),
    ],
    ids=["a cell", "a note", "a picture", "metadata lost"],
)
@pytest.mark.parametrize("only", [[], ["--only", "01"]])
def test_an_executed_copy_that_you_edited_is_refused(out, capsys, prepared, change, only):
    edit(out / "notebooks" / "01_good.ipynb", change)
    said = refuses(["run", "--out", str(out), *only], capsys, prepared)
    assert "01_good.ipynb was not written by cifar_helpers, or was changed since" in said


def test_an_executed_copy_that_was_only_opened_is_replaced(out):
    """An editor writes the same cells in its own layout, and execution counts of its own."""
    path = out / "notebooks" / "01_good.ipynb"
    edit(path, lambda notebook: notebook.cells[0].update(execution_count=7, outputs=[]))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))))
    assert main(["run", "--out", str(out)]) == 0
    assert nbformat.read(path, as_version=4).cells[0].execution_count == 1


def test_a_copy_that_appears_while_the_notebook_runs_is_kept(repository, tmp_path):
    copy = tmp_path / "out" / "notebooks" / "02_copies.ipynb"
    write_notebook(repository / "notebooks" / "02_copies.ipynb", f"open({str(copy)!r}, 'w').write('mine')")
    (result,) = run_notebooks([repository / "notebooks" / "02_copies.ipynb"], tmp_path / "out", {})
    assert "02_copies.ipynb was not written by cifar_helpers" in result.error
    assert copy.read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "figures/runs.jsonl", "figures/test_access.jsonl"])
@pytest.mark.parametrize("content", ['{"mine": 1}\n', "<html>mine</html>", "[1]\n"])
def test_a_report_or_log_of_yours_is_refused(out, capsys, prepared, name, content):
    (out / name).write_text(content)
    assert f"{Path(name).name} was not written by" in refuses(["run", "--out", str(out)], capsys, prepared)


def test_links_are_yours_and_what_lies_behind_them_too(out, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    shutil.copy(out / "figures" / "01_line.png", thesis / "01_line.png")
    save_tensors(thesis / "mine.safetensors", {"logits": torch.ones(2)}, {})
    (out / "figures" / "01_link.png").symlink_to(thesis / "01_line.png")
    (out / "figures" / "logits").symlink_to(thesis, target_is_directory=True)
    before = contents(thesis)
    assert main(["run", "--out", str(out)]) == 0
    assert contents(thesis) == before
    assert (out / "figures" / "01_link.png").is_symlink()


# --- what is recognised ---


@pytest.mark.parametrize("suffix", [".png", ".safetensors", ".jsonl", ".ipynb", ".html", ".txt", ""])
@pytest.mark.parametrize("content", [b"", b"mine", b"{}", b"[]", b"\xff\xfe\x00", b"\xff" * 8 + b"{}"])
def test_no_content_of_yours_is_taken_for_ours(tmp_path, suffix, content):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    assert not is_own_file(path)
    with pytest.raises(ValueError, match="stays as it is"):
        write_own(path, b"ours")
    assert path.read_bytes() == content


def test_a_notebook_that_is_no_executed_copy_is_yours(tmp_path):
    for metadata in ({}, {"cifar_helpers": {}}, {"cifar_helpers": 1}, {"cifar_helpers": {"cells": "f00"}}):
        path = write_notebook(tmp_path / "01_mine.ipynb", "1")
        edit(path, lambda notebook, metadata=metadata: notebook.metadata.update(metadata))
        assert not is_own_file(path)


def test_the_published_files_are_recognised():
    figures = ROOT / "figures"
    for pattern in ("*.png", "*.jsonl", "logits/*.safetensors", "ranks/*.safetensors"):
        found = list(figures.glob(pattern))
        assert found
        assert [path for path in found if not is_own_file(path)] == []
    assert not (figures / MARKER).exists()


# --- before the notebooks' tests ---


def test_pytest_clears_its_own_output_and_refuses_a_folder_of_yours(out, monkeypatch, prepared):
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    monkeypatch.setattr(conftest, "OUT", out)
    save_tensors(out / "checkpoints" / "recipes" / "ours.safetensors", {"weight": torch.ones(2)}, {})
    (out / "checkpoints" / "mine.txt").write_text("mine")
    conftest.prepare_data()
    assert [name for name in contents(out / "checkpoints") if name != MARKER] == ["mine.txt"]
    assert list(contents(out / "figures")) == [MARKER]
    (out / "figures" / MARKER).rename(out / "figures" / "notes.txt")
    with pytest.raises(pytest.UsageError, match="figures was not made by cifar_helpers"):
        conftest.prepare_data()
    assert len(prepared) == 1
