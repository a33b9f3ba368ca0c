from threading import Barrier, current_thread, main_thread

import pytest
import torch
from small import small_batches, tiny_net
from torch import nn
from torch.nn import functional as F

from cifar_helpers.runtime import computing_on
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


def test_a_label_without_an_output_is_named():
    with pytest.raises(ValueError, match=r"^evaluated label 4 at position 5; expected 0 to 3"):
        evaluate(tiny_net(), [(torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, last])) for last in (2, 4)])


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


class Recorder(nn.Module):
    """Notes how many images it is given, and in which thread; two threads can be made to wait for each other."""

    def __init__(self, random=False):
        super().__init__()
        self.layer, self.random, self.meeting, self.seen = nn.Linear(192, 4), random, None, []

    def forward(self, images):
        self.seen.append((len(images), current_thread().name))
        if self.meeting and current_thread() is not main_thread():
            self.meeting.wait(timeout=60)
        x = images.flatten(1)
        return self.layer(F.dropout(x, 0.5) if self.random else x)


def test_on_a_cpu_every_core_predicts_a_part_of_a_batch():
    model, batches = Recorder(), small_batches()
    with computing_on(1):
        logits, _ = predict(model, batches[1])
    model.seen.clear()
    model.meeting = Barrier(2)  # without it a quick thread might compute both parts
    with computing_on(2):
        torch.testing.assert_close(predict(model, batches[1])[0], logits, rtol=1e-6, atol=1e-6)
    sizes, threads = zip(*model.seen[1:], strict=True)  # the first call asks for random numbers
    assert sum(sizes) == len(logits)
    assert len(set(threads)) == 2
    assert current_thread().name not in threads


def test_a_network_with_a_hook_or_with_random_numbers_predicts_whole_batches():
    batches = small_batches()
    hooked, random = Recorder(), Recorder(random=True)
    hooked.layer.register_forward_hook(lambda *_: None)
    for model in (hooked, random):
        with computing_on(2):
            predict(model, batches[1])
        assert {thread for _, thread in model.seen} == {current_thread().name}
