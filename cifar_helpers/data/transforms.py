"""From pictures to normalised images: squares, augmentations and the normalisation of whole batches.

An augmentation is a frozen dataclass. `draw(count, epoch, stream)` returns one random row per example of the data set,
for a whole epoch at once, so the picture an example becomes depends on (seed, epoch, example) alone, whatever the batch
size. A `GeometricTransform` then says which pixel goes where; all of a batch together are one gather, straight out of
the data set. A `ColourTransform` computes new pixel values of the uint8 batch afterwards. Any other callable, such as
those of `torchvision.transforms.v2`, is called last, once for each image.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.nn import functional

from cifar_helpers._arguments import (
    is_number,
    is_whole,
    make_plain,
    plain_number,
    require,
    require_fraction,
    require_made_function,
    require_seed,
    require_whole,
)
from cifar_helpers._contract import check_images, check_normalised
from cifar_helpers._hashing import hash_object
from cifar_helpers.data.pictures import to_square
from cifar_helpers.runtime import make_generator, private_randomness, seed_everything

__all__ = [
    "TRANSFORMS",
    "AlternatingFlip",
    "ColourJitter",
    "ColourTransform",
    "Cutout",
    "Flip",
    "GeometricTransform",
    "Normaliser",
    "PadCrop",
    "PerImage",
    "Rotation",
    "Transform",
    "VerticalFlip",
    "augment_batch",
    "describe_transform",
    "draw_epoch",
    "mixup",
    "permute_pixels",
    "resize",
    "stack_images",
    "to_square",
]

# The number of an epoch to the random numbers of that epoch.
_Stream = Callable[[int], torch.Generator]


@runtime_checkable
class GeometricTransform(Protocol):
    """Says where each pixel comes from; all geometric transforms of a batch are one gather."""

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        """Return the random choices of `count` examples in an epoch, one row each, on the CPU."""

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the source rows (B, H) and columns (B, W) of the moved images, given those before the move."""


@runtime_checkable
class ColourTransform(Protocol):
    """Computes new pixel values."""

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        """Return the random choices of `count` examples in an epoch, one row each, on the CPU."""

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return changed images, uint8 (B, 3, H, W); the argument is left alone."""


Transform = GeometricTransform | ColourTransform | Callable[[torch.Tensor], torch.Tensor]


def draw_epoch(
    augment: Sequence[Transform], count: int, *, seed: int, epoch: int, device: torch.device
) -> list[tuple[GeometricTransform | ColourTransform, torch.Tensor]]:
    """Return each augmentation with what it draws for all `count` examples in an epoch, from (seed, epoch) alone."""
    pairs = []
    for i, transform in enumerate(augment):
        ready = transform if isinstance(transform, GeometricTransform | ColourTransform) else PerImage(transform)
        stream = functools.partial(make_generator, "augment", i, seed)
        pairs.append((ready, ready.draw(count, epoch, stream).to(device)))
    return pairs


def augment_batch(
    images: torch.Tensor,
    numbers: torch.Tensor,
    drawn: Iterable[tuple[GeometricTransform | ColourTransform, torch.Tensor]],
) -> torch.Tensor:
    """Return the examples `numbers` (B,) of uint8 `images` (N, 3, H, W): geometric transforms first, then the others.

    Args:
        drawn: augmentations with what each drew for all N examples, from `draw_epoch`.
    """
    pairs = [(transform, rows[numbers]) for transform, rows in drawn]
    moves = [(transform, rows) for transform, rows in pairs if isinstance(transform, GeometricTransform)]
    batch = _gather_pixels(images, numbers, moves) if moves else images[numbers]
    for transform, rows in pairs:
        if isinstance(transform, ColourTransform):
            batch = transform.paint(batch, rows)
    return batch


def describe_transform(transform: Transform) -> dict[str, Any]:
    """Return an augmentation as JSON-ready values: name and fields of ours, name, text and hash of any other."""
    name = type(transform).__name__
    if name in TRANSFORMS and dataclasses.is_dataclass(transform):
        return {"name": name, **dataclasses.asdict(transform)}
    named = getattr(transform, "__qualname__", name)
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(transform))
    return {"name": named, "text": text, "hash": hash_object(transform)}


def _gather_pixels(
    images: torch.Tensor, numbers: torch.Tensor, moves: Sequence[tuple[GeometricTransform, torch.Tensor]]
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
        make_plain(self)
        require_fraction("p", self.p, "a probability lies in [0, 1]")

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        return torch.rand(count, generator=stream(epoch)) < self.p

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rows, _mirror(columns, drawn)


@dataclass(frozen=True)
class AlternatingFlip:
    """Mirror every image at every other epoch, a random half of them at the even ones (Jordan, 2024).

    Of two epochs in a row each image is seen once as it is and once mirrored, which chance does only half of the time.
    """

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        return (torch.rand(count, generator=stream(0)) < 0.5) ^ (epoch % 2 == 1)

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rows, _mirror(columns, drawn)


@dataclass(frozen=True)
class VerticalFlip(Flip):
    """Turn upside down with probability `p`: for most photographs a counter-example, because the world has an up."""

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _mirror(rows, drawn), columns


@dataclass(frozen=True)
class PadCrop:
    """Pad by `padding` reflected pixels on each side and cut a random window of the old size."""

    padding: int = 4

    def __post_init__(self) -> None:
        make_plain(self)
        require_whole("padding", self.padding, 0, "whole pixels, 0 or more")

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        return torch.randint(2 * self.padding + 1, (count, 2), generator=stream(epoch))

    def move(self, rows: torch.Tensor, columns: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._cut(rows, drawn[:, :1]), self._cut(columns, drawn[:, 1:])

    def _cut(self, positions: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Return the window of reflected `positions` (B, n) that begins at `first` (B, 1)."""
        size = positions.shape[1]
        require(self.padding < size, "padding", self.padding, f"an image of {size} pixels reflects fewer")
        window = torch.arange(size, device=positions.device) - self.padding + first
        return positions.gather(1, _reflect(window, size))


@dataclass(frozen=True)
class Cutout:
    """Cover a square of `size` pixels around a random pixel; at the border a part of it (DeVries and Taylor, 2017).

    Attributes:
        level: the colour of the square, 0 to 255; by default CIFAR-10's mean, which is 0 after normalisation.
    """

    size: int = 8
    level: tuple[int, int, int] = (125, 123, 114)

    def __post_init__(self) -> None:
        make_plain(self)
        require_whole("size", self.size, allowed="whole pixels, 1 or more")
        object.__setattr__(self, "level", _as_colour(self.level))

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
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


def _as_colour(level: Any) -> tuple[int, ...]:
    """Return a colour as a tuple of Python's numbers, or raise a ValueError if it is none."""
    values = tuple(level) if isinstance(level, Iterable) else ()
    right = len(values) == 3 and all(is_whole(value) and 0 <= value <= 255 for value in values)
    require(right, "level", level, "three whole numbers, red, green and blue from 0 to 255")
    return tuple(int(value) for value in values)


@dataclass(frozen=True)
class ColourJitter:
    """Change brightness, contrast and saturation, in this order, each by a factor in [1 - strength, 1 + strength].

    As torchvision's ColorJitter, which draws an order too. With all strengths at 0, its default, it does nothing.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("brightness", "contrast", "saturation"):
            require_fraction(name, getattr(self, name), "a strength lies in [0, 1]")

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        return 2 * torch.rand(count, 3, generator=stream(epoch)) - 1

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation], device=images.device)
        factors = (1 + strengths * drawn).view(-1, 3, 1, 1, 1).unbind(1)
        images = _blend(images, torch.zeros((), device=images.device), factors[0]) if self.brightness else images
        images = _blend(images, _grey(images).mean((2, 3), keepdim=True), factors[1]) if self.contrast else images
        return _blend(images, _grey(images), factors[2]) if self.saturation else images


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Return the luma of uint8 images (B, 3, H, W) as whole levels, float32 (B, 1, H, W) (ITU-R BT.601)."""
    weights = torch.tensor([0.2989, 0.587, 0.114], device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).floor()


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return uint8 `factor * images + (1 - factor) * other`, cut to 0 to 255."""
    return torch.lerp(other.expand(images.shape), images.float(), factor).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Rotation:
    """Turn by a random angle of at most `degrees`, bilinearly; what comes in from outside has the colour `level`.

    It interpolates, so it computes pixel values as a colour transform does.
    """

    degrees: float = 15.0
    level: tuple[int, int, int] = (125, 123, 114)

    def __post_init__(self) -> None:
        make_plain(self)
        right = is_number(self.degrees) and 0 <= self.degrees <= 180
        require(right, "degrees", self.degrees, "an angle lies in [0, 180]")
        object.__setattr__(self, "level", _as_colour(self.level))

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
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


@dataclass(frozen=True)
class PerImage:
    """Call a function of one uint8 image (3, H, W), such as a transform of torchvision, for every image of a batch.

    It may draw from torch, NumPy and Python as it likes: before each image the three are seeded from (seed, epoch,
    example), and afterwards they are as they were.

    Raises:
        ValueError: it is no function; or, while training, it gives something else than uint8 (3, H, W) of one size.
    """

    function: Callable[[torch.Tensor], torch.Tensor]

    def __post_init__(self) -> None:
        require_made_function("function", self.function, "a function of a uint8 image (3, H, W)")

    def draw(self, count: int, epoch: int, stream: _Stream) -> torch.Tensor:
        return torch.randint(2**32, (count,), generator=stream(epoch))

    def paint(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        changed = []
        with private_randomness(images.device):
            for image, seed in zip(images, drawn.tolist(), strict=True):
                seed_everything(seed)
                changed.append(self.function(image))
        return stack_images("augment", self.function, changed)


def stack_images(argument: str, function: object, images: Sequence[object]) -> torch.Tensor:
    """Return the images that a function gave in one tensor, uint8 (B, 3, H, W).

    Raises:
        ValueError: they are not all uint8 (3, H, W) of one size.
    """
    size = getattr(images[0], "shape", ())[-2:]
    allowed = "uint8 tensors (3, H, W) of one size; batches convert and normalise: leave ToDtype and Normalize out"
    for image in images:
        found = type(image).__name__
        if isinstance(image, torch.Tensor):
            found = f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
        right = isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.shape == (3, *size)
        require(right, argument, f"{function!r} gave {found}", allowed)
    return torch.stack([torch.as_tensor(image) for image in images])


def mixup(images: torch.Tensor, targets: torch.Tensor, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every image, and its target, mixed with those at the mirrored place in the batch (Zhang et al., 2018).

    Args:
        images: float (B, C, H, W).
        targets: probabilities (B, num_classes).
        lam: weight of the image itself, in [0, 1].

    Raises:
        ValueError: the targets are class numbers, which cannot be mixed, or `lam` is no weight.
    """
    require_fraction("lam", lam, "a weight lies in [0, 1]")
    _require_batch(images)
    require(images.is_floating_point(), "images", images, "normalised images, floating-point numbers")
    soft = isinstance(targets, torch.Tensor) and targets.is_floating_point() and targets.ndim == 2
    allowed = "probabilities (B, num_classes): functional.one_hot(labels, num_classes).float()"
    require(soft and len(targets) == len(images), "targets", targets, allowed)
    return torch.lerp(images.flip(0), images, lam), torch.lerp(targets.flip(0), targets, lam)


def _mirror(positions: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return positions (B, n) in reverse where `drawn` (B,) says so."""
    return torch.where(drawn[:, None], positions.flip(1), positions)


def _reflect(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Return positions mirrored into [0, size) at the edges, the edge pixel not repeated: -2 becomes 2."""
    positions = positions.abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)


def _require_batch(images: object) -> None:
    right = isinstance(images, torch.Tensor) and images.ndim == 4
    require(right, "images", images, "a tensor of images (N, C, H, W); one image is images[None]")


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return float images (B, C, size, size), bilinear with antialiasing; the same tensor if it is of that size.

    Raises:
        ValueError: `size` is no whole number of pixels, or the images are no batch.
    """
    require_whole("size", size, allowed="whole pixels, at least 1")
    _require_batch(images)
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def permute_pixels(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Return images (N, C, H, W) whose pixels stand elsewhere: one random permutation of places for all of them.

    Raises:
        ValueError: `seed` is no whole number, or the images are no batch.
    """
    require_seed(seed)
    _require_batch(images)
    height, width = images.shape[-2:]
    places = torch.randperm(height * width, generator=torch.Generator().manual_seed(int(seed))).to(images.device)
    return images.flatten(2)[:, :, places].view_as(images)


_CHANNELS = ("red", "green", "blue")


class _TrainingImages(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def images(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class Normaliser:
    """Per-channel mean and standard deviation of pixels in [0, 1]; it belongs to the weights trained with it."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)  # from JSON as a list
            values = tuple(given) if isinstance(given, Iterable) else ()
            right = len(values) == 3 and all(is_number(value) for value in values)
            require(right, name, given, "three finite numbers, one for each channel")
            object.__setattr__(self, name, tuple(plain_number(value) for value in values))
        inside = min(self.mean) >= 0 and max(self.mean) <= 1
        require(inside, "mean", self.mean, "of pixels in [0, 1]: divide mean and std of levels 0 to 255 by 255")
        require(min(self.std) > 0, "std", self.std, "positive: images are divided by it")

    def to_dict(self) -> dict[str, list[float]]:
        """Return mean and standard deviation as JSON keeps them; `Normaliser(**…)` takes them back."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def fit(cls, split: "_TrainingImages") -> "Normaliser":
        """Return mean and std over all pixels of a training split, exact: from a histogram in integers.

        Raises:
            ValueError: the split is not a training split, or in a channel all images have one value.
        """
        known = hasattr(split, "name") and isinstance(getattr(split, "images", None), torch.Tensor)
        require(known, "split", split, "a training split, such as load_data('cifar10').train")
        require(split.name == "train", "split", split.name, "statistics come from the training split alone")
        check_images(split.images)
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in range(3):
            values = split.images[:, channel].reshape(-1).cpu()
            if values.min() == values.max():
                raise ValueError(
                    f"all {len(split.images)} training images have the same value, {int(values[0])}, at every pixel of "
                    f"channel {channel} ({_CHANNELS[channel]}): there is nothing to normalise or to learn from: look "
                    "at how they were read"
                )
            share = torch.bincount(values, minlength=256).double() / len(values)
            mean.append(float(share @ levels))
            std.append(float((share @ (levels - mean[-1]) ** 2).sqrt()))
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 images (B, 3, H, W), in channels-last memory, from uint8 ones.

        Raises:
            ValueError: the images are others.
        """
        check_images(images)
        scale, shift = _affine(self, images.shape[-2:], images.device)
        return torch.addcmul(shift, images.to(torch.float32, memory_format=torch.channels_last), scale)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """Return the uint8 images that `self` maps to `images`; exact on its own output.

        Raises:
            ValueError: the images are no floating-point numbers (B, 3, H, W).
        """
        check_normalised(images)
        scale, shift = _affine(self, images.shape[-2:], images.device)
        return ((images.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=16)
def _affine(normaliser: Normaliser, size: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and shift as whole images (1, 3, H, W): a product with them is ten times as fast as broadcasting."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (normaliser.mean, normaliser.std))
    pair = 1 / (255 * std), -mean / std
    whole = (x.float().expand(1, 3, *size).contiguous(memory_format=torch.channels_last) for x in pair)
    scale, shift = (x.to(device) for x in whole)
    return scale, shift


# Those that a configuration names by their class.
TRANSFORMS: dict[str, type] = {
    kind.__name__: kind for kind in (AlternatingFlip, ColourJitter, Cutout, Flip, PadCrop, Rotation, VerticalFlip)
}
