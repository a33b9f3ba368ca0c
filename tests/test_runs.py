import dataclasses
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from cifar_helpers import runs
from cifar_helpers.config import TrainConfig
from cifar_helpers.runs import (
    EpochRecord,
    RunRecord,
    code_digest,
    differing_keys,
    newest_rows,
    open_workspace,
    read_figure,
    with_receipt,
)
from cifar_helpers.storage import read_lines

EPOCHS = (EpochRecord(1, 10, 0.1, 2.0, 0.2, 1.9, 0.3, 1.0), EpochRecord(2, 20, 0.1, 1.5, 0.5, 1.6, 0.4, 1.5))
RECORD = RunRecord(
    name="cnn",
    run_hash="0123456789ab",
    config=TrainConfig().to_dict(),
    model={"name": "cnn"},
    data={"train": "f00"},
    history=EPOCHS,
    best_epoch=2,
    seconds=2.5,
    stopped_early=False,
    environment={"device": "cpu", "dtype": "float32", "threads": 2, "torch": "2"},
    checkpoint_sha256=None,
)
COLUMNS = [
    *("notebook", "name", "dataset", "data_source", "profile", "seed", "config", "epochs", "seconds"),
    *("train_accuracy", "val_accuracy", "val_loss", "device", "versions", "threads"),
    *("run_hash", "checkpoint_sha256", "date"),
]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Return a function that opens a workspace below a temporary folder."""
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    return lambda profile="quick", sources=("real",): open_workspace("04_cnn", profile, "cpu", sources)


@pytest.fixture
def figure():
    figure, ax = plt.subplots()
    ax.set_title("What a\nfigure shows")
    yield figure
    plt.close(figure)


def test_a_record_knows_its_best_epoch():
    assert (RECORD.val_accuracy, RECORD.val_loss, RECORD.train_accuracy) == (0.4, 1.6, 0.5)
    assert str(RECORD) == "cnn: validation accuracy 40.00% (epoch 2 of 2), 2 s"


def test_a_ledger_row_says_where_a_number_comes_from(workspace):
    row = workspace().log_run(RECORD, "cifar10")
    assert list(row) == COLUMNS
    assert row["threads"] == 2
    assert read_lines(workspace().ledger) == [json.loads(json.dumps(row))]


def test_the_same_run_is_logged_once_and_a_new_result_appended(workspace):
    here = workspace()
    here.log_run(RECORD, "cifar10")
    here.log_run(RECORD, "cifar10")
    assert len(read_lines(here.ledger)) == 1
    better = dataclasses.replace(RECORD, checkpoint_sha256="abc")
    here.log_run(better, "cifar10")
    rows = read_lines(here.ledger)
    assert len(rows) == 2
    assert [row["checkpoint_sha256"] for row in newest_rows(rows).values()] == ["abc"]


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


def test_a_figure_of_the_stand_in_says_so(workspace, figure):
    path = workspace(sources=("real", "synthetic")).save_figure(figure, "a", "")
    assert read_figure(path)["data_source"] == "synthetic"
    assert any("STAND-IN" in text.get_text() for text in figure.texts)


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


def test_without_cifar_out_real_data_writes_figures_and_the_stand_in_build(monkeypatch):
    monkeypatch.delenv("CIFAR_OUT", raising=False)
    project = Path(__file__).resolve().parent.parent
    assert open_workspace("01_x", "laptop", "cpu", ["real"]).figures == project / "figures"
    assert open_workspace("01_x", "laptop", "cpu", ["synthetic"]).figures == project / "build" / "figures"
    assert open_workspace("01_x", "full", "cpu", ["real", "synthetic"]).figures == project / "build" / "figures"


def test_the_stand_in_cannot_be_told_to_write_into_figures(monkeypatch):
    project = Path(__file__).resolve().parent.parent
    monkeypatch.setenv("CIFAR_OUT", str(project))
    assert open_workspace("01_x", "laptop", "cpu", ["synthetic"]).figures == project / "build" / "figures"


def test_checkpoints_lie_in_build_apart_by_notebook_source_and_profile(monkeypatch):
    project = Path(__file__).resolve().parent.parent
    monkeypatch.delenv("CIFAR_OUT", raising=False)
    paths = {
        open_workspace("01_x", profile, "cpu", [source]).checkpoint("linear-0.5")
        for profile in ("quick", "laptop")
        for source in ("real", "synthetic")
    }
    assert len(paths) == 4
    assert all(path.is_relative_to(project / "build" / "checkpoints" / "01_x") for path in paths)
    assert {path.name for path in paths} == {"linear-0.5.safetensors"}


def test_differences_are_named_inside_nested_values():
    rows = differing_keys({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 5}, "c": 4})
    assert rows == ["a.y (2, now 5)", "b (3, now None)", "c (None, now 4)"]


def test_a_receipt_evaluates_once_per_key(tmp_path):
    path, calls = tmp_path / "receipts.jsonl", []

    def evaluate():
        calls.append(1)
        return {"correct": 7}

    assert with_receipt(path, {"run": "a"}, evaluate) == {"correct": 7}
    assert with_receipt(path, {"run": "a"}, evaluate) == {"correct": 7}
    assert with_receipt(path, {"run": "b"}, evaluate) == {"correct": 7}
    assert len(calls) == 2
    assert [row["run"] for row in read_lines(path)] == ["a", "b"]


def test_code_digest_knows_the_source(tmp_path, monkeypatch):
    before = code_digest()
    assert len(before) == 12
    source = Path(runs.__file__).parent
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text((source / "optim.py").read_text() + ("# changed" if name == "b.py" else ""))
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    assert code_digest() != before
