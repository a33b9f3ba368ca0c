from pathlib import Path

import pytest
import torch
from small import random_split, small_batches, synthetic_split

from cifar_helpers._storage import read_lines
from cifar_helpers.course.test_access import final_test
from cifar_helpers.course.workspace import open_workspace
from cifar_helpers.data.datasets import Dataset, hide_labels
from cifar_helpers.models.networks import make_model
from cifar_helpers.submission import check_submission, score_submission, write_submission
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import evaluate, predict
from cifar_helpers.training.loop import fit

COUNT = 200
IDS, LABELS = torch.arange(COUNT), torch.arange(COUNT) % 10


def written(path: Path, lines: list[str]) -> Path:
    path.write_bytes("\n".join(["Id,Prediction1", *lines, ""]).encode())
    return path


def good_lines():
    return [f"{i},{i % 10}" for i in range(COUNT)]


# --- writing ---


def test_the_file_is_the_same_whatever_the_order_of_the_images(tmp_path):
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    a = write_submission(tmp_path / "a.csv", IDS, LABELS, 10, count=COUNT)
    b = write_submission(tmp_path / "b.csv", IDS[order], LABELS[order], 10, count=COUNT)
    assert a.read_bytes() == b.read_bytes()
    assert a.read_text().splitlines()[:3] == ["Id,Prediction1", "0,0", "1,1"]
    assert check_submission(a, 10, count=COUNT) == []
    assert score_submission(a, LABELS, 10) == 1.0
    assert score_submission(a, (LABELS + (IDS < 50)) % 10, 10) == 0.75


def test_ten_thousand_rows_and_another_header(tmp_path):
    ids = torch.arange(10_000)
    header = ("id", "label")
    path = write_submission(tmp_path / "whole.csv", ids, ids % 100, 100, header=header)
    assert len(path.read_text().splitlines()) == 10_001
    assert check_submission(path, 100, header=header) == []
    assert "the header is 'id,label'" in check_submission(path, 100)[0]


@pytest.mark.parametrize(
    ("ids", "predicted", "words"),
    [
        (IDS.clone().index_fill_(0, torch.tensor([3]), 4), LABELS, r"ids=.*each of 0 to 199 once"),
        (IDS + 1, LABELS, "each of 0 to 199 once"),
        (IDS[:-1], LABELS[:-1], r"ids=\(199,\)"),
        (IDS, LABELS[:-1], r"predicted=\(199,\)"),
        (IDS, LABELS + 1, r"predicted=\[10\] is not allowed: 0 to 9"),
        (IDS, LABELS.float(), r"predicted=torch.float32.*long"),
        (IDS, LABELS > 4, r"predicted=torch.bool.*long"),
        (IDS, LABELS - 1, r"predicted=\[-1\]"),
    ],
)
def test_what_cannot_be_handed_in_is_not_written(tmp_path, ids, predicted, words):
    path = tmp_path / "submission.csv"
    path.write_text("the old one")
    with pytest.raises(ValueError, match=words):
        write_submission(path, ids, predicted, 10, count=COUNT)
    assert path.read_text() == "the old one"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "old", ["name,grade\nAda,1\n", "Id;Prediction1\n0;0\n", "Id,Prediction1,Note\n", "thesis", "", "\n"]
)
def test_a_file_that_this_program_did_not_write_is_not_overwritten(tmp_path, old):
    path = tmp_path / "submission.csv"
    path.write_text(old)
    with pytest.raises(ValueError, match=r"submission\.csv.*does not begin with 'Id,Prediction1'.*choose another path"):
        write_submission(path, IDS, LABELS, 10, count=COUNT)
    assert path.read_text() == old
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("first", ["Id,Prediction1", "\ufeffId,Prediction1\r", '"Id","Prediction1"'])
def test_an_old_submission_is_replaced_whole(tmp_path, first):
    path = tmp_path / "submission.csv"
    path.write_bytes(f"{first}\n0,7\n".encode())
    write_submission(path, IDS, LABELS, 10, count=COUNT)
    assert check_submission(path, 10, count=COUNT) == []
    write_submission(path, IDS, LABELS, 10, count=COUNT)
    with pytest.raises(ValueError, match="does not begin with 'id,label'"):
        write_submission(path, IDS, LABELS, 10, count=COUNT, header=("id", "label"))


# --- checking ---


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows[:7] + rows[8:], "line 201: the file ends without id 7"),
        (lambda rows: [*rows, "7,7"], "line 202: id 7 is doubled, first on line 9"),
        (lambda rows: ["0,0.0", *rows[1:]], "line 2: the class is '0.0'; expected a whole number"),
        (lambda rows: ["0,10", *rows[1:]], "line 2: the class is 10; expected 0 to 9"),
        (lambda rows: ["0,-1", *rows[1:]], "line 2: the class is -1; expected 0 to 9"),
        (lambda rows: ["0,cat", *rows[1:]], "line 2: the class is 'cat'"),
        (lambda rows: ["0,", *rows[1:]], "line 2: the class is ''"),
        (lambda rows: ["0,1,2", *rows[1:]], "line 2: has 3 cells"),
        (lambda rows: [*rows[:5], "", *rows[5:]], "line 7: has 0 cells"),
        (lambda rows: [*rows[:-1], "200,1"], "line 201: the id is 200; expected 0 to 199"),
        (lambda rows: [*rows[:5], "5,5\x0c6,6", *rows[6:]], "line 7: has 3 cells"),
        (lambda rows: ["0,0" + 5000 * "1", *rows[1:]], "line 2: the class is '01"),
        (lambda rows: ["-0,0", *rows[1:]], "line 2: the id is '-0'"),
        (lambda rows: [*rows[:3], '3,"3', *rows[4:]], "line 5: has 1 cells"),
        (lambda rows: ["x,0", *rows[1:]], "line 202: the file ends without id 0"),
        (lambda rows: sorted(rows), "line 15: the ids are sorted as text"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "line 3: the ids do not rise"),
    ],
)
def test_every_fault_is_reported_with_its_row(tmp_path, change, fault):
    path = written(tmp_path / "s.csv", change(good_lines()))
    assert any(found.startswith(fault) for found in check_submission(path, 10, count=COUNT))
    with pytest.raises(ValueError, match="faults"):
        score_submission(path, LABELS, 10)


def test_bom_windows_line_ends_and_an_empty_file(tmp_path):
    path = written(tmp_path / "s.csv", good_lines())
    plain = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    assert check_submission(path, 10, count=COUNT) == [
        "line 1: begins with a byte order mark; save as UTF-8 without BOM",
        "line 1: ends in CR, as on Windows; expected LF alone",
    ]
    path.write_bytes(b"")
    faults = check_submission(path, 10, count=COUNT)
    assert faults[0].startswith("line 1: the header is ''")
    assert len(faults) == 1 + COUNT


def test_a_file_in_quotes_is_as_good(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(['"Id","Prediction1"', *(f'"{i}","{i % 10}"' for i in range(COUNT)), ""]))
    assert check_submission(path, 10, count=COUNT) == []


# --- hidden labels ---


@pytest.fixture
def hidden():
    train, val, test = (synthetic_split(200, 10, name) for name in ("train", "val", "test"))
    return hide_labels(Dataset("cifar10", "synthetic", train, val, test)), test


def test_hidden_labels_are_zero_and_the_images_open(hidden):
    competition, test = hidden
    assert competition.test.counts().tolist() == [200] + [0] * 9
    assert torch.equal(competition.test.images, test.images)
    assert competition.train.labels.any()


def test_scoring_on_hidden_labels_is_refused_and_leaves_no_log_entry(hidden, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    competition, test = hidden
    here = open_workspace("t", "quick", "cpu", {"synthetic"})
    model = make_model("linear", 10)
    batches = small_batches()[0].like(competition.train)
    record = fit(model, batches, batches.like(competition.val), TrainConfig(epochs=1), verbose=False)
    for attempt in (
        lambda: evaluate(model, batches.like(competition.test)),
        lambda: final_test(model, competition, batches, record, here),
    ):
        with pytest.raises(ValueError, match="they are hidden"):
            attempt()
    assert read_lines(here.test_access_log) == []
    logits, _ = predict(model, batches.like(competition.test))  # what a submission needs
    path = write_submission(tmp_path / "s.csv", torch.arange(200), logits.argmax(1), 10, count=200)
    with pytest.raises(ValueError, match="hidden labels are no key"):
        score_submission(path, competition.test.labels, 10)
    assert 0 <= score_submission(path, test.labels, 10) <= 1


def test_a_real_test_split_is_not_taken_for_a_hidden_one():
    assert not random_split(40, "test").labels_hidden
    assert not random_split(40, "test").select(torch.tensor([0])).labels_hidden
