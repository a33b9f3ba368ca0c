"""Images as a camera in use may deliver them: noisy, blurred, pale, compressed, shifted; each at three strengths.

The kinds are those of D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; images and strengths are our own, so accuracies are not those of CIFAR-10-C.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from cifar_helpers._arguments import require, require_choice
from cifar_helpers._contract import check_images
from cifar_helpers.runtime import make_generator

__all__ = ["CORRUPTIONS", "Corruption", "corrupt"]


def _add_noise(images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    return _to_bytes(images.float() + amount * torch.randn(images.shape, generator=generator))


def _blur(images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    """Convolve with a Gaussian of `amount` pixels, first down the columns, then along the rows."""
    reach = math.ceil(3 * amount)
    weights = (-0.5 * (torch.arange(-reach, reach + 1) / amount) ** 2).exp()
    weights = weights / weights.sum()
    channels = images.shape[1]
    kernel = weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
    blurred = functional.pad(images.float(), (reach,) * 4, mode="replicate")
    for side in (kernel, kernel.transpose(2, 3)):
        blurred = functional.conv2d(blurred, side, groups=channels)
    return _to_bytes(blurred)


def _reduce_contrast(images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    """Move every pixel towards the mean of its image, to the share `amount` of its distance."""
    mean = images.float().mean((1, 2, 3), keepdim=True)
    return _to_bytes(mean + amount * (images.float() - mean))


def _compress(images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    """Write every image as a JPEG file of quality `amount`, and read it again."""
    read = []
    for pixels in images.permute(0, 2, 3, 1).contiguous().numpy():
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=round(amount))
            read.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()


def _shift(images: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    """Move every image by `amount` pixels along both axes, each to a side drawn for it; the border is repeated."""
    height, width = images.shape[-2:]
    moved = round(amount) * (2 * torch.randint(2, (len(images), 2), generator=generator) - 1)
    rows = (torch.arange(height) - moved[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width) - moved[:, 1:]).clamp(0, width - 1)
    number = torch.arange(len(images))[:, None, None]
    return images.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _to_bytes(images: torch.Tensor) -> torch.Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption.

    Attributes:
        amounts: of strength 1, 2 and 3.
        unit: what the amounts are.
        apply: uint8 images (N, 3, H, W), an amount and a generator to new images.
    """

    amounts: tuple[float, float, float]
    unit: str
    apply: Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]


CORRUPTIONS = {
    "noise": Corruption((10, 20, 40), "standard deviation, in levels of 256", _add_noise),
    "blur": Corruption((0.5, 1.0, 1.5), "standard deviation of the Gaussian, in pixels", _blur),
    "contrast": Corruption((0.6, 0.4, 0.2), "share of the contrast that is left", _reduce_contrast),
    "jpeg": Corruption((75, 40, 15), "quality of the JPEG file", _compress),
    "shift": Corruption((2, 4, 8), "pixels along both axes", _shift),
}


def corrupt(images: torch.Tensor, kind: str, strength: int, seed: int = 0) -> torch.Tensor:
    """Return corrupted uint8 images (N, 3, H, W) from such images; equal arguments, equal images.

    Of JPEG that holds on one machine: its decoders differ by single levels.

    Args:
        kind: one of CORRUPTIONS.
        strength: 1, 2 or 3.

    Raises:
        ValueError: an unknown kind or strength, or images that are not uint8 (N, 3, H, W).
    """
    require_choice("kind", kind, CORRUPTIONS)
    require(strength in (1, 2, 3), "strength", strength, "1, 2 or 3")
    check_images(images)
    chosen = CORRUPTIONS[kind]
    return chosen.apply(images, chosen.amounts[strength - 1], make_generator("corrupt", kind, strength, seed))
