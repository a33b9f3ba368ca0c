import pytest
import torch

from cifar_helpers.data.corruptions import CORRUPTIONS, corrupt

IMAGES = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).square().mean().sqrt().item()


def smooth() -> torch.Tensor:
    """Return images as photographs are: neighbours alike."""
    small = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (255 * torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")).to(torch.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_leaves_images_and_grows_with_its_strength(kind):
    images = smooth()
    before = images.clone()
    corrupted = [corrupt(images, kind, strength) for strength in (1, 2, 3)]
    assert torch.equal(images, before)
    for found in corrupted:
        assert found.dtype == torch.uint8
        assert found.shape == images.shape
    sizes = [distance(found, images) for found in corrupted]
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    assert torch.equal(corrupted[1], corrupt(images, kind, 2))
    if kind in ("noise", "shift"):
        assert not torch.equal(corrupted[1], corrupt(images, kind, 2, seed=1))


def test_noise_and_contrast_have_the_amount_that_they_name():
    grey = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    assert (corrupt(grey, "noise", 2).float() - 128).std().item() == pytest.approx(20, rel=0.05)
    pale = corrupt(IMAGES, "contrast", 3).float()
    assert pale.std().item() == pytest.approx(0.2 * IMAGES.float().std().item(), rel=0.02)
    assert (pale.mean((1, 2, 3)) - IMAGES.float().mean((1, 2, 3))).abs().max() < 0.5


def test_a_shift_moves_every_image_along_both_axes_and_repeats_its_border():
    for image, moved in zip(IMAGES, corrupt(IMAGES, "shift", 2), strict=True):
        sides = [(y, x) for y in (-4, 4) for x in (-4, 4)]
        inside = moved[:, 4:-4, 4:-4]
        fits = [torch.equal(inside, image.roll((y, x), (1, 2))[:, 4:-4, 4:-4]) for y, x in sides]
        assert sum(fits) == 1
        y = sides[fits.index(True)][0]
        border = moved[:, :4] if y > 0 else moved[:, -4:]
        assert torch.equal(border, (border[:, -1:] if y > 0 else border[:, :1]).expand_as(border))


def test_a_blur_keeps_an_even_image_and_takes_detail_from_another():
    grey = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(corrupt(grey, "blur", 3), grey)
    blurred = corrupt(IMAGES, "blur", 2).float()
    assert blurred.diff(dim=2).abs().mean() < 0.3 * IMAGES.float().diff(dim=2).abs().mean()


def test_what_is_no_corruption_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        corrupt(IMAGES, "nois", 1)
    with pytest.raises(ValueError, match="strength=4"):
        corrupt(IMAGES, "blur", 4)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        corrupt(IMAGES.float(), "blur", 1)
