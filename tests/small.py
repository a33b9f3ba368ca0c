"""Small data that several test files share."""

import torch
from torch import nn

from cifar_helpers.data import synthetic
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.transforms import Flip, Normaliser, PadCrop
from cifar_helpers.runtime import make_generator
from cifar_helpers.training.config import TrainConfig

NAMES = ("ant", "bee", "cat", "dog")
TINY = TrainConfig(epochs=4, batch_size=16, lr=0.05, augment=(Flip(), PadCrop(1)), precision="float32")


def tiny_net(batchnorm: bool = True, dropout: float = 0.2) -> nn.Module:
    """Return a network with everything that has state: BatchNorm's buffers and dropout's randomness."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4) if batchnorm else nn.Identity()
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 4))


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    """Return whether two networks are equal to the last bit."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


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


def synthetic_split(count: int, num_classes: int, name: str) -> Split:
    """Return synthetic images, without a file."""
    generator = make_generator("ladder", name, num_classes)
    labels = synthetic.make_labels(count, num_classes, generator)
    images = synthetic.make_images(labels, num_classes, generator)
    return Split(name, images, labels, synthetic.class_names(num_classes))
