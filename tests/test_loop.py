import dataclasses
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from small import TINY, equal_weights, random_split, small_batches, tiny_net
from torch import nn

from cifar_helpers._storage import load_tensors, save_tensors
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.transforms import Flip, Normaliser
from cifar_helpers.models.networks import make_model
from cifar_helpers.training._plan import _draw_lams, _mixed, _resized
from cifar_helpers.training.checkpoint import CheckpointError
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import evaluate, on_device
from cifar_helpers.training.loop import fit, sweep, tabulate, train_epoch
from cifar_helpers.training.optim import make_optimizer
from cifar_helpers.training.records import EpochRecord, TrainingDiverged, best_epoch

# Of batches in a list neither size nor augmentation can be chosen.
LISTED = dataclasses.replace(TINY, batch_size=128, augment=())
GOOD = (torch.randn(4, 3, 8, 8), torch.arange(4))


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_loss_is_given_float32_logits(precision):
    seen = set()

    def loss(logits, labels):
        seen.add(logits.dtype)
        return torch.nn.functional.multi_margin_loss(logits, labels)  # torch has none for bfloat16

    config = dataclasses.replace(LISTED, epochs=1, precision=precision)
    fit(tiny_net(), [GOOD], [GOOD], config, loss=loss, device="cpu", verbose=False)
    assert seen == {torch.float32}


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoiled():
    net = nn.Linear(5, 2)
    before = net.weight.clone()
    x = torch.randn(4, 5)
    x[2, 3] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"at step 1 of this epoch, with learning rate 0\.3\. The images at"):
        train_epoch(net, [(x, torch.zeros(4, dtype=torch.int64))], torch.optim.SGD(net.parameters(), lr=0.3))
    assert torch.equal(net.weight, before)


# --- fit ---


def test_fit_learns_restores_thebest_epoch_and_tells_it_all(capsys):
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
    import cifar_helpers.training.loop as module

    save, count = module.save_checkpoint, 0

    def save_then_stop(*args):
        nonlocal count
        count += 1
        result = save(*args)
        if count == epochs:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", save_then_stop)
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
    tensors, about = load_tensors(path)
    erased = (lambda name: "/" not in name) if missing == "best" else (lambda name: f"/{missing}/" in name)
    kept = {name: torch.zeros_like(t) if erased(name) else t for name, t in tensors.items()}
    save_tensors(path, kept, about)
    resumed = tiny_net()
    record = fit(resumed, *small_batches(), config, checkpoint=path)
    same_losses = [e.train_loss for e in record.history] == [e.train_loss for e in expected.history]
    assert not (same_losses and equal_weights(resumed, whole))


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from test_loop import *
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
    train, val = small_batches()
    train.normaliser = val.normaliser = Normaliser((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(CheckpointError, match=r"data\.normaliser\.mean"):
        fit(tiny_net(), train, val, TINY, checkpoint=path)


def test_lists_of_other_tensors_are_other_data(tmp_path):
    path, net = tmp_path / "run.safetensors", tiny_net()
    config = dataclasses.replace(LISTED, epochs=1)
    fit(net, [GOOD], [GOOD], config, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"data\.train"):
        fit(tiny_net(), [(GOOD[0] + 1, GOOD[1])], [GOOD], config, checkpoint=path)


def test_an_unfinished_run_is_not_resumed_on_another_machine_unless_forced(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    cut_short(path, 2, TINY, monkeypatch)
    tensors, about = load_tensors(path)
    about["environment"]["threads"] += 1
    save_tensors(path, tensors, about)
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
    with pytest.raises(TrainingDiverged, match=r"after epoch 1, with learning rate 1e\+38"):
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
            fit(net, batches, [GOOD], LISTED, device="cpu")
        with pytest.raises(ValueError, match=words):
            fit(net, [GOOD], batches, LISTED, device="cpu")
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
        fit(tiny_net(), (batch for batch in [GOOD]), [GOOD], LISTED)


def test_a_dataloader_is_taken_as_it_is():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*GOOD), batch_size=2)
    assert fit(tiny_net(), loader, loader, dataclasses.replace(LISTED, epochs=2)).history[-1].steps == 4


def test_no_batch_at_all_is_named():
    with pytest.raises(ValueError, match="train holds no batch"):
        fit(tiny_net(), [], [GOOD], LISTED)


class Unsized:
    """Batches of a reader's own, of which nothing is known beforehand but their number."""

    def __init__(self, *batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def streamed(*batches):
    """Return the batches behind a DataLoader, which looks at none of them."""
    return torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


@pytest.mark.parametrize("container", [Unsized, streamed])
@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((GOOD[0], torch.tensor([0, 1, 2, 4])), "{} batch 2 label 4 at position 3; expected 0 to 3"),
        ((GOOD[0], torch.tensor([0, -100, 1, 3])), "{} batch 2 label -100 at position 1; expected 0 to 3"),
        ((GOOD[0].double(), GOOD[1]), "{} batch 2 images are torch.float64; expected normalised torch.float32"),
        ((GOOD[0], GOOD[1][:3]), r"{} batch 2 labels have shape \(3,\); expected \(4,\)"),
        ((GOOD[0], GOOD[1], GOOD[1]), r"{} batch 2 serves batches of \(Tensor, Tensor, Tensor\); expected pairs"),
    ],
)
def test_a_bad_batch_in_the_middle_is_named_as_in_a_list(container, batch, words):
    for name in ("train", "val"):
        for make in (list, lambda batches: container(*batches)):
            batches = {"train": [GOOD], "val": [GOOD], name: make([GOOD, batch, GOOD])}
            with pytest.raises(ValueError, match=f"^{words.format(name)}"):
                fit(tiny_net(), batches["train"], batches["val"], LISTED, device="cpu")


def test_images_of_another_size_are_taken_by_a_network_that_can_in_every_container():
    other = (torch.randn(4, 3, 10, 10), torch.arange(4))
    pooled = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))  # noqa: E731
    config = dataclasses.replace(LISTED, epochs=1)
    for make in (list, lambda batches: Unsized(*batches)):
        fit(pooled(), make([GOOD, other]), make([GOOD, other]), config, device="cpu")
        for train, val in (([GOOD, other], [GOOD]), ([GOOD], [GOOD, other])):
            with pytest.raises(ValueError, match=r"the model cannot take images of shape \(4, 3, 10, 10\)"):
                fit(tiny_net(), make(train), make(val), config, device="cpu")


class Streamed(torch.utils.data.IterableDataset):
    def __len__(self) -> int:
        return 5

    def __iter__(self):
        return ((GOOD[0][i % 4], i % 4) for i in range(5))


FIVE = torch.utils.data.TensorDataset(GOOD[0][[0, 1, 2, 3, 0]], GOOD[1][[0, 1, 2, 3, 0]])


@pytest.mark.parametrize(
    ("options", "dataset"),
    [
        ({"batch_size": 4}, FIVE),
        ({"batch_size": 4}, Streamed()),
        ({"batch_sampler": torch.utils.data.BatchSampler(range(5), 4, False)}, FIVE),
        ({"batch_sampler": [[0, 1, 2, 3], [4]]}, FIVE),
    ],
)
def test_a_last_batch_of_one_is_known_beforehand_of_every_usual_loader(options, dataset):
    net, loader = tiny_net(), torch.utils.data.DataLoader(dataset, **options)
    with pytest.raises(ValueError, match="leaves a last batch of one image, and BatchNorm cannot take the variance"):
        fit(net, loader, [GOOD], LISTED, device="cpu")
    assert equal_weights(net, tiny_net())
    fit(tiny_net(batchnorm=False), loader, [GOOD], dataclasses.replace(LISTED, epochs=1), device="cpu")


def test_a_batch_of_one_that_nobody_could_know_of_is_named_where_batchnorm_fails():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4))
    batches = Unsized(GOOD, GOOD, (GOOD[0][:1], GOOD[1][:1]))
    with pytest.raises(ValueError, match=r"^train batch 3 holds one image, and BatchNorm cannot take the"):
        fit(flat, batches, [GOOD], LISTED, device="cpu")


@pytest.mark.parametrize("train", [[GOOD, (GOOD[0][:1], GOOD[1][:1])], "batches"])
def test_a_last_batch_of_one_with_batchnorm_is_named_before_any_step(train):
    train = small_batches(33)[0] if train == "batches" else train
    config = LISTED if isinstance(train, list) else TINY
    with pytest.raises(ValueError, match="last batch of one image, and BatchNorm"):
        fit(tiny_net(), train, small_batches()[1], config)
    fit(tiny_net(batchnorm=False), train, small_batches()[1], dataclasses.replace(config, epochs=1))


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
    assert len(list(_resized(batches, [0.1, 0.5], ()))) == 2
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


def sweep_nets(name: str, config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def test_a_sweep_is_fit_for_every_configuration_and_seed(capsys):
    configs = {f"lr {lr}": dataclasses.replace(TINY, lr=lr, epochs=2) for lr in (0.01, 0.1)}
    records = sweep(configs, sweep_nets, *small_batches(), seeds=(0, 3))
    assert list(records) == ["lr 0.01", "lr 0.1"]
    alone = fit(sweep_nets("lr 0.1", configs["lr 0.1"]), *small_batches(), configs["lr 0.1"], verbose=False)
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


def test_a_line_of_a_sweep_says_which_of_how_many_runs_it_is_and_of_which_data(capsys):
    def lines(configs, **others):
        sweep(configs, sweep_nets, *small_batches(), **others)
        return [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]

    grid = {"a": TINY, "b": dataclasses.replace(TINY, lr=1e38)}  # the second diverges
    assert lines(grid, title="CIFAR-100", seeds=iter((0, 3))) == [
        "CIFAR-100 · 1 of 4 · a, seed 0",
        "CIFAR-100 · 2 of 4 · a, seed 3",
        "CIFAR-100 · 3 of 4 · b, seed 0",
        "CIFAR-100 · 4 of 4 · b, seed 3",
    ]
    assert lines({"a": TINY}) == ["a, seed 0"]


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
    train_epoch(reference, epoch, optimizer, after_step=lambda: follow(reference))
    record = fit(averaged, train, val, dataclasses.replace(config, ema=decay))
    fit(last, train, val, config)
    found = averaged.state_dict()
    floats = [key for key, value in found.items() if value.is_floating_point()]  # one counter of batches is whole
    assert all(torch.allclose(found[key], means[key], atol=1e-5) for key in floats)
    assert not equal_weights(averaged, last)
    assert record.val_accuracy == evaluate(averaged, val).accuracy


def test_mixup_trains_on_mixed_images_and_mixed_labels():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    (mixed_images, targets), *others = _mixed([(images, labels)] * 2, [0.75], 3)
    assert not others
    assert torch.allclose(mixed_images, 0.75 * images + 0.25 * images.flip(0))
    assert torch.allclose(targets, torch.tensor([[0.75, 0, 0.25], [0, 0.75, 0.25], [0, 0.25, 0.75], [0.25, 0, 0.75]]))
    lams = _draw_lams(0.2, 1000, seed=0, epoch=1)
    assert lams == _draw_lams(0.2, 1000, seed=0, epoch=1) != _draw_lams(0.2, 1000, seed=0, epoch=2)
    assert statistics.mean(lams) == pytest.approx(0.5, abs=0.05)
    assert statistics.pvariance(lams) == pytest.approx(1 / (4 * 1.4), abs=0.03)  # of Beta(a, a): 1 / (4 (2a + 1))
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


# --- a reader's own loader, loss, optimizer, scheduler ---


class Pictures(torch.utils.data.Dataset):
    """A data set as people write it, with a transform that draws from torch, NumPy and Python."""

    def __init__(self, count: int = 60, seed: int = 0) -> None:
        self.split = random_split(count, seed=seed)
        self.flip = True

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int):
        image = self.split.images[index].float() / 128 - 1
        return (image.flip(-1) if self.flip and torch.rand(()) < 0.5 else image), int(self.split.labels[index])


def loaders(count: int = 60, seed: int = 0, **options):
    train = torch.utils.data.DataLoader(Pictures(count, seed), batch_size=16, shuffle=True, **options)
    return train, torch.utils.data.DataLoader(Pictures(20, 1), batch_size=16)


def focal(logits, labels):
    return ((1 - logits.softmax(1).gather(1, labels[:, None]).flatten()) ** 2 * nn.functional.cross_entropy(
        logits, labels, reduction="none")).mean()  # fmt: skip


OWN = TrainConfig(epochs=4, precision="float32")
PARTS = {
    "loss": focal,
    "optimizer": lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3),
    "scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1),
}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_resumes_with_the_same_bits(tmp_path, workers):
    """Its shuffling, its workers' draws, the reader's optimizer and scheduler included."""
    options = {"num_workers": workers}
    whole, cut, path = tiny_net(), tiny_net(), tmp_path / "run.safetensors"
    expected = fit(whole, *loaders(**options), OWN, **PARTS)

    def interrupt(record, model):
        if record.epoch in (1, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(cut, *loaders(**options), OWN, checkpoint=path, callbacks=[interrupt], **PARTS)
    record = fit(cut, *loaders(**options), OWN, checkpoint=path, **PARTS)
    assert equal_weights(whole, cut)
    assert [e.train_loss for e in record.history] == [e.train_loss for e in expected.history]
    assert [e.lr for e in record.history] == pytest.approx([3e-3, 3e-3, 3e-4, 3e-4])


def test_own_parts_do_what_the_loop_by_hand_does():
    batches = [GOOD, (GOOD[0] + 0.5, GOOD[1].flip(0))]
    ours, by_hand = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    record = fit(ours, batches, [GOOD], dataclasses.replace(OWN, epochs=3), device="cpu", **PARTS)
    by_hand.to(memory_format=torch.channels_last)
    optimizer = PARTS["optimizer"](by_hand)
    scheduler = PARTS["scheduler"](optimizer)
    best, kept = -1.0, {}
    for epoch in range(3):
        by_hand.train()
        for images, labels in batches:
            optimizer.zero_grad()
            focal(by_hand(images), labels).backward()
            optimizer.step()
        scheduler.step()
        assert record.history[epoch].val_loss == pytest.approx(evaluate(by_hand, [GOOD], loss=focal).loss, rel=1e-5)
        if evaluate(by_hand, [GOOD]).accuracy > best:
            best, kept = evaluate(by_hand, [GOOD]).accuracy, {k: v.clone() for k, v in by_hand.state_dict().items()}
    assert record.val_accuracy == best
    if record.best_epoch == [e.val_accuracy for e in record.history].index(best) + 1:
        assert all(torch.equal(ours.state_dict()[key], kept[key]) for key in kept)


def test_an_optimizer_and_a_scheduler_may_be_instances():
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    record = fit(net, [GOOD], [GOOD], dataclasses.replace(OWN, epochs=3), optimizer=optimizer, scheduler=scheduler)
    assert [epoch.lr for epoch in record.history] == [0.1, 0.05, 0.025]


def test_a_schedule_of_the_configuration_multiplies_the_rates_of_an_own_optimizer():
    net = tiny_net()
    optimizer = torch.optim.SGD([{"params": net[0].parameters(), "lr": 1.0}, {"params": net[5].parameters()}], lr=0.5)
    config = dataclasses.replace(OWN, epochs=2, schedule="triangular")
    record = fit(net, [GOOD], [GOOD], config, optimizer=optimizer)
    assert [epoch.lr for epoch in record.history] == [0.75, 0.25]  # factors on the rates, here of 1.0
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]


@pytest.mark.parametrize(
    ("make", "rates"),
    [
        (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.4, total_steps=8, pct_start=0.5), 8),
        (lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2], 0.5), 4),
        (lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, "max", patience=0, factor=0.5), 4),
        (lambda o: torch.optim.lr_scheduler.SequentialLR(o, [
            torch.optim.lr_scheduler.ConstantLR(o, 0.1, 1), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [1]), 4),
    ],
    ids=["OneCycleLR", "MultiStepLR", "ReduceLROnPlateau", "SequentialLR"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # torch's SequentialLR calls it itself
def test_schedulers_of_torch_go_on_after_an_interrupt(tmp_path, make, rates):
    batches, config = [GOOD, GOOD], dataclasses.replace(OWN, epochs=4)
    parts = {"optimizer": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), "scheduler": make}
    whole, cut, path = tiny_net(), tiny_net(), tmp_path / "run.safetensors"
    expected = fit(whole, batches, [GOOD], config, **parts)

    def interrupt(record, model):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cut, batches, [GOOD], config, checkpoint=path, callbacks=[interrupt], **parts)
    record = fit(cut, batches, [GOOD], config, checkpoint=path, **parts)
    assert equal_weights(whole, cut)
    assert [e.lr for e in record.history] == [e.lr for e in expected.history]
    assert len({e.lr for e in record.history}) > 1


@pytest.mark.parametrize(
    ("config", "parts", "words"),
    [
        ({"batch_size": 16}, {}, "batch_size=16 .*list makes it meaningless.*leave batch_size=128"),
        ({"augment": (Flip(),)}, {}, "augment=.*list makes it meaningless"),
        ({"batch_size": 16}, {"train": loaders()[0]}, "batch_size=16 .*DataLoader makes it meaningless"),
        ({"augment": (Flip(),)}, {"train": loaders()[0]}, "augment=.*DataLoader makes it meaningless"),
        ({"lr": 0.1}, {"optimizer": PARTS["optimizer"]}, "lr=0.1 .*optimizer makes it meaningless"),
        (
            {"schedule": "cosine"},
            {"scheduler": PARTS["scheduler"]},
            "schedule='cosine' .*scheduler makes it meaningless",
        ),
        ({"label_smoothing": 0.1}, {"loss": focal}, "label_smoothing=0.1 .*loss makes it meaningless"),
        ({}, {"optimizer": torch.optim.Adam}, "optimizer=.*a function of the model"),
        ({}, {"optimizer": lambda model: None}, "optimizer=None"),
        ({}, {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)}, "2 of its parameters are not the"),
        ({}, {"scheduler": torch.optim.lr_scheduler.StepLR}, "scheduler=.*a function of the optimizer"),
        ({}, {"scheduler_every": "batch"}, "scheduler_every='batch'"),
        ({}, {"checkpoint": "."}, "checkpoint='.'"),
        ({}, {"checkpoint": ""}, "checkpoint='' .*the path of a file"),
    ],
)
def test_what_would_not_be_used_or_cannot_be_is_named_before_any_step(config, parts, words):
    net = tiny_net()
    arguments = {"train": [GOOD], "val": [GOOD]} | parts
    with pytest.raises(ValueError, match=words):
        fit(net, config=dataclasses.replace(OWN, **config), device="cpu", **arguments)
    assert equal_weights(net, tiny_net())


def test_a_record_tells_what_was_used():
    record = fit(tiny_net(), [GOOD], [GOOD], dataclasses.replace(OWN, epochs=1), **PARTS)
    assert record.config["batch_size"] is record.config["augment"] is record.config["lr"] is None
    assert record.config["optimizer"]["name"] == "AdamW"
    assert record.config["loss"]["name"] == "focal"
    other = fit(
        tiny_net(), [GOOD], [GOOD], dataclasses.replace(OWN, epochs=1), **PARTS | {"loss": nn.CrossEntropyLoss()}
    )
    assert other.run_hash != record.run_hash


def test_a_checkpoint_never_answers_for_other_data(tmp_path):
    path, config = tmp_path / "run.safetensors", dataclasses.replace(OWN, epochs=1)
    first = fit(tiny_net(), *loaders(), config, checkpoint=path)
    assert fit(tiny_net(), *loaders(), config, checkpoint=path) == first
    for other in (loaders(seed=5), loaders(600)):
        with pytest.raises(CheckpointError, match=r"data\.train"):
            fit(tiny_net(), *other, config, checkpoint=path)
    changed = loaders()
    changed[0].dataset.flip = False
    with pytest.raises(CheckpointError, match=r"data\.train"):
        fit(tiny_net(), *changed, config, checkpoint=path)
    one_label = loaders()
    one_label[0].dataset.split.labels[7] ^= 1
    with pytest.raises(CheckpointError, match=r"data\.train"):
        fit(tiny_net(), *one_label, config, checkpoint=path)


def test_data_that_cannot_be_told_apart_get_no_checkpoint(tmp_path):
    train, val = loaders()
    train.dataset.file = open(__file__)  # noqa: SIM115  # as an open HDF5 file would be
    with pytest.raises(ValueError, match=r"train: .*cannot be hashed.*`fingerprint`"):
        fit(tiny_net(), train, val, OWN, checkpoint=tmp_path / "run.safetensors")
    fit(tiny_net(), train, val, dataclasses.replace(OWN, epochs=1))
    train.dataset.fingerprint = "version 7"
    record = fit(tiny_net(), train, val, dataclasses.replace(OWN, epochs=1), checkpoint=tmp_path / "run.safetensors")
    assert record.data["train"] == "version 7"
    train.dataset.file.close()


def test_batches_of_three_are_named():
    triple = [(*GOOD, torch.arange(4))]
    with pytest.raises(ValueError, match=r"train serves batches of \(Tensor, Tensor, Tensor\); expected pairs"):
        fit(tiny_net(), triple, [GOOD], OWN)


def test_a_last_batch_of_one_of_a_dataloader_is_named():
    with pytest.raises(ValueError, match="batch_size=16 leaves a last batch of one image"):
        fit(tiny_net(), *loaders(49), OWN)
    with pytest.raises(ValueError, match="batch_size=11 leaves a last batch of one image"):
        fit(tiny_net(), *small_batches(34), dataclasses.replace(TINY, batch_size=11))
    fit(tiny_net(), *loaders(49, drop_last=True), dataclasses.replace(OWN, epochs=1))


def test_drop_last_leaves_out_the_ragged_batch():
    train, val = small_batches(33)
    ragless = Batches(random_split(33), train.normaliser, "cpu", drop_last=True)
    assert fit(tiny_net(), ragless, val, TINY).history[0].steps == 2


def test_an_augmentation_of_torchvision_resumes_with_the_same_bits(tmp_path):
    from torchvision.transforms import v2

    config = dataclasses.replace(TINY, augment=(v2.RandomHorizontalFlip(), v2.RandomCrop(8, padding=1)))
    whole, cut, path = tiny_net(), tiny_net(), tmp_path / "run.safetensors"
    fit(whole, *small_batches(), config)

    def interrupt(record, model):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cut, *small_batches(), config, checkpoint=path, callbacks=[interrupt])
    fit(cut, *small_batches(), config, checkpoint=path)
    assert equal_weights(whole, cut)


class FakeCuda:
    """A tensor on a CPU that counts how it is moved to a GPU; no GPU is needed for it."""

    device = torch.device("cpu")

    def __init__(self, log: list) -> None:
        self.log = log

    def is_pinned(self) -> bool:
        return "pinned" in self.log

    def pin_memory(self) -> "FakeCuda":
        self.log.append("pinned")
        return self

    def to(self, device, non_blocking=False):
        self.log.append((str(device), non_blocking))
        return torch.empty(0)


def test_batches_go_to_cuda_pinned_and_without_waiting():
    log: list = []
    list(on_device([(FakeCuda(log), FakeCuda(log))], torch.device("cuda")))
    assert log == ["pinned", ("cuda", True), ("cuda", True)]


def test_batches_that_lie_elsewhere_are_moved_and_others_are_not(monkeypatch):
    """With torch's meta device in the place of a GPU."""
    moved = [images.device.type for images, _ in on_device([GOOD, GOOD], torch.device("meta"))]
    assert moved == ["meta", "meta"]
    (images, labels), *_ = on_device([GOOD], torch.device("cpu"))
    assert images is GOOD[0]
    assert labels is GOOD[1]


@pytest.mark.cuda
def test_an_ordinary_dataloader_trains_on_cuda_and_is_evaluated_there(tmp_path):
    net = tiny_net()
    record = fit(net, *loaders(num_workers=2), OWN, device="cuda", checkpoint=tmp_path / "run.safetensors", **PARTS)
    assert next(net.parameters()).is_cuda
    assert record.val_accuracy == evaluate(net, loaders()[1]).accuracy


# --- what a strict new user found ---


ALPHA = 1.0


class Scaled(nn.Module):
    """A network of a reader's own, with a number beside its weights."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.net = factor, tiny_net()

    def forward(self, images):
        return self.factor * self.net(images)


class OfFiles(torch.utils.data.Dataset):
    """Names below a folder, as in PyTorch's own tutorial: what is in the files the object does not know."""

    def __init__(self, folder) -> None:
        self.folder, self.names = folder, sorted(path.name for path in folder.iterdir())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int):
        return torch.load(self.folder / self.names[index]), index % 4


def test_files_that_were_replaced_are_other_data(tmp_path):
    folder, config = tmp_path / "pictures", dataclasses.replace(OWN, epochs=1)
    folder.mkdir()
    for i in range(20):
        torch.save(torch.full((3, 8, 8), i / 20), folder / f"{i:02}.pt")
    loader = lambda: torch.utils.data.DataLoader(OfFiles(folder), batch_size=4)  # noqa: E731
    fit(tiny_net(), loader(), loader(), config, checkpoint=tmp_path / "run.safetensors")
    fit(tiny_net(), loader(), loader(), config, checkpoint=tmp_path / "run.safetensors")
    for i in range(0, 20, 2):
        torch.save(torch.full((3, 8, 8), -1.0), folder / f"{i:02}.pt")
    with pytest.raises(CheckpointError, match=r"data\.train"):
        fit(tiny_net(), loader(), loader(), config, checkpoint=tmp_path / "run.safetensors")


def test_other_code_around_a_dataset_a_loss_or_a_network_is_another_run(tmp_path, monkeypatch):
    config = dataclasses.replace(OWN, epochs=1)

    def run(name, model=None, train=None, **parts):
        train = train or [GOOD]
        return fit(model or Scaled(), train, [GOOD], config, checkpoint=tmp_path / f"{name}.safetensors", **parts)

    loss = lambda logits, labels: ALPHA * nn.functional.cross_entropy(logits, labels)  # noqa: E731
    run("loss", loss=loss)
    monkeypatch.setitem(globals(), "ALPHA", 100.0)
    with pytest.raises(CheckpointError, match=r"config\.loss\.hash"):
        run("loss", loss=loss)
    run("number", Scaled(1.0))
    with pytest.raises(CheckpointError, match=r"model\.values"):
        run("number", Scaled(9.0))
    run("forward")
    monkeypatch.setattr(Scaled, "forward", lambda self, images: self.net(images.flip(-1)))
    with pytest.raises(CheckpointError, match=r"model\.code"):
        run("forward")
    loader = lambda: torch.utils.data.DataLoader(Pictures(16), batch_size=8)  # noqa: E731
    run("inherited", train=loader())
    monkeypatch.setattr(Pictures, "__getitem__", lambda self, i: (torch.ones(3, 8, 8), 0))
    with pytest.raises(CheckpointError, match=r"data\.train"):
        run("inherited", train=loader())


def test_another_frozen_part_is_another_model_and_other_weights_are_said_to_be_replaced(tmp_path, capsys):
    def frozen(seed):
        torch.manual_seed(seed)
        net = tiny_net()
        nn.init.normal_(net[0].weight)
        net[0].requires_grad_(False)
        return net

    path, config = tmp_path / "run.safetensors", dataclasses.replace(TINY, epochs=1)
    fit(frozen(1), *small_batches(), config, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"model\.frozen"):
        fit(frozen(2), *small_batches(), config, checkpoint=path)
    other, path = tiny_net(), tmp_path / "other.safetensors"
    fit(tiny_net(), *small_batches(), config, checkpoint=path)
    nn.init.normal_(other[0].weight)
    capsys.readouterr()
    fit(other, *small_batches(), config, checkpoint=path)
    assert "the weights that the model had are replaced" in capsys.readouterr().out


class Noisy(Pictures):
    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        return image + random.random() + np.random.rand(), label


def test_what_a_dataset_draws_with_numpy_and_random_follows_seed_and_epoch(tmp_path):
    loader = lambda: torch.utils.data.DataLoader(Noisy(32), batch_size=16, shuffle=True)  # noqa: E731
    whole, cut, path = tiny_net(), tiny_net(), tmp_path / "run.safetensors"
    random.seed(1)
    expected = fit(whole, loader(), [GOOD], dataclasses.replace(OWN, epochs=3))

    def interrupt(record, model):
        if record.epoch == 1:
            raise KeyboardInterrupt

    random.seed(2)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, loader(), [GOOD], dataclasses.replace(OWN, epochs=3), checkpoint=path, callbacks=[interrupt])
    fit(cut, loader(), [GOOD], dataclasses.replace(OWN, epochs=3), checkpoint=path)
    assert equal_weights(whole, cut)
    other = fit(tiny_net(), loader(), [GOOD], dataclasses.replace(OWN, epochs=3, seed=1))
    assert other.history[-1].train_loss != expected.history[-1].train_loss


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit(tiny_net(), [GOOD], [GOOD], OWN, loss=nn.CrossEntropyLoss(reduction="sum")), "twice as large"),
        (lambda: fit(tiny_net(), [GOOD], [GOOD], OWN, loss=nn.CrossEntropyLoss(reduction="none")), r"shape \(4,\)"),
        (lambda: fit(tiny_net(), [GOOD], [GOOD], OWN, callbacks=print), "a list, also of one"),
        (lambda: fit(tiny_net(), [{"x": GOOD[0]}], [GOOD], OWN), r"train serves batches of \(dict\)"),
        (lambda: fit(tiny_net(), Pictures(8), [GOOD], OWN), "put the Dataset into a DataLoader|Tensor, int"),
        (lambda: fit(tiny_net().requires_grad_(False), [GOOD], [GOOD], OWN), "requires a gradient"),
        (lambda: fit(make_model("cnn", 4), [GOOD], [GOOD], OWN), r"made for 32 pixels: make_model\(…, image_size=8\)"),
    ],
)
def test_what_a_new_user_got_wrong_is_answered_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_more_epochs_say_how_to_go_on(tmp_path):
    path, config = tmp_path / "run.safetensors", dataclasses.replace(TINY, epochs=1)
    fit(tiny_net(), *small_batches(), config, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"config\.epochs \(1, now 2\).*to train on, give its weights"):
        fit(tiny_net(), *small_batches(), dataclasses.replace(config, epochs=2), checkpoint=path)


def test_a_network_with_a_spec_of_its_own_kind_is_trained():
    net = tiny_net()
    net.spec = "my network, second try"
    record = fit(net, *small_batches(), dataclasses.replace(TINY, epochs=1), device="cpu", verbose=False)
    assert record.model["name"] == "Sequential"
