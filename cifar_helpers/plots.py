"""Pictures: each function draws given data on given axes and returns them. Nothing here loads, trains or saves.

A text that matplotlib cannot draw, data that is empty or of another form, and an `ax` that is no axes end in a
ValueError before anything is drawn.
"""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike

from cifar_helpers._arguments import is_number, require, require_choice, require_fraction, require_whole

__all__ = [
    "PALETTE",
    "REFERENCE",
    "SPLIT_COLOURS",
    "figure_style",
    "new_axes",
    "plot_accuracies",
    "plot_accuracy_by_ratio",
    "plot_architecture",
    "plot_channel_histograms",
    "plot_curve",
    "plot_dependencies",
    "plot_differences",
    "plot_embedding",
    "plot_history",
    "plot_images",
    "plot_initial_losses",
    "plot_intervals",
    "plot_matrix",
    "plot_published",
    "plot_reliability",
    "plot_tornado",
    "plot_tradeoff",
    "plot_variance_spectrum",
    "plot_verdicts",
]

PALETTE = sns.color_palette("colorblind")
SPLIT_COLOURS = {"train": PALETTE[0], "val": PALETTE[1], "test": PALETTE[2]}
_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
REFERENCE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 1}


def figure_style() -> None:
    """Set the style of all figures that follow; a notebook calls it once."""
    plt.rcParams.update(sns.axes_style("ticks", {"axes.edgecolor": "0.3"}))
    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
        }
    )


# --- what is drawn, and on what ---


def _begin(ax: Axes | None, title: str, **data: Any) -> Axes:
    """Return the axes to draw on, by default the current ones, after they, the title and the data were found right."""
    _require_text("title", title)
    for name, values in data.items():
        require(len(values) > 0, name, values, "at least one")
    require(ax is None or isinstance(ax, Axes), "ax", ax, "one of new_axes(), or None for the current ones")
    return plt.gca() if ax is None else ax


def _require_text(name: str, text: str) -> None:
    """Raise a ValueError unless matplotlib can draw a text; one $ alone may stand on an axis, as its unit."""
    require(isinstance(text, str), name, text, "a text")
    signs = text.count("$") - text.count(r"\$")
    require(name != "title" or signs % 2 == 0, name, text, r"each $ begins or ends a formula; write \$ for the sign")
    if signs and signs % 2 == 0:
        try:
            MathTextParser("path").parse(text)
        except ValueError as error:
            allowed = r"what stands between two $ is a formula, and this is none; write \$ for the sign"
            raise ValueError(f"{name}={text!r} is not allowed: {allowed}") from error


def _require_images(images: Any) -> None:
    right = isinstance(images, torch.Tensor) and images.dtype == torch.uint8 and images.ndim == 4
    require(right and images.shape[1] == 3, "images", images, "uint8 (N, 3, H, W), levels 0 to 255")


def _require_tensor(name: str, value: Any, *shape: int, form: str = "") -> None:
    right = isinstance(value, torch.Tensor) and value.shape == shape
    require(right, name, value, f"a tensor of shape {form or shape}")


def _require_triples(intervals: Mapping[str, Any]) -> None:
    for values in intervals.values():
        right = isinstance(values, list | tuple) and len(values) == 3 and all(map(is_number, values))
        require(right, "intervals", intervals, "(value, low, high) of each, as fractions")


def _require_fields(name: str, values: Any, field: str, kind: str) -> None:
    """Raise a ValueError unless all values have a field, as those of a kind have."""
    require(all(hasattr(value, field) for value in values), name, values, kind)


def _require_classes(num_classes: int) -> None:
    require_whole("num_classes", num_classes, 2)


def new_axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (4.5, 3.2)) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, flat, each `size` inches wide and high.

    Raises:
        ValueError: no row, no column, or a size that is none.
    """
    require_whole("rows", rows)
    require_whole("columns", columns)
    pair = isinstance(size, list | tuple) and len(size) == 2 and all(is_number(side) and side > 0 for side in size)
    require(pair, "size", size, "width and height in inches, such as (4.5, 3.2)")
    figure, axes = plt.subplots(rows, columns, figsize=(columns * size[0], rows * size[1]), squeeze=False)
    return figure, axes.ravel()


def plot_images(
    images: torch.Tensor,
    columns: int,
    *,
    captions: Sequence[str] = (),
    row_names: Sequence[str] = (),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw uint8 images (N, 3, H, W) as a grid, row by row, with a caption under each and a name before each row."""
    ax = _begin(ax, title)
    _require_images(images)
    require_whole("columns", columns)
    require(len(captions) <= len(images), "captions", captions, f"at most {len(images)}, one for each image")
    ax.set_title(title)
    if len(images) == 0:
        ax.text(0.5, 0.5, "not available: there is none in this data", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return ax
    captions = ["\n".join(textwrap.fill(line, 13) for line in caption.split("\n")) for caption in captions]
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    count, _, height, width = images.shape
    rows, gap, under = math.ceil(count / columns), max(2, width // 10), lines * height // 4
    step_y, step_x = height + gap + under, width + gap
    canvas = np.full((rows * step_y - gap, columns * step_x - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        y, x = (i // columns) * step_y, (i % columns) * step_x
        canvas[y : y + height, x : x + width] = image
    ax.imshow(canvas, interpolation="nearest")
    for i, caption in enumerate(captions):
        middle, below = (i % columns) * step_x + width / 2, (i // columns) * step_y + height + 1
        ax.text(middle, below, caption, ha="center", va="top", size=6.5, linespacing=0.95)
    ax.set_yticks([r * step_y + height / 2 for r in range(len(row_names))], row_names, size=8)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_channel_histograms(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], title: str, ax: Axes | None = None
) -> Axes:
    """Draw how often each of the 256 levels occurs in each channel of uint8 images (N, 3, H, W)."""
    ax = _begin(ax, title, images=images)
    _require_images(images)
    for what, numbers in (("mean", mean), ("std", std)):
        require(len(numbers) == 3, what, numbers, "three numbers, one for each channel")
    for c, (name, colour) in enumerate(
        zip(("red", "green", "blue"), (PALETTE[3], PALETTE[2], PALETTE[0]), strict=True)
    ):
        values = images[:, c].flatten()
        share = torch.bincount(values, minlength=256) / len(values)
        ax.plot(range(256), 100 * share, color=colour, label=f"{name}: mean {mean[c]:.4f}, std {std[c]:.4f}", lw=1.2)
        ax.axvline(255 * mean[c], ymax=0.7, color=colour, ls=":", lw=1)
    ax.set(xlabel="pixel level, 0 to 255 (dotted: mean)", ylabel="share of pixels (%)", title=title)
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def plot_variance_spectrum(
    spectra: Mapping[str, np.ndarray], marks: Mapping[str, int], share: float, title: str, ax: Axes | None = None
) -> Axes:
    """Draw the cumulative share of variance over the number of principal components, and where it reaches `share`."""
    ax = _begin(ax, title, spectra=spectra)
    require_fraction("share", share, "a fraction; 90 % is 0.9")
    require(set(spectra) <= set(marks), "marks", marks, f"one for each of {', '.join(spectra)}")
    for (name, ratios), colour in zip(spectra.items(), PALETTE, strict=False):
        cumulative = 100 * np.cumsum(ratios)
        ax.plot(range(1, len(cumulative) + 1), cumulative, color=colour, label=f"{name}: {marks[name]} components")
        ax.plot(marks[name], 100 * share, "o", color=colour)
    ax.axhline(100 * share, **REFERENCE)
    ax.set(xscale="log", xlabel="number of principal components (log)", ylabel="variance kept (%)", title=title)
    ax.legend(title=f"to keep {share:.0%}", frameon=False)
    return ax


def plot_embedding(
    points: np.ndarray, labels: torch.Tensor, names: Sequence[str], title: str, ax: Axes | None = None
) -> Axes:
    """Draw points (N, 2) in the colour of their label (N,), with a legend of `names`."""
    ax = _begin(ax, title, names=names)
    require(np.ndim(points) == 2 and np.shape(points)[1] == 2, "points", points, "an array (N, 2)")
    _require_tensor("labels", labels, len(points))
    require(len(names) <= 20, "names", names, "at most 20, as many as there are colours")
    colours = sns.color_palette("colorblind", 10) + sns.color_palette("dark", 10)
    for c, name in enumerate(names):
        chosen = labels.numpy() == c
        marker = "o^"[c // 10]
        x, y = points[chosen].T
        ax.scatter(x, y, s=9, color=colours[c], label=name, marker=marker, alpha=0.75, linewidths=0)
    ax.set(title=title, xlabel="first coordinate (no unit)", ylabel="second coordinate (no unit)", xticks=[], yticks=[])
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7, markerscale=1.5)
    return ax


def plot_accuracies(
    accuracies: Mapping[str, float], chance: float, title: str, split: str = "val", ax: Axes | None = None
) -> Axes:
    """Draw one horizontal bar per model with its accuracy in percent, and chance as a line. NaN: not available."""
    ax = _begin(ax, title, accuracies=accuracies)
    fractions = [value for value in accuracies.values() if not math.isnan(value)]
    right = all(0 <= value <= 1 for value in fractions)
    require(right, "accuracies", accuracies, "fractions; 92 % is 0.92, and NaN is not available")
    require_fraction("chance", chance, "a fraction; 10 % is 0.1")
    require_choice("split", split, SPLIT_COLOURS)
    names, values = list(accuracies), [100 * v for v in accuracies.values()]
    ax.barh(names, np.nan_to_num(values), color=SPLIT_COLOURS[split])
    for i, value in enumerate(values):
        text = "not available" if math.isnan(value) else f"{value:.1f} %"
        ax.text(np.nan_to_num(value), i, f" {text}", va="center", size=8)
    ax.axvline(100 * chance, **REFERENCE)
    longest = max([100 * chance, *(value for value in values if not math.isnan(value))])
    ax.set(xlabel=f"{_SPLIT_NAMES[split]} accuracy (%); dashed: chance, {chance:.0%}", title=title)
    ax.set_xlim(0, 1.2 * longest)
    ax.invert_yaxis()
    return ax


def plot_intervals(
    intervals: Mapping[str, tuple[float, float, float]],
    chance: float,
    title: str,
    *,
    marks: Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the interval of one test accuracy per model as a bar, in percent, on an axis that begins near the smallest.

    Args:
        intervals: (value, low, high) of each, as fractions.
        marks: further values of some of them, such as those of other seeds, drawn as strokes.
    """
    ax = _begin(ax, title, intervals=intervals)
    _require_triples(intervals)
    require(set(marks or ()) <= set(intervals), "marks", marks, f"those of {', '.join(intervals)}")
    for y, (value, low, high) in enumerate(intervals.values()):
        ax.plot([100 * low, 100 * high], [y, y], color=SPLIT_COLOURS["test"], lw=9, alpha=0.5, solid_capstyle="butt")
        ax.text(100 * high, y, f"  {100 * value:.1f}", va="center", size=8)
    for name, values in (marks or {}).items():
        ax.plot([100 * v for v in values], [list(intervals).index(name)] * len(values), "k|", ms=12, mew=0.8)
    ends = [100 * end for _, low, high in intervals.values() for end in (low, high)]
    ax.set_yticks(range(len(intervals)), list(intervals))
    ax.set(title=title, xlabel=f"test accuracy (%); chance is {chance:.0%}")
    ax.set(xlim=(min(ends) - 3, max(ends) + 7), ylim=(len(intervals) - 0.5, -0.5))
    return ax


def plot_differences(intervals: Mapping[str, tuple[float, float, float]], title: str, ax: Axes | None = None) -> Axes:
    """Draw paired differences of accuracies with their intervals, in points; grey where an interval holds zero.

    Args:
        intervals: (difference, low, high) of each, as fractions, as `statistics.paired_difference` gives them.
    """
    ax = _begin(ax, title, intervals=intervals)
    _require_triples(intervals)
    for y, values in enumerate(intervals.values()):
        value, low, high = (100 * v for v in values)
        colour = "0.6" if low <= 0 <= high else PALETTE[0] if value > 0 else PALETTE[3]
        ax.plot([low, high], [y, y], color=colour, lw=5, alpha=0.45, solid_capstyle="butt")
        ax.plot(value, y, "o", color=colour, ms=5)
        ax.text(high, y, f"  {value:+.2f}", va="center", size=8)
    ax.axvline(0, **REFERENCE)
    ends = [100 * end for _, low, high in intervals.values() for end in (low, high)]
    left, right = min(0.0, *ends), max(0.0, *ends)
    room = max(right - left, 0.1)
    ax.set_yticks(range(len(intervals)), list(intervals))
    ax.set(title=title, xlabel="difference in test accuracy (points), 95 % interval")
    ax.set(xlim=(left - 0.05 * room, right + 0.22 * room), ylim=(len(intervals) - 0.5, -0.5))
    return ax


def plot_tornado(swings: Sequence[Any], centre: float, title: str, xlabel: str, ax: Axes | None = None) -> Axes:
    """Draw how far a value moves along each assumption alone, as bars around the value at which all are likely.

    What lies below zero is red. A value that is not finite ends at the edge.

    Args:
        swings: `course.decisions.Swing`s, the widest first.
        centre: the value with all assumptions likely.
    """
    ax = _begin(ax, title)
    _require_text("xlabel", xlabel)
    _require_fields("swings", swings, "at_low", "course.decisions.Swings")
    require(not math.isnan(centre), "centre", centre, "a number")
    values = [v for swing in swings for v in (swing.at_low, swing.at_high)]
    known = [v for v in (*values, centre, 0.0) if math.isfinite(v)]
    room = 0.3 * (max(known) - min(known)) or 1.0
    edges = min(known) - room, max(known) + room
    centre = min(max(centre, edges[0]), edges[1])
    for y, swing in enumerate(swings):
        pairs = ((swing.at_low, swing.low), (swing.at_high, swing.high))
        ends = [(min(max(value, edges[0]), edges[1]), end) for value, end in pairs]
        for value, _ in ends:
            for left, right, colour in _at_zero(centre, value):
                ax.barh(y, right - left, left=left, height=0.66, color=colour)
        for value, text in _end_texts(centre, ends):
            ax.text(value, y, f" {text} ", ha="left" if value > centre else "right", va="center", size=8, clip_on=True)
    ax.axvline(centre, color="0.2", lw=1)
    ax.axvline(0, **REFERENCE)
    ax.set_yticks(range(len(swings)), [swing.name for swing in swings])
    ax.set(title=title, xlabel=xlabel, xlim=edges, ylim=(max(len(swings), 1) - 0.5, -0.5))
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.tick_params(axis="y", length=0)
    return ax


def _end_texts(centre: float, ends: Sequence[tuple[float, float]]) -> list[tuple[float, str]]:
    """Return where the ends of a range are written; two on the same side of the centre share the place of the outer."""
    texts = [(value, f"{end:,.0f}" if abs(end) >= 1000 else f"{end:g}") for value, end in ends if value != centre]
    if len(texts) == 2 and (texts[0][0] > centre) == (texts[1][0] > centre):
        inner, outer = sorted(texts, key=lambda text: abs(text[0] - centre))
        return [(outer[0], f"{outer[1]} and {inner[1]}")]
    return texts


def _at_zero(centre: float, value: float) -> list[tuple[float, float, Any]]:
    """Return the bar from the centre to a value in pieces (left, right, colour), cut where the sign turns."""
    left, right = sorted((centre, value))
    cuts = [left, 0.0, right] if left < 0 < right else [left, right]
    return [(a, b, PALETTE[3] if b <= 0 else PALETTE[0]) for a, b in itertools.pairwise(cuts)]


def plot_reliability(calibrations: Mapping[str, Any], title: str, ax: Axes | None = None) -> Axes:
    """Draw how often predictions are right against their confidence; a calibrated network lies on the diagonal.

    The area of a point grows with the number of its images.

    Args:
        calibrations: name to `metrics.Calibration`.
    """
    ax = _begin(ax, title, calibrations=calibrations)
    _require_fields("calibrations", calibrations.values(), "confidence", "what metrics.calibration returns")
    for (name, found), colour in zip(calibrations.items(), itertools.cycle(PALETTE), strict=False):
        label = f"{name}: calibration error {100 * found.error:.1f} %"
        ax.plot(100 * found.confidence, 100 * found.accuracy, color=colour, lw=1, label=label)
        sizes = 150 * found.count / found.count.sum()
        ax.scatter(100 * found.confidence, 100 * found.accuracy, s=6 + sizes.numpy(), color=colour, linewidths=0)
    ax.plot([0, 100], [0, 100], **REFERENCE)
    ax.set(title=title, xlabel="confidence: probability of the prediction (%)", ylabel="accuracy (%)")
    ax.set(xlim=(0, 101), ylim=(0, 101))
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax


def plot_tradeoff(
    points: Mapping[str, tuple[float, float]], title: str, xlabel: str, ylabel: str, ax: Axes | None = None
) -> Axes:
    """Draw what is paid (x, logarithmic) and what is had for it (y), a named point each, joined in their order."""
    ax = _begin(ax, title, points=points)
    for name, text in (("xlabel", xlabel), ("ylabel", ylabel)):
        _require_text(name, text)
    positive = all(len(point) == 2 and point[0] > 0 for point in points.values())
    require(positive, "points", points, "pairs (x, y), x above 0 for its logarithm")
    x, y = zip(*points.values(), strict=True)
    ax.plot(x, y, "o-", color=PALETTE[0], lw=0.8, ms=5)
    for i, (name, point) in enumerate(points.items()):  # below and above by turns, for neighbours are close
        ax.annotate(name, point, textcoords="offset points", xytext=(6, 4 if i % 2 else -9), size=8)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log", xlim=(0.6 * min(x), 2.5 * max(x)))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.minorticks_off()
    return ax


def plot_published(
    published: Sequence[Any],
    kinds: Sequence[str],
    ours: Mapping[str, float],
    claims: Mapping[str, float],
    title: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw published accuracies over their years, ours as lines, and claims that nobody could check as dotted ones.

    Args:
        published: `course.decisions.Published`, all of one data set.
        kinds: all there are, each with a colour of its own.
        ours, claims: name to accuracy, a fraction.
    """
    ax = _begin(ax, title, published=published, kinds=kinds)
    _require_fields("published", published, "year", "course.decisions.Published")
    for kind, colour in zip(kinds, PALETTE[:3] + PALETTE[4:], strict=False):  # the fourth is that of the claims
        chosen = [p for p in published if p.kind == kind]
        ax.scatter([p.year for p in chosen], [100 * p.accuracy for p in chosen], color=colour, s=22, label=kind)
    years = [p.year for p in published]
    for i, (name, value) in enumerate(ours.items()):  # in two columns, for neighbours are close
        ax.axhline(100 * value, color="black", lw=0.8)
        x = 0.02 + 0.5 * (i % 2)
        ax.text(x, 100 * value, f"{name}, {100 * value:.1f}", size=8, va="bottom", transform=ax.get_yaxis_transform())
    for name, value in claims.items():
        ax.axhline(100 * value, color=PALETTE[3], lw=1, ls=":", label=name)
    ax.set(title=title, xlabel="year of publication", ylabel="test accuracy (%)")
    ax.set(xlim=(min(years) - 1, max(years) + 2))
    ax.locator_params(axis="x", integer=True)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_history(
    history: Sequence[Any], num_classes: int, title: str, axes: Sequence[Axes] | np.ndarray | None = None
) -> Sequence[Axes] | np.ndarray:
    """Draw loss, with ln C, and accuracy, with chance, over the epochs of a run, on two axes.

    Args:
        history: `training.EpochRecord`s.
    """
    _require_text("title", title)
    _require_classes(num_classes)
    require(len(history) > 0, "history", history, "at least one epoch")
    axes = axes if axes is not None else plt.gcf().subplots(1, 2)
    two = isinstance(axes, list | tuple | np.ndarray) and len(axes) == 2
    require(two, "axes", axes, "two, such as those of new_axes(1, 2)")
    epochs = [record.epoch for record in history]
    for split in ("train", "val"):
        style = {"color": SPLIT_COLOURS[split], "marker": "o", "ms": 3, "label": _SPLIT_NAMES[split]}
        axes[0].plot(epochs, [getattr(record, f"{split}_loss") for record in history], **style)
        axes[1].plot(epochs, [100 * getattr(record, f"{split}_accuracy") for record in history], **style)
    axes[0].axhline(math.log(num_classes), label=f"ln {num_classes} = {math.log(num_classes):.3f}", **REFERENCE)
    axes[1].axhline(100 / num_classes, label=f"chance, {1 / num_classes:.0%}", **REFERENCE)
    axes[0].set(xlabel="epoch", ylabel="cross-entropy (nats)", title=f"{title}: loss")
    axes[1].set(xlabel="epoch", ylabel="accuracy (%)", title=f"{title}: accuracy", ylim=(0, None))
    for ax in axes:
        ax.locator_params(axis="x", integer=True)
        ax.legend(frameon=False, fontsize=8)
    return axes


def plot_matrix(
    matrix: np.ndarray | torch.Tensor,
    names: Sequence[str],
    title: str,
    *,
    unit: str,
    xlabel: str,
    ylabel: str,
    annotate: bool = False,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a square matrix (C, C) as a heat map; `unit` names what the colours mean, from `vmax` on the same one."""
    ax = _begin(ax, title, matrix=matrix)
    for name, text in (("unit", unit), ("xlabel", xlabel), ("ylabel", ylabel)):
        _require_text(name, text)
    shape = np.shape(matrix)
    require(len(shape) == 2 and shape[0] == shape[1], "matrix", matrix, "a square one (C, C)")
    require(len(names) == shape[0], "names", names, f"{shape[0]}, one for each row")
    form = ".0f" if np.asarray(matrix).dtype.kind in "iu" else ".2f"
    ticks = names if len(names) <= 20 else False
    bar = {"label": unit, "shrink": 0.8, "extend": "neither" if vmax is None else "max"}
    sns.heatmap(
        np.asarray(matrix), annot=annotate, fmt=form, cmap="viridis", xticklabels=ticks, yticklabels=ticks, square=True,
        cbar_kws=bar, annot_kws={"size": 7}, vmax=vmax, ax=ax,
    )  # fmt: skip
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.tick_params(length=0, labelsize=7)
    return ax


def plot_accuracy_by_ratio(
    ratio: torch.Tensor, correct: torch.Tensor, threshold: float, title: str, *, bins: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the accuracy of nearest-neighbour classification against the ratio of the two smallest distances.

    Args:
        ratio: (N,), distance to the nearest over distance to the second nearest, in [0, 1].
        correct: bool (N,), whether the nearest has the query's label.
        threshold: ratio below which a pair is a candidate for a near duplicate.
    """
    ax = _begin(ax, title, ratio=ratio)
    _require_tensor("correct", correct, len(ratio))
    require_whole("bins", bins)
    edges = torch.linspace(0, 1, bins + 1)
    place = torch.bucketize(ratio, edges[1:-1])
    share = [100 * correct[place == b].float().mean().item() for b in range(bins)]
    colours = [SPLIT_COLOURS["test"] if edge < threshold - 1e-6 else "0.75" for edge in edges[:-1]]
    ax.bar(edges[:-1], np.nan_to_num(share), width=1 / bins, align="edge", color=colours, linewidth=0)
    near = ratio < threshold
    for name, chosen, colour in (("candidates", near, SPLIT_COLOURS["test"]), ("the rest", ~near, "0.75")):
        right = f"{100 * correct[chosen].float().mean():.1f} % right" if chosen.any() else "not available"
        ax.bar(0, 0, color=colour, label=f"{name}: {int(chosen.sum())} images, {right}")
    ax.axvline(threshold, **REFERENCE)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.set(xlabel="distance to the nearest / to the second nearest", title=title, xlim=(0, 1), ylim=(0, 130))
    ax.set_ylabel("1-NN accuracy on test (%)")
    return ax


def plot_curve(x: Sequence[float], curves: Mapping[str, ArrayLike], ax: Axes | None = None, **labels: Any) -> Axes:
    """Draw named curves over `x`; further keywords (title, xlabel, ylabel, xscale) go to the axes.

    Values of shape (len(x), R) are R repetitions: their mean as a line, from the smallest to the largest as a band.
    """
    ax = _begin(ax, labels.get("title", ""), x=x, curves=curves)
    for name in ("xlabel", "ylabel"):
        _require_text(name, labels.get(name, ""))
    marker = "o" if len(x) <= 30 else None
    for (name, values), colour in zip(curves.items(), itertools.cycle(PALETTE), strict=False):
        repeated = _to_numbers(name, values)
        if len(repeated) != len(x):
            raise ValueError(f"curve {name!r} has {len(repeated)} values; expected one for each of the {len(x)} x")
        repeated = repeated.reshape(len(x), -1)
        ax.plot(x, repeated.mean(1), marker=marker, ms=4, color=colour, label=name)
        if repeated.shape[1] > 1:
            ax.fill_between(x, repeated.min(1), repeated.max(1), color=colour, alpha=0.2, linewidth=0)
    try:
        ax.set(**labels)
    except (AttributeError, TypeError, ValueError) as error:
        allowed = "values that axes have, such as title, xlabel, ylabel, xscale and ylim"
        raise ValueError(f"labels={labels!r} is not allowed: {allowed} ({str(error).splitlines()[0]})") from error
    ax.legend(frameon=False, fontsize=8)
    return ax


def _to_numbers(name: str, values: ArrayLike) -> np.ndarray:
    """Return the values of a curve as an array of one dimension or more."""
    try:
        return np.atleast_1d(np.asarray(values, dtype=float))
    except (TypeError, ValueError) as error:
        raise ValueError(f"curve {name!r} is {values!r}; expected numbers, equally many in every repetition") from error


def plot_initial_losses(
    losses: Mapping[str, float], wrong: Sequence[str], num_classes: int, title: str, ax: Axes | None = None
) -> Axes:
    """Draw the loss of untrained networks as bars, those named in `wrong` in another colour, with ln C as a line."""
    ax = _begin(ax, title, losses=losses)
    _require_classes(num_classes)
    colours = [PALETTE[3] if name in wrong else PALETTE[0] for name in losses]
    ax.barh(list(losses), list(losses.values()), color=colours)
    for i, value in enumerate(losses.values()):
        ax.text(value, i, f" {value:.3f}", va="center", size=8)
    ax.axvline(math.log(num_classes), label=f"ln {num_classes} = {math.log(num_classes):.3f}", **REFERENCE)
    ax.set(xlabel="cross-entropy before training (nats)", title=title, xlim=(0, 1.15 * max(losses.values())))
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax


def plot_dependencies(matrix: torch.Tensor, title: str, ax: Axes | None = None) -> Axes:
    """Draw gradients (N, N) of the logits of one example (row) by the image of another (column); exact zeros white."""
    ax = _begin(ax, title, matrix=matrix)
    _require_tensor("matrix", matrix, len(matrix), len(matrix), form="(N, N)")
    logarithms = torch.where(matrix > 0, matrix, torch.nan).log10()
    sns.heatmap(
        logarithms.numpy(), cmap="viridis", square=True, linewidths=0.5, linecolor="0.85", ax=ax, vmin=-3, vmax=0,
        cbar_kws={"label": "log10 of the largest gradient", "shrink": 0.8, "extend": "both"},
    )  # fmt: skip
    ax.set(title=title, xlabel="image", ylabel="logits of example")
    ax.tick_params(length=0)
    return ax


def plot_verdicts(
    failed: Mapping[str, Sequence[str]],
    checks: Sequence[str],
    made_for: Mapping[str, str],
    title: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw which checks (columns) fail on which bug (rows).

    Args:
        failed: the name of each bug to the names of the checks that fail.
        made_for: the name of each bug to the check that is made for it, drawn darker.
    """
    ax = _begin(ax, title, failed=failed, checks=checks)
    shades = {"not seen": "0.96", "seen as well": sns.desaturate(PALETTE[0], 0.5), "seen by its check": PALETTE[3]}
    values = [[(c in seen) * (1 + (made_for.get(bug) == c)) for c in checks] for bug, seen in failed.items()]
    rgb = np.array([[to_rgb(list(shades.values())[v]) for v in row] for row in values])
    ax.imshow(rgb, aspect="auto")
    ax.set_xticks(range(len(checks)), checks, rotation=40, ha="left", size=8)
    ax.set_yticks(range(len(failed)), list(failed), size=8)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(checks) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(failed) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    for name, colour in shades.items():
        ax.bar(0, 0, color=colour, label=name)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.02), ncols=3, frameon=False, fontsize=8)
    ax.set(title=title, xlabel="check", ylabel="bug", xlim=(-0.5, len(checks) - 0.5), ylim=(len(failed) - 0.5, -0.5))
    return ax


def plot_architecture(layers: Sequence[Any], title: str, ax: Axes | None = None) -> Axes:
    """Draw what a network makes of an image, one box for each convolution, pool and linear layer, in order.

    The height of a box is the side of its output, its width grows with the logarithm of the channels.

    Args:
        layers: rows of `models.layer_table`.
    """
    ax = _begin(ax, title)
    rows = isinstance(layers, list | tuple) and len(layers) > 0 and all(hasattr(row, "kind") for row in layers)
    require(rows, "layers", layers, "at least one row of models.layer_table")
    colours = {"image": "0.6", "convolution": PALETTE[0], "pool": PALETTE[1], "linear": PALETTE[2]}
    kinds = {"Conv2d": "convolution", "Linear": "linear", "MaxPool2d": "pool", "AdaptiveAvgPool2d": "pool"}
    kinds["GlobalMax"] = "pool"
    boxes = [("image", layers[0].input)] + [(kinds[row.kind], row.output) for row in layers if row.kind in kinds]
    x, sides = 0.0, [shape[-1] if len(shape) == 3 else 1 for _, shape in boxes]
    for (kind, shape), side, before in zip(boxes, sides, [0, *sides], strict=False):
        width = 0.25 if kind == "pool" else 0.18 * math.log2(shape[0] + 1)
        ax.bar(x, side, width, bottom=-side / 2, align="edge", color=colours[kind], linewidth=0)
        if kind != "pool":
            ax.text(x + width / 2, -side / 2 - 1, shape[0], ha="center", va="top", size=7)
        if side != before and len(shape) == 3:
            ax.text(x, side / 2 + 1, f"{side} px", ha="left", va="bottom", size=7, color="0.4")
        x += width + 0.35
    for kind, colour in colours.items():
        ax.bar(0, 0, color=colour, label=kind, linewidth=0)
    ax.legend(frameon=False, fontsize=8, loc="upper right", ncols=4, bbox_to_anchor=(1, 1.03))
    ax.set(title=title, xlabel="from image to logits; below a box its channels, above it the side of its output")
    ax.set(xticks=[], yticks=[], ylim=(-0.7 * max(sides), 0.85 * max(sides)))
    ax.spines[:].set_visible(False)
    return ax
