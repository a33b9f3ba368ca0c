"""How long trainings take on this machine, from what they compute, before the first one is started."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cifar_helpers.course.profiles import PROFILES, Budget, profile_rank
from cifar_helpers.course.recipes import RECIPES, Experiment
from cifar_helpers.data.datasets import Dataset
from cifar_helpers.models.networks import ModelConfig, make_model
from cifar_helpers.models.summary import layer_table
from cifar_helpers.runtime import autocast, autocast_dtype, median_seconds, private_randomness, synchronize
from cifar_helpers.training.parallel import Replicas, count_replicas

__all__ = ["Expected", "Work", "describe_seconds", "expect", "recipe_work", "training_rate"]

# The network and the images of the step whose rate is measured; BatchNorm, activations and pools are in its time.
_MEASURED = ModelConfig("fast", width=0.5)
_IMAGES, _PIXELS = 256, 24
# What a step costs beside its operations: Python, small kernels, the optimizer.
_STEP_SECONDS = 0.0015
_LONG = 3600.0


@dataclass(frozen=True)
class Work:
    """Trainings of one experiment: all that decides how long they take.

    Attributes:
        images, val_images: of an epoch and of a validation.
        runs: how many times it is trained: seeds, data sets.
        image_size: side of the images in pixels, where `image_sizes` of the experiment says no other.
    """

    experiment: Experiment
    images: int
    val_images: int = 5_000
    runs: int = 1
    num_classes: int = 10
    image_size: int = 32

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
        """Operations of all runs: a training image costs three forward passes, an image of validation one."""
        training = self.experiment.training
        sizes = training.image_sizes or ((0.0, self.image_size),)
        ends = [*(share for share, _ in sizes[1:]), 1.0]
        forward = {size: self._forward(size) for size in {self.image_size, *(size for _, size in sizes)}}
        trained = sum((end - start) * forward[size] for (start, size), end in zip(sizes, ends, strict=True))
        epochs = -(-self.steps // self._steps_per_epoch)
        images = min(self.steps * training.batch_size, self.images * epochs)
        return self.runs * (3 * trained * images + forward[self.image_size] * self.val_images * epochs)

    def _forward(self, size: int) -> float:
        """Return the operations of the forward pass of one image."""
        model = self.experiment.model
        network = make_model(**model.to_dict(), num_classes=self.num_classes, image_size=self.image_size)
        return 2.0 * sum(row.multiply_adds for row in layer_table(network, size))


@dataclass(frozen=True)
class Expected:
    """How long something takes on this machine; its text is for the reader."""

    seconds: float
    profile: str

    def __str__(self) -> str:
        said = f"{describe_seconds(self.seconds)} on this machine (profile {self.profile})"
        lower = [name for name in PROFILES if profile_rank(name) < profile_rank(self.profile)]
        return said + (f"; CIFAR_PROFILE={lower[-1]} takes less" if self.seconds > _LONG and lower else "")


@functools.lru_cache(maxsize=4)
def training_rate(device: torch.device) -> float:
    """Return the operations per second of a training step, shared among the cores as `fit` does it.

    A multiply-add counts as two operations, and the backward pass as two forward passes. It is measured once in a
    process, in about a second, and torch's random state is left as it was.
    """
    with private_randomness(device):
        model = make_model(**_MEASURED.to_dict(), image_size=_PIXELS)
        images = torch.randn(_IMAGES, 3, _PIXELS, _PIXELS, device=device)
    model.to(device).to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    count = count_replicas(model, images, _IMAGES, threads)
    shared = Replicas(model, count).train() if count > 1 else model
    operations = 3 * _IMAGES * 2 * sum(row.multiply_adds for row in layer_table(model, _PIXELS))

    def step() -> None:
        with autocast(device, autocast_dtype(device)):
            logits = shared(images)
        logits.float().square().sum().backward()
        synchronize(device)

    return operations / median_seconds(step, repeats=7)


def describe_seconds(seconds: float) -> str:
    """Return a time rounded to whole minutes, in words."""
    minutes = seconds / 60
    return "less than a minute" if minutes < 1 else f"about {minutes:.0f} minute{'s' if minutes >= 1.5 else ''}"


def expect(works: Iterable[Work], budget: Budget, device: torch.device, other_seconds: float = 0.0) -> Expected:
    """Return how long trainings take here: their operations at the rate of a small training step.

    Args:
        other_seconds: of all that trains no network.
    """
    seconds = sum(work.operations / training_rate(device) + work.runs * work.steps * _STEP_SECONDS for work in works)
    return Expected(seconds + other_seconds, budget.profile)


def recipe_work(name: str, dataset: Dataset, budget: Budget, seed: int = 0) -> Work:
    """Return the work of training a recipe on a data set."""
    images, val_images = (
        min(n, len(split))
        for n, split in zip((budget.train_images, budget.eval_images), (dataset.train, dataset.val), strict=True)
    )
    experiment = RECIPES[name].experiment_for(budget, seed)
    return Work(experiment, images, val_images, num_classes=len(dataset.train.class_names))
