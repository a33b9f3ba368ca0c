"""What is wrong with the arguments of `fit`, said before the first step."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from cifar_helpers._arguments import require
from cifar_helpers._contract import (
    ONE_IMAGE,
    Batch,
    EpochBatches,
    Ordered,
    check_batch,
    check_batches,
    check_label_range,
    check_logits,
    naming_images,
)
from cifar_helpers.training._identity import name_of
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import (
    ONE_NUMBER,
    Loss,
    check_normaliser,
    evaluating,
    mean_loss,
    on_device,
    refuse_hidden_labels,
    require_loss,
)

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
    for name, batches in (("train", train), ("val", val)):
        check_batches(name, batches)
        check_normaliser(model, batches)
        refuse_hidden_labels(batches)
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
        size = config.batch_size if isinstance(train, EpochBatches) else _own_batch_size(train)
        raise ValueError(f"batch_size={size} leaves a last batch of one image, {ONE_IMAGE}")


def _has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _last_batch_sizes(train: Any, config: TrainConfig) -> set[int]:
    """Return the sizes that batches of an epoch can have besides the usual one, where they are known beforehand."""
    if isinstance(train, list | tuple):
        pairs = [batch for batch in train if isinstance(batch, list | tuple) and len(batch) == 2]
        return {len(labels) for _, labels in pairs if isinstance(labels, torch.Tensor) and labels.ndim}
    if isinstance(train, EpochBatches):
        count, size, dropped = getattr(train, "num_images", 0), config.batch_size, getattr(train, "drop_last", False)
        return set() if dropped else {count % size or size}
    return _loader_batch_sizes(train) if isinstance(train, DataLoader) else set()


def _loader_batch_sizes(loader: Any) -> set[int]:
    """Return the same of a DataLoader; a sampler of the reader's own is not asked, for it may draw."""
    if isinstance(loader.dataset, IterableDataset):
        items: Any = loader.dataset  # it has a length, for the loader has one
        count = len(items) if loader.num_workers < 2 else 0  # each worker ends with a batch of its own
        return {count % loader.batch_size or loader.batch_size} if loader.batch_size and not loader.drop_last else set()
    sampler = loader.batch_sampler
    if isinstance(sampler, list | tuple):
        return {len(numbers) for numbers in sampler}
    if type(sampler) is not BatchSampler or sampler.drop_last:
        return set()
    return {len(sampler.sampler) % sampler.batch_size or sampler.batch_size}  # type: ignore[arg-type]  # see len(loader)


def _own_batch_size(train: Any) -> object:
    """Return how many images batches hold that come as they are, or whose number that is."""
    size = getattr(train, "batch_size", None) or getattr(getattr(train, "batch_sampler", None), "batch_size", None)
    return size or "that of the list"


def check_first_batches(model: nn.Module, train: Any, val: Any, device: torch.device) -> tuple[int, torch.Tensor]:
    """Return the number of outputs of the model and the images of the first training batch, on the device.

    Of a list every batch is looked at, of anything else the first; the others are when they come, see `checked`.

    Raises:
        ValueError: a batch is not what training expects.
    """
    num_classes, firsts = 0, []
    for name, batches in (("train", train), ("val", val)):
        listed = batches if isinstance(batches, list | tuple) else [*itertools.islice(ordered(batches), 1)]
        if not listed:
            raise ValueError(f"{name} holds no batch; expected at least one")
        check_batch(name, listed[0])
        firsts.append(listed[0][0].to(device))
        num_classes = count_outputs(model, firsts[-1])
        if len(getattr(batches, "class_names", ())) > num_classes:
            raise ValueError(f"{name} has {len(batches.class_names)} classes, the model has {num_classes} outputs")
        check_label_range(name, listed[0][1], num_classes)
        seen = {firsts[-1].shape[1:]}
        for images, _ in checked(name, listed, num_classes):
            if images.shape[1:] not in seen:
                seen.add(images.shape[1:])
                count_outputs(model, images.to(device))
    return num_classes, firsts[0]


def checked(name: str, batches: Iterable[Batch], num_classes: int) -> Iterator[Batch]:
    """Yield batches as they come, each after it was found to be what training expects.

    Raises:
        ValueError: one is not; the message is that for a list, and names the number of any batch but the first.
    """
    for number, batch in enumerate(batches, start=1):
        named = name if number == 1 else f"{name} batch {number}"
        check_batch(named, batch)
        if batch[1].device.type == "cpu":  # elsewhere every step would wait for it
            check_label_range(named, batch[1], num_classes)
        yield batch


def check_loss(loss: Loss, model: nn.Module, val: Any, device: torch.device) -> None:
    """Raise a ValueError unless a loss gives the mean over a batch: twice the same batch, and it stays what it was."""
    require_loss(loss)
    images, labels = next(iter(on_device(ordered(val), device)))
    with evaluating(model):
        logits = model(images).float()
    once = mean_loss(loss, logits, labels)
    twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels])).item()
    summed = math.isclose(twice, 2 * once.item(), rel_tol=1e-3) and not math.isclose(once.item(), 0, abs_tol=1e-6)
    require(not summed, "loss", f"{name_of(loss)}, twice as large for twice the batch", ONE_NUMBER)


def ordered(batches: Any) -> Iterator[Batch]:
    """Return all batches of an evaluation, in order."""
    return batches.ordered() if isinstance(batches, Ordered) else iter(batches)


def count_outputs(model: nn.Module, images: torch.Tensor) -> int:
    """Return the number of logits that the model gives for an image, or raise a ValueError that says what it took."""
    with naming_images(model, images), evaluating(model):
        logits = model(images[:2])
    return check_logits(logits, images).shape[1]
