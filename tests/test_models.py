import json

import pytest
import torch
from small import random_split
from torch import nn

from cifar_helpers.data.batches import make_batches
from cifar_helpers.models.networks import (
    ACTIVATIONS,
    MODELS,
    Described,
    ModelConfig,
    _dirac_conv,
    build_model,
    make_model,
    whiten,
)
from cifar_helpers.models.summary import count_parameters

PARAMETERS = {
    "linear": 30_730, "mlp": 3_805_450, "basenet": 85_082, "lenet": 1_114_196, "cnn": 2_177_482, "cnn_bn": 2_178_346,
    "cnn_bn_pool": 2_178_378, "resnet20": 272_474, "resnet56": 855_770, "plain20": 269_722, "plain56": 853_018,
    "nine": 24_670_538, "nine_plain": 24_666_970, "vgg13": 9_935_434, "vgg13_bn": 9_938_378, "vgg16": 15_245_130,
    "vgg16_bn": 15_249_354, "resnet18": 11_173_962, "fast": 1_971_352,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_images_in_logits_out(name):
    model = make_model(name, 7, width=0.25)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    asked = {"name": name, "num_classes": 7, "width": 0.25, "image_size": 32, "seed": 0}
    assert model.spec == asked | {"dropout": 0.0, "activation": None}


def test_every_network_has_its_count():
    assert PARAMETERS.keys() == MODELS.keys(), "write how many parameters a network has into PARAMETERS, or take it out"


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name, count):
    assert count_parameters(make_model(name, 10)) == count


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_decides_the_weights_and_nothing_else(name):
    torch.manual_seed(1)
    a = make_model(name, width=0.1, seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b = make_model(name, width=0.1, seed=3).state_dict()
    c = make_model(name, width=0.1, seed=4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_image_sizes_work():
    for name in MODELS:
        assert make_model(name, 3, width=0.1, image_size=48).eval()(torch.randn(1, 3, 48, 48)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cnnbn",), "Did you mean 'cnn_bn'"),
        (("resnet1000",), "choose one of linear, mlp"),
        (("mlp", 1), "num_classes=1"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        make_model(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "Relu"}, "Did you mean 'relu'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout"),
        ({"width": 0.0}, "width=0.0 is not allowed"),
        ({"image_size": 7}, "image_size=7"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        make_model("mlp", **options)


@pytest.mark.parametrize("name", MODELS)
def test_every_activation_can_be_exchanged_and_dropout_stands_before_the_head(name):
    model = make_model(name, width=0.1, activation="gelu", dropout=0.25)
    found = {type(module) for module in model.modules()} & set(ACTIVATIONS.values())
    assert found == ({nn.GELU} if name != "linear" else set())
    head = max(i for i, layer in enumerate(model) if isinstance(layer, nn.Linear))
    assert isinstance(model[head - 1], nn.Dropout)
    assert model[head - 1].p == 0.25
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_plain_network_lacks_the_shortcuts_and_nothing_else():
    plain, residual = (make_model(f"{kind}20", width=0.25) for kind in ("plain", "resnet"))
    images = torch.randn(4, 3, 32, 32)
    shared = {key: value for key, value in residual.state_dict().items() if "shortcut" not in key}
    assert shared.keys() == plain.state_dict().keys()
    plain.load_state_dict(shared)
    assert not torch.allclose(plain.eval()(images), residual.eval()(images))


def test_a_configuration_builds_its_network_for_the_classes_and_the_size_of_the_batches():
    train = random_split(size=16)
    batches, _ = make_batches(train, random_split(name="val", size=16), "cpu")
    config = ModelConfig("fast", width=0.1, dropout=0.1, activation="relu")
    model = build_model(config, batches, seed=3)
    assert model.spec == config.to_dict() | {"num_classes": len(train.class_names), "image_size": 16, "seed": 3}
    twin = make_model(**model.spec)
    assert not torch.equal(model[0].weight, twin[0].weight)
    whiten(twin, batches.normaliser(train.images))  # in their order, whatever the shuffled batches begin with
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_configuration_goes_through_json_and_back():
    config = ModelConfig("nine", width=0.5, dropout=0.2, activation="gelu")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ModelConfig.from_dict({"name": "cnn"}) == ModelConfig("cnn")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "cnnbn"}, "Did you mean 'cnn_bn'"),
        ({"name": 3}, "name=3 is not known"),
        ({"name": ["cnn"]}, "is not known"),
        ({"width": 0}, "width=0 is not allowed: a positive factor"),
        ({"width": -0.5}, "width=-0.5"),
        ({"width": float("inf")}, "width=inf"),
        ({"width": float("nan")}, "width=nan"),
        ({"width": "0.5"}, "width='0.5'"),
        ({"width": True}, "width=True"),
        ({"dropout": 1.0}, "dropout=1.0 is not allowed: a probability"),
        ({"dropout": None}, "dropout=None"),
        ({"activation": "Relu"}, "Did you mean 'relu'"),
        ({"widht": 0.5}, "Did you mean 'width'"),
    ],
)
def test_a_configuration_that_builds_no_network_is_refused_when_it_is_made(fields, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig.from_dict({"name": "mlp"} | fields)


def test_a_configuration_without_a_name_is_refused():
    with pytest.raises(ValueError, match="the name of a network"):
        ModelConfig.from_dict({"width": 1.0})


def test_a_network_can_be_told_from_one_without_a_description():
    assert isinstance(make_model("linear"), Described)
    assert not isinstance(nn.Sequential(nn.Linear(2, 2)), Described)


def test_an_image_that_pools_away_is_refused():
    with pytest.raises(ValueError, match="image_size=4"):
        make_model("cnn", image_size=4)


def test_signals_keep_their_scale_through_the_convolutions():
    """He initialisation: a plain network of six convolutions neither fades nor explodes."""
    activations = make_model("cnn")[:15](torch.randn(16, 3, 32, 32))
    assert 0.3 < activations.std() < 3


def test_resnet18_has_the_parameters_of_the_published_one():
    assert count_parameters(make_model("resnet18", 100)) == 11_220_132


@pytest.mark.parametrize("name", ["vgg13", "vgg16_bn"])
def test_a_small_image_is_refused_by_the_network_that_pools_it_away(name):
    with pytest.raises(ValueError, match="image_size=16 is not allowed: 5 pools halve it"):
        make_model(name, image_size=16)


def test_a_whitened_stem_gives_uncorrelated_outputs_of_one_size():
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.avg_pool2d(torch.randn(400, 3, 34, 34, generator=generator), 3, 1)  # neighbours agree
    images = images / images.std()
    model = make_model("fast", width=1 / 16)
    whiten(model, images)
    stem = model[0](images) - model[0].bias.view(1, -1, 1, 1)
    assert torch.allclose(stem[:, :12], -stem[:, 12:], atol=1e-5)
    outputs = stem[:, :12].transpose(0, 1).flatten(1)
    second_moments = outputs @ outputs.T / outputs.shape[1]
    assert torch.allclose(second_moments, torch.eye(12), atol=0.05)
    assert not model[0].weight.requires_grad


def test_dirac_convolutions_begin_by_passing_their_input_on():
    images = torch.randn(2, 6, 5, 5)
    assert torch.allclose(_dirac_conv(6, 8)(images)[:, :6], images, atol=1e-6)
    assert torch.allclose(_dirac_conv(6, 4)(images), images[:, :4], atol=1e-6)


def test_the_fast_network_takes_several_sizes_and_trains_no_factor_of_batchnorm():
    model = make_model("fast", width=1 / 16)
    assert {model(torch.randn(2, 3, size, size)).shape for size in (20, 24, 32)} == {(2, 10)}
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 6
    assert not any(norm.weight.requires_grad for norm in norms)
    with pytest.raises(ValueError, match="image_size=8"):
        make_model("fast", image_size=8)
