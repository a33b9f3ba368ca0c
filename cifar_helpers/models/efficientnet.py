"""EfficientNet-Lite0: a network for ImageNet that is small enough to be fine-tuned on a CPU.

M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite
variants (2020) leave out squeeze-and-excitation and have ReLU6 in place of swish.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cifar_helpers._arguments import require, require_whole

__all__ = ["InvertedResidual", "SameConv2d", "make_efficientnet_lite0"]

# Of each stage: blocks, kernel, stride of the first block, expansion, channels out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution whose output has side ceil(side / stride), padded as TensorFlow does: the odd zero at the end.

    With a stride of 2 and an even side, `nn.Conv2d(padding=1)` begins one pixel earlier, and the weights that were
    trained for the other grid lose accuracy.

    Raises:
        ValueError: it is to be padded or dilated otherwise.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        require(self.padding == (0, 0), "padding", self.padding, "0: it follows from the size of the images")
        require(self.dilation == (1, 1), "dilation", self.dilation, "1")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padding, kept = [], []
        for side, kernel, stride in zip(images.shape[-2:], self.kernel_size, self.stride, strict=True):
            outputs = -(-side // stride)
            missing = max((outputs - 1) * stride + kernel - side, 0)
            odd = missing % 2  # then both sides are padded by a stride more, and the first output is dropped
            padding.append(missing // 2 + odd * stride)
            kept.append(slice(odd, odd + outputs))
        convolve = _depthwise_in_float32 if self._is_slow_in_bfloat16(images) else F.conv2d
        maps = convolve(images, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return maps[..., kept[0], kept[1]]

    def _is_slow_in_bfloat16(self, images: torch.Tensor) -> bool:
        """Return whether the backward pass takes three to twenty times as long in bfloat16: torch 2.15 on a CPU."""
        depthwise = self.groups > 1 and (self.kernel_size, self.stride) != ((3, 3), (1, 1))
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        return depthwise and learns and images.device.type == "cpu" and torch.is_autocast_enabled("cpu")


def _depthwise_in_float32(images: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """Return what `F.conv2d` returns, computed in float32 and in the number format of the images."""
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(images.float(), *arguments).to(images.dtype)


def _conv_norm(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution with its BatchNorm, whose two constants are those of the published weights."""
    convolution = SameConv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow; the input is added where it has the shape of the output.

    M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        sizes = {"c_in": c_in, "c_out": c_out, "kernel": kernel, "stride": stride, "expansion": expansion}
        for name, value in sizes.items():
            require_whole(name, value)
        middle = c_in * expansion
        widen = [*_conv_norm(c_in, middle), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv_norm(middle, middle, kernel, stride, groups=middle), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, *_conv_norm(middle, c_out))
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


def make_efficientnet_lite0(num_classes: int = 1000) -> nn.Sequential:
    """Return an untrained EfficientNet-Lite0: images (N, 3, S, S) to logits (N, C), S of 32 or more, made for 224.

    Raises:
        ValueError: no class.
    """
    require_whole("num_classes", num_classes)
    stem = [*_conv_norm(3, 32, 3, stride=2), nn.ReLU6()]
    blocks: list[nn.Module] = []
    c_in = 32
    for repeats, kernel, stride, expansion, c_out in _STAGES:
        for i in range(repeats):
            blocks.append(InvertedResidual(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
            c_in = c_out
    last = [*_conv_norm(c_in, 1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*stem, *blocks, *last, nn.Linear(1280, num_classes))
