"""CIFAR-10 and CIFAR-100: found, fetched or made, verified, and split once and for all; and folders of pictures.

`load_data("cifar10")` returns a `Dataset` with a training and a validation `Split`; its test split is sealed.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cifar_helpers._arguments import is_whole, require, require_choice, require_names, require_path
from cifar_helpers._contract import check_images, check_labels
from cifar_helpers._hashing import hash_tensors
from cifar_helpers._storage import CheckpointError, load_tensors, save_tensors
from cifar_helpers.data import synthetic
from cifar_helpers.data.download import SOURCES, Contents, DataError, DownloadFailed, ensure_files, read_official
from cifar_helpers.data.folders import PictureFolder
from cifar_helpers.runtime import make_generator

__all__ = [
    "Dataset",
    "Split",
    "data_folder",
    "hide_labels",
    "identical_pairs",
    "load_data",
    "read_image_folder",
    "rejoin",
]

# SHA-256 of the indices of the validation images in the official training part, int64, little-endian.
_VAL_SHA256 = {
    ("cifar10", "real"): "80419e06eb73906fa0f6b6c47ea64297420c6bd1265c1b7a4997528513729da2",
    ("cifar100", "real"): "fa789b04cb0389f861a07d2c229fa7c100f931a393c61855674d599f449a2d83",
    ("cifar10", "synthetic"): "ded0178bd4e8894b566daba198832e5eabcfb71a507422c2c9523bbc1151dce0",
    ("cifar100", "synthetic"): "b8cca471a899d30e133548a2e705acf22618ba44767d080b0bb50c4fd99d8d2d",
}


@dataclass(frozen=True)
class Split:
    """Images and labels that belong together, under the name of what they may be used for.

    Attributes:
        name: "train", "val" or "test".
        images: uint8 (N, 3, H, W), values 0 to 255.
        labels: int64 (N,), in [0, C).
        class_names: C names, in the order of the labels, each once.

    Raises:
        ValueError: for images, labels or names of another shape, type or range, naming what came.
    """

    name: str
    images: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        require_choice("name", self.name, ("train", "val", "test"))
        for name, values in (("images", self.images), ("labels", self.labels)):
            advice = "a tensor: torch.from_numpy(array), or torch.tensor(list)"
            require(isinstance(values, torch.Tensor), name, values, advice)
        require_names("class_names", self.class_names)
        check_images(self.images)
        check_labels(self.labels, len(self.images), len(self.class_names))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of images and labels: the same data, the same value."""
        return hash_tensors([self.images, self.labels])

    @property
    def labels_hidden(self) -> bool:
        """Whether this is a test split whose labels are all 0, as competitions hand it out: nothing can be scored."""
        return self.name == "test" and len(self) > 1 and not bool(self.labels.any())

    def counts(self) -> torch.Tensor:
        """Return the number of images of each class, int64 (C,)."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    def select(self, indices: torch.Tensor) -> "Split":
        """Return the images at `indices`, in that order.

        Raises:
            ValueError: there is no such image, or `indices` are no whole numbers.
        """
        try:
            images, labels = self.images[indices], self.labels[indices]
        except (IndexError, TypeError) as error:
            allowed = f"a tensor of whole numbers, 0 to {len(self) - 1}"
            raise ValueError(f"indices={indices!r} is not allowed: {allowed}") from error
        return replace(self, images=images, labels=labels)

    def take(self, count: int) -> "Split":
        """Return the first images of each class, equally many of each and at most `count` in all, in their order.

        Raises:
            ValueError: `count` is below one image a class.
        """
        enough = is_whole(count) and count >= min(self.num_classes, len(self))
        require(
            enough, "count", count, f"at least one image for each of the {self.num_classes} classes, a whole number"
        )
        if count >= len(self):
            return self
        per_class = count // self.num_classes
        chosen = [torch.nonzero(self.labels == c).flatten()[:per_class] for c in range(self.num_classes)]
        return self.select(torch.cat(chosen).sort().values)


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits; the test split is sealed: `course.final_test` and `course.audit_test` open it.

    Attributes:
        name: "cifar10" or "cifar100".
        source: "real" or "synthetic".
        coarse_names: names of the superclasses; empty where there are none.
        fine_to_coarse: int64 (C,), the superclass of each class; empty where there are none.
    """

    name: str
    source: str
    train: Split
    val: Split
    sealed_test: Split = field(repr=False)
    coarse_names: tuple[str, ...] = ()
    fine_to_coarse: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def title(self) -> str:
        """The name as it is written: CIFAR-10, or synthetic CIFAR-10."""
        return ("" if self.source == "real" else "synthetic ") + SOURCES[self.name].title

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def test(self) -> Split:
        if self.sealed_test.labels_hidden:
            return self.sealed_test
        raise DataError(
            "The test split is sealed: every choice is made on `val`. Look at it through "
            "course.audit_test, or score a finished run through course.final_test; both leave an entry in a log."
        )


def _require_dataset(dataset: object) -> None:
    """Raise a ValueError unless this is a Dataset."""
    require(isinstance(dataset, Dataset), "dataset", dataset, "a Dataset, such as load_data('cifar10')")


def hide_labels(dataset: Dataset) -> Dataset:
    """Return the data set as a competition hands it out: every test label is 0, and `test` is open."""
    _require_dataset(dataset)
    test = dataset.sealed_test
    return replace(dataset, sealed_test=replace(test, labels=torch.zeros_like(test.labels)))


def rejoin(dataset: Dataset) -> Split:
    """Return the official training part, `train` and `val` together, for comparison with published figures."""
    _require_dataset(dataset)
    images = torch.cat([dataset.train.images, dataset.val.images])
    return Split("train", images, torch.cat([dataset.train.labels, dataset.val.labels]), dataset.class_names)


def identical_pairs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the pairs (i, j), int64 (P, 2), for which image i of `a` equals image j of `b` in every pixel.

    Raises:
        ValueError: they are no images, or of different sizes.
    """
    for name, images in (("a", a), ("b", b)):
        right = isinstance(images, torch.Tensor) and images.ndim == 4
        require(right, name, images, "images (N, 3, H, W)")
    require(a.shape[1:] == b.shape[1:], "b", b, f"images of one size, {tuple(a.shape[1:])} as those of a")
    where: dict[bytes, list[int]] = {}
    for j, image in enumerate(b.numpy()):
        where.setdefault(hashlib.sha256(image.tobytes()).digest(), []).append(j)
    digests = (hashlib.sha256(image.tobytes()).digest() for image in a.numpy())
    pairs = [(i, j) for i, digest in enumerate(digests) for j in where.get(digest, ())]
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def read_image_folder(
    folder: str | Path,
    name: str = "train",
    size: int = 32,
    class_names: Sequence[str] | None = None,
    *,
    natural_order: bool = False,
) -> Split:
    """Return your own pictures, one sub-folder per class, as a split of squares of `size` pixels, all in memory.

    What a folder is read for, the order of the classes and the line that is printed: `PictureFolder`, which leaves the
    pictures on the disk. How a picture of any kind becomes a square: `to_square`.

    Args:
        class_names: of the training split, so that a validation folder which lacks a class keeps the numbering. By
            default the names of the folders, in the order of text: "1", "10", "2".
        natural_order: by default order classes by the numbers in their names instead: "1", "2", "10".

    Raises:
        DataError: the folder is missing, holds no class folders with pictures or a class that is not in `class_names`,
            is the one above "train" and "val", or a class has no picture; or memory is too small, said before reading.
        ValueError: a file is damaged or of a kind that is refused; the message names it.
    """
    found = PictureFolder(folder, name, size, class_names, natural_order=natural_order)
    return Split(name, found.read(), found.labels, found.class_names)


# --- finding, verifying and reading the official files ---


def data_folder() -> Path:
    """Return the folder of the data files: CIFAR_DATA_DIR, else `data` in the project, else below the home folder."""
    if os.environ.get("CIFAR_DATA_DIR"):
        return Path(os.environ["CIFAR_DATA_DIR"]).expanduser()
    project = Path(__file__).resolve().parents[2]
    return project / "data" if (project / "pyproject.toml").exists() else Path.home() / ".cache" / "cifar_helpers"


def load_data(name: str, *, source: str | None = None, folder: str | Path | None = None) -> Dataset:
    """Return CIFAR-10 or CIFAR-100, split 45,000 / 5,000 / 10,000 and stratified.

    Args:
        name: "cifar10" or "cifar100".
        source: "real" never falls back; "synthetic" makes images by a formula; "auto" takes the files in the folder,
            else fetches them, else says aloud that synthetic data take their place. Default: CIFAR_DATA, else "auto".
        folder: where the files are or go. Default: CIFAR_DATA_DIR, else `data/`.

    Raises:
        ValueError: an unknown name or source, or a folder that is no path.
        DataError: a file in the folder is damaged (also under "auto"), or "real" data cannot be had.
    """
    require_choice("name", name, SOURCES)
    source = source or os.environ.get("CIFAR_DATA") or "auto"
    require_choice("source (CIFAR_DATA)", source, ("auto", "real", "synthetic"))
    require_path("folder", folder or data_folder())
    folder = Path(folder or data_folder())
    if source == "synthetic":
        return _split_dataset(name, source, _read_synthetic(name, folder))
    try:
        ensure_files(SOURCES[name], folder)
    except DownloadFailed as error:
        if source == "real":
            raise DataError(str(error)) from error
        print(f"{error}\nUntil then SYNTHETIC DATA take its place: no number below is about CIFAR.")
        return _split_dataset(name, "synthetic", _read_synthetic(name, folder))
    return _split_dataset(name, "real", read_official(SOURCES[name], folder))


def _make_synthetic(name: str) -> dict[str, torch.Tensor]:
    """Return 50,000 synthetic training and 10,000 test images with their labels."""
    classes = SOURCES[name].num_classes
    tensors: dict[str, torch.Tensor] = {}
    for part, count in (("train", 50_000), ("test", 10_000)):
        generator = make_generator("stand-in", name, part)  # the name of the stream: another one, other images
        labels = synthetic.make_labels(count, classes, generator)
        tensors |= {f"{part}_labels": labels, f"{part}_images": synthetic.make_images(labels, classes, generator)}
    return tensors


def _synthetic_path(name: str, folder: Path) -> Path:
    """Return where the synthetic data are kept; another formula makes another file."""
    formula = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:8]
    return folder / f"synthetic-{name}-{formula}.safetensors"


def _read_synthetic(name: str, folder: Path) -> Contents:
    """Return the synthetic data of `name`, made once (some seconds) and kept in `folder`."""
    path = _synthetic_path(name, folder)
    if not path.exists():
        save_tensors(path, _make_synthetic(name), {"made_by": "cifar_helpers.synthetic", "name": name})
    try:
        tensors, _ = load_tensors(path)
    except CheckpointError as error:
        raise DataError(
            f"The synthetic data cannot be read. Delete {path}; they are made again in seconds. ({error})"
        ) from error
    classes = SOURCES[name].num_classes
    outlines, _ = synthetic.class_parts(classes)
    hierarchy = (synthetic.outline_names(), outlines) if name == "cifar100" else ((), outlines[:0])
    return Contents(
        **tensors, class_names=synthetic.class_names(classes), coarse_names=hierarchy[0], fine_to_coarse=hierarchy[1]
    )


def _split_dataset(name: str, source: str, contents: Contents) -> Dataset:
    """Return the data set with its official training part split, stratified, into `train` and `val`."""
    whole = Split("train", contents.train_images, contents.train_labels, contents.class_names)
    in_val = _validation_mask(name, contents.train_labels)
    _check_split(name, source, in_val)
    return Dataset(
        name,
        source,
        train=whole.select(torch.nonzero(~in_val).flatten()),
        val=replace(whole.select(torch.nonzero(in_val).flatten()), name="val"),
        sealed_test=Split("test", contents.test_images, contents.test_labels, contents.class_names),
        coarse_names=contents.coarse_names,
        fine_to_coarse=contents.fine_to_coarse,
    )


def _check_split(name: str, source: str, in_val: torch.Tensor) -> None:
    """Raise a DataError unless the validation images are those of every published figure."""
    indices = torch.nonzero(in_val).flatten().numpy().astype("<i8")
    found, expected = hashlib.sha256(indices.tobytes()).hexdigest(), _VAL_SHA256[name, source]
    if found != expected:
        raise DataError(f"The validation split of {name} has SHA-256 {found[:12]}…, expected {expected[:12]}….")


def _validation_mask(name: str, labels: torch.Tensor) -> torch.Tensor:
    """Return which of the official training images validate: in each class those with the smallest hashes.

    The hash is SHA-256 of "name/index": no random generator whose stream another version could change.
    """
    digests = b"".join(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8] for i in range(len(labels)))
    ranks = torch.from_numpy(np.frombuffer(digests, dtype=">u8").argsort(kind="stable").argsort())
    mask = torch.zeros(len(labels), dtype=torch.bool)
    per_class = len(labels) // (10 * SOURCES[name].num_classes)
    for c in range(SOURCES[name].num_classes):
        members = torch.nonzero(labels == c).flatten()
        mask[members[ranks[members].argsort()[:per_class]]] = True
    return mask
