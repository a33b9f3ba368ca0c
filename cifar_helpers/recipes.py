"""The recipe that the notebooks arrive at, step by step, and how a step is trained and kept.

Each configuration of the chain is the one before with what a notebook has justified; a step *is* its difference.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from cifar_helpers.arguments import require_choice
from cifar_helpers.augment import AlternatingFlip, Flip, PadCrop
from cifar_helpers.config import PROFILES, Budget, TrainConfig, digest, profile_rank
from cifar_helpers.data import Dataset, make_batches
from cifar_helpers.models import build_model
from cifar_helpers.runs import RunRecord, Workspace, home_folder, kept_path, newest_rows, read_kept
from cifar_helpers.storage import CheckpointError, read_lines
from cifar_helpers.train import final_test, fit, hash_weights, predict

# 03: three hidden layers; the rate is from its sweep, warmed up and brought down to zero.
BASELINE = TrainConfig(model="mlp", epochs=10, lr=0.06, weight_decay=1e-3, schedule="triangular", warmup=0.2)
# 04: a first network with convolutions; not a step of the chain.
LENET = replace(BASELINE, model="lenet", epochs=6, lr=0.02, weight_decay=5e-4)
# 04: convolutions instead, which need steps of their own size.
CNN = replace(BASELINE, model="cnn", width=0.5, epochs=8, lr=0.02, weight_decay=5e-4)
# 05: BatchNorm, which allows five times the rate.
BATCHNORM = replace(CNN, model="cnn_bn", lr=0.1)
# 06: every epoch shows other pictures.
AUGMENTED = replace(BATCHNORM, augment=(Flip(), PadCrop(4)))
# 06: taken over from a publication: a network that starts whitened and as the identity; small images come first.
FINAL = replace(
    AUGMENTED, model="fast", epochs=12, batch_size=256, lr=0.45, momentum=0.85, weight_decay=1.33e-3,
    label_smoothing=0.2, norm_bias_lr=64.0, image_sizes=((0, 20), (0.5, 24), (0.8, 32)),
    augment=(AlternatingFlip(), PadCrop(2)),
)  # fmt: skip


# 06: the deep network of one of the ancestors, for CIFAR-100; beside the chain, as are those below.
NINE = replace(AUGMENTED, model="nine", epochs=3)
# 06: the large ones, which ask for a GPU.
VGG16_BN = replace(AUGMENTED, model="vgg16_bn", width=1.0)
RESNET18 = replace(AUGMENTED, model="resnet18", width=1.0)


@dataclass(frozen=True)
class Recipe:
    """An adopted configuration.

    Attributes:
        config: as a laptop trains it.
        notebook: the one that justified it.
        full: what changes with a GPU.
        mirrored: whether its predictions are the mean of an image's and its mirror image's.
    """

    config: TrainConfig
    notebook: str
    full: Mapping[str, object] = field(default_factory=dict)
    mirrored: bool = False

    def config_for(self, budget: Budget, seed: int = 0) -> TrainConfig:
        """Return the configuration that a profile can pay for: half of its steps, because a notebook trains two."""
        changes = self.full if budget.profile == "full" else {}
        steps = budget.max_steps and max(1, budget.max_steps // 2)
        return replace(self.config, **changes, max_steps=steps, seed=seed)


RECIPES = {
    "baseline": Recipe(BASELINE, "03", full={"epochs": 20}),
    "lenet": Recipe(LENET, "04", full={"epochs": 20}),
    "cnn": Recipe(CNN, "04", full={"epochs": 20, "width": 1.0}),
    "batchnorm": Recipe(BATCHNORM, "05", full={"epochs": 20, "width": 1.0}),
    "augmented": Recipe(AUGMENTED, "06", full={"epochs": 30, "width": 1.0}),
    "final": Recipe(FINAL, "06", full={"epochs": 10, "width": 1.0, "batch_size": 1024, "lr": 1.5}, mirrored=True),
    "nine": Recipe(NINE, "06", full={"epochs": 30, "width": 1.0}),
    "vgg16_bn": Recipe(VGG16_BN, "06", full={"epochs": 60}),
    "resnet18": Recipe(RESNET18, "06", full={"epochs": 60}),
}
# From the first to the last, each one step from the one before.
CHAIN = ("baseline", "cnn", "batchnorm", "augmented", "final")


def run_name(name: str, dataset: str, seed: int = 0) -> str:
    """Return what the run of a recipe is called: `final-cifar10`; of another seed than 0, `final-cifar10-seed1`."""
    return f"{name}-{dataset}" + (f"-seed{seed}" if seed else "")


def train_recipe(
    name: str, dataset: Dataset, budget: Budget, workspace: Workspace, device: torch.device, seed: int = 0
) -> tuple[nn.Module, RunRecord]:
    """Train the recipe called `name` on a data set, or load it where that was done; return the network and its record.

    It leaves a checkpoint, a row in the ledger, and its validation logits.

    Raises:
        ValueError: no recipe has this name.
    """
    require_choice("name", name, RECIPES)
    recipe = RECIPES[name]
    config = recipe.config_for(budget, seed)
    train, val = dataset.train.take(budget.train_images), dataset.val.take(budget.eval_images)
    batches = make_batches(train, val, device)
    model = build_model(config, batches[0])
    run = run_name(name, dataset.name, seed)
    record = fit(model, *batches, config, name=run, checkpoint=checkpoint_of(run, config, workspace))
    logits, _ = predict(model, batches[1], mirrored=recipe.mirrored)
    workspace.log_run(record, dataset.name)
    about = {"data": val.sha256, "weights": hash_weights(model), "mirrored": recipe.mirrored}
    workspace.save_logits(record, logits, about)
    return model, record


# What a judged run leaves beside its row: ranks of the test labels, logits on validation and on test.
PARTS = ("ranks", "val", "test")


@dataclass(frozen=True)
class Judged:
    """What an adopted run leaves to a report, which needs no checkpoint then.

    Attributes:
        row: its row in the ledger.
        ranks: int16 (N,), how many classes come before the label of each test image: 0 is a hit.
        val, test: float32 logits (N, C) on the two splits; of a mirrored recipe, the mean of both views. None where
            they were not kept.
    """

    row: dict
    ranks: torch.Tensor
    val: torch.Tensor | None
    test: torch.Tensor | None


def judge_recipe(
    name: str,
    dataset: Dataset,
    budget: Budget,
    workspace: Workspace,
    device: torch.device,
    *,
    seed: int = 0,
    logits: bool = True,
) -> Judged:
    """Return what the recipe called `name` left; where that is missing, train it in this budget and score it on test.

    Args:
        logits: whether the ranks alone will not do.

    Raises:
        ValueError: no recipe has this name, or its logits cannot be kept here; then the test split stays sealed.
        CheckpointError: the test split was scored before, and what that look left is gone.
    """
    require_choice("name", name, RECIPES)
    row = find_runs(dataset.name, workspace, seed).get(name)
    found = row and read_judged(row, workspace, logits)
    if found:
        return found
    model, record = train_recipe(name, dataset, budget, workspace, device, seed)
    row = workspace.log_run(record, dataset.name)  # the one that training left
    refuse_higher(record.name, workspace)
    batches = make_batches(dataset.train.take(budget.train_images), dataset.val, device)[1]
    final_test(model, dataset, batches, record, workspace, RECIPES[name].mirrored)
    found = read_judged(row, workspace, logits)
    if not found:
        raise CheckpointError(
            f"{record.name} was scored on the test split before, and what that look left is not in "
            f"{workspace.figures}: restore logits and ranks, or delete its receipt and say why."
        )
    return found


def refuse_higher(run: str, workspace: Workspace) -> None:
    """Raise a ValueError if what a look at the test split leaves could not be kept; said before the look."""
    for part in PARTS:
        path = kept_path(workspace.figures, run, part)
        if profile_rank(read_kept(path)[1].get("profile", "")) > profile_rank(workspace.profile):
            raise ValueError(f"{path} is of a higher profile: set CIFAR_OUT to another folder, and run again")


def read_judged(row: dict, workspace: Workspace, logits: bool) -> Judged | None:
    """Return what the run of a ledger row left, here or among the published; None if what is needed is missing.

    All parts are of the same weights: a run that was trained again and not judged again is missing.
    """
    for figures in (workspace.figures, home_folder() / "figures"):
        parts = {part: read_kept(kept_path(figures, row["name"], part)) for part in PARTS}
        weights = parts["ranks"][1].get("weights")
        found = {
            part: values
            for part, (values, about) in parts.items()
            if about.get("run_hash") == row["run_hash"] and about.get("weights") == weights
        }
        if {"ranks", *(("val", "test") if logits else ())} <= found.keys():
            both = (found[split].float() if split in found else None for split in ("val", "test"))
            return Judged(row, found["ranks"], *both)
    return None


def checkpoint_of(run: str, config: TrainConfig, workspace: Workspace) -> Path:
    """Return where the weights of a run are kept: the same for every notebook, another for every configuration."""
    return replace(workspace, notebook="recipes").checkpoint(f"{run}-{digest(config.to_dict())}")


def describe_chain() -> list[str]:
    """Return one line for each step of the chain: what it changes, and the notebook that justified it."""
    lines = [f"{CHAIN[0]} (notebook {RECIPES[CHAIN[0]].notebook}): {RECIPES[CHAIN[0]].config.model}"]
    for before, name in itertools.pairwise(CHAIN):
        old, new = RECIPES[before].config.to_dict(), RECIPES[name].config.to_dict()
        changes = ", ".join(f"{key}={getattr(RECIPES[name].config, key)!r}" for key in new if new[key] != old[key])
        lines.append(f"{name} (notebook {RECIPES[name].notebook}): {changes}")
    return lines


def find_runs(dataset: str, workspace: Workspace, seed: int = 0) -> dict[str, dict]:
    """Return the ledger row of each recipe that was trained on a data set as it is today, by name.

    It looks in the workspace's ledger and in the published one, for the newest rows from the same source of data.
    All are of one profile, that in which most recipes were trained with seed 0; of two such, the higher.
    """
    ledgers = {workspace.ledger, home_folder() / "figures" / "runs.jsonl"}
    rows = [row for ledger in sorted(ledgers) for row in read_lines(ledger)]
    rows = sorted(newest_rows(rows).values(), key=lambda row: row["date"])
    known = {"dataset": dataset, "data_source": workspace.data_source}
    rows = [row for row in rows if known.items() <= row.items()]

    def of_profile(profile: str, seed: int) -> dict[str, dict]:
        names = {run_name(name, dataset, seed): name for name in RECIPES}
        mine = [(names[row["name"]], row) for row in rows if row["profile"] == profile and row["name"] in names]
        return {name: row for name, row in mine if is_of(row, RECIPES[name], seed)}

    return of_profile(max(reversed(PROFILES), key=lambda profile: len(of_profile(profile, 0))), seed)


def is_of(row: dict, recipe: Recipe, seed: int = 0) -> bool:
    """Return whether a ledger row was trained with the recipe as it is today; fields younger than it have defaults."""
    config = recipe.config_for(PROFILES[row["profile"]], seed)
    return digest(TrainConfig().to_dict() | row["config"]) == digest(config.to_dict())
