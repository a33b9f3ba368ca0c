"""The file of a run: readable by anyone, refused when damaged, and never an answer for another run."""

import copy
import dataclasses
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from small import TINY, equal_weights, small_batches, tiny_net
from torch import nn

import cifar_helpers
from cifar_helpers import load_model, make_model
from cifar_helpers._storage import load_tensors, save_tensors
from cifar_helpers.training import checkpoint as module
from cifar_helpers.training import loop
from cifar_helpers.training.checkpoint import (
    CheckpointError,
    code_digest,
    differing_keys,
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    previous_path,
)
from cifar_helpers.training.loop import fit

ONE = dataclasses.replace(TINY, epochs=1)


@pytest.fixture
def finished(tmp_path):
    """Return the path of a finished run of two epochs, its record and its network."""
    net, path = tiny_net(), tmp_path / "run.safetensors"
    record = fit(net, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=path)
    return path, record, net


def test_a_finished_run_is_a_plain_state_dict(finished):
    path, _, net = finished
    other = tiny_net()
    other.load_state_dict(load_file(path))
    assert equal_weights(other, net)


def test_an_unfinished_run_holds_its_best_weights_under_their_names_and_the_rest_apart(tmp_path):
    path, net = tmp_path / "run.safetensors", tiny_net()

    def copy_first(record, model):
        if record.epoch == 1:
            shutil.copy(path, tmp_path / "cut.safetensors")

    fit(net, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=path, callbacks=[copy_first])
    names = set(load_file(tmp_path / "cut.safetensors"))
    assert {name for name in names if not name.startswith("resume/")} == set(net.state_dict())
    assert {f"resume/last/{name}" for name in net.state_dict()} < names
    cut = load_checkpoint(tmp_path / "cut.safetensors")
    assert not cut.finished
    assert set(cut.weights) == set(net.state_dict())
    assert set(load_file(path)) == set(net.state_dict())


def test_model_and_what_belongs_to_it_come_back_without_the_course(tmp_path):
    model, batches = make_model("cnn", 4, width=0.1, image_size=8), small_batches()
    fit(model, *batches, ONE, checkpoint=tmp_path / "run.safetensors")
    classifier = load_model(tmp_path / "run.safetensors")
    assert equal_weights(classifier.model, model)
    assert classifier.class_names == batches[0].class_names
    assert classifier.normaliser == batches[0].normaliser
    found = load_checkpoint(tmp_path / "run.safetensors")
    assert found.identity["model"]["name"] == "cnn"
    assert found.finished
    assert len(found.history) == 1


def test_every_damaged_byte_is_noticed(finished, tmp_path):
    path = finished[0]
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 150)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|no checkpoint"):
            load_checkpoint(tmp_path / "damaged")
        (tmp_path / "damaged").write_bytes(content[:place])
        with pytest.raises(CheckpointError, match=r"damaged|no checkpoint"):
            load_checkpoint(tmp_path / "damaged")


def test_tensors_of_something_else_are_no_run(tmp_path):
    save_tensors(tmp_path / "logits.safetensors", {"logits": torch.ones(2)}, {"name": "x"})
    with pytest.raises(CheckpointError, match="holds tensors and no run"):
        load_checkpoint(tmp_path / "logits.safetensors")
    with pytest.raises(CheckpointError, match="holds tensors and no run"):
        fit(tiny_net(), *small_batches(), ONE, checkpoint=tmp_path / "logits.safetensors")


def test_a_checkpoint_from_before_version_1_is_read(finished, tmp_path):
    """As it was written then: groups best/, last/, optimizer/, and model fields in the configuration."""
    path, record, net = finished
    found = load_checkpoint(path)
    tensors = {f"{group}/{k}": v for group in ("best", "last") for k, v in found.weights.items()}
    config = found.identity["config"] | {"model": "custom", "width": 1.0, "dropout": 0.0, "activation": None}
    about = {
        "identity": found.identity | {"config": config},
        "history": [dataclasses.asdict(row) for row in found.history],
        "class_names": list(found.class_names),
        "normaliser": found.normaliser.to_dict(),
        "environment": found.environment,
        "finished": True,
        "scaler": None,
    }
    old = tmp_path / "old.safetensors"
    save_tensors(old, tensors, about)
    assert load_checkpoint(old).identity == found.identity
    again = tiny_net()
    same = fit(again, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=old)
    assert equal_weights(again, net)
    assert same.history == record.history


# --- the same cell again ---


def interrupt_after(count):
    """Return a callback that stops the kernel as a user does, after `count` epochs."""

    def callback(record, model):
        if record.epoch == count:
            raise KeyboardInterrupt

    return callback


def test_the_same_cell_goes_on_after_an_interrupt_and_says_so(tmp_path, capsys):
    whole, net = tiny_net(), tiny_net()
    expected = fit(whole, *small_batches(), TINY)
    path, batches = tmp_path / "run.safetensors", small_batches()
    with pytest.raises(KeyboardInterrupt):
        fit(net, *batches, TINY, checkpoint=path, callbacks=[interrupt_after(2)])
    capsys.readouterr()
    record = fit(net, *batches, TINY, checkpoint=path)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "run: goes on from run.safetensors after epoch 2; the weights that the model had are replaced"
    assert equal_weights(net, whole)
    assert record.run_hash == expected.run_hash


def test_the_same_cell_goes_on_after_an_interrupt_in_the_middle_of_an_epoch(tmp_path):
    whole, net = tiny_net(), tiny_net()
    fit(whole, *small_batches(), TINY)
    steps = 0

    def stop(module, inputs):
        nonlocal steps
        steps += module.training
        if steps == 10:  # of four an epoch
            raise KeyboardInterrupt

    hook = net.register_forward_pre_hook(stop)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(net, *small_batches(), TINY, checkpoint=path)
    hook.remove()
    assert len(load_checkpoint(path).history) == 2
    fit(net, *small_batches(), TINY, checkpoint=path)
    assert equal_weights(net, whole)


# --- the checkpoint before ---


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def stop_after(count, path):
    """Train `TINY` until it is interrupted, with checkpoints at `path`."""
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_net(), *small_batches(), TINY, checkpoint=path, callbacks=[interrupt_after(count)])


@pytest.mark.parametrize("harm", [damage, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 99)])
def test_a_damaged_checkpoint_costs_an_epoch_and_not_the_run(tmp_path, capsys, harm):
    whole, net, path = tiny_net(), tiny_net(), tmp_path / "run.safetensors"
    fit(whole, *small_batches(), TINY)
    stop_after(3, path)
    harm(path)
    capsys.readouterr()
    fit(net, *small_batches(), TINY, checkpoint=path)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{path} is damaged; the one before it, run.safetensors.previous after epoch 2, is used"
    assert said[1].startswith("run: goes on from run.safetensors after epoch 2")
    assert equal_weights(net, whole)
    assert load_checkpoint(path).finished


def test_a_damaged_finished_checkpoint_trains_its_last_epoch_again(finished, capsys):
    path, record, net = finished
    sha256 = record.checkpoint_sha256
    damage(path)
    again = tiny_net()
    same = fit(again, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=path)
    assert equal_weights(again, net)
    assert (same.run_hash, same.val_loss) == (record.run_hash, record.val_loss)
    assert load_checkpoint(path).sha256 == same.checkpoint_sha256 != sha256  # seconds differ
    assert "is damaged" in capsys.readouterr().out


def test_a_finished_network_is_had_from_the_checkpoint_before(tmp_path, capsys):
    model, path = make_model("cnn", 4, width=0.1, image_size=8), tmp_path / "run.safetensors"
    fit(model, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=path)
    damage(path)
    found = load_checkpoint(path)
    assert found.sha256 == load_checkpoint(previous_path(path)).sha256
    assert len(found.history) == 1
    assert load_model(path).class_names == small_batches()[0].class_names
    assert capsys.readouterr().out.count("is damaged; the one before it") == 2


def test_if_both_are_damaged_it_is_said_what_to_do(finished):
    path = finished[0]
    for file in (path, previous_path(path)):
        damage(file)
    with pytest.raises(CheckpointError, match=r"run\.safetensors is damaged.*train again"):
        load_checkpoint(path)


def test_what_a_kill_in_the_last_save_left_goes_when_the_run_is_loaded(finished):
    left = finished[0].with_name(".run.safetensors.previous.12345678.cifar_helpers-partial")
    left.touch()
    load_checkpoint(finished[0])
    assert not left.exists()


def test_a_removed_checkpoint_begins_anew_and_the_one_before_goes_with_it(tmp_path):
    path = tmp_path / "run.safetensors"
    stop_after(3, path)
    path.unlink()
    stop_after(1, path)
    assert len(load_checkpoint(path).history) == 1
    assert not previous_path(path).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"identity": 1, "history": [{}]},
        {"history": [{"epoch": 1}]},
        {"history": 3},
        {"class_names": None},
        {"normaliser": {"mean": 1}},
        {"normaliser": "x"},
        {"settings": {"__items__": [1]}},
        {"finished": ...},
    ],
)
def test_a_whole_file_that_describes_no_run_is_refused(finished, tmp_path, change):
    tensors, about = load_tensors(finished[0])
    about = {key: value for key, value in (about | change).items() if value is not ...}
    save_tensors(tmp_path / "other.safetensors", tensors, about)
    with pytest.raises(CheckpointError, match=r"other\.safetensors does not describe a run"):
        load_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_what_is_no_file_is_refused_before_it_is_read_and_before_the_first_step(tmp_path, kind):
    path, real = tmp_path / "run.safetensors", tmp_path / "real.safetensors"
    stop_after(1, real)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else real)
    steps, net = [], tiny_net()
    net.register_forward_pre_hook(lambda module, inputs: steps.append(module.training))
    with pytest.raises(CheckpointError, match=r"run\.safetensors is a (pipe|link)"):
        fit(net, *small_batches(), TINY, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"run\.safetensors is a (pipe|link)"):
        load_model(path)
    assert not any(steps)
    assert path.is_fifo() or path.is_symlink()


# --- what was there before, again ---


def test_the_same_cell_after_a_finished_run_loads_it(finished, capsys):
    path, record, net = finished
    assert fit(net, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=path) == record
    assert capsys.readouterr().out.splitlines()[-1] == "run: trained before, loaded from run.safetensors"


def test_another_architecture_of_the_same_name_is_refused(finished):
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(CheckpointError, match=r"model\.layers"):
        fit(other, *small_batches(), dataclasses.replace(TINY, epochs=2), checkpoint=finished[0])


# --- code ---


def test_the_digest_of_the_code_knows_what_changes_training_and_nothing_else(tmp_path):
    package = tmp_path / "cifar_helpers"
    shutil.copytree(module._PACKAGE, package)
    before = code_digest(package)
    assert before == code_digest() == code_digest(module._PACKAGE)

    def changed(name: str, old: str, new: str) -> bool:
        text = (package / name).read_text()
        assert old in text
        (package / name).write_text(text.replace(old, new, 1))
        found = code_digest(package) != before
        (package / name).write_text(text)
        return found

    assert changed("training/loop.py", "loss.backward()", "(2 * loss).backward()")
    assert changed("metrics.py", "logits.argmax(1) == labels", "logits.argmin(1) == labels")
    assert not changed("training/loop.py", '"""Differentiate the loss', '"""Take the derivative of the loss')
    assert not changed("training/optim.py", "import math\n", "import math  # a comment\n")
    assert not changed("plots.py", '"""', '"""A word more. ')
    assert not changed("metrics.py", "def coarse_logits(", "def coarse_logits_of(")


def test_every_file_of_training_code_exists():
    for name, wanted in module._TRAINING_CODE.items():
        text = (module._PACKAGE / name).read_text()
        assert all(f"def {function}(" in text for function in wanted), name


def test_differences_are_named_inside_nested_values():
    rows = differing_keys({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 5}, "c": 4})
    assert rows == ["a.y (2, now 5)", "b (3, now None)", "c (None, now 4)"]


# --- optimizers ---


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta", "ASGD"])
def test_the_state_of_every_optimizer_comes_back_from_a_file(tmp_path, kind):
    """Through JSON and safetensors: the next step is the same to the last bit."""
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 3, generator=generator), torch.arange(8) % 2) for _ in range(4)]

    def make():
        net = nn.Linear(3, 2)
        with torch.no_grad():
            net.weight.fill_(0.1)
            net.bias.fill_(0.0)
        return net, getattr(torch.optim, kind)(net.parameters(), lr=0.01)

    def step(net, optimizer, batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
        optimizer.step()

    one, optimizer = make()
    for batch in batches[:3]:
        step(one, optimizer, batch)
    tensors, plain = optimizer_state(optimizer)
    kept = module._from_json(json.loads(json.dumps(module._to_json(plain))))
    two, other = make()
    two.load_state_dict(one.state_dict())
    load_optimizer_state(other, {key: value.clone() for key, value in tensors.items()}, kept)
    for net, opt in ((one, optimizer), (two, other)):
        step(net, opt, batches[3])
    assert equal_weights(one, two)


def test_what_json_cannot_keep_is_named():
    with pytest.raises(CheckpointError, match="cannot be kept in a checkpoint"):
        module._to_json({"lr_lambdas": [lambda epoch: 1.0]})


def test_tied_weights_are_kept(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(192, 4), nn.Linear(192, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.a(x.flatten(1)) + self.b(x.flatten(1))

    path, config = tmp_path / "run.safetensors", dataclasses.replace(TINY, epochs=2)
    torch.manual_seed(0)
    whole = Tied()
    cut, again = (copy.deepcopy(whole) for _ in range(2))
    fit(whole, *small_batches(), config)

    def interrupt(record, model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cut, *small_batches(), config, checkpoint=path, callbacks=[interrupt])
    fit(again, *small_batches(), config, checkpoint=path)
    assert equal_weights(again, whole)
    assert again.b.weight is again.a.weight
    found = load_file(path)
    assert found.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert torch.equal(found["a.weight"], whole.a.weight)
    assert torch.equal(found["b.weight"], whole.a.weight)


@pytest.mark.parametrize("name", ["best.pth", "ckpt.t7", "run.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_save_gets_a_way_forward(tmp_path, name, zipped):
    """As kuangliu's pytorch-cifar writes it; and what the sentence says works."""
    path, net = tmp_path / name, make_model("lenet", 4)
    torch.save({"net": net.state_dict(), "acc": 91.0}, path, _use_new_zipfile_serialization=zipped)
    words = r"one of torch\.save.*make_model.*load_state_dict\(torch\.load\(path, weights_only=True\)\).*net"
    for load in (load_checkpoint, load_model, lambda path: fit(tiny_net(), *small_batches(), ONE, checkpoint=path)):
        with pytest.raises(CheckpointError, match=words) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert ("rename it to end in .pth" in str(caught.value)) == (path.suffix == ".safetensors")
    path = path.rename(path.with_suffix(".pth"))
    other = make_model("lenet", 4)
    other.load_state_dict(torch.load(path, weights_only=True)["net"])
    assert equal_weights(other, net)


# --- a path that cannot be written ---


def test_a_path_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("a file, no folder")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file" / "run.safetensors", tmp_path / "link", tmp_path / ("n" * 300)):
        net, steps = tiny_net(), []
        net.register_forward_hook(lambda module, *_: steps.append(module.training))  # noqa: B023
        with pytest.raises(OSError, match=r"where its folder would be|pass the path that it leads|File name too long"):
            fit(net, *small_batches(), ONE, checkpoint=path)
        assert not any(steps)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_a_finished_run_is_loaded_from_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    record = fit(tiny_net(), *small_batches(), ONE, checkpoint=path)
    monkeypatch.setattr(loop, "require_writable", lambda path: pytest.fail("it was asked for"))
    assert fit(tiny_net(), *small_batches(), ONE, checkpoint=path) == record


def test_the_package_says_what_a_checkpoint_is():
    assert cifar_helpers.load_checkpoint is load_checkpoint
