import math
from dataclasses import replace

import pytest

from cifar_helpers.course.decisions import (
    _SUSPECTS,
    KINDS,
    PUBLISHED,
    Option,
    Swing,
    Turn,
    advantage,
    best_published,
    break_even,
    check_plausible,
    describe_range,
    recommend,
    sensitivity,
    tipping_points,
    turning_points,
)

# --- published figures ---


def test_every_published_figure_has_a_kind_a_year_and_a_source():
    for row in PUBLISHED:
        assert row.kind in KINDS
        assert 0.5 < row.accuracy < 1
        assert 2010 <= row.year <= 2026
        assert row.source
        with_labels = row.pretraining not in ("none", "tiny images, no labels")
        assert with_labels == row.kind.startswith("pretrained")
    assert best_published("cifar100", "pretrained, 300 M").accuracy == 0.9455  # ViT-H/14
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


BUILD, BUY = Option("build", 0.90, 10_000, 0.0, (0.89, 0.91)), Option("buy", 0.75, 0, 0.001)


@pytest.mark.parametrize(
    ("interval", "vendor", "requests", "choice"),
    [
        ((0.89, 0.91), 0.75, 20_000_000, "build"),
        ((0.89, 0.91), 0.75, 1_000, "buy"),
        ((0.89, 0.91), 0.65, 1_000, "build"),  # the vendor misses the target, whatever it costs
        ((0.69, 0.95), 0.75, 20_000_000, "buy"),  # the lower end misses it
        ((0.69, 0.95), 0.65, 20_000_000, "none"),
        ((0.80, 0.95), 0.75, 4_500_000, "open"),  # cheaper at one end alone
    ],
)
def test_the_recommendation_follows_from_the_numbers(interval, vendor, requests, choice):
    options = [replace(BUILD, interval=interval), replace(BUY, accuracy=vendor)]
    decision = recommend(options, target=0.7, requests=requests, error_cost=0.01)
    assert decision.choice == choice
    assert decision.reasons[0].startswith("build: at least")
    assert (choice == "open") == ("open between" in decision.reasons[-1])
    assert decision.best == ("" if choice == "none" else "build" if choice == "open" else choice)


def test_of_three_options_the_cheapest_one_is_recommended_and_its_rival_named():
    tune = Option("fine-tune", 0.95, 9_000, 0.0, (0.945, 0.955))
    assert recommend([BUILD, tune, BUY], 0.7, 20_000_000, 0.01).choice == "fine-tune"
    assert recommend([BUILD, tune, BUY], 0.7, 1_000, 0.01).choice == "buy"
    close = replace(tune, accuracy=0.90, interval=(0.895, 0.905), fixed=10_000)
    decision = recommend([BUILD, close, BUY], 0.7, 20_000_000, 0.01)
    assert decision.choice == "open"
    assert decision.reasons[-1].startswith("open between build and fine-tune")
    with pytest.raises(ValueError, match="a name of its own"):
        recommend([BUILD, BUILD], 0.7, 1, 0.01)


def test_the_advantage_is_the_cost_of_the_best_rival_less_ones_own():
    options = [BUILD, BUY, Option("poor", 0.5, 0, 0)]
    n, error = 10_000_000, 0.01
    assert advantage(options, "build", 0.7, n, error) == pytest.approx(BUY.cost(n, error) - BUILD.cost(n, error))
    assert advantage(options, "build", 0.7, n, error) == -advantage(options, "buy", 0.7, n, error)
    assert advantage(options, "poor", 0.7, n, error) == -math.inf
    assert advantage(options, "build", 0.8, n, error) == math.inf


def test_an_interval_without_its_accuracy_is_refused():
    with pytest.raises(ValueError, match="one that holds"):
        Option("build", 0.9, 1, 1, (0.7, 0.8))


# --- what the decision hangs on ---


def test_the_accuracy_at_which_the_recommendation_turns_is_the_one_of_the_formula():
    """Between the two ends of the interval the decision is open, be that narrower than any step or not."""
    n, error = 20_000_000, 0.01

    def choose(accuracy):
        return recommend([BUILD, replace(BUY, accuracy=accuracy)], 0.7, n, error).choice

    tie = BUY.per_request / error - (BUILD.fixed - BUY.fixed) / (n * error)
    turns = turning_points(choose, 0.75, 1.0, steps=2)
    assert [turn.choice for turn in turns] == ["open", "buy"]
    assert [turn.value for turn in turns] == pytest.approx([0.89 + tie, 0.91 + tie], abs=1e-8)
    assert turning_points(choose, 0.75, 0.8) == []
    back = turning_points(choose, 1.0, 0.5)
    assert [turn.choice for turn in back] == ["open", "build"]


def test_a_narrow_range_between_two_steps_is_found():
    def choose(x):
        return "low" if x < 0.5 else "open" if x < 0.5001 else "high"

    turns = turning_points(choose, 0.0, 1.0, steps=3)
    assert turns == [Turn(pytest.approx(0.5), "open"), Turn(pytest.approx(0.5001), "high")]
    assert turning_points(choose, 0.2, 0.2) == []


def test_each_assumption_turns_the_choice_on_its_own_or_not_at_all():
    def choose(given):
        return "build" if given["requests"] * given["price"] > 100 else "buy"

    ranges = {"requests": (100, 1_000, 2_000), "price": (0.3, 0.5, 0.6), "colour": (0, 1, 2)}
    found = tipping_points(choose, ranges)
    assert found["requests"] == [Turn(pytest.approx(200), "buy")]
    assert found["price"] == found["colour"] == []


def test_the_widest_swing_stands_first():
    swings = sensitivity(lambda given: given["a"] + 10 * given["b"], {"a": (0, 1, 2), "b": (0, 1, 3), "c": (1, 1, 1)})
    assert [swing.name for swing in swings] == ["b", "a", "c"]
    assert (swings[0].at_low, swings[0].at_high, swings[0].width) == (1, 31, 30)
    assert Swing("all others miss the target", 0, 1, math.inf, math.inf).width == 0
    with pytest.raises(ValueError, match="in this order"):
        sensitivity(lambda given: 0.0, {"a": (2, 1, 3)})


def test_percent_for_fractions_is_refused():
    with pytest.raises(ValueError, match=r"accuracy=70.*a fraction"):
        Option("buy", 70, 0, 0)
    with pytest.raises(ValueError, match=r"target=70.*a fraction"):
        recommend([BUILD, BUY], 70, 1, 0.01)


def test_a_range_is_put_into_words():
    assert describe_range(0.0, math.inf) == "always"
    assert describe_range(math.inf, math.inf) == "never"
    assert describe_range(1500.4, math.inf) == "from 1,500 images on"
    assert describe_range(0.0, 2000) == "up to 2,000 images"
