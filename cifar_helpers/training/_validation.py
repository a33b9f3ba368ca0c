"""What is wrong with the arguments of `fit`, said before the first step."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from cifar_helpers._arguments import require
from cifar_helpers._contract import Batch, EpochBatches, Ordered, check_batch, check_label_range
from cifar_helpers.training._identity import name_of
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import Loss, check_normaliser, evaluating, naming_images, on_device

# Fields that a part of the reader's own makes meaningless.
_BY_OPTIMIZER = (
    *("optimizer", "lr", "momentum", "nesterov", "weight_decay"),
    *("norm_bias_lr", "layer_lr_decay", "muon_lr"),
)
_BY_SCHEDULER = ("schedule", "warmup")
_BY_LOSS = ("label_smoothing",)
_BY_LOADER = ("batch_size", "augment")


def unused_fields(config: TrainConfig, train: object, loss: object, optimizer: object, scheduler: object) -> list[str]:
    """Return the fields of the configuration that are not used here, or raise a ValueError if one of them was set."""
    reasons = {
        "optimizer=": (_BY_OPTIMIZER, optimizer is not None, "set it in your optimizer"),
        "scheduler=": (_BY_SCHEDULER, scheduler is not None, "set it in your scheduler"),
        "loss=": (_BY_LOSS, loss is not None, "set it in your loss"),
        type(train).__name__: (_BY_LOADER, not isinstance(train, EpochBatches), "the batches are served as they come"),
    }
    defaults = {field.name: field.default for field in fields(config)}
    unused = []
    for what, (names, given, advice) in reasons.items():
        for name in names if given else ():
            value = getattr(config, name)
            allowed = f"{what.removesuffix('=')} makes it meaningless: {advice}, and leave {name}={defaults[name]!r}"
            require(value == defaults[name], name, value, allowed)
            unused.append(name)
    return unused


def check_arguments(model: nn.Module, train: Any, val: Any, config: TrainConfig) -> None:
    """Raise a ValueError if splits, model and configuration do not belong together."""
    for batches in (train, val):
        check_normaliser(model, batches)
    size = getattr(model, "image_size", None)
    if config.image_sizes and size is not None:
        raise ValueError(
            f"image_sizes={config.image_sizes} would be undone: this pretrained model scales every image to "
            f"{size} pixels. Leave image_sizes empty"
        )
    splits = getattr(train, "split", "train"), getattr(val, "split", "val")
    if "test" in splits:
        raise ValueError("fit was given the test split; choose on `val`, and score once through course.final_test")
    if splits[0] == "val":
        raise ValueError("train is the validation split; expected fit(model, train, val, config) in this order")
    names = getattr(train, "class_names", None), getattr(val, "class_names", None)
    if None not in names and names[0] != names[1]:
        raise ValueError(f"train has the classes {names[0]}, val has {names[1]}; expected the same in the same order")
    for batches in (train, val):
        try:
            len(batches)
        except TypeError as error:
            kind = type(batches).__name__
            raise ValueError(
                f"batches of type {kind} have no length; expected a list or a DataLoader over a Dataset that has one"
            ) from error
    if _has_batchnorm(model) and 1 in _last_batch_sizes(train, config):
        size = (
            config.batch_size if isinstance(train, EpochBatches) else getattr(train, "batch_size", "that of the list")
        )
        raise ValueError(
            f"batch_size={size} leaves a last batch of one image, and "
            "BatchNorm cannot take the variance of one: choose another batch_size, or drop_last=True"
        )


def _has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _last_batch_sizes(train: Any, config: TrainConfig) -> set[int]:
    """Return the sizes that batches of an epoch can have besides the usual one."""
    if isinstance(train, list | tuple):
        pairs = [batch for batch in train if isinstance(batch, list | tuple) and len(batch) == 2]
        return {len(labels) for _, labels in pairs if isinstance(labels, torch.Tensor) and labels.ndim}
    if getattr(train, "drop_last", False):
        return set()
    if isinstance(train, EpochBatches):
        count, size = getattr(train, "num_images", 0), config.batch_size
    elif isinstance(train, DataLoader) and train.batch_size is not None:
        count, size = len(train.sampler), train.batch_size  # type: ignore[arg-type]  # its length was just taken
    else:
        return set()
    return {count % size or size}


def check_first_batches(model: nn.Module, train: Any, val: Any, device: torch.device) -> tuple[int, torch.Tensor]:
    """Return the number of outputs of the model and the images of the first training batch, on the device.

    Of a list every batch is looked at, of anything else the first.

    Raises:
        ValueError: a batch is not what training expects.
    """
    num_classes, firsts = 0, []
    for name, batches in (("train", train), ("val", val)):
        served = batches if isinstance(batches, list | tuple) else itertools.islice(_ordered(batches), 1)
        listed = []
        for batch in served:
            check_batch(name, batch)
            listed.append(batch)
        if not listed:
            raise ValueError(f"{name} holds no batch; expected at least one")
        first = listed[0][0]
        for images, _ in listed:
            if images.shape[1:] != first.shape[1:]:
                shapes = tuple(images.shape), tuple(first.shape)
                raise ValueError(f"{name} images have shape {shapes[0]}, those of the first batch {shapes[1]}")
        firsts.append(first.to(device))
        num_classes = count_outputs(model, firsts[-1])
        if len(getattr(batches, "class_names", ())) > num_classes:
            raise ValueError(f"{name} has {len(batches.class_names)} classes, the model has {num_classes} outputs")
        for _, labels in listed:
            check_label_range(name, labels, num_classes)
    return num_classes, firsts[0]


def check_loss(loss: Loss, model: nn.Module, val: Any, device: torch.device) -> None:
    """Raise a ValueError unless a loss gives the mean over a batch: twice the same batch, and it stays what it was."""
    images, labels = next(iter(on_device(_ordered(val), device)))
    with evaluating(model):
        logits = model(images).float()
    once = loss(logits, labels)
    allowed = "the mean over the batch, one number: reduction='mean'"
    require(once.ndim == 0, "loss", f"{name_of(loss)} of shape {tuple(once.shape)}", allowed)
    twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels])).item()
    summed = math.isclose(twice, 2 * once.item(), rel_tol=1e-3) and not math.isclose(once.item(), 0, abs_tol=1e-6)
    require(not summed, "loss", f"{name_of(loss)}, twice as large for twice the batch", allowed)


def _ordered(batches: Any) -> Iterator[Batch]:
    return batches.ordered() if isinstance(batches, Ordered) else iter(batches)


def count_outputs(model: nn.Module, images: torch.Tensor) -> int:
    """Return the number of logits that the model gives for an image, or raise a ValueError that says what it took."""
    shape = tuple(images.shape)
    with naming_images(model, images), evaluating(model):
        logits = model(images[:2])
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the model returns {found} for images {shape}; expected logits (N, C)")
    return logits.shape[1]
