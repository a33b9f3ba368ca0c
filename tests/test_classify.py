import numpy as np
import pytest
import torch
from PIL import Image
from small import NAMES, equal_weights, random_split, small_batches
from torch import nn

from cifar_helpers._storage import CheckpointError
from cifar_helpers.classify import find_pictures, load_model
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.pictures import to_square
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.models.networks import make_model
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import predict
from cifar_helpers.training.loop import fit
from cifar_helpers.transfer import TRAINED, cut_head, make_transfer_model

CONFIG = TrainConfig(epochs=3, batch_size=16, lr=0.02, precision="float32")


def picture(brightness: int, size=(40, 30)) -> Image.Image:
    return Image.fromarray(np.full((size[1], size[0], 3), brightness, dtype=np.uint8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the path of a checkpoint, the model it holds and the validation batches."""
    path = tmp_path_factory.mktemp("run") / "cnn.safetensors"
    train, val = small_batches()
    model = make_model("cnn_bn", 4, width=0.1, image_size=8)
    fit(model, train, val, CONFIG, checkpoint=path)
    return path, model, val


def test_a_loaded_model_gives_the_logits_of_the_trained_one(trained):
    path, model, val = trained
    classifier = load_model(path)
    assert torch.equal(predict(classifier.model, val)[0], predict(model, val)[0])
    assert classifier.class_names == NAMES
    assert classifier.normaliser == val.normaliser


@pytest.mark.parametrize("name", ["fast", "mlp", "resnet18"])
def test_every_kind_of_network_is_loaded_again(tmp_path, name):
    """With frozen parts, which the checkpoint compares, or without."""
    model, path = make_model(name, 4, width=0.05, image_size=16), tmp_path / "run.safetensors"
    train = Batches(random_split(16, size=16), Normaliser.fit(random_split()), "cpu")
    fit(model, train, train.like(random_split(8, "val", 16)), TrainConfig(epochs=1, batch_size=8), checkpoint=path)
    assert equal_weights(load_model(path).model, model)


@pytest.mark.parametrize("train", TRAINED)
def test_a_fine_tuned_network_is_loaded_like_any_other(tmp_path, train):
    batches = small_batches()
    network = make_model("cnn_bn", 7, width=0.1, image_size=8)
    model = make_transfer_model(cut_head(network, batches[0].normaliser, "a test", 8), 4, train)
    fit(model, *batches, CONFIG, checkpoint=tmp_path / "run.safetensors")
    classifier = load_model(tmp_path / "run.safetensors")
    assert torch.equal(predict(classifier.model, batches[1])[0], predict(model, batches[1])[0])
    assert (classifier.class_names, classifier.image_size) == (NAMES, 8)
    assert sum(p for _, p in classifier.predict(picture(200))) == pytest.approx(1)


def test_top_classes_of_a_picture_in_three_lines(trained):
    top = load_model(trained[0]).predict(picture(200))
    assert {name for name, _ in top} == set(NAMES)
    assert sum(p for _, p in top) == pytest.approx(1)
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
    assert len(load_model(trained[0]).predict(picture(200), k=2)) == 2


def test_a_validation_image_is_classified_as_in_evaluation(trained):
    path, model, val = trained
    split = random_split(20, "val", seed=1)
    logits, _ = predict(model, val)
    for image, row in zip(split.images[:5], logits, strict=False):
        top = load_model(path).predict(Image.fromarray(image.permute(1, 2, 0).numpy()), k=1)
        assert top[0][0] == NAMES[int(row.argmax())]
        assert top[0][1] == pytest.approx(row.softmax(0).max().item(), abs=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_pictures_of_every_kind_become_a_square(tmp_path, mode):
    image = picture(90, (64, 48))
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    path = tmp_path / ("p.jpg" if mode == "CMYK" else "p.png")
    image.save(path)
    square = to_square(path, 32)
    assert square.shape == (3, 32, 32)
    assert (square.int() - 90).abs().max() <= 3


def test_the_centre_is_kept():
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255
    assert to_square(Image.fromarray(wide), 8).float().mean() > 250


def test_a_file_that_is_no_picture_says_so(tmp_path, trained):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is no picture"):
        load_model(trained[0]).predict(tmp_path / "notes.txt")


def test_half_a_picture_says_so(tmp_path):
    picture(200, (400, 300)).save(tmp_path / "half.jpg")
    content = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.jpg is no picture that Pillow can read whole"):
        to_square(tmp_path / "half.jpg", 32)


def test_a_photograph_taken_sideways_is_turned_upright(tmp_path):
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:20] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "p.jpg", exif=exif, quality=95)
    square = to_square(tmp_path / "p.jpg", 8).float()
    assert square[:, :, 5:].mean() > 240
    assert square[:, :, :3].mean() < 15


def test_a_picture_may_be_a_path_bytes_a_file_an_image_an_array_or_a_tensor(tmp_path, trained):
    classifier, image = load_model(trained[0]), picture(200)
    image.save(tmp_path / "p.png")
    pixels = np.array(image)
    kinds = [tmp_path / "p.png", str(tmp_path / "p.png"), (tmp_path / "p.png").read_bytes(), image, pixels]
    kinds += [torch.from_numpy(pixels).permute(2, 0, 1), pixels[:, :, 0], random_split(1).images[0]]
    answers = [classifier.predict(kind) for kind in kinds]
    assert all(answer == answers[0] for answer in answers[:-1])


@pytest.mark.parametrize(
    ("given", "k", "words"),
    [
        ([picture(9)], 1, "picture is a list of 1; expected one"),
        (torch.rand(3, 8, 8), 1, r"torch.float32 \(3, 8, 8\); expected one of a path, .*uint8 tensor"),
        (np.zeros((8, 8, 3)), 1, r"float64 \(8, 8, 3\); expected"),
        (random_split(2).images, 1, r"uint8 \(2, 3, 8, 8\); expected"),
        (b"not a picture", 1, "is no picture"),
        (None, 1, "NoneType; expected"),
        (picture(9), 0, "k=0 is not allowed: a whole number, 1 or more"),
        (picture(9), -1, "k=-1 is not allowed"),
        (picture(9), 2.0, "k=2.0 is not allowed"),
        (picture(9), "3", "k='3' is not allowed"),
    ],
)
def test_what_cannot_be_classified_is_refused_in_one_sentence(trained, given, k, words):
    with pytest.raises(ValueError, match=words):
        load_model(trained[0]).predict(given, k)


def test_more_classes_than_there_are_gives_all(trained):
    assert len(load_model(trained[0]).predict(picture(9), k=np.int64(99))) == len(NAMES)


def test_your_own_model_is_refused_with_advice(tmp_path):
    path = tmp_path / "own.safetensors"
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    fit(net, *small_batches(), CONFIG, checkpoint=path)
    with pytest.raises(CheckpointError, match="how to build its network"):
        load_model(path)


def test_the_pictures_of_a_folder_come_by_name(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more").mkdir()
    assert [path.name for path in find_pictures(tmp_path)] == ["a.png", "b.JPG"]
    for folder in (tmp_path / "more", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"folder=.*one with pictures in it"):
            find_pictures(folder)


def test_a_network_in_training_mode_answers_as_in_evaluation_and_stays_in_it(trained):
    classifier = load_model(trained[0])
    expected = classifier.predict(picture(200))
    classifier.model.train()
    assert classifier.predict(picture(200)) == expected
    assert classifier.model.training
