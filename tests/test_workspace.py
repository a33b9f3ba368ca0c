import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image, PngImagePlugin

from cifar_helpers._storage import CheckpointError, read_lines, save_tensors
from cifar_helpers.course import workspace as module
from cifar_helpers.course._ownership import MARKER
from cifar_helpers.course.workspace import (
    home_folder,
    kept_path,
    locate_workspace,
    newest_rows,
    open_workspace,
    read_figure,
    read_kept,
)
from cifar_helpers.models.networks import ModelConfig
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.records import EpochRecord, RunRecord
from cifar_helpers.transfer import TransferConfig

EPOCHS = (EpochRecord(1, 10, 0.1, 2.0, 0.2, 1.9, 0.3, 1.0), EpochRecord(2, 20, 0.1, 1.5, 0.5, 1.6, 0.4, 1.5))
RECORD = RunRecord(
    name="cnn",
    run_hash="0123456789ab",
    config=TrainConfig().to_dict(),
    model={"name": "cnn", "width": 0.5, "dropout": 0.0, "activation": None, "image_size": 32, "layers": "f00"},
    data={"train": "f00"},
    history=EPOCHS,
    best_epoch=2,
    seconds=2.5,
    stopped_early=False,
    environment={"device": "cpu", "dtype": "float32", "threads": 2, "torch": "2"},
    checkpoint_sha256=None,
)
COLUMNS = [
    *("notebook", "name", "dataset", "data_source", "profile", "seed", "model", "config", "epochs", "seconds"),
    *("train_accuracy", "val_accuracy", "val_loss", "device", "versions", "threads"),
    *("run_hash", "checkpoint_sha256", "date"),
]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Return a function that opens a workspace below a temporary folder."""
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    return lambda profile="quick", sources=("real",): open_workspace("04_cnn", profile, "cpu", sources)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a folder that stands for the repository, without CIFAR_OUT."""
    monkeypatch.delenv("CIFAR_OUT", raising=False)
    make_project(tmp_path)
    monkeypatch.setattr(module, "home_folder", lambda: tmp_path)
    return tmp_path


def make_project(folder: Path) -> None:
    (folder / "cifar_helpers" / "course").mkdir(parents=True)
    (folder / "pyproject.toml").touch()


@pytest.fixture
def figure():
    figure, ax = plt.subplots()
    ax.set_title("What a\nfigure shows")
    yield figure
    plt.close(figure)


# --- the run log ---


def test_a_row_says_where_a_number_comes_from(workspace):
    row = workspace().log_run(RECORD, "cifar10")
    assert list(row) == COLUMNS
    assert row["threads"] == 2
    assert row["model"] == {"name": "cnn", "width": 0.5, "dropout": 0.0, "activation": None}
    assert read_lines(workspace().run_log) == [json.loads(json.dumps(row))]


@pytest.mark.parametrize(
    "config", [ModelConfig("cnn", width=0.25), TransferConfig(image_size=64)], ids=lambda c: c.name
)
def test_a_row_holds_every_field_by_which_a_recipe_is_found_again(workspace, config):
    facts = {"backbone": "f00"} if isinstance(config, TransferConfig) else {}
    record = dataclasses.replace(RECORD, model=config.to_dict() | facts | {"layers": "f00", "num_classes": 10})
    assert workspace().log_run(record, "cifar10")["model"] == config.to_dict()


def test_a_model_of_your_own_is_logged_by_its_name(workspace):
    row = workspace().log_run(dataclasses.replace(RECORD, model={"name": "Sequential", "layers": "f00"}), "cifar10")
    assert row["model"] == {"name": "Sequential"}


def test_the_same_run_is_logged_once_and_a_new_result_appended(workspace):
    here = workspace()
    earlier = here.log_run(RECORD, "cifar10") | {"date": "2025-01-01T00:00:00+00:00"}
    here.run_log.write_text(json.dumps(earlier) + "\n")
    assert here.log_run(RECORD, "cifar10") == earlier
    assert len(read_lines(here.run_log)) == 1
    better = dataclasses.replace(RECORD, checkpoint_sha256="abc")
    here.log_run(better, "cifar10")
    rows = read_lines(here.run_log)
    assert len(rows) == 2
    assert [row["checkpoint_sha256"] for row in newest_rows(rows).values()] == ["abc"]


# --- figures ---


def test_a_figure_carries_its_provenance(workspace, figure):
    path = workspace().save_figure(figure, "confusion", "Who is taken for whom.")
    assert path.name == "04_confusion.png"
    assert read_figure(path) == {
        "title": "What a figure shows",
        "caption": "Who is taken for whom.",
        "notebook": "04_cnn",
        "profile": "quick",
        "device": "cpu",
        "data_source": "real",
    }
    assert any("real data · quick profile · cpu" in text.get_text() for text in figure.texts)
    with Image.open(path) as image:
        assert min(image.size) > 100


def test_a_figure_of_synthetic_data_says_so(workspace, figure):
    path = workspace(sources=("real", "synthetic")).save_figure(figure, "a", "")
    assert read_figure(path)["data_source"] == "synthetic"
    assert any(text.get_text().startswith("SYNTHETIC DATA, not CIFAR · quick") for text in figure.texts)


def test_a_lower_profile_never_overwrites_a_higher(workspace, figure):
    laptop = workspace("laptop").save_figure(figure, "a", "first")
    assert workspace("quick").save_figure(figure, "a", "second") is None
    assert read_figure(laptop)["caption"] == "first"
    assert workspace("full").save_figure(figure, "a", "third")
    assert read_figure(laptop)["caption"] == "third"


def test_a_figure_without_a_title_is_refused(workspace):
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match="has no title"):
        workspace().save_figure(figure, "a", "")
    plt.close(figure)


def foreign_files(path: Path) -> dict[str, callable]:
    """Return, by name, how to write to `path` a PNG that no program of ours wrote."""
    described = PngImagePlugin.PngInfo()
    described.add_text("Description", json.dumps({"title": "Thesis", "caption": "Chapter 3"}))
    return {
        "a picture": lambda: Image.new("RGB", (4, 4)).save(path),
        "a picture with a description": lambda: Image.new("RGB", (4, 4)).save(path, pnginfo=described),
        "no picture": lambda: path.write_text("notes"),
        "a link": lambda: path.symlink_to(Path(module.__file__)),
        "a broken link": lambda: path.symlink_to("nowhere"),
    }


@pytest.mark.parametrize("kind", foreign_files(Path()))
def test_a_figure_never_overwrites_a_file_of_yours(workspace, figure, kind):
    here = workspace()
    path = here.figures / "04_thesis.png"
    foreign_files(path)[kind]()
    before = path.is_symlink() or path.read_bytes()
    assert read_figure(path) == {}
    with pytest.raises(ValueError, match=r"04_thesis\.png was not written by cifar_helpers"):
        here.save_figure(figure, "thesis", "")
    assert (path.is_symlink() or path.read_bytes()) == before
    assert not figure.texts  # nor was the figure touched


LEADING_OUT = ("../x", "a/../../x", "/tmp/x", "..", "", ".", "a\\..\\..\\x", "C:\\x", "a\0b", "\\x")


@pytest.mark.parametrize("name", LEADING_OUT)
def test_no_name_leads_out_of_its_folder(workspace, figure, tmp_path, name):
    here = workspace()
    record = dataclasses.replace(RECORD, name=name)
    before = sorted(tmp_path.parent.rglob("*"))
    for write in (
        lambda: here.checkpoint(name),
        lambda: here.save_figure(figure, name, ""),
        lambda: here.save_logits(record, torch.ones(2, 2), {"weights": "w"}),
        lambda: here.save_ranks(record, torch.ones(2), {"weights": "w"}),
    ):
        with pytest.raises(ValueError, match="is not allowed: the name of a file inside its folder"):
            write()
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["cnn", "sweep/cnn", "lr 0.1, seed 3", "grün: ×", "a..b", ".hidden"])
def test_other_names_are_kept(workspace, name):
    assert workspace().checkpoint(name).is_relative_to(workspace().checkpoints / "04_cnn" / "real" / "quick")


# --- logits and ranks ---


def test_kept_logits_of_a_higher_profile_stay_and_equal_ones_are_not_written_again(workspace):
    about, logits = {"weights": "w", "data": "d", "tta": False}, torch.randn(4, 3)
    path = workspace("laptop").save_logits(RECORD, logits, about)
    assert path == kept_path(workspace().figures, "cnn", "val")
    assert workspace("laptop").save_logits(RECORD, logits, about) is None
    assert workspace("quick").save_logits(RECORD, logits + 1, about) is None
    values, facts = read_kept(path)
    assert torch.equal(values, logits.half())
    assert {"run_hash": RECORD.run_hash, "profile": "laptop", **about}.items() <= facts.items()
    assert workspace("full").save_logits(RECORD, logits + 1, about) == path


@pytest.mark.parametrize("content", ["yours", "weights"])
def test_kept_logits_never_overwrite_a_file_of_yours(workspace, content):
    path = kept_path(workspace().figures, "cnn", "val")
    if content == "weights":  # a checkpoint, put there by hand
        save_tensors(path, {"0.weight": torch.ones(2)}, {})
    else:
        path.parent.mkdir(parents=True)
        path.write_text("yours")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="cnn-val"):
        workspace().save_logits(RECORD, torch.ones(4, 3), {"weights": "w"})
    assert path.read_bytes() == before


# --- where everything goes ---


@pytest.mark.parametrize("sources", [["real"], ["synthetic"], ["real", "synthetic"]])
def test_without_cifar_out_everything_goes_below_build_lab(home, figure, sources):
    """Git ignores build/, so a reader's run leaves it clean; `run`, which clears build/figures, leaves it alone."""
    here = open_workspace("01_x", "full", "cpu", sources)
    here.save_figure(figure, "a", "")
    here.log_run(RECORD, "cifar10")
    here.save_logits(RECORD, torch.ones(2, 2), {"weights": "w"})
    save_tensors(here.checkpoint("cnn"), {"0.weight": torch.ones(2)}, {})
    lab = home / "build" / "lab"
    written = {path.relative_to(lab).as_posix() for path in written_below(home) if path.is_relative_to(lab)}
    assert {path.relative_to(home).parts[:2] for path in written_below(home)} == {
        ("build", "lab"),
        ("build", "checkpoints"),
    }
    assert written >= {"figures/01_a.png", "figures/runs.jsonl", "figures/logits/cnn-val.safetensors"}
    assert any(path.endswith("/cnn.safetensors") for path in written)


def written_below(project: Path) -> set[Path]:
    """Return the files below a folder that `make_project` made, but for that which makes it one."""
    return {path for path in project.rglob("*") if path.is_file()} - {project / "pyproject.toml"}


def test_publishing_writes_the_figures_of_the_repository_with_real_data_alone(home, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(home))
    here = open_workspace("01_x", "laptop", "cpu", ["real"])
    assert (here.figures, here.checkpoints) == (home / "figures", home / "build" / "checkpoints")


def test_synthetic_data_cannot_be_told_to_write_into_the_published_figures(home, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(home))
    assert open_workspace("01_x", "laptop", "cpu", ["synthetic"]).figures == home / "build" / "figures"


def test_checkpoints_lie_below_build_apart_by_notebook_source_and_profile(home):
    paths = {
        open_workspace("01_x", profile, "cpu", [source]).checkpoint("linear-0.5")
        for profile in ("quick", "laptop")
        for source in ("real", "synthetic")
    }
    assert len(paths) == 4
    assert all(path.is_relative_to(home / "build" / "lab" / "checkpoints" / "01_x") for path in paths)
    assert {path.name for path in paths} == {"linear-0.5.safetensors"}


def test_recipes_of_the_lab_lie_where_run_and_publishing_find_them(home, monkeypatch):
    found = [locate_workspace("01_x", "laptop", "cpu", ["real"]).recipes]
    for out in ("build", "build/lab", "."):
        monkeypatch.setenv("CIFAR_OUT", str(home / out))
        found.append(locate_workspace("01_x", "laptop", "cpu", ["real"]).recipes)
    assert set(found) == {home / "build" / "checkpoints"}
    monkeypatch.setenv("CIFAR_OUT", str(home / "elsewhere"))
    assert locate_workspace("01_x", "laptop", "cpu", ["real"]).recipes == home / "elsewhere" / "checkpoints"


def test_home_is_the_project_around_the_package_else_the_current_folder(tmp_path, monkeypatch):
    project = Path(__file__).resolve().parent.parent
    monkeypatch.chdir(tmp_path)
    assert home_folder() == project
    installed = tmp_path / "site-packages" / "cifar_helpers" / "course" / "workspace.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(installed))
    assert home_folder() == tmp_path
    monkeypatch.delenv("CIFAR_OUT", raising=False)
    assert locate_workspace("01_x", "quick", "cpu", ["real"]).figures == tmp_path / "build" / "lab" / "figures"


def test_a_package_without_its_project_publishes_into_the_repository_all_the_same(tmp_path, monkeypatch):
    """Installed by pip, not in place: the repository is then known by what it holds."""
    make_project(tmp_path)
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    here = locate_workspace("01_x", "laptop", "cpu", ["real"])
    assert (here.figures, here.checkpoints) == (tmp_path / "figures", tmp_path / "build" / "checkpoints")
    assert locate_workspace("01_x", "laptop", "cpu", ["synthetic"]).figures == tmp_path / "build" / "figures"


def test_folders_are_made_with_a_marker_but_the_published_figures_have_none(home, tmp_path, monkeypatch):
    (home / "figures").mkdir()
    (home / "figures" / "runs.jsonl").touch()
    monkeypatch.setenv("CIFAR_OUT", str(home))
    here = open_workspace("01_x", "laptop", "cpu", ["real"])
    assert not (here.figures / MARKER).exists()
    assert (here.checkpoints / MARKER).exists()
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path / "mine"))
    for _ in range(2):  # the second time they are ours
        here = open_workspace("01_x", "laptop", "cpu", ["real"])
    assert (here.figures / MARKER).exists()
    assert (here.checkpoints / MARKER).exists()


@pytest.mark.parametrize("name", ["figures", "checkpoints"])
def test_a_folder_of_yours_is_refused_when_a_notebook_opens_it(workspace, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.png").touch()
    with pytest.raises(ValueError, match=f"{name} was not made by cifar_helpers"):
        workspace()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["thesis.png"]


def test_looking_where_everything_goes_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    locate_workspace("01_x", "quick", "cpu", ["real"])
    assert not list(tmp_path.iterdir())


def test_importing_the_course_leaves_the_notebooks_tools_alone():
    heavy = "nbclient", "nbformat", "psutil", "sklearn", "matplotlib", "seaborn", "scipy"
    code = f"import sys, cifar_helpers.course; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
