"""What logits are worth: loss, top-k, per class, by superclass, confusion, calibration. Accuracy is a fraction."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cifar_helpers._arguments import require

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
    """Loss and correct answers summed over examples, so that a ragged last batch weighs what it holds."""

    loss_sum: float
    correct: int
    count: int

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
    """
    skipped = -100 if targets.is_floating_point() else -(2**31)  # probabilities accept torch's default alone
    return F.cross_entropy(logits.float(), targets, ignore_index=skipped, label_smoothing=label_smoothing)


def count_correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how many of N logits (N, C) are highest at the label (N,), or at the largest probability (N, C)."""
    labels = targets.argmax(1) if targets.is_floating_point() else targets
    return (logits.argmax(1) == labels).sum()


def sums(logits: torch.Tensor, labels: torch.Tensor) -> Sums:
    """Return loss and correct answers of logits (N, C) against int64 labels (N,), summed over the N examples."""
    loss = cross_entropy(logits, labels)
    return Sums(loss.item() * len(labels), int(count_correct(logits, labels)), len(labels))


def label_ranks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many classes come before the label (N,) in logits (N, C), int64 (N,).

    0 is a correct answer, below 5 one of the five highest. Among equals the lower class number comes first, and NaN
    before everything, as for argmax.
    """
    logits = logits.nan_to_num(math.inf, math.inf, -math.inf)
    given = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > given) | (logits == given) & lower).sum(1)


def top_k_accuracy(logits: torch.Tensor, labels: torch.Tensor, k: int = 5) -> float:
    """Return the fraction of examples whose label is among the k highest logits."""
    return (label_ranks(logits, labels) < k).double().mean().item()


def confusion_matrix(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return scikit-learn's confusion matrix as int64 (C, C), on the CPU: row = given label, column = predicted class.

    Raises:
        ValueError: there are none, or one is not in 0 to C - 1; scikit-learn would leave it out in silence.
    """
    from sklearn import metrics

    for name, values in (("predicted", predicted), ("labels", labels)):
        require(len(values) > 0, name, tuple(values.shape), "at least one")
        wrong = values[(values < 0) | (values >= num_classes)]
        require(len(wrong) == 0, name, wrong[:1].tolist(), f"classes 0 to {num_classes - 1}")
    counts = metrics.confusion_matrix(labels.cpu().numpy(), predicted.cpu().numpy(), labels=range(num_classes))
    return torch.from_numpy(counts).long()


def per_class_accuracy(confusion: torch.Tensor) -> torch.Tensor:
    """Return the accuracy of each class (C,) from a confusion matrix; NaN for a class without examples."""
    return confusion.diag().double() / confusion.sum(1).double()


def confused_pairs(confusion: torch.Tensor, k: int) -> list[tuple[int, int, int, int]]:
    """Return the k pairs of classes that are confused most, as (a, b, count of a called b, count of b called a).

    The first of a pair is the one mistaken more often; equal sums keep the order of the classes. There are at most
    C (C - 1) / 2 pairs.
    """
    num_classes = len(confusion)
    rows, columns = torch.triu_indices(num_classes, num_classes, offset=1)
    order = (confusion[rows, columns] + confusion[columns, rows]).argsort(descending=True, stable=True)[:k]
    pairs = zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    ordered = [(a, b) if confusion[a, b] >= confusion[b, a] else (b, a) for a, b in pairs]
    return [(a, b, int(confusion[a, b]), int(confusion[b, a])) for a, b in ordered]


def find_label_issues(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return which labels (N,) a network doubts, bool (N,): confident learning (Northcutt, Jiang and Chuang, 2021).

    A network is confident of a class if it gives it at least the probability that it gives on average to images which
    carry it as their label. A label is suspect if the likeliest such class is another one. The logits must come from a
    network that did not train on these labels.

    Raises:
        ValueError: there are no logits, or some are not finite.
    """
    _require_finite(logits)
    probability = logits.double().softmax(1)
    own = F.one_hot(labels, logits.shape[1]).bool()
    usual = (probability * own).sum(0) / own.sum(0)  # NaN where no image has the label: never confident of it
    confident = torch.where(probability >= usual, probability, 0)
    return (confident.amax(1) > 0) & (confident.argmax(1) != labels)


def coarse_logits(logits: torch.Tensor, fine_to_coarse: torch.Tensor) -> torch.Tensor:
    """Return logits of superclasses (N, S): the log of the summed probabilities of their fine classes."""
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
        ValueError: there are none, or some are not finite.
    """
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
        ValueError: there are no logits, or some are not finite.
    """
    from scipy.optimize import minimize_scalar

    _require_finite(logits)

    def loss(log_t: float) -> float:
        return cross_entropy(logits / math.exp(log_t), labels).item()

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded").x)


def _require_finite(logits: torch.Tensor) -> None:
    """Raise a ValueError unless there are logits, and all are finite."""
    wrong = torch.nonzero(~logits.isfinite().all(1)).flatten()
    require(len(logits) > 0, "logits", tuple(logits.shape), "at least one row")
    require(len(wrong) == 0, "logits", f"not finite in row {wrong[:1].tolist()}", "finite numbers")
