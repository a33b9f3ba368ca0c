"""How sure a measured accuracy is: intervals, paired tests, resampled ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch

from cifar_helpers._arguments import is_number, is_whole, require, require_whole
from cifar_helpers.runtime import make_generator

__all__ = ["PairedTest", "bootstrap", "mcnemar", "mean_interval", "paired_difference", "rank_shares", "wilson_interval"]


def wilson_interval(correct: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval, as fractions, in which an accuracy of `correct` of `count` lies (Wilson, 1927).

    It says what other test images of the same kind would change, and nothing of other seeds.

    Raises:
        ValueError: more are correct than there are, there are none, or the level is not between 0 and 1.
    """
    from scipy.stats import binomtest

    for name, value in (("correct", correct), ("count", count)):
        require(is_whole(value), name, value, "a whole number")
    _require_level(level)
    require(0 <= correct <= count and count >= 1, "correct", (correct, count), "0 to count, and count at least 1")
    interval = binomtest(correct, count).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(correct: torch.Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean accuracy of the seeds of a recipe with its interval, as (value, low, high), fractions.

    The interval holds both other test images and other seeds: the squares of the two standard errors are added. Of a
    single run it is Wilson's, and knows nothing of seeds; of three runs the part of the seeds is a rough guess.

    Args:
        correct: bool (R, N), which answers of R runs are right on the same N images.

    Raises:
        ValueError: it has another shape or type, or is empty.
    """
    _require_level(level)
    require(_is_bool(correct, 2), "correct", correct, "torch.bool, of shape (R, N), at least one answer")
    runs, count = correct.shape
    value = correct.double().mean().item()
    if runs == 1:
        return value, *wilson_interval(int(correct.sum()), count, level)
    by_image, by_run = correct.double().mean(0), correct.double().mean(1)
    error = (by_image.var().item() / count + by_run.var().item() / runs) ** 0.5
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return value, max(0.0, value - reach), min(1.0, value + reach)


def _require_level(level: object) -> None:
    between = is_number(level) and 0 < level < 1
    require(between, "level", level, "a number between 0 and 1, both excluded; 95 % is 0.95")


def _is_bool(answers: object, dimensions: int) -> bool:
    """Return whether these are answers, right or wrong: a bool tensor of so many dimensions that holds one or more."""
    right = isinstance(answers, torch.Tensor) and answers.dtype == torch.bool
    return right and answers.ndim == dimensions and answers.numel() > 0  # type: ignore[attr-defined]  # a tensor


def paired_difference(first: torch.Tensor, second: torch.Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Return by how much the accuracy of the first exceeds that of the second, with its interval, as fractions.

    Both are bool (N,), which answers are right on the same images. Only images on which the two disagree count: with b
    that the first alone has right and c that the second alone has, the difference is (b - c) / N and its standard error
    √(b + c - (b - c)² / N) / N (Wald's interval for paired proportions). It says nothing of other seeds.

    Raises:
        ValueError: the two have not the same shape, another type than bool, or are empty.
    """
    _require_level(level)
    b, c = _alone(first, second)
    count = len(first)
    difference = (b - c) / count
    reach = NormalDist().inv_cdf((1 + level) / 2) * (b + c - (b - c) ** 2 / count) ** 0.5 / count
    return difference, difference - reach, difference + reach


_ANSWERS = "torch.bool, of shape (N,), at least one: whether each answer is right"


def _alone(first: torch.Tensor, second: torch.Tensor) -> tuple[int, int]:
    """Return how many answers the first alone has right, and how many the second alone."""
    for name, correct in (("first", first), ("second", second)):
        require(_is_bool(correct, 1), name, correct, _ANSWERS)
    require(first.shape == second.shape, "second", second, f"of shape {tuple(first.shape)}: the same images")
    return int((first & ~second).sum()), int((second & ~first).sum())


@dataclass(frozen=True)
class PairedTest:
    """What each of two classifiers alone gets right, and how likely a gap like that is if they are equally good."""

    only_first: int
    only_second: int
    p: float

    def __str__(self) -> str:
        return f"{self.only_first} against {self.only_second}, p = {self.p:.2g}"


def mcnemar(first: torch.Tensor, second: torch.Tensor) -> PairedTest:
    """Return the exact two-sided McNemar test on which answers, bool (N,), of two classifiers are correct.

    Raises:
        ValueError: the two have not the same shape, another type than bool, or are empty.
    """
    from scipy.stats import binomtest

    a, b = _alone(first, second)
    return PairedTest(a, b, binomtest(a, a + b).pvalue if a + b else 1.0)


def bootstrap(correct: Mapping[str, torch.Tensor], resamples: int = 1000, seed: int = 0) -> torch.Tensor:
    """Return how many of N images, drawn anew with replacement, each of M classifiers gets right, int64 (resamples, M).

    Args:
        correct: name of each to which of its answers are correct, bool (N,), on the same images.

    Raises:
        ValueError: there are none, or they are not bool, or not of equally many images.
    """
    require(len(correct) > 0, "correct", correct, "at least one classifier")
    for name, answers in correct.items():
        require(_is_bool(answers, 1), f"correct[{name!r}]", answers, _ANSWERS)
    require_whole("resamples", resamples)
    counts = {name: len(answers) for name, answers in correct.items()}
    require(len(set(counts.values())) == 1, "correct", counts, "equally many of each, on the same images")
    matrix = torch.stack(list(correct.values())).double()
    count, generator = matrix.shape[1], make_generator("bootstrap", seed)
    draws = (torch.randint(count, (count,), generator=generator) for _ in range(resamples))
    return torch.stack([matrix @ torch.bincount(drawn, minlength=count).double() for drawn in draws]).long()


def rank_shares(correct: torch.Tensor) -> torch.Tensor:
    """Return the share of resamples in which each classifier has each rank, float64 (M, M), from `bootstrap`.

    Rows are classifiers in their order, columns ranks from the best; equals share their ranks evenly.
    """
    fits = isinstance(correct, torch.Tensor) and correct.ndim == 2 and correct.numel() > 0
    require(fits, "correct", correct, "counts (resamples, M), from bootstrap")
    better = (correct[:, None, :] > correct[:, :, None]).sum(2, keepdim=True)  # (resamples, M, 1)
    equal = (correct[:, None, :] == correct[:, :, None]).sum(2, keepdim=True)
    ranks = torch.arange(correct.shape[1])
    return ((ranks >= better) & (ranks < better + equal)).div(equal).double().mean(0)
