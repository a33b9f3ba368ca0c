import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from small import equal_weights
from torch import nn

from cifar_helpers.models import MODELS, make_model
from cifar_helpers.runtime import autocast, memory_format
from cifar_helpers.training import CheckpointError, TrainConfig, evaluate, fit, make_optimizer, train_epoch
from cifar_helpers.training.parallel import Replicas, count_replicas, find_obstacle

ROOT = Path(__file__).resolve().parents[1]


def batches(count=4, size=96, pixels=8, dtype=torch.float32):
    stream = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, pixels, pixels, generator=stream, dtype=dtype), torch.arange(size) % 3)
        for _ in range(count)
    ]


def small_net(norm=False, seed=0):
    torch.manual_seed(seed)
    norms = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 3), norms, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))


def gradients(model, forward, images, labels):
    model.zero_grad()
    loss = nn.functional.cross_entropy(forward(images), labels)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("size", [96, 97, 100])
def test_replicas_have_the_gradients_of_one_network(count, size):
    model = small_net().double()
    images, labels = batches(1, size, dtype=torch.float64)[0]
    loss, alone = gradients(model, model, images, labels)
    shared_loss, shared = gradients(model, Replicas(model, count).train(), images, labels)
    assert shared_loss == pytest.approx(loss, abs=1e-12)
    assert max((a - b).abs().max() for a, b in zip(alone, shared, strict=True)) <= 1e-10


def test_a_loss_over_the_whole_batch_stays_one():
    """Weighted by class, its mean over a batch is not the mean of the means over its parts."""
    model = small_net().double()
    images, labels = batches(1, 90, dtype=torch.float64)[0]
    labels[:45] = 0
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1], dtype=torch.float64))
    found = []
    for forward in (model, Replicas(model, 2).train()):
        model.zero_grad()
        loss(forward(images), labels).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (found[0] - found[1]).abs().max() <= 1e-10


def test_training_with_replicas_follows_training_without():
    weights = []
    for count in (1, 2):
        model = small_net()
        forward = Replicas(model, count) if count > 1 else model
        train_epoch(forward, batches(), make_optimizer(model, lr=0.05))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_evaluation_serves_the_network_itself_with_its_statistics():
    model = small_net(norm=True)
    shared = Replicas(model, 2)
    train_epoch(shared, batches(), make_optimizer(model, lr=0.05))
    assert evaluate(shared, batches()).correct == evaluate(model, batches()).correct
    assert shared.state_dict().keys() == {f"model.{name}" for name in model.state_dict()}


def test_batchnorm_normalises_each_part_and_keeps_the_statistics_of_the_first():
    model, images = small_net(norm=True), batches(1, 64)[0][0]
    Replicas(model, 2).train()(images)
    seen = model[0](images[:32]).mean((0, 2, 3)).detach()
    torch.testing.assert_close(model[1].running_mean, 0.1 * seen)


def test_parts_are_computed_in_threads_of_their_own_in_the_format_of_the_caller():
    model, seen = small_net(), []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((threading.current_thread().name, torch.get_num_threads(), x.dtype, torch.is_grad_enabled()))
            return x

    model[1] = Spy()
    threads = torch.get_num_threads()
    shared = Replicas(model, 2).train()
    with autocast(torch.device("cpu"), torch.bfloat16):
        shared(batches()[0][0])
    each = max(1, threads // 2)
    assert {row[1:] for row in seen} == {(each, torch.bfloat16, True)}
    assert {row[0] for row in seen} <= {"replica_0", "replica_1"}
    assert torch.get_num_threads() == threads
    seen.clear()
    evaluate(shared, batches(1))
    assert {row[1:] for row in seen} == {(each, torch.float32, False)}


def test_what_is_frozen_later_is_frozen_in_the_copies_too():
    model = small_net()
    shared = Replicas(model, 2).train()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train_epoch(shared, batches(), make_optimizer(model, lr=0.05))
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.grad is None


def test_a_part_has_images_enough():
    net, images = small_net(), batches()[0][0]
    found = {(size, cores): count_replicas(net, images, size, cores) for size, cores in ((256, 2), (64, 8), (63, 8))}
    assert found == {(256, 2): 2, (64, 8): 2, (63, 8): 1}


def test_a_network_with_more_gradients_than_operations_is_computed_whole():
    images = torch.randn(64, 3, 32, 32)
    found = {name: count_replicas(make_model(name, width=0.5), images, 128, 2) for name in ("mlp", "linear", "cnn")}
    assert found == {"mlp": 1, "linear": 1, "cnn": 2}
    few = [(images, torch.arange(64) % 10)]
    record = fit(make_model("mlp", width=0.05), few, few, TrainConfig(epochs=1), verbose=False)
    assert record.environment["replicas"] == 1


class Keeps(nn.Module):
    """Remembers its last features, as some losses ask for."""

    def forward(self, x):
        self.features = x
        return x


class Appends(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


class Uncopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Dropout(0.5), "random numbers"),
        (Keeps(), "keeps something"),
        (Appends(), "keeps something"),
        (Counts(), "keeps something"),
        (Uncopied(), "cannot be copied"),
        (nn.BatchNorm2d(4), None),
    ],
)
def test_a_network_that_cannot_be_shared_is_computed_whole(module, reason):
    model = small_net()
    model[1] = module
    state = torch.get_rng_state()
    found = find_obstacle(model, batches()[0][0])
    assert found is None if reason is None else reason in found
    assert torch.equal(torch.get_rng_state(), state)
    record = fit(model, batches(), batches(1), TrainConfig(epochs=1), device="cpu", verbose=False)
    assert record.environment["replicas"] == (1 if reason else min(3, torch.get_num_threads()))
    if reason:
        with pytest.raises(ValueError, match=reason):
            fit(model, batches(), batches(1), TrainConfig(epochs=1, replicas=2), device="cpu", verbose=False)


def test_a_hook_sees_whole_batches():
    model, seen = small_net(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    fit(model, batches(), batches(1), TrainConfig(epochs=1), verbose=False)
    assert set(seen[-5:]) == {96}


def test_the_same_number_gives_the_same_bits_and_another_is_a_named_difference(tmp_path):
    def train(replicas, epochs, path=None, stop=None):
        model = small_net(norm=True)
        config = TrainConfig(epochs=epochs, replicas=replicas)
        callbacks = [stop] if stop else []
        parts = {"checkpoint": path, "callbacks": callbacks, "device": "cpu", "verbose": False}
        return fit(model, batches(), batches(1), config, **parts), model

    def interrupt(record, model):
        raise KeyboardInterrupt

    (first, a), (_, b) = train(2, 2), train(2, 2)
    assert equal_weights(a, b)
    assert first.environment["replicas"] == 2
    with pytest.raises(KeyboardInterrupt):
        train(2, 2, tmp_path / "run.safetensors", interrupt)
    assert equal_weights(train(2, 2, tmp_path / "run.safetensors")[1], a)
    with pytest.raises(KeyboardInterrupt):
        train(None, 2, tmp_path / "other.safetensors", interrupt)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads != 3 else 2)
        with pytest.raises(CheckpointError, match=r"replicas \(.*threads \(|threads \(.*replicas \("):
            train(None, 2, tmp_path / "other.safetensors")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one core")
def test_between_the_replicas_one_thread_computes_on_its_share_of_the_cores():
    before, seen = torch.get_num_threads(), set()

    def loss(logits, labels):
        seen.add(torch.get_num_threads())
        return nn.functional.cross_entropy(logits, labels)

    for replicas, cores in ((2, before // 2), (1, before)):
        seen.clear()
        fit(small_net(), batches(), batches(1), TrainConfig(epochs=1, replicas=replicas), loss=loss, verbose=False)
        assert seen == {cores, before}  # before: it is tried once, when nothing is trained yet
        assert torch.get_num_threads() == before


def test_replicas_of_a_compiled_network_are_refused():
    with pytest.raises(ValueError, match=r"replicas=2.*torchrun"):
        fit(small_net(), batches(), batches(1), TrainConfig(replicas=2, compile=True))


# --- a process that dies ---

_BACKWARD = """
import sys, torch
from cifar_helpers.models import make_model
from cifar_helpers.runtime import memory_format
from cifar_helpers.training import make_optimizer, train_epoch
name, width, pixels = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
if name == "torch":
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, 2), torch.nn.Flatten(), torch.nn.LazyLinear(10))
    model(torch.zeros(1, 3, pixels, pixels))
else:
    model = make_model(name, width=width, image_size=pixels)
images = torch.randn(8, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
model.to(memory_format=memory_format(model, images.device))
train_epoch(model, [(images, torch.arange(8))] * 4, make_optimizer(model, lr=1e-3))
"""


@pytest.mark.parametrize(("name", "width"), [("resnet20", 0.125), ("resnet20", 0.5), ("resnet18", 0.05), ("torch", 1)])
@pytest.mark.parametrize("pixels", [32, 48])
def test_no_backward_pass_kills_the_process(name, width, pixels):
    done = subprocess.run([sys.executable, "-c", _BACKWARD, name, str(width), str(pixels)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_narrow_strided_convolution_stays_contiguous():
    narrow, wide = nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 16, 1, stride=2)
    cpu = torch.device("cpu")
    assert memory_format(nn.Sequential(narrow), cpu) == torch.contiguous_format
    assert memory_format(nn.Sequential(wide), cpu) == torch.channels_last
    assert memory_format(nn.Sequential(narrow), torch.device("meta")) == torch.channels_last


@pytest.mark.parametrize("name", MODELS)
def test_both_memory_formats_give_the_same_gradients(name):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = make_model(name, width=0.125).double().to(memory_format=layout)
        images = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model(images.to(memory_format=layout)).logsumexp(1).sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


# --- several processes ---

_STOPPED = """
import os, sys, torch
sys.path.insert(0, "tests")
from test_parallel import batches, small_net
from cifar_helpers.runtime import end_process
from cifar_helpers.training import TrainConfig, fit
def stop(record, model):
    if sys.argv[2] == "stop":
        os._exit(0)  # at once, as a process that is killed
model = small_net()
record = fit(model, batches(), batches(1), TrainConfig(epochs=2), checkpoint=sys.argv[1], callbacks=[stop])
if torch.distributed.get_rank() == 0:
    torch.save(model.state_dict(), sys.argv[1] + ".weights")
end_process(0)
"""

_SHARED = """
import sys, torch
sys.path.insert(0, "tests")
from test_parallel import batches, gradients, small_net
from cifar_helpers.runtime import end_process, is_main_process, join_processes
from cifar_helpers.training import TrainConfig, evaluate, fit
from cifar_helpers.training.parallel import Processes
join_processes()
model = small_net().double()
images, labels = batches(1, 97, dtype=torch.float64)[0]
loss, found = gradients(model, Processes(model).train(), images, labels)
net = small_net(norm=True)
path = sys.argv[1]
record = fit(net, batches(size=97), batches(1, 51), TrainConfig(epochs=2), checkpoint=path + ".safetensors")
shared = Processes(net)
counted = evaluate(shared, batches(1, 51)).correct
states = [torch.empty_like(p) for p in (net[0].weight, net[0].weight)]
torch.distributed.all_gather(states, net[0].weight.detach().contiguous())
if is_main_process():
    torch.save({"loss": loss, "gradients": found, "correct": counted, "weights": net.state_dict(), "states": states,
                "record": (record.val_accuracy, record.environment["processes"])}, path)
end_process(0)
"""


def torchrun(count, *arguments, code=None, environment=None):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    program = ["--no-python", sys.executable, "-c", code] if code else []
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CIFAR_DEVICE": "cpu"} | (environment or {})
    return subprocess.run([*launch, *program, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True)


def test_two_processes_train_and_count_as_one(tmp_path):
    path = tmp_path / "found"
    done = torchrun(2, str(path), code=_SHARED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 1/2") == 1  # the first process alone prints
    found = torch.load(path)
    model = small_net().double()
    images, labels = batches(1, 97, dtype=torch.float64)[0]
    loss, alone = gradients(model, model, images, labels)
    assert found["loss"] == pytest.approx(loss, abs=1e-12)
    assert max((a - b).abs().max() for a, b in zip(alone, found["gradients"], strict=True)) <= 1e-10
    assert torch.equal(*found["states"])
    net = small_net(norm=True)
    net.load_state_dict(found["weights"])
    assert found["correct"] == evaluate(net, batches(1, 51)).correct == round(found["record"][0] * 51)
    assert found["record"][1] == 2


def test_a_stopped_run_goes_on_with_as_many_processes_and_with_no_other_number(tmp_path):
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    for path, word in ((whole, "go"), (stopped, "stop")):
        done = torchrun(2, str(path), word, code=_STOPPED)
        assert done.returncode == 0, f"{word}: {done.stderr[-3000:]}"
    with pytest.raises(CheckpointError, match=r"processes \(2, now 1\)"):
        fit(small_net(), batches(), batches(1), TrainConfig(epochs=2), checkpoint=stopped, device="cpu")
    done = torchrun(2, str(stopped), "go", code=_STOPPED)
    assert "goes on from stopped.safetensors after epoch 1" in done.stdout, done.stderr[-3000:]
    a, b = (torch.load(f"{path}.weights") for path in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_recipe_is_trained_by_torchrun_and_logged_once(tmp_path):
    environment = {"CIFAR_DATA": "synthetic", "CIFAR_PROFILE": "quick", "CIFAR_OUT": str(tmp_path)}
    done = torchrun(2, "-m", "cifar_helpers", "train", "baseline", environment=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("quick profile") == 1
    rows = [json.loads(line) for line in (tmp_path / "figures" / "runs.jsonl").read_text().splitlines()]
    assert [(row["name"], row["versions"]["processes"]) for row in rows] == [("baseline-cifar10", 2)]
    assert len(list(tmp_path.rglob("*-cifar10-*.safetensors"))) == 1 + len(list(tmp_path.rglob("*-val.safetensors")))
