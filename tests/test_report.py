import json
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from PIL import Image, PngImagePlugin

from cifar_helpers._storage import append_line
from cifar_helpers.course._ownership import FIGURE_FACTS
from cifar_helpers.course.notebooks import NotebookResult
from cifar_helpers.course.report import write_report
from cifar_helpers.course.verdicts import read_verdicts, verdict
from cifar_helpers.course.workspace import open_workspace
from cifar_helpers.tables import format_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = [
    NotebookResult("01_good", 3.2, 2**30, Path("01_good.ipynb"), None, b""),
    NotebookResult("02_bad", 1.0, 2**30, Path("02_bad.ipynb"), "cell 2: KeyError: 'no <class>'", b""),
]

ROW = {
    "name": "cnn",
    "notebook": "04_cnn",
    "dataset": "cifar10",
    "data_source": "real",
    "profile": "quick",
    "device": "cpu",
    "seed": 0,
    "epochs": 2,
    "seconds": 1.5,
    "train_accuracy": 0.5,
    "val_accuracy": 0.4,
    "run_hash": "0123456789ab",
}


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    return tmp_path


def save_line(source: str) -> None:
    figure, ax = plt.subplots()
    ax.set_title("A line")
    open_workspace("01_good", "quick", "cpu", [source]).save_figure(figure, "line", "It rises & rises.")
    plt.close(figure)


def test_the_report_is_one_page_with_everything_inside(out):
    save_line("real")
    page = write_report(out, RESULTS).read_text(encoding="utf-8")
    for words in ("A line", "It rises &amp; rises.", "01_good · quick · cpu", "real data", "no &lt;class&gt;", "torch"):
        assert words in page
    assert page.count("data:image/png;base64,") == 1
    assert "alt='A line. It rises &amp; rises.'" in page
    assert "src='data:" in page
    assert "Made from synthetic data" not in page


def test_a_report_on_synthetic_data_says_so_first(out):
    save_line("synthetic")
    page = write_report(out, RESULTS).read_text(encoding="utf-8")
    assert page.index("Made from synthetic data: no number on this page is about CIFAR.") < page.index("<h2")


def test_the_report_begins_with_the_hypotheses_beside_what_the_published_notebooks_say(out):
    """Of a notebook of today, as it is published and as a quick run leaves it."""
    published = ROOT / "notebooks" / "05_batchnorm.ipynb"
    rows = read_verdicts(published)
    assert len(rows) == 4
    assert rows[0] == ("1 three epochs instead of five", "failed", "epoch 4 of 5, +5.3 points, n = 3")
    here = [verdict(hypothesis, False, "n = 1", judged=False) for hypothesis, _, _ in rows]
    text = format_table(here, ("hypothesis", "outcome", "measured"))
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=f"{text}\n")])
    executed = out / "notebooks" / published.name
    executed.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), executed)
    shutil.copy(ROOT / "notebooks" / "06_augmentation.ipynb", executed.parent)  # lies there, and was not executed
    result = NotebookResult(published.stem, 1.0, 2**30, executed, None, b"")
    page = write_report(out, [*RESULTS, result]).read_text(encoding="utf-8")
    assert "06_augmentation" not in page
    first = page.index("What became of the hypotheses</h2>")
    assert (
        first
        < page.index("not judged")
        < page.index(">failed<")
        < page.index(">epoch 4 of 5, +5.3 points, n = 3<")
        < page.index("Runs</h2>")
    )
    assert page.index("name='viewport'") < page.index("<h1>")
    assert page.index("Time and memory</h2>") < page.index("Environment</h2>") < page.index("</html>")


def test_a_picture_of_yours_is_not_in_the_report(out):
    save_line("real")
    Image.new("RGB", (4, 4)).save(out / "figures" / "01_thesis.png")
    assert "01_thesis" not in write_report(out, RESULTS).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "facts",
    [
        dict.fromkeys(FIGURE_FACTS, 1),
        dict.fromkeys(FIGURE_FACTS),
        {key: ["x"] for key in FIGURE_FACTS},
        list(FIGURE_FACTS),
        {"title": "x"},
    ],
    ids=["number", "nothing", "list", "no pairs", "text"],
)
def test_a_foreign_picture_or_a_broken_link_does_not_stop_the_report(out, facts):
    save_line("real")
    described = PngImagePlugin.PngInfo()
    described.add_text("Description", json.dumps(facts))
    Image.new("RGB", (4, 4)).save(out / "figures" / "01_foreign.png", pnginfo=described)
    (out / "figures" / "01_text.png").write_text("mine")
    if os.name == "posix":
        (out / "figures" / "01_link.png").symlink_to("nowhere")
        os.mkfifo(out / "figures" / "01_pipe.png")
    page = write_report(out, RESULTS).read_text(encoding="utf-8")
    assert page.count("<figure") == 1
    assert "01_line" in page


def test_rows_of_other_programs_are_counted_and_ours_are_shown(out):
    log = out / "figures" / "runs.jsonl"
    append_line(log, ROW)
    for change in (*({key: value} for key in ROW for value in (None, [], {"a": 1})), {"seconds": "fast"}, {"name": 3}):
        append_line(log, ROW | change)
    for key in ROW:
        append_line(log, {k: v for k, v in ROW.items() if k != key})
    append_line(log, ROW | {"name": "<script>alert(1)</script>", "device": "'\"><img src=x>"})
    page = write_report(out, RESULTS).read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<td>cnn</td>" in page
    assert "lines of runs.jsonl are no runs as cifar_helpers logs them" in page


def test_a_report_is_written_over_an_older_one_and_over_no_other_page(out):
    save_line("real")
    page = write_report(out, RESULTS)
    assert write_report(out, RESULTS) == page
    page.write_text("<html>mine</html>")
    with pytest.raises(ValueError, match=r"report\.html was not written by cifar_helpers"):
        write_report(out, RESULTS)
    assert page.read_text() == "<html>mine</html>"
