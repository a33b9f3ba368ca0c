"""What is known of a run: a record per epoch, and one of the whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_helpers._arguments import require, require_choice

__all__ = ["MONITORS", "EpochRecord", "RunRecord", "TrainingDiverged", "best_epoch"]

# What of an epoch can be watched.
MONITORS = ("val_accuracy", "val_loss")


class TrainingDiverged(RuntimeError):
    """Loss or weights are no longer finite numbers; the message says where and what to change.

    The model holds the weights and buffers that it had before the epoch, and no gradients; an optimizer of your own
    keeps the state that it came to.

    Attributes:
        what: what is not finite, as a sentence without its end.
        epoch: from 1; None outside of `fit`.
        step: of the epoch, from 1; None where it was noticed after the last one.
        lr: learning rate of that step.
        gradient_norm: that of the step before, over all parameters; None on a GPU, where nobody waits for it, in
            float16, and at a first step.
        images: positions of the batch's images in the training data; None where the batches do not tell them, as a
            DataLoader that shuffles does not.
        cause: a sentence on where it comes from, if that was found.
        outcome: a sentence on what the model holds now.
    """

    def __init__(
        self,
        what: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        lr: float | None = None,
        gradient_norm: float | None = None,
        images: Sequence[int] | None = None,
        cause: str = "",
        outcome: str = "",
    ) -> None:
        super().__init__(what)
        self.what, self.epoch, self.step, self.lr, self.gradient_norm = what, epoch, step, lr, gradient_norm
        self.images, self.cause, self.outcome = images, cause, outcome

    def __str__(self) -> str:
        if self.lr is None:
            return self.what
        which = "this epoch" if self.epoch is None else f"epoch {self.epoch}"
        where = f"after {which}" if self.step is None else f"at step {self.step} of {which}"
        norm = "" if self.gradient_norm is None else f" and a gradient of norm {self.gradient_norm:.3g} the step before"
        advice = self.cause or "Try a tenth of this rate, a warm-up, or look for NaN in the images."
        sentences = [f"{self.what} {where}, with learning rate {self.lr:g}{norm}.", self._describe_images(), advice]
        return " ".join(filter(None, [*sentences, self.outcome]))

    def _describe_images(self, most: int = 6) -> str:
        if not self.images:
            return ""
        more = ", …" if len(self.images) > most else ""
        return f"Its images have the positions {', '.join(map(str, self.images[:most]))}{more} in the training data."


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

    Raises:
        ValueError: there is no epoch, or an unknown `monitor`.
    """
    require_choice("monitor", monitor, MONITORS)
    epochs = list(history) if isinstance(history, Iterable) else []
    right = len(epochs) > 0 and all(hasattr(record, "val_loss") for record in epochs)
    require(right, "history", history, "at least one epoch, each an EpochRecord")
    if monitor == "val_loss":
        return min(epochs, key=lambda record: record.val_loss)
    return max(epochs, key=lambda record: (record.val_accuracy, -record.val_loss))
