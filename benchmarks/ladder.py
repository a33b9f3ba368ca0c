"""The ladder: validation accuracy and time of every adopted configuration, against the accuracy it has to reach.

    python benchmarks/ladder.py [--profile laptop] [--only cnn-cifar10 …] [--json FILE]

Runs that were trained before are loaded, the others trained; on real data only. The accuracy is that of the best
epoch, on validation, n = 1 seed; `tta` is that of the mean over an image and its mirror image, which is compared with
the bound where the recipe adopts it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from cifar_helpers.course import RECIPES, Budget, get_budget, open_workspace, train_recipe
from cifar_helpers.data import load_data, make_batches
from cifar_helpers.runtime import device_name, environment, environment_line, pick_device
from cifar_helpers.training import evaluate

# What each run has to reach on a laptop and with a GPU; None: no bound.
BOUNDS = {
    "baseline-cifar10": (0.54, 0.54),
    "lenet-cifar10": (0.66, 0.70),
    "cnn-cifar10": (0.65, 0.76),
    "batchnorm-cifar10": (0.81, 0.85),
    "augmented-cifar10": (0.84, 0.915),
    "final-cifar10": (0.90, 0.94),
    "baseline-cifar100": (0.25, 0.25),
    "cnn-cifar100": (None, None),
    "batchnorm-cifar100": (None, None),
    "augmented-cifar100": (None, None),
    "nine-cifar100": (0.45, 0.60),
    "final-cifar100": (0.60, 0.75),
}


def measure(run: str, budget: Budget, device: torch.device) -> dict[str, Any]:
    """Return a row for a run called recipe-dataset."""
    name, dataset_name = run.rsplit("-", 1)
    dataset = load_data(dataset_name, source="real")
    workspace = open_workspace("train", budget.profile, device_name(device), {dataset.source})
    model, record = train_recipe(name, dataset, budget, workspace, device)
    _, val = make_batches(dataset.train.take(budget.train_images), dataset.val.take(budget.eval_images), device)
    bound = BOUNDS[run][budget.profile == "full"] if budget.profile != "quick" else None
    return {
        "name": run,
        "accuracy": record.val_accuracy,
        "tta": evaluate(model, val, tta=True).accuracy,
        "bound": bound,
        "compared": "tta" if RECIPES[name].tta else "accuracy",
        "epochs": len(record.history),
        "seconds": record.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--only", nargs="+", choices=BOUNDS, default=list(BOUNDS), metavar="RUN")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    budget, device = get_budget(args.profile), pick_device()
    print(environment_line(device))
    rows = [measure(run, budget, device) for run in args.only]
    print(f"{'run':22} {'accuracy':>8} {'tta':>8} {'to reach':>8} {'epochs':>6} {'seconds':>7}")
    for r in rows:
        bound = "" if r["bound"] is None else f"{r['bound']:.3f}"
        numbers = f"{r['accuracy']:8.3f} {r['tta']:8.3f} {bound:>8} {r['epochs']:6} {r['seconds']:7.0f}"
        print(f"{r['name']:22} {numbers}" + ("  missed" if r[r["compared"]] < (r["bound"] or 0) else ""))
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(device), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
