"""How sure a measured accuracy is: intervals, paired tests, resampled ranks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cifar_helpers._arguments import require
from cifar_helpers.runtime import make_generator

__all__ = ["PairedTest", "bootstrap", "mcnemar", "rank_shares", "wilson_interval"]


def wilson_interval(correct: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval, as fractions, in which an accuracy of `correct` of `count` lies (Wilson, 1927).

    It says what other test images of the same kind would change, and nothing of other seeds.
    """
    from scipy.stats import binomtest

    require(0 <= correct <= count and count >= 1, "correct", (correct, count), "0 to count, and count at least 1")
    interval = binomtest(correct, count).proportion_ci(level, method="wilson")
    return interval.low, interval.high


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
        ValueError: the two have not the same shape, or another type than bool.
    """
    from scipy.stats import binomtest

    for name, correct in (("first", first), ("second", second)):
        require(correct.dtype == torch.bool, name, correct.dtype, "torch.bool, whether each answer is right")
    require(first.shape == second.shape, "second", tuple(second.shape), f"{tuple(first.shape)}: the same images")
    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    return PairedTest(a, b, binomtest(a, a + b).pvalue if a + b else 1.0)


def bootstrap(correct: Mapping[str, torch.Tensor], resamples: int = 1000, seed: int = 0) -> torch.Tensor:
    """Return how many of N images, drawn anew with replacement, each of M classifiers gets right, int64 (resamples, M).

    Args:
        correct: name of each to which of its answers are correct, bool (N,), on the same images.

    Raises:
        ValueError: they are not of equally many images.
    """
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
    better = (correct[:, None, :] > correct[:, :, None]).sum(2, keepdim=True)  # (resamples, M, 1)
    equal = (correct[:, None, :] == correct[:, :, None]).sum(2, keepdim=True)
    ranks = torch.arange(correct.shape[1])
    return ((ranks >= better) & (ranks < better + equal)).div(equal).double().mean(0)
