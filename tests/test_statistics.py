import pytest
import torch

from cifar_helpers.statistics import (
    bootstrap,
    mcnemar,
    mean_interval,
    paired_difference,
    rank_shares,
    wilson_interval,
)

GENERATOR = torch.Generator().manual_seed(0)


def test_wilson_agrees_with_its_formula_and_stays_inside():
    low, high = wilson_interval(7160, 10_000)
    z, p, n = 1.959964, 0.716, 10_000
    centre, half = (p + z * z / (2 * n)), z * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    assert (low, high) == pytest.approx(
        ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)), abs=1e-6
    )
    assert (round(low, 3), round(high, 3)) == (0.707, 0.725)  # one of the ancestors: a thin lead over 70 %
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    with pytest.raises(ValueError, match="correct="):
        wilson_interval(11, 10)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    draws = torch.binomial(torch.full((400,), 200.0), torch.full((400,), 0.9), generator=GENERATOR)
    held = sum(low <= 0.9 <= high for low, high in (wilson_interval(int(d), 200) for d in draws))
    assert 0.92 <= held / 400 <= 0.98


def test_mcnemar_is_the_sign_test_on_what_only_one_gets_right():
    first = torch.tensor([True] * 90 + [True] * 8 + [False] * 2)
    second = torch.tensor([True] * 90 + [False] * 8 + [True] * 2)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (8, 2)
    assert test.p == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # two tails of ten coins
    assert mcnemar(first, first).p == 1
    assert str(test) == "8 against 2, p = 0.11"
    with pytest.raises(ValueError, match="the same images"):
        mcnemar(first, second[:5])
    with pytest.raises(ValueError, match="whether each answer is right"):
        mcnemar(first.int(), second.int())


def test_a_paired_difference_has_the_interval_of_what_only_one_gets_right():
    first = torch.tensor([True] * 8461 + [True] * 589 + [False] * 950)  # another order of magnitude than above
    second = torch.tensor([True] * 8461 + [False] * 589 + [True] * 461 + [False] * 489)
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(0.0128)
    assert (round(100 * low, 2), round(100 * high, 2)) == (0.65, 1.91)
    assert paired_difference(second, first) == pytest.approx((-difference, -high, -low))
    assert paired_difference(first, first) == (0, 0, 0)
    with pytest.raises(ValueError, match="the same images"):
        paired_difference(first, second[:5])


def test_the_interval_of_a_paired_difference_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for _ in range(400):
        easy = torch.rand(500, generator=GENERATOR)
        first, second = easy < 0.8, (easy < 0.7) | (torch.rand(500, generator=GENERATOR) < 0.1)  # 0.8 and 0.73
        _, low, high = paired_difference(first, second)
        held += low <= 0.07 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_the_interval_of_a_mean_over_seeds_is_wider_where_seeds_differ():
    correct = torch.rand(3, 10_000, generator=GENERATOR) < 0.9
    value, low, high = mean_interval(correct)
    assert value == pytest.approx(correct.double().mean().item())
    assert low < value < high
    uneven = correct.clone()
    uneven[0] &= torch.rand(10_000, generator=GENERATOR) < 0.95
    other = mean_interval(uneven)
    assert other[2] - other[1] > 2 * (high - low)
    assert mean_interval(correct[:1])[1:] == wilson_interval(int(correct[0].sum()), 10_000)
    assert mean_interval(torch.ones(2, 5, dtype=torch.bool)) == (1, 1, 1)
    for wrong in (correct[0], correct[:0], correct.int()):
        with pytest.raises(ValueError, match=r"torch\.bool, of shape"):
            mean_interval(wrong)


def test_ranks_over_resamples_are_sure_of_what_is_clear_and_unsure_of_what_is_not():
    answers = {name: torch.rand(1000, generator=GENERATOR) < p for name, p in (("good", 0.9), ("bad", 0.5))}
    answers["copy"] = answers["bad"].roll(1)
    correct = bootstrap(answers, 200)
    assert correct.shape == (200, 3)
    assert correct.double().mean(0).tolist() == pytest.approx([int(a.sum()) for a in answers.values()], rel=0.02)
    ranks = rank_shares(correct)
    assert torch.allclose(ranks.sum(0), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(ranks.sum(1), torch.ones(3, dtype=torch.float64))
    assert ranks[0].tolist() == [1, 0, 0]
    assert 0.2 < ranks[1, 1] < 0.8
    same = rank_shares(bootstrap({"a": answers["good"], "b": answers["good"]}, 10))
    assert torch.allclose(same, torch.full((2, 2), 0.5, dtype=torch.float64))
    assert torch.equal(correct, bootstrap(answers, 200))
    with pytest.raises(ValueError, match="equally many"):
        bootstrap({"a": answers["good"], "b": answers["bad"][:5]})
