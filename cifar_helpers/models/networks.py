"""Networks, each built by name with its own random stream, so that a seed means the same weights everywhere."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from cifar_helpers._arguments import (
    make_plain,
    require,
    require_choice,
    require_number,
    require_positive,
    require_seed,
    require_share,
    require_whole,
)
from cifar_helpers._contract import Ordered, check_normalised

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "Described",
    "GlobalMax",
    "ModelConfig",
    "ResidualBlock",
    "Scale",
    "build_model",
    "make_model",
    "whiten",
]


def _linear(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """Softmax regression on the pixels: one score per class, one weight per pixel and channel."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))


def _mlp(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """Three hidden layers (1024, 512, 256 at width 1) with LeakyReLU; it does not know which pixels are neighbours."""
    hidden = [_scaled(units, width) for units in (1024, 512, 256)]
    sizes = [3 * image_size**2, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(sizes, hidden, strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], num_classes))


def _cnn(
    num_classes: int, width: float, image_size: int, batchnorm: bool = False, norm_after_pool: bool = False
) -> nn.Sequential:
    """Six 3x3 convolutions, 32-64, 128-128, 256-256 at width 1, a max-pool after each pair, one hidden layer of 256."""
    channels = [3] + [_scaled(c, width) for c in (32, 64, 128, 128, 256, 256)]
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        layers += _conv_block(c_in, c_out, batchnorm)
        if i % 2:
            layers += [nn.MaxPool2d(2)] + ([nn.BatchNorm2d(c_out)] if norm_after_pool else [])
    features = channels[-1] * (image_size // 8) ** 2
    hidden = _scaled(256, width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def _cnn_bn(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """The six convolutions of `cnn`, each followed by BatchNorm before its ReLU."""
    return _cnn(num_classes, width, image_size, batchnorm=True)


def _cnn_bn_pool(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """The six convolutions of `cnn` with three BatchNorms, one behind each pool."""
    return _cnn(num_classes, width, image_size, norm_after_pool=True)


def _basenet(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """Two 5x5 convolutions, 6 and 16 channels at width 1, a pool after each, one hidden layer of 200."""
    channels = [3, _scaled(6, width), _scaled(16, width)]
    return _small_cnn(channels, [_scaled(200, width)], num_classes, image_size, padding=0)


def _lenet(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """Two 5x5 convolutions, 20 and 50 channels at width 1, a pool after each, hidden layers of 512, 256 and 128."""
    channels = [3, _scaled(20, width), _scaled(50, width)]
    return _small_cnn(
        channels, [_scaled(units, width) for units in (512, 256, 128)], num_classes, image_size, padding=1
    )


def _small_cnn(
    channels: Sequence[int], hidden: Sequence[int], num_classes: int, image_size: int, padding: int
) -> nn.Sequential:
    """Return 5x5 convolutions, each with a ReLU and a max-pool, and fully connected layers behind them."""
    layers: list[nn.Module] = []
    size = image_size
    for c_in, c_out in itertools.pairwise(channels):
        layers += [nn.Conv2d(c_in, c_out, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        size = (size + 2 * padding - 4) // 2
    require(size >= 1, "image_size", image_size, "the convolutions and pools leave nothing of it: take a larger one")
    sizes = [channels[-1] * size**2, *hidden]
    layers.append(nn.Flatten())
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


def _nine(num_classes: int, width: float, image_size: int, batchnorm: bool = True) -> nn.Sequential:
    """Nine 3x3 convolutions, 32 to 1024 channels at width 1, a pool after every third, one hidden layer of 1024."""
    channels = [3] + [_scaled(c, width) for c in (32, 48, 64, 96, 128, 256, 384, 512, 1024)]
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        layers += _conv_block(c_in, c_out, batchnorm)
        if i % 3 == 2:
            layers.append(nn.MaxPool2d(2))
    hidden = _scaled(1024, width)
    norm = [nn.BatchNorm1d(hidden)] if batchnorm else []
    first = nn.Linear(channels[-1] * (image_size // 8) ** 2, hidden, bias=not batchnorm)
    return nn.Sequential(*layers, nn.Flatten(), first, *norm, nn.ReLU(), nn.Linear(hidden, num_classes))


def _nine_plain(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """The nine convolutions of `nine` without BatchNorm."""
    return _nine(num_classes, width, image_size, batchnorm=False)


# Channels of the 3x3 convolutions between pools (Simonyan and Zisserman, 2014, table 1: B and D).
_VGG13 = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _vgg(
    groups: Sequence[Sequence[int]], batchnorm: bool, num_classes: int, width: float, image_size: int
) -> nn.Sequential:
    """Groups of 3x3 convolutions with a pool behind each, and two hidden layers of 512 at width 1, with dropout.

    The original's hidden layers have 4096 units, for images of 224 pixels.
    """
    halvings = 2 ** len(groups)
    require(
        image_size >= halvings,
        "image_size",
        image_size,
        f"{len(groups)} pools halve it: it must be at least {halvings}",
    )
    layers: list[nn.Module] = []
    c_in = 3
    for group in groups:
        for c_out in (_scaled(c, width) for c in group):
            layers += _conv_block(c_in, c_out, batchnorm)
            c_in = c_out
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    sizes = [c_in * (image_size // halvings) ** 2, _scaled(512, width), _scaled(512, width)]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the input, which a 1x1 convolution brings to shape if need be.

    Without `residual` nothing is added: the plain block to compare with.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, residual: bool) -> None:
        super().__init__()
        for name, value in {"c_in": c_in, "c_out": c_out, "stride": stride}.items():
            require_whole(name, value)
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        same = stride == 1 and c_in == c_out
        fit = [] if same else [nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)]
        self.shortcut = nn.Sequential(*fit) if residual else None
        self.activation = nn.ReLU()
        self.stride = stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        if self.shortcut is None:
            return self.activation(features)
        # What a 1x1 convolution of this stride computes, without one: see `runtime.memory_format`.
        return self.activation(features + self.shortcut(images[..., :: self.stride, :: self.stride]))


def _resnet(
    channels: Sequence[int], blocks: int, residual: bool, num_classes: int, width: float, image_size: int
) -> nn.Sequential:
    """A residual network for small images (He et al., 2015): a 3x3 stem without a pool, then stages of `blocks` blocks.

    Every stage after the first halves the image, with a 1x1 convolution as its shortcut (the paper's option B).
    ResNet-18 has four stages of two blocks, 64 to 512 channels; those of section 4.2 have three, 16 to 64 channels, and
    6 * blocks + 2 layers. Their plain twins lack the shortcuts.
    """
    c_out = _scaled(channels[0], width)
    layers: list[nn.Module] = [nn.Conv2d(3, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    for stage, c in enumerate(channels):
        c_in, c_out = c_out, _scaled(c, width)
        layers.append(ResidualBlock(c_in, c_out, 1 if stage == 0 else 2, residual))
        layers += [ResidualBlock(c_out, c_out, 1, residual) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_out, num_classes))


_STEM_FILTERS = 24  # the 12 principal directions of a 2x2 patch in three channels, each with both signs


class GlobalMax(nn.Module):
    """The largest value of every channel (B, C, H, W) to (B, C), for images of any size."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.amax((2, 3))


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        require_number("factor", factor)
        self.factor = factor

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.factor * logits

    def extra_repr(self) -> str:
        return f"{self.factor:.4g}"


def _fast(num_classes: int, width: float, image_size: int) -> nn.Sequential:
    """A frozen 2x2 stem, which `whiten` sets, and three groups of two convolutions, 64-256-256 channels at width 1.

    After Jordan's airbench94 (arXiv 2404.00498): the convolutions begin as the identity, BatchNorm has a bias alone, a
    global max follows, and the logits are divided by 9. It takes images of any size from 9 pixels on.
    """
    require(image_size >= 9, "image_size", image_size, "a 2x2 stem and three pools need at least 9")
    channels = [_STEM_FILTERS] + [_scaled(c, width) for c in (64, 256, 256)]
    stem = nn.Conv2d(3, _STEM_FILTERS, 2)
    stem.weight.requires_grad_(False)
    layers: list[nn.Module] = [stem, nn.SiLU()]
    for c_in, c_out in itertools.pairwise(channels):
        layers += [_dirac_conv(c_in, c_out), nn.MaxPool2d(2), _bias_norm(c_out), nn.SiLU()]
        layers += [_dirac_conv(c_out, c_out), _bias_norm(c_out), nn.SiLU()]
    head = nn.Linear(channels[-1], num_classes, bias=False)
    with torch.no_grad():
        head.weight /= head.weight.std()
    return nn.Sequential(*layers, GlobalMax(), head, Scale(1 / 9))


def _dirac_conv(c_in: int, c_out: int) -> nn.Conv2d:
    """Return a 3x3 convolution without bias whose first filters pass the input channels on as they are."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: min(c_in, c_out)])
    return conv


def _bias_norm(channels: int) -> nn.BatchNorm2d:
    """Return BatchNorm whose factor stays 1; its statistics follow fast, for short trainings."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def whiten(model: nn.Sequential, images: torch.Tensor) -> None:
    """Set the stem of `fast` from normalised images (N, 3, H, W), so that its outputs are uncorrelated and of one size.

    Its filters are the principal directions of the 2x2 patches over the roots of their variances, with both signs. Some
    thousand images of the training split are enough.

    Raises:
        ValueError: the images are not normalised ones, or the model is another network.
    """
    check_normalised(images)
    require(bool(images.isfinite().all()), "images", "not finite", "finite numbers")
    stem = model[0] if isinstance(model, nn.Sequential) and len(model) else None
    known = isinstance(stem, nn.Conv2d) and stem.weight.shape == (_STEM_FILTERS, 3, 2, 2)
    require(known, "model", type(model).__name__, "a network with a 2x2 stem: make_model('fast')")
    patches = (
        images.cpu().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, _STEM_FILTERS // 2).double()
    )
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + 5e-4).sqrt()).T.flip(0).view(-1, 3, 2, 2).to(images.dtype)
    with torch.no_grad():
        cast(nn.Conv2d, stem).weight.copy_(torch.cat([filters, -filters]))


def _conv_block(c_in: int, c_out: int, batchnorm: bool) -> list[nn.Module]:
    """Return a 3x3 convolution that keeps the size, with He initialisation, BatchNorm if asked for, and a ReLU."""
    norm = [nn.BatchNorm2d(c_out)] if batchnorm else []
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=not batchnorm)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, *norm, nn.ReLU()]


def _scaled(units: int, width: float) -> int:
    """Return `units` times `width`, rounded, and at least 1."""
    return max(1, round(units * width))


MODELS: dict[str, Callable[..., nn.Sequential]] = {
    "linear": _linear,
    "mlp": _mlp,
    "basenet": _basenet,
    "lenet": _lenet,
    "cnn": _cnn,
    "cnn_bn": _cnn_bn,
    "cnn_bn_pool": _cnn_bn_pool,
    "nine": _nine,
    "nine_plain": _nine_plain,
    "vgg13": functools.partial(_vgg, _VGG13, False),
    "vgg13_bn": functools.partial(_vgg, _VGG13, True),
    "vgg16": functools.partial(_vgg, _VGG16, False),
    "vgg16_bn": functools.partial(_vgg, _VGG16, True),
    "resnet18": functools.partial(_resnet, (64, 128, 256, 512), 2, True),
    "resnet20": functools.partial(_resnet, (16, 32, 64), 3, True),
    "resnet56": functools.partial(_resnet, (16, 32, 64), 9, True),
    "plain20": functools.partial(_resnet, (16, 32, 64), 3, False),
    "plain56": functools.partial(_resnet, (16, 32, 64), 9, False),
    "fast": _fast,
}


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a network but the data that it is for, as plain values.

    Attributes:
        name: one of MODELS.
        width: positive factor on every hidden width.
        dropout: probability of a dropout before the last linear layer, in [0, 1); VGG has two of 0.5 of its own.
        activation: one of ACTIVATIONS to take in place of every activation; None keeps the network's own.

    Raises:
        ValueError: a value that is not allowed, or of another type.
    """

    name: str
    width: float = 1.0
    dropout: float = 0.0
    activation: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        require_choice("name", self.name, MODELS)
        require_positive("width", self.width, "a positive factor; 0.5 halves every layer")
        require_share("dropout", self.dropout, "a probability in [0, 1)")
        if self.activation is not None:
            require_choice("activation", self.activation, ACTIVATIONS)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Return the configuration that `to_dict` wrote.

        Raises:
            ValueError: a field is unknown, the name is missing, or a value is not allowed.
        """
        require(isinstance(values, Mapping), "values", values, "a mapping of names to values, as to_dict returns it")
        known = [field.name for field in fields(cls)]
        for name in values:
            require_choice("field", name, known)
        require("name" in values, "values", dict(values), "one with the name of a network")
        return cls(**values)


@runtime_checkable
class Described(Protocol):
    """A network with a `spec`: the keyword arguments with which `make_model` builds it again."""

    spec: dict[str, Any]


def make_model(
    name: str,
    num_classes: int = 10,
    *,
    width: float = 1.0,
    image_size: int = 32,
    seed: int = 0,
    dropout: float = 0.0,
    activation: str | None = None,
) -> nn.Sequential:
    """Return the network called `name`: images (N, 3, S, S) in, logits (N, num_classes) out, no softmax.

    The weights depend on `seed` alone and torch's global random state stays as it was. `model.spec` holds the
    arguments, so that a checkpoint can build the same network again: `make_model(**model.spec)`.

    Args:
        width, dropout, activation: as in `ModelConfig`.

    Raises:
        ValueError: an unknown name, a value that is not allowed, fewer than two classes, or an image too small for the
            pools.
    """
    config = ModelConfig(name, width, dropout, activation)
    require_whole("num_classes", num_classes, 2, "a whole number; a classifier needs at least 2")
    require_whole("image_size", image_size, 8, "whole pixels; three pools halve it, so it must be at least 8")
    require_seed(seed)
    num_classes, image_size, seed = int(num_classes), int(image_size), int(seed)  # of NumPy they are no JSON
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # the CPU's stream alone
        model = MODELS[name](num_classes, width, image_size)
    if dropout:
        head = max(i for i, layer in enumerate(model) if isinstance(layer, nn.Linear))
        model.insert(head, nn.Dropout(dropout))
    if activation is not None:
        _exchange_activations(model, ACTIVATIONS[activation])
    sizes = {"num_classes": num_classes, "image_size": image_size, "seed": seed}
    cast(Described, model).spec = config.to_dict() | sizes
    return model


def _exchange_activations(model: nn.Module, activation: type[nn.Module]) -> None:
    """Put a module of type `activation` in the place of every activation of the model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, tuple(ACTIVATIONS.values())):
                setattr(parent, name, activation())


class _TrainingBatches(Ordered, Protocol):
    """What `build_model` asks of training batches; `data.Batches` has it."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def image_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


def build_model(config: ModelConfig, train: _TrainingBatches, seed: int = 0) -> nn.Sequential:
    """Return the network that `config` describes, for the classes, image size and device of training batches.

    The stem of "fast" is whitened from the first 5,000 images of `train`.

    Args:
        train: `data.Batches` of the training split.
        seed: of the weights, as in `make_model`.

    Raises:
        ValueError: no ModelConfig, no batches, or as in `make_model`.
    """
    require(isinstance(config, ModelConfig), "config", config, "a ModelConfig, such as ModelConfig('cnn')")
    known = all(hasattr(train, name) for name in ("class_names", "image_size", "device"))
    require(known, "train", train, "data.Batches of the training split, such as make_batches returns")
    classes, size = len(train.class_names), train.image_size
    model = make_model(**config.to_dict(), num_classes=classes, image_size=size, seed=seed).to(train.device)
    if config.name == "fast":
        split = getattr(train, "split", "train")
        require(split == "train", "train", split, "batches of the training split, from which the stem is whitened")
        whiten(model, _first_images(train, 5_000))
    return model


def _first_images(train: _TrainingBatches, count: int) -> torch.Tensor:
    """Return the first `count` normalised images, or all if there are fewer."""
    images: list[torch.Tensor] = []
    for batch, _ in train.ordered():
        images.append(batch)
        if sum(map(len, images)) >= count:
            break
    return torch.cat(images)[:count]
