"""Callbacks: those of the package, and functions and objects of a reader's own."""

import csv
import dataclasses
import importlib.util
import math

import pytest
import torch
from small import TINY, equal_weights, small_batches, tiny_net

from cifar_helpers.training.callbacks import BestWeights, CSVLogger, EarlyStopping, LiveCurve, TensorBoardLogger
from cifar_helpers.training.evaluation import evaluate
from cifar_helpers.training.loop import fit
from cifar_helpers.training.records import EpochRecord, best_epoch

LONG = dataclasses.replace(TINY, epochs=6)


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told = []

    def on_fit_start(self, history, model):
        self.told.append(("start", len(history)))

    def on_epoch_end(self, record, model):
        self.told.append(("epoch", record.epoch))

    def on_fit_end(self, record, model):
        self.told.append(("end", record.best_epoch))


def records(accuracies, losses=None):
    losses = losses or [1.0] * len(accuracies)
    return [
        EpochRecord(i + 1, 0, 0.1, 1.0, 0.5, loss, a, 1.0)
        for i, (a, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def test_functions_and_objects_are_told_what_happens(capsys):
    seen, listener, net = [], Listener(), tiny_net()
    callbacks = [lambda record, model: seen.append((record.epoch, model is net)), listener]
    record = fit(net, *small_batches(), TINY, callbacks=callbacks)
    assert seen == [(1, True), (2, True), (3, True), (4, True)]
    assert listener.told == [("start", 0), *(("epoch", i) for i in range(1, 5)), ("end", record.best_epoch)]


def test_an_object_needs_one_method_and_no_more():
    class End:
        def on_fit_end(self, record, model):
            self.accuracy = record.val_accuracy

    end = End()
    record = fit(tiny_net(), *small_batches(), TINY, callbacks=[end])
    assert end.accuracy == record.val_accuracy


@pytest.mark.parametrize("wrong", [5, "print", Listener, None])
def test_what_is_no_callback_is_named_before_any_step(wrong):
    net = tiny_net()
    with pytest.raises(ValueError, match=r"callbacks=.*functions"):
        fit(net, *small_batches(), TINY, callbacks=[wrong])
    assert equal_weights(net, tiny_net())


def test_a_callback_ends_the_training_and_the_run_is_finished(tmp_path):
    path = tmp_path / "run.safetensors"
    record = fit(tiny_net(), *small_batches(), LONG, checkpoint=path, callbacks=[lambda r, m: r.epoch == 2])
    assert len(record.history) == 2
    assert record.stopped_early
    again = fit(tiny_net(), *small_batches(), LONG, checkpoint=path, callbacks=[lambda r, m: r.epoch == 2])
    assert again == record


def test_a_callback_of_a_resumed_run_is_told_what_was_done(tmp_path):
    path, listener = tmp_path / "run.safetensors", Listener()

    def interrupt(record, model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny_net(), *small_batches(), TINY, checkpoint=path, callbacks=[interrupt])
    fit(tiny_net(), *small_batches(), TINY, checkpoint=path, callbacks=[listener])
    assert listener.told[:2] == [("start", 1), ("epoch", 2)]


def test_callbacks_change_no_bit():
    plain, watched = tiny_net(), tiny_net()
    fit(plain, *small_batches(), TINY)
    fit(watched, *small_batches(), TINY, callbacks=[lambda r, m: torch.rand(3) is None, EarlyStopping(50)])
    assert equal_weights(plain, watched)


# --- early stopping ---


def test_early_stopping_counts_from_the_best_epoch():
    stopping = EarlyStopping(2)
    stopping.on_fit_start([], None)
    assert [stopping.on_epoch_end(r, None) for r in records([0.1, 0.5, 0.4, 0.3])] == [False, False, False, True]
    assert stopping.on_fit_start(records([0.5, 0.4, 0.3]), None)
    assert not stopping.on_fit_start(records([0.3, 0.4, 0.3]), None)
    by_loss = EarlyStopping(1, "val_loss")
    assert by_loss.on_fit_start(records([0.1, 0.2], [1.0, 1.1]), None)
    with pytest.raises(ValueError, match="Did you mean 'val_loss'"):
        EarlyStopping(1, "val_los")


def test_patience_is_early_stopping():
    config = dataclasses.replace(TINY, epochs=30, lr=1e-9, momentum=0.5)
    told = fit(tiny_net(), *small_batches(), dataclasses.replace(config, patience=2), verbose=False)
    by_hand = fit(tiny_net(), *small_batches(), config, callbacks=[EarlyStopping(2)], verbose=False)
    assert len(told.history) == len(by_hand.history) == told.best_epoch + 2
    assert by_hand.stopped_early


# --- best weights ---


def test_the_best_weights_by_loss_are_given_back():
    config = dataclasses.replace(LONG, lr=0.3)
    net, other, best = tiny_net(), tiny_net(), BestWeights("val_loss")
    record = fit(net, *small_batches(), config, callbacks=[best])
    losses = [epoch.val_loss for epoch in record.history]
    assert record.best_epoch == losses.index(min(losses)) + 1
    assert evaluate(net, small_batches()[1]).loss == pytest.approx(min(losses))
    by_accuracy = fit(other, *small_batches(), config)
    assert by_accuracy.best_epoch == best_epoch(by_accuracy.history).epoch


def test_best_weights_by_loss_survive_an_interrupt(tmp_path):
    config, path = dataclasses.replace(LONG, lr=0.3), tmp_path / "run.safetensors"
    whole, cut = tiny_net(), tiny_net()
    expected = fit(whole, *small_batches(), config, callbacks=[BestWeights("val_loss")])

    def interrupt(record, model):
        if record.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cut, *small_batches(), config, checkpoint=path, callbacks=[BestWeights("val_loss"), interrupt])
    record = fit(cut, *small_batches(), config, checkpoint=path, callbacks=[BestWeights("val_loss")])
    assert equal_weights(whole, cut)
    assert record.best_epoch == expected.best_epoch


# --- logs ---


def test_a_csv_log_has_a_line_per_epoch_also_after_a_resume(tmp_path):
    path, log = tmp_path / "run.safetensors", tmp_path / "log.csv"

    def interrupt(record, model):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny_net(), *small_batches(), TINY, checkpoint=path, callbacks=[CSVLogger(log), interrupt])
    record = fit(tiny_net(), *small_batches(), TINY, checkpoint=path, callbacks=[CSVLogger(log)])
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["val_loss"]) for row in rows] == [epoch.val_loss for epoch in record.history]


def test_a_csv_log_does_not_replace_what_it_did_not_write(tmp_path):
    foreign = tmp_path / "thesis.csv"
    foreign.write_text("name,grade\nmine,1\n")
    with pytest.raises(ValueError, match=r"thesis\.csv.*a new file"):
        fit(tiny_net(), *small_batches(), TINY, callbacks=[CSVLogger(foreign)])
    assert foreign.read_text() == "name,grade\nmine,1\n"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_is_written(tmp_path):
    fit(tiny_net(), *small_batches(), TINY, callbacks=[TensorBoardLogger(tmp_path / "log")])
    assert list((tmp_path / "log").rglob("events*"))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="TensorBoard is installed")
def test_without_tensorboard_its_logger_says_so_at_once(tmp_path):
    with pytest.raises(ImportError):
        TensorBoardLogger(tmp_path)


def test_a_live_curve_is_one_figure_that_grows(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    def display(figure, display_id):
        shown.append(figure)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    fit(tiny_net(), *small_batches(), TINY, callbacks=[LiveCurve(4, "tiny")])
    lines = [len(figure.axes[0].lines[0].get_xdata()) for figure in shown]
    assert lines == [1, 2, 3, 4]
    assert math.isclose(shown[0].axes[1].lines[-1].get_ydata()[0], 25)


def test_a_csv_log_of_another_run_is_kept(tmp_path):
    log = tmp_path / "log.csv"
    fit(tiny_net(), *small_batches(), TINY, callbacks=[CSVLogger(log)])
    before = log.read_text()
    with pytest.raises(ValueError, match=r"log\.csv.*something else than the epochs of this run"):
        fit(tiny_net(), *small_batches(), dataclasses.replace(TINY, lr=0.1), callbacks=[CSVLogger(log)])
    assert log.read_text() == before
