"""The recipe that the notebooks arrive at, step by step, and how a step is trained and kept.

Each configuration of the chain is the one before with what a notebook has justified; a step *is* its difference.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from cifar_helpers.arguments import require_choice
from cifar_helpers.augment import AlternatingFlip, Flip, PadCrop
from cifar_helpers.config import PROFILES, Budget, TrainConfig, digest, profile_rank
from cifar_helpers.data import Dataset, make_batches
from cifar_helpers.models import build_model
from cifar_helpers.runs import RunRecord, Workspace, home_folder, newest_rows
from cifar_helpers.storage import read_lines
from cifar_helpers.train import fit, predict

# 03: three hidden layers; the rate is from its sweep, warmed up and brought down to zero.
BASELINE = TrainConfig(model="mlp", epochs=10, lr=0.06, weight_decay=1e-3, schedule="triangular", warmup=0.2)
# 04: a first network with convolutions; not a step of the chain.
LENET = replace(BASELINE, model="lenet", epochs=6, lr=0.02, weight_decay=5e-4)
# 04: convolutions instead, which need steps of their own size.
CNN = replace(BASELINE, model="cnn", width=0.5, epochs=6, lr=0.02, weight_decay=5e-4)
# 05: BatchNorm, which allows five times the rate.
BATCHNORM = replace(CNN, model="cnn_bn", lr=0.1)
# 06: every epoch shows other pictures, and there is more to learn.
AUGMENTED = replace(BATCHNORM, epochs=8, augment=(Flip(), PadCrop(4)))
# 06: the same idea on another network: it starts whitened, and as the identity, and small images come first.
FINAL = replace(
    AUGMENTED, model="fast", epochs=12, batch_size=256, lr=0.45, momentum=0.85, weight_decay=1.33e-3,
    label_smoothing=0.2, norm_bias_lr=64.0, image_sizes=((0, 20), (0.5, 24), (0.8, 32)),
    augment=(AlternatingFlip(), PadCrop(2)),
)  # fmt: skip


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

    def config_for(self, budget: Budget) -> TrainConfig:
        """Return the configuration that a profile can pay for."""
        changes = self.full if budget.profile == "full" else {}
        return replace(self.config, **changes, max_steps=budget.max_steps)


RECIPES = {
    "baseline": Recipe(BASELINE, "03", full={"epochs": 20}),
    "lenet": Recipe(LENET, "04", full={"epochs": 20}),
    "cnn": Recipe(CNN, "04", full={"epochs": 20, "width": 1.0}),
    "batchnorm": Recipe(BATCHNORM, "05", full={"epochs": 20, "width": 1.0}),
    "augmented": Recipe(AUGMENTED, "06", full={"epochs": 30, "width": 1.0}),
    "final": Recipe(FINAL, "06", full={"epochs": 10, "width": 1.0, "batch_size": 1024, "lr": 1.5}, mirrored=True),
}
# From the first to the last, each one step from the one before.
CHAIN = ("baseline", "cnn", "batchnorm", "augmented", "final")


def train_recipe(
    name: str, dataset: Dataset, budget: Budget, workspace: Workspace, device: torch.device
) -> tuple[nn.Module, RunRecord]:
    """Train the recipe called `name` on a data set, or load it where that was done; return the network and its record.

    It leaves a checkpoint, a row in the ledger, and its validation logits.

    Raises:
        ValueError: no recipe has this name.
    """
    require_choice("name", name, RECIPES)
    recipe = RECIPES[name]
    config = recipe.config_for(budget)
    train, val = dataset.train.take(budget.train_images), dataset.val.take(budget.eval_images)
    batches = make_batches(train, val, device)
    model = build_model(config, batches[0])
    run = f"{name}-{dataset.name}"
    checkpoint = replace(workspace, notebook="recipes").checkpoint(run)  # the same for every notebook
    record = fit(model, *batches, config, name=run, checkpoint=checkpoint)
    logits, _ = predict(model, batches[1], mirrored=recipe.mirrored)
    workspace.log_run(record, dataset.name)
    workspace.save_logits(record, logits, val.sha256, mirrored=recipe.mirrored)
    return model, record


def describe_chain() -> list[str]:
    """Return one line for each step of the chain: what it changes, and the notebook that justified it."""
    lines = [f"{CHAIN[0]} (notebook {RECIPES[CHAIN[0]].notebook}): {RECIPES[CHAIN[0]].config.model}"]
    for before, name in itertools.pairwise(CHAIN):
        old, new = RECIPES[before].config.to_dict(), RECIPES[name].config.to_dict()
        changes = ", ".join(f"{key}={getattr(RECIPES[name].config, key)!r}" for key in new if new[key] != old[key])
        lines.append(f"{name} (notebook {RECIPES[name].notebook}): {changes}")
    return lines


def find_runs(dataset: str, workspace: Workspace) -> dict[str, dict]:
    """Return the ledger row of each recipe that was trained on a data set as it is today, by name.

    It looks in the workspace's ledger and in the published one, for rows from the workspace's source of data, and takes
    the newest of the highest profile.
    """
    ledgers = {workspace.ledger, home_folder() / "figures" / "runs.jsonl"}
    rows = newest_rows([row for ledger in sorted(ledgers) for row in read_lines(ledger)]).values()
    found = {}
    for name, recipe in RECIPES.items():
        known = {"name": f"{name}-{dataset}", "data_source": workspace.data_source}
        mine = [row for row in rows if known.items() <= row.items() and is_of(row, recipe)]
        if mine:
            found[name] = max(mine, key=lambda row: profile_rank(row["profile"]))
    return found


def is_of(row: dict, recipe: Recipe) -> bool:
    """Return whether a ledger row was trained with the recipe as it is today."""
    config = recipe.config_for(PROFILES[row["profile"]])
    return digest(row["config"]) == digest(config.to_dict())
