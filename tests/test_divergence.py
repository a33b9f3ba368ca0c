"""Numbers that are no longer finite: said with step, rate and images; nothing of them stays in the model or a file."""

import copy
import dataclasses
import pickle

import pytest
import torch
from small import TINY, equal_weights, small_batches, tiny_net
from torch import nn

from cifar_helpers._storage import load_tensors, save_tensors
from cifar_helpers.training._divergence import find_positions
from cifar_helpers.training.checkpoint import CheckpointError, load_checkpoint
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import evaluate
from cifar_helpers.training.loop import _train_epoch, fit, train_epoch
from cifar_helpers.training.records import TrainingDiverged

OWN = TrainConfig(epochs=2, precision="float32")


def good_batches(count: int = 3) -> list:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4)) for _ in range(count)]


def with_nan(batches: list, batch: int, image: int) -> list:
    changed = [(images.clone(), labels) for images, labels in batches]
    changed[batch][0][image, 1, 2, 3] = float("nan")
    return changed


class SpoilsItself(nn.Sequential):
    """A network whose BatchNorm gets an infinite variance at a forward pass, as with a huge learning rate."""

    def __init__(self, at: int, name: str = "running_var", value: float = float("inf")) -> None:
        super().__init__(*tiny_net(dropout=0.0))
        self.at, self.name, self.value, self.passes = at, name, value, 0

    def forward(self, images):
        self.passes += self.training
        if self.training and self.passes == self.at:
            getattr(self[1], self.name).fill_(self.value)
        return super().forward(images)


def test_the_message_names_step_rate_gradient_and_images_and_the_model_is_as_before():
    net, (train, val) = tiny_net(batchnorm=False), small_batches()
    with pytest.raises(TrainingDiverged) as caught:
        fit(net, train, val, dataclasses.replace(TINY, lr=1e30, momentum=0.5))
    error = caught.value
    order = train.order(0, TINY.seed)[(error.step - 1) * 16 : error.step * 16]
    assert (error.epoch, error.lr, error.images) == (1, 1e30, tuple(order.tolist()))
    assert error.step > 1
    assert error.gradient_norm > 0
    first = ", ".join(map(str, error.images[:6]))
    assert str(error) == (
        f"The loss is not finite at step {error.step} of epoch 1, with learning rate 1e+30 and a gradient of norm "
        f"{error.gradient_norm:.3g} the step before. Its images have the positions {first}, … in the training data. "
        "Try a tenth of this rate, a warm-up, or look for NaN in the images. The model holds again what it did before "
        "training."
    )
    assert equal_weights(net, tiny_net(batchnorm=False))
    assert all(p.grad is None for p in net.parameters())
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_gradient_norm_is_that_of_the_step_before():
    net, batches = tiny_net(batchnorm=False, dropout=0.0), good_batches(2)
    reference = copy.deepcopy(net)
    nn.functional.cross_entropy(reference(batches[0][0]), batches[0][1]).backward()
    expected = sum(float(p.grad.square().sum()) for p in reference.parameters()) ** 0.5
    with pytest.raises(TrainingDiverged, match="at step 2 of this epoch") as caught:
        train_epoch(net, with_nan(batches, 1, 0), torch.optim.SGD(net.parameters(), lr=0.1))
    assert caught.value.gradient_norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("step", [1, 2])
def test_weights_and_buffers_are_those_from_before_the_epoch(step):
    """The negative twin: without what puts them back, BatchNorm holds NaN."""
    for train, restored in ((train_epoch, True), (_train_bare, False)):
        net = tiny_net()
        with pytest.raises(TrainingDiverged, match="positions 2 of the batch hold NaN"):
            train(net, with_nan(good_batches(), step - 1, 2), torch.optim.SGD(net.parameters(), lr=0.1))
        assert equal_weights(net, tiny_net()) is restored
        assert bool(net[1].running_mean.isfinite().all()) is restored


def _train_bare(model, batches, optimizer):
    return _train_epoch(
        model, batches, optimizer, nn.functional.cross_entropy, [0.1] * 9, torch.float32, None, after_step=None
    )


def test_a_divergence_in_a_later_epoch_leaves_the_last_whole_one(tmp_path):
    path, whole, net = tmp_path / "run.safetensors", SpoilsItself(0), SpoilsItself(4, value=float("nan"))
    config = dataclasses.replace(OWN, epochs=1)
    fit(whole, good_batches(), good_batches(1), config)
    with pytest.raises(TrainingDiverged, match=r"did after epoch 1, and so does run\.safetensors") as caught:
        fit(net, good_batches(), good_batches(1), OWN, checkpoint=path)
    assert caught.value.epoch == 2
    assert equal_weights(net, whole)
    assert evaluate(net, good_batches(1)).loss < 10


def test_no_checkpoint_is_promised_where_there_is_none(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(TrainingDiverged) as caught:
        fit(tiny_net(), with_nan(good_batches(), 0, 1), good_batches(1), OWN, checkpoint=path)
    assert "checkpoint" not in str(caught.value)
    assert path.name not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize(("name", "value"), [("running_var", "inf"), ("running_mean", "nan"), ("running_var", "nan")])
def test_a_network_that_is_not_finite_is_neither_finished_nor_saved(tmp_path, name, value):
    """In training mode BatchNorm does not read these: an infinite variance leaves every loss a number."""
    path, net = tmp_path / "run.safetensors", SpoilsItself(3, name, float(value))
    words = rf"NaN or infinity in 1\.{name} after epoch 1, .*again what it did before training\."
    with pytest.raises(TrainingDiverged, match=words):
        fit(net, good_batches(), good_batches(1), OWN, checkpoint=path)
    assert not path.exists()
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())


def deep_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("lr", [100.0, 1e5])
def test_a_rate_that_only_batchnorm_notices_is_a_divergence(lr, tmp_path):
    """Every loss is a number, in validation too, where a variance of inf makes all logits equal: it used to finish."""
    path, net = tmp_path / "run.safetensors", deep_net()
    with pytest.raises(
        TrainingDiverged, match=rf"infinity in 4\.running_var after epoch \d, with learning rate {lr:g}\."
    ):
        fit(net, *small_batches(), dataclasses.replace(TINY, lr=lr, momentum=0.5), checkpoint=path)
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
    if path.exists():
        kept = load_checkpoint(path)
        assert not kept.finished
        assert all(tensor.isfinite().all() for tensor in kept.weights.values())


def test_images_that_are_not_finite_are_the_cause_that_is_named():
    batches = good_batches()
    with pytest.raises(TrainingDiverged, match="The images at positions 3 of the batch hold NaN") as caught:
        fit(tiny_net(), with_nan(batches, 1, 3), batches, OWN)
    assert "a tenth" not in str(caught.value)
    with pytest.raises(TrainingDiverged, match="The images at positions 2 of val batch 3 hold NaN") as caught:
        fit(tiny_net(), batches, with_nan(batches, 2, 2), OWN)
    assert "a tenth" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused_before_the_first_step():
    for spoil in (lambda net: net[0].weight, lambda net: net[1].running_var):
        net = tiny_net()
        spoil(net).data.view(-1)[0] = float("inf")
        with pytest.raises(ValueError, match=r"infinity in (0\.weight|1\.running_var) before the first step"):
            fit(net, good_batches(), good_batches(1), OWN)


class Masked(nn.Module):
    """A network with a mask of -inf, as attention has, which is no fault."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()
        self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, float("-inf")]))

    def forward(self, images):
        return self.net(images).log_softmax(1) + self.mask.nan_to_num(neginf=-5)


def test_a_mask_of_infinity_is_no_fault(tmp_path):
    path = tmp_path / "run.safetensors"
    first = fit(Masked(), good_batches(), good_batches(1), OWN, checkpoint=path)
    assert fit(Masked(), good_batches(), good_batches(1), OWN, checkpoint=path) == first


def test_a_finished_file_of_before_with_an_infinite_variance_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(tiny_net(), good_batches(), good_batches(1), OWN, checkpoint=path)
    tensors, about = load_tensors(path)
    tensors["1.running_var"][0] = float("inf")
    save_tensors(path, tensors, about)
    with pytest.raises(CheckpointError, match=r"holds a network with NaN or infinity in 1\.running_var"):
        fit(tiny_net(), good_batches(), good_batches(1), OWN, checkpoint=path)


def test_the_positions_are_those_that_were_served():
    train, _ = small_batches(40)
    served = [labels for _, labels in train.epoch(3, seed=5, batch_size=16)]
    for step, labels in enumerate(served, start=1):
        positions = find_positions(train, 3, step, seed=5, batch_size=16)
        assert torch.equal(train._labels[list(positions)], labels)
    data = torch.utils.data.TensorDataset(torch.zeros(10, 3, 8, 8), torch.arange(10))
    plain, shuffled = (torch.utils.data.DataLoader(data, batch_size=4, shuffle=shuffle) for shuffle in (False, True))
    assert find_positions(plain, 0, 3, seed=0, batch_size=128) == (8, 9)
    assert find_positions(shuffled, 0, 3, seed=0, batch_size=128) is None
    assert find_positions([], 0, 1, seed=0, batch_size=128) is None


@pytest.mark.cuda
def test_on_cuda_the_first_bad_step_is_named_and_nothing_of_it_stays():
    net, batches = tiny_net().cuda(), [(x.cuda(), y.cuda()) for x, y in with_nan(good_batches(), 1, 0)]
    before = copy.deepcopy(net)
    with pytest.raises(TrainingDiverged, match=r"at step 2 of this epoch, with learning rate 0\.2\."):
        train_epoch(net, batches, torch.optim.SGD(net.parameters(), lr=0.1), lrs=[0.1, 0.2, 0.3])
    assert equal_weights(net, before)
