"""Pretrained networks: what belongs to one, how it is frozen, and how good its features are.

A `Backbone` carries its own normalisation and input size. Sources: a network that you trained on other data, and
torchvision's ResNet-18 with ImageNet weights.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from cifar_helpers._arguments import require, require_choice
from cifar_helpers._hashing import SHORT, hash_json, hash_tensors
from cifar_helpers._storage import CheckpointError, load_tensors, read_file, save_tensors
from cifar_helpers.classify import load_model
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.download import DataError, reachable_mirrors
from cifar_helpers.data.transforms import Normaliser, resize
from cifar_helpers.runtime import make_generator
from cifar_helpers.training.evaluation import check_normaliser, predict

__all__ = [
    "TRAINED",
    "Backbone",
    "Frozen",
    "Resize",
    "TransferModel",
    "compute_features",
    "cut_head",
    "draw_labelled",
    "imagenet_backbone",
    "linear_probe",
    "load_backbone",
    "make_transfer_model",
    "own_backbone",
]

_IMAGENET = ResNet18_Weights.IMAGENET1K_V1
TRAINED = ("head", "last stage", "all")


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its head.

    Attributes:
        body: normalised images (N, 3, image_size, image_size) to features (N, F).
        num_features: F.
        last_stage: number of the child of `body` with which its last stage begins.
        normaliser: that of the images it was trained on; it takes no others.
        image_size: side in pixels to which images are scaled first.
        source: where it comes from, in words.
    """

    body: nn.Sequential
    num_features: int
    last_stage: int
    normaliser: Normaliser
    image_size: int
    source: str

    @property
    def sha256(self) -> str:
        """SHA-256 of weights and buffers: the same network, the same value."""
        return hash_tensors(self.body.state_dict().values())


class Resize(nn.Module):
    """Scale images to `size` pixels, bilinear with antialiasing: a backbone sees the size it was trained on."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return resize(images, self.size)


class TransferModel(nn.Sequential):
    """A backbone with a new head; `make_transfer_model` makes it.

    Attributes:
        normaliser: that of the backbone; `fit` and `predict` refuse batches of another one.
        image_size: side in pixels to which every image is scaled.
        spec: what a checkpoint compares: the backbone and what of it is trained.
    """

    normaliser: Normaliser
    image_size: int
    spec: dict[str, str]


class Frozen(nn.Sequential):
    """Layers that learn nothing: no gradient, and BatchNorm keeps its statistics also after `train()`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


# --- where backbones come from ---


def cut_head(model: nn.Module, normaliser: Normaliser, source: str, image_size: int = 32) -> Backbone:
    """Return a copy of a network from `models` up to its last linear layer; the last stage is two layers.

    Raises:
        ValueError: the network has no children that end in a linear layer, or fewer than three layers.
    """
    heads = [(i, child) for i, child in enumerate(model.children()) if isinstance(child, nn.Linear)]
    sequential = isinstance(model, nn.Sequential) and bool(heads)
    require(sequential, "model", type(model).__name__, "a Sequential with a linear layer as its head")
    place, head = heads[-1]
    body = copy.deepcopy(nn.Sequential(*list(model.children())[:place])).cpu()
    layers = [i for i, child in enumerate(body) if any(p.ndim >= 2 for p in child.parameters())]
    require(len(layers) >= 2, "model", type(model).__name__, "at least two layers with weights before its head")
    return Backbone(body, head.in_features, layers[-2], normaliser, image_size, source)


def own_backbone(checkpoint: str | Path, source: str) -> Backbone:
    """Return the best network of a run from its checkpoint, without its head.

    Raises:
        CheckpointError: the file is damaged, or holds a model that `models.make_model` did not make.
    """
    classifier = load_model(checkpoint)
    return cut_head(classifier.model, classifier.normaliser, source, classifier.image_size)


def imagenet_backbone(folder: str | Path, image_size: int = 224, fetch: bool = False) -> Backbone:
    """Return torchvision's ResNet-18 with its ImageNet weights, for images scaled to `image_size` pixels.

    Args:
        folder: where the official file may lie, under its official name.
        fetch: get it where it is not there.

    Raises:
        DataError: the file is not there, and was not to be fetched or could not be.
        CheckpointError: it is not the official file.
    """
    name = _IMAGENET.url.rsplit("/", 1)[-1]
    path = Path(folder) / name
    if not path.exists():
        if not fetch:
            raise DataError(f"{path} is not there. Fetch {_IMAGENET.url} by hand and put it there, or pass fetch=True.")
        _fetch_weights(path)
    return load_backbone(path, _official_hash(name), image_size)


def _fetch_weights(path: Path) -> None:
    """Fetch torchvision's file to `path`, whole or not at all.

    Raises:
        DataError: it cannot be had.
    """
    import pooch  # here, because it looks for a notebook's widgets and warns where there are none

    downloader = pooch.HTTPDownloader(timeout=10)
    try:
        if not reachable_mirrors((_IMAGENET.url,)):
            raise OSError("no connection")
        pooch.retrieve(_IMAGENET.url, None, path.name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:
        raise DataError(f"{_IMAGENET.url} could not be fetched ({error}). Put it by hand at {path}.") from error


def _official_hash(name: str) -> str:
    """Return the first digits of a file's SHA-256, which torchvision writes into its name: resnet18-f37072fd.pth."""
    return name.rsplit("-", 1)[-1].split(".")[0]


def load_backbone(path: str | Path, sha256: str, image_size: int = 224) -> Backbone:
    """Return torchvision's ResNet-18 with the weights of a file, whose hash is compared before anything is read.

    Args:
        sha256: the file's, all 64 digits or at least the first 8.

    Raises:
        CheckpointError: the file is missing, is another one, or holds other tensors than a ResNet-18's.
    """
    require(8 <= len(sha256) <= 64, "sha256", sha256, "at least 8 hexadecimal digits")
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} is not there; expected the weights of a ResNet-18 as torchvision saves them.")
    found = hashlib.sha256(read_file(path)).hexdigest()
    if not found.startswith(sha256.lower()):
        raise CheckpointError(
            f"{path} has SHA-256 {found[:12]}…, expected {sha256[:12]}…. Delete it and fetch it again."
        )
    network = resnet18()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a hostile file makes torch's reader stumble over
        first = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"{path} does not hold the weights of torchvision's ResNet-18: {first}") from error
    *stages, head = network.children()
    facts = _IMAGENET.transforms()
    normaliser = Normaliser(tuple(facts.mean), tuple(facts.std))
    body = nn.Sequential(*stages, nn.Flatten())
    last = max(i for i, stage in enumerate(stages) if any(p.ndim >= 2 for p in stage.parameters()))
    return Backbone(body, head.in_features, last, normaliser, image_size, f"ResNet-18, {path.name}")


# --- networks made of them ---


def make_transfer_model(backbone: Backbone, num_classes: int, train: str = "all") -> TransferModel:
    """Return a copy of the backbone with a new head: images (N, 3, S, S) of any size S in, logits (N, C) out.

    The head brings the features to one scale, so that a learning rate suits any backbone, and begins at zero: the first
    step moves it towards the classes before it moves the body. `normaliser` of the result is the backbone's; `fit` and
    `predict` refuse batches of another one.

    Args:
        train: "head" alone, the "last stage" too, or "all"; the rest is frozen, its BatchNorm included.

    Raises:
        ValueError: an unknown `train`, or fewer than two classes.
    """
    require_choice("train", train, TRAINED)
    require(num_classes >= 2, "num_classes", num_classes, "a classifier needs at least 2")
    body = copy.deepcopy(backbone.body)
    begin = {"head": len(body), "last stage": backbone.last_stage, "all": 0}[train]
    head = nn.Linear(backbone.num_features, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    frozen = [Frozen(*body[:begin])] if begin else []
    scale = nn.BatchNorm1d(backbone.num_features, momentum=0.4, affine=False)  # for short trainings
    model = TransferModel(Resize(backbone.image_size), *frozen, *body[begin:], scale, head)
    model.normaliser, model.image_size = backbone.normaliser, backbone.image_size
    model.spec = {"name": "transfer", "backbone": backbone.sha256[:SHORT], "train": train}
    return model


def compute_features(
    backbone: Backbone, batches: Batches, folder: str | Path | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (N, F) of all images, float32, and their labels (N,).

    Args:
        folder: where they are kept, whole or not at all; asked again, they are read from there.

    Raises:
        ValueError: the batches are normalised otherwise than the backbone's images were.
    """
    body = nn.Sequential(Resize(backbone.image_size), copy.deepcopy(backbone.body)).to(batches.device)
    check_normaliser(backbone, batches)
    key = hash_json([repr(body), backbone.sha256, backbone.normaliser.mean, backbone.normaliser.std, batches.sha256])
    path = folder and Path(folder) / f"features-{key}.safetensors"
    if path and path.exists():
        tensors, _ = load_tensors(path)
        return tensors["features"], tensors["labels"]
    features, labels = predict(body, batches)
    if path:
        save_tensors(path, {"features": features, "labels": labels}, {"source": backbone.source})
    return features, labels


def linear_probe(
    train: tuple[torch.Tensor, torch.Tensor],
    val: tuple[torch.Tensor, torch.Tensor],
    strengths: Sequence[float] = (1e-3, 1e-2, 1e-1),
) -> tuple[float, float]:
    """Return the best validation accuracy of logistic regression on features (N, F) with labels (N,), and its strength.

    Args:
        strengths: scikit-learn's C, the inverse of the penalty; the best on validation is taken.
    """
    from sklearn.linear_model import LogisticRegression  # here, because a second of import is for this function alone
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (val_x, val_y) = ([t.numpy() for t in pair] for pair in (train, val))
    probes = {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200)) for c in strengths}
    return max((float(probe.fit(x, y).score(val_x, val_y)), c) for c, probe in probes.items())


def draw_labelled(split: Split, per_class: int, seed: int) -> torch.Tensor:
    """Return the indices of `per_class` images of every class, drawn by `seed` alone, in rising order.

    A larger number with the same seed contains the smaller.

    Raises:
        ValueError: a class has fewer.
    """
    least = int(split.counts().min())
    require(1 <= per_class <= least, "per_class", per_class, f"from 1 to {least}, the images of the smallest class")
    order = torch.randperm(len(split), generator=make_generator("labelled", seed))
    chosen = [order[split.labels[order] == c][:per_class] for c in range(split.num_classes)]
    return torch.cat(chosen).sort().values
