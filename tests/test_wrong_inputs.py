"""Wrong inputs to public functions: each is refused in one sentence of ours, none passes, none ends in foreign code."""

import math
import traceback
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from small import NAMES, random_split, small_batches, tiny_net
from test_imports import PUBLIC
from torch import nn

import cifar_helpers
from cifar_helpers import checks, course, data, metrics, models, plots, runtime, statistics, training, transfer
from cifar_helpers._storage import CheckpointError, save_tensors
from cifar_helpers.checks import Pipeline, run_checks
from cifar_helpers.classify import Classifier, find_pictures, load_model
from cifar_helpers.course import (
    baselines,
    captions,
    decisions,
    minutes,
    notebooks,
    pages,
    prose,
    report,
    results,
    verdicts,
)
from cifar_helpers.course.decisions import Option
from cifar_helpers.data import Batches, DataError, Dataset, Flip, Normaliser, PictureFolder, download, synthetic
from cifar_helpers.models import ModelConfig, efficientnet, make_model, networks
from cifar_helpers.submission import check_submission, score_submission, write_submission
from cifar_helpers.tables import format_table
from cifar_helpers.training import TrainConfig, TrainingDiverged, evaluate, fit, optim, parallel, predict, train_epoch
from cifar_helpers.transfer import Backbone, Frozen, TransferConfig, make_transfer_model

PACKAGE = Path(cifar_helpers.__file__).parent
OURS = (ValueError, DataError, CheckpointError, TrainingDiverged)

CPU = torch.device("cpu")
SPLIT, VAL_SPLIT, TEST_SPLIT = random_split(16), random_split(8, "val"), random_split(8, "test")
LARGE = random_split(8, "val", size=16)
IMAGES, FOUR = SPLIT.images, SPLIT.labels
TRAIN, VAL = DATA = small_batches(16)
NORMALISER = TRAIN.normaliser
NET = tiny_net()
LOGITS, LABELS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 1])
RIGHT = torch.tensor([True, False, True])
SQUARE = torch.eye(3)
X, Y = torch.linspace(-1, 1, 8 * 3 * 8 * 8).sin().view(8, 3, 8, 8), torch.arange(8) % 4
CNN = make_model("cnn", 4, width=0.1, image_size=8)
BODY = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
BACKBONE = Backbone(BODY, 144, 0, NORMALISER, 8, "a test")
FEATURES = X.flatten(1)[:, :5], Y
CLASSIFIER = Classifier(NET, NORMALISER, NAMES, 8)
PIPELINE = Pipeline(NET, [(X, Y)], [(X, Y)])
DATASET = Dataset("cifar10", "synthetic", SPLIT, VAL_SPLIT, TEST_SPLIT)
EPOCH = training.EpochRecord(1, 1, 0.1, 1.0, 0.5, 1.0, 0.5, 1.0)
RECORD = training.RunRecord(
    "run", "0", {"seed": 0}, {}, {"normaliser": NORMALISER.to_dict()}, (EPOCH,), 1, 1.0, False, {}, None
)
OPTION = Option("a", 0.9, 10, 0.1)
QUICK = course.QUICK
PICTURE = Image.new("RGB", (8, 8))


def workspace(folder: Path) -> course.Workspace:
    return course.Workspace("01_test", "quick", "cpu", "synthetic", folder, folder / "checkpoints")


def enter(context) -> None:
    with context:
        pass


def write(path: Path, text: str = "no picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(folder / name)
    return folder


def logits_file(folder: Path) -> Path:
    save_tensors(folder / "logits.safetensors", {"val": LOGITS}, {"name": "a run"})
    return folder / "logits.safetensors"


def body_with(change) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    body[0].weight.requires_grad_(False)
    body[0].weight.data = change(body[0].weight.data)
    return body


class Returning(nn.Module):
    """A network that returns what a function makes of the images."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(2, 2), function

    def forward(self, images: torch.Tensor):
        return self.function(images)


def pictures_of(folder: Path, **arguments) -> PictureFolder:
    return PictureFolder(folder_of(folder, "a/1.png", "b/2.png"), size=8, **arguments)


def new_ax():
    return plt.figure().add_subplot()


def step(*batches, net=NET):
    return train_epoch(net, batches, torch.optim.SGD(net.parameters(), lr=0.01))


def muon_step(parameter) -> None:
    own = nn.Parameter(parameter.detach().clone())
    own.grad = torch.ones_like(own)
    optim.Muon([own]).step()


def fitted(model=NET, train=TRAIN, val=VAL, config=None, **arguments):
    return fit(model, train, val, config or TrainConfig(epochs=1), verbose=False, **arguments)


# A name, the call (of a folder of its own), pieces of the sentence in their order, and its class if no ValueError.
ROWS = {
    "runtime": [
        ("an unknown device", lambda p: runtime.pick_device("gpu"), "device='gpu' ... choose auto, cpu, cuda"),
        ("a device without a number", lambda p: runtime.pick_device("cpu:one"), "device='cpu:one' ... choose"),
        ("a GPU that is not there", lambda p: runtime.pick_device("cuda:99"), "device='cuda:99' ... finds"),
        ("no core", lambda p: enter(runtime.computing_on(0)), "cores=0 ... whole number of at least 1"),
        ("no thread", lambda p: runtime.core_threads(0), "count=0 ... whole number of at least 1"),
        ("half a thread", lambda p: runtime.start_threads(1.5, 1), "count=1.5 ... whole number"),
        ("threads without cores", lambda p: runtime.start_threads(1, 0), "cores=0 ... whole number"),
        ("an unknown precision", lambda p: runtime.autocast_dtype(CPU, "bf16"), "precision='bf16' ... bfloat16"),
        ("a seed of text", lambda p: runtime.seed_everything("one"), "seed='one' ... a whole number"),
        ("a seed of a half", lambda p: runtime.seed_everything(0.5), "seed=0.5 ... a whole number"),
        ("the name of a text", lambda p: runtime.device_name("cpu"), "device='cpu' ... pick_device"),
        ("surroundings of a text", lambda p: runtime.environment("cpu"), "device='cpu' ... pick_device"),
        ("a clock for a text", lambda p: runtime.Timer("cpu"), "device='cpu' ... pick_device"),
        ("waiting for nothing", lambda p: runtime.synchronize(None), "device=None ... pick_device"),
        ("no repetition", lambda p: runtime.median_seconds(dict, repeats=0), "repeats=0 ... at least 1"),
        ("an action that is none", lambda p: runtime.median_seconds(3), "action=3 ... a function"),
        ("a seed beyond 64 bits", lambda p: runtime.seed_everything(2**64), "seed=18446744073709551616 ... 64 bits"),
        ("a device by number", lambda p: runtime.pick_device(0), "device='0' ... choose auto"),
    ],
    "tables": [
        ("titles in one text", lambda p: format_table([(1, 2)], "ab"), "columns='ab' ... several titles"),
        ("rows of numbers", lambda p: format_table([1, 2]), "row 1 ... its values"),
        ("rows of texts", lambda p: format_table(["ab", "cd"]), "row 'ab' ... its values"),
        ("no rows at all", lambda p: format_table(None), "rows=None ... rows of values"),
        ("a short row", lambda p: format_table([(1, 2), (1,)]), "has 1 columns; the first one has 2"),
    ],
    "statistics": [
        ("more right than there are", lambda p: statistics.wilson_interval(5, 3), "correct=(5, 3) ... 0 to count"),
        ("of nothing", lambda p: statistics.wilson_interval(0, 0), "correct=(0, 0) ... at least 1"),
        ("half an answer", lambda p: statistics.wilson_interval(1.5, 3), "correct=1.5 ... a whole number"),
        ("a count of text", lambda p: statistics.wilson_interval(1, "3"), "count='3' ... a whole number"),
        ("a level in percent", lambda p: statistics.wilson_interval(1, 3, 95), "level=95 ... 95 % is 0.95"),
        ("a level of 0", lambda p: statistics.wilson_interval(1, 3, 0), "level=0 ... between 0 and 1"),
        ("answers in a list", lambda p: statistics.mean_interval([True]), "correct=[True] ... torch.bool"),
        ("answers of floats", lambda p: statistics.mean_interval(torch.ones(2, 3)), "correct= ... torch.bool"),
        ("no answers", lambda p: statistics.mean_interval(torch.ones(0, 3, dtype=torch.bool)), "shape (R, N)"),
        ("a mean's level in percent", lambda p: statistics.mean_interval(RIGHT.expand(2, 3), 95), "level=95"),
        ("pairs of floats", lambda p: statistics.paired_difference(SQUARE[0], SQUARE[1]), "first= ... torch.bool"),
        ("pairs of lists", lambda p: statistics.paired_difference([True], [False]), "first=[True] ... torch.bool"),
        ("pairs of other lengths", lambda p: statistics.paired_difference(RIGHT, RIGHT[:2]), "second= ... same images"),
        ("no pairs", lambda p: statistics.paired_difference(RIGHT[:0], RIGHT[:0]), "first= ... at least one"),
        ("pairs of two runs", lambda p: statistics.paired_difference(RIGHT[None], RIGHT[None]), "first= ... (N,)"),
        ("a difference's level", lambda p: statistics.paired_difference(RIGHT, RIGHT, 1.5), "level=1.5"),
        ("a test of floats", lambda p: statistics.mcnemar(SQUARE[0], SQUARE[1]), "first= ... torch.bool"),
        ("a test of nothing", lambda p: statistics.mcnemar(RIGHT[:0], RIGHT[:0]), "first= ... at least one"),
        ("no classifier", lambda p: statistics.bootstrap({}), "correct={} ... at least one"),
        ("other counts", lambda p: statistics.bootstrap({"a": RIGHT, "b": RIGHT[:2]}), "correct= ... equally many"),
        ("no image", lambda p: statistics.bootstrap({"a": RIGHT[:0]}), "correct['a'] ... at least one"),
        ("answers as numbers", lambda p: statistics.bootstrap({"a": LABELS}), "correct['a'] ... torch.bool"),
        ("answers as a list", lambda p: statistics.bootstrap({"a": [True]}), "correct['a'] ... torch.bool"),
        ("no resample", lambda p: statistics.bootstrap({"a": RIGHT}, 0), "resamples=0 ... at least 1"),
        ("half a resample", lambda p: statistics.bootstrap({"a": RIGHT}, 1.5), "resamples=1.5 ... whole number"),
        ("ranks of one row", lambda p: statistics.rank_shares(LABELS), "correct= ... (resamples, M)"),
        ("ranks of nothing", lambda p: statistics.rank_shares(torch.ones(0, 2)), "correct= ... (resamples, M)"),
    ],
    "metrics": [
        ("a mean over nothing", lambda p: metrics.Sums(0.0, 0, 0), "count=0 ... at least one example"),
        ("a label below 0", lambda p: metrics.cross_entropy(LOGITS, LABELS - 1), "labels[0] is -1; expected 0 to 2"),
        ("a label that is skipped", lambda p: metrics.cross_entropy(LOGITS, LABELS - 100), "labels[0] is -100"),
        ("a class too many", lambda p: metrics.cross_entropy(LOGITS, LABELS + 2), "labels[1] is 3; expected 0 to 2"),
        ("labels of floats", lambda p: metrics.cross_entropy(LOGITS, LABELS.float()), "labels are torch.float32"),
        ("labels of 32 bits", lambda p: metrics.cross_entropy(LOGITS, LABELS.int()), "labels are torch.int32"),
        ("a label too many", lambda p: metrics.cross_entropy(LOGITS, torch.arange(3)), "labels have shape (3,)"),
        ("labels in a column", lambda p: metrics.sums(LOGITS, LABELS[:, None]), "labels have shape (2, 1)"),
        ("all smoothed", lambda p: metrics.cross_entropy(LOGITS, LABELS, 1.5), "label_smoothing=1.5 ... [0, 1]"),
        ("logits in a list", lambda p: metrics.cross_entropy([[1.0]], LABELS), "logits=[[1.0]] ... (N, C)"),
        ("hits in a column", lambda p: metrics.count_correct(LOGITS, LABELS[:, None]), "targets= ... (2,)"),
        ("hits of other counts", lambda p: metrics.count_correct(LOGITS, torch.arange(3)), "targets= ... (2,)"),
        ("hits of one row", lambda p: metrics.count_correct(LOGITS[0], LABELS), "logits= ... (N, C)"),
        ("sums of nothing", lambda p: metrics.sums(LOGITS[:0], LABELS[:0]), "at least one"),
        ("ranks of a class too many", lambda p: metrics.label_ranks(LOGITS, LABELS + 2), "labels[1] is 3"),
        ("ranks of labels in a list", lambda p: metrics.label_ranks(LOGITS, [0, 1]), "labels=[0, 1] ... torch.int64"),
        ("ranks of floats", lambda p: metrics.label_ranks(LOGITS, LABELS.float()), "labels are torch.float32"),
        ("ranks of whole logits", lambda p: metrics.label_ranks(LOGITS.long(), LABELS), "logits= ... floating"),
        ("ranks of one image", lambda p: metrics.label_ranks(LOGITS[0], LABELS), "logits= ... (N, C)"),
        ("the best none", lambda p: metrics.top_k_accuracy(LOGITS, LABELS, 0), "k=0 ... whole number of at least 1"),
        ("the best half", lambda p: metrics.top_k_accuracy(LOGITS, LABELS, 0.5), "k=0.5 ... whole number"),
        ("the best text", lambda p: metrics.top_k_accuracy(LOGITS, LABELS, "5"), "k='5' ... whole number"),
        ("the best of nothing", lambda p: metrics.top_k_accuracy(LOGITS[:0], LABELS[:0]), "logits= ... at least one"),
        ("confusion of a list", lambda p: metrics.confusion_matrix([0], LABELS, 2), "predicted=[0] ... torch.int64"),
        ("confusion of floats", lambda p: metrics.confusion_matrix(LOGITS, LABELS, 2), "predicted= ... torch.int64"),
        ("confusion of no class", lambda p: metrics.confusion_matrix(LABELS, LABELS, 0), "num_classes=0 ... at least"),
        ("classes as text", lambda p: metrics.confusion_matrix(LABELS, LABELS, "2"), "num_classes='2' ... whole"),
        ("a class too high", lambda p: metrics.confusion_matrix(LABELS, LABELS, 1), "predicted=[1] ... classes 0 to 0"),
        ("nothing confused", lambda p: metrics.confusion_matrix(LABELS[:0], LABELS[:0], 2), "at least one"),
        ("a label without an answer", lambda p: metrics.confusion_matrix(LABELS, LABELS[:1], 2), "labels= ... (2,)"),
        ("accuracies of a row", lambda p: metrics.per_class_accuracy(LABELS), "confusion= ... (C, C)"),
        ("accuracies of a rectangle", lambda p: metrics.per_class_accuracy(LOGITS), "confusion= ... (C, C)"),
        ("pairs of a rectangle", lambda p: metrics.confused_pairs(LOGITS, 1), "confusion= ... (C, C)"),
        ("no pairs asked for", lambda p: metrics.confused_pairs(SQUARE, 0), "k=0 ... whole number of at least 1"),
        ("fewer than no pairs", lambda p: metrics.confused_pairs(SQUARE, -1), "k=-1 ... whole number"),
        (
            "doubts without numbers",
            lambda p: metrics.find_label_issues(LOGITS * math.nan, LABELS),
            "logits= ... finite",
        ),
        ("doubts of a class too many", lambda p: metrics.find_label_issues(LOGITS, LABELS + 2), "labels[1] is 3"),
        ("doubts of one row", lambda p: metrics.find_label_issues(LOGITS[0], LABELS), "logits= ... (N, C)"),
        ("no superclasses", lambda p: metrics.coarse_logits(LOGITS, LABELS[:0]), "fine_to_coarse= ... (3,)"),
        ("superclasses too few", lambda p: metrics.coarse_logits(LOGITS, LABELS), "fine_to_coarse= ... (3,)"),
        ("a superclass of -1", lambda p: metrics.coarse_logits(LOGITS, torch.tensor([-1, 0, 1])), "fine_to_coarse="),
        ("no bins", lambda p: metrics.calibration(LOGITS, LABELS, 0), "bins=0 ... whole number of at least 1"),
        ("bins below 0", lambda p: metrics.calibration(LOGITS, LABELS, -3), "bins=-3 ... whole number of at least 1"),
        ("half a bin", lambda p: metrics.calibration(LOGITS, LABELS, 1.5), "bins=1.5 ... whole number"),
        (
            "calibrated labels too many",
            lambda p: metrics.calibration(LOGITS, torch.arange(3)),
            "labels have shape (3,)",
        ),
        ("calibrated label of -100", lambda p: metrics.calibration(LOGITS, LABELS - 100), "labels[0] is -100"),
        ("calibrated NaN", lambda p: metrics.calibration(LOGITS * math.nan, LABELS), "logits= ... finite numbers"),
        ("calibrated nothing", lambda p: metrics.calibration(LOGITS[:0], LABELS[:0]), "logits= ... at least one row"),
        ("a temperature of infinity", lambda p: metrics.fit_temperature(LOGITS / 0, LABELS), "logits= ... finite"),
        ("a temperature of -100", lambda p: metrics.fit_temperature(LOGITS, LABELS - 100), "labels[0] is -100"),
        ("a temperature of a list", lambda p: metrics.fit_temperature([[1.0]], LABELS), "logits=[[1.0]] ... (N, C)"),
    ],
    "data.datasets": [
        ("an unknown split", lambda p: replace(SPLIT, name="training"), "name='training' ... train, val, test"),
        ("images in a list", lambda p: replace(SPLIT, images=[1]), "images=[1] ... a tensor"),
        ("images of NumPy", lambda p: replace(SPLIT, images=IMAGES.numpy()), "images= ... torch.from_numpy"),
        ("images of floats", lambda p: replace(SPLIT, images=IMAGES / 255), "images are torch.float32"),
        ("channels last", lambda p: replace(SPLIT, images=IMAGES.permute(0, 2, 3, 1)), "channels last ... permute"),
        ("one channel", lambda p: replace(SPLIT, images=IMAGES[:, :1]), "one channel ... expand"),
        ("no images", lambda p: replace(SPLIT, images=IMAGES[:0]), "images are empty"),
        ("labels in a list", lambda p: replace(SPLIT, labels=[0]), "labels=[0] ... torch.tensor"),
        ("labels of floats", lambda p: replace(SPLIT, labels=FOUR.float()), "labels are torch.float32"),
        ("a label too few", lambda p: replace(SPLIT, labels=FOUR[1:]), "labels have shape (15,)"),
        ("a label out of range", lambda p: replace(SPLIT, labels=FOUR + 1), "labels[3] is 4; expected 0 to 3"),
        ("names in one text", lambda p: replace(SPLIT, class_names="abcd"), "class_names='abcd' ... several names"),
        ("a name twice", lambda p: replace(SPLIT, class_names=("a", "b", "a", "c")), "class_names= ... each name once"),
        ("names of numbers", lambda p: replace(SPLIT, class_names=(0, 1, 2, 3)), "class_names= ... several names"),
        ("no names", lambda p: replace(SPLIT, class_names=()), "class_names=() ... several names"),
        ("an image that is not there", lambda p: SPLIT.select(torch.tensor([99])), "indices= ... 0 to 15"),
        ("images by fractions", lambda p: SPLIT.select(torch.tensor([0.5])), "indices= ... 0 to 15"),
        ("images by text", lambda p: SPLIT.select("first"), "indices='first' ... 0 to 15"),
        ("no images taken", lambda p: SPLIT.take(0), "count=0 ... at least one image for each of the 4"),
        ("images taken by text", lambda p: SPLIT.take("8"), "count='8' ... at least one image for each"),
        ("half an image taken", lambda p: SPLIT.take(8.5), "count=8.5 ... at least one image for each"),
        ("a test split that is closed", lambda p: DATASET.test, "The test split is sealed", DataError),
        ("a split for a data set", lambda p: data.hide_labels(SPLIT), "dataset= ... load_data"),
        ("a name for a data set", lambda p: data.rejoin("cifar10"), "dataset='cifar10' ... load_data"),
        ("pairs among lists", lambda p: data.identical_pairs([1], [1]), "a=[1] ... images (N, 3, H, W)"),
        ("pairs of other sizes", lambda p: data.identical_pairs(IMAGES, IMAGES[..., :4]), "b= ... images of one size"),
        ("an unknown data set", lambda p: data.load_data("cifar-10"), "name='cifar-10' ... Did you mean 'cifar10'?"),
        ("no data set", lambda p: data.load_data(None), "name=None ... cifar10, cifar100"),
        (
            "an unknown source",
            lambda p: data.load_data("cifar10", source="fake"),
            "source (CIFAR_DATA)='fake' ... auto",
        ),
        ("a folder of data that is a number", lambda p: data.load_data("cifar10", folder=3), "folder=3 ... a path"),
        (
            "a folder of data that is a file",
            lambda p: data.load_data("cifar10", source="real", folder=write(p / "data")),
            "is a file; CIFAR_DATA_DIR must name a folder",
            DataError,
        ),
    ],
    "data.folders": [
        ("no folder", lambda p: data.read_image_folder(p / "nowhere"), "nowhere ... one folder per class", DataError),
        ("an empty folder", lambda p: data.read_image_folder(p), "holds no pictures ... one folder", DataError),
        ("a folder by number", lambda p: data.read_image_folder(3), "folder=3 ... a path"),
        ("a size of 0", lambda p: data.read_image_folder(p, size=0), "size=0 ... whole number of pixels, 1 or more"),
        ("a size of 7.5", lambda p: data.read_image_folder(p, size=7.5), "size=7.5 ... whole number of pixels"),
        ("a size of True", lambda p: data.read_image_folder(p, size=True), "size=True ... whole number of pixels"),
        ("an unknown split", lambda p: data.read_image_folder(p, "training"), "name='training' ... train, val, test"),
        (
            "a name twice",
            lambda p: data.read_image_folder(p, class_names=["a", "a"]),
            "class_names= ... each name once",
        ),
        ("names in one text", lambda p: data.read_image_folder(p, class_names="ab"), "class_names='ab' ... several"),
        (
            "a class without a picture",
            lambda p: data.read_image_folder(write(folder_of(p, "a/1.png") / "b" / "notes.txt").parents[1]),
            "no pictures of 'b' ... add pictures",
            DataError,
        ),
        (
            "the folder above the splits",
            lambda p: data.read_image_folder(folder_of(p, "train/1.png", "val/1.png")),
            "holds the splits 'train', 'val' ... read each folder by itself",
            DataError,
        ),
        (
            "a class that training lacks",
            lambda p: data.read_image_folder(folder_of(p, "a/1.png"), "val", class_names=("b",)),
            "holds classes ['a'] that training does not know",
            DataError,
        ),
        (
            "a file that is no picture",
            lambda p: data.read_image_folder(write(p / "a" / "1.png").parents[1]),
            "1.png is no picture that Pillow can read whole",
        ),
        ("an augmentation of batches", lambda p: PictureFolder(p, transform=Flip()), "transform=Flip ... for Batches"),
        ("augmented validation", lambda p: PictureFolder(p, "val", transform=abs), "transform= ... only training"),
        (
            "a normaliser of no picture",
            lambda p: PictureFolder(folder_of(p, "a/1.png")).fit_normaliser(0),
            "count=0 ... whole number of at least 1",
        ),
        (
            "a normaliser of validation",
            lambda p: PictureFolder(folder_of(p, "a/1.png"), "val").fit_normaliser(),
            "split='val' ... training split alone",
        ),
        (
            "a picture that is not there",
            lambda p: PictureFolder(folder_of(p, "a/1.png")).read([1]),
            "numbers=[1] ... 0 to 0",
        ),
        ("a loader of a path", lambda p: data.PictureLoader(p, NORMALISER), "folder= ... a PictureFolder"),
        (
            "a loader without a normaliser",
            lambda p: data.PictureLoader(PictureFolder(folder_of(p, "a/1.png")), None),
            "normaliser=None ... fit_normaliser",
        ),
        (
            "a loader of empty batches",
            lambda p: data.PictureLoader(PictureFolder(folder_of(p, "a/1.png")), NORMALISER, batch_size=0),
            "batch_size=0 ... whole number of at least 1",
        ),
        ("a folder without a name", lambda p: data.read_image_folder(""), "folder='' ... a path"),
        ("names of numbers", lambda p: data.read_image_folder(p, class_names=[1, 2]), "class_names=[1, 2] ... several"),
        ("an order by text", lambda p: PictureFolder(p, natural_order="yes"), "natural_order='yes' ... True or False"),
        ("a transform's class", lambda p: PictureFolder(p, transform=nn.Identity), "transform= ... this is a class"),
        ("several transforms", lambda p: PictureFolder(p, transform=[abs]), "transform= ... a function of one image"),
        ("a picture by name", lambda p: pictures_of(p)["1.png"], "i='1.png' ... the number of a picture"),
        ("a half picture", lambda p: pictures_of(p)[0.5], "i=0.5 ... the number of a picture, 0 to 1"),
        ("pictures by their count", lambda p: pictures_of(p).read(2), "numbers=2 ... whole numbers, 0 to 1"),
        ("pictures below 0", lambda p: pictures_of(p).read([-1]), "numbers=[-1] ... whole numbers, 0 to 1"),
        (
            "a transform to floats",
            lambda p: next(iter(data.PictureLoader(pictures_of(p, transform=torch.Tensor.float), NORMALISER))),
            "transform= ... gave float32 (3, 8, 8) ... uint8 tensors",
        ),
        (
            "a transform to nothing",
            lambda p: next(iter(data.PictureLoader(pictures_of(p, transform=lambda x: None), NORMALISER))),
            "transform= ... gave NoneType ... uint8 tensors",
        ),
        (
            "a loader of a normaliser's values",
            lambda p: data.PictureLoader(pictures_of(p), NORMALISER.to_dict()),
            "normaliser= ... fit_normaliser",
        ),
    ],
    "data.pictures": [
        ("no file", lambda p: data.to_square(p / "nothing.png", 8), "nothing.png", FileNotFoundError),
        ("no picture", lambda p: data.to_square(write(p / "notes.txt"), 8), "notes.txt is no picture"),
        ("a folder", lambda p: data.to_square(p, 8), "picture= ... a file; this is a folder"),
        ("a number", lambda p: data.to_square(3, 8), "picture is a int; expected one of a path"),
        ("nothing", lambda p: data.to_square(None, 8), "picture is a NoneType; expected one of a path"),
        ("bytes of nothing", lambda p: data.to_square(b"", 8), "(0 bytes) is no picture"),
        ("floats", lambda p: data.to_square(np.zeros((8, 8, 3)), 8), "float64 (8, 8, 3); expected one of"),
        ("two tensors", lambda p: data.to_square(IMAGES[:2], 8), "(2, 3, 8, 8); expected one of"),
        ("no pixels", lambda p: data.to_square(IMAGES[0, :, :0], 8), "picture= ... at least one pixel"),
        ("levels nobody knows", lambda p: data.to_square(PICTURE.convert("F"), 8), "mode F ... 8 or 16 bits"),
        ("a side of 0", lambda p: data.to_square(PICTURE, 0), "size=0 ... whole number of pixels, 1 or more"),
        ("a side of text", lambda p: data.to_square(PICTURE, "8"), "size='8' ... whole number of pixels"),
        ("a side of True", lambda p: data.to_square(PICTURE, True), "size=True ... whole number of pixels"),
        ("a side beyond any memory", lambda p: data.to_square(PICTURE, 2**40), "size=1099511627776 ... at most 16,384"),
        ("a path below a file", lambda p: data.to_square(write(p / "a") / "1.png", 8), "1.png is no picture"),
        ("an array of five channels", lambda p: data.to_square(np.ones((8, 8, 5), np.uint8), 8), "(8, 8, 5); expected"),
        ("a plain number of NumPy", lambda p: data.to_square(np.uint8(3), 8), "picture is a uint8 ... expected one of"),
        ("an address", lambda p: data.to_square("http://example.org/a.png", 8), "picture='http: ... fetch"),
    ],
    "data.batches": [
        ("no split", lambda p: Batches(None, NORMALISER), "split=None ... a Split"),
        ("no normaliser", lambda p: Batches(SPLIT, None), "normaliser=None ... a Normaliser"),
        ("an unknown device", lambda p: Batches(SPLIT, NORMALISER, "gpu"), "device='gpu' ... choose auto"),
        ("an empty batch", lambda p: Batches(SPLIT, NORMALISER, batch_size=0), "batch_size=0 ... at least 1"),
        ("half an image", lambda p: Batches(SPLIT, NORMALISER, batch_size=1.5), "batch_size=1.5 ... whole number"),
        ("a batch by text", lambda p: Batches(SPLIT, NORMALISER, batch_size="8"), "batch_size='8' ... whole number"),
        ("no image at once", lambda p: Batches(SPLIT, NORMALISER, eval_batch_size=0), "eval_batch_size=0 ... at least"),
        ("one augmentation", lambda p: Batches(SPLIT, NORMALISER, augment=Flip()), "augment=Flip ... (Flip(),)"),
        ("a class for one", lambda p: Batches(SPLIT, NORMALISER, augment=(Flip,)), "augment= ... (Flip(),)"),
        ("augmented validation", lambda p: Batches(VAL_SPLIT, NORMALISER, augment=[Flip()]), "only training images"),
        ("another split that is none", lambda p: TRAIN.like(IMAGES), "split= ... a Split"),
        ("steps of no image", lambda p: TRAIN.steps(0), "batch_size=0 ... at least 1"),
        ("an epoch of empty batches", lambda p: next(TRAIN.epoch(0, seed=0, batch_size=0)), "batch_size=0"),
        (
            "an epoch of validation",
            lambda p: next(VAL.epoch(0, seed=0, batch_size=4)),
            "split='val' ... training split",
        ),
        ("splits the wrong way round", lambda p: data.make_batches(VAL_SPLIT, SPLIT), "split='val' ... training split"),
        (
            "splits the wrong way round, with a normaliser",
            lambda p: data.make_batches(VAL_SPLIT, SPLIT, "cpu", NORMALISER),
            "train='val' ... the training split first",
        ),
        ("bare numbers", lambda p: data.make_batches(SPLIT, VAL_SPLIT, "cpu", (0.5, 0.2)), "normaliser=(0.5, 0.2)"),
    ],
    "data.transforms": [
        ("a std of 0", lambda p: Normaliser((0.5,) * 3, (0.0,) * 3), "std= ... positive"),
        ("a std below 0", lambda p: Normaliser((0.5,) * 3, (-0.2,) * 3), "std= ... positive"),
        ("a std of NaN", lambda p: Normaliser((0.5,) * 3, (math.nan,) * 3), "std= ... three finite"),
        ("a mean of NaN", lambda p: Normaliser((math.nan,) * 3, (0.2,) * 3), "mean= ... three"),
        ("one channel", lambda p: Normaliser((0.5,), (0.2,)), "mean=(0.5,) ... three"),
        ("a probability of 2", lambda p: Flip(2), "p=2 ... lies in [0, 1]"),
        ("half a pixel", lambda p: data.PadCrop(1.5), "padding=1.5 ... whole pixels, 0 or more"),
        ("padding below 0", lambda p: data.PadCrop(-1), "padding=-1 ... whole pixels, 0 or more"),
        ("a square of nothing", lambda p: data.Cutout(0), "size=0 ... whole pixels, 1 or more"),
        ("a strength of 2", lambda p: data.ColourJitter(2), "brightness=2 ... lies in [0, 1]"),
        ("an angle of NaN", lambda p: data.Rotation(math.nan), "degrees=nan ... lies in [0, 180]"),
        ("a weight of 2", lambda p: data.mixup(X, SQUARE, 2), "lam=2 ... lies in [0, 1]"),
        ("classes to mix", lambda p: data.mixup(X, Y, 0.5), "targets= ... one_hot"),
        ("statistics of validation", lambda p: Normaliser.fit(VAL_SPLIT), "split='val' ... training split alone"),
        (
            "padding beyond the picture",
            lambda p: next(TRAIN.epoch(0, seed=0, batch_size=4, augment=(data.PadCrop(8),))),
            "padding=8 ... reflects fewer",
        ),
        (
            "a function to floats",
            lambda p: next(TRAIN.epoch(0, seed=0, batch_size=4, augment=(torch.Tensor.float,))),
            "augment= ... uint8 tensors (3, H, W)",
        ),
        ("a probability of text", lambda p: Flip("half"), "p='half' ... lies in [0, 1]"),
        ("a strength of text", lambda p: data.ColourJitter("much"), "brightness='much' ... lies in [0, 1]"),
        ("an angle of text", lambda p: data.Rotation("wide"), "degrees='wide' ... lies in [0, 180]"),
        ("padding of True", lambda p: data.PadCrop(True), "padding=True ... whole pixels"),
        ("a colour of text", lambda p: data.Cutout(level="grey"), "level='grey' ... 0 to 255"),
        ("a function that is none", lambda p: data.PerImage(3), "function=3 ... a function"),
        ("a weight of text", lambda p: data.mixup(X, SQUARE, "half"), "lam='half' ... lies in [0, 1]"),
        ("a size of 0", lambda p: data.resize(X, 0), "size=0 ... at least 1"),
        ("a permutation by text", lambda p: data.permute_pixels(X, "one"), "seed='one' ... a whole number"),
        ("one number for three", lambda p: Normaliser(0.5, 0.2), "mean=0.5 ... three"),
        ("statistics of nothing", lambda p: Normaliser.fit(None), "split=None ... training split"),
        ("images of floats", lambda p: NORMALISER(X), "images are torch.float32; expected torch.uint8"),
        ("a mean of levels", lambda p: Normaliser((125.0,) * 3, (62.0,) * 3), "mean= ... pixels in [0, 1] ... by 255"),
        ("a colour of two", lambda p: data.Cutout(level=(1, 2)), "level=(1, 2) ... three whole numbers"),
        ("a colour beyond white", lambda p: data.Rotation(level=(300, 0, 0)), "level=(300, 0, 0) ... 0 to 255"),
        ("a function's class", lambda p: data.PerImage(Flip), "function= ... this is a class"),
        (
            "targets of other counts",
            lambda p: data.mixup(X, SQUARE, 0.5),
            "targets= ... probabilities (B, num_classes)",
        ),
        ("raw pixels to mix", lambda p: data.mixup(IMAGES, torch.ones(16, 4), 0.5), "images= ... floating-point"),
        ("one image to permute", lambda p: data.permute_pixels(X[0], 0), "images= ... images[None]"),
        ("images of NumPy", lambda p: NORMALISER(IMAGES.numpy()), "images= ... a tensor, torch.uint8"),
        ("one grey channel", lambda p: NORMALISER(IMAGES[:, :1]), "one channel ... expand"),
        ("raw pixels to invert", lambda p: NORMALISER.inverse(IMAGES), "images= ... normalised images"),
        ("statistics of images", lambda p: Normaliser.fit(IMAGES), "split= ... a training split"),
    ],
    "data.corruptions": [
        ("an unknown kind", lambda p: data.corrupt(IMAGES, "fog", 1), "kind='fog' ... noise, blur"),
        ("a strength of 4", lambda p: data.corrupt(IMAGES, "noise", 4), "strength=4 ... 1, 2 or 3"),
        ("a strength of text", lambda p: data.corrupt(IMAGES, "noise", "1"), "strength='1' ... 1, 2 or 3"),
        ("floats", lambda p: data.corrupt(X, "noise", 1), "images are torch.float32"),
        ("a list", lambda p: data.corrupt([1], "noise", 1), "images=[1] ... a tensor"),
        ("one image", lambda p: data.corrupt(IMAGES[0], "blur", 1), "images have shape (3, 8, 8)"),
        ("no images", lambda p: data.corrupt(IMAGES[:0], "jpeg", 1), "images are empty"),
    ],
    "data.synthetic": [
        ("no class", lambda p: synthetic.class_parts(0), "num_classes=0 ... 1 to 10, or 100"),
        ("classes that would be the same", lambda p: synthetic.class_names(20), "num_classes=20 ... 1 to 10, or 100"),
        ("classes by text", lambda p: synthetic.class_names("10"), "num_classes='10' ... 1 to 10, or 100"),
        (
            "labels that do not come out even",
            lambda p: synthetic.make_labels(5, 10, None),
            "count=5 ... multiple of 10",
        ),
        ("labels of no class", lambda p: synthetic.make_labels(5, 0, None), "num_classes=0 ... 1 to 10, or 100"),
        ("images of a list", lambda p: synthetic.make_images([0], 10, None), "labels=[0] ... torch.int64"),
        (
            "images of a class too many",
            lambda p: synthetic.make_images(FOUR, 2, None),
            "labels[2] is 2; expected 0 to 1",
        ),
    ],
    "data.download": [
        ("files of a name", lambda p: download.ensure_files("cifar10", p), "source='cifar10' ... SOURCES"),
        ("files in no path", lambda p: download.ensure_files(data.SOURCES["cifar10"], 3), "folder=3 ... a path"),
        (
            "files in a file",
            lambda p: download.ensure_files(data.SOURCES["cifar10"], write(p / "data")),
            "is a file; CIFAR_DATA_DIR must name a folder",
            DataError,
        ),
        ("wrong files of a name", lambda p: download.wrong_files("cifar10", p), "source='cifar10' ... SOURCES"),
        ("contents of a name", lambda p: download.read_official("cifar10", p), "source='cifar10' ... SOURCES"),
        (
            "contents of nothing",
            lambda p: download.read_official(data.SOURCES["cifar10"], p),
            "does not hold the files of CIFAR-10",
            DataError,
        ),
        ("one mirror as text", lambda p: download.reachable_mirrors("https://a"), "urls='https://a' ... several"),
        ("no time to answer", lambda p: download.reachable_mirrors((), -1), "timeout=-1 ... a positive number"),
    ],
    "models.networks": [
        ("an unknown network", lambda p: make_model("cnnn"), "name='cnnn' ... Did you mean 'cnn'?"),
        ("no network", lambda p: make_model(None), "name=None ... choose one of linear"),
        ("a width of -1", lambda p: make_model("cnn", width=-1), "width=-1 ... a positive factor"),
        ("a width of NaN", lambda p: make_model("cnn", width=math.nan), "width=nan ... a positive factor"),
        ("a width of text", lambda p: make_model("cnn", width="1"), "width='1' ... a positive factor"),
        ("no class", lambda p: make_model("cnn", 0), "num_classes=0 ... at least 2"),
        ("one class", lambda p: make_model("cnn", 1), "num_classes=1 ... at least 2"),
        ("classes by text", lambda p: make_model("cnn", "10"), "num_classes='10' ... at least 2"),
        ("half a class", lambda p: make_model("cnn", 2.5), "num_classes=2.5 ... at least 2"),
        ("no pixel", lambda p: make_model("cnn", image_size=0), "image_size=0 ... at least 8"),
        ("7.5 pixels", lambda p: make_model("cnn", image_size=7.5), "image_size=7.5 ... at least 8"),
        ("8.5 pixels", lambda p: make_model("cnn", image_size=8.5), "image_size=8.5 ... at least 8"),
        ("pixels by text", lambda p: make_model("cnn", image_size="32"), "image_size='32' ... at least 8"),
        ("too few pixels", lambda p: make_model("vgg16", image_size=16), "image_size=16 ... at least 32"),
        ("a seed of text", lambda p: make_model("linear", seed="one"), "seed='one' ... a whole number"),
        ("dropout of all", lambda p: make_model("cnn", dropout=1), "dropout=1 ... [0, 1)"),
        ("an unknown activation", lambda p: make_model("cnn", activation="swish"), "activation='swish' ... relu"),
        ("an unknown field", lambda p: ModelConfig.from_dict({"nam": "cnn"}), "field='nam' ... Did you mean 'name'?"),
        ("no name", lambda p: ModelConfig.from_dict({"width": 1}), "values= ... the name of a network"),
        ("a text for fields", lambda p: ModelConfig.from_dict("cnn"), "values='cnn' ... to_dict"),
        ("a name for a configuration", lambda p: models.build_model("cnn", TRAIN), "config='cnn' ... ModelConfig"),
        ("a split for batches", lambda p: models.build_model(ModelConfig("cnn"), SPLIT), "train= ... make_batches"),
        ("whitening a network without a stem", lambda p: models.whiten(CNN, X), "model= ... make_model('fast')"),
        ("whitening by pixels", lambda p: models.whiten(CNN, IMAGES), "images= ... normalised"),
        ("a block of no channels", lambda p: models.ResidualBlock(0, 8, 1, True), "c_in=0 ... at least 1"),
        ("a block that does not move", lambda p: models.ResidualBlock(8, 8, 0, True), "stride=0 ... at least 1"),
        ("a factor of text", lambda p: networks.Scale("2"), "factor='2' ... a number"),
        (
            "a seed beyond 64 bits",
            lambda p: make_model("linear", seed=2**70),
            "seed=1180591620717411303424 ... 64 bits",
        ),
        ("a seed of True", lambda p: make_model("linear", seed=True), "seed=True ... a whole number"),
        (
            "whitening by no image",
            lambda p: models.whiten(make_model("fast", width=0.1), X[:0]),
            "images= ... at least",
        ),
        (
            "whitening by NaN",
            lambda p: models.whiten(make_model("fast", width=0.1), X * math.nan),
            "images= ... finite",
        ),
        (
            "whitening by validation",
            lambda p: models.build_model(ModelConfig("fast", 0.1), VAL.like(LARGE)),
            "train='val'",
        ),
    ],
    "models.efficientnet": [
        ("no class", lambda p: efficientnet.make_efficientnet_lite0(0), "num_classes=0 ... at least 1"),
        ("classes by text", lambda p: efficientnet.make_efficientnet_lite0("10"), "num_classes='10' ... whole"),
        ("no expansion", lambda p: efficientnet.InvertedResidual(8, 8, 3, 1, 0), "expansion=0 ... at least 1"),
        ("no kernel", lambda p: efficientnet.InvertedResidual(8, 8, 0, 1, 1), "kernel=0 ... at least 1"),
        ("padding of its own", lambda p: efficientnet.SameConv2d(3, 4, 3, padding=1), "padding=(1, 1) ... follows"),
        ("dilated", lambda p: efficientnet.SameConv2d(3, 4, 3, dilation=2), "dilation=(2, 2) ... 1"),
    ],
    "models.summary": [
        ("a layer that is not there", lambda p: models.receptive_field(CNN, "nine"), "name='nine' ... layer_table"),
        ("a layer without places", lambda p: models.receptive_field(CNN, "16"), "name='16' ... a convolution"),
        ("a table of nothing", lambda p: models.layer_table(None), "model=None ... torch.nn.Module"),
        ("a table without weights", lambda p: models.layer_table(nn.Flatten(), 8), "model= ... parameters"),
        ("a table of 0 pixels", lambda p: models.layer_table(CNN, 0), "image_size=0 ... at least 1"),
        ("a table of other pixels", lambda p: models.layer_table(CNN, 32), "(1, 3, 32, 32) ... made for 8 pixels"),
        ("parameters of nothing", lambda p: models.count_parameters(None), "model=None ... torch.nn.Module"),
        ("a field of 7.5 pixels", lambda p: models.receptive_field(CNN, "0", 7.5), "image_size=7.5 ... whole"),
        ("maps of raw pixels", lambda p: models.feature_maps(CNN, IMAGES), "images= ... float"),
        ("spreads of one image", lambda p: models.activation_spreads(CNN, X[0]), "images= ... (N, 3, H, W)"),
        ("gradients without labels", lambda p: models.gradient_sizes(CNN, X, Y[1:]), "labels have shape (7,)"),
        ("a table of a class", lambda p: models.layer_table(nn.Linear), "model= ... this is a class"),
        ("a table of True pixels", lambda p: models.layer_table(CNN, True), "image_size=True ... whole number"),
        ("maps of other pixels", lambda p: models.feature_maps(CNN, torch.ones(2, 3, 32, 32)), "made for 8 pixels"),
        ("spreads of a single image", lambda p: models.activation_spreads(CNN, X[:1]), "images= ... at least two"),
        ("gradients of listed labels", lambda p: models.gradient_sizes(CNN, X, [0] * 8), "labels= ... torch.int64"),
        (
            "gradients of a class too many",
            lambda p: models.gradient_sizes(CNN, X, Y + 1),
            "labels[3] is 4; expected 0 to 3",
        ),
    ],
    "training.config": [
        ("no epoch", lambda p: TrainConfig(epochs=0), "epochs=0 ... a whole number of at least 1"),
        ("half an epoch", lambda p: TrainConfig(epochs=1.5), "epochs=1.5 ... a whole number"),
        ("an epoch of True", lambda p: TrainConfig(epochs=True), "epochs=True ... a whole number"),
        ("a rate of text", lambda p: TrainConfig(lr="0.1"), "lr='0.1' ... a number, not NaN"),
        ("a rate of 0", lambda p: TrainConfig(lr=0), "lr=0 ... a positive number"),
        ("a rate of NaN", lambda p: TrainConfig(lr=math.nan), "lr=nan ... a number, not NaN"),
        ("a rate in a tensor", lambda p: TrainConfig(lr=torch.tensor(0.1)), "lr=tensor(0.1000) ... a number, not NaN"),
        ("an infinite factor", lambda p: TrainConfig(norm_bias_lr=math.inf), "norm_bias_lr=inf ... a number, not NaN"),
        ("an infinite decay", lambda p: TrainConfig(weight_decay=math.inf), "weight_decay=inf ... a number, not NaN"),
        ("decay below 0", lambda p: TrainConfig(weight_decay=-1), "weight_decay=-1 ... 0 or more"),
        ("endless mixing", lambda p: TrainConfig(mixup=math.inf), "mixup=inf ... a number, not NaN"),
        ("momentum of 1", lambda p: TrainConfig(momentum=1), "momentum=1 ... [0, 1)"),
        ("Nesterov without momentum", lambda p: TrainConfig(momentum=0), "nesterov=True ... momentum above 0"),
        ("an empty batch", lambda p: TrainConfig(batch_size=0), "batch_size=0 ... at least 1"),
        ("no patience", lambda p: TrainConfig(patience=0), "patience=0 ... at least 1"),
        ("an unknown optimizer", lambda p: TrainConfig(optimizer="SGD"), "optimizer='SGD' ... Did you mean 'sgd'?"),
        ("an optimizer's class", lambda p: TrainConfig(optimizer=torch.optim.SGD), "optimizer= ... a text"),
        ("an unknown schedule", lambda p: TrainConfig(schedule="linear"), "schedule='linear' ... constant, cosine"),
        ("an unknown precision", lambda p: TrainConfig(precision="bf16"), "precision='bf16' ... bfloat16"),
        ("one augmentation", lambda p: TrainConfig(augment=Flip()), "augment=Flip ... (Flip(),)"),
        ("a class for one", lambda p: TrainConfig(augment=(Flip,)), "augment= ... (Flip()"),
        ("augmentations in a text", lambda p: TrainConfig(augment=("Flip",)), "augment=('Flip',) ... instances"),
        ("one image size", lambda p: TrainConfig(image_sizes=24), "image_sizes=24 ... rising shares"),
        ("sizes that begin late", lambda p: TrainConfig(image_sizes=((0.5, 24),)), "image_sizes= ... from 0"),
        ("sizes in a list", lambda p: TrainConfig(image_sizes=[(0, 24)]), "image_sizes= ... rising shares"),
        ("a size of 4", lambda p: TrainConfig(image_sizes=((0, 4),)), "image_sizes= ... 8 or more"),
        ("compiled by text", lambda p: TrainConfig(compile="no"), "compile='no' ... True or False"),
        ("frozen below 0", lambda p: TrainConfig(frozen_layers=-1), "frozen_layers=-1 ... 0 or more"),
        ("betas", lambda p: TrainConfig.from_dict({"betas": (0.9, 0.999)}), "field='betas' ... choose one of epochs"),
        ("a text for fields", lambda p: TrainConfig.from_dict("sgd"), "plain='sgd' ... to_dict"),
        ("an unknown augmentation", lambda p: TrainConfig.from_dict({"augment": [{"name": "Blur"}]}), "augment='Blur'"),
        (
            "an augmentation's name",
            lambda p: TrainConfig.from_dict({"augment": ["Flip"]}),
            "augment='Flip' ... to_dict",
        ),
        (
            "a nameless one",
            lambda p: TrainConfig.from_dict({"augment": [{"p": 0.5}]}),
            "augment={'p': 0.5} ... to_dict",
        ),
        (
            "an unknown value of one",
            lambda p: TrainConfig.from_dict({"augment": [{"name": "Flip", "q": 1}]}),
            "field='q' ... choose one of p",
        ),
        ("a size without a share", lambda p: TrainConfig.from_dict({"image_sizes": [[24]]}), "image_sizes= ... rising"),
        (
            "sizes that are one",
            lambda p: TrainConfig.from_dict({"image_sizes": 24}),
            "image_sizes=24 ... rising shares",
        ),
    ],
    "training.loop": [
        ("the test split", lambda p: fitted(val=Batches(TEST_SPLIT, NORMALISER)), "the test split; choose on `val`"),
        ("splits the wrong way round", lambda p: fitted(train=VAL, val=TRAIN), "train is the validation split"),
        ("other classes", lambda p: fitted(val=VAL.like(replace(VAL_SPLIT, class_names=(*"abcd",)))), "the same order"),
        ("no batch", lambda p: fitted(train=[]), "train holds no batch; expected at least one"),
        ("batches of numbers", lambda p: fitted(train=[1, 2]), "batches of (int); expected pairs of tensors"),
        ("batches of text", lambda p: fitted(train="cifar10"), "batches of (str); expected pairs of tensors"),
        ("batches without labels", lambda p: fitted(train=[X]), "batches of (Tensor); expected pairs"),
        ("a generator", lambda p: fitted(train=iter([(X, Y)])), "have no length; expected a list or a DataLoader"),
        ("raw pixels", lambda p: fitted(train=[(IMAGES, FOUR)]), "torch.uint8; expected normalised torch.float32"),
        ("channels last", lambda p: fitted(train=[(X.permute(0, 2, 3, 1), Y)]), "channels last ... permute"),
        ("labels of floats", lambda p: fitted(train=[(X, Y.float())]), "labels are torch.float32 ... class numbers"),
        ("labels one-hot", lambda p: fitted(train=[(X, torch.eye(4)[Y])]), "expected torch.int64 class numbers"),
        ("a class too many", lambda p: fitted(train=[(X, Y + 1)]), "train label 4 at position 3; expected 0 to 3"),
        ("a label too few", lambda p: fitted(train=[(X, Y[1:])]), "labels have shape (7,); expected (8,)"),
        ("a batch of one", lambda p: fitted(train=[(X[:1], Y[:1])]), "a last batch of one image"),
        (
            "images of other sizes",
            lambda p: fitted(tiny_net(False), [(X, Y), (X[..., :6], Y)]),
            "cannot take images of shape",
        ),
        ("a model for other sizes", lambda p: fitted(make_model("mlp", 4, width=0.01)), "made for 32 pixels"),
        ("a model without logits", lambda p: fitted(nn.Conv2d(3, 4, 3)), "the model returns shape ... (N, C)"),
        ("nothing to train", lambda p: fitted(nn.Flatten(), [(X, Y)], [(X, Y)]), "model='Flatten' ... a parameter"),
        ("an unknown device", lambda p: fitted(device="gpu"), "device='gpu' ... choose auto"),
        ("one callback", lambda p: fitted(callbacks=training.EarlyStopping(3)), "callbacks= ... also of one"),
        ("a callback's class", lambda p: fitted(callbacks=[training.EarlyStopping]), "callbacks= ... functions"),
        ("an optimizer's class", lambda p: fitted(optimizer=torch.optim.SGD), "optimizer= ... lambda model"),
        ("an unknown rhythm", lambda p: fitted(scheduler_every="batch"), "scheduler_every='batch' ... 'step'"),
        (
            "a field that is not used",
            lambda p: fitted(train=[(X, Y)], config=TrainConfig(batch_size=4)),
            "batch_size=4",
        ),
        ("a sum for a mean", lambda p: fitted(loss=nn.CrossEntropyLoss(reduction="sum")), "loss= ... the mean"),
        ("a folder for a checkpoint", lambda p: fitted(checkpoint=p), "checkpoint= ... the path of a file"),
        ("an empty path", lambda p: fitted(checkpoint=""), "checkpoint='' ... the path of a file"),
        (
            "a logits file for a checkpoint",
            lambda p: fitted(checkpoint=logits_file(p)),
            "logits.safetensors holds tensors and no run; expected a file that fit",
            CheckpointError,
        ),
        (
            "a text for a checkpoint",
            lambda p: fitted(checkpoint=write(p / "notes.txt")),
            "notes.txt is no checkpoint",
            CheckpointError,
        ),
        ("more layers frozen than there are", lambda p: fitted(config=TrainConfig(frozen_layers=9)), "frozen_layers=9"),
        (
            "pixels that are NaN",
            lambda p: step((X * math.nan, Y)),
            "loss is not finite ... hold NaN or infinity",
            TrainingDiverged,
        ),
        ("an epoch of nothing", lambda p: step(), "count=0 ... at least one example"),
        ("a step with a label of -100", lambda p: step((X, Y - 100)), "labels[0] is -100; expected 0 to 3"),
        (
            "unequal budgets",
            lambda p: training.sweep({"a": TrainConfig(epochs=1), "b": TrainConfig(epochs=2)}, None, TRAIN, VAL),
            "a sweep compares equal budgets",
        ),
        ("no model", lambda p: fitted(None), "model=None ... torch.nn.Module"),
        ("a model's class", lambda p: fitted(nn.Linear), "model= ... torch.nn.Module"),
        ("a split for batches", lambda p: fitted(train=SPLIT), "train= ... make_batches"),
        ("a configuration by name", lambda p: fitted(config="fast"), "config='fast' ... TrainConfig"),
        ("a configuration of plain values", lambda p: fitted(config={"epochs": 1}), "config= ... from_dict"),
        ("a loss by name", lambda p: fitted(loss="ce"), "loss='ce' ... a function"),
        ("an optimizer by name", lambda p: fitted(optimizer="adam"), "optimizer='adam' ... lambda model"),
        ("a checkpoint by number", lambda p: fitted(checkpoint=3), "checkpoint=3 ... the path of a file"),
        ("no configuration", lambda p: training.sweep({}, None, TRAIN, VAL), "configs={} ... at least one"),
        (
            "configurations of names",
            lambda p: training.sweep({"a": "fast"}, None, TRAIN, VAL),
            "configs= ... TrainConfig",
        ),
        ("an unknown field", lambda p: training.tabulate({"a": [RECORD]}, "score"), "field='score' ... val_accuracy"),
        ("seeds of other counts", lambda p: training.tabulate({"a": [RECORD], "b": []}), "runs= ... equally many"),
        ("a loss's class", lambda p: fitted(loss=nn.CrossEntropyLoss), "loss= ... this is a class"),
        ("a loss for each image", lambda p: fitted(loss=nn.CrossEntropyLoss(reduction="none")), "loss= ... the mean"),
        ("a loss without a gradient", lambda p: fitted(loss=lambda x, y: x.detach().mean()), "loss= ... no detach()"),
        ("a scheduler by name", lambda p: fitted(scheduler="cosine"), "scheduler='cosine' ... lambda optimizer"),
        ("a device by number", lambda p: fitted(device=0), "device='0' ... choose auto"),
        ("a name by number", lambda p: fitted(name=3), "name=3 ... a text"),
        ("forced by text", lambda p: fitted(force="no"), "force='no' ... True or False"),
        ("a path with a zero in it", lambda p: fitted(checkpoint="a\0"), "checkpoint='a ... the path of a file"),
        ("no validation", lambda p: fitted(val=None), "val=None ... make_batches"),
        ("batches of three", lambda p: step((X, Y, Y)), "batches of (Tensor, Tensor, Tensor); expected pairs"),
        ("single images", lambda p: step((X[0], Y[0])), "single images; expected batches"),
        ("an epoch by an optimizer's name", lambda p: train_epoch(NET, [(X, Y)], "sgd"), "optimizer='sgd' ... SGD"),
        ("an epoch of a tuple", lambda p: step((X, Y), net=Returning(lambda x: (x,))), "returns a tuple ... logits"),
        (
            "an epoch at one rate",
            lambda p: train_epoch(NET, [(X, Y)], torch.optim.SGD(NET.parameters()), lrs=0.1),
            "lrs=0.1 ... itertools.repeat",
        ),
        (
            "an epoch in a format by name",
            lambda p: train_epoch(NET, [(X, Y)], torch.optim.SGD(NET.parameters()), dtype="bfloat16"),
            "dtype='bfloat16' ... torch.bfloat16",
        ),
        (
            "budgets of which one is open",
            lambda p: training.sweep({"a": TrainConfig(), "b": TrainConfig(max_steps=2)}, None, TRAIN, VAL),
            "a sweep compares equal budgets ... None",
        ),
        ("no function that builds", lambda p: training.sweep({"a": TrainConfig()}, None, TRAIN, VAL), "build=None"),
        ("one seed", lambda p: training.sweep({"a": TrainConfig()}, str, TRAIN, VAL, seeds=3), "seeds=3 ... (0, 1, 2)"),
        ("no seed", lambda p: training.sweep({"a": TrainConfig()}, str, TRAIN, VAL, seeds=()), "seeds=() ... at least"),
        (
            "one path for all runs",
            lambda p: training.sweep({"a": TrainConfig()}, str, TRAIN, VAL, checkpoint="a"),
            "checkpoint='a' ... lambda name",
        ),
        ("a table of nothing", lambda p: training.tabulate({}), "runs={} ... at least one name"),
        ("a table of one record", lambda p: training.tabulate({"a": RECORD}), "runs= ... in a list for each name"),
    ],
    "training.evaluation": [
        (
            "hidden labels",
            lambda p: evaluate(NET, Batches(replace(TEST_SPLIT, labels=0 * TEST_SPLIT.labels), NORMALISER)),
            "every label of this test split is 0",
        ),
        (
            "another normalisation",
            lambda p: predict(make_transfer_model(BACKBONE, 4), Batches(SPLIT, Normaliser((0,) * 3, (1,) * 3))),
            "normalised with ... make_batches",
        ),
        ("a label of -100", lambda p: evaluate(NET, [(X, Y - 100)]), "label -100 at position 0; expected 0 to 3"),
        ("nothing to evaluate", lambda p: evaluate(NET, []), "batches= ... at least one"),
        ("nothing to predict", lambda p: predict(NET, []), "batches= ... at least one"),
        ("no model", lambda p: predict(None, VAL), "model=None ... torch.nn.Module"),
        ("a split for batches", lambda p: evaluate(NET, SPLIT), "batches= ... make_batches"),
        ("raw pixels", lambda p: predict(NET, [(IMAGES, FOUR)]), "torch.uint8; expected normalised torch.float32"),
        ("batches of numbers", lambda p: predict(NET, [1, 2]), "batches of (int); expected pairs of tensors"),
        ("batches without labels", lambda p: predict(NET, [X]), "batches of (Tensor); expected pairs of tensors"),
        ("a label too few", lambda p: predict(NET, [(X, Y[1:])]), "labels have shape (7,); expected (8,)"),
        ("a loss by name", lambda p: evaluate(NET, VAL, loss="ce"), "loss='ce' ... a function"),
        (
            "a loss for each image",
            lambda p: evaluate(NET, VAL, loss=nn.CrossEntropyLoss(reduction="none")),
            "loss= ... the mean over the batch",
        ),
        ("views by text", lambda p: predict(NET, VAL, "no"), "tta='no' ... True or False"),
        ("a network of maps", lambda p: evaluate(BODY[0], VAL), "returns shape ... expected logits (N, C)"),
    ],
    "training.optim": [
        ("an unknown schedule", lambda p: training.lr_factor("cosin", 0.5), "schedule='cosin' ... cosine"),
        ("more than all steps", lambda p: training.lr_factor("cosine", 2.0), "progress=2.0 ... [0, 1]"),
        ("an unknown optimizer", lambda p: training.make_optimizer(NET, "rmsprop", lr=0.1), "name='rmsprop' ... sgd"),
        ("a rate below 0", lambda p: training.make_optimizer(NET, lr=-1), "lr=-1 ... a positive number"),
        (
            "a rate of text",
            lambda p: training.set_lr(torch.optim.SGD(NET.parameters()), "0.1"),
            "lr='0.1' ... a number",
        ),
        ("layers below 0", lambda p: enter(optim.freeze_layers(NET, -1)), "frozen_layers=-1 ... 0 or more"),
        ("decay below 0", lambda p: training.parameter_groups(NET, -1), "weight_decay=-1 ... 0 or more"),
        ("a row for a matrix", lambda p: optim.orthogonalise(SQUARE[0]), "matrices= ... (..., m, n)"),
        ("a warm-up of all steps", lambda p: training.lr_factor("cosine", 0.5, 1), "warmup=1 ... [0, 1)"),
        (
            "nothing to train",
            lambda p: training.make_optimizer(Frozen(nn.Linear(2, 2)), lr=0.1),
            "model='Frozen' ... a par",
        ),
        ("Nesterov without momentum", lambda p: training.make_optimizer(NET, lr=0.1, momentum=0), "nesterov=True"),
        ("half a layer", lambda p: enter(optim.freeze_layers(NET, 0.5)), "frozen_layers=0.5 ... whole number"),
        ("a matrix of whole numbers", lambda p: optim.orthogonalise(SQUARE.long()), "matrices= ... floating-point"),
        ("Muon against the gradient", lambda p: optim.Muon(NET.parameters(), -1), "lr=-1 ... a number of 0 or more"),
        ("Muon on a bias", lambda p: muon_step(NET[0].bias), "params='one of shape (4,)' ... filters or matrices"),
    ],
    "training.records": [
        ("the best of nothing", lambda p: training.best_epoch([]), "history=[] ... at least one epoch"),
        ("the best by what is unknown", lambda p: training.best_epoch([EPOCH], "accuracy"), "monitor='accuracy'"),
        ("the best of texts", lambda p: training.best_epoch(["one"]), "history=['one'] ... an EpochRecord"),
    ],
    "training.callbacks": [
        ("no patience", lambda p: training.EarlyStopping(0), "patience=0 ... whole number of at least 1"),
        ("patience of text", lambda p: training.EarlyStopping("3"), "patience='3' ... whole number"),
        ("an unknown measure", lambda p: training.EarlyStopping(3, "accuracy"), "monitor='accuracy' ... val_accuracy"),
        ("an unknown best", lambda p: training.BestWeights("loss"), "monitor='loss' ... val_loss"),
        (
            "a log that is none",
            lambda p: training.CSVLogger(write(p / "log.csv")).on_fit_start((), NET),
            "path= ... a new file",
        ),
        ("a log by number", lambda p: training.CSVLogger(3), "path=3 ... a path"),
        ("a curve of no class", lambda p: training.LiveCurve(0), "num_classes=0 ... at least 2"),
        ("patience of True", lambda p: training.EarlyStopping(True), "patience=True ... whole number of at least 1"),
        ("a log that is a folder", lambda p: training.CSVLogger(p), "path= ... a file; this is a folder"),
        ("TensorBoard by number", lambda p: training.TensorBoardLogger(3), "folder=3 ... a path"),
        ("a curve with a number for a title", lambda p: training.LiveCurve(10, 3), "title=3 ... a text"),
    ],
    "training.checkpoint": [
        ("no file", lambda p: training.load_checkpoint(p / "no"), "cannot be read ... Check the path", CheckpointError),
        ("a folder", lambda p: training.load_checkpoint(p), "is a folder, and no file", CheckpointError),
        ("a text", lambda p: training.load_checkpoint(write(p / "a")), "is no checkpoint", CheckpointError),
        ("logits", lambda p: training.load_checkpoint(logits_file(p)), "holds tensors and no run", CheckpointError),
        ("a file by number", lambda p: training.load_checkpoint(3), "path=3 ... a path"),
        ("a file without a name", lambda p: training.load_checkpoint(""), "path='' ... a path"),
    ],
    "training.parallel": [
        ("replicas that cannot be", lambda p: fitted(config=TrainConfig(replicas=2)), "replicas=2 ... dropout"),
        ("no replica", lambda p: parallel.Replicas(NET, 0), "count=0 ... at least 1"),
        ("replicas of no model", lambda p: parallel.count_replicas(None, X, 64, 2), "model=None ... torch.nn.Module"),
        ("half a replica", lambda p: parallel.Replicas(NET, 1.5), "count=1.5 ... whole number"),
        ("a part of no image", lambda p: parallel.count_replicas(NET, X, 0, 2), "batch_size=0 ... at least 1"),
        ("replicas of raw pixels", lambda p: parallel.find_obstacle(NET, IMAGES), "torch.uint8; expected normalised"),
    ],
    "checks.running": [
        ("no model", lambda p: run_checks(None, (TRAIN, VAL)), "model=None ... torch.nn.Module"),
        ("a model without weights", lambda p: run_checks(nn.Flatten(), (TRAIN, VAL)), "model='Flatten' ... parameters"),
        ("one set of batches", lambda p: run_checks(NET, TRAIN), "data= ... two"),
        ("one of two", lambda p: run_checks(NET, (TRAIN,)), "data= ... two"),
        ("no batches", lambda p: run_checks(NET, ([], [])), "train='no batch' ... at least one batch"),
        ("a generator", lambda p: run_checks(NET, (iter([(X, Y)]), VAL)), "train='no batch' ... no generator"),
        ("an unknown part", lambda p: run_checks(NET, DATA, lr=0.1), "part='lr' ... make_optimizer"),
        ("a loss by name", lambda p: run_checks(NET, DATA, "ce"), "loss='ce' ... a function"),
        ("a seed of text", lambda p: run_checks(NET, DATA, seed="one"), "seed='one' ... a whole number"),
        (
            "an optimizer's name",
            lambda p: run_checks(NET, DATA, optimizer="sgd"),
            "optimizer='sgd' ... Optimizer",
        ),
        ("no time", lambda p: run_checks(NET, DATA, seconds=0), "seconds=0 ... positive"),
        ("a time of text", lambda p: run_checks(NET, DATA, seconds="30"), "seconds='30' ... positive"),
        (
            "an unknown check",
            lambda p: run_checks(NET, DATA, only=("speed",)),
            "only='speed' ... choose one of",
        ),
        (
            "checks in one text",
            lambda p: run_checks(NET, DATA, only="dependency"),
            "only='dependency' ... several names",
        ),
        (
            "a loop by name",
            lambda p: run_checks(NET, DATA, train_epoch="fit"),
            "train_epoch='fit' ... a function",
        ),
    ],
    "checks.pipeline": [
        (
            "an optimizer by name",
            lambda p: replace(PIPELINE, make_optimizer="adam"),
            "make_optimizer='adam' ... function",
        ),
        ("a network for a function", lambda p: replace(PIPELINE, build=3), "build=3 ... a function"),
        ("logits for a function", lambda p: replace(PIPELINE, forward=LOGITS), "forward= ... a function"),
        ("frozen in one text", lambda p: replace(PIPELINE, frozen="backbone"), "frozen='backbone' ... several names"),
        ("half a batch added up", lambda p: replace(PIPELINE, accumulate=0.5), "accumulate=0.5 ... at least 1"),
        ("no images a step", lambda p: replace(PIPELINE, batch_size=0), "batch_size=0 ... at least 1"),
        ("steps below 0", lambda p: checks.serve(PIPELINE, -1), "steps=-1 ... whole number"),
        ("a batch of nothing", lambda p: checks.training_batch(PIPELINE, 0), "count=0 ... at least 1"),
    ],
    "checks.adapters": [
        ("a loop that is none", lambda p: checks.adapt_training(3, NET, TRAIN), "train_epoch=3 ... a function"),
        ("a loop for itself", lambda p: checks.adapt_training(print, NET, TRAIN), "must accept (model, batches"),
        ("scores for a function", lambda p: checks.adapt_evaluation(0.9, NET, VAL, len), "evaluate=0.9 ... a function"),
        ("a rate for an optimizer", lambda p: checks.copy_optimizer(0.1, NET), "optimizer=0.1 ... Optimizer"),
        ("an optimizer in text", lambda p: checks.optimizer_in("train"), "train_epoch='train' ... a function"),
    ],
    "checks.probes": [
        ("a further check of a model", lambda p: checks.check_leak(NET), "pipeline= ... a Pipeline"),
        ("a further check of nothing", lambda p: checks.check_classes(None), "pipeline=None ... a Pipeline"),
    ],
    "checks.checks": [
        ("a check of a model", lambda p: checks.check_overfit(NET), "pipeline= ... a Pipeline"),
        ("a check of nothing", lambda p: checks.check_batches(None), "pipeline=None ... a Pipeline"),
        ("a head that is not there", lambda p: checks.find_head(NET, 99), "no layer has 99 rows"),
        ("a head of nothing", lambda p: checks.find_head(None, 4), "model=None ... torch.nn.Module"),
        ("dependencies of pixels", lambda p: checks.dependency_matrix(NET, IMAGES), "images= ... floating"),
        ("scores of nothing", lambda p: next(checks.baseline_scores(None)), "pipeline=None ... a Pipeline"),
    ],
    "checks.mutants": [
        ("a matrix of a model", lambda p: checks.run_matrix(NET), "good= ... a Pipeline"),
        ("bugs of nothing", lambda p: checks.possible_mutants(None), "model=None ... torch.nn.Module"),
    ],
    "transfer": [
        ("no body", lambda p: replace(BACKBONE, body=None), "body=None ... Sequential"),
        ("a body of NaN", lambda p: replace(BACKBONE, body=body_with(lambda w: w * math.nan)), "0.weight ... finite"),
        ("a body of int8", lambda p: replace(BACKBONE, body=body_with(torch.Tensor.char)), "0.weight ... torch.int8"),
        ("no features", lambda p: replace(BACKBONE, num_features=0), "num_features=0 ... at least 1"),
        ("no normaliser", lambda p: replace(BACKBONE, normaliser=None), "normaliser=None ... a Normaliser"),
        ("no pixel", lambda p: replace(BACKBONE, image_size=0), "image_size=0 ... at least 1"),
        ("a scale of 0", lambda p: transfer.Resize(0), "size=0 ... at least 1"),
        ("cutting nothing", lambda p: transfer.cut_head(None, NORMALISER, "a"), "model='NoneType' ... a Sequential"),
        (
            "cutting a layer",
            lambda p: transfer.cut_head(nn.Linear(2, 2), NORMALISER, "a"),
            "model='Linear' ... its head",
        ),
        (
            "cutting one layer",
            lambda p: transfer.cut_head(nn.Sequential(nn.Linear(2, 2)), NORMALISER, "a"),
            "two layers",
        ),
        ("no checkpoint", lambda p: transfer.own_backbone(p / "no", "a"), "cannot be read", CheckpointError),
        ("a checkpoint by number", lambda p: transfer.own_backbone(3, "a"), "path=3 ... a path"),
        ("a backbone by number", lambda p: transfer.imagenet_backbone(3), "name=3 ... 'efficientnet_lite0'"),
        ("an unknown backbone", lambda p: transfer.imagenet_backbone("resnet999"), "name='resnet999' ... resnet18"),
        ("7.5 pixels", lambda p: transfer.imagenet_backbone(image_size=7.5), "image_size=7.5 ... whole pixels"),
        ("one class", lambda p: make_transfer_model(BACKBONE, 1), "num_classes=1 ... at least 2"),
        ("classes by text", lambda p: make_transfer_model(BACKBONE, "10"), "num_classes='10' ... at least 2"),
        ("an unknown part", lambda p: make_transfer_model(BACKBONE, 4, "body"), "train='body' ... head, last stage"),
        (
            "a stage that is not there",
            lambda p: make_transfer_model(replace(BACKBONE, last_stage=None), 4, "last stage"),
            "train='last stage' ... 'head' or 'all'",
        ),
        ("a network for a backbone", lambda p: make_transfer_model(NET, 4), "backbone= ... a Backbone"),
        ("a configuration of part", lambda p: TransferConfig(train="some"), "train='some' ... head, last stage, all"),
        ("a configuration of 7 pixels", lambda p: TransferConfig(image_size=7), "image_size=7 ... 8 or more"),
        ("a configuration of text", lambda p: TransferConfig(image_size="224"), "image_size='224' ... whole pixels"),
        ("a configuration of a number", lambda p: TransferConfig(name=3), "name=3 ... 'efficientnet_lite0'"),
        ("another configuration", lambda p: transfer.build_transfer_model(ModelConfig("cnn"), 4), "a TransferConfig"),
        (
            "logits for a network",
            lambda p: transfer.load_network(logits_file(p)),
            "tensors and no run",
            CheckpointError,
        ),
        ("a short hash", lambda p: transfer.check_hash(write(p / "a"), "12"), "sha256='12' ... at least 8"),
        ("a hash of a number", lambda p: transfer.check_hash(write(p / "a"), 12345678), "sha256=12345678 ... digits"),
        ("another file", lambda p: transfer.check_hash(write(p / "a"), "0" * 64), "expected 000000", CheckpointError),
        (
            "weights that are not there",
            lambda p: transfer.load_weights(NET, p / "a", "0" * 8),
            "not there",
            CheckpointError,
        ),
        ("features of nothing", lambda p: transfer.compute_features(None, TRAIN), "backbone=None ... a Backbone"),
        ("features of images", lambda p: transfer.compute_features(BACKBONE, IMAGES), "batches= ... make_batches"),
        (
            "an unknown precision",
            lambda p: transfer.compute_features(BACKBONE, TRAIN, precision="bf16"),
            "precision='bf16'",
        ),
        ("a probe of lists", lambda p: transfer.linear_probe(([1], [1]), FEATURES), "train= ... features (N, F)"),
        ("a probe of NaN", lambda p: transfer.linear_probe((FEATURES[0] * math.nan, Y), FEATURES), "train= ... finite"),
        ("a probe of one class", lambda p: transfer.linear_probe((FEATURES[0], 0 * Y), FEATURES), "train= ... classes"),
        ("a probe of other counts", lambda p: transfer.linear_probe(FEATURES, (FEATURES[0], Y[1:])), "val= ... labels"),
        (
            "a probe without strength",
            lambda p: transfer.linear_probe(FEATURES, FEATURES, ()),
            "strengths=() ... positive",
        ),
        (
            "a probe of strength -1",
            lambda p: transfer.linear_probe(FEATURES, FEATURES, (-1,)),
            "strengths=(-1,) ... posit",
        ),
        ("no labelled image", lambda p: transfer.draw_labelled(SPLIT, 0, 0), "per_class=0 ... from 1 to 4"),
        ("too many of them", lambda p: transfer.draw_labelled(SPLIT, 9, 0), "per_class=9 ... from 1 to 4"),
        ("half of one", lambda p: transfer.draw_labelled(SPLIT, 1.5, 0), "per_class=1.5 ... from 1 to 4"),
        ("labelled by text", lambda p: transfer.draw_labelled(SPLIT, "1", 0), "per_class='1' ... from 1 to 4"),
        (
            "an empty body",
            lambda p: replace(BACKBONE, body=nn.Sequential()),
            "body=Sequential() ... at least one layer",
        ),
        ("a stage by name", lambda p: replace(BACKBONE, last_stage="conv"), "last_stage='conv' ... 0 to 1"),
        ("a stage behind the last", lambda p: replace(BACKBONE, last_stage=9), "last_stage=9 ... 0 to 1"),
        ("a source by number", lambda p: replace(BACKBONE, source=3), "source=3 ... in words"),
        ("a description by name", lambda p: replace(BACKBONE, spec="resnet18"), "spec='resnet18' ... a mapping"),
        ("one image to scale", lambda p: transfer.Resize(4)(X[0]), "images= ... images[None]"),
        (
            "16 pixels for EfficientNet",
            lambda p: transfer.imagenet_backbone(image_size=16),
            "image_size=16 ... 32 or m",
        ),
        ("16 pixels in a configuration", lambda p: TransferConfig(image_size=16), "image_size=16 ... takes 32 or more"),
        ("an empty name", lambda p: TransferConfig(name=""), "name='' ... 'efficientnet_lite0'"),
        (
            "weights by text",
            lambda p: transfer.build_transfer_model(TransferConfig(), 4, weights="no"),
            "weights='no' ... True or False",
        ),
        ("a hash of a number for a path", lambda p: transfer.check_hash(3, "0" * 64), "path=3 ... a path"),
        (
            "weights of no network",
            lambda p: transfer.load_weights(None, p / "a", "0" * 8),
            "network=None ... nn.Module",
        ),
        ("features into a number", lambda p: transfer.compute_features(BACKBONE, TRAIN, 3), "folder=3 ... a path"),
        ("a probe of other features", lambda p: transfer.linear_probe(FEATURES, (X.flatten(1), Y)), "val= ... 5 feat"),
        (
            "a probe of float labels",
            lambda p: transfer.linear_probe((FEATURES[0], Y / 2), FEATURES),
            "train= ... int64",
        ),
        (
            "a probe of labels below 0",
            lambda p: transfer.linear_probe(FEATURES, (FEATURES[0], Y - 9)),
            "val= ... from 0",
        ),
        (
            "a probe of one strength",
            lambda p: transfer.linear_probe(FEATURES, FEATURES, 0.1),
            "strengths=0.1 ... positive",
        ),
        ("labelled images of a tensor", lambda p: transfer.draw_labelled(IMAGES, 1, 0), "split= ... a Split"),
        ("labelled by a seed of text", lambda p: transfer.draw_labelled(SPLIT, 1, "one"), "seed='one' ... a whole"),
    ],
    "classify": [
        ("no file", lambda p: load_model(p / "no"), "cannot be read ... Check the path", CheckpointError),
        ("a file by number", lambda p: load_model(3), "path=3 ... a path"),
        ("logits for a network", lambda p: load_model(logits_file(p)), "holds tensors and no run", CheckpointError),
        ("no network", lambda p: replace(CLASSIFIER, model=None), "model=None ... torch.nn.Module"),
        ("no normaliser", lambda p: replace(CLASSIFIER, normaliser=None), "normaliser=None ... a Normaliser"),
        ("a name twice", lambda p: replace(CLASSIFIER, class_names=(*"abca",)), "class_names= ... each name once"),
        (
            "names in one text",
            lambda p: replace(CLASSIFIER, class_names="abcd"),
            "class_names='abcd' ... several names",
        ),
        ("no pixel", lambda p: replace(CLASSIFIER, image_size=0), "image_size=0 ... at least 1"),
        ("too few names", lambda p: replace(CLASSIFIER, class_names=(*"ab",)).predict(PICTURE), "class_names= ... 4"),
        ("a picture that is not there", lambda p: CLASSIFIER.predict(p / "no.png"), "no.png", FileNotFoundError),
        ("a list of pictures", lambda p: CLASSIFIER.predict([PICTURE]), "picture is a list of 1; expected one"),
        ("a text that is no picture", lambda p: CLASSIFIER.predict(write(p / "a.txt")), "a.txt is no picture"),
        ("bytes that are none", lambda p: CLASSIFIER.predict(b"none"), "(4 bytes) is no picture"),
        ("a tensor of floats", lambda p: CLASSIFIER.predict(X[0]), "torch.float32 (3, 8, 8); expected one of"),
        ("an array of floats", lambda p: CLASSIFIER.predict(np.zeros((8, 8, 3))), "float64 (8, 8, 3); expected one of"),
        ("many images", lambda p: CLASSIFIER.predict(IMAGES), "(16, 3, 8, 8); expected one of"),
        ("an image without levels", lambda p: CLASSIFIER.predict(PICTURE.convert("I")), "mode I ... 8 or 16 bits"),
        ("the best none", lambda p: CLASSIFIER.predict(PICTURE, 0), "k=0 ... a whole number, 1 or more"),
        ("the best below 0", lambda p: CLASSIFIER.predict(PICTURE, -1), "k=-1 ... a whole number, 1 or more"),
        ("the best half", lambda p: CLASSIFIER.predict(PICTURE, 0.5), "k=0.5 ... a whole number"),
        ("the best text", lambda p: CLASSIFIER.predict(PICTURE, "5"), "k='5' ... a whole number"),
        ("the best True", lambda p: CLASSIFIER.predict(PICTURE, True), "k=True ... a whole number"),
        ("a folder that is not there", lambda p: find_pictures(p / "no"), "folder= ... one with pictures"),
        ("a folder by number", lambda p: find_pictures(3), "folder=3 ... a path"),
        ("an empty name", lambda p: replace(CLASSIFIER, class_names=("a", "b", " ", "d")), "class_names= ... several"),
        ("a network's class", lambda p: replace(CLASSIFIER, model=nn.Linear), "model= ... this is a class"),
        ("a side of True", lambda p: replace(CLASSIFIER, image_size=True), "image_size=True ... whole number"),
        ("a normaliser as plain values", lambda p: replace(CLASSIFIER, normaliser=NORMALISER.to_dict()), "normaliser="),
        ("a network for another size", lambda p: replace(CLASSIFIER, image_size=32).predict(PICTURE), "(1, 3, 32, 32)"),
        ("a network made for another size", lambda p: Classifier(CNN, NORMALISER, NAMES, 32).predict(PICTURE), "8 pix"),
        (
            "a network that returns a tuple",
            lambda p: replace(CLASSIFIER, model=Returning(lambda x: (x,))).predict(PICTURE),
            "returns a tuple for images (1, 3, 8, 8); expected logits (N, C)",
        ),
        (
            "a network of maps",
            lambda p: replace(CLASSIFIER, model=BODY[0]).predict(PICTURE),
            "returns shape ... logits",
        ),
        (
            "a network that is NaN",
            lambda p: replace(CLASSIFIER, model=Returning(lambda x: torch.full((1, 4), math.nan))).predict(PICTURE),
            "model='Returning' ... finite",
        ),
        ("an address", lambda p: CLASSIFIER.predict("https://example.org/a.jpg"), "picture='https: ... fetch"),
        ("an empty path", lambda p: CLASSIFIER.predict(""), "picture='' ... a path"),
        ("a path with a zero in it", lambda p: CLASSIFIER.predict("a\0b"), "picture='a ... a path"),
        ("a grey tensor", lambda p: CLASSIFIER.predict(IMAGES[0, :1]), "torch.uint8 (1, 8, 8); expected one of"),
        ("an array of True", lambda p: CLASSIFIER.predict(np.ones((8, 8), bool)), "bool (8, 8); expected one of"),
        ("a checkpoint without a name", lambda p: load_model(""), "path='' ... a path"),
        (
            "a folder called as a picture",
            lambda p: find_pictures(folder_of(p, "x.png/1.png")),
            "folder= ... pictures in",
        ),
        ("a picture for a folder", lambda p: find_pictures(write(p / "a.png")), "folder= ... pictures in it"),
    ],
    "submission": [
        (
            "ids in a list",
            lambda p: write_submission(p / "a", [0, 1], LABELS, 2, count=2),
            "ids=[0, 1] ... torch.int64",
        ),
        (
            "ids of floats",
            lambda p: write_submission(p / "a", LABELS / 1, LABELS, 2, count=2),
            "ids= ... values.long()",
        ),
        ("too few ids", lambda p: write_submission(p / "a", LABELS, LABELS, 2), "ids=(2,) ... (10000,)"),
        ("an id twice", lambda p: write_submission(p / "a", 0 * LABELS, LABELS, 2, count=2), "ids= ... 0 to 1 once"),
        (
            "a class too high",
            lambda p: write_submission(p / "a", LABELS, LABELS, 1, count=2),
            "predicted=[1] ... 0 to 0",
        ),
        ("classes by text", lambda p: write_submission(p / "a", LABELS, LABELS, "2", count=2), "num_classes='2'"),
        ("no image", lambda p: write_submission(p / "a", LABELS[:0], LABELS[:0], 2, count=0), "count=0 ... at least 1"),
        ("a header of one", lambda p: write_submission(p / "a", LABELS, LABELS, 2, count=2, header=("Id",)), "header="),
        (
            "a header of text",
            lambda p: write_submission(p / "a", LABELS, LABELS, 2, count=2, header="ab"),
            "header='ab'",
        ),
        ("another file", lambda p: write_submission(write(p / "a"), LABELS, LABELS, 2, count=2), "not overwritten"),
        ("a folder", lambda p: write_submission(p, LABELS, LABELS, 2, count=2), "path= ... a file; this is a folder"),
        ("no file to check", lambda p: check_submission(p / "no", 2), "no", FileNotFoundError),
        ("a folder to check", lambda p: check_submission(p, 2), "path= ... a file; this is a folder"),
        ("a check of classes by text", lambda p: check_submission(write(p / "a"), "2"), "num_classes='2' ... whole"),
        ("a check of no image", lambda p: check_submission(write(p / "a"), 2, count=0), "count=0 ... at least 1"),
        ("hidden labels", lambda p: score_submission(write(p / "a"), 0 * LABELS, 2), "labels='all zero' ... no key"),
        ("labels in a list", lambda p: score_submission(write(p / "a"), [0, 1], 2), "labels=[0, 1] ... torch.int64"),
        ("a file with faults", lambda p: score_submission(write(p / "a"), LABELS, 2), "faults: line 1"),
    ],
    "plots": [
        ("no axes", lambda p: plots.new_axes(0), "rows=0 ... at least 1"),
        ("half a column", lambda p: plots.new_axes(1, 1.5), "columns=1.5 ... whole number"),
        ("a size of one number", lambda p: plots.new_axes(size=3), "size=3 ... width and height"),
        ("images of floats", lambda p: plots.plot_images(X, 4), "images= ... uint8 (N, 3, H, W)"),
        ("one image", lambda p: plots.plot_images(IMAGES[0], 4), "images= ... uint8 (N, 3, H, W)"),
        ("no column", lambda p: plots.plot_images(IMAGES, 0), "columns=0 ... at least 1"),
        (
            "too many captions",
            lambda p: plots.plot_images(IMAGES[:1], 1, captions=["a", "b"]),
            "captions= ... at most 1",
        ),
        ("an open formula", lambda p: plots.plot_images(IMAGES, 4, title="100 $ each"), "title='100 $ each' ... \\$"),
        ("a broken formula", lambda p: plots.plot_images(IMAGES, 4, title="$^$"), "title='$^$' ... a formula"),
        ("a number for a title", lambda p: plots.plot_images(IMAGES, 4, title=3), "title=3 ... a text"),
        ("a figure for axes", lambda p: plots.plot_images(IMAGES, 4, ax=plt.figure()), "ax= ... one of new_axes()"),
        ("many axes", lambda p: plots.plot_dependencies(SQUARE, "t", plots.new_axes(1, 2)[1]), "ax= ... new_axes()"),
        ("two means", lambda p: plots.plot_channel_histograms(IMAGES, (0.5,) * 2, (0.2,) * 3, "t"), "mean= ... three"),
        ("levels of floats", lambda p: plots.plot_channel_histograms(X, (0,) * 3, (1,) * 3, "t"), "images= ... uint8"),
        ("no spectrum", lambda p: plots.plot_variance_spectrum({}, {}, 0.9, "t"), "spectra={} ... at least one"),
        ("a spectrum without a mark", lambda p: plots.plot_variance_spectrum({"a": [1]}, {}, 0.9, "t"), "marks={}"),
        (
            "a share in percent",
            lambda p: plots.plot_variance_spectrum({"a": [1]}, {"a": 1}, 90, "t"),
            "share=90 ... 0.9",
        ),
        (
            "points in space",
            lambda p: plots.plot_embedding(SQUARE.numpy(), torch.arange(3), "abc", "t"),
            "points= ... (N, 2)",
        ),
        (
            "a point without label",
            lambda p: plots.plot_embedding(np.ones((3, 2)), LABELS, ["a"], "t"),
            "labels= ... (3,)",
        ),
        ("no bars", lambda p: plots.plot_accuracies({}, 0.1, "t"), "accuracies={} ... at least one"),
        ("bars in percent", lambda p: plots.plot_accuracies({"a": 92}, 0.1, "t"), "accuracies= ... 92 % is 0.92"),
        ("chance in percent", lambda p: plots.plot_accuracies({"a": 0.9}, 10, "t"), "chance=10 ... 10 % is 0.1"),
        ("bars of no split", lambda p: plots.plot_accuracies({"a": 0.9}, 0.1, "t", "all"), "split='all' ... train"),
        ("no intervals", lambda p: plots.plot_intervals({}, 0.1, "t"), "intervals={} ... at least one"),
        ("an interval without end", lambda p: plots.plot_intervals({"a": (0.5, 0.4)}, 0.1, "t"), "(value, low, high)"),
        (
            "a mark of nothing",
            lambda p: plots.plot_intervals({"a": (0.5, 0.4, 0.6)}, 0.1, "t", marks={"b": [0.5]}),
            "marks= ... a",
        ),
        ("no differences", lambda p: plots.plot_differences({}, "t"), "intervals={} ... at least one"),
        ("half a difference", lambda p: plots.plot_differences({"a": 0.1}, "t"), "intervals= ... (value, low, high)"),
        ("swings of numbers", lambda p: plots.plot_tornado([1], 0.0, "t", "x"), "swings=[1] ... Swing"),
        ("a swing around NaN", lambda p: plots.plot_tornado([], math.nan, "t", "x"), "centre=nan ... a number"),
        ("no calibration", lambda p: plots.plot_reliability({}, "t"), "calibrations={} ... at least one"),
        (
            "logits for one",
            lambda p: plots.plot_reliability({"a": LOGITS}, "t"),
            "calibrations= ... metrics.calibration",
        ),
        ("nothing traded", lambda p: plots.plot_tradeoff({}, "t", "x", "y"), "points={} ... at least one"),
        ("what is free", lambda p: plots.plot_tradeoff({"a": (0, 1)}, "t", "x", "y"), "points= ... above 0"),
        ("nothing published", lambda p: plots.plot_published([], ["a"], {}, {}, "t"), "published=[] ... at least one"),
        ("an empty history", lambda p: plots.plot_history([], 10, "t"), "history=[] ... at least one epoch"),
        ("a history of no class", lambda p: plots.plot_history([EPOCH], 0, "t"), "num_classes=0 ... at least 2"),
        ("a history on one axis", lambda p: plots.plot_history([EPOCH], 4, "t", new_ax()), "axes= ... two"),
        (
            "names for another matrix",
            lambda p: plots.plot_matrix(SQUARE, "ab", "t", unit="u", xlabel="", ylabel=""),
            "names=",
        ),
        (
            "a row for a matrix",
            lambda p: plots.plot_matrix(Y, "ab", "t", unit="u", xlabel="", ylabel=""),
            "matrix= ... (C, C)",
        ),
        (
            "ratios without answers",
            lambda p: plots.plot_accuracy_by_ratio(SQUARE[0], RIGHT[:2], 0.5, "t"),
            "correct= ... (3,)",
        ),
        (
            "ratios in no bin",
            lambda p: plots.plot_accuracy_by_ratio(SQUARE[0], RIGHT, 0.5, "t", bins=0),
            "bins=0 ... at least",
        ),
        ("no curve", lambda p: plots.plot_curve([1], {}), "curves={} ... at least one"),
        ("a curve of another length", lambda p: plots.plot_curve([1, 2], {"a": [1]}), "'a' has 1 values; expected"),
        ("a curve of texts", lambda p: plots.plot_curve([1], {"a": ["high"]}), "curve 'a' ... numbers"),
        ("an unknown label", lambda p: plots.plot_curve([1], {"a": [1]}, titel="t"), "labels= ... title, xlabel"),
        ("a curve's open title", lambda p: plots.plot_curve([1], {"a": [1]}, title="in $"), "title='in $' ... \\$"),
        ("a broken axis", lambda p: plots.plot_curve([1], {"a": [1]}, xlabel="$^$"), "label='$^$' ... a formula"),
        ("no losses", lambda p: plots.plot_initial_losses({}, [], 10, "t"), "losses={} ... at least one"),
        (
            "losses of one class",
            lambda p: plots.plot_initial_losses({"a": 1.0}, [], 1, "t"),
            "num_classes=1 ... at least 2",
        ),
        ("a rectangle of gradients", lambda p: plots.plot_dependencies(LOGITS, "t"), "matrix= ... (N, N)"),
        ("no bugs", lambda p: plots.plot_verdicts({}, ["a"], {}, "t"), "failed={} ... at least one"),
        ("no layers", lambda p: plots.plot_architecture([], "t"), "layers=[] ... layer_table"),
        ("a network for layers", lambda p: plots.plot_architecture(NET, "t"), "layers= ... layer_table"),
    ],
    "course.profiles": [
        (
            "an unknown profile",
            lambda p: course.get_budget("fast"),
            "profile (CIFAR_PROFILE)='fast' ... quick, laptop, full",
        ),
        ("a number", lambda p: course.get_budget(3), "profile (CIFAR_PROFILE)=3 ... quick, laptop, full"),
    ],
    "course.recipes": [
        ("an unknown field", lambda p: course.BASELINE.change(rate=0.1), "field='rate' ... choose one of"),
        ("an unknown network", lambda p: course.BASELINE.change(model="mlpp"), "name='mlpp' ... Did you mean 'mlp'?"),
        ("a width of -1", lambda p: course.BASELINE.change(width=-1), "width=-1 ... a positive factor"),
        ("a name for a network", lambda p: replace(course.BASELINE, model="mlp"), "model='mlp' ... ModelConfig"),
        ("nothing for a training", lambda p: replace(course.BASELINE, training=None), "training=None ... TrainConfig"),
        (
            "an unknown recipe",
            lambda p: course.train_recipe("best", DATASET, QUICK, workspace(p), CPU),
            "name='best' ... choose one of baseline",
        ),
        (
            "an unknown recipe to evaluate",
            lambda p: course.evaluate_recipe("best", DATASET, QUICK, workspace(p), CPU),
            "name='best' ... choose one of baseline",
        ),
        ("runs of no data set", lambda p: course.find_runs("mnist", workspace(p)), "dataset='mnist' ... cifar10"),
        ("a run elsewhere", lambda p: course.checkpoint_of("../x", course.CNN, workspace(p)), "name='../x ... inside"),
        (
            "unequal budgets",
            lambda p: course.sweep_experiments({"a": course.BASELINE, "b": course.LENET}, None, TRAIN, VAL),
            "a sweep compares equal budgets",
        ),
    ],
    "course.minutes": [
        ("an unknown recipe", lambda p: course.recipe_work("best", DATASET, QUICK), "name='best' ... baseline"),
        ("work on no image", lambda p: course.Work(course.BASELINE, 0), "images=0 ... at least 1"),
        ("no run", lambda p: course.Work(course.BASELINE, 10, runs=0), "runs=0 ... at least 1"),
        ("a time below 0", lambda p: minutes.describe_seconds(-1), "seconds=-1 ... 0 or more"),
        ("no time", lambda p: minutes.describe_seconds(math.nan), "seconds=nan ... 0 or more"),
    ],
    "course.test_access": [
        (
            "a look without a reason",
            lambda p: course.audit_test(DATASET, " ", workspace(p)),
            "reason=' ' ... a sentence",
        ),
        ("a look into a split", lambda p: course.audit_test(SPLIT, "a look", workspace(p)), "dataset= ... load_data"),
        (
            "a score of a list",
            lambda p: course.final_test(NET, DATASET, [(X, Y)], RECORD, workspace(p)),
            "batches= ... make_batches",
        ),
        (
            "a score under another normalisation",
            lambda p: course.final_test(
                NET, DATASET, Batches(SPLIT, Normaliser((0,) * 3, (1,) * 3)), RECORD, workspace(p)
            ),
            "batches are normalised otherwise than those that 'run' was trained on",
        ),
        (
            "a score against hidden labels",
            lambda p: course.final_test(NET, data.hide_labels(DATASET), TRAIN, RECORD, workspace(p)),
            "every label of this test split is 0",
        ),
        (
            "an entry without a key",
            lambda p: course.with_log_entry(p / "a.jsonl", {}, dict),
            "key={} ... what is asked",
        ),
        ("an entry in a folder", lambda p: course.with_log_entry(p, {"a": 1}, dict), "is a folder, and no log"),
        (
            "an entry of nothing",
            lambda p: course.with_log_entry(p / "a.jsonl", {"a": 1}, 3),
            "evaluate=3 ... a function",
        ),
    ],
    "course.verdicts": [
        (
            "a number for a verdict",
            lambda p: course.verdict("h", 0.04, "p", judged=True),
            "holds=0.04 ... True or False",
        ),
        ("a text for a verdict", lambda p: course.verdict("h", "no", "p", judged=True), "holds='no' ... True or False"),
        ("verdicts of a number", lambda p: verdicts.read_verdicts(3), "path=3 ... a path"),
        ("verdicts from nowhere", lambda p: verdicts.write_published(3), "notebooks=3 ... a path"),
    ],
    "course.workspace": [
        ("a checkpoint elsewhere", lambda p: workspace(p).checkpoint("../x"), "name='../x' ... inside its folder"),
        ("a checkpoint by number", lambda p: workspace(p).checkpoint(3), "name=3 ... inside its folder"),
        ("a figure without a title", lambda p: workspace(p).save_figure(new_ax().figure, "a", "c"), "has no title"),
        ("a figure elsewhere", lambda p: workspace(p).save_figure(new_ax().figure, "/x", "c"), "name='/x' ... inside"),
        ("no figure", lambda p: workspace(p).save_figure(None, "a", "c"), "figure=None ... matplotlib"),
        ("logits elsewhere", lambda p: course.kept_path(p, "../x", "val"), "name='../x' ... inside its folder"),
        ("logits of no part", lambda p: course.kept_path(p, "x", "tests"), "part='tests' ... val, test, ranks"),
        ("logits that are none", lambda p: course.read_kept(write(p / "val" / "a")), "no checkpoint", CheckpointError),
        ("logits of a folder", lambda p: course.read_kept(p), "is a folder, and no file", CheckpointError),
        (
            "a source in a text",
            lambda p: course.locate_workspace("01", "quick", "cpu", "real"),
            "sources='real' ... several",
        ),
        ("no source", lambda p: course.locate_workspace("01", "quick", "cpu", ()), "sources=() ... several"),
        (
            "an unknown source",
            lambda p: course.open_workspace("01", "quick", "cpu", {"fake"}),
            "sources={'fake'} ... real",
        ),
    ],
    "course.baselines": [
        ("pixels of a list", lambda p: baselines.to_pixels([1]), "images=[1] ... images (N, 3, H, W)"),
        ("a prior of a text", lambda p: baselines.score_prior("train", VAL_SPLIT), "train='train' ... a Split"),
        ("means of images", lambda p: baselines.score_nearest_mean(IMAGES, VAL_SPLIT), "train= ... a Split"),
        ("no neighbour", lambda p: baselines.find_neighbours(IMAGES, IMAGES, 0), "k=0 ... from 1 to 16"),
        ("too many neighbours", lambda p: baselines.find_neighbours(IMAGES, IMAGES, 99), "k=99 ... from 1 to 16"),
        (
            "neighbours of other sizes",
            lambda p: baselines.find_neighbours(IMAGES, IMAGES[..., 1:]),
            "queries= ... size",
        ),
        (
            "votes for no class",
            lambda p: baselines.vote(LABELS[None], 1),
            "neighbour_labels[0, 1] is 1; expected 0 to 0",
        ),
        ("votes of one row", lambda p: baselines.vote(LABELS, 2), "neighbour_labels= ... (N, k)"),
        ("components of a list", lambda p: baselines.fit_pca([1]), "images=[1] ... images (N, 3, H, W)"),
        ("a share in percent", lambda p: baselines.components_for(None, 90), "share=90 ... 90 % is 0.9"),
        ("components of nothing", lambda p: baselines.components_for(None, 0.9), "pca=None ... fit_pca"),
        ("a size of 0", lambda p: baselines.score_logistic_regression(SPLIT, VAL_SPLIT, 0), "size=0 ... at least 1"),
        ("one fold", lambda p: baselines.cross_validated_probabilities(SPLIT, None, folds=1), "folds=1 ... at least 2"),
        ("a map of nothing", lambda p: baselines.embed_tsne(None, IMAGES), "pca=None ... fit_pca"),
    ],
    "course.decisions": [
        ("an unknown kind", lambda p: decisions.best_published("cifar10", "cnn"), "kind='cnn' ... small cnn"),
        ("an unknown data set", lambda p: decisions.best_published("mnist", "mlp"), "dataset='mnist' ... cifar10"),
        ("an accuracy in percent", lambda p: decisions.check_plausible(92, "cifar10", "mlp"), "accuracy=92 ... 0.92"),
        (
            "an accuracy of text",
            lambda p: decisions.check_plausible("0.9", "cifar10", "mlp"),
            "accuracy='0.9' ... fraction",
        ),
        ("a margin below 0", lambda p: decisions.check_plausible(0.9, "cifar10", "mlp", -1), "margin=-1 ... 0 to 1"),
        ("published in percent", lambda p: replace(decisions.PUBLISHED[0], accuracy=92), "accuracy=92 ... 0.92"),
        ("an option in percent", lambda p: Option("a", 92, 1, 1), "accuracy=92 ... 92 % is 0.92"),
        ("an option of text", lambda p: Option("a", "0.9", 1, 1), "accuracy='0.9' ... fraction"),
        ("a cost below 0", lambda p: Option("a", 0.9, -1, 1), "fixed=-1 ... 0 or more"),
        ("a price of NaN", lambda p: Option("a", 0.9, 1, math.nan), "per_request=nan ... 0 or more"),
        ("an interval elsewhere", lambda p: Option("a", 0.9, 1, 1, (0.1, 0.2)), "interval= ... one that holds 0.9"),
        ("half an interval", lambda p: Option("a", 0.9, 1, 1, (0.1,)), "interval=(0.1,) ... (low, high)"),
        ("an interval of one number", lambda p: Option("a", 0.9, 1, 1, 0.9), "interval=0.9 ... (low, high)"),
        ("requests below 0", lambda p: OPTION.cost(-1, 1), "requests=-1 ... 0 or more"),
        ("mistakes that pay", lambda p: decisions.break_even(OPTION, OPTION, -1), "error_cost=-1 ... 0 or more"),
        ("a name for an option", lambda p: decisions.break_even("a", OPTION, 1), "build='a' ... an Option"),
        ("a range of text", lambda p: decisions.describe_range("now", 1), "start='now' ... a number"),
        ("no option", lambda p: decisions.recommend([], 0.7, 1, 1), "options=[] ... at least one"),
        ("an option twice", lambda p: decisions.recommend([OPTION] * 2, 0.7, 1, 1), "options= ... name of its own"),
        ("a target in percent", lambda p: decisions.recommend([OPTION], 70, 1, 1), "target=70 ... 70 % is 0.7"),
        ("an endless number", lambda p: decisions.recommend([OPTION], 0.7, math.inf, 1), "requests=inf ... 0 or more"),
        (
            "an option that is not there",
            lambda p: decisions.advantage([OPTION], "b", 0.7, 1, 1),
            "name='b' ... one of a",
        ),
        ("a way without steps", lambda p: decisions.turning_points(str, 0, 1, 0), "steps=0 ... at least 1"),
        ("a way from NaN", lambda p: decisions.turning_points(str, math.nan, 1), "start=nan ... a finite number"),
        ("no choice", lambda p: decisions.turning_points("a", 0, 1), "choose='a' ... a function"),
        ("half a range", lambda p: decisions.tipping_points(str, {"a": (0, 1)}), "a=(0, 1) ... low, likely, high"),
        ("a range of words", lambda p: decisions.tipping_points(str, {"a": "low"}), "a='low' ... low, likely, high"),
        (
            "a range out of order",
            lambda p: decisions.sensitivity(len, {"a": (1, 0, 2)}),
            "a=(1, 0, 2) ... in this order",
        ),
        ("a swing of two", lambda p: decisions.sensitivity(len, {"a": (0, 1)}), "a=(0, 1) ... low, likely, high"),
        ("no value", lambda p: decisions.sensitivity(3, {"a": (0, 1, 2)}), "value=3 ... a function"),
    ],
    "course.results": [
        ("no page", lambda p: results.fill_table(p / "no.md", results.RESULTS, "t"), "there is no ... no.md"),
        (
            "a page without marks",
            lambda p: results.fill_table(write(p / "a.md"), results.RESULTS, "t"),
            "lacks the lines",
        ),
        ("a mark too few", lambda p: results.fill_table(write(p / "a.md"), ("a",), "t"), "marks=('a',) ... two"),
        ("no home", lambda p: results.results_markdown(3), "home=3 ... a path"),
        ("no benchmarks", lambda p: results.speed_markdown(p), "step_rate.json: make bench"),
        ("a ladder nowhere", lambda p: results.draw_ladder(3), "home=3 ... a path"),
    ],
    "course.captions": [
        ("a cell without a text", lambda p: captions.saved_figures(None), "source=None ... the source of a cell"),
        ("a title that is none", lambda p: captions.as_sentence(3), "title=3 ... a text"),
    ],
    "course.pages": [
        ("a page without a title", lambda p: pages.make_page("", "x"), "title='' ... a text"),
    ],
    "course.report": [
        ("a report nowhere", lambda p: report.write_report(3, []), "out=3 ... a path"),
        (
            "a report over another page",
            lambda p: report.write_report(write(p / "report.html").parent, []),
            "not written by",
        ),
        ("results that are none", lambda p: report.write_report(p, ["01"]), "results=['01'] ... NotebookResult"),
    ],
    "course.notebooks": [
        (
            "no folder",
            lambda p: notebooks.find_notebooks(p / "no"),
            "no notebooks in ... expected the folder notebooks/",
        ),
        ("a folder by number", lambda p: notebooks.find_notebooks(3), "folder=3 ... a path"),
        (
            "another number",
            lambda p: notebooks.find_notebooks(write(p / "01_a.ipynb").parent, ["99"]),
            "--only 99: no such",
        ),
        (
            "a number by number",
            lambda p: notebooks.find_notebooks(write(p / "01_a.ipynb").parent, "1"),
            "only='1' ... 01",
        ),
        ("no notebook", lambda p: notebooks.Progress(p, [write(p / "01_a.ipynb")], {}), "is no notebook of format 4"),
        (
            "copies over the notebooks",
            lambda p: notebooks.check_output(p, [write(p / "notebooks" / "01_a.ipynb")]),
            "is the folder of the notebooks themselves",
        ),
        (
            "a folder of somebody else",
            lambda p: notebooks.clear_output(write(p / "figures" / "mine.txt").parents[1]),
            "was not made by cifar_helpers",
        ),
    ],
    "course.prose": [
        ("no notebook", lambda p: prose.unsupported_numbers({}), "notebook={} ... format 4"),
        ("a path", lambda p: prose.unsupported_numbers("01.ipynb"), "notebook='01.ipynb' ... format 4"),
    ],
}

# What runs whole notebooks, and the command line with what it alone calls.
ELSEWHERE = {f"course.{name}" for name in ("colab", "commands", "doctor", "execution", "lab", "site")}


def is_ours(error: BaseException) -> bool:
    """Return whether a `raise` of this package raised an error, and it is one that we promise."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    here = PACKAGE in Path(frame.filename).parents and (frame.line or "").startswith("raise")
    return isinstance(error, OURS) and here


def outcome(call, folder: Path, words: str, kind: type[BaseException] = ValueError) -> str:
    """Return "refused", or what happened instead, beginning with "silent", "foreign" or "other words"."""
    try:
        call(folder)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if not (is_ours(error) or (isinstance(error, OSError) and kind is type(error))):
            return f"foreign: {said}"
        place = 0
        for piece in words.split(" ... "):
            place = str(error).find(piece, place)
            if place < 0 or not isinstance(error, kind) or "\n" in str(error):
                return f"other words: {said}"
        return "refused"
    return "silent"


def as_parameters(rows):
    return [pytest.param(row[1:], id=f"{module}: {row[0]}") for module, listed in rows.items() for row in listed]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setenv("CIFAR_DEVICE", "cpu")
    yield
    plt.close("all")


@pytest.mark.parametrize("row", as_parameters(ROWS))
def test_a_wrong_input_is_refused_in_one_sentence_of_ours(row, tmp_path):
    call, *expected = row
    assert outcome(call, tmp_path, *expected) == "refused"


def test_every_public_module_has_rows():
    assert not set(PUBLIC) - set(ROWS) - ELSEWHERE
    assert sum(map(len, ROWS.values())) >= 200


def test_the_table_itself_can_fail(tmp_path):
    def foreign(_):
        raise ValueError("k=0 is not allowed")

    assert outcome(lambda _: None, tmp_path, "k=0") == "silent"
    assert outcome(foreign, tmp_path, "k=0").startswith("foreign")
    assert outcome(lambda _: int("k=0"), tmp_path, "k=0").startswith("foreign")
    assert outcome(lambda _: CLASSIFIER.predict(PICTURE, 0), tmp_path, "k=1").startswith("other words")
    assert outcome(lambda _: CLASSIFIER.predict(PICTURE, 0), tmp_path, "k=0", CheckpointError).startswith("other words")
