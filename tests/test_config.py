import dataclasses
import json

import pytest

from cifar_helpers.augment import Flip, PadCrop
from cifar_helpers.config import PROFILES, TrainConfig, digest, get_budget, profile_rank


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
        ({"dropout": 1.0}, ["dropout=1.0"]),
        ({"ema": 1.0}, ["ema=1.0", "[0, 1)"]),
        ({"mixup": -0.2}, ["mixup=-0.2"]),
        ({"layer_lr_decay": 1.1}, ["layer_lr_decay=1.1", "(0, 1]"]),
        ({"norm_bias_lr": 0}, ["norm_bias_lr=0"]),
        ({"image_sizes": ((0.5, 24),)}, ["image_sizes=", "rising shares from 0"]),
        ({"image_sizes": ((0, 24), (0.5, 4))}, ["whole pixels of 8 or more"]),
        ({"patience": 0}, ["patience=0"]),
        ({"max_steps": 0}, ["max_steps=0"]),
        ({"width": 0}, ["width=0"]),
        ({"optimizer": "SGD "}, ["optimizer='SGD '", "Did you mean 'sgd'?"]),
        ({"schedule": "cosin"}, ["Did you mean 'cosine'?"]),
        ({"precision": "fp16"}, ["precision='fp16'"]),
        ({"momentum": 0.0}, ["nesterov"]),
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
    others = {"lr": 0.1, "epochs": 3, "seed": 1, "augment": (Flip(),), "width": 0.5}
    digests = {digest(dataclasses.replace(base, **{k: v}).to_dict()) for k, v in others.items()}
    assert len(digests | {digest(base.to_dict())}) == len(others) + 1
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_profile_comes_from_the_argument_then_the_environment_then_the_machine(monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "laptop")
    assert get_budget("quick").profile == "quick"
    assert get_budget().profile == "laptop"
    monkeypatch.delenv("CIFAR_PROFILE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert get_budget().profile == "laptop"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert get_budget().profile == "full"


def test_unknown_profile_offers_the_nearest(monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "quik")
    with pytest.raises(ValueError, match=r"CIFAR_PROFILE.*Did you mean 'quick'"):
        get_budget()


def test_profiles_are_ordered():
    assert [profile_rank(name) for name in ("nonsense", *PROFILES)] == [-1, 0, 1, 2]
