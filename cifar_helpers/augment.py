"""From pictures to what a network eats: squares, normalisation, and augmentation as values.

An augmentation is a frozen dataclass. `draw(count, epoch, stream)` returns one random row per example of the data set,
for a whole epoch at once, so the picture an example becomes depends on (seed, epoch, example) alone, whatever the batch
size. A `Move` then says which pixel goes where; all moves of a batch together are one gather, straight out of the
data set. A `Paint` changes the pixels of the uint8 batch afterwards.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from cifar_helpers.arguments import require

# The number of an epoch to the random numbers of that epoch.
Stream = Callable[[int], torch.Generator]


class Move(Protocol):
    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        """Return the random choices of `count` examples in an epoch, one row each, on the CPU."""

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the source rows (B, H) and columns (B, W) of the moved images, given those before the move."""


class Paint(Protocol):
    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        """Return the random choices of `count` examples in an epoch, one row each, on the CPU."""

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return changed images, uint8 (B, 3, H, W); the argument is left alone."""


Augmentation = Move | Paint


def augment_batch(
    images: torch.Tensor, numbers: torch.Tensor, augment: Sequence[Augmentation], draws: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the examples `numbers` (B,) of uint8 `images` (N, 3, H, W), first moved, then painted.

    Args:
        draws: what each augmentation drew for all N examples.
    """
    pairs = [(augmentation, drawn[numbers]) for augmentation, drawn in zip(augment, draws, strict=True)]
    moves = [(a, drawn) for a, drawn in pairs if hasattr(a, "move")]
    batch = move_pixels(images, numbers, moves) if moves else images[numbers]
    for augmentation, drawn in pairs:
        if hasattr(augmentation, "paint"):
            batch = augmentation.paint(batch, drawn)
    return batch


def move_pixels(
    images: torch.Tensor, numbers: torch.Tensor, moves: Sequence[tuple[Move, torch.Tensor]]
) -> torch.Tensor:
    """Return the examples `numbers` with every pixel taken from where the moves say, in one gather."""
    channels, height, width = images.shape[1:]
    rows, columns = (torch.arange(n, device=images.device).expand(len(numbers), n) for n in (height, width))
    for augmentation, drawn in moves:
        rows, columns = augmentation.move(rows, columns, drawn)
    source = (numbers[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, source.flatten())
    return pixels.view(*source.shape, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.p <= 1, "p", self.p, "a probability lies in [0, 1]")

    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        return torch.rand(count, generator=stream(epoch)) < self.p

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rows, mirrored(columns, drawn)


@dataclass(frozen=True)
class AlternatingFlip:
    """Mirror every image at every other epoch, a random half of them at the even ones (Jordan, 2024).

    Of two epochs in a row each image is seen once as it is and once mirrored, which chance does only half of the time.
    """

    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        return (torch.rand(count, generator=stream(0)) < 0.5) ^ (epoch % 2 == 1)

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rows, mirrored(columns, drawn)


@dataclass(frozen=True)
class VerticalFlip(Flip):
    """Turn upside down with probability `p`: for most photographs a counter-example, because the world has an up."""

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mirrored(rows, drawn), columns


@dataclass(frozen=True)
class PadCrop:
    """Pad by `padding` reflected pixels on each side and cut a random window of the old size."""

    padding: int = 4

    def __post_init__(self) -> None:
        require(isinstance(self.padding, int) and self.padding >= 0, "padding", self.padding, "whole pixels, 0 or more")

    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        return torch.randint(2 * self.padding + 1, (count, 2), generator=stream(epoch))

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._cut(rows, drawn[:, :1]), self._cut(columns, drawn[:, 1:])

    def _cut(self, positions: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Return the window of reflected `positions` (B, n) that begins at `first` (B, 1)."""
        size = positions.shape[1]
        require(self.padding < size, "padding", self.padding, f"an image of {size} pixels reflects fewer")
        window = torch.arange(size, device=positions.device) - self.padding + first
        return positions.gather(1, reflect(window, size))


@dataclass(frozen=True)
class Cutout:
    """Cover a square of `size` pixels around a random pixel; at the border a part of it (DeVries and Taylor, 2017).

    Attributes:
        level: the colour of the square, 0 to 255; by default CIFAR-10's mean, which is 0 after normalisation.
    """

    size: int = 8
    level: tuple[int, int, int] = (125, 123, 114)

    def __post_init__(self) -> None:
        require(isinstance(self.size, int) and self.size >= 1, "size", self.size, "whole pixels, 1 or more")

    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        return torch.rand(count, 2, generator=stream(epoch))

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        sides = torch.tensor(images.shape[-2:], device=images.device)
        require(self.size <= int(sides.min()), "size", self.size, f"an image of {int(sides.min())} pixels is smaller")
        first = (drawn * sides).long() - self.size // 2
        rows, columns = (self._covered(first[:, axis : axis + 1], images.shape[axis - 2]) for axis in (0, 1))
        level = torch.tensor(self.level, dtype=torch.uint8, device=images.device).view(3, 1, 1)
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], level, images)

    def _covered(self, first: torch.Tensor, side: int) -> torch.Tensor:
        """Return which of `side` places (B, side) lie under a window that begins at `first` (B, 1)."""
        places = torch.arange(side, device=first.device)
        return (places >= first) & (places < first + self.size)


@dataclass(frozen=True)
class ColourJitter:
    """Change brightness, contrast and saturation, in this order, each by a factor in [1 - strength, 1 + strength].

    As torchvision's ColorJitter, which draws an order too. With all strengths at 0, its default, it does nothing.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a strength lies in [0, 1]")

    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        return 2 * torch.rand(count, 3, generator=stream(epoch)) - 1

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation], device=images.device)
        factors = (1 + strengths * drawn).view(-1, 3, 1, 1, 1).unbind(1)
        images = blend(images, torch.zeros((), device=images.device), factors[0]) if self.brightness else images
        images = blend(images, grey(images).mean((2, 3), keepdim=True), factors[1]) if self.contrast else images
        return blend(images, grey(images), factors[2]) if self.saturation else images


def grey(images: torch.Tensor) -> torch.Tensor:
    """Return the luma of uint8 images (B, 3, H, W) as whole levels, float32 (B, 1, H, W) (ITU-R BT.601)."""
    weights = torch.tensor([0.2989, 0.587, 0.114], device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).floor()


def blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return uint8 `factor * images + (1 - factor) * other`, cut to 0 to 255."""
    return torch.lerp(other.expand(images.shape), images.float(), factor).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Rotation:
    """Turn by a random angle of at most `degrees`, bilinearly; what comes in from outside has the colour `level`."""

    degrees: float = 15.0
    level: tuple[int, int, int] = (125, 123, 114)

    def __post_init__(self) -> None:
        require(0 <= self.degrees <= 180, "degrees", self.degrees, "an angle lies in [0, 180]")

    def draw(self, count: int, epoch: int, stream: Stream) -> torch.Tensor:
        return self.degrees * (2 * torch.rand(count, generator=stream(epoch)) - 1)

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        angles = torch.deg2rad(drawn)
        cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
        height, width = images.shape[-2:]
        turns = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
        grid = functional.affine_grid(torch.stack(turns, 1), list(images.shape), align_corners=False)
        level = torch.tensor(self.level, dtype=torch.float32, device=images.device).view(3, 1, 1)
        turned = functional.grid_sample(images.float() - level, grid, align_corners=False) + level
        return turned.round().clamp(0, 255).to(torch.uint8)


def mixup(images: torch.Tensor, targets: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every image, and its target, mixed with those at the mirrored place in the batch (Zhang et al., 2018).

    Args:
        images: float (B, C, H, W).
        targets: probabilities (B, num_classes).
        share: of the image itself, in [0, 1].

    Raises:
        ValueError: the targets are class numbers, which cannot be mixed.
    """
    require(0 <= share <= 1, "share", share, "a share lies in [0, 1]")
    soft = targets.is_floating_point() and targets.ndim == 2
    allowed = "probabilities (B, num_classes): functional.one_hot(labels, num_classes).float()"
    require(soft, "targets", f"{targets.dtype} {tuple(targets.shape)}", allowed)
    return torch.lerp(images.flip(0), images, share), torch.lerp(targets.flip(0), targets, share)


def mirrored(positions: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return positions (B, n) in reverse where `drawn` (B,) says so."""
    return torch.where(drawn[:, None], positions.flip(1), positions)


def reflect(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Return positions mirrored into [0, size) at the edges, the edge pixel not repeated: -2 becomes 2."""
    positions = positions.abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return float images (B, C, size, size), bilinear with antialiasing; the same tensor if it is of that size."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def permute_pixels(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Return images (N, C, H, W) whose pixels stand elsewhere: one random permutation of places for all of them."""
    height, width = images.shape[-2:]
    places = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed)).to(images.device)
    return images.flatten(2)[:, :, places].view_as(images)


def to_square(picture: str | Path | Image.Image, size: int) -> torch.Tensor:
    """Return a picture as uint8 (3, size, size): upright, its centre square, scaled with antialiasing.

    Raises:
        ValueError: the file is no picture, or only a part of one.
    """
    try:
        with Image.open(picture) if not isinstance(picture, Image.Image) else picture.copy() as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise
    except OSError as error:  # UnidentifiedImageError among them
        raise ValueError(f"{picture} is no picture that Pillow can read whole: {error}") from error
    square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


@dataclass(frozen=True)
class Normaliser:
    """Per-channel mean and standard deviation of pixels in [0, 1]; it belongs to the weights trained with it."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def fit(cls, split) -> "Normaliser":
        """Return mean and std over all pixels of a training split, exact: from a histogram in integers.

        Raises:
            ValueError: the split is not a training split.
        """
        require(split.name == "train", "split", split.name, "statistics come from the training split alone")
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in range(3):
            values = split.images[:, channel].reshape(-1).cpu()
            share = torch.bincount(values, minlength=256).double() / len(values)
            mean.append(float(share @ levels))
            std.append(float((share @ (levels - mean[-1]) ** 2).sqrt()))
        return cls(tuple(mean), tuple(std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 images (B, 3, H, W), in channels-last memory, from uint8 ones."""
        scale, shift = affine(self, images.shape[-2:], images.device)
        return torch.addcmul(shift, images.to(torch.float32, memory_format=torch.channels_last), scale)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """Return the uint8 images that `self` maps to `images`; exact on its own output."""
        scale, shift = affine(self, images.shape[-2:], images.device)
        return ((images.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=16)
def affine(normaliser: Normaliser, size: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and shift as whole images (1, 3, H, W): a product with them is ten times as fast as broadcasting."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (normaliser.mean, normaliser.std))
    pair = 1 / (255 * std), -mean / std
    whole = (x.float().expand(1, 3, *size).contiguous(memory_format=torch.channels_last) for x in pair)
    return tuple(x.to(device) for x in whole)
