import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from small import NAMES, random_split

from cifar_helpers import plots
from cifar_helpers.course.decisions import KINDS, PUBLISHED, Swing
from cifar_helpers.metrics import calibration
from cifar_helpers.models.networks import make_model
from cifar_helpers.models.summary import layer_table
from cifar_helpers.training.records import EpochRecord

plt.switch_backend("agg")
SPLIT = random_split(24)
HISTORY = [EpochRecord(e, e, 0.1, 2 / e, 0.2 * e, 2.5 / e, 0.15 * e, 1.0) for e in (1, 2, 3)]
CONFUSION = torch.eye(4, dtype=torch.int64) * 5
SWINGS = [Swing("wide", 1, 3, -10.0, 40.0), Swing("infinite", 0, 1, -math.inf, 10.0), Swing("none", 1, 1, 10.0, 10.0)]

DRAW = {
    "images": lambda ax: plots.plot_images(SPLIT.images, 6, captions=["a b"] * 24, row_names=NAMES, title="t", ax=ax),
    "no images": lambda ax: plots.plot_images(SPLIT.images[:0], 6, title="t", ax=ax),
    "channels": lambda ax: plots.plot_channel_histograms(SPLIT.images, (0.4,) * 3, (0.2,) * 3, "t", ax),
    "spectrum": lambda ax: plots.plot_variance_spectrum({"a": np.array([0.6, 0.3, 0.1])}, {"a": 2}, 0.9, "t", ax),
    "embedding": lambda ax: plots.plot_embedding(np.random.rand(24, 2), SPLIT.labels, NAMES, "t", ax),
    "accuracies": lambda ax: plots.plot_accuracies({"a": 0.3, "b": float("nan")}, 0.1, "t", ax=ax),
    "matrix": lambda ax: plots.plot_matrix(
        CONFUSION, NAMES, "t", unit="u", xlabel="x", ylabel="y", annotate=True, ax=ax
    ),
    "ratio": lambda ax: plots.plot_accuracy_by_ratio(torch.rand(50), torch.rand(50) > 0.5, 0.8, "t", ax=ax),
    "curve": lambda ax: plots.plot_curve([1, 2], {"a": [1, 2]}, ax, title="t", xlabel="x", ylabel="y"),
    "band": lambda ax: plots.plot_curve([1, 2], {"a": [[1, 2], [3, 5]]}, ax, title="t", xlabel="x", ylabel="y"),
    "initial losses": lambda ax: plots.plot_initial_losses({"a": 2.3, "b": 9.0}, ["b"], 10, "t", ax),
    "dependencies": lambda ax: plots.plot_dependencies(torch.eye(4), "t", ax),
    "intervals": lambda ax: plots.plot_intervals({"a": (0.5, 0.4, 0.6)}, 0.1, "t", marks={"a": [0.45]}, ax=ax),
    "reliability": lambda ax: plots.plot_reliability({"a": calibration(torch.eye(4), torch.arange(4))}, "t", ax),
    "differences": lambda ax: plots.plot_differences({"a": (0.02, 0.01, 0.03), "b": (0, -0.01, 0.01)}, "t", ax),
    "tornado": lambda ax: plots.plot_tornado(SWINGS, 10.0, "t", "x", ax),
    "tradeoff": lambda ax: plots.plot_tradeoff({"a": (1, 50), "b": (30, 60)}, "t", "x", "y", ax),
    "published": lambda ax: plots.plot_published(PUBLISHED[:5], KINDS, {"ours": 0.9}, {"claim": 1.0}, "t", ax),
    "verdicts": lambda ax: plots.plot_verdicts({"a": [], "b": ["d"]}, ["c", "d"], {"b": "d"}, "t", ax),
}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAW)
def test_a_plot_draws_on_the_axes_it_is_given_and_nothing_else(name):
    before = dict(plt.rcParams)
    figure, (left, right) = plt.subplots(1, 2)
    assert DRAW[name](left) is left
    figure.canvas.draw()
    assert left.get_title() == "t"
    assert not right.has_data()
    assert plt.get_fignums() == [figure.number]
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize("name", sorted(set(DRAW) - {"images", "no images"}))
def test_axes_are_labelled(name):
    _, ax = plt.subplots()
    DRAW[name](ax)
    assert ax.get_xlabel()
    assert ax.get_ylabel() or name in ("accuracies", "differences", "initial losses", "intervals", "tornado")


def test_every_pixel_of_a_grid_is_the_images():
    _, ax = plt.subplots()
    plots.plot_images(SPLIT.images[:4], 2, ax=ax)
    canvas = ax.images[0].get_array()
    assert canvas.shape == (18, 18, 3)
    for i, (y, x) in enumerate([(0, 0), (0, 10), (10, 0), (10, 10)]):
        assert (canvas[y : y + 8, x : x + 8] == SPLIT.images[i].permute(1, 2, 0).numpy()).all()


def test_missing_images_and_values_are_said():
    _, (left, right) = plt.subplots(1, 2)
    DRAW["no images"](left)
    DRAW["accuracies"](right)
    assert "not available" in left.texts[0].get_text()
    assert "not available" in right.texts[1].get_text()


def test_curves_show_chance_and_ln_c():
    figure, axes = plots.new_axes(1, 2)
    plots.plot_history(HISTORY, 10, "run", axes)
    figure.canvas.draw()
    loss, accuracy = axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation", "ln 10 = 2.303"]
    assert loss.lines[2].get_ydata()[0] == pytest.approx(2.302585)
    assert accuracy.lines[2].get_ydata()[0] == 10
    assert list(accuracy.lines[1].get_ydata()) == pytest.approx([15, 30, 45])


def test_repetitions_are_a_mean_and_a_band():
    _, ax = plt.subplots()
    DRAW["band"](ax)
    assert list(ax.lines[0].get_ydata()) == [1.5, 4]
    assert ax.collections[0].get_datalim(ax.transData).intervaly.tolist() == [1, 5]


def test_from_vmax_on_the_colours_of_a_matrix_are_the_same():
    _, ax = plt.subplots()
    plots.plot_matrix(CONFUSION, NAMES, "t", unit="u", xlabel="x", ylabel="y", vmax=2, ax=ax)
    assert ax.collections[0].get_clim() == (0, 2)


def test_an_interval_is_drawn_from_end_to_end_and_its_marks_are_in_percent():
    _, ax = plt.subplots()
    plots.plot_intervals({"a": (0.5, 0.4, 0.6), "b": (0.8, 0.7, 0.9)}, 0.1, "t", marks={"b": [0.75, 0.85]}, ax=ax)
    bars = [list(line.get_xdata()) for line in ax.lines]
    assert bars == [pytest.approx([40, 60]), pytest.approx([70, 90]), pytest.approx([75, 85])]


def test_a_network_that_is_right_less_often_than_it_says_lies_below_the_diagonal():
    logits, labels = torch.tensor([[math.log(3), 0.0]] * 4), torch.tensor([0, 0, 1, 1])  # it says three of four
    _, ax = plt.subplots()
    plots.plot_reliability({"too sure": calibration(logits, labels)}, "t", ax)
    x, y = ax.lines[0].get_xydata()[~np.isnan(ax.lines[0].get_ydata())][0]
    assert (x, y) == pytest.approx((75, 50), abs=0.01)
    assert "error 25.0 %" in ax.get_legend().get_texts()[0].get_text()


def test_a_difference_is_drawn_in_points_with_its_interval():
    _, ax = plt.subplots()
    plots.plot_differences({"a": (0.02, 0.01, 0.03), "b": (0.0, -0.01, 0.01)}, "t", ax)
    assert list(ax.lines[0].get_xdata()) == pytest.approx([1, 3])
    assert ax.lines[2].get_color() == "0.6"  # it holds zero
    assert ax.lines[0].get_color() == plots.PALETTE[0]
    assert [text.get_text().strip() for text in ax.texts] == ["+2.00", "+0.00"]


def test_a_tornado_is_red_below_zero_and_ends_at_the_edge_where_a_value_is_infinite():
    _, ax = plt.subplots()
    plots.plot_tornado(SWINGS, 10.0, "t", "x", ax)
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width(), bar.get_y() < 0.5) for bar in ax.patches)
    assert [bar[:2] for bar in bars if bar[2]] == [(-10, 0), (0, 10), (10, 40)]
    reds = [bar for bar in ax.patches if bar.get_facecolor()[:3] == pytest.approx(plots.PALETTE[3])]
    assert [bar.get_x() + bar.get_width() for bar in reds] == [0, 0]
    assert min(bar.get_x() for bar in ax.patches) == ax.get_xlim()[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["wide", "infinite", "none"]
    assert [text.get_text().strip() for text in ax.texts] == ["1", "3", "0"]
    _, ax = plt.subplots()
    plots.plot_tornado([Swing("one side", 50, 2000, 12.0, 15.0)], 10.0, "t", "x", ax)
    assert [text.get_text().strip() for text in ax.texts] == ["2,000 and 50"]
    _, ax = plt.subplots()
    plots.plot_tornado([Swing("no rival", 0, 1, math.inf, math.inf)], math.inf, "t", "x", ax)
    assert all(map(math.isfinite, ax.get_xlim()))


def test_repetitions_in_the_wrong_direction_are_refused():
    with pytest.raises(ValueError, match="'a' has 2 values; expected one for each of the 3 x"):
        plots.plot_curve([1, 2, 3], {"a": [[1, 2, 3], [4, 5, 6]]})


def test_the_check_made_for_a_bug_has_a_colour_of_its_own():
    _, ax = plt.subplots()
    plots.plot_verdicts({"a": [], "b": ["c", "d"]}, ["c", "d"], {"b": "d"}, "t", ax)
    cells = ax.images[0].get_array()
    assert tuple(cells[1, 1]) == pytest.approx(plots.PALETTE[3])
    assert len({tuple(cell) for row in cells for cell in row}) == 3


def test_the_picture_of_a_network_has_a_box_for_every_layer_that_changes_the_image():
    _, ax = plt.subplots()
    plots.plot_architecture(layer_table(make_model("vgg16_bn", width=1 / 16)), "t", ax)
    boxes = [patch for patch in ax.patches if patch.get_height() > 0]
    assert len(boxes) == 1 + 13 + 5 + 3  # the image, convolutions, pools, linear layers
    assert [box.get_height() for box in boxes[:4]] == [32, 32, 32, 16]


def test_style_is_set_only_when_asked_for():
    before = dict(plt.rcParams)
    with plt.rc_context():
        plots.figure_style()
        assert plt.rcParams["figure.constrained_layout.use"]
    assert dict(plt.rcParams) == before
