"""Synthetic data for a machine without a network: images in CIFAR's shapes, made by a formula from a seed.

An image is a textured figure at a random place, size and tilt, mirrored at random, before a shaded background with
noise. The superclass is the outline, the fine class is outline and texture. Two weaker clues reward the simpler
models: the background's tint leans towards the class (a linear model can use it), and so does the axis of its
shading, whose direction is random (it takes a hidden layer to use that). The figure itself needs translation
invariance, its mirror images make flipping pay, and both data sets share their outlines and textures, so what is
learned on one is worth something on the other.
"""

import math

import torch

from cifar_helpers._arguments import is_whole, require, require_whole
from cifar_helpers._contract import check_labels

__all__ = ["class_names", "class_parts", "make_images", "make_labels", "outline_names"]

_SIZE = 32
_OUTLINES = 20
_TEXTURES = ("plain", "bars", "poles", "checks", "rings")


def class_parts(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outline and texture, int64 (C,), of every class: all 20 x 5 pairs, or every second outline once.

    Raises:
        ValueError: for another number of classes, of which some would be the same.
    """
    _require_classes(num_classes)
    classes = torch.arange(num_classes)
    if num_classes == _OUTLINES * len(_TEXTURES):
        return classes // len(_TEXTURES), classes % len(_TEXTURES)
    return 2 * classes % _OUTLINES, classes % len(_TEXTURES)


def _require_classes(num_classes: int) -> None:
    known = is_whole(num_classes) and (1 <= num_classes <= 10 or num_classes == 100)
    require(known, "num_classes", num_classes, "1 to 10, or 100")


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return names such as `figure 07 bars`."""
    outlines, textures = class_parts(num_classes)
    return tuple(f"figure {o:02d} {_TEXTURES[t]}" for o, t in zip(outlines, textures, strict=True))


def outline_names() -> tuple[str, ...]:
    """Return the names of the superclasses, such as `figure 07`."""
    return tuple(f"figure {o:02d}" for o in range(_OUTLINES))


def make_labels(count: int, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` int64 labels in random order, each class equally often.

    Raises:
        ValueError: they do not come out even.
    """
    _require_classes(num_classes)
    require_whole("count", count, 0)
    require(count % num_classes == 0, "count", count, f"a multiple of {num_classes}, the number of classes")
    return torch.arange(num_classes).repeat(count // num_classes)[torch.randperm(count, generator=generator)]


def make_images(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 images (N, 3, 32, 32) for int64 labels (N,).

    Raises:
        ValueError: a label is none of the classes.
    """
    require(isinstance(labels, torch.Tensor), "labels", labels, "a tensor, torch.int64 of shape (N,)")
    check_labels(labels, labels.numel(), num_classes)
    chunks = labels.split(1000)  # a chunk fits the processor's cache
    return torch.cat([_paint(chunk, num_classes, generator) for chunk in chunks])


def _paint(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """Return background, figure and noise, added and rounded to uint8 (N, 3, 32, 32)."""
    n = len(labels)
    contrast = _random_sign(n, generator) * _uniform(0.35, 0.55, n, generator)
    colour = contrast + 0.12 * torch.randn(n, 3, 1, 1, generator=generator)
    noise = 0.03 * torch.randn(n, 3, _SIZE, _SIZE, generator=generator)
    image = _background(labels, num_classes, generator) + colour * _figure(labels, num_classes, generator) + noise
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def _background(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """Return (N, 3, 32, 32): a tint that leans towards the class, and a shading along an axis that does too."""
    n, y, x = len(labels), *_pixel_grid()
    share = (labels / num_classes).view(n, 1, 1, 1)
    hues = 2 * math.pi * (share + torch.arange(3).view(1, 3, 1, 1) / 3)
    tint = 0.5 + 0.05 * hues.cos() + 0.08 * torch.randn(n, 3, 1, 1, generator=generator)
    # The axis lies in a quarter turn and is mirrored at random: a mirrored image keeps its class.
    axis = math.pi / 2 * share + 0.4 * torch.randn(n, 1, 1, 1, generator=generator)
    mirrored_x = x * _random_sign(n, generator)
    slope = _random_sign(n, generator) * _uniform(0.03, 0.12, n, generator)
    return tint + slope * (mirrored_x * axis.cos() + y * axis.sin())


def _figure(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """Return (N, 1, 32, 32): 0 outside the class's outline, its texture between 0.2 and 1 inside."""
    n, y, x = len(labels), *_pixel_grid()
    outlines, textures = class_parts(num_classes)
    size, tilt = _uniform(0.42, 0.55, n, generator), _uniform(-0.35, 0.35, n, generator)
    u = (x - _uniform(-0.6, 0.6, n, generator)) / size * _random_sign(n, generator)
    v = (y - _uniform(-0.6, 0.6, n, generator)) / size
    u, v = u * tilt.cos() + v * tilt.sin(), v * tilt.cos() - u * tilt.sin()
    radius = (u * u + v * v).sqrt()
    inside = ((_outline_radius(outlines[labels], torch.atan2(v, u)) - radius) * 6).clamp(0, 1)
    rings, checks = torch.cos(11 * radius), 1.5 * torch.sin(8 * u) * torch.sin(8 * v)
    waves = torch.stack([torch.ones_like(u), torch.sin(9 * v), torch.sin(9 * u), checks, rings])
    texture = waves[textures[labels], torch.arange(n)].clamp(-1, 1)
    return inside * (0.6 + 0.4 * texture)


def _outline_radius(outline: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return the radius (N, 1, H, W) of outlines (N,) at each angle: a Fourier series of five terms per outline."""
    s = outline.view(-1, 1, 1, 1)
    radius = torch.full_like(angle, 0.8)
    for k in range(1, 6):
        amplitude = 0.16 * (0.5 + 0.5 * torch.sin(1.7 * s * k + 0.9 * k)) + 0.16 * ((s + k) % 5 == 0)
        radius += amplitude * torch.cos(k * angle + 2.4 * s * (k + 1) + k)
    return radius


def _pixel_grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Return y (1, 1, 32, 1) and x (1, 1, 1, 32) of the pixels, from -1 to 1."""
    line = torch.linspace(-1, 1, _SIZE)
    return line.view(1, 1, _SIZE, 1), line.view(1, 1, 1, _SIZE)


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return random numbers (count, 1, 1, 1), one per image."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _random_sign(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return -1 or 1 (count, 1, 1, 1), one per image."""
    return 1 - 2 * torch.randint(2, (count, 1, 1, 1), generator=generator)
