"""The line that says how far something is: what stands on it, who sees it, and that nothing of it is kept."""

import contextlib
import dataclasses
import io
import os
import subprocess
import sys

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from notebook_files import write_notebook
from small import TINY, small_batches, tiny_net

from cifar_helpers import _progress
from cifar_helpers._progress import ProgressLine, count_items
from cifar_helpers.course.execution import execute
from cifar_helpers.training import predict, sweep


class Terminal(io.StringIO):
    """A terminal whose row a test reads; `with terminal:` writes to it."""

    encoding = "utf-8"

    def __enter__(self):
        self.redirection = contextlib.redirect_stdout(self)
        self.redirection.__enter__()
        return self

    def __exit__(self, *error):
        self.redirection.__exit__(*error)

    def isatty(self):
        return True

    @property
    def drawn(self):
        """Every text that stood in the row, blank ones too."""
        return [part.rstrip() for part in self.getvalue().split("\r")[1:]]


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def count(clock, name, total, seconds, done=0):
    """Count the rest of `total`, each of which takes so many seconds."""
    with ProgressLine(name, total, done) as line:
        for _ in range(done, total or 12):
            clock.now += seconds
            line.advance()


def test_a_line_says_what_is_done_and_how_long_the_rest_takes_and_goes_away(clock, terminal):
    with terminal:
        count(clock, "step", 4, 10.0)
    texts = ["25%, 30 s left: step 2 of 4", "50%, 20 s left: step 3 of 4", "75%, 10 s left: step 4 of 4"]
    assert terminal.drawn == [*texts, "100%, 0 s left: step 4 of 4", "", ""]


def test_the_parts_of_a_whole_stand_on_one_line_and_the_time_is_that_of_the_whole(clock, terminal):
    with terminal, ProgressLine("run", 2) as runs:
        for name in runs.over("ab"):
            with ProgressLine(f"{name}, epoch", 2) as epochs:
                for _ in epochs.over(range(2)):
                    count(clock, "step", 5, 60.0)
    assert terminal.drawn[0] == "5%, 19 min left: run 1 of 2, a, epoch 1 of 2, step 2 of 5"
    assert "55%, 9 min left: run 2 of 2, b, epoch 1 of 2, step 2 of 5" in terminal.drawn
    assert terminal.drawn[-2:] == ["", ""]


def test_a_validation_between_epochs_does_not_set_the_share_back(clock, terminal):
    with terminal, ProgressLine("epoch", 2) as epochs:
        for _ in epochs.over(range(2)):
            count(clock, "step", 2, 10.0)
            count(clock, "batch", 2, 1.0)
    shares = [int(text.split("%")[0]) for text in terminal.drawn if text]
    assert shares == sorted(shares)
    assert len(shares) == 8


def test_what_was_done_before_took_no_time(clock, terminal):
    with terminal, ProgressLine("run", 4) as runs:
        for done in runs.over((10, 10, 0, 0)):  # two runs are loaded
            count(clock, "epoch", 10, 5.0, done)
    assert terminal.drawn[0] == "52%, 95 s left: run 3 of 4, epoch 2 of 10"


def test_what_is_over_soon_shows_no_line_and_others_are_drawn_twice_a_second(clock, terminal):
    with terminal:
        count(clock, "step", 400, 0.01)
    assert terminal.drawn == []
    with terminal:
        count(clock, "step", 600, 0.01)
    assert 9 <= len(terminal.drawn) <= 14


def test_without_a_known_end_it_says_how_long_it_has_taken(clock, terminal):
    with terminal:
        count(clock, "batch", None, 1.0)
    assert terminal.drawn[:2] == ["6 s: batch 7", "7 s: batch 8"]
    assert count_items(iter([1, 2])) is None
    assert count_items([1, 2]) == 2


def test_a_line_never_wraps_and_knows_every_encoding(clock, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    with terminal:
        count(clock, "a name → that is far too long for this terminal\n, step", 4, 10.0)
    assert terminal.drawn[0] == "25%, 30 s left: a name ? that"


def interrupted(clock):
    with ProgressLine("run", 2), ProgressLine("step", 3) as steps:
        clock.now += 10
        steps.advance()
        raise KeyboardInterrupt


def test_an_error_takes_the_line_away_and_leaves_nothing_to_what_comes_next(clock, terminal):
    with terminal:
        with pytest.raises(KeyboardInterrupt):
            interrupted(clock)
        assert terminal.drawn[-1] == ""
        count(clock, "step", 4, 10.0)
    assert "25%, 30 s left: step 2 of 4" in terminal.drawn


def test_a_pipe_gets_nothing(clock):
    pipe = io.StringIO()
    with contextlib.redirect_stdout(pipe):
        count(clock, "step", 4, 10.0)
    assert pipe.getvalue() == ""


def test_training_and_evaluation_count_their_batches(clock, terminal, monkeypatch):
    monkeypatch.setattr(_progress, "_EVERY", 0.0)
    monkeypatch.setattr(_progress, "_PATIENCE", -1.0)
    train, val = small_batches()
    monkeypatch.setattr(clock, "monotonic", lambda: 1.0)  # no time goes by, and all is drawn
    configs = {name: dataclasses.replace(TINY, epochs=2) for name in "ab"}
    with terminal:
        sweep(configs, lambda *_: tiny_net(), train, val)
        predict(tiny_net(), val)
    drawn = "\n".join(terminal.drawn)
    assert "0 s left: run 2 of 2, b, seed 0, epoch 1 of 2, step 3 of 4" in drawn
    assert "0 s left: run 2 of 2, b, seed 0, epoch 1 of 2, evaluating batch 2\n" in drawn
    assert terminal.getvalue().endswith("\r")
    assert "\n\r" in terminal.getvalue(), "a result stands in a row of its own"
    assert "33%, 0 s left: evaluating val batch 2 of 3" in drawn


# --- notebooks: a person watches, or their outputs are kept ---

CELL = """
import time
from cifar_helpers import _progress
_progress._EVERY, _progress._PATIENCE = 0.05, 0.1
with _progress.ProgressLine("part", 8) as parts:
    for part in parts.over(range(8)):
        time.sleep(0.05)
print("over")
"""


def test_whoever_watches_a_cell_sees_the_line_and_who_keeps_its_outputs_does_not():
    """A real kernel, asked as a front end asks, and as nbclient and nbval do."""
    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    try:
        seen = {True: [], False: []}
        for watched, messages in seen.items():
            hook = lambda message, to=messages: to.append((message["msg_type"], message["content"]))  # noqa: E731
            client.execute_interactive(CELL, allow_stdin=watched, output_hook=hook, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kept = [content for kind, content in seen[False] if kind not in ("status", "execute_input")]
    assert kept == [{"name": "stdout", "text": "over\n"}]
    lines = [content["data"]["text/plain"] for kind, content in seen[True] if kind.endswith("display_data")]
    assert len(lines) >= 4
    assert "left: part " in lines[0]
    assert lines[-1] == ""
    assert [content for kind, content in seen[True] if kind == "stream"] == kept


def test_an_executed_copy_holds_nothing_of_it_and_nbval_finds_the_same(tmp_path):
    source, path = write_notebook(tmp_path / "source.ipynb", CELL), tmp_path / "01_waits.ipynb"
    assert execute(source, path, {}).error is None
    outputs = nbformat.read(path, as_version=4).cells[0].outputs
    assert [(output.output_type, output.text) for output in outputs] == [("stream", "over\n")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", path.name]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout
