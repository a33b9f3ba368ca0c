"""Kill processes with SIGKILL at every moment, start them again, and count what is lost: `make faults`.

    python benchmarks/faults.py [--scale 1.0] [--only JOB] [--seed 0] [--json FILE]

Each trial kills a job twice, at a random time or in a call of the system that writes, half of the bytes written, and
then lets it end. Nothing is lost if what it leaves is at every kill readable, and in the end the same to the last bit
as that of a job which nobody disturbed, without a file that nobody needs. A twin is the same job with one safeguard
taken out: it must lose something, or the trial could not fail. The exit status is 1 if a job loses something or a twin
nothing.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import torch
from torch import nn
from torchvision import datasets

from cifar_helpers import _storage
from cifar_helpers._hashing import hash_weights
from cifar_helpers.course import commands, execution, notebooks
from cifar_helpers.course.test_access import with_log_entry
from cifar_helpers.data import download
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.datasets import Split
from cifar_helpers.data.transforms import Flip, Normaliser
from cifar_helpers.tables import format_table
from cifar_helpers.training import TrainConfig, checkpoint, fit, loop

# --- the jobs: what they do in a folder, what they leave there, and whether that can be read ---


def train(folder: Path) -> None:
    """Train a network with BatchNorm, dropout and momentum for six epochs of four steps, and keep its result."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16 * 36, 4)
    )
    splits = [Split(name, *_pictures(count), tuple("abcd")) for name, count in (("train", 64), ("val", 32))]
    normaliser = Normaliser.fit(splits[0])
    config = TrainConfig(epochs=6, batch_size=16, lr=0.05, augment=(Flip(),), precision="float32")
    batches = [Batches(split, normaliser, "cpu") for split in splits]
    record = fit(net, *batches, config, checkpoint=folder / "run.safetensors", verbose=False)
    losses = [(row.train_loss, row.val_loss) for row in record.history]
    (folder / "result").write_text(f"{hash_weights(net)} {losses}")


def _pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator).to(torch.uint8), torch.arange(count) % 4


def read_training(folder: Path) -> object:
    """Read the checkpoint itself: the one before is for what kills cannot do."""
    return checkpoint._load(folder / "run.safetensors") if (folder / "run.safetensors").exists() else None


def append(folder: Path) -> None:
    """Append thirty lines to a log, going on after those that are there."""
    for i in range(len(_storage.read_lines(folder / "log.jsonl")), 30):
        _storage.append_line(folder / "log.jsonl", {"i": i, "padding": "x" * 5_000})


def read_log(folder: Path) -> object:
    return [row["i"] for row in _storage.read_lines(folder / "log.jsonl")]


def score(folder: Path) -> None:
    """Score ten runs on the test set, each of which leaves one entry."""
    for i in range(10):
        with_log_entry(folder / "test_access.jsonl", {"run": i}, lambda i=i: {"correct": 7 * i, "padding": "x" * 5_000})


def read_scores(folder: Path) -> object:
    return [(row["run"], row["result"]["correct"]) for row in _storage.read_lines(folder / "test_access.jsonl")]


MEMBERS = {"data_batch_1": b"a" * 300_000, "batches.meta": b"names"}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in MEMBERS.items():
            info = tarfile.TarInfo(f"tiny/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def fetch(folder: Path) -> None:
    """Fetch an archive of .3 MB from a server on this machine that takes a fifth of a second to send it."""
    datasets.Tiny = SimpleNamespace(
        base_folder="tiny",
        filename="tiny.tar",
        tgz_md5=_md5(_archive()),
        train_list=[["data_batch_1", _md5(MEMBERS["data_batch_1"])]],
        test_list=[],
        meta={"filename": "batches.meta", "md5": _md5(MEMBERS["batches.meta"])},
    )
    url = f"http://127.0.0.1:{os.environ['FAULTS_PORT']}/tiny.tar"
    download.ensure_files(download.Source("Tiny", 10, "Tiny", (url,), len(_archive())), folder)


def read_files(folder: Path) -> object:
    """Return the files that are there; one that is there is whole."""
    found = {path.name: path.read_bytes() for path in (folder / "tiny").glob("[a-z]*")}
    assert found.items() <= MEMBERS.items()
    return sorted(found)


class _SlowServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = _archive()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for i in range(0, len(body), len(body) // 20):
            self.wfile.write(body[i : i + len(body) // 20])
            time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[None]:
    """Serve the archive meanwhile; the processes that fetch it find the port in their environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _SlowServer)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed
    os.environ["FAULTS_PORT"] = str(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def run(folder: Path) -> None:
    """Execute three notebooks, each of which leaves its name when its last cell is over."""
    os.chdir(folder)
    (folder / "notebooks").mkdir(exist_ok=True)
    for i in range(1, 4):
        source = f"import time\ntime.sleep(.3)\nopen({str(folder / 'executed')!r}, 'a').write('{i}')"
        cells = [nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / f"0{i}_n.ipynb")
    commands.prepare = lambda *_: {"CIFAR_PROFILE": "quick"}  # type: ignore[assignment]
    execution.expected_seconds = lambda *_: {}  # type: ignore[assignment]
    commands.main(["run"])


def read_run(folder: Path) -> object:
    """Return which notebooks are executed whole; what is noted as whole must not have been executed again."""
    rows = _storage.read_lines(folder / "build" / "notebooks" / "progress.jsonl")
    done = [row["notebook"] for row in rows if row["state"] == "done"]
    assert len(set(done)) == len(done), "executed again"
    return sorted(done)


# --- what is taken out ---


def _in_place(path: Path, content: bytes, *, before: Path | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as file:
        _storage.os.write(file.fileno(), content)
        _storage.os.fsync(file.fileno())


def _take_out(twin: str) -> None:
    """Take one safeguard out of this process."""
    nothing: Any = lambda *_, **__: None  # noqa: E731
    match twin:
        case "files are written in place":
            _storage.write_whole = _in_place
        case "leftovers stay":
            for module in (_storage, checkpoint, download, notebooks):
                module.remove_abandoned = nothing  # type: ignore[attr-defined]
        case "the optimizer begins anew":
            loop.load_optimizer_state = nothing
        case "randomness goes on":
            loop.seed_everything = nothing
        case "a torn line stays":
            _storage._set_aside = nothing
        case "what was done is forgotten":
            notebooks.Progress.result = nothing


@dataclass(frozen=True)
class Case:
    """A job and how it is tried.

    Attributes:
        read: returns what the job has left so far, and fails if that is damaged.
        calls: functions of `os` in which it is killed, with how often the job calls them.
        trials: of two kills each.
        twins: safeguards to take out.
    """

    title: str
    job: Callable[[Path], None]
    read: Callable[[Path], object]
    calls: dict[str, int]
    trials: int
    twins: tuple[str, ...] = ()


CASES = (
    Case("training", train, read_training, {"write": 6, "fsync": 12, "link": 5, "replace": 11}, 60,
         ("files are written in place", "leftovers stay", "the optimizer begins anew", "randomness goes on")),
    Case("run log", append, read_log, {"write": 30, "fsync": 30}, 15, ("a torn line stays",)),
    Case("scores on the test set", score, read_scores, {"write": 10, "fsync": 10}, 10, ("a torn line stays",)),
    Case("download", fetch, read_files, {"write": 2, "fsync": 4, "replace": 2}, 15, ("leftovers stay",)),
    Case("run of notebooks", run, read_run, {}, 4, ("what was done is forgotten",)),
)  # fmt: skip


# --- killing ---


@dataclass
class Tally:
    """How many kills hit, how many of them in a call that writes, and what was lost."""

    kills: int = 0
    in_calls: int = 0
    trials: int = 0
    lost: list[str] = field(default_factory=list)


class _System:
    """The module `os`, as the one module of the package that writes sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _die_at(name: str, call: int) -> None:
    """Let this process be killed at a call of a function of `os` that writes a file; of a write, half is done."""
    original, calls = getattr(os, name), iter(range(10**9))

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            if name == "write":
                original(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    system = _System()
    setattr(system, name, replacement)
    _storage.os = system


def _work(job: Callable[[Path], None], folder: Path, death: tuple[str, int] | None, twin: str, ready: Any) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    _take_out(twin)
    ready.send(True)
    if death:
        _die_at(*death)
    job(folder)


PROCESSES = multiprocessing.get_context("forkserver")


def start(case: Case, folder: Path, death: tuple[str, int] | float | None, twin: str) -> tuple[bool, float]:
    """Do the job in a process, and return whether it was killed, and its seconds.

    Args:
        death: a call of `os`, or a time in seconds.
    """
    ready, send = PROCESSES.Pipe(duplex=False)
    at_call = death if isinstance(death, tuple) else None
    process = PROCESSES.Process(target=_work, args=(case.job, folder, at_call, twin, send))
    process.start()
    ready.recv()
    begun = time.perf_counter()
    process.join(death if isinstance(death, float) else 120)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode == -signal.SIGKILL, time.perf_counter() - begun


def leftovers(folder: Path) -> list[str]:
    """Return the names of files that nobody needs."""
    patterns = (f"**/{_storage.PARTIALS}", "**/.fetch-*")
    return sorted(path.name for pattern in patterns for path in folder.glob(pattern))


def _try(read: Callable[[Path], object], folder: Path) -> tuple[object, str]:
    """Return what is left in a folder, and why it cannot be read."""
    try:
        with redirect_stdout(io.StringIO()):  # a torn line is said
            return read(folder), ""
    except Exception as error:
        return None, str(error).splitlines()[0][:100] or type(error).__name__


def measure(case: Case, trials: int, twin: str, chance: random.Random) -> Tally:
    """Kill a job twice a trial and let it end; count what is lost. Of a twin, the first loss is enough."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, seconds = start(case, _fresh(folder / "whole"), None, twin)
        expected = _outcome(case, folder / "whole")
        while tally.trials < trials and not (twin and tally.lost):
            lost = _try_once(case, _fresh(folder / "trial"), twin, chance, seconds, tally)
            found, left = _outcome(case, folder / "trial"), leftovers(folder / "trial")
            lost = lost or ("" if found == expected else f"another result: {found}"[:100])
            lost = lost or ("a file is left: " + left[0] if left else "")
            if lost:
                tally.lost.append(f"trial {tally.trials}: {lost}")
    return tally


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _outcome(case: Case, folder: Path) -> object:
    """Return what is left of a job in the end: it must be the same however often the job was killed."""
    result = (folder / "result").read_text() if (folder / "result").exists() else None
    return result or _try(case.read, folder)


def _try_once(case: Case, folder: Path, twin: str, chance: random.Random, seconds: float, tally: Tally) -> str:
    """Kill a job twice, let it end, and return what could not be read after a kill."""
    tally.trials += 1
    for _ in range(2):
        call = _draw_call(case, chance) if case.calls and chance.random() < 0.5 else None
        killed, _ = start(case, folder, call or 0.9 * chance.random() * seconds, twin)
        tally.kills += killed
        tally.in_calls += killed and call is not None
        damage = _try(case.read, folder)[1]
        if damage:
            return damage
    start(case, folder, None, twin)
    return ""


def _draw_call(case: Case, chance: random.Random) -> tuple[str, int]:
    name = chance.choice(list(case.calls))
    return name, chance.randrange(case.calls[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="how many of the trials are made (default: 1, all)")
    parser.add_argument("--only", choices=[case.title for case in CASES], help="one of the jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    PROCESSES.set_forkserver_preload(["cifar_helpers.course.commands", "cifar_helpers.course.execution", "torchvision"])
    rows: list[dict[str, Any]] = []
    good = True
    with serving():
        for case in [case for case in CASES if args.only in (None, case.title)]:
            for twin in ("", *case.twins):
                tally = measure(case, 100 if twin else max(1, round(args.scale * case.trials)), twin, chance)
                good &= bool(tally.lost) == bool(twin)
                row = {
                    "job": case.title,
                    "taken out": twin or "–",
                    "kills": tally.kills,
                    "of them while writing": tally.in_calls,
                    "trials": tally.trials,
                    "lost": len(tally.lost),
                    "first loss": tally.lost[0] if tally.lost else "–",
                }
                print(", ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
                rows.append(row)
    columns = [key for key in rows[0] if key != "first loss"]
    print(format_table([[row[key] for key in columns] for row in rows], columns))
    if args.json:
        _storage.write_whole(args.json, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
    sys.exit(not good)


if __name__ == "__main__":
    main()
