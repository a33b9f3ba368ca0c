"""What others have published, which accuracies are plausible beside it, and what building or buying costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cifar_helpers._arguments import (
    is_number,
    require,
    require_choice,
    require_fraction,
    require_function,
    require_whole,
)

__all__ = [
    "KINDS",
    "PUBLISHED",
    "Decision",
    "Option",
    "Published",
    "Swing",
    "Turn",
    "advantage",
    "best_published",
    "break_even",
    "check_plausible",
    "describe_range",
    "recommend",
    "sensitivity",
    "tipping_points",
    "turning_points",
]

_FRACTION = "a fraction; 92 % is 0.92"


def _require_amounts(**amounts: float) -> None:
    """Raise a ValueError unless all are finite numbers of 0 or more."""
    for name, amount in amounts.items():
        require(is_number(amount) and amount >= 0, name, amount, "a finite number of 0 or more")


# --- what others have published ---


@dataclass(frozen=True)
class Published:
    """A published top-1 accuracy on the official test split, as a fraction.

    Attributes:
        kind: "mlp", "small cnn", "deep cnn", trained from scratch; "pretrained" on ImageNet, or on 300 million images.
        pretraining: the images on which the network was trained before, and how many; "none" from scratch.

    Raises:
        ValueError: an accuracy in percent.
    """

    dataset: str
    name: str
    kind: str
    accuracy: float
    year: int
    source: str
    pretraining: str = "none"

    def __post_init__(self) -> None:
        require_fraction("accuracy", self.accuracy, _FRACTION)


KINDS = ("mlp", "small cnn", "deep cnn", "pretrained", "pretrained, 300 M")
# What networks were trained on before.
_IMAGENET, _JFT, _TINY = "ImageNet, 1.3 M", "JFT, 300 M", "tiny images, no labels"
PUBLISHED = (
    Published("cifar10", "convolutional deep belief network", "small cnn", 0.789, 2010, "Krizhevsky, Conv. DBN", _TINY),
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
    Published(
        "cifar10", "ResNet-50, fine-tuned", "pretrained", 0.975, 2020, "Grill et al., arXiv 2006.07733", _IMAGENET
    ),
    Published(
        "cifar10", "GPipe, 557 M parameters", "pretrained", 0.990, 2018, "Huang et al., arXiv 1811.06965", _IMAGENET
    ),
    Published(
        "cifar10", "EfficientNet-B7, fine-tuned", "pretrained", 0.989, 2019, "Tan, Le, arXiv 1905.11946", _IMAGENET
    ),
    Published("cifar10", "BiT-L", "pretrained, 300 M", 0.9937, 2019, "Kolesnikov et al., arXiv 1912.11370", _JFT),
    Published("cifar10", "ViT-H/14", "pretrained, 300 M", 0.995, 2020, "Dosovitskiy et al., arXiv 2010.11929", _JFT),
    Published("cifar100", "Maxout", "small cnn", 0.6143, 2013, "Goodfellow et al., arXiv 1302.4389"),
    Published("cifar100", "All-CNN", "small cnn", 0.6629, 2014, "Springenberg et al., arXiv 1412.6806"),
    Published("cifar100", "VGG-16 with BatchNorm", "deep cnn", 0.7293, 2018, "weiaicunzai/pytorch-cifar100"),
    Published("cifar100", "ResNet-18", "deep cnn", 0.7561, 2018, "weiaicunzai/pytorch-cifar100"),
    Published(
        "cifar100", "Wide ResNet 28-10, dropout", "deep cnn", 0.8115, 2016, "Zagoruyko, Komodakis, arXiv 1605.07146"
    ),
    Published("cifar100", "PyramidNet, AutoAugment", "deep cnn", 0.893, 2018, "Cubuk et al., arXiv 1805.09501"),
    Published(
        "cifar100", "ResNet-50, fine-tuned", "pretrained", 0.864, 2020, "Grill et al., arXiv 2006.07733", _IMAGENET
    ),
    Published(
        "cifar100", "GPipe, 557 M parameters", "pretrained", 0.913, 2018, "Huang et al., arXiv 1811.06965", _IMAGENET
    ),
    Published(
        "cifar100", "EfficientNet-B7, fine-tuned", "pretrained", 0.917, 2019, "Tan, Le, arXiv 1905.11946", _IMAGENET
    ),
    Published("cifar100", "BiT-L", "pretrained, 300 M", 0.9351, 2019, "Kolesnikov et al., arXiv 1912.11370", _JFT),
    Published("cifar100", "ViT-H/14", "pretrained, 300 M", 0.9455, 2020, "Dosovitskiy et al., arXiv 2010.11929", _JFT),
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
    require_fraction("accuracy", accuracy, _FRACTION)
    require_fraction("margin", margin, "a fraction from 0 to 1; a point is 0.01")
    best = best_published(dataset, kind)
    if accuracy <= best.accuracy + margin:
        return []
    claim = (
        f"{accuracy:.1%} on {dataset} is more than the best known here of kind {best.kind!r}: {best.accuracy:.1%}, "
        f"{best.name} ({best.source}, {best.year}; pretraining: {best.pretraining})"
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
        interval: of the accuracy, if it was measured; None for one that is assumed or promised.

    Raises:
        ValueError: an accuracy in percent, an interval that does not hold it, or a cost below 0.
    """

    name: str
    accuracy: float
    fixed: float
    per_request: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        require_fraction("accuracy", self.accuracy, _FRACTION)
        _require_amounts(fixed=self.fixed, per_request=self.per_request)
        pair = self.interval is None or (isinstance(self.interval, list | tuple) and len(self.interval) == 2)
        require(pair, "interval", self.interval, "(low, high), fractions, or None")
        low, high = self.ends
        require(low <= self.accuracy <= high, "interval", self.interval, f"one that holds {self.accuracy}")

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval of the accuracy; both the accuracy itself where it has none."""
        return self.interval or (self.accuracy, self.accuracy)

    def cost(self, requests: float, error_cost: float, accuracy: float | None = None) -> float:
        """Return what `requests` images cost, if each wrong answer costs `error_cost`.

        Args:
            accuracy: another one than that of the option.

        Raises:
            ValueError: fewer than no requests, or a mistake that pays.
        """
        _require_amounts(requests=requests, error_cost=error_cost)
        wrong = 1 - (self.accuracy if accuracy is None else accuracy)
        return self.fixed + requests * (self.per_request + wrong * error_cost)

    def cost_range(self, requests: float, error_cost: float) -> tuple[float, float]:
        """Return the cost at the upper and at the lower end of the interval of the accuracy."""
        low, high = self.ends
        return self.cost(requests, error_cost, high), self.cost(requests, error_cost, low)


def break_even(build: Option, buy: Option, error_cost: float) -> tuple[float, float]:
    """Return between which numbers of requests building is the cheaper one: (0, inf) if always, (inf, inf) if never.

    Args:
        error_cost: of one wrong answer; 0 compares the prices alone.

    Raises:
        ValueError: no Option, or a mistake that pays.
    """
    for name, option in (("build", build), ("buy", buy)):
        require(isinstance(option, Option), name, option, "an Option(name, accuracy, fixed, per_request)")
    _require_amounts(error_cost=error_cost)
    more = build.fixed - buy.fixed
    saved = buy.per_request - build.per_request + (build.accuracy - buy.accuracy) * error_cost
    if saved > 0:
        return max(0.0, more / saved), math.inf
    if more >= 0:
        return math.inf, math.inf
    return 0.0, more / saved if saved else math.inf


def describe_range(start: float, end: float) -> str:
    """Return in words what `break_even` returned."""
    for name, value in (("start", start), ("end", end)):
        require(is_number(value) or value == math.inf, name, value, "a number, or inf")
    if start == math.inf:
        return "never"
    if end < math.inf:
        return f"up to {end:,.0f} images"
    return f"from {start:,.0f} images on" if start > 0 else "always"


@dataclass(frozen=True)
class Decision:
    """What to do, and the sentences from which it follows.

    Attributes:
        choice: the name of an option, "none" where no option meets the target, or "open" where an interval leaves it
            open which is the cheapest.
        best: the name of the option that is the cheapest at the measured accuracies; "" where none meets the target.
    """

    choice: str
    best: str
    reasons: tuple[str, ...]


def recommend(options: Sequence[Option], target: float, requests: float, error_cost: float) -> Decision:
    """Return the cheapest of the options that meet the target.

    An option meets it with the lower end of its interval. It is the cheapest one if its cost at the lower end is below
    that of every other one at the upper end; otherwise the decision is open.

    Args:
        target: least accuracy, a fraction.
    """
    require_fraction("target", target, "a fraction; 70 % is 0.7")
    _require_amounts(requests=requests, error_cost=error_cost)
    names = [option.name for option in options]
    require(len(set(names)) == len(names) > 0, "options", names, "at least one, each with a name of its own")
    fit = [option for option in options if option.ends[0] >= target]
    reasons = []
    for option in options:
        meets = option in fit
        word = "at least " if option.interval else ""
        reasons.append(
            f"{option.name}: {word}{option.ends[0]:.1%}, which {'meets' if meets else 'misses'} {target:.0%}"
        )
    if not fit:
        return Decision("none", "", tuple(reasons))
    for option in fit:
        low, high = option.cost_range(requests, error_cost)
        reasons.append(f"{option.name}: costs {low:,.0f}" + (f" to {high:,.0f}" if option.interval else ""))
    best = min(fit, key=lambda option: option.cost(requests, error_cost))
    most = best.cost_range(requests, error_cost)[1]
    rivals = [o.name for o in fit if o is not best and o.cost_range(requests, error_cost)[0] < most]
    if rivals:
        reasons.append(f"open between {best.name} and {' and '.join(rivals)}: their intervals overlap")
    return Decision("open" if rivals else best.name, best.name, tuple(reasons))


def advantage(options: Sequence[Option], name: str, target: float, requests: float, error_cost: float) -> float:
    """Return by how much the option called `name` is cheaper than the cheapest other one that meets the target.

    Below 0 another one is cheaper. It is -inf if the option itself misses the target, and inf if all others do.

    Raises:
        ValueError: no option has this name.
    """
    names = [option.name for option in options]
    require(name in names, "name", name, f"one of {', '.join(names)}")
    chosen = next(option for option in options if option.name == name)
    others = [option.cost(requests, error_cost) for option in options if option != chosen and option.ends[0] >= target]
    if chosen.ends[0] < target:
        return -math.inf
    return min(others, default=math.inf) - chosen.cost(requests, error_cost)


# --- what the decision hangs on ---


@dataclass(frozen=True)
class Turn:
    """Where a choice changes on the way along one assumption.

    Attributes:
        value: of the assumption.
        choice: from there on.
    """

    value: float
    choice: str


def turning_points(choose: Callable[[float], str], start: float, end: float, steps: int = 64) -> list[Turn]:
    """Return every value at which the choice changes on the way from `start` to `end`, in that order.

    Each is solved for by bisection, to a billionth of the way, so that no narrow range between two choices, such as
    "open", is passed over where the choice changes; only a choice that comes and goes again within one step is.

    Args:
        choose: the value of an assumption to the choice.
        steps: in which the way is divided to look for changes.

    Raises:
        ValueError: no step, no function, or an end that is no number.
    """
    require_function("choose", choose)
    for name, value in (("start", start), ("end", end)):
        require(is_number(value), name, value, "a finite number")
    require_whole("steps", steps)
    turns: list[Turn] = []
    left, now = start, choose(start)
    for step in range(1, steps + 1):
        right = start + (end - start) * step / steps
        last = choose(right)
        while now != last:
            left, beyond = _bisect(choose, now, left, right, abs(end - start) * 1e-9)
            now = choose(beyond)
            turns.append(Turn(beyond, now))
            left = beyond
        left = right
    return turns


def _bisect(
    choose: Callable[[float], str], choice: str, inside: float, outside: float, tolerance: float
) -> tuple[float, float]:
    """Return two values at most `tolerance` apart, of which the first alone leads to `choice`."""
    while abs(outside - inside) > tolerance:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        if choose(middle) == choice:
            inside = middle
        else:
            outside = middle
    return inside, outside


def tipping_points(
    choose: Callable[[dict[str, float]], str], ranges: Mapping[str, tuple[float, float, float]]
) -> dict[str, list[Turn]]:
    """Return, for each assumption, where the choice turns as it goes from likely to low and from likely to high.

    All others stay at their likely values. An empty list means that the choice is the same in the whole range.

    Args:
        choose: returns the choice for a full set of assumptions.
        ranges: (low, likely, high) of each.

    Raises:
        ValueError: a range that is none.
    """
    require_function("choose", choose)
    for name, values in ranges.items():
        _require_range(name, values)
    likely = {name: values[1] for name, values in ranges.items()}
    found = {}
    for name, (low, middle, high) in ranges.items():

        def along(value: float, name: str = name) -> str:
            return choose({**likely, name: value})

        found[name] = turning_points(along, middle, low) + turning_points(along, middle, high)
    return found


def _require_range(name: str, values: tuple[float, float, float]) -> None:
    right = isinstance(values, list | tuple) and len(values) == 3 and all(map(is_number, values))
    require(right, name, values, "low, likely, high, three finite numbers")


@dataclass(frozen=True)
class Swing:
    """What a value becomes at the two ends of the range of one assumption, all others being likely.

    Attributes:
        low, high: the ends of the range.
        at_low, at_high: the value there.
    """

    name: str
    low: float
    high: float
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        """How far the two are apart; 0 also of two that are the same infinity."""
        return 0.0 if self.at_low == self.at_high else abs(self.at_high - self.at_low)


def sensitivity(
    value: Callable[[dict[str, float]], float], ranges: Mapping[str, tuple[float, float, float]]
) -> list[Swing]:
    """Return how far a value moves along each assumption alone, the widest swing first.

    Args:
        value: of a full set of assumptions.
        ranges: (low, likely, high) of each.

    Raises:
        ValueError: a range that is not in this order.
    """
    require_function("value", value)
    for name, values in ranges.items():
        _require_range(name, values)
        require(list(values) == sorted(values), name, values, "low, likely, high, in this order")
    likely = {name: values[1] for name, values in ranges.items()}
    swings = [
        Swing(name, low, high, value({**likely, name: low}), value({**likely, name: high}))
        for name, (low, _, high) in ranges.items()
    ]
    return sorted(swings, key=lambda swing: -swing.width)
