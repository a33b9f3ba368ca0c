"""A split on the device, served in batches: shuffled and augmented for training, in order for evaluation."""

from collections.abc import Iterator, Sequence

import torch

from cifar_helpers._arguments import require, require_augmentations, require_whole
from cifar_helpers._contract import Batch, EpochBatches, Ordered
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.transforms import Normaliser, Transform, augment_batch, draw_epoch
from cifar_helpers.runtime import make_generator, pick_device

__all__ = ["Batch", "Batches", "EpochBatches", "Ordered", "make_batches"]


class Batches:
    """A split on the device, as an iterable of normalised float32 images (B, 3, H, W) and int64 labels (B,).

    Iterating a training split shuffles and augments, with random numbers from torch's global stream, as a DataLoader
    with `shuffle=True` does. Any other split is served in order and unchanged. `ordered` serves every split so: that
    is how a model is evaluated. `epoch` depends on (seed, epoch) alone: that is how `fit` trains. Nothing is
    remembered between two calls.

    Args:
        batch_size: of plain iteration over a training split, and of its `len`; `fit` takes that of its configuration.
        augment: of plain iteration over a training split; `fit` takes those of its configuration.
        drop_last: leave out a last batch that is smaller than the others, in training alone.
        eval_batch_size: images at once in evaluation; by default 64 on a CPU and 1000 elsewhere.

    Raises:
        ValueError: an argument is of another kind, a batch is empty, or images that are not for training are augmented.
    """

    def __init__(
        self,
        split: Split,
        normaliser: Normaliser,
        device: str | torch.device | None = None,
        *,
        batch_size: int = 128,
        augment: Sequence[Transform] = (),
        drop_last: bool = False,
        eval_batch_size: int | None = None,
    ) -> None:
        _require_split("split", split)
        require(isinstance(normaliser, Normaliser), "normaliser", normaliser, "a Normaliser: Normaliser.fit(train)")
        require_whole("batch_size", batch_size)
        if eval_batch_size is not None:
            require_whole("eval_batch_size", eval_batch_size)
        require_augmentations("augment", augment)
        self.split = split.name
        require(self.split == "train" or not augment, "augment", augment, "only training images are augmented")
        self.labels_hidden = split.labels_hidden
        self.class_names = split.class_names
        self.sha256 = split.sha256
        self.normaliser = normaliser
        self.device = pick_device(device)
        self.batch_size, self.augment, self.drop_last = batch_size, tuple(augment), drop_last
        # On a CPU few images at a time: what a layer makes of them then stays in the cache.
        self.eval_batch_size = eval_batch_size or (64 if self.device.type == "cpu" else 1000)
        # Stored channels last: a batch of rows is then in the memory order in which convolutions are fastest.
        self._images = split.images.to(self.device).to(memory_format=torch.channels_last)
        self._labels = split.labels.to(self.device)

    def like(self, split: Split) -> "Batches":
        """Return another split with this one's normaliser, on this one's device."""
        return Batches(split, self.normaliser, self.device, eval_batch_size=self.eval_batch_size)

    @property
    def num_images(self) -> int:
        return len(self._labels)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self._images.shape[-1]

    def __len__(self) -> int:
        """Return the number of batches that plain iteration serves."""
        return self.steps(self.batch_size) if self.split == "train" else -(-self.num_images // self.eval_batch_size)

    def steps(self, batch_size: int) -> int:
        """Return the number of batches that a training epoch has."""
        require_whole("batch_size", batch_size)
        return self.num_images // batch_size if self.drop_last else -(-self.num_images // batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.split != "train":
            return self.ordered()
        seed = int(torch.empty((), dtype=torch.int64).random_())
        return self.epoch(0, seed=seed, batch_size=self.batch_size, augment=self.augment)

    def ordered(self) -> Iterator[Batch]:
        """Serve every example once, in order and unchanged, `eval_batch_size` at a time."""
        for start in range(0, self.num_images, self.eval_batch_size):
            rows = slice(start, start + self.eval_batch_size)
            yield self.normaliser(self._images[rows]), self._labels[rows]

    def order(self, epoch: int, seed: int) -> torch.Tensor:
        """Return the positions of all images in the split, int64 (N,), in the order in which an epoch serves them."""
        return torch.randperm(self.num_images, generator=make_generator("order", seed, epoch))

    def epoch(self, epoch: int, *, seed: int, batch_size: int, augment: Sequence[Transform] = ()) -> Iterator[Batch]:
        """Serve every example once, in an order and with augmentations that depend on (seed, epoch) alone."""
        require(self.split == "train", "split", self.split, "only the training split is shuffled and augmented")
        require_whole("batch_size", batch_size)
        require_augmentations("augment", augment)
        order = self.order(epoch, seed).to(self.device)
        drawn = draw_epoch(augment, self.num_images, seed=seed, epoch=epoch, device=self.device)
        for numbers in order.split(batch_size)[: self.steps(batch_size)]:
            yield self.normaliser(augment_batch(self._images, numbers, drawn)), self._labels[numbers]


def _require_split(name: str, split: object) -> None:
    require(isinstance(split, Split), name, split, "a Split, such as dataset.train")


def make_batches(
    train: Split, val: Split, device: str | torch.device | None = None, normaliser: Normaliser | None = None
) -> tuple[Batches, Batches]:
    """Return training and validation batches that share one normaliser, by default fitted on `train`.

    Raises:
        ValueError: `train` is not the training split, or an argument is of another kind.
    """
    _require_split("train", train)
    normaliser = normaliser or Normaliser.fit(train)
    require(train.name == "train", "train", train.name, "the training split first, then that of validation")
    batches = Batches(train, normaliser, device)
    return batches, batches.like(val)
