"""What is known of a run: a record per epoch, and one of the whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["EpochRecord", "RunRecord", "TrainingDiverged", "best_epoch"]


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message says at which step and what to change."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: means over examples, accuracies as fractions, the learning rate of its last step."""

    epoch: int
    steps: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """All that is known of a run once it is over; `best` is the epoch whose weights the model holds.

    Attributes:
        name: what the run is called in tables.
        config, model, data: what the run was made of, as plain values; `run_hash` identifies the three. A field of
            the configuration that was not used is None: the batch size, for example, where a DataLoader has its own.
        history: one EpochRecord per epoch.
        best_epoch: 1-based; highest validation accuracy, ties by lower validation loss.
        seconds: of training and validation, summed over epochs.
        stopped_early: whether the run ended before its last epoch.
        environment: device, number format, threads, versions.
        checkpoint_sha256: None if no checkpoint was asked for.
    """

    name: str
    run_hash: str
    config: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    seconds: float
    stopped_early: bool
    environment: dict[str, Any]
    checkpoint_sha256: str | None

    @property
    def best(self) -> EpochRecord:
        return self.history[self.best_epoch - 1]

    @property
    def val_accuracy(self) -> float:
        return self.best.val_accuracy

    @property
    def val_loss(self) -> float:
        return self.best.val_loss

    @property
    def train_accuracy(self) -> float:
        return self.best.train_accuracy

    def __str__(self) -> str:
        return (
            f"{self.name}: validation accuracy {self.val_accuracy:.2%} (epoch {self.best_epoch} of "
            f"{len(self.history)}), {self.seconds:.0f} s"
        )


def best_epoch(history: Iterable[EpochRecord], monitor: str = "val_accuracy") -> EpochRecord:
    """Return the epoch with the highest validation accuracy, or with the lowest "val_loss"; among equals the first.

    Among equal accuracies the lower loss wins.
    """
    if monitor == "val_loss":
        return min(history, key=lambda record: record.val_loss)
    return max(history, key=lambda record: (record.val_accuracy, -record.val_loss))
