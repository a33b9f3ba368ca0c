import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_helpers.data.pictures import to_square

RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16)[None].repeat(64, 0)  # of 16 bits, from left to right
DEEP = (0, 0, 0, 0x1234, 0x1234, 0x1234, *(0x900,) * 6)  # four pixels of 16 bits a channel
FLAT = np.full((32, 32, 3), (200, 60, 20), dtype=np.uint8)


def file_of(image: Image.Image, ending: str, **options) -> bytes:
    kept = io.BytesIO()
    image.save(kept, ending, **options)
    return kept.getvalue()


def tiff(rows: bytes, side: int, bits: int, photometric: int, order: str = "<") -> bytes:
    """Return an uncompressed TIFF of one channel, which Pillow does not write for every meaning of its values."""
    entries = [(256, 4, side), (257, 4, side), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    entries += [(273, 4, 8), (277, 3, 1), (278, 4, side), (279, 4, len(rows))]
    pack = lambda kind, value: struct.pack(f"{order}{'I' if kind == 4 else 'HH'}", *([value] + [0] * (kind == 3)))  # noqa: E731
    table = b"".join(struct.pack(f"{order}HHI", tag, kind, 1) + pack(kind, value) for tag, kind, value in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(rows))
    return head + rows + struct.pack(f"{order}H", len(entries)) + table + bytes(4)


def png(rows: list[bytes], side: int, bits: int, colour: int, key: bytes = b"") -> bytes:
    """Return a PNG of any bit depth, with a transparent level or colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"tRNS", key) if key else b"") + pixels + chunk(b"IEND", b"")


# --- what a viewer shows ---


@pytest.mark.parametrize(
    "content",
    [
        file_of(Image.fromarray(RAMP), "png"),
        file_of(Image.fromarray(RAMP), "tiff"),
        b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes(),
        tiff(RAMP.astype(">u2").tobytes(), 64, 16, 1, ">"),
        tiff((65535 - RAMP).tobytes(), 64, 16, 0),
        file_of(Image.fromarray((RAMP >> 8).astype(np.uint8)), "png"),
    ],
    ids=["I;16 png", "I;16 tiff", "16-bit pgm", "I;16B tiff", "16-bit tiff, white is zero", "8 bits"],
)
def test_a_grey_ramp_of_16_bits_is_a_grey_ramp(content):
    square = to_square(content, 64).double()
    assert abs(square.mean() - 127.5) < 0.5
    assert (square - torch.linspace(0, 255, 64)).abs().max() <= 1


def test_twelve_bits_of_a_tiff_are_scaled_by_twelve():
    rows = b"".join(bytes([0xFF, 0xF0, 0x00]) * 4 for _ in range(8))  # white, black, in turns
    assert to_square(tiff(rows, 8, 12, 1), 8)[:, 0].unique().tolist() == [0, 255]
    assert to_square(tiff(rows, 8, 12, 1), 8)[0, 0, :2].tolist() == [255, 0]


def drawing(hidden: tuple[int, int, int]) -> Image.Image:
    """Return a black square on a transparent ground, under which a colour is hidden."""
    pixels = np.full((32, 32, 4), (*hidden, 0), dtype=np.uint8)
    pixels[8:24, 8:24] = (0, 0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0), (255, 255, 255)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "P", "PA", "gif", "webp"])
def test_a_drawing_on_a_transparent_ground_is_black_on_white(mode, hidden):
    image = drawing(hidden)
    if mode == "P":
        image = Image.open(io.BytesIO(file_of(image.quantize(8, Image.Quantize.FASTOCTREE), "png")))
        assert image.mode == "P"
    elif mode == "gif":
        image = Image.open(io.BytesIO(file_of(image, "gif")))
    elif mode == "webp":
        image = Image.open(io.BytesIO(file_of(image, "webp", lossless=True, exact=True)))
    elif mode == "PA":
        palette = Image.new("P", (32, 32), 1)
        palette.putpalette([*hidden, 0, 0, 0])
        image = palette.convert("PA")
        image.putalpha(drawing(hidden).getchannel("A"))
    elif mode == "La":
        image = image.convert("LA").convert("La")
    else:
        image = image.convert(mode)
    square = to_square(image, 32)
    assert (square[:, :6, :6] == 255).all()
    assert (square[:, 10:22, 10:22] == 0).all()


def test_half_transparent_is_half_white():
    pixels = np.full((8, 8, 4), (0, 0, 0, 128), dtype=np.uint8)
    assert to_square(Image.fromarray(pixels), 8).unique().tolist() == [127]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png([bytes([0b00011011])] * 4, 4, 2, 0, struct.pack(">H", 1)), [0, 255, 170, 255]),
        (png([bytes([0x01, 0x3F])] * 4, 4, 4, 0, struct.pack(">H", 3)), [0, 17, 255, 255]),
        (png([bytes([0, 7, 128, 255])] * 4, 4, 8, 0, struct.pack(">H", 7)), [0, 255, 128, 255]),
        (png([struct.pack(">4H", 0, 1000, 32768, 65535)] * 4, 4, 16, 0, struct.pack(">H", 1000)), [0, 255, 128, 255]),
        (png([bytes([0, 0, 0, 7, 7, 7, 9, 9, 9, 5, 5, 5])] * 4, 4, 8, 2, struct.pack(">3H", 7, 7, 7)), [0, 255, 9, 5]),
        (png([struct.pack(">12H", *DEEP)] * 4, 4, 16, 2, struct.pack(">3H", *DEEP[3:6])), [0, 255, 9, 9]),
    ],
    ids=["2 bits", "4 bits", "8 bits", "16 bits", "RGB", "RGB of 16 bits"],
)  # fmt: skip
def test_a_transparent_level_of_a_png_is_white(content, expected):
    assert to_square(content, 4)[:, 0].tolist() == [expected] * 3


@pytest.mark.parametrize(
    ("mode", "ending", "white"),
    [
        ("1", "png", 1), ("L", "png", 255), ("RGB", "png", "white"), ("CMYK", "jpeg", (0, 0, 0, 0)),
        ("CMYK", "tiff", (0, 0, 0, 0)), ("YCbCr", "jpeg", (255, 128, 128)), ("RGBX", "tiff", (255, 255, 255, 0)),
        ("P", "gif", 1), ("P", "png", 1), ("I;16", "png", 65535), ("LA", "png", (255, 255)), ("RGBA", "tiff", "white"),
    ],
)  # fmt: skip
def test_white_is_white_and_black_is_black_in_every_mode(mode, ending, white):
    blacks = {"CMYK": (0, 0, 0, 255), "YCbCr": (0, 128, 128), "LA": (0, 255), "RGBX": (0, 0, 0, 0), "RGBA": "black"}
    black = blacks.get(mode, 0)
    image = Image.new(mode, (16, 8), white)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
    image.paste(black, (8, 0, 16, 8))
    content = file_of(image, ending)
    assert Image.open(io.BytesIO(content)).mode in (mode, "RGB", "L", "I")
    for picture in (content, image):
        square = to_square(picture, 8).int()  # the middle: columns 4 to 11
        assert (square[:, :, :3] > 250).all()
        assert (square[:, :, 5:] < 5).all()


@pytest.mark.parametrize(
    ("image", "ending"),
    [
        (Image.fromarray((RAMP / 65535).astype(np.float32)), "tiff"),
        (Image.fromarray(RAMP.astype(np.int32) * 1000), "tiff"),
        (Image.new("LAB", (8, 8)), "tiff"),
    ],
    ids=["F", "I", "LAB"],
)
def test_a_mode_without_a_white_is_refused_by_name(tmp_path, image, ending):
    image.save(tmp_path / f"scan.{ending}")
    with pytest.raises(
        ValueError, match=rf"scan\.{ending} is a picture of Pillow's mode {image.mode}, .*: save it with 8"
    ):
        to_square(tmp_path / f"scan.{ending}", 8)


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"),  # documented
        *("LA", "PA", "RGBX", "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N"),  # supported in parts
    ],
)
def test_every_mode_of_pillow_is_read_or_refused_in_a_sentence(mode):
    image = Image.new(mode, (9, 7))
    if mode in ("LAB", "I", "F"):
        with pytest.raises(ValueError, match=f"Pillow's mode {mode},"):
            to_square(image, 4)
    else:
        square = to_square(image, 4)
        assert square.shape == (3, 4, 4)
        assert len(square.flatten(1).unique(dim=1).T) == 1  # one colour in, one colour out
    assert image.mode == mode  # and the argument stays what it is


@pytest.mark.parametrize(
    ("image", "ending"),
    [
        (Image.fromarray(FLAT), "jpeg"),
        (Image.fromarray(FLAT), "png"),
        (Image.fromarray(FLAT), "tiff"),
        (Image.fromarray(FLAT), "webp"),
        (Image.fromarray(RAMP), "png"),
        (Image.fromarray(RAMP), "tiff"),
        (drawing((0, 255, 0)), "png"),
    ],
)
def test_a_picture_taken_sideways_is_turned_upright_in_every_format(image, ending):
    marked = image.copy()
    marked.paste(0 if image.mode == "I;16" else "black", (0, 0, image.width, image.height // 4))  # a dark sky
    exif = marked.getexif()
    exif[0x0112] = 3  # held upside down
    square = to_square(file_of(marked, ending, exif=exif), 32).float().mean(0)
    assert square[28:].mean() < 20
    assert square[:4].mean() > 60


# --- what is given ---


def test_a_picture_is_the_same_as_path_bytes_file_image_array_and_tensor(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "p.png")
    path = tmp_path / "p.png"
    squares = [to_square(picture, 16) for picture in (path, str(path), path.read_bytes(), image, pixels)]
    squares.append(to_square(torch.from_numpy(pixels).permute(2, 0, 1), 16))
    with path.open("rb") as file:
        squares.append(to_square(file, 16))
    assert all(torch.equal(square, squares[0]) for square in squares)
    grey = to_square(pixels[:, :, 0], 16)
    assert torch.equal(grey, to_square(Image.fromarray(pixels[:, :, 0]), 16))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ([FLAT, FLAT], "picture is a list of 2; expected one: ask for each in turn"),
        ((), "picture is a tuple of 0"),
        (None, "picture is a NoneType; expected one of a path"),
        (7, "picture is a int; expected"),
        ({"a": 1}, "picture is a dict; expected"),
        (FLAT / 255, r"picture is a ndarray float64 \(32, 32, 3\); expected .*uint8 array"),
        (FLAT.transpose(2, 0, 1), r"uint8 \(3, 32, 32\); expected"),
        (FLAT[None], r"uint8 \(1, 32, 32, 3\); expected"),
        (torch.rand(3, 8, 8), r"torch.float32 \(3, 8, 8\); expected .*uint8 tensor \(3, H, W\)"),
        (torch.from_numpy(FLAT), r"torch.uint8 \(32, 32, 3\); expected"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"torch.uint8 \(2, 3, 8, 8\); expected"),
        (np.zeros((0, 5, 3), dtype=np.uint8), "at least one pixel"),
        (Image.new("RGB", (0, 5)), "at least one pixel"),
        (b"", r"picture \(0 bytes\) is no picture that Pillow can read whole"),
        (b"hello", r"picture \(5 bytes\) is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(picture, words):
    with pytest.raises(ValueError, match=words):
        to_square(picture, 8)


@pytest.mark.parametrize("size", [0, -3, 2.5, "32", None])
def test_a_size_is_a_whole_number_of_pixels(size):
    with pytest.raises(ValueError, match=r"size=.* is not allowed: a whole number of pixels"):
        to_square(FLAT, size)


def test_a_pipe_and_a_folder_are_refused_before_they_are_read(tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ValueError, match=r"pipe\.png.*a file; this is a folder or a device"):
            to_square(tmp_path / "pipe.png", 8)
    with pytest.raises(ValueError, match="a file; this is a folder"):
        to_square(tmp_path, 8)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        to_square(tmp_path / "nowhere.png", 8)


# --- damaged files ---


@pytest.mark.parametrize("strict", [False, True])
def test_a_decompression_bomb_is_refused_by_name(tmp_path, strict):
    """Twenty thousand pixels wide and high in a file of a hundred bytes; with warnings as errors half of that."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png([], 10_000 if strict else 20_000, 8, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(ValueError, match=r"bomb\.png has more pixels than Pillow reads"):
            to_square(path, 8)


Image.init()
FORMATS = ["png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm", "tga", "jpeg2000", "ico", "avif"]


@pytest.mark.parametrize("name", [name for name in FORMATS if name.upper() in Image.SAVE])
def test_every_error_of_a_damaged_file_names_it(tmp_path, name):
    """Cut anywhere, or with bytes replaced: a square or a sentence, whatever Pillow's readers raise."""
    draw = np.random.default_rng(0)
    options = {"compression": "tiff_lzw"} if name == "tiff" else {}
    whole = file_of(Image.fromarray(FLAT).rotate(30), name, **options)
    path, refused = tmp_path / "damaged", 0
    for turn in range(60):
        content = bytearray(whole)
        if turn < 20:
            content = content[: len(whole) * turn // 20]
        else:
            places = draw.integers(0, min(len(whole), 400), 1 + turn % 8)
            content[:] = bytes(int(draw.integers(256)) if i in places else b for i, b in enumerate(content))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert to_square(path, 8).shape == (3, 8, 8)
            except ValueError as error:
                refused += 1
                assert str(path) in str(error)  # noqa: PT017 - any other error fails the test
    assert refused >= 8


def test_a_heic_file_says_what_reads_it(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ValueError, match=r"IMG_1\.HEIC is no picture .* pillow_heif\.register_heif_opener"):
        to_square(tmp_path / "IMG_1.HEIC", 8)
