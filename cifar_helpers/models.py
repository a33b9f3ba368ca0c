"""Networks, each built by name with its own random stream, so that a seed means the same weights everywhere."""

import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from cifar_helpers.arguments import require, require_choice


def linear(num_classes: int, width: float, image_size: int) -> nn.Module:
    """Softmax regression on the pixels: one score per class, one weight per pixel and channel."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))


def mlp(num_classes: int, width: float, image_size: int) -> nn.Module:
    """Three hidden layers (1024, 512, 256 at width 1) with LeakyReLU; it does not know which pixels are neighbours."""
    hidden = [scaled(units, width) for units in (1024, 512, 256)]
    sizes = [3 * image_size**2, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(sizes, hidden, strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], num_classes))


def cnn(
    num_classes: int, width: float, image_size: int, batchnorm: bool = False, norm_after_pool: bool = False
) -> nn.Module:
    """Six 3x3 convolutions, 32-64, 128-128, 256-256 at width 1, a max-pool after each pair, one hidden layer of 256."""
    channels = [3] + [scaled(c, width) for c in (32, 64, 128, 128, 256, 256)]
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        layers += conv_block(c_in, c_out, batchnorm)
        if i % 2:
            layers += [nn.MaxPool2d(2)] + ([nn.BatchNorm2d(c_out)] if norm_after_pool else [])
    features = channels[-1] * (image_size // 8) ** 2
    hidden = scaled(256, width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def cnn_bn(num_classes: int, width: float, image_size: int) -> nn.Module:
    """The six convolutions of `cnn`, each followed by BatchNorm before its ReLU."""
    return cnn(num_classes, width, image_size, batchnorm=True)


def cnn_bn_pool(num_classes: int, width: float, image_size: int) -> nn.Module:
    """The six convolutions of `cnn` with three BatchNorms, one behind each pool."""
    return cnn(num_classes, width, image_size, norm_after_pool=True)


def basenet(num_classes: int, width: float, image_size: int) -> nn.Module:
    """Two 5x5 convolutions, 6 and 16 channels at width 1, a pool after each, one hidden layer of 200."""
    channels = [3, scaled(6, width), scaled(16, width)]
    return small_cnn(channels, [scaled(200, width)], num_classes, image_size, padding=0)


def lenet(num_classes: int, width: float, image_size: int) -> nn.Module:
    """Two 5x5 convolutions, 20 and 50 channels at width 1, a pool after each, hidden layers of 512, 256 and 128."""
    channels = [3, scaled(20, width), scaled(50, width)]
    return small_cnn(channels, [scaled(units, width) for units in (512, 256, 128)], num_classes, image_size, padding=1)


def small_cnn(
    channels: Sequence[int], hidden: Sequence[int], num_classes: int, image_size: int, padding: int
) -> nn.Module:
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


def nine(num_classes: int, width: float, image_size: int, batchnorm: bool = True) -> nn.Module:
    """Nine 3x3 convolutions, 32 to 1024 channels at width 1, a pool after every third, one hidden layer of 1024."""
    channels = [3] + [scaled(c, width) for c in (32, 48, 64, 96, 128, 256, 384, 512, 1024)]
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        layers += conv_block(c_in, c_out, batchnorm)
        if i % 3 == 2:
            layers.append(nn.MaxPool2d(2))
    hidden = scaled(1024, width)
    norm = [nn.BatchNorm1d(hidden)] if batchnorm else []
    first = nn.Linear(channels[-1] * (image_size // 8) ** 2, hidden, bias=not batchnorm)
    return nn.Sequential(*layers, nn.Flatten(), first, *norm, nn.ReLU(), nn.Linear(hidden, num_classes))


def nine_plain(num_classes: int, width: float, image_size: int) -> nn.Module:
    """The nine convolutions of `nine` without BatchNorm."""
    return nine(num_classes, width, image_size, batchnorm=False)


# Channels of the 3x3 convolutions between pools (Simonyan and Zisserman, 2014, table 1: B and D).
VGG13 = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg(groups: Sequence[Sequence[int]], batchnorm: bool, num_classes: int, width: float, image_size: int) -> nn.Module:
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
        for c_out in (scaled(c, width) for c in group):
            layers += conv_block(c_in, c_out, batchnorm)
            c_in = c_out
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    sizes = [c_in * (image_size // halvings) ** 2, scaled(512, width), scaled(512, width)]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the input, which a 1x1 convolution brings to shape if need be.

    Without `residual` nothing is added: the plain block to compare with.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        same = stride == 1 and c_in == c_out
        fit = [] if same else [nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)]
        self.shortcut = nn.Sequential(*fit) if residual else None
        self.activation = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        return self.activation(features if self.shortcut is None else features + self.shortcut(images))


def resnet(
    channels: Sequence[int], blocks: int, residual: bool, num_classes: int, width: float, image_size: int
) -> nn.Module:
    """A residual network for small images (He et al., 2015): a 3x3 stem without a pool, then stages of `blocks` blocks.

    Every stage after the first halves the image, with a 1x1 convolution as its shortcut (the paper's option B).
    ResNet-18 has four stages of two blocks, 64 to 512 channels; those of section 4.2 have three, 16 to 64 channels, and
    6 * blocks + 2 layers. Their plain twins lack the shortcuts.
    """
    c_out = scaled(channels[0], width)
    layers: list[nn.Module] = [nn.Conv2d(3, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    for stage, c in enumerate(channels):
        c_in, c_out = c_out, scaled(c, width)
        layers.append(ResidualBlock(c_in, c_out, 1 if stage == 0 else 2, residual))
        layers += [ResidualBlock(c_out, c_out, 1, residual) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_out, num_classes))


STEM_FILTERS = 24  # the 12 principal directions of a 2x2 patch in three channels, each with both signs


class GlobalMax(nn.Module):
    """The largest value of every channel (B, C, H, W) to (B, C), for images of any size."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.amax((2, 3))


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.factor * logits

    def extra_repr(self) -> str:
        return f"{self.factor:.4g}"


def fast(num_classes: int, width: float, image_size: int) -> nn.Module:
    """A frozen 2x2 stem, which `whiten` sets, and three groups of two convolutions, 64-256-256 channels at width 1.

    After Jordan's airbench94 (arXiv 2404.00498): the convolutions begin as the identity, BatchNorm has a bias alone, a
    global max follows, and the logits are divided by 9. It takes images of any size from 9 pixels on.
    """
    require(image_size >= 9, "image_size", image_size, "a 2x2 stem and three pools need at least 9")
    channels = [STEM_FILTERS] + [scaled(c, width) for c in (64, 256, 256)]
    stem = nn.Conv2d(3, STEM_FILTERS, 2)
    stem.weight.requires_grad_(False)
    layers: list[nn.Module] = [stem, nn.SiLU()]
    for c_in, c_out in itertools.pairwise(channels):
        layers += [dirac_conv(c_in, c_out), nn.MaxPool2d(2), bias_norm(c_out), nn.SiLU()]
        layers += [dirac_conv(c_out, c_out), bias_norm(c_out), nn.SiLU()]
    head = nn.Linear(channels[-1], num_classes, bias=False)
    with torch.no_grad():
        head.weight /= head.weight.std()
    return nn.Sequential(*layers, GlobalMax(), head, Scale(1 / 9))


def dirac_conv(c_in: int, c_out: int) -> nn.Conv2d:
    """Return a 3x3 convolution without bias whose first filters pass the input channels on as they are."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: min(c_in, c_out)])
    return conv


def bias_norm(channels: int) -> nn.BatchNorm2d:
    """Return BatchNorm whose factor stays 1; its statistics follow fast, for short trainings."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def whiten(model: nn.Module, images: torch.Tensor) -> None:
    """Set the stem of `fast` from normalised images (N, 3, H, W), so that its outputs are uncorrelated and of one size.

    Its filters are the principal directions of the 2x2 patches over the roots of their variances, with both signs. Some
    thousand images of the training split are enough.
    """
    patches = (
        images.cpu().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, STEM_FILTERS // 2).double()
    )
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + 5e-4).sqrt()).T.flip(0).view(-1, 3, 2, 2).to(images.dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.cat([filters, -filters]))


def conv_block(c_in: int, c_out: int, batchnorm: bool) -> list[nn.Module]:
    """Return a 3x3 convolution that keeps the size, with He initialisation, BatchNorm if asked for, and a ReLU."""
    norm = [nn.BatchNorm2d(c_out)] if batchnorm else []
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=not batchnorm)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, *norm, nn.ReLU()]


def scaled(units: int, width: float) -> int:
    """Return `units` times `width`, rounded, and at least 1."""
    return max(1, round(units * width))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "basenet": basenet,
    "lenet": lenet,
    "cnn": cnn,
    "cnn_bn": cnn_bn,
    "cnn_bn_pool": cnn_bn_pool,
    "nine": nine,
    "nine_plain": nine_plain,
    "vgg13": functools.partial(vgg, VGG13, False),
    "vgg13_bn": functools.partial(vgg, VGG13, True),
    "vgg16": functools.partial(vgg, VGG16, False),
    "vgg16_bn": functools.partial(vgg, VGG16, True),
    "resnet18": functools.partial(resnet, (64, 128, 256, 512), 2, True),
    "resnet20": functools.partial(resnet, (16, 32, 64), 3, True),
    "resnet56": functools.partial(resnet, (16, 32, 64), 9, True),
    "plain20": functools.partial(resnet, (16, 32, 64), 3, False),
    "plain56": functools.partial(resnet, (16, 32, 64), 9, False),
    "fast": fast,
}


ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def make_model(
    name: str,
    num_classes: int = 10,
    *,
    width: float = 1.0,
    image_size: int = 32,
    seed: int = 0,
    dropout: float = 0.0,
    activation: str | None = None,
) -> nn.Module:
    """Return the network called `name`: images (N, 3, S, S) in, logits (N, num_classes) out, no softmax.

    The weights depend on `seed` alone and torch's global random state stays as it was. `model.spec` holds the
    arguments, so that a checkpoint can build the same network again.

    Args:
        dropout: probability of a dropout before the last linear layer, in [0, 1); VGG has two of 0.5 of its own.
        activation: a name in ACTIVATIONS to take in place of every activation; None keeps the network's own.

    Raises:
        ValueError: an unknown name, fewer than two classes, or an image too small for the pools.
    """
    require_choice("model", name, MODELS)
    require(num_classes >= 2, "num_classes", num_classes, "a classifier needs at least 2")
    require(image_size >= 8, "image_size", image_size, "three pools halve it, so it must be at least 8")
    require(0 <= dropout < 1, "dropout", dropout, "a probability in [0, 1)")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # the CPU's stream alone
        model = MODELS[name](num_classes, width, image_size)
    if dropout:
        head = max(i for i, layer in enumerate(model) if isinstance(layer, nn.Linear))
        model.insert(head, nn.Dropout(dropout))
    if activation is not None:
        require_choice("activation", activation, ACTIVATIONS)
        exchange_activations(model, ACTIVATIONS[activation])
    model.spec = {"name": name, "num_classes": num_classes, "width": width, "image_size": image_size, "seed": seed}
    model.spec |= {"dropout": dropout, "activation": activation}
    return model


def exchange_activations(model: nn.Module, activation: type[nn.Module]) -> None:
    """Put a module of type `activation` in the place of every activation of the model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, tuple(ACTIVATIONS.values())):
                setattr(parent, name, activation())


def build_model(config, train) -> nn.Module:
    """Return the network that a `config.TrainConfig` names, for the classes and on the device of training batches.

    The stem of the fast network is whitened from the first 5,000 images of `train`, a `data.Batches`.
    """
    names = "width", "seed", "dropout", "activation"
    options = {name: getattr(config, name) for name in names}
    model = make_model(config.model, len(train.class_names), **options).to(train.device)
    if config.model == "fast":
        batches = itertools.islice(train, -(-5_000 // train.eval_batch_size))
        whiten(model, torch.cat([images for images, _ in batches])[:5_000])
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
