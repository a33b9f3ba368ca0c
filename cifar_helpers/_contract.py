"""What batches, images and labels must be: one place for every message about one that is not right."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

# Images float32 (B, 3, H, W), normalised, and labels int64 (B,).
Batch = tuple[torch.Tensor, torch.Tensor]


@runtime_checkable
class Ordered(Protocol):
    """Serves every example once, in order and unchanged, whatever plain iteration does."""

    def ordered(self) -> Iterator[Batch]: ...


@runtime_checkable
class EpochBatches(Protocol):
    """Serves an epoch that depends on (seed, epoch) alone."""

    def steps(self, batch_size: int) -> int: ...

    def epoch(self, epoch: int, *, seed: int, batch_size: int, augment: Sequence[Any] = ()) -> Iterator[Batch]: ...


def check_images(images: torch.Tensor) -> None:
    """Raise a ValueError unless `images` is uint8 (N, 3, H, W) with N of at least 1."""
    shape = tuple(images.shape)
    if images.ndim == 4 and shape[1] != 3 and shape[-1] == 3:
        raise ValueError(f"images have shape {shape}, channels last; expected (N, 3, H, W): images.permute(0, 3, 1, 2)")
    if images.ndim == 4 and shape[1] == 1:
        raise ValueError(f"images have one channel, shape {shape}; expected three: images.expand(-1, 3, -1, -1)")
    if images.ndim != 4 or shape[1] != 3:
        raise ValueError(f"images have shape {shape}; expected (N, 3, H, W)")
    if len(images) == 0:
        raise ValueError("images are empty; expected at least one")
    if images.dtype != torch.uint8:
        hint = "(images * 255).round().to(torch.uint8) if they lie in [0, 1]"
        raise ValueError(f"images are {images.dtype}; expected torch.uint8 with values 0 to 255: {hint}")


def check_labels(labels: torch.Tensor, count: int, num_classes: int) -> None:
    """Raise a ValueError unless `labels` is int64 (count,) with values in [0, num_classes)."""
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}; expected torch.int64 class numbers: labels.long()")
    if labels.shape != (count,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected ({count},), one for each image")
    wrong = wrong_labels(labels, num_classes)
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"labels[{first}] is {int(labels[first])}; expected 0 to {num_classes - 1} for {num_classes} classes "
            f"({len(wrong)} labels are out of range)"
        )


def check_batch(name: str, batch: object) -> None:
    """Raise a ValueError unless `batch` is a pair of float32 images and as many int64 labels, at least one of each."""
    parts: list[Any] = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(parts) != 2 or not all(isinstance(part, torch.Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"{name} serves batches of ({kinds}); expected pairs of tensors (images, labels)")
    images, labels = parts
    if labels.ndim == 0:
        raise ValueError(f"{name} serves single images; expected batches: put the Dataset into a DataLoader")
    if len(labels) == 0:
        raise ValueError(f"{name} holds an empty batch; expected at least one image")
    if images.dtype != torch.float32:
        raise ValueError(f"{name} images are {images.dtype}; expected normalised torch.float32")
    if images.ndim == 4 and images.shape[-1] == 3 and images.shape[1] != 3:
        raise ValueError(f"{name} images have shape {tuple(images.shape)}, channels last: images.permute(0, 3, 1, 2)")
    if labels.dtype != torch.int64:
        advice = "labels.long(), and what a loss needs instead, such as one_hot(labels), is made inside the loss"
        raise ValueError(f"{name} labels are {labels.dtype}; expected torch.int64 class numbers: {advice}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{name} labels have shape {tuple(labels.shape)}; expected ({len(images)},)")


def check_label_range(name: str, labels: torch.Tensor, num_classes: int) -> None:
    """Raise a ValueError that names the first label outside [0, num_classes)."""
    wrong = wrong_labels(labels, num_classes)
    if len(wrong):
        label = int(labels[wrong[0]])
        raise ValueError(f"{name} label {label} at position {int(wrong[0])}; expected 0 to {num_classes - 1}")


def wrong_labels(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the places of labels outside [0, num_classes)."""
    return torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()


def batch_faults(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> list[str]:
    """Return what is wrong with a normalised batch, each fault as a phrase: what came, and what is expected."""
    if images.ndim != 4 or images.shape[1] != 3:
        return [f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)"]
    if images.dtype != torch.float32 or labels.dtype != torch.int64:
        return [f"types are {images.dtype} and {labels.dtype}, expected torch.float32 and torch.int64"]
    mean, std, kinds = images.mean().item(), images.std().item(), labels.unique()
    rules = {
        "images are not finite": bool(images.isfinite().all()),
        f"images have mean {mean:.3f}, expected within 0.6 of 0 after normalisation": abs(mean) < 0.6,
        f"images have standard deviation {std:.3f}, expected 0.35 to 2 after normalisation": 0.35 < std < 2,
        f"labels run from {kinds[0]} to {kinds[-1]}, expected 0 to {num_classes - 1}": not len(
            wrong_labels(labels, num_classes)
        ),
        f"all {len(labels)} labels are {kinds[0]}: is the order shuffled?": len(kinds) > 1 or len(labels) < 16,
    }
    return [fault for fault, holds in rules.items() if not holds]
