import dataclasses
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
from small import random_split, small_batches
from torch import nn

from cifar_helpers.augment import Flip, Normaliser, PadCrop
from cifar_helpers.config import TrainConfig
from cifar_helpers.models import make_model
from cifar_helpers.optim import make_optimizer
from cifar_helpers.runs import EpochRecord, kept_path, open_workspace, read_kept
from cifar_helpers.storage import CheckpointError, load_checkpoint, read_lines, save_checkpoint
from cifar_helpers.train import (
    TrainingDiverged,
    audit_test,
    best_epoch,
    draw_shares,
    evaluate,
    evaluating,
    final_test,
    fit,
    mixed,
    predict,
    resized,
    sweep,
    tabulate,
    train_epoch,
)

TINY = TrainConfig(epochs=4, batch_size=16, lr=0.05, augment=(Flip(), PadCrop(1)), precision="float32")


GOOD = (torch.randn(4, 3, 8, 8), torch.arange(4))


def tiny_net(batchnorm: bool = True, dropout: float = 0.2) -> nn.Module:
    """Return a network with everything that has state: BatchNorm's buffers and dropout's randomness."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4) if batchnorm else nn.Identity()
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 4))


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- evaluation ---


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
    both, labels = predict(net, val, mirrored=True)
    plain = predict(net, val)[0]
    mirror = predict(net, [(x.flip(-1), y) for x, y in val])[0]
    assert torch.allclose(both, (plain + mirror) / 2, atol=1e-6)
    assert not torch.allclose(both, plain, atol=1e-3)
    assert evaluate(net, val, mirrored=True).correct == int((both.argmax(1) == labels).sum())


# --- one epoch ---


def test_fifty_steps_of_fit_are_the_loop_that_one_writes_by_hand():
    """In float32 and with the same kernel of the optimizer: every weight and buffer equal to the last bit."""
    train, val = small_batches(800)
    ours, by_hand = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    fit(ours, train, val, dataclasses.replace(TINY, epochs=1, augment=(), max_steps=50))
    by_hand.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, nesterov=True, fused=True)
    for images, labels in train.epoch(0, seed=0, batch_size=16):
        loss = nn.functional.cross_entropy(by_hand(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert equal_weights(ours, by_hand)


def test_an_epoch_trains_on_the_loss_it_is_given():
    net = nn.Linear(5, 2)
    batches = [(torch.ones(6, 5), torch.arange(6) % 2)]
    mse = lambda logits, labels: ((logits[:, 0] - 7.0) ** 2).mean()  # noqa: E731
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = [train_epoch(net, batches, optimizer, loss=mse).loss for _ in range(60)]
    assert losses[0] > 20
    assert losses[-1] < 0.01


def test_a_list_of_tensors_and_a_linear_layer_are_enough():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    batches = [(x, (x[:, 0] > 0).long())]
    net = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    losses = [train_epoch(net, batches, optimizer).loss for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert evaluate(net, batches).accuracy > 0.9


def test_an_epoch_takes_the_steps_that_one_writes_by_hand():
    """Fresh gradients at every step, the given learning rates, sums over examples."""
    batches = [(torch.randn(6, 5), torch.arange(6) % 2), (torch.randn(3, 5), torch.arange(3) % 2)]
    ours, by_hand = nn.Linear(5, 2), nn.Linear(5, 2)
    by_hand.load_state_dict(ours.state_dict())
    total = 0.0
    found = train_epoch(ours, batches, torch.optim.SGD(ours.parameters(), lr=9.0, momentum=0.9), lrs=[0.1, 0.2])
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for lr, (x, y) in zip([0.1, 0.2], batches, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        loss = nn.functional.cross_entropy(by_hand(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    assert equal_weights(ours, by_hand)
    assert found.loss_sum == pytest.approx(total, rel=1e-6)
    assert found.count == 9


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoiled():
    net = nn.Linear(5, 2)
    before = net.weight.clone()
    x = torch.randn(4, 5)
    x[2, 3] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"at step 0 of this epoch, with learning rate 0\.3"):
        train_epoch(net, [(x, torch.zeros(4, dtype=torch.int64))], torch.optim.SGD(net.parameters(), lr=0.3))
    assert torch.equal(net.weight, before)


# --- fit ---


def test_fit_learns_restores_the_best_epoch_and_tells_it_all(capsys):
    net = tiny_net()
    train, val = small_batches()
    record = fit(net, train, val, dataclasses.replace(TINY, epochs=6), name="tiny")
    assert record.val_accuracy == evaluate(net, val).accuracy > 0.5
    assert record.val_accuracy == max(epoch.val_accuracy for epoch in record.history)
    assert record.best == best_epoch(list(record.history))
    assert [epoch.steps for epoch in record.history] == [4, 8, 12, 16, 20, 24]
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.seconds = 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"tiny: epoch 1/6 · train loss .* · val loss .* · [\d.]+ s, \d+ s left", lines[0])


def test_among_equal_accuracies_the_lower_loss_wins():
    rows = [EpochRecord(i + 1, 0, 0, 0, 0, loss, accuracy, 0) for i, (loss, accuracy) in
            enumerate([(1.0, 0.5), (0.8, 0.6), (0.7, 0.6), (0.1, 0.4)])]  # fmt: skip
    assert best_epoch(rows).epoch == 3


def test_fit_repeats_itself_and_leaves_the_readers_stream_alone():
    records, nets = [], [tiny_net(), tiny_net()]
    for i, net in enumerate(nets):
        torch.manual_seed(i)
        state = torch.get_rng_state()
        records.append(fit(net, *small_batches(), TINY))
        assert torch.equal(torch.get_rng_state(), state)
    assert equal_weights(*nets)
    assert records[0].run_hash == records[1].run_hash
    other = tiny_net()
    assert fit(other, *small_batches(), dataclasses.replace(TINY, seed=1)).run_hash != records[0].run_hash
    assert not equal_weights(other, nets[0])


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"schedule": "triangular", "warmup": 0.25},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"ema": 0.9, "mixup": 0.4},
    ],
)
def test_a_run_cut_after_any_epoch_ends_with_the_same_bits(tmp_path, change, monkeypatch):
    config = dataclasses.replace(TINY, **change)
    whole = tiny_net()
    expected = fit(whole, *small_batches(), config)
    for cut in range(1, 4):
        path = tmp_path / f"{cut}.safetensors"
        cut_short(path, cut, config, monkeypatch)
        resumed = tiny_net()
        record = fit(resumed, *small_batches(), config, checkpoint=path)
        assert equal_weights(resumed, whole)
        assert [dataclasses.replace(e, seconds=0) for e in record.history] == [
            dataclasses.replace(e, seconds=0) for e in expected.history
        ]


def cut_short(path, epochs, config, monkeypatch, device="cpu") -> None:
    """Train until `epochs` checkpoints were written, then fail as a full disk or a user's interrupt would."""
    import cifar_helpers.train as module

    save, count = module.save_progress, 0

    def save_then_stop(*args):
        nonlocal count
        count += 1
        result = save(*args)
        if count == epochs:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_progress", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny_net(), *small_batches(device=device), config, checkpoint=path)


@pytest.mark.parametrize("missing", ["last", "optimizer", "best"])
def test_each_part_of_the_checkpoint_is_needed(tmp_path, missing, monkeypatch):
    """The negative twin of the test above: with one part erased, weights or losses differ."""
    config = dataclasses.replace(TINY, lr=0.2)  # so wild that its best epoch lies before the cut
    whole = tiny_net()
    expected = fit(whole, *small_batches(), config)
    path = tmp_path / "run.safetensors"
    cut_short(path, 2, config, monkeypatch)
    tensors, about = load_checkpoint(path)
    kept = {name: torch.zeros_like(t) if name.startswith(missing + "/") else t for name, t in tensors.items()}
    save_checkpoint(path, kept, about)
    resumed = tiny_net()
    record = fit(resumed, *small_batches(), config, checkpoint=path)
    same_losses = [e.train_loss for e in record.history] == [e.train_loss for e in expected.history]
    assert not (same_losses and equal_weights(resumed, whole))


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from test_train import *
net = tiny_net()
fit(net, *small_batches(512), dataclasses.replace(TINY, epochs=12), checkpoint=sys.argv[1])
print("DONE", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """Real processes, really killed, again and again, until one comes through."""
    config = dataclasses.replace(TINY, epochs=12)
    whole = tiny_net()
    fit(whole, *small_batches(512), config)
    path, kills = tmp_path / "run.safetensors", 0
    for attempt in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, path, os.path.dirname(__file__)],
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        )
        seen = [process.stdout.readline()]
        time.sleep(0.013 * (attempt % 7))
        if kills < 4:
            process.send_signal(signal.SIGKILL)
        seen += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        if any("DONE" in line for line in seen):
            break
        kills += 1
    assert kills >= 2
    resumed = tiny_net()
    fit(resumed, *small_batches(512), config, checkpoint=path)
    assert equal_weights(resumed, whole)


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path, capsys):
    path = tmp_path / "run.safetensors"
    net, again = tiny_net(), tiny_net()
    first = fit(net, *small_batches(), TINY, checkpoint=path)
    written = path.stat().st_mtime_ns
    capsys.readouterr()
    assert fit(again, *small_batches(), TINY, checkpoint=path) == first
    assert equal_weights(net, again)
    assert path.stat().st_mtime_ns == written
    assert "trained before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [({"lr": 0.1}, "config.lr (0.05, now 0.1)"), ({"seed": 5}, "config.seed"), ({"augment": ()}, "config.augment")],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path, change, named):
    path = tmp_path / "run.safetensors"
    fit(tiny_net(), *small_batches(), TINY, checkpoint=path)
    with pytest.raises(CheckpointError, match=re.escape(named)):
        fit(tiny_net(), *small_batches(), dataclasses.replace(TINY, **change), checkpoint=path)


def test_other_data_and_another_model_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(tiny_net(), *small_batches(), TINY, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"data\.train"):
        fit(tiny_net(), *small_batches(48), TINY, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"model\.layers"):
        fit(tiny_net(batchnorm=False), *small_batches(), TINY, checkpoint=path)
    other_start = tiny_net()
    with torch.no_grad():
        other_start[0].bias += 1
    with pytest.raises(CheckpointError, match=r"model\.weights"):
        fit(other_start, *small_batches(), TINY, checkpoint=path)
    train, val = small_batches()
    train.normaliser = val.normaliser = Normaliser((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(CheckpointError, match=r"data\.normaliser\.mean"):
        fit(tiny_net(), train, val, TINY, checkpoint=path)


def test_lists_of_other_tensors_are_other_data(tmp_path):
    path, net = tmp_path / "run.safetensors", tiny_net()
    config = dataclasses.replace(TINY, epochs=1)
    fit(net, [GOOD], [GOOD], config, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"data\.train"):
        fit(tiny_net(), [(GOOD[0] + 1, GOOD[1])], [GOOD], config, checkpoint=path)


def test_an_unfinished_run_is_not_resumed_on_another_machine_unless_forced(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    cut_short(path, 2, TINY, monkeypatch)
    tensors, about = load_checkpoint(path)
    about["environment"]["threads"] += 1
    save_checkpoint(path, tensors, about)
    with pytest.raises(CheckpointError, match=r"threads \(\d+, now \d+\).*force=True"):
        fit(tiny_net(), *small_batches(), TINY, checkpoint=path)
    record = fit(tiny_net(), *small_batches(), TINY, checkpoint=path, force=True)
    assert "threads" in record.environment["forced"][0]


def test_patience_stops_early():
    record = fit(tiny_net(), *small_batches(), dataclasses.replace(TINY, epochs=50, patience=2, lr=1e-9, momentum=0.5))
    assert record.stopped_early
    assert len(record.history) == record.best_epoch + 2


@pytest.mark.parametrize(("max_steps", "steps"), [(3, [3]), (6, [4, 6]), (1000, [4, 8, 12, 16])])
def test_max_steps_bounds_the_run_and_the_schedule(max_steps, steps):
    config = dataclasses.replace(TINY, max_steps=max_steps, schedule="triangular")
    record = fit(tiny_net(), *small_batches(), config)
    assert [epoch.steps for epoch in record.history] == steps
    assert record.history[-1].lr == pytest.approx(config.lr * 0.5 / steps[-1])


def test_a_divergence_that_only_validation_sees_is_not_saved(tmp_path):
    """One step an epoch: the training loss is that of the weights before the step that spoils them."""
    path = tmp_path / "run.safetensors"
    train, val = small_batches()
    config = dataclasses.replace(TINY, batch_size=64, momentum=0.5)
    with pytest.raises(TrainingDiverged, match="after this epoch, in validation"):
        fit(tiny_net(batchnorm=False), train, val, dataclasses.replace(config, lr=1e38), checkpoint=path)
    assert not path.exists()


def test_a_divergence_keeps_the_checkpoint_of_the_epoch_before(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    cut_short(path, 2, TINY, monkeypatch)
    kept = path.read_bytes()
    net = tiny_net()
    net.register_forward_hook(lambda module, _, out: out * float("nan") if module.training else out)
    with pytest.raises(TrainingDiverged):
        fit(net, *small_batches(), TINY, checkpoint=path, force=True)
    assert path.read_bytes() == kept


def test_the_model_of_the_configuration_must_be_the_model():
    model = make_model("mlp", 4, image_size=8)
    for change, named in [({"model": "cnn"}, "name"), ({"width": 0.5}, "width"), ({"seed": 1}, "seed")]:
        config = dataclasses.replace(TrainConfig(model="mlp", epochs=1), **change)
        with pytest.raises(ValueError, match=f"not the configuration's: {named} "):
            fit(model, *small_batches(), config)


def test_the_test_split_is_refused():
    train, val = small_batches()
    val.split = "test"
    with pytest.raises(ValueError, match="test split"):
        fit(tiny_net(), train, val, TINY)


def test_swapped_arguments_are_noticed():
    train, val = small_batches()
    with pytest.raises(ValueError, match="in this order"):
        fit(tiny_net(), val, train, TINY)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (GOOD[0].permute(0, 2, 3, 1), GOOD[1], "channels last"),
        (GOOD[0][:, :1], GOOD[1], r"\(4, 1, 8, 8\)"),
        (GOOD[0].double(), GOOD[1], "torch.float64; expected normalised torch.float32"),
        ((GOOD[0] * 9).byte(), GOOD[1], "torch.uint8"),
        (GOOD[0], torch.tensor([0, 1, 2, 4]), "label 4 at position 3; expected 0 to 3"),
        (GOOD[0], torch.tensor([0, 1, -1, 3]), "label -1 at position 2"),
        (GOOD[0], torch.tensor([0, -100, 1, 3]), "label -100 at position 1"),
        (GOOD[0], GOOD[1].float(), "torch.float32; expected torch.int64"),
        (GOOD[0], GOOD[1][:3], r"shape \(3,\)"),
        (GOOD[0][:0], GOOD[1][:0], "empty batch"),
    ],
)
def test_a_bad_batch_is_named_before_any_step(images, labels, words):
    net = tiny_net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for position in (0, 1):
        batches = [GOOD, GOOD]
        batches[position] = (images, labels)
        with pytest.raises(ValueError, match=words):
            fit(net, batches, [GOOD], TINY)
        with pytest.raises(ValueError, match=words):
            fit(net, [GOOD], batches, TINY)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)


def test_other_classes_in_validation_are_named():
    train, val = small_batches()
    val.class_names = ("bee", "cat", "dog", "eel")
    with pytest.raises(ValueError, match="expected the same in the same order"):
        fit(tiny_net(), train, val, TINY)


def test_too_few_outputs_are_named_before_any_step():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ValueError, match="train has 4 classes, the model has 3 outputs"):
        fit(net, *small_batches(), TINY)


def test_batches_without_a_length_are_named():
    with pytest.raises(ValueError, match="generator have no length; expected a list or a DataLoader"):
        fit(tiny_net(), (batch for batch in [GOOD]), [GOOD], TINY)


def test_a_dataloader_is_taken_as_it_is():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*GOOD), batch_size=2)
    assert fit(tiny_net(), loader, loader, dataclasses.replace(TINY, epochs=2)).history[-1].steps == 4


def test_no_batch_at_all_is_named():
    with pytest.raises(ValueError, match="train holds no batch"):
        fit(tiny_net(), [], [GOOD], TINY)


@pytest.mark.parametrize("train", [[GOOD, (GOOD[0][:1], GOOD[1][:1])], "batches"])
def test_a_last_batch_of_one_with_batchnorm_is_named_before_any_step(train):
    train = small_batches(33)[0] if train == "batches" else train
    with pytest.raises(ValueError, match="last batch of one image, and BatchNorm"):
        fit(tiny_net(), train, small_batches()[1], TINY)
    fit(tiny_net(batchnorm=False), train, small_batches()[1], dataclasses.replace(TINY, epochs=1))


def test_a_bar_is_drawn_only_in_a_terminal(capsys, monkeypatch):
    config = dataclasses.replace(TINY, epochs=1)
    fit(tiny_net(), *small_batches(), config, name="plain")
    assert "|" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    fit(tiny_net(), *small_batches(), config, name="barred")
    assert "0/4 [" in capsys.readouterr().out


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_cuda_trains_in_every_format_and_resumes_with_the_same_bits(tmp_path, precision, monkeypatch):
    config = dataclasses.replace(TINY, precision=precision, deterministic=True)
    whole, resumed, path = tiny_net(), tiny_net(), tmp_path / "run.safetensors"
    assert fit(whole, *small_batches(device="cuda"), config).val_accuracy > 0.3
    cut_short(path, 2, config, monkeypatch, device="cuda")
    fit(resumed, *small_batches(device="cuda"), config, checkpoint=path)
    assert equal_weights(resumed, whole)


# --- sizes ---


def test_no_batch_is_drawn_that_is_not_trained_on():
    drawn = []
    batches = (drawn.append(i) or GOOD for i in range(9))
    assert len(list(resized(batches, [0.1, 0.5], ()))) == 2
    assert drawn == [0, 1]


def test_training_images_have_the_size_that_is_due_and_validation_images_their_own():
    seen = []
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    net.register_forward_pre_hook(lambda module, inputs: seen.append((module.training, inputs[0].shape[-1])))
    config = dataclasses.replace(TINY, epochs=2, image_sizes=((0, 6 + 2), (0.5, 10), (0.75, 12)))
    fit(net, *small_batches(64), config)
    assert [size for training, size in seen if training] == [8, 8, 8, 8, 10, 10, 12, 12]
    assert {size for training, size in seen if not training} == {8}


# --- sweeps ---


def sweep_nets(config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def test_a_sweep_is_fit_for_every_configuration_and_seed(capsys):
    configs = {f"lr {lr}": dataclasses.replace(TINY, lr=lr, epochs=2) for lr in (0.01, 0.1)}
    records = sweep(configs, sweep_nets, *small_batches(), seeds=(0, 3))
    assert list(records) == ["lr 0.01", "lr 0.1"]
    alone = fit(sweep_nets(configs["lr 0.1"]), *small_batches(), configs["lr 0.1"], verbose=False)
    assert records["lr 0.1"][0].run_hash == alone.run_hash
    assert records["lr 0.1"][0].val_loss == alone.val_loss
    assert [record.config["seed"] for record in records["lr 0.1"]] == [0, 3]
    assert records["lr 0.1"][1].val_loss != alone.val_loss
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_run_of_a_sweep_that_diverges_is_none_and_the_others_go_on(capsys):
    configs = {f"{lr:g}": dataclasses.replace(TINY, lr=lr) for lr in (1e38, 0.05)}
    records = sweep(configs, sweep_nets, *small_batches())
    assert records["1e+38"] == [None]
    assert records["0.05"][0].val_accuracy > 0.5
    assert "not finite" in capsys.readouterr().out


def test_a_sweep_of_unequal_budgets_is_refused():
    configs = {"short": TINY, "long": dataclasses.replace(TINY, epochs=9)}
    with pytest.raises(ValueError, match="equal budgets"):
        sweep(configs, sweep_nets, *small_batches())


def test_a_sweep_resumes_where_it_was_killed(tmp_path, capsys):
    configs = {"a": TINY, "b": dataclasses.replace(TINY, lr=0.1)}
    places = lambda name: tmp_path / f"{name}.safetensors"  # noqa: E731
    first = sweep({"a": TINY}, sweep_nets, *small_batches(), checkpoint=places)
    assert sweep(configs, sweep_nets, *small_batches(), checkpoint=places)["a"] == first["a"]
    assert "trained before" in capsys.readouterr().out


# --- the test split ---


class Sealed:
    name = "tiny"
    sealed_test = random_split(8, "test")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    return open_workspace("01_x", "quick", "cpu", ["real"])


def test_a_look_at_the_test_split_leaves_one_receipt_per_reason(here):
    for reason in ("copies", "copies", "1-NN"):
        assert audit_test(Sealed, reason, here) is Sealed.sealed_test
    assert [row["purpose"] for row in read_lines(here.receipts)] == ["copies", "1-NN"]


def test_final_test_refuses_another_normalisation(here):
    net, (train, val) = tiny_net(), small_batches()
    record = fit(net, train, val, TINY)
    val.normaliser = Normaliser((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match="normalised otherwise"):
        final_test(net, Sealed, val, record, here)


def test_the_same_weights_are_scored_once_and_others_again(here, monkeypatch, capsys):
    net, (train, val) = tiny_net(), small_batches()
    record = fit(net, train, val, TINY)
    first = final_test(net, Sealed, val, record, here)
    straight = evaluate(net, train.like(Sealed.sealed_test))
    assert (first.correct, first.loss) == (straight.correct, pytest.approx(straight.loss, rel=1e-3))
    with monkeypatch.context() as patch:
        patch.setattr("cifar_helpers.train.predict", None)
        assert final_test(net, Sealed, val, record, here) == first
    logits, about = read_kept(kept_path(here.figures, "run", "test"))
    assert torch.equal(logits, predict(net, train.like(Sealed.sealed_test))[0].half())
    assert about["run_hash"] == record.run_hash
    ranks, about = read_kept(kept_path(here.figures, "run", "ranks"))
    assert (int((ranks == 0).sum()), about["run_hash"]) == (first.correct, record.run_hash)
    assert final_test(net, Sealed, val, record, here, mirrored=True) != first
    with torch.no_grad():
        net[0].weight += 1
    assert final_test(net, Sealed, val, record, here) != first
    assert len(read_lines(here.receipts)) == 3
    assert "scored before, with other weights" in capsys.readouterr().out


def test_the_mean_of_the_weights_is_validated_and_returned():
    """Against the recurrence written out, step by step, over the weights of the same run without a mean."""
    decay, config = 0.8, dataclasses.replace(TINY, epochs=1)
    train, val = small_batches()
    reference, averaged, last = (tiny_net(dropout=0) for _ in range(3))
    optimizer = make_optimizer(reference, lr=config.lr)
    means: dict[str, torch.Tensor] = {}

    def follow(model):
        for key, value in model.state_dict().items():
            means[key] = decay * means[key] + (1 - decay) * value if key in means else value.clone()

    epoch = train.epoch(0, seed=0, batch_size=config.batch_size, augment=config.augment)
    train_epoch(reference, epoch, optimizer, after_step=follow)
    record = fit(averaged, train, val, dataclasses.replace(config, ema=decay))
    fit(last, train, val, config)
    found = averaged.state_dict()
    floats = [key for key, value in found.items() if value.is_floating_point()]  # one counter of batches is whole
    assert all(torch.allclose(found[key], means[key], atol=1e-5) for key in floats)
    assert not equal_weights(averaged, last)
    assert record.val_accuracy == evaluate(averaged, val).accuracy


def test_mixup_trains_on_mixed_images_and_mixed_labels():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    (mixed_images, targets), *others = mixed([(images, labels)] * 2, [0.75], 3)
    assert not others
    assert torch.allclose(mixed_images, 0.75 * images + 0.25 * images.flip(0))
    assert torch.allclose(targets, torch.tensor([[0.75, 0, 0.25], [0, 0.75, 0.25], [0, 0.25, 0.75], [0.25, 0, 0.75]]))
    shares = draw_shares(0.2, 1000, seed=0, epoch=1)
    assert shares == draw_shares(0.2, 1000, seed=0, epoch=1) != draw_shares(0.2, 1000, seed=0, epoch=2)
    assert statistics.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert statistics.pvariance(shares) == pytest.approx(1 / (4 * 1.4), abs=0.03)  # of Beta(a, a): 1 / (4 (2a + 1))
    plain, other = tiny_net(), tiny_net()
    fit(plain, *small_batches(), TINY)
    record = fit(other, *small_batches(), dataclasses.replace(TINY, mixup=1.0))
    assert not equal_weights(plain, other)
    assert 0 < record.train_accuracy < 1


def test_a_sweep_as_a_table_says_where_there_is_no_record():
    record = fit(tiny_net(), *small_batches(), dataclasses.replace(TINY, epochs=1))
    table = tabulate({"a": [record, None], "b": [None, record]}, diverged=0.25)
    assert table.tolist() == [[record.val_accuracy, 0.25], [0.25, record.val_accuracy]]
    assert tabulate({"a": [None]}, "val_loss").isnan().all()
