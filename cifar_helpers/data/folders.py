"""A folder of pictures, one sub-folder for each class: what of it is read, and batches that leave it on the disk."""

import copy
import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from cifar_helpers._arguments import (
    is_whole,
    require,
    require_choice,
    require_flag,
    require_made_function,
    require_names,
    require_path,
    require_whole,
)
from cifar_helpers._contract import Batch
from cifar_helpers._hashing import hash_json, hash_tensors
from cifar_helpers.data.download import DataError
from cifar_helpers.data.pictures import to_square
from cifar_helpers.data.transforms import Normaliser, describe_transform, stack_images
from cifar_helpers.runtime import available_memory, is_main_process, pick_device

__all__ = ["PictureFolder", "PictureLoader", "readable_endings"]

# What a picture's name ends with; Pillow here may lack a reader for some of them.
_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("apng", "avif", "bmp", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
_SPLIT = re.compile(r"(train|val|valid|test|dev|eval|hold-?out)(ing|ation|uation|elopment)?[-_ ]?(set|data|20\d\d)?")
_EXPECTED = "Expected one folder per class with pictures inside."
_FEW = 12  # classes whose counts fit into a line


class PictureFolder(Dataset):
    """Pictures of a folder, one sub-folder for each class, each read from the disk when it is asked for.

    Item i is (image, label): `to_square` of the picture, uint8 (3, size, size), or what `transform` makes of it, and
    the number of its class. Making one lists the files and prints a line: classes, pictures of each, what was left out
    and why. Names that begin with "." and `__MACOSX` are left out, as are files that are no pictures by their ending,
    and what lies beside the folders of the classes. Pictures in folders inside those of the classes count.

    Args:
        name: "train", "val" or "test".
        size: side of the images in pixels.
        class_names: of the training folder, so that a validation folder which lacks a class keeps the numbering. By
            default the names of the folders, in the order of text: "1", "10", "2".
        natural_order: by default order classes by the numbers in their names instead: "1", "2", "10".
        transform: of a uint8 image (3, size, size) to another, such as those of `torchvision.transforms.v2`.

    Attributes:
        paths: of the pictures, class by class.
        labels: int64 (N,), in [0, C).
        class_names: C names, in the order of the labels.

    Raises:
        DataError: the folder is missing, holds no class folders with pictures or a class that is not in `class_names`,
            is the one above "train" and "val", or a class has no picture that Pillow can read.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str = "train",
        size: int = 32,
        class_names: Sequence[str] | None = None,
        *,
        natural_order: bool = False,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        _check_arguments(folder, name, size, class_names, transform)
        require_flag("natural_order", natural_order)
        self.folder, self.name, self.size, self.transform = Path(folder), name, int(size), transform
        found, left_out = _list_classes(self.folder)
        self.class_names = tuple(class_names or sorted(found, key=_natural if natural_order else str))
        self._check(found, left_out, named=bool(class_names))
        self.paths = [path for c in self.class_names for path in found.get(c, ())]
        counts = torch.tensor([len(found.get(c, ())) for c in self.class_names])
        self.labels = torch.arange(len(counts)).repeat_interleave(counts)
        if is_main_process():
            print(_printable(self._describe(counts.tolist(), left_out, bool(class_names) or natural_order)))

    def _check(self, found: dict[str, list[str]], left_out: dict[str, Counter[str]], named: bool) -> None:
        """Raise a DataError unless the folder holds the classes that are expected, with pictures."""
        folder, known = _printable(str(self.folder)), set(self.class_names)
        splits = sorted(c for c in found if _SPLIT.fullmatch(c.lower()))
        if len(splits) > 1 and not named:
            raise DataError(
                f"{folder} holds the splits {_shorten(splits)} in place of classes: read each folder by itself, all "
                "but the first with class_names=train.class_names. Classes that are called so stand in class_names=."
            )
        if unknown := sorted(set(found) - known):
            raise DataError(f"{folder} holds classes {unknown} that training does not know. {_EXPECTED}")
        if not any(found.values()):
            raise DataError(f"{folder} holds no pictures{_list_reasons(left_out.values())}. {_EXPECTED}")
        empty = [c for c in self.class_names if not found.get(c)] if self.name == "train" or not named else []
        if empty:
            why = _list_reasons(left_out[c] for c in empty if c in left_out)
            raise DataError(
                f"{folder}: no pictures of {_shorten(empty)}{why}. No class is learned without: add pictures "
                "that Pillow reads, such as JPEG or PNG, or take the folder away."
            )

    def _describe(self, counts: list[int], left_out: dict[str, Counter[str]], ordered: bool) -> str:
        """Return the line that says what was found."""
        each = ", ".join(f"{c} {count}" for c, count in zip(self.class_names[:_FEW], counts, strict=False))
        if len(counts) > _FEW:
            each = f"{each}, …; {min(counts)} to {max(counts)} each"
        line = f"{self.folder}: {len(self):,} pictures of {len(counts)} classes ({each})"
        if not ordered and list(self.class_names) != sorted(self.class_names, key=_natural):
            line += "; numbered in the order of text, which natural_order=True changes"
        return line + _list_reasons(left_out.values(), "; left out: {}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        require(hasattr(i, "__index__"), "i", i, f"the number of a picture, 0 to {len(self) - 1}")
        image = to_square(self.paths[i], self.size)
        return self.transform(image) if self.transform else image, int(self.labels[i])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digits that tell data sets apart: names and sizes of all files, the pixels of sixteen, the transform."""
        files = [[os.path.relpath(path, self.folder), os.path.getsize(path)] for path in self.paths]
        pixels = hash_tensors(self.read(self._spread(16)))
        return hash_json([files, self.class_names, self.size, pixels, self.transform and _as_plain(self.transform)])

    def read(self, numbers: Sequence[int] | None = None) -> torch.Tensor:
        """Return the pictures `numbers`, by default all, in memory and without the transform: uint8 (N, 3, size, size).

        Raises:
            DataError: they and a copy of them take more memory than there is; said before the first is read.
            ValueError: there is no such picture, or a file is damaged or of a kind that is refused; see `to_square`.
        """
        several = numbers is None or isinstance(numbers, Iterable)
        require(several, "numbers", numbers, f"whole numbers, 0 to {len(self) - 1}")
        numbers = range(len(self)) if numbers is None else [*numbers]
        known = all(is_whole(number) and 0 <= number < len(self) for number in numbers)
        require(known, "numbers", numbers, f"whole numbers, 0 to {len(self) - 1}")
        self._check_memory(len(numbers))
        images = torch.empty(len(numbers), 3, self.size, self.size, dtype=torch.uint8)
        for place, number in enumerate(numbers):
            images[place] = to_square(self.paths[number], self.size)
        return images

    def _check_memory(self, count: int) -> None:
        needed, free = 2 * 3 * count * self.size**2, available_memory()
        if free is not None and needed > free:
            raise DataError(
                f"{_printable(str(self.folder))}: {count:,} pictures of {self.size} pixels and the copy that Batches "
                f"make of them take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. Take a smaller size, or "
                "leave them on the disk: data.PictureFolder in a data.PictureLoader."
            )

    def fit_normaliser(self, count: int = 5_000) -> Normaliser:
        """Return mean and std of `count` pictures, spread evenly over the folder, which must be the training one."""
        require_whole("count", count)
        return Normaliser.fit(SimpleNamespace(name=self.name, images=self.read(self._spread(count))))

    def _spread(self, count: int) -> list[int]:
        """Return at most `count` numbers of pictures, evenly spaced."""
        return sorted({i * len(self) // count for i in range(count)})


class PictureLoader(DataLoader):
    """Batches of a PictureFolder, read from the disk as they are asked for: for more pictures than memory holds.

    100,000 pictures of 256 pixels are 20 GB in a Split and 20 more in Batches; here they are those of a few batches.

    Yields float32 images (B, 3, size, size), normalised, and int64 labels (B,): a training folder shuffled and through
    its transform, any other in order. `fit`, `evaluate` and `build_model` take it as they take Batches.

        from torchvision.transforms import v2
        from cifar_helpers import TrainConfig, fit
        from cifar_helpers.data import PictureFolder, PictureLoader
        from cifar_helpers.models import ModelConfig, build_model

        train = PictureFolder("pictures/train", size=256, transform=v2.RandomHorizontalFlip())
        val = PictureFolder("pictures/val", "val", size=256, class_names=train.class_names)
        normaliser = train.fit_normaliser()  # from 5,000 of them
        batches = [PictureLoader(part, normaliser, batch_size=64, num_workers=4) for part in (train, val)]
        model = build_model(ModelConfig("resnet18"), batches[0])
        fit(model, *batches, TrainConfig(epochs=20), checkpoint="build/pictures.safetensors")

    Args:
        device: of the network that `build_model` makes; by default the fastest of this machine.
        arguments: any other of `torch.utils.data.DataLoader`.

    Raises:
        ValueError: no PictureFolder, no Normaliser, or an empty batch.
    """

    def __init__(
        self,
        folder: PictureFolder,
        normaliser: Normaliser,
        *,
        batch_size: int = 128,
        device: str | torch.device | None = None,
        **arguments: Any,
    ) -> None:
        require(isinstance(folder, PictureFolder), "folder", folder, "a PictureFolder")
        advice = "a Normaliser, such as folder.fit_normaliser() of the training folder"
        require(isinstance(normaliser, Normaliser), "normaliser", normaliser, advice)
        require_whole("batch_size", batch_size)
        usual: dict[str, Any] = {"shuffle": folder.name == "train" and arguments.get("sampler") is None}
        usual["collate_fn"] = functools.partial(_collate, normaliser, folder.transform)
        super().__init__(folder, batch_size, **usual | arguments)
        self.normaliser, self.device = normaliser, pick_device(device)
        self.split, self.class_names, self.image_size = folder.name, folder.class_names, folder.size

    def ordered(self) -> Iterator[Batch]:
        """Serve every example once, in order and without the transform."""
        if self.split != "train" and isinstance(self.sampler, SequentialSampler):
            return iter(self)
        plain = copy.copy(cast(PictureFolder, self.dataset))
        plain.transform = None
        return iter(DataLoader(plain, self.batch_size, num_workers=self.num_workers, collate_fn=self.collate_fn))


def _collate(normaliser: Normaliser, transform: object, items: Sequence[tuple[torch.Tensor, int]]) -> Batch:
    """Return normalised images and labels of the items of a batch."""
    images, labels = zip(*items, strict=True)
    return normaliser(stack_images("transform", transform, images)), torch.tensor(labels)


def _check_arguments(folder: Any, name: str, size: Any, class_names: Any, transform: Any) -> None:
    require_choice("name", name, ("train", "val", "test"))
    require_whole("size", size, allowed="a whole number of pixels, 1 or more")
    require_path("folder", folder)
    if class_names is not None:
        require_names("class_names", class_names)
    allowed = "None: only training images are augmented"
    require(name == "train" or transform is None, "transform", transform, allowed)
    if transform is not None:
        advice = "a function of one image; those of data.transforms are for Batches"
        require_made_function("transform", transform, advice)


# --- what a folder holds ---


def _list_classes(folder: Path) -> tuple[dict[str, list[str]], dict[str, Counter[str]]]:
    """Return the pictures of each class folder, and of each, and of what lies beside them (""), what is left out."""
    found: dict[str, list[str]] = {}
    left_out: dict[str, Counter[str]] = {"": Counter()}
    try:
        for path in _visible(folder, left_out[""]):
            name = os.path.basename(path)
            if os.path.isdir(path):
                left_out[name] = Counter()
                found[name] = list(_walk(path, left_out[name], frozenset()))
            else:
                left_out[""]["beside the class folders"] += 1
    except OSError as error:
        raise DataError(f"{_printable(str(error.filename))}: {error.strerror}. {_EXPECTED}") from error
    return found, left_out


def _walk(folder: str, left_out: Counter[str], above: frozenset[str]) -> Iterator[str]:
    """Yield the pictures in a folder by name, then those of the folders in it; count the rest by why it is left out."""
    above |= {os.path.realpath(folder)}
    folders, readable = [], readable_endings()
    for path in _visible(folder, left_out):
        ending = os.path.splitext(path)[1].lower()
        if os.path.isdir(path):
            folders.append(path)
        elif not os.path.isfile(path):
            left_out["no files"] += 1  # a link to nothing, a pipe
        elif ending in readable:
            yield path
        else:
            left_out[f"{ending}{', which Pillow here cannot read' if ending in _ENDINGS else ''}" or "no ending"] += 1
    for path in folders:
        if os.path.realpath(path) in above:
            left_out["links to a folder above"] += 1
        else:
            yield from _walk(path, left_out, above)


def _visible(folder: str | Path, left_out: Counter[str]) -> list[str]:
    """Return the paths of what a folder holds, by name, without what is hidden."""
    names = sorted(os.listdir(folder))
    shown = [name for name in names if not name.startswith(".") and name != "__MACOSX"]
    if len(shown) < len(names):
        left_out["hidden"] += len(names) - len(shown)
    return [os.path.join(folder, name) for name in shown]


def readable_endings() -> frozenset[str]:
    """Return the endings of pictures, ".png" among them, that Pillow can open here, also by what it was taught."""
    known = Image.registered_extensions()
    return frozenset(ending for ending in _ENDINGS if known.get(ending) in Image.OPEN)


def _natural(name: str) -> list[Any]:
    """Return a sort key that counts: "2" before "10"."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)] + [name]


# --- what is said of it ---


def _list_reasons(left_out: Iterable[Counter[str]], form: str = " (left out: {})") -> str:
    """Return what was left out and why, by number; nothing if nothing was."""
    total = sum(left_out, Counter())
    return form.format(", ".join(f"{count} {why}" for why, count in total.most_common())) if total else ""


def _shorten(names: Sequence[str]) -> str:
    """Return the first of some names."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(repr(name) for name in names[:_FEW]) + more


def _printable(text: str) -> str:
    """Return a text that every terminal and file of UTF-8 takes, whatever bytes a file system has for names."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_plain(transform: Callable[[torch.Tensor], torch.Tensor]) -> object:
    """Return a transform as plain values: by what it holds where that can be told, else by its name."""
    try:
        return describe_transform(transform)
    except ValueError:
        return getattr(transform, "__qualname__", type(transform).__name__)
