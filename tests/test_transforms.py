import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small import random_split
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional as v2

from cifar_helpers import data
from cifar_helpers.data import transforms as module
from cifar_helpers.data.batches import make_batches
from cifar_helpers.data.transforms import (
    AlternatingFlip,
    ColourJitter,
    Cutout,
    Flip,
    Normaliser,
    PadCrop,
    Rotation,
    VerticalFlip,
    augment_batch,
    describe_transform,
    draw_epoch,
    mixup,
    permute_pixels,
    resize,
)
from cifar_helpers.runtime import make_generator

IMAGES = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def stream(*keys):
    """Return a stream of its own for each of `keys`."""
    return lambda epoch: make_generator(*keys, epoch)


def apply(augmentation, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return all images, augmented."""
    return augment_batch(images, torch.arange(len(images)), [(augmentation, drawn)])


EVERY = (
    Flip(), AlternatingFlip(), VerticalFlip(), PadCrop(2), Cutout(3), ColourJitter(0.4, 0.4, 0.4), Rotation(30.0)
)  # fmt: skip


def test_a_new_augmentation_stands_wherever_one_is_looked_for():
    """Without a place in TRANSFORMS it trains, and `TrainConfig.from_dict` refuses what `to_dict` wrote of it."""
    public = {name: getattr(module, name) for name in module.__all__}
    kinds = {name for name, kind in public.items() if dataclasses.is_dataclass(kind) and hasattr(kind, "draw")}
    kinds -= {"PerImage"}  # which holds a function of the reader's
    assert not kinds ^ module.TRANSFORMS.keys(), "list it in TRANSFORMS, at the end of data/transforms.py"
    assert not kinds - set(data.__all__), "import it in data/__init__.py, and list it in __all__ there"
    assert not kinds - {type(augmentation).__name__ for augmentation in EVERY}, "put one into EVERY, above"


@pytest.mark.parametrize("augmentation", EVERY, ids=lambda a: type(a).__name__)
def test_an_augmentation_changes_pictures_and_neither_type_nor_argument(augmentation):
    before = IMAGES.clone()
    first, second = (apply(augmentation, IMAGES, augmentation.draw(50, epoch, stream(0))) for epoch in (0, 1))
    again = apply(augmentation, IMAGES, augmentation.draw(50, 0, stream(0)))
    assert first.dtype == torch.uint8
    assert first.shape == IMAGES.shape
    assert torch.equal(IMAGES, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, IMAGES)


def test_an_alternating_flip_shows_both_sides_in_two_epochs():
    drawn = [AlternatingFlip().draw(1000, epoch, stream(0)) for epoch in range(4)]
    assert torch.equal(drawn[0], ~drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert abs(drawn[0].float().mean() - 0.5) < 0.06
    assert not torch.equal(drawn[0], AlternatingFlip().draw(1000, 0, stream(1)))


def test_a_vertical_flip_is_upside_down():
    assert torch.equal(apply(VerticalFlip(), IMAGES, torch.ones(50, dtype=torch.bool)), IMAGES.flip(-2))


def test_cutout_covers_a_square_and_at_the_border_a_part_of_it():
    drawn = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.99, 0.5]])
    covered = apply(Cutout(4, level=(1, 2, 3)), torch.full((3, 3, 8, 8), 9, dtype=torch.uint8), drawn)
    masks = (covered[:, 0] == 1).int()
    assert (covered[:, 1] == 2).int().equal(masks)
    assert [m.sum().item() for m in masks] == [16, 4, 12]
    assert masks[0, 2:6, 2:6].all()
    assert masks[1, :2, :2].all()


def test_jitter_is_that_of_torchvision_one_step_after_the_other():
    jitter, drawn = ColourJitter(0.5, 0.4, 0.3), ColourJitter().draw(50, 0, stream(6))
    found = apply(jitter, IMAGES, drawn)
    for image, row, ours in zip(IMAGES, drawn.tolist(), found, strict=True):
        steps = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation)
        for step, strength, choice in zip(steps, (0.5, 0.4, 0.3), row, strict=True):
            image = step(image, 1 + strength * choice)
        assert (image.int() - ours.int()).abs().max() <= 1


def test_jitter_with_default_arguments_does_nothing():
    assert torch.equal(apply(ColourJitter(), IMAGES, ColourJitter().draw(50, 0, stream(6))), IMAGES)


def test_rotation_is_that_of_torchvision():
    rotation, drawn = Rotation(40.0, level=(0, 0, 0)), Rotation(40.0).draw(50, 0, stream(7))
    found = apply(rotation, IMAGES, drawn)
    for image, angle, ours in zip(IMAGES, drawn.tolist(), found, strict=True):
        expected = v2.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        assert (expected.int() - ours.int()).abs().float().mean() < 0.6
    assert torch.equal(apply(rotation, IMAGES, torch.zeros(50)), IMAGES)


def test_flipping_twice_is_the_identity_and_leaves_the_argument_alone():
    before = IMAGES.clone()
    drawn = torch.ones(50, dtype=torch.bool)
    flipped = apply(Flip(), IMAGES, drawn)
    assert torch.equal(flipped, IMAGES.flip(-1))
    assert torch.equal(apply(Flip(), flipped, drawn), IMAGES)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_draws_with_its_probability(p):
    drawn = Flip(p).draw(10_000, 0, stream(1))
    assert abs(drawn.float().mean() - p) < 0.02


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_pad_crop_is_a_window_of_the_reflected_image(padding):
    drawn = PadCrop(padding).draw(50, 0, stream(2))
    found = apply(PadCrop(padding), IMAGES, drawn)
    padded = pad(IMAGES.float(), [padding] * 4, mode="reflect").to(torch.uint8)
    for image, window, (y, x) in zip(padded, found, drawn.tolist(), strict=True):
        assert torch.equal(window, image[:, y : y + 8, x : x + 8])


def test_geometric_transforms_follow_one_another_and_colour_comes_last():
    class Invert:
        def draw(self, count, epoch, stream):
            return torch.ones(count, dtype=torch.bool)

        def paint(self, images, drawn):
            return torch.where(drawn[:, None, None, None], 255 - images, images)

    steps = (Flip(1.0), PadCrop(2), Invert(), Flip(1.0))
    draws = [step.draw(50, 0, stream(5, i)) for i, step in enumerate(steps)]
    numbers = torch.tensor([7, 3, 41])
    expected = IMAGES[numbers]
    for i in (0, 1, 3, 2):
        expected = augment_batch(expected, torch.arange(3), [(steps[i], draws[i][numbers])])
    assert torch.equal(augment_batch(IMAGES, numbers, list(zip(steps, draws, strict=True))), expected)
    assert not torch.equal(expected, IMAGES[numbers])


def test_crop_offsets_are_uniform_over_81_places():
    drawn = PadCrop(4).draw(81 * 200, 0, stream(3))
    counts = torch.bincount(drawn[:, 0] * 9 + drawn[:, 1], minlength=81)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_a_batch_of_one_changes_as_it_does_in_a_larger_batch():
    for augmentation in EVERY:
        drawn = augmentation.draw(50, 0, stream(4))
        whole = apply(augmentation, IMAGES, drawn)
        assert all(
            torch.equal(apply(augmentation, IMAGES[i : i + 1], drawn[i : i + 1])[0], whole[i]) for i in range(50)
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Flip(1.5), "p=1.5"),
        (lambda: PadCrop(-1), "padding=-1"),
        (lambda: PadCrop(2.0), "padding=2.0"),
        (lambda: VerticalFlip(-0.1), "p=-0.1"),
        (lambda: Cutout(0), "size=0"),
        (lambda: apply(Cutout(9), IMAGES, torch.zeros(50, 2)), "size=9"),
        (lambda: ColourJitter(contrast=1.5), "contrast=1.5"),
        (lambda: Rotation(200), "degrees=200"),
        (lambda: mixup(IMAGES.float(), torch.zeros(50, dtype=torch.int64), 0.5), "one_hot"),
        (lambda: mixup(IMAGES.float(), torch.zeros(50, 10), 1.5), "lam=1.5"),
        (lambda: apply(PadCrop(8), IMAGES, PadCrop(8).draw(50, 0, stream(0))), "padding=8"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_normaliser_is_the_mean_and_std_over_all_training_pixels():
    split = random_split()
    normaliser = Normaliser.fit(split)
    pixels = split.images.double().transpose(0, 1).flatten(1) / 255
    assert normaliser.mean == pytest.approx(pixels.mean(1).tolist(), abs=1e-12)
    assert normaliser.std == pytest.approx(pixels.std(1, correction=0).tolist(), abs=1e-12)


def test_normaliser_refuses_what_is_not_training():
    for name in ("val", "test"):
        with pytest.raises(ValueError, match=f"split='{name}'"):
            Normaliser.fit(random_split(name=name))


def test_images_of_one_value_are_named_where_they_would_be_divided_by_nothing():
    split = random_split()
    split.images[:, 1] = 255
    with pytest.raises(ValueError, match=r"all 40 training images have the same value, 255, .*channel 1 \(green\)"):
        Normaliser.fit(split)
    with pytest.raises(ValueError, match=r"have the same value, 255, "):
        make_batches(split, random_split(name="val"), "cpu")
    split.images[7, 1, 0, 0] = 254  # one pixel is enough
    assert Normaliser.fit(split).std[1] > 0


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.5,) * 3, (0.2, 0.0, 0.2), r"std=\(0\.2, 0\.0, 0\.2\) .*positive"),
        ((0.5,) * 3, (0.2, 0.2, -0.2), "std=.*positive"),
        ((0.5,) * 3, (0.2, 0.2, float("nan")), "std=.*three finite numbers"),
        ((0.5, 0.5), (0.2,) * 3, "mean=.*three finite numbers"),
        ((0.5, 0.5, "0.5"), (0.2,) * 3, "mean=.*three finite numbers"),
    ],
)
def test_a_normaliser_that_cannot_normalise_is_named(mean, std, words):
    with pytest.raises(ValueError, match=words):
        Normaliser(mean, std)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_normalised_images_come_back_exactly(memory):
    levels = torch.arange(256, dtype=torch.uint8).repeat(3 * 4).view(4, 3, 16, 16).to(memory_format=memory)
    normaliser = Normaliser((0.49, 0.48, 0.44), (0.25, 0.24, 0.26))
    encoded = normaliser(levels)
    assert encoded.dtype == torch.float32
    assert encoded.is_contiguous(memory_format=torch.channels_last)
    expected = (levels / 255 - torch.tensor(normaliser.mean).view(3, 1, 1)) / torch.tensor(normaliser.std).view(3, 1, 1)
    assert torch.allclose(encoded, expected, atol=1e-5)
    assert torch.equal(normaliser.inverse(encoded), levels)


def test_permuted_pixels_are_the_same_pixels_in_one_other_order_for_all_images():
    images = torch.arange(2 * 3 * 16, dtype=torch.uint8).view(2, 3, 4, 4)
    permuted = permute_pixels(images, seed=0)
    places = permuted[0, 0].flatten().long()
    assert sorted(places.tolist()) == list(range(16)) != places.tolist()
    assert torch.equal(permuted, images.flatten(2)[:, :, places].view_as(images))
    assert torch.equal(permuted, permute_pixels(images, seed=0))
    assert not torch.equal(permuted, permute_pixels(images, seed=1))


def test_resized_images_are_those_of_torchvision():
    images = IMAGES.float()
    assert resize(images, 8) is images
    assert torch.allclose(resize(images, 5), v2.resize(images, [5, 5], antialias=True), atol=1e-3)


# --- callables of others, image by image ---


def serve(augment, seed=0, epoch=0, numbers=None):
    """Return examples of IMAGES as an epoch serves them."""
    drawn = draw_epoch(augment, len(IMAGES), seed=seed, epoch=epoch, device=torch.device("cpu"))
    return augment_batch(IMAGES, torch.arange(50) if numbers is None else numbers, drawn)


def test_a_transform_of_torchvision_depends_on_seed_epoch_and_image_alone():
    augment = (transforms.RandomHorizontalFlip(), transforms.RandomCrop(8, padding=2))
    before = torch.get_rng_state()
    whole = serve(augment)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(whole[[7, 3]], serve(augment, numbers=torch.tensor([7, 3])))
    assert not torch.equal(whole, serve(augment, epoch=1))
    assert not torch.equal(whole, serve(augment, seed=1))
    assert not torch.equal(whole, IMAGES)


def test_a_flip_of_torchvision_flips_each_image_or_leaves_it():
    flipped = serve((transforms.RandomHorizontalFlip(),))
    kinds = [
        torch.equal(new, old.flip(-1)) + 2 * torch.equal(new, old) for new, old in zip(flipped, IMAGES, strict=True)
    ]
    assert set(kinds) == {1, 2}
    assert 10 < kinds.count(1) < 40


def test_a_function_may_draw_from_python_and_numpy():
    augment = (lambda image: image + int(np.random.randint(0, 9)) + random.randrange(9),)
    assert torch.equal(serve(augment), serve(augment))
    assert not torch.equal(serve(augment), serve(augment, epoch=1))


def test_callables_come_after_our_geometric_transforms():
    assert torch.equal(serve((lambda image: 255 - image, Flip(1.0))), 255 - IMAGES.flip(-1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (transforms.ToDtype(torch.float32), r"gave float32 \(3, 8, 8\).*leave ToDtype and Normalize out"),
        (lambda image: image[:1], r"gave uint8 \(1, 8, 8\)"),
        (lambda image: image.numpy(), "gave ndarray"),
    ],
)
def test_what_gives_no_uint8_images_is_named(function, words):
    with pytest.raises(ValueError, match=words):
        serve((function,))


def test_a_description_tells_transforms_apart():
    ours = describe_transform(PadCrop(2))
    assert ours == {"name": "PadCrop", "padding": 2}
    crops = [describe_transform(transforms.RandomCrop(8, padding=n)) for n in (1, 2)]
    assert crops[0]["name"] == "RandomCrop"
    assert crops[0] != crops[1]
    functions = [describe_transform(lambda image: image), describe_transform(lambda image: image + 1)]
    assert functions[0]["hash"] != functions[1]["hash"]
    assert "0x" not in functions[0]["text"]


def test_a_normaliser_comes_back_from_json():
    normaliser = Normaliser((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Normaliser(**json.loads(json.dumps(normaliser.to_dict()))) == normaliser
