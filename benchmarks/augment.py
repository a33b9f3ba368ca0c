"""Seconds per image of our augmentations against torchvision's transforms, on the same images.

    python benchmarks/augment.py [--json FILE] [--repeats 5]

Torchvision's transforms see one image at a time, as in a Dataset; `tensors` spares them the way through PIL. Ours see
a batch of 128. Both end in normalised float32. They take turns in one process, and the medians of the turns are
compared.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

from cifar_helpers.data import Batches, ColourJitter, Cutout, Flip, PadCrop, load_data, make_batches
from cifar_helpers.runtime import Timer, environment, environment_line

BATCH = 128
RECIPES = {
    "flip, crop": (
        (Flip(), PadCrop(4)),
        [v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4, padding_mode="reflect")],
        [],
    ),
    "flip, crop, jitter, cutout": (
        (Flip(), PadCrop(4), ColourJitter(0.2, 0.2, 0.2), Cutout(8)),
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(32, padding=4, padding_mode="reflect"),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ],
        [v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0))],
    ),
}


def ours(batches: Batches, augment: tuple) -> Callable[[int], None]:
    """Return a function that augments and normalises `count` images."""
    epochs = itertools.count()

    def run(count: int) -> None:
        served = batches.epoch(next(epochs), seed=0, batch_size=BATCH, augment=augment)
        for _ in itertools.islice(served, count // BATCH):
            pass

    return run


def theirs(images: torch.Tensor, normaliser, before: list, after: list, pil: bool) -> Callable[[int], None]:
    """Return a function that does the same with torchvision, one image after the other."""
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(normaliser.mean, normaliser.std)]
    transform = v2.Compose([*before, *to_float, *after])
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images] if pil else list(images)

    def run(count: int) -> None:
        for start in range(0, count, BATCH):
            torch.stack([transform(picture) for picture in pictures[start : start + BATCH]])

    return run


def compare(name: str, count: int, repeats: int) -> list[dict]:
    """Return a row against PIL images and one against tensors, in images per second."""
    augment, before, after = RECIPES[name]
    data = load_data("cifar10")
    batches, _ = make_batches(data.train, data.val, "cpu")
    images = data.train.images[:count]
    runs = {
        "ours": ours(batches, augment),
        "PIL": theirs(images, batches.normaliser, before, after, pil=True),
        "tensors": theirs(images, batches.normaliser, before, after, pil=False),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for turn in range(repeats + 1):
        for kind, run in runs.items():
            with Timer(torch.device("cpu")) as timer:
                run(count)
            if turn:  # the first one warms up
                rates[kind].append(count / timer.seconds)
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    return [
        {"name": f"{name} / {kind}", "ours": medians["ours"], "baseline": medians[kind], "n": repeats}
        | {"ratio": medians["ours"] / medians[kind], "unit": "images/s"}
        for kind in ("PIL", "tensors")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(environment_line(torch.device("cpu")))
    rows = [row for name in RECIPES for row in compare(name, 20 * BATCH, args.repeats)]
    print(
        f"{'augmentation / baseline':38} {'ours':>9} {'baseline':>9} {'ratio':>6}  images/s, median of {args.repeats}"
    )
    for r in rows:
        print(f"{r['name']:38} {r['ours']:9.0f} {r['baseline']:9.0f} {r['ratio']:6.1f}")
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(torch.device("cpu")), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
