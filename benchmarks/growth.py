"""Seconds of a training against images, epochs, width and image size, beside what the operation count predicts.

    python benchmarks/growth.py [--turns 3] [--figure FILE] [--json FILE]

The study network on the real data or the stand-in, almost without validation. The prediction is one line for all four
panels: the operations of a training, three times those of the forward pass, at the rate of the middle point of the
first panel.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from cifar_helpers import plots
from cifar_helpers.course import RECIPES
from cifar_helpers.data import Split, load_data, make_batches
from cifar_helpers.models import build_model, layer_table
from cifar_helpers.runtime import Timer, environment, environment_line, pick_device
from cifar_helpers.training import TrainConfig, fit

# What a panel varies, and everything else stays at this point.
POINT = {"images": 2_048, "epochs": 1, "width": 0.5, "pixels": 24}
PANELS = {
    "images": (512, 1_024, 2_048, 4_096, 8_192),
    "epochs": (1, 2, 4, 8),
    "width": (0.125, 0.25, 0.5, 1.0),
    "pixels": (12, 16, 24, 32, 48),
}
TRAINING = TrainConfig(batch_size=256, lr=0.01, frozen_layers=1, epochs=1)


def resized(split: Split, pixels: int) -> Split:
    """Return a split whose images have other sides."""
    images = torch.nn.functional.interpolate(split.images.float(), size=(pixels, pixels), mode="bilinear")
    return Split(split.name, images.round().to(torch.uint8), split.labels, split.class_names)


def measure(split: Split, val: Split, images: int, epochs: int, width: float, pixels: int) -> dict[str, float]:
    """Return the seconds of one training, and its operations."""
    batches = make_batches(resized(split.take(images), pixels), resized(val.take(10), pixels), pick_device())
    model = build_model(RECIPES["study"].experiment.change(width=width).model, batches[0])
    forward = 2 * sum(row.multiply_adds for row in layer_table(model, pixels))
    fit(model, *batches, replace(TRAINING, max_steps=2), verbose=False)
    with Timer(batches[0].device) as timer:
        fit(model, *batches, replace(TRAINING, epochs=epochs), verbose=False)
    return {"seconds": timer.seconds, "operations": 3.0 * forward * images * epochs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(environment_line(pick_device()))
    data = load_data("cifar10")
    rows = []
    for panel, values in PANELS.items():
        for value in values:
            taken = [measure(data.train, data.val, **POINT | {panel: value}) for _ in range(args.turns)]
            seconds = sorted(row["seconds"] for row in taken)
            rows.append({"panel": panel, "value": value, "seconds": seconds, "operations": taken[0]["operations"]})
            print(
                f"{panel:7} {value:>7} {statistics.median(seconds):8.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})",
                flush=True,
            )
    middle = next(row for row in rows if row["panel"] == "images" and row["value"] == POINT["images"])
    rate = middle["operations"] / statistics.median(middle["seconds"])
    for row in rows:
        row["predicted"] = row["operations"] / rate
        row["ratio"] = statistics.median(row["seconds"]) / row["predicted"]
    print(
        f"rate of the middle point {rate / 1e9:.0f} GFLOP/s; measured / predicted: "
        + ", ".join(f"{row['panel']} {row['value']} {row['ratio']:.2f}" for row in rows)
    )
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(pick_device()), "rows": rows}, indent=1) + "\n")
    if args.figure:
        draw(rows, data.title, args.figure)


def draw(rows: list[dict], title: str, path: Path) -> None:
    """Write the four panels as one figure."""
    plots.figure_style()
    figure, axes = plots.new_axes(1, 4, size=(3.0, 2.9))
    labels = {
        "images": "training images",
        "epochs": "epochs",
        "width": "width of the network",
        "pixels": "image side (pixels)",
    }
    for panel, ax in zip(PANELS, axes, strict=True):
        chosen = [row for row in rows if row["panel"] == panel]
        values = [row["value"] for row in chosen]
        medians = [statistics.median(row["seconds"]) for row in chosen]
        bounds = [
            [m - row["seconds"][0] for m, row in zip(medians, chosen, strict=True)],
            [row["seconds"][-1] - m for m, row in zip(medians, chosen, strict=True)],
        ]
        ax.plot(values, [row["predicted"] for row in chosen], color="0.6", label="operations at one rate")
        ax.errorbar(values, medians, bounds, fmt="o", ms=4, capsize=2, label="measured")
        ax.set(xscale="log", yscale="log", xlabel=labels[panel], xticks=values, xticklabels=[f"{v:g}" for v in values])
        ticks = [0.1, 0.3, 1, 3]
        ax.set(yticks=ticks, yticklabels=[f"{v:g}" for v in ticks], ylim=(0.05, 6))
        ax.minorticks_off()
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False, fontsize=7)
    figure.suptitle(f"{title}: seconds follow the operations; narrow networks and small images cost more", y=1.08)
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
