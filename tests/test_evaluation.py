import pytest
import torch
from small import small_batches, tiny_net
from torch import nn

from cifar_helpers.training.evaluation import evaluate, evaluating, predict


@pytest.mark.parametrize("size", [1, 7, 20])
def test_counts_do_not_depend_on_the_batch_size(size):
    _, val = small_batches()
    net = tiny_net()
    whole = evaluate(net, val)
    val.eval_batch_size = size
    found = evaluate(net, val)
    assert (found.correct, found.count) == (whole.correct, 20)
    assert found.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)


def test_a_ragged_last_batch_weighs_what_it_holds():
    logits = [torch.eye(2)[[0] * 8] * 9, torch.eye(2)[[1]] * 9]
    batches = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in logits]
    assert evaluate(nn.Identity(), batches).accuracy == pytest.approx(8 / 9)


def test_evaluation_restores_every_mode_and_builds_no_graph():
    net = tiny_net().train()
    net[1].eval()
    modes = [module.training for module in net.modules()]
    buffers = net[1].running_mean.clone()
    logits, labels = predict(net, small_batches()[1])
    assert not logits.requires_grad
    assert logits.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(net[1].running_mean, buffers)


def test_modes_are_restored_after_an_error():
    net = tiny_net().train()

    def fail() -> None:
        with evaluating(net):
            assert not net.training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(module.training for module in net.modules())


def test_mirrored_logits_are_the_mean_of_both_sides():
    net, (_, val) = tiny_net(), small_batches()
    both, labels = predict(net, val, tta=True)
    plain = predict(net, val)[0]
    mirror = predict(net, [(x.flip(-1), y) for x, y in val])[0]
    assert torch.allclose(both, (plain + mirror) / 2, atol=1e-6)
    assert not torch.allclose(both, plain, atol=1e-3)
    assert evaluate(net, val, tta=True).correct == int((both.argmax(1) == labels).sum())
