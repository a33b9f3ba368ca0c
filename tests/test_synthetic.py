import itertools

import pytest
import torch
from small import synthetic_split

from cifar_helpers.data import synthetic
from cifar_helpers.data.batches import make_batches
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.transforms import Flip, PadCrop
from cifar_helpers.models.networks import make_model
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.loop import fit


def test_images_have_cifars_shape_and_use_the_range():
    split = synthetic_split(1000, 100, "train")
    assert split.images.shape == (1000, 3, 32, 32)
    assert split.counts().tolist() == [10] * 100
    assert split.images.float().mean() == pytest.approx(127, abs=6)
    assert split.images.amax() == 255
    assert split.images.amin() < 10


def test_one_hundred_classes_are_five_textures_of_twenty_outlines():
    outlines, textures = synthetic.class_parts(100)
    assert torch.bincount(outlines).tolist() == [5] * 20
    assert len(set(zip(outlines.tolist(), textures.tolist(), strict=True))) == 100
    assert len(set(synthetic.class_names(10))) == 10
    assert set(synthetic.class_names(10)) <= set(synthetic.class_names(100))


def test_the_formula_repeats_itself():
    assert torch.equal(synthetic_split(20, 10, "train").images, synthetic_split(20, 10, "train").images)


def train_model(
    model_name: str, train: Split, val: Split, lr: float, *, epochs: int = 36, augment=(), features=None, seed=2
):
    """Return a quarter-width model and its record; `features` gives the weights of all but the last two layers."""
    config = TrainConfig(
        epochs=epochs, batch_size=50, lr=lr, weight_decay=5e-4, schedule="triangular", warmup=0.1, augment=augment,
        seed=seed,
    )  # fmt: skip
    model = make_model(model_name, train.num_classes, width=0.25, seed=seed)
    if features is not None:
        model.load_state_dict(
            {k: v for k, v in features.state_dict().items() if int(k.split(".")[0]) < 22}, strict=False
        )
    return model, fit(model, *make_batches(train, val, "cpu"), config)


def test_every_lesson_holds_on_synthetic_data():
    """The ladder of the series, each step above the one before by construction."""
    train, val = synthetic_split(400, 10, "train"), synthetic_split(1000, 10, "val")
    both = (Flip(), PadCrop(4))
    many, few = synthetic_split(16_000, 100, "train"), synthetic_split(1000, 100, "val")
    other, _ = train_model("cnn_bn", many, few, 0.05, epochs=4, seed=0)
    records = {
        "linear": train_model("linear", train, val, 0.005)[1],
        "mlp": train_model("mlp", train, val, 0.02)[1],
        "cnn": train_model("cnn", train, val, 0.05)[1],
        "cnn_bn": train_model("cnn_bn", train, val, 0.05)[1],
        "augmented": train_model("cnn_bn", train, val, 0.05, augment=both)[1],
        "transfer": train_model("cnn_bn", train, val, 0.05, augment=both, features=other)[1],
    }
    ladder = {"chance": 0.1} | {name: record.val_accuracy for name, record in records.items()}
    print(ladder)
    assert all(lower < higher for lower, higher in itertools.pairwise(ladder.values()))
    assert ladder["linear"] >= 0.13
    assert ladder["cnn"] >= ladder["linear"] + 0.10
