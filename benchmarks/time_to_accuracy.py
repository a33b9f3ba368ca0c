"""Seconds and validation accuracy of a recipe, over seeds.

    python benchmarks/time_to_accuracy.py [study] [--dataset cifar10] [--seeds 3] [--change '{"lr": 0.3}'] [--json FILE]

All 45,000 training images of the real data; accuracy of one view and of the mean over an image and its mirror image, on
the 5,000 of validation. Seconds are those of training and validation, from the first step to the last; building and
whitening the network, about a second, is not among them. `processor` is the time that all cores have spent: where it
is far below seconds times cores, something else was running.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from cifar_helpers.course import RECIPES
from cifar_helpers.course.recipes import Experiment
from cifar_helpers.data import load_data, make_batches
from cifar_helpers.models import ModelConfig, build_model
from cifar_helpers.runtime import environment, environment_line, pick_device
from cifar_helpers.training import evaluate, fit


def measure(experiment: Experiment, batches, seed: int, checkpoint: Path | None) -> dict[str, Any]:
    """Train once, or load what was trained, and return what it reached."""
    model = build_model(experiment.model, batches[0], seed)
    training = experiment.change(seed=seed).training
    begin = time.process_time()
    record = fit(model, *batches, training, name=f"seed {seed}", checkpoint=checkpoint)
    return {
        "seed": seed,
        "seconds": record.seconds,
        "processor_seconds": time.process_time() - begin,
        "single": record.history[-1].val_accuracy,
        "mirrored": evaluate(model, batches[1], tta=True).accuracy,
        "train": record.history[-1].train_accuracy,
        "epochs": [round(epoch.val_accuracy, 4) for epoch in record.history],
        "replicas": record.environment["replicas"],
    }


def summary(rows: list[dict[str, Any]], key: str, scale: float = 1.0) -> str:
    """Return mean and standard deviation of a column."""
    values = [scale * row[key] for row in rows]
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} (sd {spread:.2f}, {min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ours = [name for name, recipe in RECIPES.items() if isinstance(recipe.experiment.model, ModelConfig)]
    parser.add_argument("recipe", nargs="?", default="study", choices=ours)
    parser.add_argument("--dataset", default="cifar10", choices=("cifar10", "cifar100"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--change", type=json.loads, default={}, help="fields to change, as JSON")
    parser.add_argument("--checkpoints", type=Path, help="folder to resume from and to keep checkpoints in")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = pick_device()
    data = load_data(args.dataset, source="real")
    batches = make_batches(data.train, data.val, device)
    changes = {key: tuple(map(tuple, value)) if key == "image_sizes" else value for key, value in args.change.items()}
    experiment = RECIPES[args.recipe].experiment.change(**changes)
    print(environment_line(device), flush=True)
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        path = args.checkpoints and args.checkpoints / f"{args.recipe}-{args.dataset}-{seed}.safetensors"
        rows.append(measure(experiment, batches, seed, path))
        print(json.dumps(rows[-1]), flush=True)
        facts = {"recipe": args.recipe, "dataset": args.dataset, "change": args.change}
        if args.json:
            kept = {"environment": environment(device), **facts, "rows": rows}
            args.json.write_text(json.dumps(kept, indent=1) + "\n")
    for key, scale, unit in (
        ("seconds", 1, "s"),
        ("processor_seconds", 1, "s"),
        ("single", 100, "%"),
        ("mirrored", 100, "%"),
    ):
        print(f"{key:18} {summary(rows, key, scale)} {unit}, n = {len(rows)}")


if __name__ == "__main__":
    main()
