import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_helpers.models.networks import MODELS, make_model
from cifar_helpers.models.summary import (
    activation_spreads,
    count_parameters,
    feature_maps,
    gradient_sizes,
    layer_table,
    receptive_field,
)

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)


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


def test_feature_maps_are_taken_after_the_whole_block():
    """VGG's thirteenth block is 2 x 2, not negative after its ReLU, and the maps are what the network computes."""
    model = make_model("vgg16_bn", width=1 / 16).eval()
    maps = feature_maps(model, IMAGES)
    assert len(maps) == 13
    thirteenth = list(maps.values())[-1]
    assert thirteenth.shape == (8, 32, 2, 2)
    assert all(features.min() >= 0 for features in maps.values())
    with torch.no_grad():
        assert torch.equal(model[:-1][:43](IMAGES), thirteenth)  # 13 x (convolution, BN, ReLU) and four pools


def test_a_block_without_an_activation_of_its_own_ends_before_the_next_convolution():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.ReLU())
    maps = feature_maps(model, IMAGES)
    assert [features.shape[-1] for features in maps.values()] == [30, 14]
    assert torch.equal(maps["0"], model.eval()[:2](IMAGES))


def test_looking_leaves_the_network_and_the_random_stream_alone():
    model = make_model("vgg13_bn", width=1 / 16).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    activation_spreads(model, IMAGES)
    gradient_sizes(model, IMAGES, LABELS)
    layer_table(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_spreads_are_those_of_the_blocks_in_training_mode():
    model = make_model("cnn_bn", width=1 / 8)
    spreads = activation_spreads(model, 100 * IMAGES)
    expected = model.train()[:3](100 * IMAGES).std(0).mean().item()
    assert spreads[0] == pytest.approx(expected, rel=1e-5)
    assert len(spreads) == 6
    assert all(0.2 < spread < 1 for spread in spreads)  # ReLU of a standard normal: 0.58


def test_what_is_the_same_for_every_image_is_no_spread():
    model = make_model("cnn", width=1 / 8)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.normal_()
    assert activation_spreads(model, IMAGES)[0] == 0


def test_gradient_sizes_are_those_of_the_loss_by_the_filters():
    model = make_model("cnn", width=1 / 8)
    sizes = gradient_sizes(model, IMAGES, LABELS)
    nn.functional.cross_entropy(model(IMAGES), LABELS).backward()
    expected = [m.weight.grad.square().mean().sqrt().item() for m in model if isinstance(m, nn.Conv2d)]
    assert sizes == pytest.approx(expected, rel=1e-5)
    assert len(gradient_sizes(make_model("fast", width=1 / 16), IMAGES, LABELS)) == 6  # the stem is frozen


@pytest.mark.parametrize("name", ["mlp", "cnn_bn", "vgg13_bn", "resnet18", "fast"])
def test_the_table_counts_what_torchinfo_counts(name):
    """Parameters alike; it adds one for every bias and every parameter of a norm to the multiply-adds."""
    torchinfo = pytest.importorskip("torchinfo")
    model = make_model(name)
    rows, other = layer_table(model), torchinfo.summary(model, (1, 3, 32, 32), verbose=0, device="cpu")
    assert sum(row.parameters for row in rows) == other.trainable_params
    assert sum(row.multiply_adds for row in rows) == pytest.approx(other.total_mult_adds, rel=0.01)
