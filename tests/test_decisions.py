import math
from dataclasses import replace

import pytest

from cifar_helpers.course.decisions import (
    _SUSPECTS,
    KINDS,
    PUBLISHED,
    Option,
    best_published,
    break_even,
    check_plausible,
    describe_range,
    recommend,
    tipping_points,
)

# --- published figures ---


def test_every_published_figure_has_a_kind_a_year_and_a_source():
    for row in PUBLISHED:
        assert row.kind in KINDS
        assert 0.5 < row.accuracy < 1
        assert 2010 <= row.year <= 2026
        assert row.source
    assert best_published("cifar100", "deep cnn").accuracy == 0.893
    assert best_published("cifar10", "small cnn").accuracy < best_published("cifar10", "deep cnn").accuracy
    assert best_published("cifar100", "mlp").kind == "small cnn"  # none weaker is known


@pytest.mark.parametrize(("accuracy", "kind"), [(0.92, "deep cnn"), (0.94, "pretrained")])
def test_the_ancestors_claims_on_cifar100_are_too_good(accuracy, kind):
    """92 % from scratch; 94 % with a ResNet-18 pretrained on ImageNet."""
    warnings = check_plausible(accuracy, "cifar100", kind)
    assert warnings[0].startswith(f"{accuracy:.1%} on cifar100 is more than the best known here of kind {kind!r}")
    assert len(warnings) == 1 + len(_SUSPECTS)


def test_a_plausible_accuracy_is_left_alone_and_percent_is_refused():
    assert check_plausible(0.73, "cifar100", "deep cnn") == []
    assert check_plausible(0.30, "cifar100", "mlp") == []
    assert check_plausible(0.999, "cifar100", "small cnn")
    assert check_plausible(0.85, "cifar10", "mlp")
    with pytest.raises(ValueError, match=r"accuracy=92.*a fraction"):
        check_plausible(92, "cifar100", "deep cnn")
    with pytest.raises(ValueError, match="Did you mean 'deep cnn'"):
        check_plausible(0.9, "cifar10", "deep-cnn")
    with pytest.raises(ValueError, match="dataset='mnist'"):
        check_plausible(0.9, "mnist", "mlp")


# --- build or buy ---


def test_break_even_is_where_the_two_costs_meet():
    build = Option("build", 0.9, fixed=1000.0, per_request=0.0001)
    buy = Option("buy", 0.7, fixed=0.0, per_request=0.001)
    for error_cost in (0.0, 0.01):
        start, end = break_even(build, buy, error_cost)
        assert build.cost(start, error_cost) == pytest.approx(buy.cost(start, error_cost))
        assert build.cost(2 * start, error_cost) < buy.cost(2 * start, error_cost)
        assert end == float("inf")
    assert break_even(build, buy, 0.01)[0] < break_even(build, buy, 0.0)[0]


@pytest.mark.parametrize("fixed", [-500.0, 0.0, 500.0])
@pytest.mark.parametrize("per_request", [-0.0005, 0.0, 0.0005])
def test_between_the_two_ends_building_is_cheaper_and_outside_it_is_not(fixed, per_request):
    build, buy = Option("build", 0.7, 1000 + fixed, 0.001 + per_request), Option("buy", 0.7, 1000.0, 0.001)
    start, end = break_even(build, buy, 0.0)
    for requests in (1.0, 1e3, 9e5, 1.1e6, 1e9):
        assert (build.cost(requests, 0.0) < buy.cost(requests, 0.0)) == (start < requests < end)


BUILD, BUY = Option("build", 0.90, 10_000, 0.0), Option("buy", 0.75, 0, 0.001)


@pytest.mark.parametrize(
    ("interval", "vendor", "requests", "choice"),
    [
        ((0.89, 0.91), 0.75, 20_000_000, "build"),
        ((0.89, 0.91), 0.75, 1_000, "buy"),
        ((0.89, 0.91), 0.65, 1_000, "build"),  # the vendor misses the target, whatever it costs
        ((0.69, 0.95), 0.75, 20_000_000, "buy"),  # the lower end misses it
        ((0.69, 0.95), 0.65, 20_000_000, "neither"),
        ((0.80, 0.95), 0.75, 4_500_000, "open"),  # cheaper at one end alone
    ],
)
def test_the_recommendation_follows_from_the_numbers(interval, vendor, requests, choice):
    buy = replace(BUY, accuracy=vendor)
    decision = recommend(BUILD, interval, buy, target=0.7, requests=requests, error_cost=0.01)
    assert decision.choice == choice
    assert decision.reasons[0].startswith("build: at least")
    assert ("requests cost" in " ".join(decision.reasons)) == (interval[0] >= 0.7 and vendor >= 0.7)


def test_an_interval_without_its_accuracy_is_refused():
    with pytest.raises(ValueError, match="one that holds"):
        recommend(BUILD, (0.7, 0.8), BUY, 0.7, 1, 0.01)


def test_a_tipping_point_is_where_the_decision_changes():
    def decide(given):
        return "build" if given["requests"] * given["price"] > 100 else "buy"

    undecided = tipping_points(lambda given: "build" if given["price"] > 0.4 else "open", {"price": 0.5})
    assert undecided["price"] == []  # "open" is no decision
    found = tipping_points(decide, {"requests": 1_000.0, "price": 0.5, "colour": 1.0})
    assert found["colour"] == []
    ((factor, other),) = found["requests"]
    assert other == "buy"
    assert factor == pytest.approx(0.2, rel=0.03)
    assert decide({"requests": 1_000 * factor, "price": 0.5}) == "buy"


def test_percent_for_fractions_is_refused():
    with pytest.raises(ValueError, match=r"accuracy=70.*a fraction"):
        Option("buy", 70, 0, 0)
    with pytest.raises(ValueError, match=r"target=70.*a fraction"):
        recommend(BUILD, (0.89, 0.91), BUY, 70, 1, 0.01)
    with pytest.raises(ValueError, match="above 1"):
        tipping_points(lambda given: "buy", {"a": 1.0}, reach=1)


def test_a_range_is_put_into_words():
    assert describe_range(0.0, math.inf) == "always"
    assert describe_range(math.inf, math.inf) == "never"
    assert describe_range(1500.4, math.inf) == "from 1,500 images on"
    assert describe_range(0.0, 2000) == "up to 2,000 images"
