"""What logits are worth: loss, top-k, per class, by superclass, confusion, calibration. Accuracy is a fraction."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cifar_helpers._arguments import require, require_fraction, require_whole
from cifar_helpers._contract import check_labels

__all__ = [
    "Calibration",
    "Sums",
    "calibration",
    "coarse_logits",
    "confused_pairs",
    "confusion_matrix",
    "count_correct",
    "cross_entropy",
    "find_label_issues",
    "fit_temperature",
    "label_ranks",
    "per_class_accuracy",
    "sums",
    "top_k_accuracy",
]


@dataclass(frozen=True)
class Sums:
    """Loss and correct answers summed over examples, so that a ragged last batch weighs what it holds.

    Raises:
        ValueError: of no examples.
    """

    loss_sum: float
    correct: int
    count: int

    def __post_init__(self) -> None:
        require_whole("count", self.count, allowed="at least one example: there was no batch, or an empty one")

    @property
    def loss(self) -> float:
        """Mean cross-entropy per example, in nats."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        """Fraction of examples whose highest logit is the label's."""
        return self.correct / self.count

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, accuracy {self.correct}/{self.count} = {self.accuracy:.2%}"


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Return the mean cross-entropy in nats of logits (N, C) and int64 labels (N,), or probabilities (N, C).

    Unlike torch's default, no label value is skipped in silence: -100 is an error as every other negative one.

    Raises:
        ValueError: shapes or types do not fit together, or, on a CPU, a label is none of the classes.
    """
    try:
        skipped = -100 if targets.is_floating_point() else -(2**31)  # probabilities accept torch's default alone
        return F.cross_entropy(logits.float(), targets, ignore_index=skipped, label_smoothing=label_smoothing)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # looked at only then: it takes time
        _explain_refusal(logits, targets, label_smoothing)
        raise


def count_correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how many of N logits (N, C) are highest at the label (N,), or at the largest probability (N, C).

    Raises:
        ValueError: the shapes do not fit together.
    """
    require(logits.ndim == 2, "logits", logits, "scores of shape (N, C)")
    labels = targets.argmax(1) if targets.is_floating_point() and targets.ndim == 2 else targets
    require(
        labels.shape == logits.shape[:1], "targets", targets, f"of shape {tuple(logits.shape[:1])}, one for each row"
    )
    return (logits.argmax(1) == labels).sum()


def sums(logits: torch.Tensor, labels: torch.Tensor) -> Sums:
    """Return loss and correct answers of logits (N, C) against int64 labels (N,), summed over the N examples."""
    loss = cross_entropy(logits, labels)
    return Sums(loss.item() * len(labels), int(count_correct(logits, labels)), len(labels))


def label_ranks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many classes come before the label (N,) in logits (N, C), int64 (N,).

    0 is a correct answer, below 5 one of the five highest. Among equals the lower class number comes first, and NaN
    before everything, as for argmax.

    Raises:
        ValueError: there are none, or a label is none of the classes.
    """
    _check(logits, labels)
    logits = logits.nan_to_num(math.inf, math.inf, -math.inf)
    given = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > given) | (logits == given) & lower).sum(1)


def top_k_accuracy(logits: torch.Tensor, labels: torch.Tensor, k: int = 5) -> float:
    """Return the fraction of examples whose label is among the k highest logits.

    Raises:
        ValueError: as in `label_ranks`, or `k` is below 1.
    """
    require_whole("k", k)
    return (label_ranks(logits, labels) < k).double().mean().item()


def confusion_matrix(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return scikit-learn's confusion matrix as int64 (C, C), on the CPU: row = given label, column = predicted class.

    Raises:
        ValueError: there are none, not equally many, or one is not in 0 to C - 1; scikit-learn would leave it out in
            silence.
    """
    from sklearn import metrics

    require_whole("num_classes", num_classes)
    for name, values in (("predicted", predicted), ("labels", labels)):
        require(isinstance(values, torch.Tensor), name, values, _LABELS)
        require(len(values) > 0, name, tuple(values.shape), "at least one")
        require(values.dtype == torch.int64 and values.ndim == 1, name, values, _LABELS)
        wrong = values[(values < 0) | (values >= num_classes)]
        require(len(wrong) == 0, name, wrong[:1].tolist(), f"classes 0 to {num_classes - 1}")
    require(
        len(labels) == len(predicted), "labels", labels, f"of shape {tuple(predicted.shape)}, one for each prediction"
    )
    counts = metrics.confusion_matrix(labels.cpu().numpy(), predicted.cpu().numpy(), labels=range(num_classes))
    return torch.from_numpy(counts).long()


def per_class_accuracy(confusion: torch.Tensor) -> torch.Tensor:
    """Return the accuracy of each class (C,) from a confusion matrix; NaN for a class without examples.

    Raises:
        ValueError: the matrix is not square.
    """
    _check_square(confusion)
    return confusion.diag().double() / confusion.sum(1).double()


def confused_pairs(confusion: torch.Tensor, k: int) -> list[tuple[int, int, int, int]]:
    """Return the k pairs of classes that are confused most, as (a, b, count of a called b, count of b called a).

    The first of a pair is the one mistaken more often; equal sums keep the order of the classes. There are at most
    C (C - 1) / 2 pairs.

    Raises:
        ValueError: the matrix is not square, or `k` is below 1.
    """
    _check_square(confusion)
    require_whole("k", k)
    num_classes = len(confusion)
    rows, columns = torch.triu_indices(num_classes, num_classes, offset=1)
    order = (confusion[rows, columns] + confusion[columns, rows]).argsort(descending=True, stable=True)[:k]
    pairs = zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    ordered = [(a, b) if confusion[a, b] >= confusion[b, a] else (b, a) for a, b in pairs]
    return [(a, b, int(confusion[a, b]), int(confusion[b, a])) for a, b in ordered]


def _check_square(confusion: torch.Tensor) -> None:
    square = isinstance(confusion, torch.Tensor) and confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1]
    require(square, "confusion", confusion, "a matrix (C, C), from confusion_matrix")


def find_label_issues(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return which labels (N,) a network doubts, bool (N,): confident learning (Northcutt, Jiang and Chuang, 2021).

    A network is confident of a class if it gives it at least the probability that it gives on average to images which
    carry it as their label. A label is suspect if the likeliest such class is another one. The logits must come from a
    network that did not train on these labels.

    Raises:
        ValueError: there are no logits, some are not finite, or a label is none of the classes.
    """
    _check(logits, labels)
    _require_finite(logits)
    probability = logits.double().softmax(1)
    own = F.one_hot(labels, logits.shape[1]).bool()
    usual = (probability * own).sum(0) / own.sum(0)  # NaN where no image has the label: never confident of it
    confident = torch.where(probability >= usual, probability, 0)
    return (confident.amax(1) > 0) & (confident.argmax(1) != labels)


def coarse_logits(logits: torch.Tensor, fine_to_coarse: torch.Tensor) -> torch.Tensor:
    """Return logits of superclasses (N, S): the log of the summed probabilities of their fine classes.

    Args:
        fine_to_coarse: int64 (C,), the superclass of each class, from 0 on.

    Raises:
        ValueError: it is not of these classes, as that of a data set without superclasses.
    """
    _check_logits(logits)
    allowed = f"superclasses from 0 on, torch.int64 of shape ({logits.shape[1]},)"
    right = isinstance(fine_to_coarse, torch.Tensor) and fine_to_coarse.shape == logits.shape[1:]
    require(right and bool((fine_to_coarse >= 0).all()), "fine_to_coarse", fine_to_coarse, allowed)
    log_p = logits.float().log_softmax(1)
    members = [log_p[:, fine_to_coarse == s].logsumexp(1) for s in range(int(fine_to_coarse.max()) + 1)]
    return torch.stack(members, dim=1)


# --- calibration ---


@dataclass(frozen=True)
class Calibration:
    """Examples in bins of equal width by the probability of the predicted class; each field is a tensor (bins,).

    Attributes:
        confidence, accuracy: mean of the examples in a bin; NaN for an empty one.
        count: int64.
    """

    confidence: torch.Tensor
    accuracy: torch.Tensor
    count: torch.Tensor

    @property
    def error(self) -> float:
        """Expected calibration error, in [0, 1]: the mean gap between the two, weighted by count (Guo et al., 2017)."""
        filled = self.count > 0
        gaps = (self.confidence - self.accuracy)[filled].abs() * self.count[filled]
        return float(gaps.sum() / self.count.sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence less accuracy, in [-1, 1]: above 0 over-confident, below 0 under-confident."""
        gaps = (self.confidence - self.accuracy).nan_to_num() * self.count
        return float(gaps.sum() / self.count.sum())


def calibration(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> Calibration:
    """Return how often the predicted class is right, by how probable logits (N, C) make it.

    Raises:
        ValueError: there are none, some are not finite, a label is none of the classes, or `bins` is below 1.
    """
    require_whole("bins", bins)
    _check(logits, labels)
    _require_finite(logits)
    confidence, predicted = logits.double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(place, minlength=bins)
    mean_confidence, accuracy = (
        torch.bincount(place, weights=values.double(), minlength=bins) / count
        for values in (confidence, predicted == labels)
    )
    return Calibration(mean_confidence, accuracy, count)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return T > 0 for which logits / T have the least cross-entropy; fit it on validation, use it on test.

    No prediction changes, only its probability (Guo et al., 2017). Searched between 0.05 and 20; a value at an end
    means that there is no best one, as when every prediction is right.

    Raises:
        ValueError: there are no logits, some are not finite, or a label is none of the classes.
    """
    from scipy.optimize import minimize_scalar

    _check(logits, labels)
    _require_finite(logits)

    def loss(log_t: float) -> float:
        return cross_entropy(logits / math.exp(log_t), labels).item()

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded").x)


# --- what is wrong with them ---

_LABELS = "class numbers, torch.int64 of shape (N,)"


def _check(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Raise a ValueError unless these are logits (N, C), at least one row, and labels of these classes (N,)."""
    _check_logits(logits)
    require(isinstance(labels, torch.Tensor), "labels", labels, _LABELS)
    check_labels(labels, len(logits), logits.shape[1])


def _explain_refusal(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> None:
    """Raise a ValueError that says why torch's cross-entropy refused these arguments, if that is known."""
    require_fraction("label_smoothing", label_smoothing, "a share in [0, 1]")
    _check_logits(logits)
    if not (isinstance(targets, torch.Tensor) and targets.is_floating_point() and targets.ndim == 2):
        _check(logits, targets)
    require(targets.shape in (logits.shape, logits.shape[:1]), "targets", targets, f"of shape {tuple(logits.shape)}")


def _check_logits(logits: torch.Tensor) -> None:
    right = isinstance(logits, torch.Tensor) and logits.is_floating_point() and logits.ndim == 2
    require(right, "logits", logits, "floating-point numbers of shape (N, C)")
    require(logits.numel() > 0, "logits", tuple(logits.shape), "at least one row")


def _require_finite(logits: torch.Tensor) -> None:
    """Raise a ValueError unless all logits are finite."""
    wrong = torch.nonzero(~logits.isfinite().all(1)).flatten()
    require(len(wrong) == 0, "logits", f"not finite in row {wrong[:1].tolist()}", "finite numbers")
