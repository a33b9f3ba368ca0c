import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import synthetic_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cifar_helpers import checks
from cifar_helpers._hashing import hash_tensors
from cifar_helpers.checks import mutants
from cifar_helpers.checks.checks import CHECKS, dependency_matrix
from cifar_helpers.checks.pipeline import Check, Pipeline
from cifar_helpers.checks.probes import FURTHER_CHECKS
from cifar_helpers.checks.running import run_checks
from cifar_helpers.data.batches import Batches, make_batches
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.models.networks import make_model
from cifar_helpers.training.evaluation import evaluate


@pytest.fixture(scope="module")
def data() -> tuple[Batches, Batches]:
    return make_batches(synthetic_split(4000, 10, "train"), synthetic_split(1000, 10, "val"), "cpu")


def good_pipeline(name: str, data: tuple[Batches, Batches], image_size: int = 32) -> Pipeline:
    build = lambda width: make_model(name, 10, width=width, image_size=image_size)  # noqa: E731
    return Pipeline(build(1 / 8), *data, build=build)


def halved(split: Split) -> Split:
    """Return the split with every two by two pixels averaged."""
    return replace(split, images=nn.functional.avg_pool2d(split.images.float(), 2).round().to(torch.uint8))


@pytest.fixture(scope="module")
def mlp(data) -> Pipeline:
    return good_pipeline("mlp", data)


@pytest.fixture(scope="module")
def matrix(mlp):
    return mutants.run_matrix(mlp)


# --- the matrix: what catches what ---


def test_the_good_twin_passes_every_check(matrix):
    assert [found for found in matrix["good"].values() if not found.passed] == []


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_bug_is_caught_by_the_check_made_for_it(matrix, mlp, mutant):
    if mutant not in mutants.possible_mutants(mlp.model):
        pytest.skip(f"an MLP has no {mutant.needs.__name__}")
    assert mutant.caught_by in mutants.caught_by(matrix[mutant.name])


@pytest.mark.parametrize("number", range(len(CHECKS)), ids=lambda number: CHECKS[number].__name__)
def test_every_check_catches_a_bug_that_no_other_sees(matrix, number):
    name = list(matrix["good"])[number]
    assert [bug for bug, verdicts in matrix.items() if mutants.caught_by(verdicts) == [name]], f"{name} can go"


@pytest.mark.parametrize("mutant", [m for m in mutants.MUTANTS if m.needs], ids=lambda mutant: mutant.name)
def test_bugs_of_batchnorm_are_caught_by_the_check_made_for_them(data, mutant):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32**2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    good = Pipeline(net, *data)
    made_for_it = next(run for run in CHECKS if run(good).name == mutant.caught_by)
    assert made_for_it(good).passed
    assert made_for_it(mutant.plant(good)).passed is False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "cnn_bn"])
def test_the_matrix_of_convolutional_networks(name):
    """On images of half the size, which take a quarter of the time."""
    splits = [halved(synthetic_split(count, 10, part)) for part, count in (("train", 4000), ("val", 1000))]
    good = good_pipeline(name, make_batches(*splits, "cpu"), image_size=16)
    found = {bug: mutants.caught_by(verdicts) for bug, verdicts in mutants.run_matrix(good).items()}
    assert found.pop("good") == []
    for mutant in mutants.possible_mutants(good.model):
        assert mutant.caught_by in found[mutant.name], (mutant.name, found[mutant.name])
    assert ("frozen BatchNorm still counts" in found) == (name == "cnn_bn")


@pytest.mark.parametrize("name", ["cnn", "cnn_bn"])
def test_convolutional_networks_pass(data, name, capsys):
    good = good_pipeline(name, data)
    assert all(found.passed for found in run_checks(good.model, data, build=good.build, seconds=None))
    assert capsys.readouterr().out.count("PASS") == len(CHECKS) + 1


# --- they leave no trace ---


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list:
    """Return all that a check might have touched, as values that can be compared."""
    return [
        [(name, hash_tensors([tensor])) for name, tensor in model.state_dict().items()],
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else hash_tensors([p.grad]) for p in model.parameters()],
        [[hash_tensors([v]) for v in state.values() if v is not None] for state in optimizer.state.values()],
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("run", [*CHECKS, *FURTHER_CHECKS], ids=lambda run: run.__name__)
@pytest.mark.parametrize("bug", [None, "labels are floats"])
def test_a_check_leaves_model_modes_randomness_and_optimizer_alone(data, run, bug):
    net = [nn.Flatten(), nn.Linear(3 * 32**2, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 10)]
    model = nn.Sequential(*net).train()
    model[2].eval()
    model[1].bias.requires_grad_(False)
    good = Pipeline(model, *data, build=lambda width: copy.deepcopy(model))
    plants = {mutant.name: mutant.plant for mutant in mutants.MUTANTS}
    pipeline = plants[bug](good) if bug else good
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    before = everything(model, optimizer)
    run(pipeline)
    assert everything(model, optimizer) == before


def test_the_dependency_matrix_shows_what_batchnorm_leaks_and_restores_it():
    model = make_model("cnn_bn", width=1 / 8).eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(5, 3, 32, 32)
    assert dependency_matrix(model, images).fill_diagonal_(0).max() == 0
    assert dependency_matrix(model, images, batchnorm_trains=True).min() > 0
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# --- your own parts ---


class OwnNet(nn.Module):
    """A network with dropout, without a linear head and without a spec."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(16, 32, 3))
        self.score = nn.Conv2d(32, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.score(self.features(images).relu()).amax((2, 3))


def own_loop(model, batches, optimizer, loss):
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()


def as_tensors(batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches.ordered(), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_your_own_model_loop_and_data_loader(data, capsys):
    loaders = [
        DataLoader(TensorDataset(*as_tensors(part)), 200, shuffle=s) for part, s in zip(data, (1, 0), strict=True)
    ]
    found = {
        c.name: c for c in run_checks(OwnNet(), loaders, nn.CrossEntropyLoss(), train_epoch=own_loop, seconds=None)
    }
    assert [c.name for c in found.values() if c.passed is None] == ["round trip", "capacity"]
    assert [c for c in found.values() if c.passed is False] == []
    assert "SKIP  capacity" in capsys.readouterr().out
    assert "build=" in found["capacity"].why


def test_two_lists_of_batches_keep_their_order(data):
    lists = [list(part.ordered()) for part in data]
    assert checks.check_seed(Pipeline(make_model("mlp", width=1 / 8), *lists)).passed


class Doubled(nn.Module):
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.cat([scores, -scores], dim=1)


def test_a_network_without_a_head_is_told_so(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32**2, 5), Doubled())
    found = checks.check_zero_head(Pipeline(model, *data))
    assert found.passed is None
    assert "no layer has 10 rows" in found.why


def test_model_and_batches_on_two_devices_are_named(data):
    with pytest.raises(ValueError, match="batches are on cpu"):
        run_checks(make_model("linear").to("meta"), data)


def test_batches_that_are_empty_or_gone_after_one_pass_are_named(data):
    lists = [list(part.ordered()) for part in data]
    for bad, named in [(([], lists[1]), "train"), ((lists[0], []), "val"), ((iter(lists[0]), lists[1]), "train")]:
        with pytest.raises(ValueError, match=f"{named}='no batch' is not allowed"):
            run_checks(make_model("linear"), bad)
        assert checks.check_overfit(Pipeline(make_model("linear"), [], lists[1])).passed is False


def test_a_loader_with_a_generator_of_its_own_passes_and_gets_its_state_back(data):
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(TensorDataset(*as_tensors(data[0])), 64, shuffle=True, generator=generator)
    before = generator.get_state()
    assert checks.check_seed(Pipeline(make_model("linear"), loader, data[1])).passed
    assert torch.equal(generator.get_state(), before)


class Functional(nn.Module):
    """A network whose dropout is no module and whose first layer has a bias that BatchNorm cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 15 * 15, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(images)).relu().flatten(1)
        return self.head(nn.functional.dropout(x, 0.5, self.training))


def test_functional_dropout_and_a_bias_that_batchnorm_cancels_are_no_bugs(data):
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.001)  # noqa: E731
    good = Pipeline(Functional(), *data, make_optimizer=sgd)
    assert checks.check_fresh_gradients(good).passed
    assert checks.check_movement(good).passed
    frozen = Functional()
    frozen.conv.requires_grad_(False)
    assert checks.check_movement(Pipeline(frozen, *data, make_optimizer=sgd)).passed


def test_few_validation_images_are_not_evaluated(data):
    few = [(images[:50], labels[:50]) for images, labels in list(data[1])[:1]]
    assert checks.check_baselines(Pipeline(make_model("linear"), data[0], few)).passed is None


def test_a_percentage_is_not_taken_for_a_fraction(data):
    percent = lambda model, batches: Sums100(evaluate(model, batches))  # noqa: E731
    found = checks.check_baselines(Pipeline(make_model("linear"), *data, evaluate=percent))
    assert found.passed is False
    assert "a fraction, no percentage" in found.why


class Sums100:
    def __init__(self, sums) -> None:
        self.loss, self.accuracy = sums.loss, 100 * sums.accuracy


@pytest.mark.parametrize("smoothing", [0.1, 0.2])
def test_label_smoothing_is_judged_by_the_lowest_loss_that_it_can_have(data, smoothing):
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    found = checks.check_overfit(Pipeline(make_model("mlp", width=1 / 8), *data, loss))
    assert found.passed
    assert "near its floor" in found.bound


def test_a_model_that_cannot_be_copied_is_a_finding(data):
    model = make_model("linear")
    model.kept = model(torch.zeros(1, 3, 32, 32))
    assert "deepcopy" in checks.check_zero_head(Pipeline(model, *data)).why


def test_what_the_pipeline_raises_is_a_finding(data):
    found = checks.check_loss_at_init(Pipeline(make_model("linear", image_size=16), *data))
    assert found.passed is False
    assert "RuntimeError" in found.why


# --- what a failure says ---


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        ("softmax before the loss", "a softmax before the cross-entropy"),
        ("optimizer of a copy", "not learned with your optimizer"),
        ("labels shuffled at each step", "nothing is learned with your loop"),
        ("ReLU on the logits", "images stay at ln C: is there a ReLU on the logits?"),
    ],
)
def test_the_floor_of_a_stuck_loss_is_explained(matrix, bug, words):
    assert words in matrix[bug]["overfit a batch"].why


@pytest.mark.parametrize(
    ("bug", "check", "words"),
    [
        ("levels 0 to 255", "batch contract", "train: images have mean"),
        ("channels last into an MLP", "batch contract", "(64, 32, 32, 3), expected (B, 3, H, W)"),
        ("labels count from 1", "batch contract", "labels run from 1 to 10, expected 0 to 9"),
        ("labels are floats", "batch contract", "expected torch.float32 and torch.int64"),
        (
            "optimizer lacks a layer",
            "tensors that move",
            "not in the optimizer: 1.weight, 1.bias",
        ),
        ("no optimizer.step()", "fresh gradients", "optimizer.step() is never called"),
        ("no loss.backward()", "fresh gradients", "call loss.backward()"),
        ("val is augmented", "evaluation agrees", "are they augmented?"),
        ("train() not in finally", "evaluation, no trace", "after an error in a batch"),
        ("every epoch in one order", "same seed", "shuffle the training images"),
        ("order without the seed", "same seed", "draws without the seed"),
    ],
)
def test_a_failure_says_what_to_look_for(matrix, bug, check, words):
    assert words in str(matrix[bug][check])


def test_a_loader_sorted_by_class_is_named():
    split = synthetic_split(1000, 10, "train")
    ordered = split.select(split.labels.argsort())
    batches = [(Normaliser.fit(split)(ordered.images), ordered.labels)]
    found = checks.check_batches(Pipeline(make_model("linear"), batches, batches))
    assert "is the order shuffled?" in found.why


def test_a_check_is_one_row():
    row = str(Check("loss at init", False, 1.25, "within 0.4 of ln 10", "the head is too large"))
    assert row.split("  ")[0] == "FAIL"
    assert row.count("\n") == 1
    assert "the head is too large" in row
    assert "the head" not in str(Check("loss at init", True, 0.25, "within 0.4 of ln 10", "the head is too large"))
