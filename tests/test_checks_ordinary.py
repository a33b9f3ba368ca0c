"""The checks on code of other people: no false alarm on what is right, a named cause for what is wrong."""

import copy
import os
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import ordinary
import pytest
import torch
from ordinary import ARCHITECTURES, LOOPS, PUBLIC, Net, Pictures, case, levels, loaders, run, sets
from ordinary_bugs import BUGS, LATER
from torch import nn
from torch.utils.data import DataLoader

import cifar_helpers.checks
from cifar_helpers._hashing import hash_tensors
from cifar_helpers.checks import CHECKS, FURTHER_CHECKS, Check, ChecksFailed, NotAdaptable, adapters, run_checks
from cifar_helpers.metrics import Sums

README = Path(__file__).resolve().parent.parent / "README.md"
FAST_LOOPS = ["MNIST example", "quickstart", "torchvision references", "train(epoch) of a notebook",
              "gradient accumulation", "optimizer.step(closure)", "(x, y, index)", "mixup in the loop"]  # fmt: skip
# The time limit for a public network; each to its end: CHECK_SECONDS=300 pytest -m slow -k public
SECONDS = float(os.environ.get("CHECK_SECONDS", "10"))
# What is doubtful in code that is right: a check cannot know that it is meant.
DOUBTFUL = {
    "quickstart": {"evaluation agrees"},
    "gradient accumulation": {"fresh gradients"},
    "binary cross-entropy": {"loss at init"},
    "squared error on one-hot": {"loss at init"},
    "focal loss": {"loss at init"},
    "weight tying": {"called twice"},
    "a layer that is not called": {"tensors that move"},
    "average of weights": {"tensors that move"},
    "frozen backbone": {"tensors that move"},
    "frozen by the optimizer": {"tensors that move"},
}


def named(found: list[Check], status: str) -> set[str]:
    return {check.name for check in found if check.status == status}


def slow_unless(names: list[str], table: dict) -> list:
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow, id=name) for name in table]


# --- what is right ---


@pytest.mark.parametrize("name", slow_unless(FAST_LOOPS, LOOPS))
def test_a_good_loop_has_no_false_alarm(name):
    found = run(LOOPS[name](), seconds=None)
    assert [str(check) for check in found if check.status == "FAIL"] == []
    assert named(found, "WARN") <= DOUBTFUL.get(name, set())
    assert named(found, "SKIP") == {"round trip", "capacity"}


@pytest.mark.parametrize("name", slow_unless(["an object with logits", "auxiliary head"], ARCHITECTURES))
def test_a_good_architecture_has_no_false_alarm(name):
    found = run(ARCHITECTURES[name](), seconds=None)
    assert [str(check) for check in found if check.status == "FAIL"] == []
    assert named(found, "WARN") <= DOUBTFUL.get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_architecture_has_no_false_alarm(name):
    found = run(PUBLIC[name](), seconds=SECONDS)
    assert [str(check) for check in found if check.status == "FAIL"] == []


@pytest.mark.slow
def test_a_relu_behind_the_head_of_a_public_network_is_seen():
    """torchvision's SqueezeNet has one: images whose logits are all 0 are never learned."""
    found = run(ordinary.torchvision_network("squeezenet1_1")(), only=("overfit a batch",), seconds=None)
    assert "is there a ReLU on the logits?" in found[0].why


# --- what is wrong ---


@pytest.fixture(scope="module")
def verdicts() -> dict[str, list[Check]]:
    """Return, for each bug, the row of the check that is to name it."""
    return {name: run(bug.make(), only=(bug.check,), seconds=None) for name, bug in BUGS.items() if bug.check}


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.check])
def test_a_bug_is_named(verdicts, name):
    (found,) = verdicts[name]
    assert found.passed is False
    assert BUGS[name].words in str(found)


def test_the_good_twin_passes_every_check_that_names_a_bug():
    wanted = {bug.check for bug in BUGS.values() if bug.check} - {"evaluation, no trace"}
    assert {check.name for check in run(case(), only=tuple(wanted)) if check.passed} == wanted


def test_every_further_check_names_a_bug():
    assert {check.check_name for check in FURTHER_CHECKS} <= {bug.check for bug in BUGS.values()}


def test_the_published_share_is_what_was_measured(verdicts):
    caught = [name for name, (found,) in verdicts.items() if not found.passed and BUGS[name].words in str(found)]
    assert len(BUGS) == 42
    assert len(caught) >= 30
    architectures = len(ARCHITECTURES) + len(PUBLIC)
    told = " ".join(cifar_helpers.checks.__doc__.split()), " ".join(README.read_text(encoding="utf-8").split())
    assert f"{len(caught)} of {len(BUGS)} ordinary bugs" in told[0]
    assert f"none of {len(LOOPS)} good loops and {architectures} good architectures" in told[0]
    assert f"Of {len(BUGS)} bugs of ordinary code, of kinds known from reports, {len(caught)} are named" in told[1]
    assert f"None of {len(LOOPS)} good loops and {architectures} good architectures" in told[1]


def causes(found: list[Check]) -> str:
    return "\n".join(str(check) for check in found if check.passed is False)


@pytest.mark.slow
def test_a_whole_run_names_the_bugs_too():
    assert causes(run(case(), seconds=None)) == ""
    named_by = [bug.check and bug.words in causes(run(bug.make(), seconds=None)) for bug in BUGS.values()]
    assert sum(map(bool, named_by)) == 39


@pytest.mark.slow
def test_most_of_the_bugs_that_were_written_later_are_named():
    missed = {name for name, (make, words) in LATER.items() if words not in causes(run(make(), seconds=None))}
    assert missed == {
        "rows and columns exchanged in validation",
        "a temperature of 100",
        "counters that are never reset",
    }


# --- the reader's own objects ---


class OwnLoader(DataLoader):
    """A reader's own type of loader."""

    handed_on: ClassVar[list] = []

    def __iter__(self):
        OwnLoader.handed_on.append((type(self.dataset), len(self.dataset), len(self), self.dataset.classes))
        return super().__iter__()


def test_the_loop_gets_a_loader_of_the_readers_own_type():
    train, val = sets()
    train.classes, val.classes = ["train"], ["val"]
    OwnLoader.handed_on.clear()
    found = run(case(data=(OwnLoader(train, 64, shuffle=True), OwnLoader(val, 100))), only=("fresh gradients",))
    assert found[0].passed
    subsets = {(count, batches) for kind, count, batches, classes in OwnLoader.handed_on if kind is not Pictures}
    assert (4 * 16, 4) in subsets  # four batches of sixteen, with a length and the classes of the Dataset
    assert {tuple(classes) for *_, classes in OwnLoader.handed_on} == {("train",), ("val",)}


def test_rows_about_the_packages_own_parts_say_so(capsys):
    found = run(ordinary.ours(Net()), only=("fresh gradients", "accuracy recomputed", "dependency"))
    rows = {check.name: check for check in found}
    assert rows["fresh gradients"].not_yours == ("train_epoch",)
    assert "not yours: train_epoch" in capsys.readouterr().out
    assert rows["accuracy recomputed"].passed is None
    assert rows["dependency"].not_yours == ()


def test_what_the_real_optimizer_lacks_is_named():
    model = Net()
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if "fc" not in name])
    found = run(case(model, optimizer=optimizer), only=("tensors that move",), seconds=None)
    assert "2 trainable parameters are not in the optimizer: fc.weight, fc.bias" in found[0].why
    assert found[0].status == "FAIL"
    assert not optimizer.state


def test_what_is_meant_can_be_said():
    found = run(case(train_epoch=ordinary.accumulate, accumulate=4), only=("fresh gradients",), seconds=None)
    assert found[0].status == "PASS"
    model = Net()
    optimizer = torch.optim.Adam(model.fc.parameters())
    found = run(case(model, optimizer=optimizer, frozen=("conv", "bn")), only=("tensors that move",))
    assert found[0].status == "FAIL"  # BatchNorm counts, though it is said to be frozen
    assert "bn1.running_mean" in found[0].why
    model = ordinary.FrozenBackbone(in_eval=True)
    assert run(case(model, frozen=("conv", "bn")), only=("tensors that move",))[0].status == "PASS"


@pytest.mark.parametrize("every", [2, 8, 20])
def test_steps_are_waited_for(every):
    """A loop that steps after so many batches, and leaves what remains, is no loop without steps."""

    def accumulates(model, loader, optimizer, criterion):
        for i, (x, y) in enumerate(loader):
            (criterion(model(x), y) / every).backward()
            if (i + 1) % every == 0:
                optimizer.step()
                optimizer.zero_grad()

    (found,) = run(case(train_epoch=accumulates), only=("fresh gradients",), seconds=None)
    assert found.status == "WARN"
    assert f"one step for {every} batches: their gradients accumulate" in found.why
    assert run(case(train_epoch=accumulates, accumulate=every), only=("fresh gradients",), seconds=None)[0].passed


class Dictionary(nn.Module):
    """A network that takes a whole batch by its names."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict:
        return {"prediction": self.net(pixel_values), "seen": labels}


def test_forward_takes_a_batch_in_the_readers_form():
    images, labels = levels(200, "train")
    batches = [{"pixel_values": x, "labels": y} for x, y in zip(images.split(50), labels.split(50), strict=True)]
    forward = lambda model, batch: model(**batch)["prediction"]  # noqa: E731
    found = run_checks(Dictionary(), (batches, batches[:2]), forward=forward, only=("dependency", "overfit a batch"))
    assert [check.status for check in found] == ["PASS", "PASS"]
    without = run_checks(Dictionary(), (batches, batches[:2]))
    assert [(check.name, check.status) for check in without] == [("model runs", "FAIL")]


def test_what_has_no_known_form_is_not_run_and_said_once(capsys):
    def strange(model, loader, optimizer, criterion, teacher, temperature):
        raise AssertionError

    found = run(case(train_epoch=strange, evaluate=lambda model, loader: print("done")), seconds=None)
    assert named(found, "FAIL") == set()
    out = capsys.readouterr().out
    assert out.count("must accept (model, batches, optimizer, loss=…)") == 1
    assert out.count("let it return the accuracy") == 1
    assert {"fresh gradients", "same seed", "overfit a batch", "evaluation agrees"} <= named(found, "SKIP")
    assert {"batch contract", "dependency"} <= named(found, "PASS")
    embedding = nn.Sequential(Net(), nn.Unflatten(1, (5, 2)))
    assert "expected logits (B, C): pass forward=" in run(case(embedding))[0].why


def test_a_loop_that_raises_is_not_run_and_one_with_an_optimizer_inside_is_half_run():
    def raises(model, loader, optimizer, criterion):
        loader.sampler.set_epoch(0)

    found = run(case(train_epoch=raises), only=("fresh gradients", "same seed"), seconds=None)
    assert "your train function raises AttributeError" in found[0].why
    assert [check.status for check in found] == ["SKIP", "SKIP"]

    def inside(model, loader):
        ordinary.plain(model, loader, torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss())

    found = run(case(train_epoch=inside), only=("tensors that move", "fresh gradients"), seconds=None)
    assert [check.status for check in found] == ["PASS", "SKIP"]


# --- the shapes of loops ---


def test_a_notebook_is_left_as_it_was(capsys):
    found = ordinary.by_names()
    space = found.parts["train_epoch"].__globals__
    names = ("net", "optimizer", "scheduler", "trainloader", "testloader")
    before = {name: space[name] for name in names}
    states = copy.deepcopy([space[name].state_dict() for name in ("net", "optimizer", "scheduler")])
    rows = run(found, only=("tensors that move", "same seed", "evaluation agrees", "rates and updates"))
    assert {check.status for check in rows} == {"PASS"}
    assert all(space[name] is value for name, value in before.items())
    assert hash_tensors(space["net"].state_dict().values()) == hash_tensors(states[0].values())
    assert space["optimizer"].state_dict() == states[1]
    assert space["scheduler"].state_dict() == states[2]
    assert (space["train_losses"], space["best_acc"]) == ([], 0.0)
    assert "Loss" not in capsys.readouterr().out  # what it prints is swallowed


def test_names_of_the_function_around_are_found_too():
    def script():
        net, trainloader = Net(), loaders()[0]

        def train(epoch):
            ordinary.plain(net, trainloader, optimizer, nn.CrossEntropyLoss())

        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        return net, trainloader, train

    net, trainloader, train = script()
    only = "tensors that move", "fresh gradients"
    found = run_checks(net, (trainloader, loaders()[1]), train_epoch=train, only=only)
    assert [check.status for check in found] == ["PASS", "PASS"]
    assert found[0].not_yours == ()  # the optimizer is the one that the function names


class Trainer:
    """Everything is an attribute, and the history grows."""

    def __init__(self) -> None:
        self.model, (self.loader, self.val) = Net(), loaders()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.history = {"loss": [], "epochs": 0}

    def train_epoch(self) -> None:
        ordinary.plain(self.model, self.loader, self.optimizer, nn.CrossEntropyLoss())
        self.history["epochs"] += 1

    def validate(self) -> float:
        return ordinary.score(self.model, self.val)


def test_methods_of_a_trainer_find_everything_in_their_object():
    trainer = Trainer()
    before = hash_tensors(trainer.model.state_dict().values())
    parts = {"train_epoch": trainer.train_epoch, "evaluate": trainer.validate}
    only = "tensors that move", "fresh gradients", "accuracy recomputed"
    found = run_checks(trainer.model, (trainer.loader, trainer.val), optimizer=trainer.optimizer, only=only, **parts)
    assert [check.status for check in found] == ["PASS"] * 3
    assert hash_tensors(trainer.model.state_dict().values()) == before
    assert trainer.history == {"loss": [], "epochs": 0}


def test_an_optimizer_that_is_found_by_name_never_steps_the_readers_weights():
    """Also where the network is an argument: the reader's own gradients would move her network."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(2, 3, 32, 32)).sum().backward()
    before = hash_tensors(model.state_dict().values())

    def loop(model, loader):
        ordinary.plain(model, loader, optimizer, nn.CrossEntropyLoss())

    found = run_checks(model, loaders(), train_epoch=loop, only=("tensors that move", "fresh gradients"))
    assert [check.status for check in found] == ["PASS", "PASS"]
    assert hash_tensors(model.state_dict().values()) == before


def returning(value):
    return lambda model, loader: value


@pytest.mark.parametrize(
    ("value", "loss", "accuracy"),
    [
        (0.25, None, 0.25),
        (25.0, None, 0.25),
        ((2.3, 0.25), 2.3, 0.25),
        ((25.0, 2.3), 2.3, 0.25),
        ([torch.tensor(2.3), torch.tensor(25.0)], 2.3, 0.25),
        ({"val_loss": 2.3, "val_acc": 0.25}, 2.3, 0.25),
        ({"loss": 2.3, "top1": 25.0, "top5": 60.0}, 2.3, 0.25),
        (Sums(230, 25, 100), 2.3, 0.25),
    ],
)
def test_what_an_evaluation_returns_is_read(value, loss, accuracy):
    adapted = adapters.adapt_evaluation(
        returning(value), nn.Linear(1, 1), [], nn.CrossEntropyLoss(), Sums(230, 25, 100)
    )
    for _ in range(2):
        found = adapted(nn.Linear(1, 1), [])
        assert found.loss == pytest.approx(loss)
        assert found.accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize("value", [None, "done", ("a", "b")])
def test_an_evaluation_without_a_number_is_refused(value):
    with pytest.raises(NotAdaptable, match="return the accuracy"):
        adapters.adapt_evaluation(returning(value), nn.Linear(1, 1), [], nn.CrossEntropyLoss())(nn.Linear(1, 1), [])


def test_top_five_is_not_taken_for_percent():
    read = adapters.adapt_evaluation(returning(0.48), nn.Linear(1, 1), [], nn.CrossEntropyLoss(), Sums(230, 9, 100))
    assert read(nn.Linear(1, 1), []).accuracy == 0.48


def test_a_scheduler_among_the_arguments_is_bound_to_the_copy():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def loop(model, loader, optimizer, lr_scheduler, criterion):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
            lr_scheduler.step()

    found = run(
        case(model, optimizer=optimizer, scheduler=scheduler, train_epoch=loop),
        only=("rates and updates",),
        seconds=None,
    )
    assert "the learning rate falls from 0.1" in found[0].why
    assert (optimizer.param_groups[0]["lr"], scheduler.last_epoch) == (0.1, 0)


# --- what good code does besides ---


class Listed(Pictures):
    """Pictures with an attribute that other Datasets use for their files."""

    def __init__(self, listed, name: str, part: str) -> None:
        super().__init__(*levels(*((1000, "train") if part == "train" else (500, "val"))))
        setattr(self, name, listed(part))


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("imgs", lambda part: [f"{part}{i}.png" for i in range(1000)]),
        ("imgs", lambda part: np.array([f"{part}{i}.png" for i in range(1000)])),
        ("samples", lambda part: [{"image": f"{part}{i}.png"} for i in range(1000)]),
        ("samples", lambda part: [(np.zeros(3), i) for i in range(1000)]),
    ],
)
def test_files_that_are_listed_otherwise_are_no_leak(name, listed):
    data = loaders(*(Listed(listed, name, part) for part in ("train", "val")))
    assert run(case(data=data), only=("leak",))[0].status == "PASS"


def test_files_that_both_sets_list_are_a_leak():
    data = loaders(*(Listed(lambda _: [(f"{i}.png", 0) for i in range(1000)], "samples", p) for p in ("train", "val")))
    assert "files that training has" in run(case(data=data), only=("leak",))[0].why


def test_labels_that_are_changed_when_they_are_served_are_not_compared_with_those_that_are_kept():
    train, val = sets()
    for part in (train, val):
        part.targets, part.target_transform = part.targets + 3, lambda label: label - 3

    class Served(Pictures):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, self.target_transform(label)

    for part in (train, val):
        part.__class__ = Served
    assert run(case(data=loaders(train, val)), only=("classes seen",))[0].status in ("PASS", "SKIP")


class Clipped(torch.optim.SGD):
    """An optimizer with an attribute of its own."""

    def __init__(self, *arguments, bound: float, **options) -> None:
        super().__init__(*arguments, **options)
        self.bound = bound

    def step(self, closure=None):
        nn.utils.clip_grad_norm_(self.param_groups[0]["params"], self.bound)
        return super().step(closure)


def test_hooks_and_attributes_of_an_optimizer_are_copied_and_its_step_is_not():
    model = Net()
    optimizer = Clipped(model.parameters(), lr=0.1, bound=0.5)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append(True))
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)  # it watches `optimizer.step`
    before = hash_tensors(model.state_dict().values())
    other = copy.deepcopy(model)
    copied = adapters.copy_optimizer(optimizer, model)(other)
    other(torch.ones(2, 3, 32, 32)).square().sum().backward()
    copied.step()
    assert copied.bound == 0.5
    assert called
    assert hash_tensors(model.state_dict().values()) == before
    assert hash_tensors(p.detach() for p in other.parameters()) != hash_tensors(p.detach() for p in model.parameters())


def test_one_cycle_and_a_variable_that_begins_as_none_are_no_bugs():
    model, last = Net(), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=1000)

    def loop(model, loader, optimizer, scheduler, criterion):
        nonlocal last
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            last = loss.item()

    parts = {"optimizer": optimizer, "scheduler": scheduler, "train_epoch": loop}
    found = run(case(model, **parts), only=("fresh gradients", "tensors that move"), seconds=None)
    assert [check.status for check in found] == ["PASS", "PASS"]
    assert last is None


def test_what_a_loop_collects_in_a_mapping_is_as_it_was():
    history = {"loss": [1.0]}

    def loop(model, loader, optimizer, criterion):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            history["loss"].append(loss.item())

    assert run(case(train_epoch=loop), only=("fresh gradients",), seconds=None)[0].passed
    assert history == {"loss": [1.0]}


def test_less_than_one_percent_is_no_fraction():
    """Of a hundred classes an untrained network knows next to none, and at first none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 100))
    images = levels(400, "val")[0]
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmin(1)
    labels[[100, 150]] = logits.argmax(1)[[100, 150]]
    batches = list(zip(images.split(50), labels.split(50), strict=True))

    def evaluate(model, batches):
        model.eval()
        with torch.no_grad():
            hits = [(model(x).argmax(1) == y).float() for x, y in batches]
        model.train()
        return 100 * torch.cat(hits).mean().item()

    (found,) = run_checks(model, (batches, batches), evaluate=evaluate, only=("accuracy recomputed",))
    assert found.status == "PASS"


def test_a_sampler_without_a_length_is_gone_through():
    class Endless:
        def __iter__(self):
            return iter(range(500))

    train, val = sets()
    data = DataLoader(train, 64, shuffle=True), DataLoader(val, 100, sampler=Endless())
    found = run(case(data=data), only=("batch contract", "evaluation agrees"), seconds=None)
    assert [check.status for check in found] == ["PASS", "PASS"]


# --- time, output, continuous integration ---


class Lazy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.004 * len(x))
        return super().forward(x)


def test_a_slow_network_ends_in_time_and_what_was_left_out_is_named(capsys):
    begun = time.monotonic()
    found = run(case(Lazy()), seconds=2.0)
    assert time.monotonic() - begun < 30
    assert {"beats blind", "overfit a batch"} <= named(found, "SKIP")
    out = capsys.readouterr().out
    assert "only=('beats blind',), seconds=300 runs it" in out
    assert named(found, "FAIL") == set()


def test_strict_raises_for_failures_and_not_for_warnings():
    warned = case(train_epoch=ordinary.accumulate)
    assert named(run(warned, only=("fresh gradients",), strict=True), "WARN") == {"fresh gradients"}
    with pytest.raises(ChecksFailed, match=r"1 of 1 checks failed\nFAIL  fresh gradients"):
        run(BUGS["step after the loop"].make(), only=("fresh gradients",), strict=True)


def test_a_row_has_a_line_of_cause_and_one_of_remedy():
    rows = str(Check("a", False, 1.0, "< 1", "it is 1", "make it 0", doubtful=True)).splitlines()
    assert [row.split(":")[0].split("  ")[0].strip() or row.strip().split(":")[0] for row in rows] == [
        "WARN", "cause", "remedy"
    ]  # fmt: skip
    assert str(Check("a", None, float("nan"), "", "pass b=")).endswith("not run: pass b=")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seconds": 0}, "seconds=0 is not allowed"),
        ({"train_loop": ordinary.plain}, "part='train_loop' is not known.*train_epoch"),
        ({"accumulates": 4}, "Did you mean 'accumulate'"),
    ],
)
def test_arguments_that_are_not_known_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        run(case(), **given)
    with pytest.raises(ValueError, match=r"data=.* is not allowed: two sets of batches"):
        run_checks(Net(), loaders()[0])


def test_names_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match=r"overfit.*choose one of.*Did you mean 'overfit a batch'"):
        run(case(), only=("overfit",), seconds=None)


def test_further_checks_without_a_finding_are_one_line(capsys):
    assert len(run(case(), seconds=None)) == len(CHECKS)
    out = capsys.readouterr().out
    assert f"PASS  {len(FURTHER_CHECKS)} further checks: val like train, neighbouring pixels" in out
    assert out.count("\n") == len(CHECKS) + 1


def test_a_batch_that_cannot_be_taken_apart_is_one_sentence():
    lone = [torch.zeros(8, 3, 32, 32)] * 3
    with pytest.raises(ValueError, match="serve \\(images, labels\\)"):
        run_checks(Net(), (lone, lone))
