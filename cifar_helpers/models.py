"""Networks, each built by name with its own random stream, so that a seed means the same weights everywhere."""

import itertools
from collections.abc import Callable

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


def cnn(num_classes: int, width: float, image_size: int, batchnorm: bool = False) -> nn.Module:
    """Six 3x3 convolutions, 32-64, 128-128, 256-256 at width 1, a max-pool after each pair, one hidden layer of 256."""
    channels = [3] + [scaled(c, width) for c in (32, 64, 128, 128, 256, 256)]
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        layers += conv_block(c_in, c_out, batchnorm)
        if i % 2:
            layers.append(nn.MaxPool2d(2))
    features = channels[-1] * (image_size // 8) ** 2
    hidden = scaled(256, width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def cnn_bn(num_classes: int, width: float, image_size: int) -> nn.Module:
    """The six convolutions of `cnn`, each followed by BatchNorm before its ReLU."""
    return cnn(num_classes, width, image_size, batchnorm=True)


def conv_block(c_in: int, c_out: int, batchnorm: bool) -> list[nn.Module]:
    """Return a 3x3 convolution that keeps the size, with He initialisation, BatchNorm if asked for, and a ReLU."""
    norm = [nn.BatchNorm2d(c_out)] if batchnorm else []
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=not batchnorm)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, *norm, nn.ReLU()]


def scaled(units: int, width: float) -> int:
    """Return `units` times `width`, rounded, and at least 1."""
    return max(1, round(units * width))


MODELS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "mlp": mlp, "cnn": cnn, "cnn_bn": cnn_bn}


def make_model(
    name: str, num_classes: int = 10, *, width: float = 1.0, image_size: int = 32, seed: int = 0
) -> nn.Module:
    """Return the network called `name`: images (N, 3, S, S) in, logits (N, num_classes) out, no softmax.

    The weights depend on `seed` alone and torch's global random state stays as it was. `model.spec` holds the
    arguments, so that a checkpoint can build the same network again.

    Raises:
        ValueError: an unknown name, fewer than two classes, or an image too small for the pools.
    """
    require_choice("model", name, MODELS)
    require(num_classes >= 2, "num_classes", num_classes, "a classifier needs at least 2")
    require(image_size >= 8, "image_size", image_size, "three pools halve it, so it must be at least 8")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # the CPU's stream alone
        model = MODELS[name](num_classes, width, image_size)
    model.spec = {"name": name, "num_classes": num_classes, "width": width, "image_size": image_size, "seed": seed}
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
