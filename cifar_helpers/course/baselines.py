"""What pixels alone can tell: scikit-learn's simplest models, as the scale on which networks are measured."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestCentroid, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline

from cifar_helpers._arguments import is_number, is_whole, require, require_whole
from cifar_helpers._progress import ProgressLine
from cifar_helpers.data.datasets import Split

__all__ = [
    "Neighbours",
    "components_for",
    "cross_validated_probabilities",
    "embed_tsne",
    "find_neighbours",
    "fit_pca",
    "score_logistic_regression",
    "score_nearest_mean",
    "score_prior",
    "to_pixels",
    "vote",
]


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Return images (N, 3, H, W) with values 0 to 255 as float32 rows (N, 3·H·W) in [0, 1]."""
    _require_images("images", images)
    return images.flatten(1).numpy().astype(np.float32) / 255


def _require_images(name: str, images: torch.Tensor) -> None:
    right = isinstance(images, torch.Tensor) and images.ndim == 4
    require(right, name, images, "images (N, 3, H, W), levels 0 to 255")


def _require_splits(train: Split, val: Split) -> None:
    for name, split in (("train", train), ("val", val)):
        require(isinstance(split, Split), name, split, "a Split, such as dataset.train")


def _require_pca(pca: PCA) -> None:
    require(isinstance(pca, PCA), "pca", pca, "the principal components that fit_pca returns")


def score_prior(train: Split, val: Split) -> float:
    """Return the validation accuracy of always naming the commonest training class."""
    _require_splits(train, val)
    model = DummyClassifier(strategy="prior").fit(np.zeros((len(train), 1)), train.labels.numpy())
    return model.score(np.zeros((len(val), 1)), val.labels.numpy())


def score_nearest_mean(train: Split, val: Split) -> float:
    """Return the validation accuracy of the class whose mean image is nearest in L2."""
    _require_splits(train, val)
    model = NearestCentroid().fit(to_pixels(train.images), train.labels.numpy())
    return model.score(to_pixels(val.images), val.labels.numpy())


@dataclass(frozen=True)
class Neighbours:
    """Nearest reference images of each query, nearest first.

    Attributes:
        distance: float32 (N, k), root mean square difference over pixels and channels, in [0, 1].
        index: int64 (N, k), into the reference images.
    """

    distance: torch.Tensor
    index: torch.Tensor


_QUERIES = 2560  # searched for at once: found is the same, bit by bit, as with all at once, and as fast on two cores


def find_neighbours(reference: torch.Tensor, queries: torch.Tensor, k: int = 1) -> Neighbours:
    """Return the k nearest of uint8 `reference` (M, 3, H, W) for each of `queries` (N, 3, H, W), by brute force.

    Raises:
        ValueError: `k` is not from 1 to M, or the images are not of one size.
    """
    for name, images in (("reference", reference), ("queries", queries)):
        _require_images(name, images)
    require(is_whole(k) and 1 <= k <= len(reference), "k", k, f"from 1 to {len(reference)}, the reference images")
    size = tuple(reference.shape[1:])
    require(queries.shape[1:] == size, "queries", queries, f"images of one size, {size} as those of reference")
    rows = to_pixels(reference)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows)
    starts = range(0, max(1, len(queries)), _QUERIES)
    with ProgressLine("nearest neighbours, part", len(starts)) as line:
        found = [search.kneighbors(to_pixels(queries[start : start + _QUERIES])) for start in line.over(starts)]
    distance, index = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Neighbours(torch.from_numpy(distance / rows.shape[1] ** 0.5).float(), torch.from_numpy(index))


def vote(neighbour_labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the commonest label of each row (N, k) as int64 (N,); among equals the lowest class number.

    Raises:
        ValueError: a label is none of the classes.
    """
    right = isinstance(neighbour_labels, torch.Tensor) and neighbour_labels.ndim == 2
    require(right, "neighbour_labels", neighbour_labels, "class numbers, torch.int64 of shape (N, k)")
    wrong = torch.nonzero((neighbour_labels < 0) | (neighbour_labels >= num_classes)).tolist()
    for row, column in wrong[:1]:
        label = int(neighbour_labels[row, column])
        raise ValueError(f"neighbour_labels[{row}, {column}] is {label}; expected 0 to {num_classes - 1}")
    return F.one_hot(neighbour_labels, num_classes).sum(1).argmax(1)


def fit_pca(images: torch.Tensor) -> PCA:
    """Return all principal components of uint8 images (N, 3, H, W)."""
    return PCA(svd_solver="covariance_eigh").fit(to_pixels(images))


def components_for(pca: PCA, share: float) -> int:
    """Return how many components keep at least `share` of the variance.

    Raises:
        ValueError: a share that is no fraction.
    """
    require(is_number(share) and 0 < share <= 1, "share", share, "a fraction; 90 % is 0.9")
    _require_pca(pca)
    return int(np.searchsorted(pca.explained_variance_ratio_.cumsum(), share)) + 1


def _make_logistic_regression(components: int = 200) -> Pipeline:
    """Return softmax regression on whitened principal components: still a linear model of the pixels.

    Whitening makes the problem round, so that it converges in ten steps; C = 1e-3 shrinks the weights.
    """
    whiten = PCA(components, whiten=True, svd_solver="covariance_eigh")
    return make_pipeline(whiten, LogisticRegression(C=1e-3, max_iter=100))


def score_logistic_regression(train: Split, val: Split, size: int | None = None) -> float:
    """Return the validation accuracy of softmax regression, on images averaged down to `size` pixels if given."""
    _require_splits(train, val)
    if size is not None:
        require_whole("size", size)
    rows, val_rows = (to_pixels(_shrink(split.images, size or split.images.shape[-1])) for split in (train, val))
    model = _make_logistic_regression(min(200, rows.shape[1])).fit(rows, train.labels.numpy())
    return model.score(val_rows, val.labels.numpy())


def _shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return uint8 images (N, 3, H, W) averaged over squares to float32 (N, 3, size, size), values 0 to 255."""
    return F.adaptive_avg_pool2d(images.float(), size)


def cross_validated_probabilities(split: Split, pca: PCA, components: int = 200, folds: int = 5) -> torch.Tensor:
    """Return class probabilities (N, C) for every image, from a logistic regression that did not see it."""
    require_whole("folds", folds, 2)
    _require_pca(pca)
    features = pca.transform(to_pixels(split.images))[:, :components]
    features /= np.sqrt(pca.explained_variance_[:components])
    model = LogisticRegression(C=1e-3, max_iter=100)
    return torch.from_numpy(
        cross_val_predict(model, features, split.labels.numpy(), cv=folds, method="predict_proba")
    ).float()


def embed_tsne(pca: PCA, images: torch.Tensor, seed: int = 0) -> np.ndarray:
    """Return t-SNE coordinates (N, 2) of images, from their first 50 principal components."""
    _require_pca(pca)
    features = pca.transform(to_pixels(images))[:, :50]
    return TSNE(init="pca", random_state=seed).fit_transform(features)
