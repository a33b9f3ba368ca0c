"""Logits, loss and accuracy of a model on batches; nothing of the model is changed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import require, require_flag, require_made_function, require_model
from cifar_helpers._contract import (
    Batch,
    Ordered,
    check_batches,
    check_label_range,
    check_logits,
    check_pairs,
    naming_images,
)
from cifar_helpers._progress import ProgressLine, count_items
from cifar_helpers.metrics import Sums
from cifar_helpers.runtime import core_threads, count_processes, private_randomness
from cifar_helpers.training._identity import name_of
from cifar_helpers.training._wrappers import unwrap

__all__ = [
    "ONE_NUMBER",
    "Loss",
    "check_normaliser",
    "evaluate",
    "evaluating",
    "mean_loss",
    "on_device",
    "predict",
    "refuse_hidden_labels",
    "require_loss",
]

# Logits (B, C) and what the batches hold beside images, to the mean over the batch.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


ONE_NUMBER = "the mean over the batch, one number: reduction='mean'"


def require_loss(loss: object) -> None:
    """Raise a ValueError unless `loss` can be called, and is no class."""
    require_made_function("loss", loss, "a function of logits and labels, such as nn.CrossEntropyLoss()")


def mean_loss(loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return what a loss gives for a batch.

    Raises:
        ValueError: it is not one number.
    """
    found = loss(logits, labels)
    if not isinstance(found, torch.Tensor) or found.ndim > 0:
        kind = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        require(False, "loss", f"{name_of(loss)}, which gives {kind}", ONE_NUMBER)
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without a graph; restore the mode of every submodule, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: nn.Module, batches: Iterable[Batch], tta: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 logits (N, C) and int64 labels (N,) of all batches, on the CPU.

    Computed in float32 on every device, so that no count depends on the batch size. Batches are moved to the device
    of the model.

    Args:
        batches: `data.Batches` are served in order and unchanged, anything else as it comes.
        tta: test-time augmentation, the mean of the logits of an image and its mirror image, at twice the cost.

    Raises:
        ValueError: the batches are normalised otherwise than the model, a pretrained one, was trained with.
    """
    require_model(model)
    with evaluating(model), _count_batches(batches) as line:
        scored = ((logits.float().cpu(), labels.cpu()) for logits, labels in _score(model, batches, tta, line))
        logits, labels = zip(*scored, strict=True)
    return torch.cat(logits), torch.cat(labels)


def evaluate(model: nn.Module, batches: Iterable[Batch], tta: bool = False, loss: Loss | None = None) -> Sums:
    """Return loss and correct answers summed over all examples; `batches` and `tta` as in `predict`.

    Args:
        loss: your own instead of the cross-entropy; a batch counts by its number of examples.

    Raises:
        ValueError: the labels are hidden, as a competition does with those of its test images, or there is no output
            for one of them.
    """
    require_model(model)
    refuse_hidden_labels(batches)
    if loss is None:
        logits, labels = predict(model, batches, tta)
        check_label_range(getattr(batches, "split", "evaluated"), labels, logits.shape[1])
        return metrics.sums(logits, labels)
    require_loss(loss)
    loss_sum, correct, count = 0.0, 0, 0
    with evaluating(model), _count_batches(batches) as line:
        for logits, labels in _score(model, batches, tta, line):
            loss_sum += mean_loss(loss, logits.float(), labels).item() * len(labels)
            correct += int(metrics.count_correct(logits, labels))
            count += len(labels)
    return Sums(loss_sum, correct, count)


def _count_batches(batches: Iterable[Batch]) -> ProgressLine:
    """Return what counts the batches, as they are served for evaluation."""
    size, images = (getattr(batches, name, None) for name in ("eval_batch_size", "num_images"))
    count = -(-images // size) if size and images else count_items(batches)
    return ProgressLine(f"evaluating {getattr(batches, 'split', '')} batch", count)


def _score(model: nn.Module, batches: Iterable[Batch], tta: bool, line: ProgressLine) -> Iterator[Batch]:
    """Yield logits and labels of each batch, on the device of the model."""
    require_flag("tta", tta)
    check_batches("batches", batches)
    check_normaliser(model, batches)
    parameter = next(model.parameters(), None)
    served = check_pairs(batches.ordered() if isinstance(batches, Ordered) else batches)
    forward = None
    counted = line.over(served)
    for images, labels in counted if parameter is None else on_device(counted, parameter.device):
        with naming_images(model, images):
            forward = forward or _spread(model, images)
            logits = (forward(images) + forward(images.flip(-1))) / 2 if tta else forward(images)
        yield check_logits(logits, images), labels
    require(forward is not None, "batches", batches, "at least one batch")


def _spread(model: nn.Module, images: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives the logits of batches like these: on a CPU every core computes those of a part.

    Cores that share every operation wait for each other, which beside another program takes most of the time. A network
    with a hook, or one that draws random numbers, is given whole batches.
    """
    cores = torch.get_num_threads()
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    elsewhere = images.device.type != "cpu" or count_processes() > 1
    if hooked or elsewhere or cores == 1 or _is_random(model, images[:2]):
        return model
    infer = torch.inference_mode()(model)
    return lambda images: torch.cat([*core_threads(cores).map(infer, images.tensor_split(min(cores, len(images))))])


def _is_random(model: nn.Module, images: torch.Tensor) -> bool:
    """Return whether the network draws random numbers."""
    with private_randomness(images.device):
        before = torch.get_rng_state()
        model(images)
        return not torch.equal(before, torch.get_rng_state())


def on_device(
    batches: Iterable[Batch], device: torch.device, memory_format: torch.memory_format = torch.preserve_format
) -> Iterator[Batch]:
    """Yield the batches on the device, images (B, C, H, W) in a memory format; to CUDA from pinned memory."""
    for images, labels in batches:
        moved = _move(images, device)
        yield moved.to(memory_format=memory_format) if moved.ndim == 4 else moved, _move(labels, device)


def _move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.device.type == device.type and device.index in (None, tensor.device.index):
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)
    return tensor.to(device)


def check_normaliser(model: object, batches: object) -> None:
    """Raise a ValueError if a pretrained model, which knows its normaliser, is given batches of another one."""
    plain = unwrap(model) if isinstance(model, nn.Module) else model
    known, given = getattr(plain, "normaliser", None), getattr(batches, "normaliser", None)
    if None not in (known, given) and known != given:
        raise ValueError(
            f"the model was pretrained on images normalised with {known}, these are normalised with {given}; "
            "make them with make_batches(train, val, device, model.normaliser)"
        )


def refuse_hidden_labels(batches: object) -> None:
    """Raise a ValueError if the labels of these batches are hidden."""
    if getattr(batches, "labels_hidden", False):
        raise ValueError(
            "every label of this test split is 0: they are hidden, and an accuracy against them means nothing. Judge "
            "on `val`; what is asked for is a file, submission.write_submission"
        )
