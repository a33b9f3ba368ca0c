import dataclasses
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import stand_in_split

from cifar_helpers import recipes
from cifar_helpers.config import LAPTOP, PROFILES, QUICK
from cifar_helpers.data import Dataset
from cifar_helpers.metrics import label_ranks, sums
from cifar_helpers.recipes import CHAIN, RECIPES, describe_chain, find_runs, judge_recipe, train_recipe
from cifar_helpers.runs import kept_path, open_workspace, read_kept
from cifar_helpers.storage import CheckpointError, append_line, load_checkpoint, read_lines, save_checkpoint

TINY = dataclasses.replace(QUICK, train_images=200, eval_images=100, max_steps=6)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    monkeypatch.setattr(recipes, "home_folder", lambda: tmp_path / "nowhere")
    return open_workspace("train", "quick", "cpu", {"synthetic"})


@pytest.fixture(scope="module")
def dataset():
    train, val, test = (stand_in_split(200, 10, name) for name in ("train", "val", "test"))
    return Dataset("cifar10", "synthetic", train, val, test)


def test_every_step_of_the_chain_changes_something_and_names_its_notebook():
    for before, after in itertools.pairwise(CHAIN):
        assert RECIPES[before].config.to_dict() != RECIPES[after].config.to_dict()
        assert RECIPES[before].notebook <= RECIPES[after].notebook
    lines = describe_chain()
    assert len(lines) == len(CHAIN)
    assert lines[2] == "batchnorm (notebook 05): model='cnn_bn', lr=0.1"
    assert lines[3] == "augmented (notebook 06): augment=(Flip(p=0.5), PadCrop(padding=4))"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_configuration_for_every_profile(name):
    steps = {profile: RECIPES[name].config_for(budget).max_steps for profile, budget in PROFILES.items()}
    assert steps == {"quick": QUICK.max_steps // 2, "laptop": None, "full": None}
    assert RECIPES[name].config_for(LAPTOP) == RECIPES[name].config


@pytest.mark.parametrize("name", ["baseline", "final"])
def test_a_recipe_leaves_a_row_a_checkpoint_and_its_logits(workspace, dataset, name, capsys):
    device = torch.device("cpu")
    model, record = train_recipe(name, dataset, TINY, workspace, device)
    assert record.history[-1].steps == 3  # half of the profile's
    (row,) = read_lines(workspace.ledger)
    assert (row["name"], row["val_accuracy"]) == (f"{name}-cifar10", record.val_accuracy)
    logits, about = read_kept(kept_path(workspace.figures, f"{name}-cifar10", "val"))
    assert logits.shape == (100, 10)
    assert about["run_hash"] == record.run_hash
    assert about["mirrored"] == RECIPES[name].mirrored
    again, same = train_recipe(name, dataset, TINY, workspace, device)
    assert "trained before" in capsys.readouterr().out
    assert same.run_hash == record.run_hash
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert len(read_lines(workspace.ledger)) == 1


def test_a_recipe_is_trained_and_scored_once_and_read_ever_after(workspace, dataset, monkeypatch):
    device, budget = torch.device("cpu"), dataclasses.replace(TINY, max_steps=QUICK.max_steps)
    for step in ("cnn", "final"):  # a higher profile has more runs in the ledger, which must not hide this one
        row = {"notebook": "train", "name": f"{step}-cifar10", "dataset": "cifar10", "data_source": "synthetic"}
        row |= {"profile": "laptop", "config": RECIPES[step].config.to_dict(), "run_hash": step, "date": "2026"}
        append_line(workspace.ledger, json.loads(json.dumps(row | {"checkpoint_sha256": None, "val_loss": 0.0})))
    first = judge_recipe("baseline", dataset, budget, workspace, device)
    assert first.val.shape == (100, 10)
    assert first.test.shape == (200, 10)
    (receipt,) = read_lines(workspace.receipts)
    assert sums(first.test, dataset.sealed_test.labels).correct == receipt["result"]["correct"]
    assert torch.equal(first.ranks, label_ranks(first.test, dataset.sealed_test.labels).short())
    assert first.row["run_hash"] == receipt["run_hash"]
    assert torch.equal(judge_recipe("baseline", dataset, budget, workspace, device).test, first.test)
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "train_recipe", None)  # neither network nor checkpoint is touched again
        patch.setattr(recipes, "find_runs", lambda dataset, workspace, seed: {"baseline": first.row})
        again = judge_recipe("baseline", dataset, budget, workspace, device)
    assert torch.equal(again.test, first.test)
    (workspace.figures / "logits" / "baseline-cifar10-test.safetensors").unlink()
    ranks_alone = judge_recipe("baseline", dataset, budget, workspace, device, logits=False)
    assert torch.equal(ranks_alone.ranks, first.ranks)
    assert ranks_alone.test is None
    with pytest.raises(CheckpointError, match="restore logits and ranks"):
        judge_recipe("baseline", dataset, budget, workspace, device)
    assert len(read_lines(workspace.receipts)) == 1


def test_every_seed_of_a_recipe_is_a_run_of_its_own(workspace, dataset):
    device, budget = torch.device("cpu"), dataclasses.replace(TINY, max_steps=QUICK.max_steps)
    seeds = [judge_recipe("baseline", dataset, budget, workspace, device, seed=seed, logits=False) for seed in (0, 1)]
    assert [run.row["name"] for run in seeds] == ["baseline-cifar10", "baseline-cifar10-seed1"]
    assert not torch.equal(seeds[0].ranks, seeds[1].ranks)
    for seed, run in enumerate(seeds):
        (found,) = find_runs("cifar10", workspace, seed).values()
        assert found == run.row
    assert [receipt["purpose"] for receipt in read_lines(workspace.receipts)] == [run.row["name"] for run in seeds]


def test_what_is_left_of_other_weights_is_not_taken_for_the_run(workspace, dataset):
    """A run that was trained again has the same hash; its test logits are those of the old weights."""
    device = torch.device("cpu")
    run = judge_recipe("baseline", dataset, TINY, workspace, device)
    assert recipes.read_judged(run.row, workspace, logits=True)
    path = kept_path(workspace.figures, "baseline-cifar10", "val")
    tensors, about = load_checkpoint(path)
    save_checkpoint(path, tensors, about | {"weights": "others"})
    assert recipes.read_judged(run.row, workspace, logits=True) is None
    assert recipes.read_judged(run.row, workspace, logits=False).val is None


@pytest.mark.parametrize("part", ["val", "test", "ranks"])
def test_any_part_of_a_higher_profile_keeps_the_test_split_sealed(workspace, dataset, part):
    path = kept_path(workspace.figures, "baseline-cifar10", part)
    save_checkpoint(path, {path.parent.name: torch.zeros(2)}, {"profile": "full"})
    with pytest.raises(ValueError, match="higher profile: set CIFAR_OUT"):
        judge_recipe("baseline", dataset, TINY, workspace, torch.device("cpu"))
    assert read_lines(workspace.receipts) == []


def test_logits_of_a_higher_profile_keep_the_test_split_sealed(workspace, dataset):
    """Found out before the look, not after it."""
    device = torch.device("cpu")
    higher = dataclasses.replace(workspace, profile="full")
    train_recipe("baseline", dataset, TINY, higher, device)
    with pytest.raises(ValueError, match="higher profile: set CIFAR_OUT"):
        judge_recipe("baseline", dataset, dataclasses.replace(TINY, max_steps=8), workspace, device)
    assert read_lines(workspace.receipts) == []


def test_an_unknown_recipe_is_named(workspace, dataset):
    with pytest.raises(ValueError, match="Did you mean 'final'"):
        train_recipe("finale", dataset, TINY, workspace, torch.device("cpu"))


def test_only_runs_of_the_recipe_as_it_is_today_are_found(workspace):
    def row(step, profile, changes=(), **more):
        config = RECIPES[step].config_for(PROFILES[profile])
        config = json.loads(json.dumps(dataclasses.replace(config, **dict(changes)).to_dict()))
        known = {"notebook": "train", "name": f"{step}-cifar10", "dataset": "cifar10", "data_source": "synthetic"}
        more = {"date": "2026-01-02"} | more
        return known | {"profile": profile, "config": config, "run_hash": str(more) + str(changes) + profile} | more

    rows = [
        row("cnn", "laptop", val_accuracy=0.7),
        row("cnn", "laptop", val_accuracy=0.9, notebook="04_cnn", date="2026-01-01"),  # an older one
        row("cnn", "quick", val_accuracy=0.9),  # a lower profile
        row("batchnorm", "quick", val_accuracy=0.9),  # the laptop has no such run: profiles are not mixed
        row("batchnorm", "laptop", {"lr": 0.3}, val_accuracy=0.9),  # another rate than today's
        row("baseline", "laptop", val_accuracy=0.5, data_source="real"),
        row("final", "laptop", val_accuracy=0.8),
        row("final", "laptop", val_accuracy=0.8, dataset="cifar100", name="final-cifar100"),
    ]
    for one in rows:
        append_line(workspace.ledger, one)
    found = find_runs("cifar10", workspace)
    assert {name: one["val_accuracy"] for name, one in found.items()} == {"cnn": 0.7, "final": 0.8}


def test_a_row_from_before_a_field_was_there_is_of_the_same_recipe():
    config = json.loads(json.dumps(RECIPES["cnn"].config.to_dict()))
    del config["layer_lr_decay"]
    assert recipes.is_of({"profile": "laptop", "config": config}, RECIPES["cnn"])
    assert not recipes.is_of({"profile": "laptop", "config": config | {"lr": 0.3}}, RECIPES["cnn"])


def test_runs_that_are_spoken_of_exist():
    """In the benchmark's table, the README and the notebooks."""
    root = Path(recipes.__file__).parents[1]
    spec = importlib.util.spec_from_file_location("ladder", root / "benchmarks" / "ladder.py")
    ladder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ladder)
    assert {run.rsplit("-", 1)[0] for run in ladder.BOUNDS} <= set(RECIPES)
    assert {run.rsplit("-", 1)[1] for run in ladder.BOUNDS} == {"cifar10", "cifar100"}
    for path in [root / "README.md", *(root / "notebooks").glob("*.ipynb")]:
        assert set(re.findall(r"cifar_helpers train (\w+)", path.read_text(encoding="utf-8"))) <= set(RECIPES)


def test_the_command_line_trains_a_recipe_and_names_an_unknown_one(tmp_path):
    """A process of its own, with the stand-in: what a reader types."""
    environment = os.environ | {"CIFAR_OUT": str(tmp_path), "CIFAR_DATA": "synthetic"}
    command = [sys.executable, "-m", "cifar_helpers", "train"]
    options = {"env": environment, "capture_output": True, "text": True, "check": False}
    wrong = subprocess.run([*command, "finale"], **options)
    assert wrong.returncode == 2
    assert "Did you mean 'final'" in wrong.stderr
    right = subprocess.run([*command, "lenet", "--profile", "quick"], **options)
    assert right.returncode == 0, right.stderr
    assert "lenet-cifar10: validation accuracy" in right.stdout
    assert Path(right.stdout.splitlines()[-1]).exists()
    assert (tmp_path / "figures" / "logits" / "lenet-cifar10-val.safetensors").exists()
