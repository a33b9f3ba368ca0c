import pytest
import torch
from scipy.stats import chisquare
from small import random_split
from torch.nn.functional import pad

from cifar_helpers.augment import Flip, Normaliser, PadCrop, augment_batch, permute_pixels
from cifar_helpers.runtime import make_generator

IMAGES = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def apply(augmentation, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return all images, augmented."""
    return augment_batch(images, torch.arange(len(images)), (augmentation,), (drawn,))


def test_flipping_twice_is_the_identity_and_leaves_the_argument_alone():
    before = IMAGES.clone()
    drawn = torch.ones(50, dtype=torch.bool)
    flipped = apply(Flip(), IMAGES, drawn)
    assert torch.equal(flipped, IMAGES.flip(-1))
    assert torch.equal(apply(Flip(), flipped, drawn), IMAGES)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_draws_with_its_probability(p):
    drawn = Flip(p).draw(10_000, make_generator(1))
    assert abs(drawn.float().mean() - p) < 0.02


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_pad_crop_is_a_window_of_the_reflected_image(padding):
    drawn = PadCrop(padding).draw(50, make_generator(2))
    found = apply(PadCrop(padding), IMAGES, drawn)
    padded = pad(IMAGES.float(), [padding] * 4, mode="reflect").to(torch.uint8)
    for image, window, (y, x) in zip(padded, found, drawn.tolist(), strict=True):
        assert torch.equal(window, image[:, y : y + 8, x : x + 8])


def test_moves_follow_one_another_and_paint_comes_last():
    class Invert:
        def draw(self, count, generator):
            return torch.ones(count, dtype=torch.bool)

        def paint(self, images, drawn):
            return torch.where(drawn[:, None, None, None], 255 - images, images)

    steps = (Flip(1.0), PadCrop(2), Invert(), Flip(1.0))
    draws = [step.draw(50, make_generator(5, i)) for i, step in enumerate(steps)]
    numbers = torch.tensor([7, 3, 41])
    expected = IMAGES[numbers]
    for i in (0, 1, 3, 2):
        expected = augment_batch(expected, torch.arange(3), (steps[i],), (draws[i][numbers],))
    assert torch.equal(augment_batch(IMAGES, numbers, steps, draws), expected)
    assert not torch.equal(expected, IMAGES[numbers])


def test_crop_offsets_are_uniform_over_81_places():
    drawn = PadCrop(4).draw(81 * 200, make_generator(3))
    counts = torch.bincount(drawn[:, 0] * 9 + drawn[:, 1], minlength=81)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_a_batch_of_one_changes_as_it_does_in_a_larger_batch():
    for augmentation in (Flip(), PadCrop(2)):
        drawn = augmentation.draw(50, make_generator(4))
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
        (lambda: apply(PadCrop(8), IMAGES, PadCrop(8).draw(50, make_generator(0))), "padding=8"),
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
