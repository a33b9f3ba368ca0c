"""Networks inside torch.compile and DataParallel are kept under their plain names, and train as they are."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from small import TINY, equal_weights, small_batches, tiny_net
from torch import nn

from cifar_helpers.classify import load_model
from cifar_helpers.models.networks import make_model
from cifar_helpers.training._wrappers import load_plain_state, plain_state, unwrap
from cifar_helpers.training.checkpoint import CheckpointError, load_checkpoint
from cifar_helpers.training.loop import fit

compiled = lambda net: torch.compile(net, backend="eager")  # noqa: E731  # no compiler is needed for its wrapper
WRAPPERS = {
    "torch.compile": compiled,
    "DataParallel": nn.DataParallel,
    "both": lambda net: nn.DataParallel(compiled(net)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_names_are_those_of_the_plain_network(wrap):
    net = tiny_net()
    wrapped = wrap(net)
    assert set(wrapped.state_dict()).isdisjoint(net.state_dict())
    assert unwrap(wrapped) is net
    assert plain_state(wrapped).keys() == net.state_dict().keys()
    other = wrap(tiny_net())
    nn.init.ones_(unwrap(other)[0].weight)
    load_plain_state(other, plain_state(wrapped))
    assert equal_weights(unwrap(other), net)


def test_a_wrapped_part_of_a_network_is_named_plainly_too():
    """And an attribute that happens to be called `module` stays what it is."""

    class Own(nn.Module):
        def __init__(self, wrap) -> None:
            super().__init__()
            self.module = wrap(nn.Sequential(wrap(nn.Linear(3, 2)), nn.BatchNorm1d(2)))

    plain, wrapped = Own(lambda net: net), Own(compiled)
    assert "module._orig_mod.0._orig_mod.weight" in wrapped.state_dict()
    assert plain_state(wrapped).keys() == plain.state_dict().keys() == plain_state(plain).keys()
    load_plain_state(wrapped, plain.state_dict())
    plain.load_state_dict(plain_state(wrapped))


@pytest.mark.parametrize("wrap", [WRAPPERS["torch.compile"], WRAPPERS["DataParallel"]], ids=["compile", "parallel"])
def test_a_wrapped_network_trains_resumes_and_is_loaded_plain(tmp_path, wrap, capsys):
    config, path = dataclasses.replace(TINY, epochs=3, replicas=1), tmp_path / "run.safetensors"
    plain, whole, cut = tiny_net(), tiny_net(), tiny_net()
    fit(plain, *small_batches(), config)
    expected = fit(wrap(whole), *small_batches(), config)

    def interrupt(record, model):
        assert model is cut
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(wrap(cut), *small_batches(), config, checkpoint=path, callbacks=[interrupt])
    with pytest.raises(CheckpointError, match=r"wrapper \('\w+', now None\)"):
        fit(tiny_net(), *small_batches(), config, checkpoint=path)
    record = fit(wrap(cut), *small_batches(), config, checkpoint=path)
    assert [e.train_loss for e in record.history] == [e.train_loss for e in expected.history]
    assert equal_weights(cut, whole)
    assert equal_weights(cut, plain)  # neither wrapper changes a number here
    fresh = tiny_net()
    fresh.load_state_dict(load_file(path))
    assert equal_weights(fresh, cut)
    assert load_checkpoint(path).weights.keys() == fresh.state_dict().keys()
    assert fit(tiny_net(), *small_batches(), config, checkpoint=path) == record
    assert "trained before" in capsys.readouterr().out


def test_load_model_knows_a_network_that_was_wrapped(tmp_path):
    net, path = make_model("lenet", 4, image_size=16), tmp_path / "run.safetensors"
    train, val = small_batches()
    for batches in (train, val):
        batches._images = batches._images.repeat(1, 1, 2, 2)
    fit(nn.DataParallel(net), train, val, dataclasses.replace(TINY, epochs=1), checkpoint=path)
    assert equal_weights(load_model(path).model, copy.deepcopy(net).cpu())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"compile": True}, "compile=True .*wrapped already, here in DataParallel"), ({"replicas": 2}, "replicas=2 ")],
)
def test_what_a_wrapped_network_cannot_have_besides_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        fit(nn.DataParallel(tiny_net()), *small_batches(), dataclasses.replace(TINY, **change), device="cpu")


def test_the_optimizer_is_made_of_the_network_as_it_was_passed():
    net = nn.DataParallel(tiny_net())
    config = dataclasses.replace(TINY, epochs=1, lr=0.05)
    optimizer = lambda model: torch.optim.SGD(model.module.parameters(), lr=0.01)  # noqa: E731
    fit(net, *small_batches(), config, optimizer=optimizer)
    assert not equal_weights(net.module, tiny_net())
