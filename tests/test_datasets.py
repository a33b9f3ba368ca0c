import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import NAMES, random_split

from cifar_helpers.data.datasets import (
    _VAL_SHA256,
    Split,
    _synthetic_path,
    data_folder,
    identical_pairs,
    load_data,
    read_image_folder,
    rejoin,
)
from cifar_helpers.data.download import SOURCES, DataError
from cifar_helpers.data.transforms import Normaliser

REAL = {"cifar10": (4500, 500), "cifar100": (450, 50)}


@pytest.fixture(scope="module")
def synthetic():
    """Both data sets, made once for this file in the data folder that the notebooks use."""
    return {name: load_data(name, source="synthetic", folder=data_folder()) for name in SOURCES}


# --- the data sets ---


@pytest.mark.parametrize("name", SOURCES)
def test_synthetic_data_have_cifars_splits(synthetic, name):
    check_shapes(synthetic[name], name)
    assert synthetic[name].source == "synthetic"
    assert "synthetic" in synthetic[name].title


@pytest.mark.real
@pytest.mark.parametrize("name", SOURCES)
def test_real_data_has_cifars_splits(name):
    dataset = load_data(name, source="real")
    check_shapes(dataset, name)
    assert dataset.class_names[0] == {"cifar10": "airplane", "cifar100": "apple"}[name]
    if name == "cifar100":
        assert dataset.coarse_names[int(dataset.fine_to_coarse[0])] == "fruit_and_vegetables"


def check_shapes(dataset, name) -> None:
    train, val = REAL[name]
    assert set(dataset.train.counts().tolist()) == {train}
    assert set(dataset.val.counts().tolist()) == {val}
    assert set(dataset.sealed_test.counts().tolist()) == {10_000 // dataset.num_classes}
    assert dataset.train.images.shape == (45_000, 3, 32, 32)
    assert dataset.train.images.is_contiguous()
    if name == "cifar100":
        assert torch.bincount(dataset.fine_to_coarse).tolist() == [5] * 20
        assert len(dataset.coarse_names) == 20
    else:
        assert dataset.coarse_names == ()


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ],
)
def test_statistics_of_the_official_training_part(name, mean, std):
    normaliser = Normaliser.fit(rejoin(load_data(name, source="real")))
    assert [round(v, 4) for v in normaliser.mean] == list(mean)
    assert [round(v, 4) for v in normaliser.std] == list(std)


@pytest.mark.real
def test_another_split_is_noticed(monkeypatch):
    monkeypatch.setitem(_VAL_SHA256, ("cifar10", "real"), "0" * 64)
    with pytest.raises(DataError, match="validation split of cifar10"):
        load_data("cifar10", source="real")


def test_split_parts_share_no_image(synthetic):
    assert len(identical_pairs(synthetic["cifar10"].val.images[:500], synthetic["cifar10"].train.images)) == 0


def test_test_split_is_sealed(synthetic):
    with pytest.raises(DataError, match=r"sealed.*course\.audit_test"):
        synthetic["cifar10"].test  # noqa: B018
    assert "sealed_test" not in repr(synthetic["cifar10"])


def test_data_lie_in_the_project_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("CIFAR_DATA_DIR", raising=False)
    assert data_folder() == Path(__file__).resolve().parent.parent / "data"
    monkeypatch.setenv("CIFAR_DATA_DIR", str(tmp_path))
    assert data_folder() == tmp_path


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cifar-10", "cifar10"), ("CIFAR10", "cifar10"), ("cifar1O", "cifar10"), ("cifar-100", "cifar100")],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"Did you mean '{nearest}'"):
        load_data(name)


def test_a_wrong_source_is_named(monkeypatch):
    monkeypatch.setenv("CIFAR_DATA", "fake")
    with pytest.raises(ValueError, match=r"CIFAR_DATA.*auto, real, synthetic"):
        load_data("cifar10")


def test_auto_falls_back_aloud_and_real_never(monkeypatch, tmp_path, capsys, synthetic):
    monkeypatch.setattr("cifar_helpers.data.download.reachable_mirrors", lambda urls: set())
    shutil.copy(_synthetic_path("cifar10", data_folder()), tmp_path)
    assert load_data("cifar10", source="auto", folder=tmp_path).source == "synthetic"
    assert "SYNTHETIC DATA" in capsys.readouterr().out
    with pytest.raises(DataError, match="could not be fetched"):
        load_data("cifar10", source="real", folder=tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("damage", ["truncated", "altered"])
@pytest.mark.parametrize("source", ["auto", "real"])
def test_a_damaged_file_is_never_a_reason_to_fall_back(tmp_path, damage, source):
    shutil.copytree(data_folder() / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[1_000_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3 \(MD5 \w+, expected \w+\)"):
        load_data("cifar10", source=source, folder=tmp_path)


def test_a_damaged_synthetic_says_what_to_delete(tmp_path):
    path = _synthetic_path("cifar10", tmp_path)
    path.write_bytes(b"sha256:")
    with pytest.raises(DataError, match=r"Delete .*synthetic-cifar10"):
        load_data("cifar10", source="synthetic", folder=tmp_path)


# --- splits ---


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), None, "channels last"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), None, "one channel"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.float64), None, "torch.float64; expected torch.uint8"),
        (torch.zeros(4, 3, 8, 8), None, "torch.float32; expected torch.uint8"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), None, r"shape \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), None, "empty"),
        (None, [0, 1, 4, 2], r"labels\[2\] is 4; expected 0 to 3"),
        (None, [0, -1, 4, 2], r"labels\[1\] is -1"),
        (None, [0, 1, 2, -100], r"labels\[3\] is -100"),
        (None, [0.0, 1.0, 2.0, 3.0], r"torch.float32; expected torch.int64"),
        (None, [0, 1], r"shape \(2,\); expected \(4,\)"),
    ],
)
def test_wrong_images_and_labels_are_named(images, labels, words):
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8) if images is None else images
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else torch.tensor(labels)
    with pytest.raises(ValueError, match=words):
        Split("train", images, labels, NAMES)


def test_take_is_balanced_and_keeps_the_order():
    split = random_split(40)
    taken = split.take(14)
    assert taken.counts().tolist() == [3, 3, 3, 3]
    assert torch.equal(taken.images, split.images[:12])
    assert split.take(100) is split
    with pytest.raises(ValueError, match="count=3"):
        split.take(3)


def test_identical_pairs_finds_every_pair():
    images = random_split(10).images
    assert identical_pairs(images[[3, 5]], images[[5, 1, 3, 3]]).tolist() == [[0, 2], [0, 3], [1, 0]]


def test_sha256_changes_with_a_single_pixel_or_label():
    a, b, c = random_split(), random_split(), random_split()
    b.images[7, 1, 2, 3] += 1
    c.labels[0] = 1
    assert len({a.sha256, b.sha256, c.sha256}) == 3
    assert a.sha256 == random_split().sha256


# --- your own pictures ---


def test_a_folder_of_pictures_becomes_a_split(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for i, size in enumerate([(100, 60), (32, 32), (20, 50)]):
            Image.fromarray(np.full((*size, 3), colour, dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    split = read_image_folder(tmp_path, size=32)
    assert split.class_names == ("blue", "red")
    assert split.images.shape == (6, 3, 32, 32)
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (split.images[0, 2] == 255).all()


def test_an_empty_folder_of_pictures_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="one folder per class"):
        read_image_folder(tmp_path)


def test_a_validation_folder_without_a_class_keeps_the_numbering(tmp_path):
    for part, names in (("train", ("ant", "bee", "cat")), ("val", ("bee", "cat")), ("odd", ("bee", "dog"))):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / part / name / "0.png")
    train = read_image_folder(tmp_path / "train")
    val = read_image_folder(tmp_path / "val", "val", class_names=train.class_names)
    assert val.class_names == ("ant", "bee", "cat")
    assert val.labels.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"\['dog'\] that training does not know"):
        read_image_folder(tmp_path / "odd", "val", class_names=train.class_names)
