"""How far something is and how long it still takes, on one line that goes away again.

The line is for a person who waits: in a terminal, and in a notebook whose front end would let a cell ask a question
(`input()`), as JupyterLab, VS Code and Colab do. What executes notebooks to keep their outputs (nbval, and nbclient,
which `jupyter execute`, nbconvert and papermill use) would not, and is sent nothing.
"""

import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, TypeVar

from cifar_helpers.runtime import is_main_process

_EVERY = 0.5  # seconds from one drawing to the next
_PATIENCE = 5.0  # what takes no longer than so many seconds shows no line
_NOTEBOOK_WIDTH = 100  # characters

T = TypeVar("T")


class ProgressLine:
    """Counts what is done of `total`; inside another one, of that part of it which is under way.

    Used as `with ProgressLine("epoch", 10) as epochs: …; epochs.advance()`, all in one thread.

    Args:
        name: of what is counted, singular.
        total: None where nobody knows it; the line then says how long it has taken.
        done: what was done before, and took no time now.
    """

    def __init__(self, name: str, total: int | None, done: int = 0) -> None:
        self.name, self.total, self.done = " ".join(name.split()), total, done

    def __enter__(self) -> "ProgressLine":
        _here.enter(self)
        return self

    def __exit__(self, *_) -> None:
        _here.leave(self)

    def advance(self) -> None:
        """Count one more, and draw the line if it is time to."""
        self.done += 1
        _here.look()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and count each of them when the next one is asked for."""
        for item in items:
            yield item
            self.advance()

    def __str__(self) -> str:
        now = self.done + 1
        return f"{self.name} {now}" if self.total is None else f"{self.name} {min(now, self.total)} of {self.total}"


def hide() -> None:
    """Take the line off a terminal, because something else is printed there now; it comes back with the next count."""
    if _here.screen is not None:
        _here.screen.hide()


def count_items(items: object) -> int | None:
    """Return how many items there are; None where only going through them tells."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set
        return None


class _Thread(threading.local):
    """What this thread counts, from the outermost to the innermost, since when, and where it is drawn."""

    def __init__(self) -> None:
        self.lines: list[ProgressLine] = []
        self.screen: _Terminal | _Notebook | None = None
        self.begun = self.next_look = self.given = self.share = 0.0

    def enter(self, line: ProgressLine) -> None:
        if not self.lines:
            self.begun = time.monotonic()
            self.next_look = self.begun + 2 * _EVERY
            self.given = self.share = 0.0
        before = _share_done(self.lines)
        self.lines.append(line)
        self.given += _share_done(self.lines) - before

    def leave(self, line: ProgressLine) -> None:
        self.lines.remove(line)
        if self.screen is not None and not self.lines:
            self.screen.close()
            self.screen = None

    def look(self) -> None:
        """Draw the line if it is time to, somebody watches, and it is about more than a few seconds."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + _EVERY
        self.share = max(self.share, _share_done(self.lines))
        seconds, worked = now - self.begun, self.share - self.given
        left = seconds / worked * (1 - self.share) if worked > 0 else None
        if seconds + (left or 0.0) <= _PATIENCE:
            return
        self.screen = self.screen or _find_screen()
        if self.screen is not None:
            times = _describe(seconds) if left is None else f"{self.share:.0%}, {_describe(left)} left"
            self.screen.show(f"{times}: {', '.join(map(str, self.lines))}")


_here = _Thread()


def _share_done(lines: Sequence[ProgressLine]) -> float:
    """Return how much of the outermost is done, in [0, 1]."""
    share = 0.0
    for line in reversed(lines):
        share = 0.0 if line.total is None else min(1.0, (line.done + share) / max(1, line.total))
    return share


def _describe(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class _Terminal:
    """A row that is written over; blank in the end, so that the next words stand there."""

    def __init__(self) -> None:
        self.shown = 0  # characters

    def show(self, text: str) -> None:
        encoding = sys.stdout.encoding or "ascii"
        text = text[: shutil.get_terminal_size().columns - 1].encode(encoding, "replace").decode(encoding)
        print(f"\r{text:<{self.shown}}", end="", flush=True)
        self.shown = max(self.shown, len(text))

    def hide(self) -> None:
        if self.shown:
            print("\r" + " " * self.shown, end="\r", flush=True)
            self.shown = 0

    close = hide


class _Notebook:
    """An output of the cell that is replaced, in the end by no text; what is printed meanwhile stands below it."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, text: str) -> None:
        data = {"text/plain": text[:_NOTEBOOK_WIDTH]}
        if self.handle is None:
            from IPython.display import display

            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)

    def hide(self) -> None:
        pass

    def close(self) -> None:
        self.show("")


def _find_screen() -> _Terminal | _Notebook | None:
    """Return where a person sees what is drawn; None if nobody watches."""
    if sys.stdout is None or not is_main_process():
        return None
    if sys.stdout.isatty():
        return _Terminal()
    return _Notebook() if _is_notebook_watched() else None


def _is_notebook_watched() -> bool:
    """Return whether this is a cell whose words are not caught, and whose front end would let it ask a question."""
    if type(sys.stdout).__module__ != "ipykernel.iostream":
        return False
    shell = sys.modules["IPython"].get_ipython()
    return bool(shell and shell.get_parent().get("content", {}).get("allow_stdin"))
