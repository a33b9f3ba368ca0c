"""Full and read-only disks, odd surroundings, and kills: every writer of the package, in real processes."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from small import TINY, random_split, small_batches, tiny_net
from test_download import MEMBERS, make_archive, make_source

from cifar_helpers._storage import append_line, save_tensors, write_whole
from cifar_helpers.course._ownership import claim_folder, write_own
from cifar_helpers.course.execution import replace_source
from cifar_helpers.course.notebooks import NotebookResult, Progress
from cifar_helpers.course.report import write_report
from cifar_helpers.course.test_access import audit_test
from cifar_helpers.course.workspace import open_workspace
from cifar_helpers.data.download import ensure_files
from cifar_helpers.submission import write_submission
from cifar_helpers.training.callbacks import CSVLogger
from cifar_helpers.training.loop import fit
from cifar_helpers.training.records import RunRecord

ROOT = Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="limits, modes and forks are POSIX")


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return fit(tiny_net(), *small_batches(), TINY, verbose=False)


class Sealed:
    name = "tiny"
    sealed_test = random_split(8, "test")


def notebook_of(*sources: str) -> bytes:
    cells = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells)).encode()


def draw(here, turn: int) -> None:
    figure, ax = plt.subplots()
    ax.set_title(f"Turn {turn}")
    try:
        here.save_figure(figure, "line", "")
    finally:
        plt.close(figure)


def replace_notebook(folder: Path, turn: int) -> None:
    source, copy = folder / "01_n.ipynb", folder / "copy.ipynb"
    if turn == 0:
        source.write_bytes(notebook_of("1"))
        notebook = nbformat.reads(notebook_of("1").decode(), as_version=4)
        notebook.metadata["cifar_helpers"] = {}
        nbformat.write(notebook, copy)
    replace_source(source, NotebookResult("01_n", 1.0, 1, copy, None, source.read_bytes()))


def unpack(folder: Path, turn: int) -> None:
    """Put the archive there by hand; the second time a member is missing again."""
    if turn == 0:
        (folder / "tiny.tar.gz").write_bytes(make_archive(MEMBERS))
    ensure_files(make_source([], make_archive(MEMBERS)), folder)


# Name to what writes something into a folder, for the first and for the second time.
WRITERS = {
    "a file": lambda folder, turn, record: write_whole(folder / "x", bytes([turn])),
    "a file with the one before": lambda folder, turn, record: write_whole(
        folder / "x", bytes([turn]), before=folder / "y"
    ),
    "tensors": lambda folder, turn, record: save_tensors(folder / "x", {"w": torch.full((3,), turn)}, {}),
    "a line": lambda folder, turn, record: append_line(folder / "log.jsonl", {"turn": turn}),
    "a checkpoint": lambda folder, turn, record: fit(
        tiny_net(), *small_batches(), TINY, checkpoint=folder / f"{turn}.safetensors", verbose=False
    ),
    "a CSV file": lambda folder, turn, record: CSVLogger(folder / "x.csv").on_fit_start(record.history[:turn], None),
    "a submission": lambda folder, turn, record: write_submission(
        folder / "x.csv", torch.tensor([0, 1]), torch.tensor([turn, 1]), 2, count=2
    ),
    "a figure": lambda folder, turn, record: draw(open_workspace("01_n", "quick", "cpu", ["real"]), turn),
    "logits": lambda folder, turn, record: open_workspace("01_n", "quick", "cpu", ["real"]).save_logits(
        record, torch.full((2, 2), turn), {"weights": "w"}
    ),
    "the run log": lambda folder, turn, record: open_workspace("01_n", "quick", "cpu", ["real"]).log_run(
        record, f"cifar{turn}"
    ),
    "the test-access log": lambda folder, turn, record: audit_test(
        Sealed, f"reason {turn}", open_workspace("01_n", "quick", "cpu", ["real"])
    ),
    "the report": lambda folder, turn, record: write_report(folder, []),
    "a marker": lambda folder, turn, record: claim_folder(folder / f"new-{turn}"),
    "an executed copy": lambda folder, turn, record: write_own(folder / f"{turn}.ipynb", notebook_of("1")),
    "a published notebook": lambda folder, turn, record: replace_notebook(folder, turn),
    "progress": lambda folder, turn, record: Progress(folder, [], {}).note("begun", str(turn)),
    "data": lambda folder, turn, record: unpack(folder / "data", turn),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder; an empty one counts as none, because a log is opened before it is written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.stat().st_size}


def fill_disk(folder: Path) -> None:
    """Let no file of this process grow; tests that run as root could write on a full disk's reserve."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def forbid_writing(folder: Path) -> None:
    """Take the right to write from everything below a folder, and the power to ignore that from this process."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def write_in_vain(write, folder: Path, record: RunRecord, harm) -> None:
    """Write in a harmed place: one error that names the place, and everything is as it was."""
    before = contents(folder)
    harm(folder)
    try:
        write(folder, 1, record)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "nothing"
    good = str(folder) in said and "\n" not in said and said.startswith(("OSError", "PermissionError", "DataError"))
    os._exit(0 if good and contents(folder) == before else 3)


@posix
@pytest.mark.parametrize("harm", [fill_disk, forbid_writing])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_or_read_only_disk_is_said_and_changes_nothing(record, monkeypatch, name, harm):
    folder = Path(tempfile.mkdtemp())  # not below pytest's own, which is closed to others
    folder.chmod(0o755)
    (folder / "data").mkdir()
    monkeypatch.setenv("CIFAR_OUT", str(folder))
    try:
        WRITERS[name](folder, 0, record)
        if name == "data":
            (folder / "data" / "tiny" / "batches.meta").unlink()
        process = multiprocessing.get_context("fork").Process(
            target=write_in_vain, args=(WRITERS[name], folder, record, harm)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


# --- odd surroundings ---

EVERYTHING = """
import sys, pathlib
import torch
from cifar_helpers import load_checkpoint
from cifar_helpers.course import commands
from cifar_helpers.course.report import write_report
from cifar_helpers.course.workspace import open_workspace, read_figure
from cifar_helpers.training import fit
from cifar_helpers.training.callbacks import CSVLogger
sys.path.insert(0, sys.argv[1])
from small import TINY, small_batches, tiny_net
out = pathlib.Path(sys.argv[2])
here = open_workspace("01_n", "quick", "cpu", ["real"])
path = here.checkpoint("grün: × \\u2028")
callbacks = [CSVLogger(out / "ü.csv")]
record = fit(tiny_net(), *small_batches(), TINY, checkpoint=path, name="grün \\u2028", callbacks=callbacks)
same = here.log_run(record, "cifar10") == here.log_run(record, "cifar10")
import matplotlib.pyplot as plt
figure, ax = plt.subplots()
ax.set_title("Größe × 2 …")
print(read_figure(here.save_figure(figure, "ä", "ß"))["title"])
print(write_report(out, []).name, len(load_checkpoint(path).history), same)
sys.exit(commands.main(["doctor"]))
"""

ODD = {
    "everything at once": ({"LC_ALL": "C", "PYTHONOPTIMIZE": "1"}, ("HOME", "LANG", "USER")),
    "ascii alone": ({"PYTHONIOENCODING": "ascii:replace", "LC_ALL": "C"}, ()),
    "a home that is no folder": ({"HOME": "/dev/null"}, ()),
    "a home that is not there": ({"HOME": "/nonexistent"}, ()),
}


@posix
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if i else []) for i, name in enumerate(ODD)]
)
def test_odd_surroundings_change_nothing(tmp_path, name):
    changed, taken = ODD[name]
    work, out = tmp_path / "ein Ordner", tmp_path / "ä ö\u3042 'x' $y"
    work.mkdir()
    out.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in taken} | changed
    environment |= {"CIFAR_OUT": str(out), "CIFAR_DATA_DIR": str(out / "data"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", EVERYTHING, str(ROOT / "tests"), str(out)]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "report.html 4 True" in done.stdout
    assert "Traceback" not in done.stderr
    assert not list(work.iterdir())
    assert {path.name for path in out.iterdir()} == {"figures", "checkpoints", "report.html", "ü.csv"}


# --- kills ---


@pytest.mark.slow
@posix
def test_nothing_is_lost_by_kills_and_every_twin_without_a_safeguard_loses_something(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--scale", "0.2", "--json", tmp_path / "x.json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    rows = json.loads((tmp_path / "x.json").read_text())
    assert [row["first loss"] for row in rows if row["taken out"] == "–"] == ["–"] * 5
    assert [(row["job"], row["taken out"]) for row in rows if row["taken out"] != "–" and not row["lost"]] == []
    assert sum(row["kills"] for row in rows if row["taken out"] == "–") >= 20
    assert done.returncode == 0
