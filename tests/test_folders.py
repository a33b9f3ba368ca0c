import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cifar_helpers._storage import CheckpointError
from cifar_helpers.classify import load_model
from cifar_helpers.data import make_batches
from cifar_helpers.data.datasets import read_image_folder
from cifar_helpers.data.download import DataError
from cifar_helpers.data.folders import PictureFolder, PictureLoader, readable_endings
from cifar_helpers.data.transforms import Flip, Normaliser
from cifar_helpers.models.networks import ModelConfig, build_model, make_model
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import evaluate, predict
from cifar_helpers.training.loop import fit


def draw(path: Path, brightness: int = 90, size: int = 12) -> Path:
    """Write a small picture that is dark on the left, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size, 3), brightness, dtype=np.uint8)
    pixels[:, : size // 3] = brightness // 2
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def animals(tmp_path):
    """Return a folder with `train` and `val`, each with two classes of unlike brightness."""
    for part, count in (("train", 6), ("val", 3)):
        for name, brightness in (("cat", 40), ("dog", 180)):
            for i in range(count):
                draw(tmp_path / part / name / f"{i}.png", brightness + 5 * i)
    return tmp_path


# --- what a folder holds ---


def test_leftovers_of_editors_and_systems_are_no_classes_and_no_pictures(animals, capsys):
    folder = animals / "train"
    clean = read_image_folder(folder)
    draw(folder / ".ipynb_checkpoints" / "0-checkpoint.png")
    draw(folder / "__MACOSX" / "cat" / "0.png")
    draw(folder / ".git" / "0.png")
    draw(folder / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
    draw(folder / "cat" / "__MACOSX" / "1.png")
    for name in ("._0.png", ".DS_Store", ".hidden.png"):
        (folder / "cat" / name).write_bytes(b"\0\5\x16\7 no picture")
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "labels.csv").write_text("0.png,cat")
    (folder / "dog" / "notes.txt").write_text("a dog")
    (folder / "dog" / "Thumbs.db").write_bytes(b"")
    (folder / "dog" / "LICENSE").write_bytes(b"")
    capsys.readouterr()
    split = read_image_folder(folder)
    assert split.sha256 == clean.sha256
    assert split.class_names == ("cat", "dog")
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"{folder}: 12 pictures of 2 classes (cat 6, dog 6); left out: 9 hidden, 1 beside the class folders, "
        "1 no ending, 1 .db, 1 .txt"
    )


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("Training", "Testing"), ("train", "validation", "test"), ("train2017", "val2017")]
)
def test_the_folder_above_the_splits_is_refused_with_advice(tmp_path, parts):
    for part in parts:
        draw(tmp_path / part / "cat" / "0.png")
    with pytest.raises(
        DataError, match=r"holds the splits .* in place of classes: read each folder by itself"
    ) as error:
        read_image_folder(tmp_path)
    assert all(repr(part) in str(error.value) for part in parts)


def test_classes_that_are_called_like_a_split_are_taken(tmp_path):
    """CIFAR-100 has a class "train"; two such names must be said to be classes."""
    for name in ("bus", "train"):
        draw(tmp_path / "a" / name / "0.png")
    assert read_image_folder(tmp_path / "a").class_names == ("bus", "train")
    for name in ("test", "train"):
        draw(tmp_path / "b" / name / "0.png")
    assert len(read_image_folder(tmp_path / "b", class_names=("train", "test"))) == 2


@pytest.mark.parametrize("ending", ["gif", "jfif", "jpe", "webp", "bmp", "tga", "PNG", "avif"])
def test_a_class_of_any_ending_that_pillow_reads_is_read(tmp_path, ending):
    if ending == "avif" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow reads no AVIF")
    draw(tmp_path / "cat" / "0.png")
    draw(tmp_path / "dog" / f"0.{ending}")
    assert read_image_folder(tmp_path).labels.tolist() == [0, 1]


def test_a_class_of_pictures_that_pillow_cannot_read_is_refused(tmp_path, capsys):
    draw(tmp_path / "cat" / "0.png")
    (tmp_path / "dog").mkdir()
    for i in range(3):
        (tmp_path / "dog" / f"{i}.heic").write_bytes(bytes(99))
    with pytest.raises(DataError, match=r"no pictures of 'dog' \(left out: 3 \.heic, which Pillow here cannot read\)"):
        read_image_folder(tmp_path)
    draw(tmp_path / "dog" / "3.png")
    assert len(read_image_folder(tmp_path)) == 2
    assert "left out: 3 .heic, which Pillow here cannot read" in capsys.readouterr().out


def test_what_another_package_teaches_pillow_is_read(tmp_path, monkeypatch):
    """As pillow-heif does: here HEIC is another name of PNG."""
    assert {".png", ".jpg", ".gif"} <= readable_endings() - {".heic"}
    for name in ("cat", "dog"):
        draw(tmp_path / name / "0.png").rename(tmp_path / name / "0.heic")
    monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")
    assert len(read_image_folder(tmp_path)) == 2


def test_an_empty_training_class_is_refused_and_an_empty_validation_class_keeps_its_number(animals):
    for part in ("train", "val"):
        (animals / part / "bird").mkdir()
    with pytest.raises(DataError, match=r"no pictures of 'bird'\. No class is learned without"):
        read_image_folder(animals / "train")
    with pytest.raises(DataError, match="no pictures of 'bird'"):
        read_image_folder(animals / "val", "val")
    with pytest.raises(DataError, match="no pictures of 'ant'"):
        read_image_folder(animals / "train", class_names=("ant", "bird", "cat", "dog"))
    val = read_image_folder(animals / "val", "val", class_names=("bird", "cat", "dog"))
    assert val.counts().tolist() == [0, 3, 3]


@pytest.mark.parametrize("content", ["nothing", "pictures beside", "a file", "empty classes"])
def test_a_folder_without_pictures_of_classes_says_what_was_expected(tmp_path, content):
    folder = tmp_path / "pictures"
    if content == "pictures beside":
        draw(folder / "0.png")
    elif content == "a file":
        folder.write_text("")
    elif content == "empty classes":
        (folder / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"pictures.*Expected one folder per class with pictures inside"):
        read_image_folder(folder)


def test_folders_inside_a_class_count_and_a_circle_of_links_ends(tmp_path):
    draw(tmp_path / "cat" / "b.png")
    draw(tmp_path / "cat" / "a" / "c.png")
    draw(tmp_path / "dog" / "0.png")
    (tmp_path / "dog" / "again").symlink_to(tmp_path / "dog", target_is_directory=True)
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = PictureFolder(tmp_path)
    assert [Path(path).name for path in found.paths] == ["b.png", "c.png", "0.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are texts")
def test_a_name_in_no_known_encoding_is_read_and_printed(tmp_path):
    """In another process, whose output must take it."""
    for name in (b"caf\xe9", b"cat"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        draw(tmp_path / "0.png")
        os.link(tmp_path / "0.png", os.path.join(folder, b"0.png"))
    code = f"from cifar_helpers import read_image_folder as read; print(len(read({str(tmp_path)!r})))"
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONPATH": str(Path(__file__).parent.parent)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert r"2 classes (caf\udce9 1, cat 1)" in found.stdout
    assert found.stdout.splitlines()[-1] == "2"


def test_numbers_as_names_are_ordered_as_text_or_counted(tmp_path, capsys):
    for name in ("1", "2", "10", "11"):
        draw(tmp_path / name / "0.png", int(name) * 10)
    assert read_image_folder(tmp_path).class_names == ("1", "10", "11", "2")
    assert "numbered in the order of text, which natural_order=True changes" in capsys.readouterr().out
    read_image_folder(tmp_path, "val", class_names=("1", "10", "11", "2"))
    split = read_image_folder(tmp_path, natural_order=True)
    assert split.class_names == ("1", "2", "10", "11")
    assert split.images[:, 0, 0, -1].tolist() == [10, 20, 100, 110]
    assert "order" not in capsys.readouterr().out
    for i, name in enumerate(("img9", "img10", "b")):
        draw(tmp_path / "more" / name / f"{i}.png")
    assert read_image_folder(tmp_path / "more", natural_order=True).class_names == ("b", "img9", "img10")


def test_many_classes_fit_into_a_line(tmp_path, capsys):
    for i in range(40):
        for j in range(1 + i % 3):
            draw(tmp_path / f"class{i:02}" / f"{j}.png", size=3)
    PictureFolder(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert "79 pictures of 40 classes (class00 1, class01 2" in line
    assert line.endswith("class11 3, …; 1 to 3 each)")


@pytest.mark.parametrize("way", ["whole", "one by one", "in a worker"])
def test_a_damaged_picture_is_named(animals, way):
    path = animals / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    folder, normaliser = PictureFolder(animals / "train"), Normaliser((0.5,) * 3, (0.2,) * 3)
    ways = {
        "whole": lambda: read_image_folder(animals / "train"),
        "one by one": lambda: list(PictureLoader(folder, normaliser)),
        "in a worker": lambda: list(PictureLoader(folder, normaliser, num_workers=1)),
    }
    with pytest.raises(ValueError, match=r"dog.3\.png is no picture that Pillow can read whole"):
        ways[way]()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folder": None}, "folder=None is not allowed: a path"),
        ({"name": "training"}, "name='training' is not known: .*Did you mean 'train'"),
        ({"size": 0}, "size=0 is not allowed: a whole number of pixels"),
        ({"size": "64"}, "size='64' is not allowed"),
        ({"class_names": "cat"}, "class_names='cat' is not allowed: several names"),
        ({"class_names": ("cat", "dog", "cat")}, "class_names=.* is not allowed: each name once"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_read(animals, arguments, words):
    with pytest.raises(ValueError, match=words):
        read_image_folder(**{"folder": animals / "train"} | arguments)
    with pytest.raises(ValueError, match=words):
        PictureFolder(**{"folder": animals / "train"} | arguments)


def test_a_transform_is_a_function_for_training(animals):
    with pytest.raises(ValueError, match=r"transform=.*only training images are augmented"):
        PictureFolder(animals / "val", "val", transform=v2.RandomHorizontalFlip())
    with pytest.raises(ValueError, match=r"transform=Flip.*those of data\.transforms are for Batches"):
        PictureFolder(animals / "train", transform=Flip())


def test_memory_is_estimated_before_the_first_picture_is_read(tmp_path):
    """Two hundred pictures of a hundred thousand pixels: 12 TB. None of them is one, and nobody has noticed."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(100):
            (tmp_path / name / f"{i}.png").write_text("no picture")
    with pytest.raises(DataError, match=r"200 pictures of 100000 pixels .* take 12,000\.0 GB, and .* GB are free"):
        read_image_folder(tmp_path, size=100_000)
    with pytest.raises(ValueError, match="is no picture"):
        read_image_folder(tmp_path, size=10)


# --- from the folder to a network ---


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn_bn", "lenet", "fast", "resnet20", "vgg13_bn"])
def test_the_size_of_the_network_comes_from_the_batches(animals, name):
    """The recipe of the README with pictures of 64 pixels, from the folder to the prediction."""
    train = read_image_folder(animals / "train", size=np.int64(64))
    val = read_image_folder(animals / "val", "val", size=64, class_names=train.class_names)
    batches = make_batches(train, val, "cpu")
    model = build_model(ModelConfig(name, width=0.05), batches[0])
    assert model.spec["image_size"] == 64
    fit(model, *batches, TrainConfig(epochs=1, batch_size=4), checkpoint=animals / "run.safetensors", verbose=False)
    classifier = load_model(animals / "run.safetensors")
    assert classifier.image_size == 64
    assert {c for c, _ in classifier.predict(animals / "val" / "cat" / "0.png")} == {"cat", "dog"}


def test_a_network_for_another_size_says_so(animals):
    batches = make_batches(*(read_image_folder(animals / part, part, size=64) for part in ("train", "val")), "cpu")
    with pytest.raises(ValueError, match=r"it was made for 32 pixels: make_model\(…, image_size=64\)"):
        fit(make_model("cnn_bn", 2, width=0.05), *batches, TrainConfig(epochs=1, batch_size=4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_serves_what_batches_serve_and_memory_does_not_hold(animals, workers):
    folders = PictureFolder(animals / "train", size=16), PictureFolder(animals / "val", "val", 16)
    batches = make_batches(*(read_image_folder(animals / part, part, 16) for part in ("train", "val")), "cpu")
    assert folders[0].fit_normaliser() == batches[0].normaliser
    train, val = (
        PictureLoader(part, batches[0].normaliser, batch_size=4, device="cpu", num_workers=workers) for part in folders
    )
    for loader, whole in zip((train, val), batches, strict=True):
        for found, expected in zip(
            zip(*loader.ordered(), strict=True), zip(*whole.ordered(), strict=True), strict=True
        ):
            assert torch.equal(torch.cat(found), torch.cat(expected))
    served = torch.cat([labels for _, labels in train])
    assert sorted(served.tolist()) == [0] * 6 + [1] * 6
    assert not torch.equal(served, batches[0]._labels)
    inverted = PictureFolder(animals / "train", size=16, transform=lambda image: 255 - image)
    unshuffled = PictureLoader(inverted, batches[0].normaliser, device="cpu", shuffle=False)
    expected = next(batches[0].ordered())[0]
    assert torch.equal(next(unshuffled.ordered())[0], expected)
    assert not torch.equal(next(iter(unshuffled))[0], expected)
    chosen = PictureLoader(inverted, batches[0].normaliser, device="cpu", sampler=[0, 11])
    assert next(iter(chosen))[1].tolist() == [0, 1]
    model = build_model(ModelConfig("cnn", width=0.1), train)
    assert evaluate(model, val) == evaluate(model, batches[1])


def test_a_fingerprint_knows_files_that_are_not_opened(tmp_path):
    """Of forty pictures the pixels of sixteen count, and the name and the size of all."""
    paths = [draw(tmp_path / "cat" / f"{i:02}.png", 100 + i) for i in range(40)]
    fingerprint = lambda: PictureFolder(tmp_path, size=8).fingerprint  # noqa: E731
    found = [fingerprint(), fingerprint()]
    draw(paths[1], size=40)
    found.append(fingerprint())
    paths[3].rename(tmp_path / "cat" / "03b.png")
    found.append(fingerprint())
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert PictureFolder(tmp_path, size=9).fingerprint not in found


def test_a_run_on_a_loader_is_known_again_and_its_network_is_used(animals, capsys):
    def train(transform, **batching):
        folder = PictureFolder(animals / "train", size=16, transform=transform)
        parts = folder, PictureFolder(animals / "val", "val", 16, folder.class_names)
        normaliser = folder.fit_normaliser()
        train, val = (PictureLoader(part, normaliser, batch_size=4, device="cpu", **batching) for part in parts)
        model = build_model(ModelConfig("fast", width=0.1), train)
        config = TrainConfig(epochs=20, lr=0.05, precision="float32", replicas=1)
        return fit(model, train, val, config, checkpoint=animals / "run.safetensors"), model, val

    record, model, val = train(v2.RandomHorizontalFlip())
    assert record.val_accuracy == 1
    classifier = load_model(animals / "run.safetensors")
    assert torch.allclose(predict(classifier.model, val)[0], predict(model, val)[0], atol=1e-5)
    assert classifier.predict(animals / "val" / "dog" / "1.png", k=1)[0][0] == "dog"
    capsys.readouterr()
    assert train(v2.RandomHorizontalFlip(), num_workers=1)[0].history == record.history
    assert "trained before" in capsys.readouterr().out
    for transform in (None, v2.RandomVerticalFlip()):
        with pytest.raises(CheckpointError, match=r"data\.train"):
            train(transform)
    draw(animals / "train" / "cat" / "0.png", 200)
    with pytest.raises(CheckpointError, match=r"data\.train"):
        train(v2.RandomHorizontalFlip())


def test_the_example_of_the_loader_runs(animals, monkeypatch):
    """On twelve pictures of 16 pixels in place of 100,000 of 256."""
    (animals / "pictures").symlink_to(animals, target_is_directory=True)
    monkeypatch.chdir(animals)
    example = textwrap.dedent(re.findall(r"\n\n((?: {8}.*\n|\n)+)", PictureLoader.__doc__)[0])
    for large, small in (("256", "16"), ("workers=4", "workers=0"), ("epochs=20", "epochs=1"), ("resnet18", "cnn_bn")):
        assert large in example
        example = example.replace(large, small)
    exec(example, {})
    assert load_model("build/pictures.safetensors").image_size == 16


@pytest.mark.slow
def test_an_epoch_over_100000_files_takes_the_memory_of_a_few_batches(tmp_path):
    """Of 64 pixels they are 1.2 GB. The process that reads them grows by less than a quarter."""
    first = [draw(tmp_path / "pictures" / name / "0.png", light, 8) for name, light in (("cat", 40), ("dog", 180))]
    for path in first:
        for i in range(1, 50_000):
            os.link(path, path.parent / f"{i}.png")
    code = f"""
import resource, torch
from cifar_helpers.data import PictureFolder, PictureLoader, readable_endings
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
folder = PictureFolder({str(tmp_path / "pictures")!r}, size=64)
loader = PictureLoader(folder, folder.fit_normaliser(1_000), device="cpu")
images, _ = next(iter(loader))
before, seen = peak(), 0
for images, labels in loader:
    seen += int(labels.sum())
print(len(folder), seen, peak() - before)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    count, seen, megabytes = found.stdout.splitlines()[-1].split()
    assert (count, seen) == ("100000", "50000")
    assert float(megabytes) < 300
