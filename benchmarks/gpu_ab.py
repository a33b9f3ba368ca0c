"""A training script of somebody else's and a recipe of ours, in alternating blocks on one GPU.

    python benchmarks/gpu_ab.py airbench94_muon.py [--recipe final] [--runs 40] [--block 5] [--json FILE]

The script is one of github.com/KellerJordan/cifar10-airbench, unchanged, given by its path: it has `CifarNet`,
`main(run, model)`, and prints its seconds at the end of a table row. Both train on our 45,000 training images of
CIFAR-10 and are judged on our 5,000 of validation, so no test image is looked at.

In the time of both: whitening, augmentation, training and the last evaluation, with the views that each averages. Not
in it: reading the data, building network and optimizer, compiling, and the validation between epochs, for which ours is
given 100 images. A block of each runs before the first that counts.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from cifar_helpers.course import RECIPES
from cifar_helpers.course.recipes import Experiment
from cifar_helpers.data import Dataset, load_data, make_batches
from cifar_helpers.models import build_model
from cifar_helpers.models.networks import whiten
from cifar_helpers.runtime import Timer, environment, pick_device
from cifar_helpers.training import evaluate, fit

Run = Callable[[int], tuple[float, float]]


def read_script(path: Path) -> ModuleType:
    """Import a script by its path; it reads its own text from sys.argv[0]."""
    spec = importlib.util.spec_from_file_location("baseline", path)
    module = importlib.util.module_from_spec(spec)
    before, sys.argv = sys.argv, [str(path)]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.argv = before
    return module


def write_data(dataset: Dataset, folder: Path) -> None:
    """Write our training and validation split in the files that the script calls its training and test set."""
    folder.mkdir()
    for name, split in (("train", dataset.train), ("test", dataset.val)):
        images = split.images.permute(0, 2, 3, 1).contiguous()
        content = {"images": images, "labels": split.labels, "classes": list(split.class_names)}
        torch.save(content, folder / f"{name}.pt")


def make_baseline(script: Path, dataset: Dataset, compile_mode: str) -> Run:
    """Return a function that trains once with the script, and returns seconds and accuracy as it reports them."""
    os.chdir(tempfile.mkdtemp())
    write_data(dataset, Path("cifar10"))
    module = read_script(script)
    model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
    model.compile(mode=compile_mode)
    module.main("warmup", model)

    def run(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            accuracy = module.main(seed, model)
        return float(re.findall(r"([0-9.]+)\s*\|", said.getvalue())[-1]), accuracy

    return run


def make_ours(experiment: Experiment, dataset: Dataset, device: torch.device) -> Run:
    """Return a function that trains our experiment once, and returns seconds and mirrored accuracy."""
    train, val = make_batches(dataset.train, dataset.val, device)
    first = torch.cat([images for images, _ in train.like(dataset.train.take(5_000)).ordered()])
    few = val.like(dataset.val.take(100))

    def run(seed: int) -> tuple[float, float]:
        model = build_model(experiment.model, train, seed)
        with Timer(device) as stem:
            whiten(model, first)
        record = fit(model, train, few, experiment.change(seed=seed).training, verbose=False)
        with Timer(device) as last:
            accuracy = evaluate(model, val, tta=True).accuracy
        return stem.seconds + record.seconds + last.seconds, accuracy

    return run


def summary(rows: list[tuple[float, float]]) -> str:
    seconds, accuracies = zip(*rows, strict=True)
    return (
        f"{statistics.mean(seconds):.3f} s (sd {statistics.stdev(seconds):.3f}), "
        f"{100 * statistics.mean(accuracies):.2f} % (sd {100 * statistics.stdev(accuracies):.2f}), n = {len(rows)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("--recipe", default="final", choices=RECIPES)
    parser.add_argument("--change", type=json.loads, default={}, help="fields to change, as JSON")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--block", type=int, default=5)
    parser.add_argument("--compile-mode", default="max-autotune", help="of the script, as its own main has it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    script, out = args.script.resolve(), args.json and args.json.resolve()
    dataset = load_data("cifar10", source="real")
    experiment = RECIPES[args.recipe].experiment.change(**{**RECIPES[args.recipe].full, **args.change})
    torch.backends.cudnn.benchmark = True
    device = pick_device("cuda")
    sides = {
        "baseline": make_baseline(script, dataset, args.compile_mode),
        "ours": make_ours(experiment, dataset, device),
    }
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for start in range(-args.block, args.runs, args.block):
        for side, run in sides.items():
            rows = [run(max(start, 0) + i) for i in range(args.block)]
            if start >= 0:
                found[side] += rows
                print(f"{side:9} {summary(found[side])}", flush=True)
        if out:
            facts = {"script": script.name, "recipe": args.recipe, "change": args.change, "block": args.block}
            out.write_text(json.dumps({"environment": environment(device), **facts, "rows": found}, indent=1) + "\n")
    means = {side: statistics.mean(seconds for seconds, _ in rows) for side, rows in found.items()}
    print(f"ours takes {means['ours'] / means['baseline']:.2f} of its time")


if __name__ == "__main__":
    main()
