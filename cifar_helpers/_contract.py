"""What batches, images and labels must be: one place for every message about one that is not right."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from cifar_helpers._arguments import require

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
    require(isinstance(images, torch.Tensor), "images", images, "a tensor, torch.uint8 of shape (N, 3, H, W)")
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
    require(isinstance(labels, torch.Tensor), "labels", labels, "a tensor, torch.int64 of shape (N,)")
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


def check_normalised(images: object) -> None:
    """Raise a ValueError unless `images` are floating-point numbers (N, 3, H, W), N of at least 1."""
    right = isinstance(images, torch.Tensor) and images.is_floating_point()
    right = right and images.ndim == 4 and images.shape[1] == 3  # type: ignore[attr-defined]  # it is a tensor
    right = right and len(images) > 0  # type: ignore[arg-type]
    require(right, "images", images, "normalised images, floating-point numbers of shape (N, 3, H, W), at least one")


def check_logits(logits: object, images: torch.Tensor) -> torch.Tensor:
    """Return what a model gives for images, or raise a ValueError unless these are logits (N, C)."""
    if isinstance(logits, torch.Tensor) and logits.ndim == 2:
        return logits
    found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    raise ValueError(f"the model returns {found} for images {tuple(images.shape)}; expected logits (N, C)")


def check_batches(name: str, batches: object) -> None:
    """Raise a ValueError unless `batches` can be gone through, which a Split cannot."""
    allowed = "batches (images, labels): those of make_batches(dataset.train, dataset.val), a DataLoader or a list"
    require(isinstance(batches, Iterable | Ordered) or hasattr(batches, "__getitem__"), name, batches, allowed)


def check_pair(name: str, batch: object) -> Batch:
    """Return a batch as a pair of tensors, or raise a ValueError if it is none."""
    parts: list[Any] = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(parts) != 2 or not all(isinstance(part, torch.Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"{name} serves batches of ({kinds}); expected pairs of tensors (images, labels)")
    images, labels = parts
    if labels.ndim == 0:
        raise ValueError(f"{name} serves single images; expected batches: put the Dataset into a DataLoader")
    if labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"{name} labels have shape {tuple(labels.shape)}; expected ({len(images)},)")
    return images, labels


def check_pairs(batches: Iterable[object]) -> Iterator[Batch]:
    """Yield batches as they come, each after it was found to be a pair of tensors."""
    return (check_pair("iteration", batch) for batch in batches)


def check_batch(name: str, batch: object) -> None:
    """Raise a ValueError unless `batch` is a pair of float32 images and as many int64 labels, at least one of each."""
    images, labels = check_pair(name, batch)
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


# What BatchNorm makes of a batch of one image, in training.
ONE_IMAGE = "and BatchNorm cannot take the variance of one: choose another batch_size, or drop_last=True"


@contextmanager
def naming_images(model: nn.Module, images: torch.Tensor, batch: str = "") -> Iterator[None]:
    """Say in an error of torch what images the model was given, and for which size it was made.

    Args:
        batch: its name, such as "train batch 3".
    """
    try:
        yield
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(f"{batch or 'a batch'} holds one image, {ONE_IMAGE}") from error
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # memory, an accelerator or a compiler, which say it themselves
            raise
        shape, reason = tuple(images.shape), _why_not(model, images, str(error).splitlines()[0])
        named = f"{batch}: " if batch else ""
        raise ValueError(f"{named}the model cannot take images of shape {shape}: {reason}") from error


def _why_not(model: nn.Module, images: torch.Tensor, reason: str) -> str:
    """Return why a model cannot take images, given what torch says of it."""
    if not images.is_floating_point():
        return f"they are {images.dtype}; expected normalised torch.float32"
    size, given = made_for(model), images.shape[-1]
    advice = f"; it was made for {size} pixels: make_model(…, image_size={given})"
    return reason if size in (None, given) else reason + advice


def made_for(model: nn.Module) -> int | None:
    """Return the image size for which `make_model` made a network, which may be the only child of another, or None."""
    while not hasattr(model, "spec"):
        children = [*model.children()]
        if len(children) != 1:
            return None
        model = children[0]
    return model.spec.get("image_size") if isinstance(model.spec, Mapping) else None


def batch_faults(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> list[str]:
    """Return what is wrong with a batch, each fault as a phrase: what came, and what is expected.

    Images are float32 (B, channels, H, W); labels class numbers int64 (B,), or probabilities (B, C).
    """
    if images.ndim != 4 or (images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4)):
        return [f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)"]
    soft = labels.is_floating_point() and labels.shape == (len(images), num_classes)
    if images.dtype != torch.float32 or not (soft or labels.dtype == torch.int64):
        return [f"types are {images.dtype} and {labels.dtype}, expected torch.float32 and torch.int64"]
    kinds = labels.unique()
    rules = {
        "images are not finite": bool(images.isfinite().all()),
        f"labels run from {kinds[0]} to {kinds[-1]}, expected 0 to {num_classes - 1}": soft
        or not len(wrong_labels(labels, num_classes)),
        "labels are probabilities whose sum is not 1": not soft or bool(((labels.sum(1) - 1).abs() < 1e-3).all()),
    }
    return [fault for fault, holds in rules.items() if not holds]


def batch_doubts(images: torch.Tensor) -> list[str]:
    """Return what is unusual in normalised images (B, channels, H, W): a mean far from 0, a spread far from 1."""
    mean, std = images.mean().item(), images.std().item()
    channels = images.transpose(0, 1).flatten(1)
    if _exchanged(channels.mean(1), channels.std(1)):
        cause = "mean and standard deviation of the normalisation are exchanged"
    elif std < 0.1:
        cause = "there is hardly any contrast in them: are levels divided by 255 twice?"
    elif images.min() >= 0 and images.max() <= 1:
        cause = "images lie in [0, 1]: they are not normalised"
    elif images.min() >= 0 and images.max() > 50:
        cause = "images are levels up to 255: they are not normalised"
    else:
        cause = "expected about 0 and 1: is it normalised twice, or with another set's constants?"
    usual = abs(mean) < 0.35 and 0.4 < std < 1.9
    return [] if usual else [f"images have mean {mean:.3f} and standard deviation {std:.3f}; {cause}"]


def _exchanged(means: torch.Tensor, stds: torch.Tensor) -> bool:
    """Return whether (level - std) / mean was computed: then mean and spread of each channel add up to 1."""
    return bool(((means + stds - 1).abs() < 0.06).all() and (means > 0.3).all())
