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
from small import synthetic_split

from cifar_helpers import transfer
from cifar_helpers._storage import CheckpointError, append_line, load_tensors, read_lines, save_tensors
from cifar_helpers.classify import load_model
from cifar_helpers.course import recipes
from cifar_helpers.course.profiles import LAPTOP, PROFILES, QUICK
from cifar_helpers.course.recipes import (
    BASELINE,
    CHAIN,
    FINETUNED,
    RECIPES,
    Experiment,
    checkpoint_of,
    describe_chain,
    evaluate_recipe,
    find_runs,
    name_weights,
    sweep_experiments,
    train_recipe,
)
from cifar_helpers.course.workspace import Workspace, kept_path, open_workspace, read_kept
from cifar_helpers.data.batches import make_batches
from cifar_helpers.data.datasets import Dataset
from cifar_helpers.data.download import SOURCES
from cifar_helpers.metrics import label_ranks, sums
from cifar_helpers.models.networks import ModelConfig, build_model
from cifar_helpers.transfer import TransferConfig

TINY = dataclasses.replace(QUICK, train_images=200, eval_images=100, max_steps=6)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    monkeypatch.setattr(recipes, "published_folder", lambda: tmp_path / "nowhere")
    return open_workspace("train", "quick", "cpu", {"synthetic"})


@pytest.fixture(scope="module")
def dataset():
    train, val, test = (synthetic_split(200, 10, name) for name in ("train", "val", "test"))
    return Dataset("cifar10", "synthetic", train, val, test)


def plain(experiment: Experiment) -> dict:
    """Return what the run log holds of an experiment, after its way through a file."""
    return json.loads(json.dumps({"model": experiment.model.to_dict(), "config": experiment.training.to_dict()}))


def test_an_experiment_is_changed_in_its_network_and_its_training():
    changed = BASELINE.change(model="cnn", width=0.5, dropout=0.1, activation="silu", lr=0.3, seed=2)
    assert changed.model == ModelConfig("cnn", 0.5, 0.1, "silu")
    assert changed.training == dataclasses.replace(BASELINE.training, lr=0.3, seed=2)
    assert BASELINE.change(width=2.0).model == ModelConfig("mlp", 2.0)
    assert BASELINE.change() == BASELINE
    with pytest.raises(ValueError, match="field='learning_rate' is not known"):
        BASELINE.change(learning_rate=0.1)
    with pytest.raises(ValueError, match="Did you mean 'cnn'"):
        BASELINE.change(model="cnnn")


def test_a_sweep_builds_the_network_of_each_experiment_with_the_seed_of_the_run(dataset, capsys):
    device = torch.device("cpu")
    train, val = make_batches(dataset.train, dataset.val, device)
    tiny = BASELINE.change(max_steps=2, epochs=1, batch_size=32)
    asked, seeds = [], (3, 4)

    def build(experiment):
        asked.append((experiment.model.name, experiment.training.seed))
        return build_model(experiment.model, train, experiment.training.seed)

    experiments = {"mlp": tiny, "linear": tiny.change(model="linear")}
    runs = sweep_experiments(experiments, build, train, val, seeds=seeds, device=device, title="CIFAR-10")
    assert "CIFAR-10 · 4 of 4 · linear, seed 4: " in capsys.readouterr().out
    assert asked == [(name, seed) for name in ("mlp", "linear") for seed in seeds]
    assert [run.model["name"] for run in runs["linear"]] == ["linear"] * 2
    assert [run.config["seed"] for run in runs["mlp"]] == [3, 4]
    with pytest.raises(ValueError, match="equal budgets"):
        sweep_experiments({"a": tiny, "b": tiny.change(epochs=2)}, build, train, val)


def test_every_step_of_the_chain_changes_something_and_names_its_notebook():
    for before, after in itertools.pairwise(CHAIN):
        assert RECIPES[before].experiment != RECIPES[after].experiment
        assert RECIPES[before].notebook <= RECIPES[after].notebook
    lines = describe_chain()
    assert len(lines) == len(CHAIN)
    assert lines[0] == "baseline (notebook 03): mlp"
    assert lines[1].startswith("cnn (notebook 04): model='cnn', width=0.5, epochs=8, lr=0.02")
    assert lines[2] == "batchnorm (notebook 05): model='cnn_bn', lr=0.1"
    assert lines[3] == "augmented (notebook 06): augment=(Flip(p=0.5), PadCrop(padding=4))"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_configuration_for_every_profile(name):
    steps = {profile: RECIPES[name].experiment_for(budget).training.max_steps for profile, budget in PROFILES.items()}
    quick = RECIPES[name].quick.get("max_steps", QUICK.max_steps // 2)
    assert steps == {"quick": quick, "laptop": None, "full": None}
    assert RECIPES[name].experiment_for(LAPTOP) == RECIPES[name].experiment
    assert RECIPES[name].experiment_for(LAPTOP, seed=3).training.seed == 3


@pytest.mark.parametrize("name", ["baseline", "final"])
def test_a_recipe_leaves_a_row_a_checkpoint_and_its_logits(workspace, dataset, name, capsys, monkeypatch):
    device = torch.device("cpu")
    model, record = train_recipe(name, dataset, TINY, workspace, device)
    assert record.history[-1].steps == 3  # half of the profile's
    (row,) = read_lines(workspace.run_log)
    assert (row["name"], row["val_accuracy"]) == (f"{name}-cifar10", record.val_accuracy)
    logits, about = read_kept(kept_path(workspace.figures, f"{name}-cifar10", "val"))
    assert logits.shape == (100, 10)
    assert about["run_hash"] == record.run_hash
    assert about["tta"] == RECIPES[name].tta
    monkeypatch.setattr(recipes, "predict", None)  # what is there is not computed again
    again, same = train_recipe(name, dataset, TINY, workspace, device)
    assert "trained before" in capsys.readouterr().out
    assert same.run_hash == record.run_hash
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert len(read_lines(workspace.run_log)) == 1


def test_a_recipe_is_trained_and_scored_once_and_read_ever_after(workspace, dataset, monkeypatch):
    device, budget = torch.device("cpu"), dataclasses.replace(TINY, max_steps=QUICK.max_steps)
    for step in ("cnn", "final"):  # a higher profile has more runs in the run log, which must not hide this one
        row = {"notebook": "train", "name": f"{step}-cifar10", "dataset": "cifar10", "data_source": "synthetic"}
        row |= {"profile": "laptop", **plain(RECIPES[step].experiment), "run_hash": step, "date": "2026"}
        append_line(workspace.run_log, json.loads(json.dumps(row | {"checkpoint_sha256": None, "val_loss": 0.0})))
    first = evaluate_recipe("baseline", dataset, budget, workspace, device)
    assert first.val.shape == (100, 10)
    assert first.test.shape == (200, 10)
    (entry,) = read_lines(workspace.test_access_log)
    assert sums(first.test, dataset.sealed_test.labels).correct == entry["result"]["correct"]
    assert torch.equal(first.ranks, label_ranks(first.test, dataset.sealed_test.labels).short())
    assert first.row["run_hash"] == entry["run_hash"]
    assert torch.equal(evaluate_recipe("baseline", dataset, budget, workspace, device).test, first.test)
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "train_recipe", None)  # neither network nor checkpoint is touched again
        patch.setattr(recipes, "find_runs", lambda dataset, workspace, seed: {"baseline": first.row})
        again = evaluate_recipe("baseline", dataset, budget, workspace, device)
    assert torch.equal(again.test, first.test)
    (workspace.figures / "logits" / "baseline-cifar10-test.safetensors").unlink()
    ranks_alone = evaluate_recipe("baseline", dataset, budget, workspace, device, logits=False)
    assert torch.equal(ranks_alone.ranks, first.ranks)
    assert ranks_alone.test is None
    with pytest.raises(CheckpointError, match="restore logits and ranks"):
        evaluate_recipe("baseline", dataset, budget, workspace, device)
    assert len(read_lines(workspace.test_access_log)) == 1


def test_every_seed_of_a_recipe_is_a_run_of_its_own(workspace, dataset):
    device, budget = torch.device("cpu"), dataclasses.replace(TINY, max_steps=QUICK.max_steps)
    place = (dataset, budget, workspace, device)
    seeds = [evaluate_recipe("baseline", *place, seed=seed, logits=False) for seed in (0, 1)]
    assert [run.row["name"] for run in seeds] == ["baseline-cifar10", "baseline-cifar10-seed1"]
    assert not torch.equal(seeds[0].ranks, seeds[1].ranks)
    for seed, run in enumerate(seeds):
        (found,) = find_runs("cifar10", workspace, seed).values()
        assert found == run.row
    assert [entry["purpose"] for entry in read_lines(workspace.test_access_log)] == [run.row["name"] for run in seeds]


def test_what_is_left_of_other_weights_is_not_taken_for_the_run(workspace, dataset):
    """A run that was trained again has the same hash; its test logits are those of the old weights."""
    device = torch.device("cpu")
    run = evaluate_recipe("baseline", dataset, TINY, workspace, device)
    assert recipes.read_result(run.row, workspace, logits=True)
    path = kept_path(workspace.figures, "baseline-cifar10", "val")
    tensors, about = load_tensors(path)
    save_tensors(path, tensors, about | {"weights": "others"})
    assert recipes.read_result(run.row, workspace, logits=True) is None
    assert recipes.read_result(run.row, workspace, logits=False).val is None


@pytest.mark.parametrize("part", ["val", "test", "ranks"])
def test_any_part_of_a_higher_profile_keeps_the_test_split_sealed(workspace, dataset, part):
    path = kept_path(workspace.figures, "baseline-cifar10", part)
    save_tensors(path, {path.parent.name: torch.zeros(2)}, {"profile": "full"})
    with pytest.raises(ValueError, match="higher profile: set CIFAR_OUT"):
        evaluate_recipe("baseline", dataset, TINY, workspace, torch.device("cpu"))
    assert read_lines(workspace.test_access_log) == []


def test_logits_of_a_higher_profile_keep_the_test_split_sealed(workspace, dataset):
    """Found out before the look, not after it."""
    device = torch.device("cpu")
    higher = dataclasses.replace(workspace, profile="full")
    train_recipe("baseline", dataset, TINY, higher, device)
    with pytest.raises(ValueError, match="higher profile: set CIFAR_OUT"):
        evaluate_recipe("baseline", dataset, dataclasses.replace(TINY, max_steps=8), workspace, device)
    assert read_lines(workspace.test_access_log) == []


def test_an_unknown_recipe_is_named(workspace, dataset):
    with pytest.raises(ValueError, match="Did you mean 'final'"):
        train_recipe("finale", dataset, TINY, workspace, torch.device("cpu"))


def test_only_runs_of_the_recipe_as_it_is_today_are_found(workspace):
    def row(step, profile, changes=(), **more):
        experiment = RECIPES[step].experiment_for(PROFILES[profile]).change(**dict(changes))
        known = {"notebook": "train", "name": f"{step}-cifar10", "dataset": "cifar10", "data_source": "synthetic"}
        more = {"date": "2026-01-02"} | more
        return known | {"profile": profile, **plain(experiment), "run_hash": str(more) + str(changes) + profile} | more

    rows = [
        row("cnn", "laptop", val_accuracy=0.7),
        row("cnn", "laptop", val_accuracy=0.9, notebook="04_cnn", date="2026-01-01"),  # an older one
        row("cnn", "quick", val_accuracy=0.9),  # a lower profile
        row("batchnorm", "quick", val_accuracy=0.9),  # the laptop has no such run: profiles are not mixed
        row("batchnorm", "laptop", {"lr": 0.3}, val_accuracy=0.9),  # another rate than today's
        row("augmented", "laptop", {"width": 0.25}, val_accuracy=0.9),  # another width
        row("baseline", "laptop", val_accuracy=0.5, data_source="real"),
        row("final", "laptop", val_accuracy=0.8),
        row("final", "laptop", val_accuracy=0.8, dataset="cifar100", name="final-cifar100"),
    ]
    for one in rows:
        append_line(workspace.run_log, one)
    found = find_runs("cifar10", workspace)
    assert {name: one["val_accuracy"] for name, one in found.items()} == {"cnn": 0.7, "final": 0.8}


def test_a_readers_run_is_newer_than_the_published_one_and_has_results_of_its_own(tmp_path, monkeypatch):
    """Wherever her log is, and whatever its name sorts behind; `row` of the published results stays theirs."""
    monkeypatch.setattr(recipes, "published_folder", lambda: tmp_path / "n" / "figures")
    published = Workspace("p", "laptop", "cpu", "real", tmp_path / "n", tmp_path)
    for folder in ("a", "z"):
        mine = Workspace("m", "laptop", "cpu", "real", tmp_path / folder, tmp_path)
        for here, date, accuracy in ((published, "2026-01-01", 0.7), (mine, "2026-01-01", 0.8)):
            row = {"name": "cnn-cifar10", "dataset": "cifar10", "data_source": "real", "profile": "laptop"}
            row |= {"notebook": "train", "date": date, "val_accuracy": accuracy, "run_hash": "r"}
            row |= plain(RECIPES["cnn"].experiment_for(LAPTOP))
            append_line(here.run_log, row)
        about = {"run_hash": "r", "weights": "w", "profile": "laptop"}
        save_tensors(kept_path(published.figures, "cnn-cifar10", "ranks"), {"ranks": torch.ones(2)}, about)
        (found,) = find_runs("cifar10", mine).values()
        assert found["val_accuracy"] == 0.8
        assert recipes.read_result(found, mine, logits=False) is None
        (theirs,) = find_runs("cifar10", published).values()
        assert recipes.read_result(theirs, mine, logits=False) is not None


def test_a_row_from_before_a_field_was_there_is_of_the_same_recipe():
    row = {"profile": "laptop"} | plain(RECIPES["cnn"].experiment)
    del row["config"]["layer_lr_decay"], row["model"]["activation"]
    assert recipes._is_of(row, RECIPES["cnn"])
    assert not recipes._is_of(row | {"config": row["config"] | {"lr": 0.3}}, RECIPES["cnn"])
    assert not recipes._is_of(row | {"model": row["model"] | {"dropout": 0.3}}, RECIPES["cnn"])
    assert not recipes._is_of(row | {"model": row["model"] | {"name": "lenet"}}, RECIPES["cnn"])


def test_the_published_runs_of_the_chain_are_found(monkeypatch):
    """Written in part before some fields were there, and all before the network left the configuration."""
    root = Path(recipes.__file__).parents[2]
    monkeypatch.delenv("CIFAR_OUT", raising=False)
    here = Workspace("report", "laptop", "cpu", "real", root, root / "build" / "checkpoints")
    assert set(CHAIN) | {"lenet"} <= find_runs("cifar10", here).keys()
    assert set(CHAIN) | {"nine"} <= find_runs("cifar100", here).keys()


def test_runs_that_are_spoken_of_exist():
    """In the benchmark's table, the README and the notebooks."""
    root = Path(recipes.__file__).parents[2]
    spec = importlib.util.spec_from_file_location("ladder", root / "benchmarks" / "ladder.py")
    ladder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ladder)
    assert {run.rsplit("-", 1)[0] for run in ladder.BOUNDS} <= set(RECIPES)
    assert {run.rsplit("-", 1)[1] for run in ladder.BOUNDS} == {"cifar10", "cifar100"}
    for path in [root / "README.md", *(root / "notebooks").glob("*.ipynb")]:
        assert set(re.findall(r"cifar_helpers train (\w+)", path.read_text(encoding="utf-8"))) <= {*RECIPES, "chain"}


def test_the_command_line_trains_a_recipe_and_names_an_unknown_one(tmp_path):
    """A process of its own, with synthetic data: what a reader types."""
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
    chain = subprocess.run([*command, "chain", "--profile", "quick"], **options)
    assert chain.returncode == 0, chain.stderr
    rows = read_lines(tmp_path / "figures" / "runs.jsonl")
    trained = [name_weights(row) for row in rows if row["name"] != "lenet-cifar10"]
    assert [line.split(":")[0] for line in trained] == [f"{step}-{data}" for data in SOURCES for step in CHAIN]
    assert [line for line in chain.stdout.splitlines() if ": weights " in line] == trained


# --- a pretrained network ---


def test_a_pretrained_experiment_is_changed_in_its_network_too():
    changed = FINETUNED.change(model="resnet18", image_size=64, train="head", lr=0.3)
    assert changed.model == TransferConfig("resnet18", 64, "head")
    assert changed.training == dataclasses.replace(FINETUNED.training, lr=0.3)
    with pytest.raises(ValueError, match="field='width' is not known"):
        FINETUNED.change(width=0.5)
    with pytest.raises(ValueError, match="Did you mean 'last stage'"):
        FINETUNED.change(train="last_stage")


def test_the_fine_tuned_recipe_is_found_again_scored_and_loaded(workspace, dataset, monkeypatch):
    """With the layers of the pretrained network, and no file of weights."""
    build = transfer._efficientnet_lite0

    def untrained(weights=True):
        torch.manual_seed(0)
        return build(weights=False)

    monkeypatch.setattr(transfer, "_efficientnet_lite0", untrained)
    device = torch.device("cpu")
    run = evaluate_recipe("finetuned", dataset, TINY, workspace, device)
    assert run.row["model"] == {"name": "efficientnet_lite0", "image_size": 32, "train": "all"}
    assert find_runs("cifar10", workspace)["finetuned"] == run.row
    assert torch.equal(evaluate_recipe("finetuned", dataset, TINY, workspace, device).test, run.test)
    path = checkpoint_of("finetuned-cifar10", RECIPES["finetuned"].experiment_for(TINY), workspace)
    classifier = load_model(path)
    assert classifier.class_names == dataset.class_names
    assert classifier.normaliser == transfer._LITE0_NORMALISER
    model, _ = train_recipe("finetuned", dataset, TINY, workspace, device)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), classifier.model.parameters(), strict=True))
