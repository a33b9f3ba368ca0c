"""CIFAR-10, CIFAR-100 and your own pictures, split once, augmented and served in batches on the device."""

from cifar_helpers.data.batches import Batch, Batches, EpochBatches, Ordered, make_batches
from cifar_helpers.data.corruptions import CORRUPTIONS, Corruption, corrupt
from cifar_helpers.data.datasets import (
    Dataset,
    Split,
    data_folder,
    hide_labels,
    identical_pairs,
    load_data,
    read_image_folder,
    rejoin,
)
from cifar_helpers.data.download import SOURCES, DataError
from cifar_helpers.data.folders import PictureFolder, PictureLoader, readable_endings
from cifar_helpers.data.pictures import to_square
from cifar_helpers.data.transforms import (
    AlternatingFlip,
    ColourJitter,
    ColourTransform,
    Cutout,
    Flip,
    GeometricTransform,
    Normaliser,
    PadCrop,
    PerImage,
    Rotation,
    Transform,
    VerticalFlip,
    mixup,
    permute_pixels,
    resize,
)

__all__ = [
    "CORRUPTIONS",
    "SOURCES",
    "AlternatingFlip",
    "Batch",
    "Batches",
    "ColourJitter",
    "ColourTransform",
    "Corruption",
    "Cutout",
    "DataError",
    "Dataset",
    "EpochBatches",
    "Flip",
    "GeometricTransform",
    "Normaliser",
    "Ordered",
    "PadCrop",
    "PerImage",
    "PictureFolder",
    "PictureLoader",
    "Rotation",
    "Split",
    "Transform",
    "VerticalFlip",
    "corrupt",
    "data_folder",
    "hide_labels",
    "identical_pairs",
    "load_data",
    "make_batches",
    "mixup",
    "permute_pixels",
    "read_image_folder",
    "readable_endings",
    "rejoin",
    "resize",
    "to_square",
]
