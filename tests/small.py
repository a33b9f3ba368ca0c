"""Small data that several test files share."""

import torch

from cifar_helpers import synthetic
from cifar_helpers.augment import Normaliser
from cifar_helpers.data import Batches, Split
from cifar_helpers.runtime import make_generator

NAMES = ("ant", "bee", "cat", "dog")


def random_split(count: int = 40, name: str = "train", size: int = 8, seed: int = 0) -> Split:
    """Return random images of four classes whose mean brightness tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(NAMES)
    noise = torch.randint(0, 60, (count, 3, size, size), generator=generator)
    return Split(name, (noise + 48 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, NAMES)


def small_batches(count: int = 64, device: str = "cpu") -> tuple[Batches, Batches]:
    """Return training and validation batches."""
    train, val = random_split(count), random_split(20, "val", seed=1)
    normaliser = Normaliser.fit(train)
    return Batches(train, normaliser, device, eval_batch_size=8), Batches(val, normaliser, device, eval_batch_size=8)


def stand_in_split(count: int, num_classes: int, name: str) -> Split:
    """Return images of the stand-in, without a file."""
    generator = make_generator("ladder", name, num_classes)
    labels = synthetic.make_labels(count, num_classes, generator)
    images = synthetic.make_images(labels, num_classes, generator)
    return Split(name, images, labels, synthetic.class_names(num_classes))
