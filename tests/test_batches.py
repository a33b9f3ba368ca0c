import itertools

import pytest
import torch
from small import random_split, small_batches

from cifar_helpers.data.batches import Batches, EpochBatches, Ordered, make_batches
from cifar_helpers.data.transforms import Flip, Normaliser, PadCrop
from cifar_helpers.runtime import make_generator

# --- batches ---


def epoch_of(batches, epoch=0, seed=0, batch_size=16, augment=()):
    images, labels = zip(*batches.epoch(epoch, seed=seed, batch_size=batch_size, augment=augment), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_evaluation_is_in_order_unchanged_and_the_same_twice():
    split = random_split(20, "val")
    normaliser = Normaliser.fit(random_split())
    batches = Batches(split, normaliser, "cpu", eval_batch_size=8)
    for _ in range(2):
        images, labels = zip(*batches, strict=True)
        assert [len(x) for x in images] == [8, 8, 4]
        assert torch.equal(torch.cat(images), normaliser(split.images))
        assert torch.equal(torch.cat(labels), split.labels)


def test_evaluation_cannot_augment():
    _, val = small_batches()
    with pytest.raises(ValueError, match="only training images are augmented"):
        Batches(random_split(8, "val"), val.normaliser, "cpu", augment=(Flip(),))
    with pytest.raises(ValueError, match="only the training split is shuffled"):
        next(val.epoch(0, seed=0, batch_size=4))


def test_an_epoch_serves_every_image_once_in_an_order_of_seed_and_epoch():
    split = random_split(64)
    train = Batches(split, Normaliser.fit(split), "cpu")
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        images, labels = epoch_of(train, epoch, seed)
        rows = [int((split.images == image).flatten(1).all(1).nonzero()) for image in train.normaliser.inverse(images)]
        assert sorted(rows) == list(range(64))
        assert torch.equal(labels, split.labels[rows])
        orders.append(rows)
    assert len({tuple(order) for order in orders}) == 3
    again, _ = epoch_of(train, 0, 0)
    assert torch.equal(again, epoch_of(train, 0, 0)[0])


@pytest.mark.parametrize("augment", [(Flip(),), (PadCrop(2),), (Flip(), PadCrop(2))])
def test_augmentation_depends_on_seed_epoch_and_image_but_not_on_the_batch(augment):
    train, _ = small_batches()
    whole, _ = epoch_of(train, batch_size=64, augment=augment)
    assert torch.equal(whole, epoch_of(train, batch_size=7, augment=augment)[0])
    assert not torch.equal(whole, epoch_of(train)[0])
    draws = {epoch_of_image(train, 7, epoch, seed, augment) for epoch in range(6) for seed in range(2)}
    assert len(draws) > 1
    assert draws != {epoch_of_image(train, 7, epoch, 0, augment) for epoch in range(1)}


def epoch_of_image(train, number, epoch, seed, augment) -> bytes:
    """Return the bytes of one image as an epoch serves it."""
    images, _ = epoch_of(train, epoch, seed, augment=augment)
    order = torch.randperm(train.num_images, generator=make_generator("order", seed, epoch))
    return images[int((order == number).nonzero())].numpy().tobytes()


def test_batches_are_float32_in_channels_last_memory():
    train, _ = small_batches()
    images, labels = next(train.epoch(0, seed=0, batch_size=8, augment=(Flip(), PadCrop(1))))
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_training_and_validation_share_the_normaliser_of_training():
    train, val = make_batches(random_split(), random_split(8, "val", seed=2), "cpu")
    assert train.normaliser == val.normaliser == Normaliser.fit(random_split())


@pytest.mark.parametrize("batch_size", [1, 7, 16, 64, 100])
def test_steps_counts_the_batches_of_an_epoch(batch_size):
    train, _ = small_batches()
    assert train.steps(batch_size) == len(list(train.epoch(0, seed=0, batch_size=batch_size)))


@pytest.mark.cuda
def test_batches_live_on_the_gpu():
    train, _ = make_batches(random_split(), random_split(8, "val"), "cuda")
    images, labels = next(train.epoch(0, seed=0, batch_size=8, augment=(Flip(), PadCrop(2))))
    assert images.is_cuda
    assert labels.is_cuda


def rows_of(batches: Batches, split, served) -> list[int]:
    """Return the numbers of the examples that were served, in their order."""
    images = batches.normaliser.inverse(torch.cat([x for x, _ in served]))
    return [int((split.images == image).flatten(1).all(1).nonzero()) for image in images]


def test_iterating_a_training_split_shuffles_as_a_dataloader_does():
    split = random_split(40)
    train = Batches(split, Normaliser.fit(split), "cpu", batch_size=16)
    torch.manual_seed(3)
    first, second = (rows_of(train, split, list(train)) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    torch.manual_seed(3)
    assert rows_of(train, split, list(train)) == first
    assert [len(x) for x, _ in train] == [16, 16, 8]
    assert rows_of(train, split, list(train.ordered())) == list(range(40))


def test_iterating_a_training_split_augments():
    split = random_split(40)
    train = Batches(split, Normaliser.fit(split), "cpu", augment=(Flip(1.0),))
    shown = train.normaliser.inverse(torch.cat([images for images, _ in train]))
    assert sorted(x.sum().item() for x in shown) == sorted(x.sum().item() for x in split.images)
    assert all((split.images.flip(-1) == image).flatten(1).all(1).any() for image in shown)
    assert torch.equal(train.normaliser.inverse(next(train.ordered())[0]), split.images)


@pytest.mark.parametrize(("count", "size"), list(itertools.product((32, 33, 40), (8, 16, 100))))
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_length_is_the_number_of_batches(count, size, drop_last):
    split = random_split(count)
    train = Batches(split, Normaliser.fit(split), "cpu", batch_size=size, drop_last=drop_last)
    val = train.like(random_split(count, "val"))
    assert len(train) == len(list(train))
    assert len(val) == len(list(val))
    assert train.steps(5) == len(list(train.epoch(0, seed=0, batch_size=5)))
    if drop_last:
        assert {len(x) for x, _ in train} <= {size}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"eval_batch_size": 0}])
def test_an_impossible_size_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
        Batches(random_split(), Normaliser.fit(random_split()), "cpu", **wrong)


def test_batches_know_the_protocols_and_a_dataloader_does_not():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(3)))
    assert isinstance(small_batches()[0], EpochBatches)
    assert isinstance(small_batches()[0], Ordered)
    assert not isinstance(loader, EpochBatches)
    assert not isinstance(loader, Ordered)
