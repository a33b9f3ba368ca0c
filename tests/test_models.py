import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cifar_helpers.models import MODELS, count_parameters, dirac_conv, layer_table, make_model, receptive_field, whiten

PARAMETERS = {
    "linear": 30_730, "mlp": 3_805_450, "basenet": 85_082, "lenet": 1_114_196, "cnn": 2_177_482, "cnn_bn": 2_178_346,
    "nine": 24_670_538, "nine_plain": 24_666_970, "vgg13": 9_935_434, "vgg13_bn": 9_938_378, "vgg16": 15_245_130,
    "vgg16_bn": 15_249_354, "resnet18": 11_173_962, "fast": 1_971_352,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_images_in_logits_out(name):
    model = make_model(name, 7, width=0.25)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert model.spec == {"name": name, "num_classes": 7, "width": 0.25, "image_size": 32, "seed": 0}


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


@pytest.mark.parametrize("name", MODELS)
def test_the_layer_table_counts_what_the_network_does(name):
    """Against torch's own counter, which sees the operations and knows no modules; it counts two per multiply-add."""
    model = make_model(name, width=0.25).train()
    rows = layer_table(model)
    assert all(module.training for module in model.modules())
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32))
    assert sum(row.multiply_adds for row in rows) == counter.get_total_flops() / 2
    assert sum(row.parameters for row in rows) == count_parameters(model)
    assert rows[0].input == (3, 32, 32)
    assert rows[-1].output == (10,)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_thirteenth_convolution_of_vgg_sees_two_by_two_places():
    convolutions = [row for row in layer_table(make_model("vgg16_bn", width=1 / 16)) if row.kind == "Conv2d"]
    assert len(convolutions) == 13
    assert convolutions[-1].output[1:] == (2, 2)
    assert "3 " in str(convolutions[-1])


@pytest.mark.parametrize(
    ("model", "kind", "number", "pixels"),
    [
        ("cnn", "Conv2d", 0, 3),
        ("cnn", "Conv2d", 1, 5),
        ("cnn", "MaxPool2d", 0, 6),
        ("cnn", "MaxPool2d", 2, 36),
        ("basenet", "MaxPool2d", 1, 16),
        ("vgg16", "Conv2d", 12, 196),
        ("vgg16_bn", "MaxPool2d", 4, 212),
        ("resnet18", "Conv2d", 0, 3),
        ("resnet18", "Conv2d", 1, 5),
    ],
)
def test_receptive_fields_are_those_that_one_computes_by_hand(model, kind, number, pixels):
    twin = make_model(model, width=1 / 32)
    before = {key: value.clone() for key, value in twin.state_dict().items()}
    names = [row.name for row in layer_table(twin) if row.kind == kind]
    assert receptive_field(twin, names[number]) == pixels
    assert all(torch.equal(before[key], value) for key, value in twin.state_dict().items())


def test_layers_without_places_and_unknown_ones_are_named():
    model = make_model("cnn", width=1 / 32)
    with pytest.raises(ValueError, match="a layer whose output has places"):
        receptive_field(model, [row.name for row in layer_table(model)][-1])
    with pytest.raises(ValueError, match="name='conv1' is not allowed"):
        receptive_field(model, "conv1")


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
    assert torch.allclose(dirac_conv(6, 8)(images)[:, :6], images, atol=1e-6)
    assert torch.allclose(dirac_conv(6, 4)(images), images[:, :4], atol=1e-6)


def test_the_fast_network_takes_several_sizes_and_trains_no_factor_of_batchnorm():
    model = make_model("fast", width=1 / 16)
    assert {model(torch.randn(2, 3, size, size)).shape for size in (20, 24, 32)} == {(2, 10)}
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 6
    assert not any(norm.weight.requires_grad for norm in norms)
    with pytest.raises(ValueError, match="image_size=8"):
        make_model("fast", image_size=8)
