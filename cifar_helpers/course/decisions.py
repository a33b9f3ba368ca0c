"""What others have published, which accuracies are plausible beside it, and what building or buying costs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cifar_helpers._arguments import require, require_choice

__all__ = [
    "KINDS",
    "PUBLISHED",
    "Decision",
    "Option",
    "Published",
    "best_published",
    "break_even",
    "check_plausible",
    "describe_range",
    "recommend",
    "tipping_points",
]

# --- what others have published ---


@dataclass(frozen=True)
class Published:
    """A published top-1 accuracy on the official test split, as a fraction.

    Attributes:
        kind: "mlp", "small cnn", "deep cnn", trained from scratch; "pretrained" on ImageNet, or on 300 million images.
    """

    dataset: str
    name: str
    kind: str
    accuracy: float
    year: int
    source: str


KINDS = ("mlp", "small cnn", "deep cnn", "pretrained", "pretrained, 300 M")
PUBLISHED = (
    Published("cifar10", "convolutional deep belief network", "small cnn", 0.789, 2010, "Krizhevsky, Conv. DBN"),
    Published("cifar10", "fully connected, deformed images", "mlp", 0.78, 2015, "Lin et al., arXiv 1511.02580"),
    Published("cifar10", "Maxout", "small cnn", 0.9062, 2013, "Goodfellow et al., arXiv 1302.4389"),
    Published("cifar10", "All-CNN", "small cnn", 0.9275, 2014, "Springenberg et al., arXiv 1412.6806"),
    Published("cifar10", "VGG-16 with BatchNorm", "deep cnn", 0.9264, 2017, "kuangliu/pytorch-cifar"),
    Published("cifar10", "ResNet-18", "deep cnn", 0.9302, 2017, "kuangliu/pytorch-cifar"),
    Published("cifar10", "airbench94", "deep cnn", 0.9401, 2024, "Jordan, arXiv 2404.00498"),
    Published(
        "cifar10", "Wide ResNet 28-10, dropout", "deep cnn", 0.9611, 2016, "Zagoruyko, Komodakis, arXiv 1605.07146"
    ),
    Published("cifar10", "PyramidNet, AutoAugment", "deep cnn", 0.985, 2018, "Cubuk et al., arXiv 1805.09501"),
    Published("cifar10", "ResNet-50, fine-tuned", "pretrained", 0.975, 2020, "Grill et al., arXiv 2006.07733"),
    Published("cifar10", "GPipe, 557 M parameters", "pretrained", 0.990, 2018, "Huang et al., arXiv 1811.06965"),
    Published("cifar10", "EfficientNet-B7, fine-tuned", "pretrained", 0.989, 2019, "Tan, Le, arXiv 1905.11946"),
    Published("cifar10", "BiT-L", "pretrained, 300 M", 0.9937, 2019, "Kolesnikov et al., arXiv 1912.11370"),
    Published("cifar100", "Maxout", "small cnn", 0.6143, 2013, "Goodfellow et al., arXiv 1302.4389"),
    Published("cifar100", "All-CNN", "small cnn", 0.6629, 2014, "Springenberg et al., arXiv 1412.6806"),
    Published("cifar100", "VGG-16 with BatchNorm", "deep cnn", 0.7293, 2018, "weiaicunzai/pytorch-cifar100"),
    Published("cifar100", "ResNet-18", "deep cnn", 0.7561, 2018, "weiaicunzai/pytorch-cifar100"),
    Published(
        "cifar100", "Wide ResNet 28-10, dropout", "deep cnn", 0.8115, 2016, "Zagoruyko, Komodakis, arXiv 1605.07146"
    ),
    Published("cifar100", "PyramidNet, AutoAugment", "deep cnn", 0.893, 2018, "Cubuk et al., arXiv 1805.09501"),
    Published("cifar100", "ResNet-50, fine-tuned", "pretrained", 0.864, 2020, "Grill et al., arXiv 2006.07733"),
    Published("cifar100", "GPipe, 557 M parameters", "pretrained", 0.913, 2018, "Huang et al., arXiv 1811.06965"),
    Published("cifar100", "EfficientNet-B7, fine-tuned", "pretrained", 0.917, 2019, "Tan, Le, arXiv 1905.11946"),
    Published("cifar100", "BiT-L", "pretrained, 300 M", 0.9351, 2019, "Kolesnikov et al., arXiv 1912.11370"),
)
_SUSPECTS = (
    "training accuracy, or top-5, under the name of top-1",
    "validation or test images among those trained on, or choices made on the test split",
    "another data set, or fewer classes",
    "labels that are hidden, or a file that lost its order",
)


def best_published(dataset: str, kind: str) -> Published:
    """Return the best result of a kind, or of a weaker one, on a data set; where none is known, of a stronger one."""
    require_choice("kind", kind, KINDS)
    require_choice("dataset", dataset, sorted({p.dataset for p in PUBLISHED}))
    known = [p for p in PUBLISHED if p.dataset == dataset]
    reach = max(KINDS.index(kind), min(KINDS.index(p.kind) for p in known))
    return max((p for p in known if KINDS.index(p.kind) <= reach), key=lambda p: p.accuracy)


def check_plausible(accuracy: float, dataset: str, kind: str, margin: float = 0.01) -> list[str]:
    """Return warnings, with what to look at first, if an accuracy is too good for its kind of model; else nothing.

    Args:
        accuracy: top-1 on the test split, a fraction.
        kind: one of KINDS.
        margin: what a little luck and care may add to the best that is known.

    Raises:
        ValueError: an accuracy in percent, or an unknown kind or data set.
    """
    require(0 <= accuracy <= 1, "accuracy", accuracy, "a fraction; 92 % is 0.92")
    best = best_published(dataset, kind)
    if accuracy <= best.accuracy + margin:
        return []
    claim = (
        f"{accuracy:.1%} on {dataset} is more than the best known here of kind {best.kind!r}: {best.accuracy:.1%}, "
        f"{best.name} ({best.source}, {best.year})"
    )
    return [claim, *(f"look for: {suspect}" for suspect in _SUSPECTS)]


# --- build or buy ---


@dataclass(frozen=True)
class Option:
    """A way to have images classified, and what it costs, in one currency.

    Attributes:
        accuracy: top-1, a fraction.
        fixed: once, and for the upkeep of the period looked at.
        per_request: for each image.

    Raises:
        ValueError: an accuracy in percent.
    """

    name: str
    accuracy: float
    fixed: float
    per_request: float

    def __post_init__(self) -> None:
        require(0 <= self.accuracy <= 1, "accuracy", self.accuracy, "a fraction; 92 % is 0.92")

    def cost(self, requests: float, error_cost: float) -> float:
        """Return what `requests` images cost, if each wrong answer costs `error_cost`."""
        return self.fixed + requests * (self.per_request + (1 - self.accuracy) * error_cost)


def break_even(build: Option, buy: Option, error_cost: float) -> tuple[float, float]:
    """Return between which numbers of requests building is the cheaper one: (0, inf) if always, (inf, inf) if never.

    Args:
        error_cost: of one wrong answer; 0 compares the prices alone.
    """
    more = build.fixed - buy.fixed
    saved = buy.per_request - build.per_request + (build.accuracy - buy.accuracy) * error_cost
    if saved > 0:
        return max(0.0, more / saved), math.inf
    if more >= 0:
        return math.inf, math.inf
    return 0.0, more / saved if saved else math.inf


def describe_range(start: float, end: float) -> str:
    """Return in words what `break_even` returned."""
    if start == math.inf:
        return "never"
    if end < math.inf:
        return f"up to {end:,.0f} images"
    return f"from {start:,.0f} images on" if start > 0 else "always"


@dataclass(frozen=True)
class Decision:
    """What to do, and the sentences from which it follows.

    Attributes:
        choice: the name of an option, "neither", or "open" where the interval of the accuracy spans the decision.
    """

    choice: str
    reasons: tuple[str, ...]


def recommend(
    build: Option, interval: tuple[float, float], buy: Option, target: float, requests: float, error_cost: float
) -> Decision:
    """Return the cheaper of the options that meet the target.

    What is built meets it with the lower end of its interval, and is the cheaper one if it is at both ends.

    Args:
        interval: of the accuracy of `build`, as `wilson_interval` gives it.
        target: least accuracy, a fraction.
    """
    require(0 <= target <= 1, "target", target, "a fraction; 70 % is 0.7")
    require(interval[0] <= build.accuracy <= interval[1], "interval", interval, f"one that holds {build.accuracy}")
    sure = {build.name: interval[0], buy.name: buy.accuracy}
    meets = {name: accuracy >= target for name, accuracy in sure.items()}
    reasons = [
        f"{name}: at least {accuracy:.1%}, which {'meets' if meets[name] else 'misses'} {target:.0%}"
        for name, accuracy in sure.items()
    ]
    fit = [name for name, met in meets.items() if met]
    if len(fit) < 2:
        return Decision(fit[0] if fit else "neither", tuple(reasons))
    ours = [replace(build, accuracy=end).cost(requests, error_cost) for end in interval]
    theirs = buy.cost(requests, error_cost)
    reasons.append(
        f"{requests:,.0f} requests cost {theirs:,.0f} with {buy.name}, {min(ours):,.0f} to {max(ours):,.0f} with "
        f"{build.name}"
    )
    if min(ours) < theirs < max(ours):
        return Decision(
            "open", (*reasons, "the interval of the accuracy spans the decision: more test images decide it")
        )
    return Decision(build.name if max(ours) <= theirs else buy.name, tuple(reasons))


def tipping_points(
    decide: Callable[[dict[str, float]], str], assumptions: Mapping[str, float], reach: float = 100.0, steps: int = 200
) -> dict[str, list[tuple[float, str]]]:
    """Return, for each assumption, the nearest factors below and above 1 at which the decision turns.

    Each is a pair (factor, new decision); "open" is passed over, being none. An empty list means that no factor from
    1/reach to reach turns it.

    Args:
        decide: returns the decision for a full set of assumptions.
        reach: above 1.
        steps: factors tried on either side, evenly on a logarithmic scale.
    """
    require(reach > 1, "reach", reach, "a factor above 1")
    decision = decide(dict(assumptions))

    def first_other(name: str, end: float) -> list[tuple[float, str]]:
        for step in range(1, steps + 1):
            factor = end ** (step / steps)
            other = decide({**assumptions, name: assumptions[name] * factor})
            if other not in (decision, "open"):
                return [(factor, other)]
        return []

    return {name: first_other(name, 1 / reach) + first_other(name, reach) for name in assumptions}
