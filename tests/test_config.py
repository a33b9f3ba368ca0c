import dataclasses
import json

import numpy as np
import pytest

from cifar_helpers._hashing import hash_json
from cifar_helpers.data.transforms import Cutout, Flip, Normaliser, PadCrop
from cifar_helpers.models.networks import make_model
from cifar_helpers.runtime import make_generator
from cifar_helpers.training.config import TrainConfig


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": -0.1}, ["lr=-0.1", "positive"]),
        ({"lr": 0}, ["lr=0"]),
        ({"lr": float("nan")}, ["lr=nan"]),
        ({"epochs": 0}, ["epochs=0", "at least 1"]),
        ({"epochs": 1.5}, ["epochs=1.5", "whole"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"weight_decay": -1e-4}, ["weight_decay=-0.0001"]),
        ({"momentum": 1.0}, ["momentum=1.0", "[0, 1)"]),
        ({"warmup": 1.0}, ["warmup=1.0"]),
        ({"label_smoothing": 1.0}, ["label_smoothing=1.0"]),
        ({"ema": 1.0}, ["ema=1.0", "[0, 1)"]),
        ({"mixup": -0.2}, ["mixup=-0.2"]),
        ({"layer_lr_decay": 1.1}, ["layer_lr_decay=1.1", "(0, 1]"]),
        ({"norm_bias_lr": 0}, ["norm_bias_lr=0"]),
        ({"image_sizes": ((0.5, 24),)}, ["image_sizes=", "rising shares from 0"]),
        ({"image_sizes": ((0, 24), (0.5, 4))}, ["whole pixels of 8 or more"]),
        ({"patience": 0}, ["patience=0"]),
        ({"max_steps": 0}, ["max_steps=0"]),
        ({"optimizer": "SGD "}, ["optimizer='SGD '", "Did you mean 'sgd'?"]),
        ({"schedule": "cosin"}, ["Did you mean 'cosine'?"]),
        ({"precision": "fp16"}, ["precision='fp16'"]),
        ({"momentum": 0.0}, ["nesterov"]),
        ({"lr": "0.1"}, ["lr='0.1'", "a number"]),
        ({"epochs": True}, ["epochs=True", "a whole number"]),
        ({"nesterov": 1}, ["nesterov=1", "True or False"]),
        ({"optimizer": None}, ["optimizer=None"]),
        ({"augment": Flip()}, ["augment=Flip(p=0.5)", "(Flip(),)"]),
        ({"augment": (Flip,)}, ["augment=", "instances of augmentations"]),
        ({"augment": ("flip",)}, ["augment=('flip',)", "instances of augmentations"]),
        ({"image_sizes": 24}, ["image_sizes=24", "rising shares"]),
        ({"image_sizes": ((0, 24, 1),)}, ["image_sizes=", "rising shares"]),
        ({"image_sizes": (("0", 24),)}, ["image_sizes=", "rising shares"]),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(change, words):
    with pytest.raises(ValueError, match="is not") as error:
        TrainConfig(**change)
    assert all(word in str(error.value) for word in words)


def test_configuration_is_frozen_hashable_and_json_ready():
    config = TrainConfig(augment=(Flip(), PadCrop(2)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1
    assert hash(config) == hash(dataclasses.replace(config))
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain["augment"] == [{"name": "Flip", "p": 0.5}, {"name": "PadCrop", "padding": 2}]


def test_digest_depends_on_every_field_but_not_on_key_order():
    base = TrainConfig()
    others = {"lr": 0.1, "epochs": 3, "seed": 1, "augment": (Flip(),), "warmup": 0.5}
    digests = {hash_json(dataclasses.replace(base, **{k: v}).to_dict()) for k, v in others.items()}
    assert len(digests | {hash_json(base.to_dict())}) == len(others) + 1
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})


def test_a_configuration_comes_back_from_json():
    config = TrainConfig(
        augment=(Flip(0.3), PadCrop(2), Cutout(4, level=(1, 2, 3))),
        image_sizes=((0, 24), (0.5, 32)),
        patience=3,
        seed=7,
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_dict({}) == TrainConfig()
    with pytest.raises(ValueError, match="Did you mean 'epochs'"):
        TrainConfig.from_dict({"epoch": 3})


def test_an_augmentation_of_others_is_named_when_a_configuration_comes_back():
    plain = TrainConfig(augment=(lambda image: image,)).to_dict()
    with pytest.raises(ValueError, match=r"augment='.*<lambda>' is not allowed: .*replace\(config, augment="):
        TrainConfig.from_dict(plain)


def test_numbers_of_numpy_count_as_those_of_python():
    """JSON knows no others, and a seed of NumPy would begin another stream."""
    given = TrainConfig(epochs=np.int64(3), seed=np.int64(5), lr=np.float64(0.5), augment=(PadCrop(np.int64(2)),))
    assert given == TrainConfig(epochs=3, seed=5, lr=0.5, augment=(PadCrop(2),))
    assert json.dumps(given.to_dict()) == json.dumps(TrainConfig.from_dict(given.to_dict()).to_dict())
    assert type(given.seed) is int
    assert make_generator("order", np.int64(5)).initial_seed() == make_generator("order", 5).initial_seed()
    assert json.dumps(make_model("linear", np.int64(4), seed=np.int64(1)).spec)
    assert json.dumps(Normaliser(np.float32([0.5] * 3), np.float32([0.25] * 3)).to_dict())
