"""What a network is made of, layer by layer: its table, its receptive field, what passes through it and back."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cifar_helpers._arguments import require, require_model, require_parameters, require_whole
from cifar_helpers._contract import check_labels, check_normalised, made_for, naming_images
from cifar_helpers.models.networks import ACTIVATIONS

__all__ = [
    "Layer",
    "activation_spreads",
    "count_parameters",
    "feature_maps",
    "gradient_sizes",
    "layer_table",
    "receptive_field",
]

_ACTIVATIONS = tuple(ACTIVATIONS.values())


@dataclass(frozen=True)
class Layer:
    """One row of a layer table: what a module of a network does to an image.

    Attributes:
        name: its place in the network, as in `state_dict`.
        kind: "Conv2d", "Linear", "MaxPool2d", ….
        kernel: side of the window in pixels; None where there is none.
        input, output: shapes without the batch.
        parameters: trainable ones of this module alone.
        multiply_adds: for one image; 0 where nothing is multiplied.
    """

    name: str
    kind: str
    kernel: int | None
    input: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        shapes = f"{' x '.join(map(str, self.input)):>15} -> {' x '.join(map(str, self.output)):<15}"
        counts = f"{self.parameters:>12,}{self.multiply_adds:>14,}"
        return f"{self.name:16}{self.kind:18}{self.kernel or '':>3} {shapes}{counts}"


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    require_model(model)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def layer_table(model: nn.Module, image_size: int | None = None) -> list[Layer]:
    """Return one row for each module without children, in the order in which an image passes them.

    Written down by hooks while one black image goes through a copy, so it says what the network does, not what it was
    meant to do.

    Args:
        image_size: by default that for which `make_model` made the network, else 32.

    Raises:
        ValueError: no network with parameters, or one that cannot take images of this size.
    """
    require_parameters(model)
    if image_size is None:
        image_size = made_for(model) or 32
    require_whole("image_size", image_size)
    images = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    return [_describe_layer(*passed) for passed in _pass_through(model, images, training=False)]


def _pass_through(
    model: nn.Module, images: torch.Tensor, training: bool
) -> list[tuple[str, nn.Module, torch.Tensor, torch.Tensor]]:
    """Return name, module, input and output of every module without children, as images pass through a copy."""
    twin = copy.deepcopy(model).train(training)
    passed: list[tuple[str, nn.Module, torch.Tensor, torch.Tensor]] = []

    def keep(name: str) -> Callable:
        return lambda module, inputs, output: passed.append((name, module, inputs[0], output))

    for name, module in twin.named_modules():
        if name and not list(module.children()):
            module.register_forward_hook(keep(name))
    with naming_images(twin, images), torch.no_grad(), torch.random.fork_rng(devices=[]):
        twin(images)
    return passed


def _describe_layer(name: str, module: nn.Module, images: torch.Tensor, output: torch.Tensor) -> Layer:
    """Return the row of the layer table for a module, given its input and its output with the batch in front."""
    kernel = getattr(module, "kernel_size", None)
    side = kernel[0] if isinstance(kernel, tuple) else kernel
    own = sum(p.numel() for p in module.parameters(recurse=False) if p.requires_grad)
    shapes = tuple(images.shape[1:]), tuple(output.shape[1:])
    return Layer(name, type(module).__name__, side, *shapes, own, _multiply_adds(module, output))


def _multiply_adds(module: nn.Module, output: torch.Tensor) -> int:
    """Return the multiplications, each with its addition, that a module makes for one image."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return module.weight[0].numel() * output[0].numel()
    return 0


def receptive_field(model: nn.Module, name: str, image_size: int = 256) -> int:
    """Return the side, in pixels, of the square of the image that one unit of the layer called `name` depends on.

    Measured: on a copy in which every convolution averages, every max-pool is an average, and no activation cuts, the
    gradient of the middle unit is positive exactly where the image matters. It does not depend on the width, so a
    narrow twin of a network answers fast.

    Args:
        image_size: larger than the field, or the border of the image cuts it off.

    Raises:
        ValueError: no layer has this name, its output is no map of places, or the image has no pixel.
    """
    require_model(model)
    require_whole("image_size", image_size)
    require(name in dict(model.named_modules()), "name", name, "a name from layer_table(model)")
    twin = copy.deepcopy(model).cpu().double().eval()
    for parent in list(twin.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, child_name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, (nn.BatchNorm2d, nn.Dropout, *_ACTIVATIONS)):
                setattr(parent, child_name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())
    images = torch.ones(1, 3, image_size, image_size, dtype=torch.float64, requires_grad=True)
    try:
        features = _output_of(twin, name, images)
    except RuntimeError:  # behind the convolutions a network takes its own image size alone
        features = torch.empty(0)
    require(features.ndim == 4, "name", name, "a layer whose output has places: a convolution or a pool")
    middle = features[0, 0, features.shape[2] // 2, features.shape[3] // 2]
    touched = torch.autograd.grad(middle, images)[0][0, 0].abs().amax(0).nonzero()
    return int(touched.max() - touched.min()) + 1


class _Reached(Exception):
    """The layer that was asked for has given its output."""


def _output_of(model: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    """Return what the module called `name` makes of the images, with its graph; what comes after it is not run."""
    kept: list[torch.Tensor] = []

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        kept.append(output)
        raise _Reached

    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        with contextlib.suppress(_Reached):
            model(images)
    finally:
        handle.remove()
    return kept[0]


# --- what passes through it, and back ---


def feature_maps(model: nn.Module, images: torch.Tensor, training: bool = False) -> dict[str, torch.Tensor]:
    """Return what the whole block of each convolution gives for images (N, 3, H, W): name to features (N, C, h, w).

    A block reaches past BatchNorm to the last activation before the next convolution: not the bare sums, and before a
    pool. Where no activation follows it reaches to the layer before the next convolution.

    Args:
        training: let BatchNorm take the statistics of these images; its buffers are left alone either way.

    Raises:
        ValueError: no network, images that are not normalised, or of a size that it cannot take.
    """
    require_model(model)
    check_normalised(images)
    maps: dict[str, torch.Tensor] = {}
    block, active = "", False
    for name, module, _, output in _pass_through(model, images, training):
        if isinstance(module, nn.Conv2d):
            block, active = name, False
        is_activation = isinstance(module, _ACTIVATIONS)
        if block and output.ndim == 4 and (is_activation or not active):
            maps[block], active = output, active or is_activation
    return maps


def activation_spreads(model: nn.Module, images: torch.Tensor) -> list[float]:
    """Return how far the outputs of each convolution's block differ from image to image, from first to last.

    The standard deviation over the images, averaged over channels and places, in training mode: what is the same for
    every image, such as a bias, tells the next layer nothing and does not count.

    Raises:
        ValueError: as in `feature_maps`, or there are fewer than two images.
    """
    check_normalised(images)
    require(len(images) >= 2, "images", images, "at least two, which can differ")
    return [float(features.std(0).mean()) for features in feature_maps(model, images, training=True).values()]


def gradient_sizes(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Return the root mean square of the gradient of the loss by each convolution's weights, in training mode.

    Raises:
        ValueError: as in `feature_maps`, or the labels are not one class number for each image.
    """
    require_model(model)
    check_normalised(images)
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        with naming_images(twin, images):
            logits = twin(images)
        check_labels(labels, len(images), logits.shape[1])
        functional.cross_entropy(logits, labels).backward()
    convolutions = [module for module in twin.modules() if isinstance(module, nn.Conv2d)]
    return [float(c.weight.grad.square().mean().sqrt()) for c in convolutions if c.weight.grad is not None]
