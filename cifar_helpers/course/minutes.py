"""How long trainings take on this machine, from what they compute, before the first one is started."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from cifar_helpers._arguments import is_number, require, require_choice, require_whole
from cifar_helpers.course.profiles import PROFILES, Budget, profile_rank
from cifar_helpers.course.recipes import RECIPES, Experiment
from cifar_helpers.data.datasets import Dataset
from cifar_helpers.models.networks import ModelConfig, make_model
from cifar_helpers.models.summary import layer_table
from cifar_helpers.runtime import autocast, autocast_dtype, median_seconds, private_randomness, synchronize
from cifar_helpers.training.parallel import Replicas, count_replicas
from cifar_helpers.transfer import TransferConfig, build_transfer_model

__all__ = ["Expected", "Work", "describe_seconds", "expect", "recipe_work", "training_rate"]

# The network and the images of the step whose rate is measured; BatchNorm, activations and pools are in its time.
_MEASURED = ModelConfig("fast", width=0.5)
_IMAGES, _PIXELS = 256, 24
# The same of pretrained networks, whose layers of one filter a channel do fewer operations a second.
_TRANSFER_IMAGES, _TRANSFER_PIXELS = 64, 64
# What a step costs beside its operations: Python, small kernels, the optimizer.
_STEP_SECONDS = 0.0015
_LONG = 3600.0


@dataclass(frozen=True)
class Work:
    """Trainings of one experiment: all that decides how long they take.

    Attributes:
        images, val_images: of an epoch and of a validation.
        runs: how many times it is trained: seeds, data sets.
        image_size: side of the images in pixels, where `image_sizes` of the experiment says no other. A pretrained
            network scales them to its own.

    Raises:
        ValueError: no images, no runs, or another number that is none.
    """

    experiment: Experiment
    images: int
    val_images: int = 5_000
    runs: int = 1
    num_classes: int = 10
    image_size: int = 32

    def __post_init__(self) -> None:
        for name in ("images", "runs", "num_classes", "image_size"):
            require_whole(name, getattr(self, name))
        require_whole("val_images", self.val_images, 0)

    @property
    def steps(self) -> int:
        """Optimizer steps of one run."""
        training = self.experiment.training
        steps = self._steps_per_epoch * training.epochs
        return min(steps, training.max_steps or steps)

    @property
    def _steps_per_epoch(self) -> int:
        return -(-self.images // self.experiment.training.batch_size)

    @property
    def operations(self) -> float:
        """Operations of all runs: a training image costs three forward passes, an image of validation one.

        Through the frozen layers of a pretrained network no gradient goes: they cost one.
        """
        training = self.experiment.training
        sizes = training.image_sizes or ((0.0, self.image_size),)
        ends = [*(share for share, _ in sizes[1:]), 1.0]
        trained = sum((end - start) * self._count(size)[1] for (start, size), end in zip(sizes, ends, strict=True))
        epochs = -(-self.steps // self._steps_per_epoch)
        images = min(self.steps * training.batch_size, self.images * epochs)
        return self.runs * (trained * images + self._count(self.image_size)[0] * self.val_images * epochs)

    def _count(self, size: int) -> tuple[float, float]:
        """Return the operations for an image of `size` pixels, forward alone and in training."""
        return _count_operations(self.experiment.model, self.num_classes, self.image_size, size)


@functools.lru_cache(maxsize=64)
def _count_operations(
    config: ModelConfig | TransferConfig, num_classes: int, image_size: int, size: int
) -> tuple[float, float]:
    """Return the operations for an image of `size` pixels, forward alone and in training."""
    rows = layer_table(_make_network(config, num_classes, image_size), size)
    learning = [row for row in rows if row.parameters] if isinstance(config, TransferConfig) else rows
    forward, backward = (2.0 * sum(row.multiply_adds for row in some) for some in (rows, learning))
    return forward, forward + 2 * backward


def _make_network(config: ModelConfig | TransferConfig, num_classes: int, image_size: int) -> nn.Module:
    """Return an untrained network of these layers; torch's random state is left as it was."""
    if isinstance(config, TransferConfig):
        with torch.random.fork_rng(devices=[]):
            return build_transfer_model(config, num_classes, weights=False)
    return make_model(**config.to_dict(), num_classes=num_classes, image_size=image_size)


@dataclass(frozen=True)
class Expected:
    """How long something takes on this machine; its text is for the reader."""

    seconds: float
    profile: str

    def __str__(self) -> str:
        said = f"{describe_seconds(self.seconds)} on this machine (profile {self.profile})"
        lower = [name for name in PROFILES if profile_rank(name) < profile_rank(self.profile)]
        return said + (f"; CIFAR_PROFILE={lower[-1]} takes less" if self.seconds > _LONG and lower else "")


@functools.lru_cache(maxsize=8)
def training_rate(device: torch.device, pretrained: str | None = None) -> float:
    """Return the operations per second of a training step, shared among the cores as `fit` does it.

    A multiply-add counts as two operations, and the backward pass as two forward passes. It is measured once in a
    process, in about a second, and torch's random state is left as it was.

    Args:
        pretrained: the name of a network with ImageNet weights, which are not needed; by default a network of ours.
    """
    count, pixels = (_TRANSFER_IMAGES, _TRANSFER_PIXELS) if pretrained else (_IMAGES, _PIXELS)
    config = TransferConfig(pretrained, pixels) if pretrained else _MEASURED
    with private_randomness(device):
        model = _make_network(config, 10, pixels)
        images = torch.randn(count, 3, pixels, pixels, device=device)
    model.to(device).to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    parts = count_replicas(model, images, count, threads)
    shared = Replicas(model, parts).train() if parts > 1 else model.train()
    operations = 3 * count * 2 * sum(row.multiply_adds for row in layer_table(model, pixels))

    def step() -> None:
        with autocast(device, autocast_dtype(device)):
            logits = shared(images)
        logits.float().square().sum().backward()
        synchronize(device)

    return operations / median_seconds(step, repeats=3 if pretrained else 7)


def describe_seconds(seconds: float) -> str:
    """Return a time rounded to whole minutes, in words."""
    require(is_number(seconds) and seconds >= 0, "seconds", seconds, "a number of 0 or more")
    minutes = seconds / 60
    return "less than a minute" if minutes < 1 else f"about {minutes:.0f} minute{'s' if minutes >= 1.5 else ''}"


def expect(works: Iterable[Work], budget: Budget, device: torch.device, other_seconds: float = 0.0) -> Expected:
    """Return how long trainings take here: their operations at the rate of a small training step.

    Args:
        other_seconds: of all that trains no network.
    """
    seconds = 0.0
    for work in works:
        model = work.experiment.model
        rate = training_rate(device, model.name if isinstance(model, TransferConfig) else None)
        seconds += work.operations / rate + work.runs * work.steps * _STEP_SECONDS
    return Expected(seconds + other_seconds, budget.profile)


def recipe_work(name: str, dataset: Dataset, budget: Budget, seed: int = 0) -> Work:
    """Return the work of training a recipe on a data set.

    Raises:
        ValueError: no recipe has this name.
    """
    require_choice("name", name, RECIPES)
    images, val_images = (
        min(n, len(split))
        for n, split in zip((budget.train_images, budget.eval_images), (dataset.train, dataset.val), strict=True)
    )
    experiment = RECIPES[name].experiment_for(budget, seed)
    return Work(experiment, images, val_images, num_classes=len(dataset.train.class_names))
