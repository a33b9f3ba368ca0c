"""What happens after every epoch: early stopping, best weights, logs and a live curve; and how to add your own.

A callback is a function `(record, model)`, called after every epoch, or an object with any of the methods below. One
that returns True ends the training.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from cifar_helpers._arguments import require, require_choice, require_path, require_whole
from cifar_helpers._storage import write_whole
from cifar_helpers.runtime import is_main_process
from cifar_helpers.training._wrappers import plain_state
from cifar_helpers.training.records import MONITORS, EpochRecord, RunRecord, best_epoch

__all__ = [
    "BestWeights",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LiveCurve",
    "OnEpochEnd",
    "OnFitEnd",
    "OnFitStart",
    "TensorBoardLogger",
]


@runtime_checkable
class OnFitStart(Protocol):
    """Is told before the first epoch what an earlier call has done already: `history` is empty in a new run."""

    def on_fit_start(self, history: Sequence[EpochRecord], model: nn.Module) -> bool | None: ...


@runtime_checkable
class OnEpochEnd(Protocol):
    """Is called after validation and after the checkpoint; `model` is the network that was validated."""

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> bool | None: ...


@runtime_checkable
class OnFitEnd(Protocol):
    """Is called once, when the model holds its best weights."""

    def on_fit_end(self, record: RunRecord, model: nn.Module) -> None: ...


Callback = Callable[[EpochRecord, nn.Module], Any] | OnFitStart | OnEpochEnd | OnFitEnd


class _CallbackList:
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            right = isinstance(callback, OnFitStart | OnEpochEnd | OnFitEnd) or callable(callback)
            allowed = "functions (record, model), or objects with on_fit_start, on_epoch_end or on_fit_end"
            require(right and not isinstance(callback, type), "callbacks", callback, allowed)
        self._callbacks = callbacks

    def on_fit_start(self, history: Sequence[EpochRecord], model: nn.Module) -> bool:
        verdicts = [c.on_fit_start(history, model) for c in self._callbacks if isinstance(c, OnFitStart)]
        return any(verdict is True for verdict in verdicts)

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> bool:
        verdicts = []
        for callback in self._callbacks:
            if isinstance(callback, OnEpochEnd):
                verdicts.append(callback.on_epoch_end(record, model))
            elif callable(callback):
                verdicts.append(callback(record, model))
        return any(verdict is True for verdict in verdicts)

    def on_fit_end(self, record: RunRecord, model: nn.Module) -> None:
        for callback in self._callbacks:
            if isinstance(callback, OnFitEnd):
                callback.on_fit_end(record, model)


class EarlyStopping:
    """Stop after `patience` epochs without a better one.

    Args:
        monitor: "val_accuracy", of which equal ones are ranked by lower loss, or "val_loss".
    """

    def __init__(self, patience: int, monitor: str = "val_accuracy") -> None:
        require_whole("patience", patience)
        require_choice("monitor", monitor, MONITORS)
        self.patience, self.monitor = patience, monitor
        self._history: list[EpochRecord] = []

    def on_fit_start(self, history: Sequence[EpochRecord], model: nn.Module) -> bool:
        self._history = list(history)
        return self._is_over()

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> bool:
        self._history.append(record)
        return self._is_over()

    def _is_over(self) -> bool:
        if not self._history:
            return False
        return len(self._history) - best_epoch(self._history, self.monitor).epoch >= self.patience


class BestWeights:
    """Keep the weights of the best epoch, which `fit` gives back to the model at the end.

    `fit` keeps the best by validation accuracy without being told; pass `BestWeights("val_loss")` for another choice.

    Attributes:
        weights: names to tensors, as in the `state_dict` of the plain network, without torch.compile or DataParallel;
            empty before the first epoch.
    """

    def __init__(self, monitor: str = "val_accuracy") -> None:
        require_choice("monitor", monitor, MONITORS)
        self.monitor = monitor
        self.weights: dict[str, torch.Tensor] = {}
        self._history: list[EpochRecord] = []

    @property
    def epoch(self) -> int:
        """Number of the best epoch, from 1."""
        return best_epoch(self._history, self.monitor).epoch

    def restore(self, history: Sequence[EpochRecord], weights: dict[str, torch.Tensor]) -> None:
        """Take up what an earlier call had kept."""
        self._history, self.weights = list(history), weights

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> None:
        self._history.append(record)
        if best_epoch(self._history, self.monitor) is record:
            self.weights = {name: tensor.detach().clone() for name, tensor in plain_state(model).items()}


class CSVLogger:
    """Write one line per epoch to a CSV file; a resumed run goes on with its lines.

    Raises:
        ValueError: it is no path; or, before training, the file holds anything else than the epochs that this run has
            done.
    """

    def __init__(self, path: str | Path) -> None:
        require_path("path", path)
        self.path = Path(path)
        require(not self.path.is_dir(), "path", str(path), "a file; this is a folder")
        self._history: list[EpochRecord] = []

    def on_fit_start(self, history: Sequence[EpochRecord], model: nn.Module) -> None:
        self._history = list(history)
        found = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        allowed = "a new file: this one holds something else than the epochs of this run"
        require(self._text().startswith(found), "path", str(self.path), allowed)
        self._write()

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> None:
        self._history.append(record)
        self._write()

    def _write(self) -> None:
        if is_main_process():
            write_whole(self.path, self._text().encode())

    def _text(self) -> str:
        text = io.StringIO()
        rows = csv.DictWriter(text, [field.name for field in fields(EpochRecord)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(record) for record in self._history)
        return text.getvalue()


class TensorBoardLogger:
    """Write loss, accuracy and learning rate of every epoch for TensorBoard, which must be installed.

    Raises:
        ImportError: when it is made, if there is no TensorBoard.
        ValueError: it is no path.
    """

    def __init__(self, folder: str | Path) -> None:
        require_path("folder", folder)
        from torch.utils.tensorboard import SummaryWriter  # here, because it is optional

        self._writer = SummaryWriter(str(folder))

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> None:
        if not is_main_process():
            return
        for what in ("loss", "accuracy"):
            values = {split: getattr(record, f"{split}_{what}") for split in ("train", "val")}
            self._writer.add_scalars(what, values, record.epoch)
        self._writer.add_scalar("lr", record.lr, record.epoch)

    def on_fit_end(self, record: RunRecord, model: nn.Module) -> None:
        self._writer.close()


class LiveCurve:
    """Draw loss and accuracy in a notebook, in place, after every epoch.

    Args:
        num_classes: for the lines of ln C and of chance.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(self, num_classes: int, title: str = "training") -> None:
        require_whole("num_classes", num_classes, 2)
        require(isinstance(title, str), "title", title, "a text")
        self.num_classes, self.title = num_classes, title
        self._history: list[EpochRecord] = []
        self._handle: Any = None

    def on_fit_start(self, history: Sequence[EpochRecord], model: nn.Module) -> None:
        self._history, self._handle = list(history), None

    def on_epoch_end(self, record: EpochRecord, model: nn.Module) -> None:
        from IPython.display import display  # here, because only a notebook has it

        self._history.append(record)
        figure = self._draw()
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)

    def _draw(self) -> Any:
        import matplotlib.pyplot as plt

        from cifar_helpers import plots

        figure, axes = plots.new_axes(1, 2)
        plots.plot_history(self._history, self.num_classes, self.title, list(axes))
        plt.close(figure)  # shown once, by us
        return figure
