import math

import pytest
import torch

from cifar_helpers.metrics import (
    calibration,
    coarse_logits,
    confused_pairs,
    confusion_matrix,
    cross_entropy,
    find_label_issues,
    fit_temperature,
    label_ranks,
    per_class_accuracy,
    sums,
    top_k_accuracy,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5], [0.1, 0.2, 0.3]])
LABELS = torch.tensor([0, 1, 2, 0])


def test_sums_agree_with_the_formulas():
    found = sums(LOGITS, LABELS)
    expected = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        expected += math.log(sum(math.exp(v) for v in row)) - row[label]
    assert found.correct == 2
    assert found.count == 4
    assert found.loss_sum == pytest.approx(expected, rel=1e-6)
    assert found.accuracy == 0.5
    assert str(found) == f"loss {expected / 4:.4f}, accuracy 2/4 = 50.00%"


def test_untrained_logits_cost_ln_c():
    assert sums(torch.zeros(7, 10), torch.arange(7)).loss == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_no_label_is_skipped_in_silence(label):
    with pytest.raises(ValueError, match=rf"labels\[3\] is {label}; expected 0 to 2"):
        cross_entropy(LOGITS, torch.tensor([0, 1, 2, label]))


def test_top_k_counts_the_label_among_the_highest():
    assert top_k_accuracy(LOGITS, LABELS, k=1) == 0.5
    assert top_k_accuracy(LOGITS, LABELS, k=2) == 0.75
    assert top_k_accuracy(LOGITS, LABELS, k=9) == 1.0
    assert label_ranks(LOGITS, LABELS).tolist() == [0, 0, 1, 2]


def test_a_rank_of_zero_is_the_argmax_also_among_equals_and_without_numbers():
    logits = torch.tensor([[1.0, 1.0], [1.0, 1.0], [math.nan, 0.0], [math.nan, 0.0], [0.0, math.nan]])
    labels = torch.tensor([0, 1, 0, 1, 0])
    assert ((label_ranks(logits, labels) == 0) == (logits.argmax(1) == labels)).all()


def test_confusion_has_labels_in_rows():
    confusion = confusion_matrix(LOGITS.argmax(1), LABELS, 3)
    assert confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert confusion.dtype == torch.int64
    assert per_class_accuracy(confusion).tolist() == [0.5, 1.0, 0.0]
    assert confusion_matrix(LOGITS.argmax(1), LABELS, 4).tolist()[3] == [0, 0, 0, 0]  # a class that never occurs


@pytest.mark.parametrize(
    ("predicted", "labels", "words"),
    [
        ([0, 3], [0, 1], r"predicted=\[3\] is not allowed: classes 0 to 2"),
        ([0, 1], [0, -100], r"labels=\[-100\]"),
        ([], [], "at least one"),
    ],
)
def test_a_class_that_does_not_exist_is_not_left_out_of_the_confusion(predicted, labels, words):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(torch.tensor(predicted), torch.tensor(labels), 3)


def test_a_superclass_has_the_probability_of_its_members():
    fine_to_coarse = torch.tensor([0, 1, 0])
    found = coarse_logits(LOGITS, fine_to_coarse).exp()
    probabilities = LOGITS.softmax(1)
    assert torch.allclose(found[:, 0], probabilities[:, 0] + probabilities[:, 2])
    assert torch.allclose(found.sum(1), torch.ones(4))


def test_confused_pairs_are_counted_both_ways_and_ordered():
    confusion = torch.tensor([[9, 2, 0], [5, 9, 1], [1, 1, 9]])
    assert confused_pairs(confusion, 2) == [(1, 0, 5, 2), (1, 2, 1, 1)]
    assert confused_pairs(confusion, 9) == [(1, 0, 5, 2), (1, 2, 1, 1), (2, 0, 1, 0)]
    assert confused_pairs(torch.diag(torch.tensor([5, 6])), 2) == [(0, 1, 0, 0)]


def test_calibration_counts_every_example_once_and_compares_confidence_with_accuracy():
    p = torch.tensor([0.55, 0.65, 0.95, 0.95])
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    found = calibration(logits, torch.tensor([0, 1, 0, 0]), bins=10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
    assert found.accuracy[[5, 6, 9]].tolist() == [1.0, 0.0, 1.0]
    assert found.confidence[9].item() == pytest.approx(0.95)
    assert found.error == pytest.approx((0.45 + 0.65 + 2 * 0.05) / 4, abs=1e-6)


def test_the_temperature_undoes_a_known_one_and_changes_no_prediction():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()  # calibrated by construction
    for sharpened in (0.5, 1.0, 4.0):
        temperature = fit_temperature(sharpened * logits, labels)
        assert temperature == pytest.approx(sharpened, rel=0.05)
        scaled = sharpened * logits / temperature
        assert torch.equal(scaled.argmax(1), logits.argmax(1))
        assert calibration(scaled, labels).error < 0.02
    assert calibration(4 * logits, labels).error > 0.1
    assert calibration(4 * logits, labels).overconfidence > 0.1
    assert calibration(logits / 4, labels).overconfidence < -0.1
    assert abs(calibration(logits, labels).overconfidence) < 0.02


def test_logits_that_are_no_numbers_are_not_calibrated():
    for ask in (calibration, fit_temperature):
        with pytest.raises(ValueError, match=r"not finite in row \[1\]"):
            ask(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="at least one row"):
            ask(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))


def test_a_planted_label_error_is_suspect_and_honest_doubt_is_not():
    labels = torch.arange(3).repeat(20)
    logits = 3.0 * torch.nn.functional.one_hot(labels, 3)
    logits[0] = torch.tensor([1.0, 1.2, 1.0])  # wrong, and not sure of it
    wrong = labels.clone()
    wrong[7] = (labels[7] + 1) % 3
    assert torch.nonzero(find_label_issues(logits, wrong)).flatten().tolist() == [7]
    assert not find_label_issues(logits, labels).any()


def test_a_class_without_images_makes_no_label_suspect():
    assert not find_label_issues(torch.eye(3), torch.tensor([0, 1, 1])).any()
