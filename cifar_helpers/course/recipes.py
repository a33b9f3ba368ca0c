"""The recipe that the notebooks arrive at, step by step, and how a step is trained and kept.

Each experiment of the chain is the one before with what a notebook has justified; a step *is* its difference.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_helpers._arguments import require, require_choice
from cifar_helpers._hashing import hash_json, hash_weights
from cifar_helpers._storage import CheckpointError, read_lines
from cifar_helpers.course.profiles import PROFILES, Budget, profile_rank
from cifar_helpers.course.test_access import final_test
from cifar_helpers.course.workspace import Workspace, kept_path, newest_rows, published_folder, read_kept
from cifar_helpers.data.batches import Batches, make_batches
from cifar_helpers.data.datasets import Dataset, Split
from cifar_helpers.data.download import SOURCES
from cifar_helpers.data.transforms import AlternatingFlip, Flip, PadCrop
from cifar_helpers.models.networks import ModelConfig, build_model
from cifar_helpers.runtime import is_main_process
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import predict
from cifar_helpers.training.loop import fit, sweep
from cifar_helpers.training.records import RunRecord
from cifar_helpers.transfer import TransferConfig, build_transfer_model

__all__ = [
    "AUGMENTED",
    "BASELINE",
    "BATCHNORM",
    "CHAIN",
    "CNN",
    "FINAL",
    "FINETUNED",
    "LENET",
    "LONG",
    "NINE",
    "RECIPES",
    "RESNET18",
    "STUDY",
    "VGG16_BN",
    "Experiment",
    "Recipe",
    "RecipeResult",
    "checkpoint_of",
    "describe_chain",
    "evaluate_recipe",
    "find_runs",
    "name_weights",
    "read_result",
    "run_name",
    "sweep_experiments",
    "train_recipe",
]


@dataclass(frozen=True)
class Experiment:
    """A network and how it is trained: all that the course varies, as one frozen value.

    Raises:
        ValueError: one of the two is no configuration.
    """

    model: ModelConfig | TransferConfig
    training: TrainConfig

    def __post_init__(self) -> None:
        known = isinstance(self.model, ModelConfig | TransferConfig)
        require(known, "model", self.model, "a ModelConfig or a TransferConfig")
        require(isinstance(self.training, TrainConfig), "training", self.training, "a TrainConfig")

    def change(self, **changes: Any) -> "Experiment":
        """Return the experiment with other values: `BASELINE.change(model="cnn", width=0.5, lr=0.02)`.

        Args:
            changes: `model` is the name of the network; `width`, `dropout` and `activation`, or `image_size` and
                `train` of a pretrained one, are the network's too, and every other field is one of `TrainConfig`.

        Raises:
            ValueError: a field is unknown, or its value is not allowed.
        """
        for name in changes:
            require_choice("field", name, self._flat())
        network = {name: changes.pop(name) for name in self._model_fields() if name in changes}
        if "model" in changes:
            network["name"] = changes.pop("model")
        return Experiment(replace(self.model, **network), replace(self.training, **changes))

    def _flat(self) -> dict[str, Any]:
        """Return every value under the name by which `change` knows it."""
        model = {"model": self.model.name} | {name: getattr(self.model, name) for name in self._model_fields()}
        return model | {f.name: getattr(self.training, f.name) for f in fields(self.training)}

    def _model_fields(self) -> list[str]:
        """Return the fields of the network beside its name, which is called `model` here."""
        return [f.name for f in fields(self.model) if f.name != "name"]


# 03: three hidden layers; the rate is from its sweep, warmed up and brought down to zero.
BASELINE = Experiment(
    ModelConfig("mlp"), TrainConfig(epochs=10, lr=0.06, weight_decay=1e-3, schedule="triangular", warmup=0.2)
)
# 04: a first network with convolutions; not a step of the chain.
LENET = BASELINE.change(model="lenet", epochs=6, lr=0.02, weight_decay=5e-4)
# 04: convolutions instead, which need steps of their own size.
CNN = BASELINE.change(model="cnn", width=0.5, epochs=8, lr=0.02, weight_decay=5e-4)
# 05: BatchNorm, which allows five times the rate.
BATCHNORM = CNN.change(model="cnn_bn", lr=0.1)
# 06: every epoch shows other pictures.
AUGMENTED = BATCHNORM.change(augment=(Flip(), PadCrop(4)))
# 06: taken over from publications: a network that starts whitened and as the identity, small images first, Muon. The
# whitened stem is not trained, and no gradient is computed through it. Each can be taken away by its field.
FINAL = AUGMENTED.change(
    model="fast", epochs=10, batch_size=512, optimizer="muon", muon_lr=0.2, lr=0.3, momentum=0.85, weight_decay=1.33e-3,
    label_smoothing=0.2, norm_bias_lr=64.0, frozen_layers=1, image_sizes=((0, 20), (0.4, 24), (0.7, 32)),
    augment=(AlternatingFlip(), PadCrop(2)),
)  # fmt: skip
# For comparisons: a minute of two cores with bfloat16.
STUDY = FINAL.change(epochs=4)
# For those who wait ten minutes: twice the width, and half of the steps on images of full size.
LONG = FINAL.change(width=1.0, image_sizes=((0, 20), (0.25, 24), (0.5, 32)))
# 06: a deep network from an older course, for CIFAR-100; beside the chain, as are those below.
NINE = AUGMENTED.change(model="nine", epochs=3)
# 06: the large ones, which ask for a GPU.
VGG16_BN = AUGMENTED.change(model="vgg16_bn", width=1.0)
RESNET18 = AUGMENTED.change(model="resnet18", width=1.0)
# 07: EfficientNet-Lite0 with its ImageNet weights, all layers; its first layer learns .15 times as fast as the head.
FINETUNED = Experiment(
    TransferConfig("efficientnet_lite0", image_size=128),
    TrainConfig(
        epochs=3, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.02, schedule="cosine", warmup=0.1,
        label_smoothing=0.1, layer_lr_decay=0.9, augment=(AlternatingFlip(), PadCrop(4)),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """An adopted experiment.

    Attributes:
        experiment: as a laptop trains it.
        notebook: the one that justified it.
        full: what changes with a GPU.
        tta: whether its predictions are the mean over an image and its mirror image.
        quick: what changes for a first look; its own `max_steps` goes before that of the profile.
    """

    experiment: Experiment
    notebook: str
    full: Mapping[str, Any] = field(default_factory=dict)
    tta: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)

    def experiment_for(self, budget: Budget, seed: int = 0) -> Experiment:
        """Return the experiment that a profile can pay for: half of its steps, because a notebook trains two."""
        changes = {"full": self.full, "quick": self.quick}.get(budget.profile, {})
        steps = budget.max_steps and max(1, budget.max_steps // 2)
        return self.experiment.change(**{"max_steps": steps, "seed": seed, **changes})


# Of pretrained networks: with a GPU the size that their weights were trained for, for a first look the images' own.
_LARGE_PICTURES = {"epochs": 6, "image_size": 224}
_SMALL_PICTURES = {"image_size": 32, "max_steps": 6}
RECIPES = {
    "baseline": Recipe(BASELINE, "03", full={"epochs": 20}),
    "lenet": Recipe(LENET, "04", full={"epochs": 20}),
    "cnn": Recipe(CNN, "04", full={"epochs": 20, "width": 1.0}),
    "batchnorm": Recipe(BATCHNORM, "05", full={"epochs": 20, "width": 1.0}),
    "augmented": Recipe(AUGMENTED, "06", full={"epochs": 30, "width": 1.0}),
    "final": Recipe(FINAL, "06", full={"width": 1.0}, tta=True),
    "study": Recipe(STUDY, "06", tta=True),
    "long": Recipe(LONG, "06", tta=True),
    "nine": Recipe(NINE, "06", full={"epochs": 30, "width": 1.0}),
    "vgg16_bn": Recipe(VGG16_BN, "06", full={"epochs": 60}),
    "resnet18": Recipe(RESNET18, "06", full={"epochs": 60}),
    "finetuned": Recipe(FINETUNED, "07", full=_LARGE_PICTURES, tta=True, quick=_SMALL_PICTURES),
    "last_stage": Recipe(
        FINETUNED.change(train="last stage"), "07", full=_LARGE_PICTURES, tta=True, quick=_SMALL_PICTURES
    ),
}
# From the first to the last, each one step from the one before.
CHAIN = ("baseline", "cnn", "batchnorm", "augmented", "final")


def run_name(name: str, dataset: str, seed: int = 0) -> str:
    """Return what the run of a recipe is called: `final-cifar10`; of another seed than 0, `final-cifar10-seed1`."""
    return f"{name}-{dataset}" + (f"-seed{seed}" if seed else "")


def sweep_experiments(
    experiments: Mapping[str, Experiment],
    build: Callable[[Experiment], nn.Module],
    train: Batches,
    val: Batches,
    *,
    seeds: Iterable[int] = (0,),
    checkpoint: Callable[[str], Path] | None = None,
    device: str | torch.device | None = None,
    title: str = "",
) -> dict[str, list[RunRecord | None]]:
    """Fit every experiment with every seed on equal budgets, as `training.sweep` does, and return the records by name.

    Args:
        build: an experiment to its network; `training.seed` is one of `seeds` then.
        title: what every printed line begins with, such as the name of the data set.

    Raises:
        ValueError: the budgets differ; nothing was trained.
    """

    def build_one(name: str, training: TrainConfig) -> nn.Module:
        return build(replace(experiments[name], training=training))

    trainings = {name: experiment.training for name, experiment in experiments.items()}
    return sweep(trainings, build_one, train, val, seeds=seeds, checkpoint=checkpoint, device=device, title=title)


def train_recipe(
    name: str, dataset: Dataset, budget: Budget, workspace: Workspace, device: torch.device, seed: int = 0
) -> tuple[nn.Module, RunRecord]:
    """Train the recipe called `name` on a data set, or load it where that was done; return the network and its record.

    It leaves a checkpoint, a row in the run log, and its validation logits, and prints which weights these are.

    Raises:
        ValueError: no recipe has this name.
    """
    require_choice("name", name, RECIPES)
    recipe = RECIPES[name]
    experiment = recipe.experiment_for(budget, seed)
    train, val = dataset.train.take(budget.train_images), dataset.val.take(budget.eval_images)
    model, batches = _build(experiment, train, val, device)
    run = run_name(name, dataset.name, seed)
    path = checkpoint_of(run, experiment, workspace)
    record = fit(model, *batches, experiment.training, name=run, checkpoint=path)
    about = {"data": val.sha256, "weights": hash_weights(model), "tta": recipe.tta}
    _, known = read_kept(kept_path(workspace.figures, run, "val"))
    if not about.items() <= known.items():  # else they were left when it was trained
        logits, _ = predict(model, batches[1], tta=recipe.tta)
        workspace.save_logits(record, logits, about)
    row = workspace.log_run(record, dataset.name)
    if is_main_process():
        print(name_weights(row), flush=True)
    return model, record


def _build(
    experiment: Experiment, train: Split, val: Split, device: torch.device
) -> tuple[nn.Module, tuple[Batches, Batches]]:
    """Return the network of an experiment, and batches with the normalisation that belongs to it."""
    if isinstance(experiment.model, TransferConfig):
        pretrained = build_transfer_model(experiment.model, train.num_classes).to(device)
        return pretrained, make_batches(train, val, device, pretrained.normaliser)
    batches = make_batches(train, val, device)
    return build_model(experiment.model, batches[0], experiment.training.seed), batches


def name_weights(row: Mapping[str, Any]) -> str:
    """Return the name of the run of a row of the run log and the first digits of the SHA-256 of its checkpoint.

    The README and every notebook that speaks of this run say the same.
    """
    return f"{row['name']}: weights {row['checkpoint_sha256'][:12]}"


# What an evaluated run leaves beside its row: ranks of the test labels, logits on validation and on test.
_PARTS = ("ranks", "val", "test")


@dataclass(frozen=True)
class RecipeResult:
    """What an adopted run leaves to a report, which needs no checkpoint then.

    Attributes:
        row: its row in the run log.
        ranks: int16 (N,), how many classes come before the label of each test image: 0 is correct.
        val, test: float32 logits (N, C) on the two splits, with test-time augmentation where the recipe has it. None
            where they were not kept.
    """

    row: dict[str, Any]
    ranks: torch.Tensor
    val: torch.Tensor | None
    test: torch.Tensor | None


def evaluate_recipe(
    name: str,
    dataset: Dataset,
    budget: Budget,
    workspace: Workspace,
    device: torch.device,
    *,
    seed: int = 0,
    logits: bool = True,
) -> RecipeResult:
    """Return what the recipe called `name` left; where that is missing, train it in this budget and score it on test.

    Args:
        logits: whether the ranks alone will not do.

    Raises:
        ValueError: no recipe has this name, or its logits cannot be kept here; then the test split stays sealed.
        CheckpointError: the test split was scored before, and what that look left is gone.
    """
    require_choice("name", name, RECIPES)
    row = find_runs(dataset.name, workspace, seed).get(name)
    found = row and read_result(row, workspace, logits)
    if found:
        if is_main_process():
            print(name_weights(found.row))
        return found
    model, record = train_recipe(name, dataset, budget, workspace, device, seed)
    row = workspace.log_run(record, dataset.name)  # the one that training left
    _refuse_higher(record.name, workspace)
    known = getattr(model, "normaliser", None)  # of a pretrained network
    batches = make_batches(dataset.train.take(budget.train_images), dataset.val, device, known)[1]
    final_test(model, dataset, batches, record, workspace, RECIPES[name].tta)
    found = read_result(row, workspace, logits)
    if not found:
        raise CheckpointError(
            f"{record.name} was scored on the test split before, and what that look left is not in "
            f"{workspace.figures}: restore logits and ranks, or delete its entry of the test-access log and say why."
        )
    return found


def _refuse_higher(run: str, workspace: Workspace) -> None:
    """Raise a ValueError if what a look at the test split leaves could not be kept; said before the look."""
    for part in _PARTS:
        path = kept_path(workspace.figures, run, part)
        if profile_rank(read_kept(path)[1].get("profile", "")) > profile_rank(workspace.profile):
            raise ValueError(f"{path} is of a higher profile: set CIFAR_OUT to another folder, and run again")


def read_result(row: dict[str, Any], workspace: Workspace, logits: bool) -> RecipeResult | None:
    """Return what the run of a row of the run log left, here or among the published; None if what is needed is missing.

    All parts are of the same weights: a run that was trained again and not evaluated again is missing.
    """
    published = [published_folder()] if row in read_lines(_published_log()) else []
    for figures in (workspace.figures, *published):
        parts = {part: read_kept(kept_path(figures, row["name"], part)) for part in _PARTS}
        weights = parts["ranks"][1].get("weights")
        found = {
            part: values
            for part, (values, about) in parts.items()
            if about.get("run_hash") == row["run_hash"] and about.get("weights") == weights
        }
        if {"ranks", *(("val", "test") if logits else ())} <= found.keys():
            both = (found[split].float() if split in found else None for split in ("val", "test"))
            return RecipeResult(row, found["ranks"], *both)
    return None


def _published_log() -> Path:
    return published_folder() / "runs.jsonl"


def checkpoint_of(run: str, experiment: Experiment, workspace: Workspace) -> Path:
    """Return where the weights of a run are kept: the same for every notebook, another for every experiment."""
    plain = {"model": experiment.model.to_dict(), "training": experiment.training.to_dict()}
    return replace(workspace, notebook="recipes", checkpoints=workspace.recipes).checkpoint(f"{run}-{hash_json(plain)}")


def describe_chain() -> list[str]:
    """Return one line for each step of the chain: what it changes, and the notebook that justified it."""
    lines = [f"{CHAIN[0]} (notebook {RECIPES[CHAIN[0]].notebook}): {RECIPES[CHAIN[0]].experiment.model.name}"]
    for before, name in itertools.pairwise(CHAIN):
        old, new = RECIPES[before].experiment._flat(), RECIPES[name].experiment._flat()
        changes = ", ".join(f"{key}={value!r}" for key, value in new.items() if value != old[key])
        lines.append(f"{name} (notebook {RECIPES[name].notebook}): {changes}")
    return lines


def find_runs(dataset: str, workspace: Workspace, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return the newest row of the run log of each recipe as it is today that was trained on a data set, by name.

    It looks in the workspace's run log and in the published one, for rows from the same source of data. All are of
    one profile, that in which most recipes were trained with seed 0; of two such, the higher.

    Raises:
        ValueError: an unknown data set.
    """
    require_choice("dataset", dataset, SOURCES)
    logs = dict.fromkeys((_published_log(), workspace.run_log))  # of two rows of a day the reader's own counts
    rows = sorted((row for log in logs for row in read_lines(log)), key=lambda row: row["date"])
    rows = sorted(newest_rows(rows).values(), key=lambda row: row["date"])
    known = {"dataset": dataset, "data_source": workspace.data_source}
    rows = [row for row in rows if known.items() <= row.items()]

    def of_profile(profile: str, seed: int) -> dict[str, dict[str, Any]]:
        names = {run_name(name, dataset, seed): name for name in RECIPES}
        named = [(names[row["name"]], row) for row in rows if row["profile"] == profile and row["name"] in names]
        return {name: row for name, row in named if _is_of(row, RECIPES[name], seed)}

    return of_profile(max(reversed(PROFILES), key=lambda profile: len(of_profile(profile, 0))), seed)


def _is_of(row: dict[str, Any], recipe: Recipe, seed: int = 0) -> bool:
    """Return whether a run was trained with the recipe as it is today; a field younger than its row has its default."""
    asked = recipe.experiment_for(PROFILES[row["profile"]], seed)
    model = type(asked.model)(asked.model.name).to_dict() | row["model"]
    training = TrainConfig().to_dict() | row["config"]
    return hash_json([model, training]) == hash_json([asked.model.to_dict(), asked.training.to_dict()])
