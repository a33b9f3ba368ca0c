"""CIFAR-10, CIFAR-100 and your own pictures, split once, augmented and served in batches on the device."""

from cifar_helpers.data.batches import Batch, Batches, EpochBatches, Ordered, make_batches
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
from cifar_helpers.data.folders import PictureFolder, PictureLoader
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
    "SOURCES",
    "AlternatingFlip",
    "Batch",
    "Batches",
    "ColourJitter",
    "ColourTransform",
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
    "data_folder",
    "hide_labels",
    "identical_pairs",
    "load_data",
    "make_batches",
    "mixup",
    "permute_pixels",
    "read_image_folder",
    "rejoin",
    "resize",
    "to_square",
]
