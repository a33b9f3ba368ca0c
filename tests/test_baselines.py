import numpy as np
import pytest
import torch
from small import random_split

from cifar_helpers.course.baselines import (
    components_for,
    cross_validated_probabilities,
    embed_tsne,
    find_neighbours,
    fit_pca,
    score_logistic_regression,
    score_nearest_mean,
    score_prior,
    to_pixels,
    vote,
)

TRAIN, VAL = random_split(4000), random_split(80, "val", seed=1)


def test_pixels_are_rows_between_zero_and_one():
    rows = to_pixels(TRAIN.images)
    assert rows.shape == (4000, 192)
    assert rows.dtype == np.float32
    assert rows[3, 64 + 8 * 2 + 5] == TRAIN.images[3, 1, 2, 5] / 255


def test_baselines_beat_chance_where_brightness_tells_the_class():
    assert score_prior(TRAIN, VAL) == 0.25
    assert score_nearest_mean(TRAIN, VAL) > 0.9
    assert score_logistic_regression(TRAIN, VAL) > 0.6
    assert score_logistic_regression(TRAIN, VAL, size=1) > 0.6


def test_neighbours_are_those_of_a_plain_distance():
    found = find_neighbours(TRAIN.images, VAL.images, k=3)
    a, b = VAL.images.double().flatten(1) / 255, TRAIN.images.double().flatten(1) / 255
    expected = torch.cdist(a, b) / 192**0.5
    assert torch.equal(found.index, expected.argsort(1)[:, :3])
    assert torch.allclose(found.distance.double(), expected.sort(1).values[:, :3], atol=1e-5)


def test_an_identical_image_is_its_own_neighbour_at_distance_zero():
    found = find_neighbours(TRAIN.images, TRAIN.images[[7]])
    assert found.index.item() == 7
    assert found.distance.item() < 1e-4


def test_a_vote_takes_the_commonest_label_and_the_lowest_among_equals():
    assert vote(torch.tensor([[1, 2, 2], [3, 0, 1], [2, 2, 2]]), 4).tolist() == [2, 0, 2]


def test_components_count_the_variance_kept():
    pca = fit_pca(TRAIN.images)
    cumulative = pca.explained_variance_ratio_.cumsum()
    n = components_for(pca, 0.9)
    assert cumulative[n - 1] >= 0.9 > (cumulative[n - 2] if n > 1 else 0)


def test_a_planted_label_error_is_the_least_probable_label():
    labels = TRAIN.labels.clone()
    labels[13] = (labels[13] + 2) % 4
    split = type(TRAIN)("train", TRAIN.images, labels, TRAIN.class_names)
    probabilities = cross_validated_probabilities(split, fit_pca(split.images), components=20)
    given = probabilities.gather(1, labels[:, None]).squeeze(1)
    assert int(given.argmin()) == 13
    assert torch.allclose(probabilities.sum(1), torch.ones(4000), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_tsne_repeats_itself():
    pca = fit_pca(TRAIN.images)
    first, second = (embed_tsne(pca, TRAIN.images[:60], seed=0) for _ in range(2))
    assert first.shape == (60, 2)
    assert np.array_equal(first, second)
