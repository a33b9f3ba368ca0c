import errno
import multiprocessing
import os
import time

import pytest
import torch
from small import TINY, random_split, small_batches, tiny_net

from cifar_helpers._storage import read_lines
from cifar_helpers.course.test_access import audit_test, final_test, with_log_entry
from cifar_helpers.course.workspace import kept_path, open_workspace, read_kept
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.training.evaluation import evaluate, predict
from cifar_helpers.training.loop import fit


class Sealed:
    name = "tiny"
    sealed_test = random_split(8, "test")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    return open_workspace("01_x", "quick", "cpu", ["real"])


def test_a_key_is_evaluated_once(tmp_path):
    path, calls = tmp_path / "test_access.jsonl", []

    def count():
        calls.append(1)
        return {"correct": 7}

    assert with_log_entry(path, {"run": "a"}, count) == {"correct": 7}
    assert with_log_entry(path, {"run": "a"}, count) == {"correct": 7}
    assert with_log_entry(path, {"run": "b"}, count) == {"correct": 7}
    assert len(calls) == 2
    assert [row["run"] for row in read_lines(path)] == ["a", "b"]


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_two_processes_score_the_test_set_once(tmp_path):
    """The second waits for the first, and takes its entry; it used to look before there was one."""
    path, scored, fork = tmp_path / "test_access.jsonl", tmp_path / "scored", multiprocessing.get_context("fork")
    together = fork.Barrier(2)

    def score() -> dict:
        with scored.open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return {"correct": os.getpid()}

    def ask(found) -> None:
        together.wait(10)
        found.put(with_log_entry(path, {"run": "a"}, score)["correct"])

    found = fork.Queue()
    processes = [fork.Process(target=ask, args=(found,)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [found.get(timeout=10) for _ in processes]
    for process in processes:
        process.join()
    assert scored.read_text() == "x"
    assert [row["result"]["correct"] for row in read_lines(path)] == results[:1] == results[1:]


def test_without_an_entry_there_is_no_result(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path, original = tmp_path / "test_access.jsonl", os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left.*test_access\.jsonl"):
            with_log_entry(path, {"run": "a"}, lambda: {"correct": 7})
    assert os.write is original
    assert read_lines(path) == []
    assert with_log_entry(path, {"run": "a"}, lambda: {"correct": 7}) == {"correct": 7}


def test_a_look_at_the_test_split_leaves_one_entry_per_reason(here):
    for reason in ("copies", "copies", "1-NN"):
        assert audit_test(Sealed, reason, here) is Sealed.sealed_test
    assert [row["purpose"] for row in read_lines(here.test_access_log)] == ["copies", "1-NN"]


def test_final_test_refuses_another_normalisation(here):
    net, (train, val) = tiny_net(), small_batches()
    record = fit(net, train, val, TINY)
    val.normaliser = Normaliser((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match="normalised otherwise"):
        final_test(net, Sealed, val, record, here)
    assert not read_lines(here.test_access_log)


def test_final_test_refuses_hidden_labels(here, monkeypatch):
    net, (train, val) = tiny_net(), small_batches()
    record = fit(net, train, val, TINY)
    hidden = train.like(Sealed.sealed_test)
    hidden.labels_hidden = True
    monkeypatch.setattr(val, "like", lambda split: hidden)
    with pytest.raises(ValueError, match="hidden"):
        final_test(net, Sealed, val, record, here)
    assert not read_lines(here.test_access_log)


def test_the_same_weights_are_scored_once_and_others_again(here, monkeypatch, capsys):
    net, (train, val) = tiny_net(), small_batches()
    record = fit(net, train, val, TINY)
    first = final_test(net, Sealed, val, record, here)
    straight = evaluate(net, train.like(Sealed.sealed_test))
    assert (first.correct, first.loss) == (straight.correct, pytest.approx(straight.loss, rel=1e-3))
    with monkeypatch.context() as patch:
        patch.setattr("cifar_helpers.course.test_access.predict", None)
        assert final_test(net, Sealed, val, record, here) == first
    logits, about = read_kept(kept_path(here.figures, "run", "test"))
    assert torch.equal(logits, predict(net, train.like(Sealed.sealed_test))[0].half())
    assert about["run_hash"] == record.run_hash
    ranks, about = read_kept(kept_path(here.figures, "run", "ranks"))
    assert (int((ranks == 0).sum()), about["run_hash"]) == (first.correct, record.run_hash)
    assert final_test(net, Sealed, val, record, here, tta=True) != first
    assert [row["tta"] for row in read_lines(here.test_access_log)] == [False, True]
    with torch.no_grad():
        net[0].weight += 1
    assert final_test(net, Sealed, val, record, here) != first
    assert len(read_lines(here.test_access_log)) == 3
    assert "scored before, with other weights (2 log entries)" in capsys.readouterr().out
