"""What a depthwise convolution of EfficientNet-Lite0 at 128 pixels costs on one core, in milliseconds.

In bfloat16 and in float32, with zeros that are padded first and with a convolution that pads by itself, as
`models.efficientnet.SameConv2d` does it: forward and backward of 64 images, the median of some repeats.
"""

import torch
import torch.nn.functional as F

from cifar_helpers.runtime import median_seconds
from cifar_helpers.tables import format_table

IMAGES, REPEATS = 64, 3
LAYERS = ((96, 64, 3, 2), (144, 32, 3, 1), (144, 32, 5, 2), (240, 16, 5, 1), (672, 8, 5, 2), (1152, 4, 5, 1))


def padded_first(images: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """Return the maps of a convolution behind `F.pad`; the sides are even."""
    missing = weight.shape[-1] - stride
    pads = [missing // 2, missing - missing // 2] * 2
    return F.conv2d(F.pad(images, pads), weight, stride=stride, groups=len(weight))


def pads_itself(images: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """Return the same maps without padding first: with a stride of 2 the first output is dropped."""
    odd = stride - 1
    padding = (weight.shape[-1] - stride) // 2 + odd * stride
    return F.conv2d(images, weight, padding=padding, stride=stride, groups=len(weight))[..., odd:, odd:]


def milliseconds(way, layer: tuple[int, int, int, int], dtype: torch.dtype) -> float:
    """Return what forward and backward take."""
    channels, side, kernel, stride = layer
    images = torch.randn(IMAGES, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = (0.1 * torch.randn(channels, 1, kernel, kernel)).to(dtype).requires_grad_()
    images.requires_grad_()
    gradient = torch.randn_like(way(images, weight, stride))
    return 1000 * median_seconds(lambda: way(images, weight, stride).backward(gradient), repeats=REPEATS)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for layer in LAYERS:
        cells = []
        for dtype in (torch.bfloat16, torch.float32):
            cells += [f"{milliseconds(way, layer, dtype):.0f}" for way in (padded_first, pads_itself)]
        rows.append((", ".join(map(str, layer)), *cells))
    ways = [f"{dtype}, {way}" for dtype in ("bfloat16", "float32") for way in ("padded first", "pads itself")]
    print(format_table(rows, ["channels, side, kernel, stride", *ways]))


if __name__ == "__main__":
    main()
