import pytest
import torch

from cifar_helpers.models import MODELS, count_parameters, make_model

PARAMETERS = {"linear": 30_730, "mlp": 3_805_450, "cnn": 2_177_482, "cnn_bn": 2_178_346}


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
        assert make_model(name, 3, width=0.1, image_size=48)(torch.randn(1, 3, 48, 48)).shape == (1, 3)


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
