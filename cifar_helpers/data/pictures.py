"""One picture of any kind to the uint8 square that networks take: upright, in the colours that a viewer shows."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from cifar_helpers._arguments import require, require_path, require_whole

__all__ = ["Picture", "check_size", "to_square"]

Picture = str | Path | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor

# Pillow's modes that have eight bits for each value and no transparency of their own.
_OPAQUE = ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "La", "PA", "P", "RGBA", "RGBa")
_KINDS = "a path, bytes of a file, PIL image, uint8 array (H, W, 3), (H, W, 4) or (H, W), or uint8 tensor (3, H, W)"


_LARGEST = 2**14  # pixels of a side: such a square takes 0.8 GB


def check_size(size: int) -> None:
    """Raise a ValueError unless `size` is a side of a square that a memory can hold."""
    require_whole("size", size, allowed="a whole number of pixels, 1 or more")
    require(size <= _LARGEST, "size", size, f"a whole number of pixels, at most {_LARGEST:,}")


def to_square(picture: Picture, size: int) -> torch.Tensor:
    """Return a picture as uint8 (3, size, size): upright, its centre square, scaled with antialiasing.

    The colours are those that a viewer shows: what is transparent shows a white ground, 16 bits a channel are scaled to
    8, palettes, CMYK and YCbCr become RGB. Of several pictures in one file the first is read. Colour profiles are not
    applied.

    Args:
        picture: a path, the bytes of a file or an open one, a PIL image of any size, a uint8 array (H, W, 3), (H, W, 4)
            or (H, W), or a uint8 tensor (3, H, W).
        size: side of the square in pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, only a part of one, larger than Pillow reads, or of a mode whose black and white
            nobody knows (floating-point numbers, 32-bit integers, CIELAB). The message names the file.
    """
    check_size(size)
    square = ImageOps.fit(_read(picture), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _read(picture: Picture) -> Image.Image:
    """Return a picture upright and in RGB."""
    source, name = _find_source(picture)
    with _naming(name), nullcontext(source) if isinstance(source, Image.Image) else _open(source) as image:
        image.load()  # which turns a TIFF upright
        upright = image.copy() if image.format == "TIFF" else ImageOps.exif_transpose(image)
        levels = _grey_levels(image)
    require(min(upright.size) > 0, "picture", name, "at least one pixel")
    if levels:
        return _scale_grey(upright, *levels)
    if upright.mode in _ALPHA or "transparency" in upright.info:
        return _over_white(upright)
    if upright.mode not in _OPAQUE:
        raise ValueError(
            f"{name} is a picture of Pillow's mode {upright.mode}, which does not say what is black and what is white: "
            "save it with 8 or 16 bits a channel, in grey or RGB"
        )
    return upright.convert("RGB")


def _open(source: str | Path | BinaryIO) -> Image.Image:
    """Return the image of a file, its transparent level in the range of its pixels, where Pillow leaves the file's."""
    image = Image.open(source)
    level: Any = image.info.get("transparency")
    rawmode = image.tile[0][3] if level is not None and image.format == "PNG" and image.tile else None
    if rawmode in ("L;2", "L;4"):
        image.info["transparency"] = level * (85 if rawmode == "L;2" else 17)
    if rawmode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in level)
    return image


def _over_white(image: Image.Image) -> Image.Image:
    """Return an image with an alpha channel, or a transparent colour, as it looks on a white ground."""
    straight = image.convert("LA") if image.mode == "La" else image
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, straight.convert("RGBA")).convert("RGB")


def _grey_levels(image: Image.Image) -> tuple[int, int] | None:
    """Return the values of black and white of an image with one channel of more than 8 bits; None of any other.

    Mode I holds 32 bits and says nothing of white, but for 16-bit PNG in older versions of Pillow, and PGM.
    """
    if not image.mode.startswith("I;16") and (image.mode != "I" or image.format not in ("PNG", "PPM")):
        return None
    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF
    white = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample: Pillow leaves 12 bits as they are
    return (white, 0) if tags.get(262) == 0 else (0, white)  # PhotometricInterpretation 0: white is zero


def _scale_grey(image: Image.Image, black: int, white: int) -> Image.Image:
    """Return a grey image of more than 8 bits in RGB; a transparent level of it is white."""
    values = np.asarray(image).astype(np.float64)
    grey = ((values - black) * (255 / (white - black))).round().clip(0, 255)
    grey[values == image.info.get("transparency", np.nan)] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


# --- what is given, and its name in messages ---


def _find_source(picture: Any) -> tuple[Any, str]:
    """Return what Pillow opens, or an image, and what a message calls it."""
    if isinstance(picture, str | os.PathLike):
        require_path("picture", picture)
        remote = str(picture).lower().startswith(("http://", "https://"))
        require(not remote, "picture", str(picture), "a file of this machine; fetch an address first")
        usual = os.path.isfile(picture) or not os.path.exists(picture)
        require(usual, "picture", str(picture), "a file; this is a folder or a device")
        return picture, str(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return io.BytesIO(picture), f"picture ({len(picture):,} bytes)"
    if isinstance(picture, Image.Image):
        return picture, str(getattr(picture, "filename", "")) or "the PIL image"
    if hasattr(picture, "read"):
        return picture, str(getattr(picture, "name", type(picture).__name__))
    if isinstance(picture, list | tuple):
        raise ValueError(f"picture is a {type(picture).__name__} of {len(picture)}; expected one: ask for each in turn")
    return _from_pixels(picture), "picture"


def _from_pixels(pixels: Any) -> Image.Image:
    """Return a uint8 array or tensor as an image."""
    shape = tuple(getattr(pixels, "shape", ()))
    require(0 not in shape, "picture", f"{type(pixels).__name__} {shape}", "at least one pixel")
    if isinstance(pixels, torch.Tensor) and pixels.dtype == torch.uint8 and len(shape) == 3 and shape[0] == 3:
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    colours = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and colours:
        return Image.fromarray(pixels)
    kind = f"{type(pixels).__name__} {pixels.dtype} {shape}" if hasattr(pixels, "dtype") else type(pixels).__name__
    raise ValueError(f"picture is a {kind}; expected one of {_KINDS}")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the file in every error of reading: damaged bytes raise errors of many kinds in Pillow's readers."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{name} has more pixels than Pillow reads, as files made to fill a memory have: {error} If you trust it, "
            "scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:
        reason, hint = str(error) or type(error).__name__, ""
        if Path(name).suffix.lower() in (".heic", ".heif"):
            hint = ". HEIC needs the package pillow-heif and pillow_heif.register_heif_opener()"
        raise ValueError(f"{name} is no picture that Pillow can read whole: {reason}{hint}") from error
