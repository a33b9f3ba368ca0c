"""The test split: opened by two functions, and every look is an entry of the test-access log."""

import datetime
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import require, require_function
from cifar_helpers._hashing import hash_weights
from cifar_helpers._storage import find_or_append, read_lines
from cifar_helpers.course.workspace import Workspace
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.datasets import Dataset, Split
from cifar_helpers.metrics import Sums
from cifar_helpers.training.evaluation import predict, refuse_hidden_labels
from cifar_helpers.training.records import RunRecord

__all__ = ["audit_test", "final_test", "with_log_entry"]


def audit_test(dataset: Dataset, reason: str, workspace: Workspace) -> Split:
    """Return the sealed test split for a look that decides nothing, and log it with the reason.

    For label-blind looks, for figures that the literature fixed long ago, and for questions to runs that `final_test`
    has scored. The same reason leaves one entry.

    Raises:
        ValueError: no reason.
    """
    _require_dataset(dataset)
    said = isinstance(reason, str) and bool(reason.strip())
    require(said, "reason", reason, "a sentence that says what the look is for")
    test = dataset.sealed_test
    key = {"kind": "audit", "dataset": dataset.name, "data": test.sha256, "purpose": reason}
    with_log_entry(workspace.test_access_log, key, dict)
    return test


def final_test(
    model: nn.Module, dataset: Dataset, batches: Batches, record: RunRecord, workspace: Workspace, tta: bool = False
) -> Sums:
    """Return loss and correct answers of a finished run on the sealed test split, evaluated once and logged.

    The same weights on the same data return the stored result and evaluate nothing. Logits, in float16 as they are
    scored, and ranks of the labels are left beside those of validation, for further questions to the same look.

    Args:
        model: holds the weights of `record`.
        batches: those the model was trained or validated on, for their normaliser and device.
        tta: as in `predict`; one of the choices that are made on validation.

    Raises:
        ValueError: the batches are normalised otherwise than those of the run, or the labels are hidden.
    """
    _require_dataset(dataset)
    require(isinstance(batches, Batches), "batches", batches, "data.Batches, such as make_batches returns")
    test = dataset.sealed_test
    if record.data["normaliser"] != batches.normaliser.to_dict():
        raise ValueError(f"batches are normalised otherwise than those that {record.name!r} was trained on")
    scored = batches.like(test)
    refuse_hidden_labels(scored)
    key: dict[str, Any] = {"kind": "final", "dataset": dataset.name, "data": test.sha256, "purpose": record.name}
    others = [row for row in read_lines(workspace.test_access_log) if key.items() <= row.items()]
    key |= {"run_hash": record.run_hash, "weights": hash_weights(model), "tta": tta}
    if any(row["weights"] != key["weights"] for row in others):
        print(f"{record.name}: the test split was scored before, with other weights ({len(others)} log entries)")

    def score() -> dict[str, Any]:
        logits, labels = predict(model, scored, tta)
        logits = logits.half().float()  # as they are kept, so that a later reader counts the same answers correct
        about = {"data": test.sha256, "weights": key["weights"], "tta": tta}
        workspace.save_logits(record, logits, about, "test")
        workspace.save_ranks(record, metrics.label_ranks(logits, labels), about)
        return asdict(metrics.sums(logits, labels))

    return Sums(**with_log_entry(workspace.test_access_log, key, score))


def _require_dataset(dataset: object) -> None:
    require(hasattr(dataset, "sealed_test"), "dataset", dataset, "a Dataset, such as load_data('cifar10')")


def with_log_entry(path: Path, key: dict[str, Any], evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result stored under `key`, or evaluate once and append an entry with the result.

    Where an entry agrees with every value of the key, nothing is evaluated. Of several processes that ask at once, one
    evaluates and the others wait for its entry.

    Raises:
        OSError: the entry cannot be written; then no result is returned.
        ValueError: a key without a value, with which every entry would agree.
    """
    require(bool(key), "key", key, "what is asked: names to values, at least one")
    require_function("evaluate", evaluate)

    def find(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((entry for entry in entries if all(entry.get(k) == v for k, v in key.items())), None)

    def make() -> dict[str, Any]:
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return {**key, "result": evaluate(), "date": date}

    return find_or_append(path, find, make)["result"]
