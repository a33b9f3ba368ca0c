"""Small data that several test files share."""

import torch

from cifar_helpers.augment import Normaliser
from cifar_helpers.data import Batches, Split

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
