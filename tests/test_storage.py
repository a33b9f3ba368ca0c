import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from cifar_helpers._storage import (
    CheckpointError,
    append_line,
    exclusive,
    find_or_append,
    load_tensors,
    open_log,
    read_lines,
    read_sha256,
    remove_abandoned,
    save_tensors,
    write_whole,
)

FORK = multiprocessing.get_context("fork") if os.name == "posix" else None
posix = pytest.mark.skipif(os.name != "posix", reason="kills, modes, pipes and file size limits are POSIX")

TENSORS = {
    "weights": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "channels last": torch.arange(48.0).view(1, 3, 4, 4).to(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 2),
}


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "deep" / "run.safetensors"
    sha256 = save_tensors(path, TENSORS, {"epoch": 3, "name": "ärger"})
    tensors, about = load_tensors(path)
    assert about == {"epoch": 3, "name": "ärger"}
    assert read_sha256(path) == sha256
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name].view(torch.uint8) if tensor.ndim else tensors[name],
                           tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor)  # fmt: skip


def test_every_truncation_and_200_flipped_bits_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    save_tensors(path, TENSORS, {"epoch": 1})
    good = path.read_bytes()
    damaged = [good[: len(good) * i // 16] for i in range(16)] + [good + b"x"]
    for i in range(200):
        place = (i * 7919) % len(good)
        damaged.append(good[:place] + bytes([good[place] ^ (1 << i % 8)]) + good[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"run\.safetensors"):
            load_tensors(path)


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors cannot be read .*train the model first"):
        load_tensors(tmp_path / "none.safetensors")


def test_a_pickle_under_our_name_is_refused_and_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    path = tmp_path / "run.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_tensors(path)
    assert not (tmp_path / "canary").exists()


KILLED_WHILE_SAVING = """
import sys, torch
from pathlib import Path
from cifar_helpers._storage import save_tensors
tensors = {"w": torch.zeros(2_000_000)}
save_tensors(Path(sys.argv[1]), tensors, {"value": 0})
print("ready", flush=True)
while True:
    tensors["w"] += 1
    save_tensors(Path(sys.argv[1]), tensors, {"value": int(tensors["w"][0])})
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_checkpoint_survives_sigkill_at_any_moment(tmp_path):
    path = tmp_path / "run.safetensors"
    save_tensors(path, {"w": torch.zeros(1)}, {"value": 0})
    for i in range(6):
        process = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_SAVING, path], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        whole, deadline = path.stat().st_size, time.monotonic() + 0.3 + 0.037 * i
        while path.stat().st_size == whole and time.monotonic() < deadline:
            pass  # a writer in place shows a part of the file now and then: that is the moment to kill it
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        tensors, about = load_tensors(path)
        assert (tensors["w"] == about["value"]).all()


def run_with_small_files(limit: int, function, *args) -> None:
    """Call a function in a process whose files cannot grow beyond `limit` bytes, as on a full disk; it must succeed."""

    def limited() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        function(*args)

    process = FORK.Process(target=limited)
    process.start()
    process.join()
    assert process.exitcode == 0


def write_too_much(path: Path) -> None:
    with pytest.raises(OSError, match=r"100,000 bytes.*figure\.png"):
        write_whole(path, b"x" * 100_000)


@posix
def test_a_full_disk_leaves_the_old_file_and_no_stump(tmp_path):
    path = tmp_path / "figure.png"
    write_whole(path, b"old")
    run_with_small_files(1000, write_too_much, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- what a write leaves ---


def die_at(name: str, call: int) -> None:
    """Let this process be killed at a call of a function of `os`, the first of which is number 0."""
    original, calls = getattr(os, name), iter(range(100))

    def replacement(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, name, replacement)


def write_until_killed(path: Path, name: str, call: int) -> None:
    die_at(name, call)
    write_whole(path, b"new", before=path.with_name("before"))
    os._exit(3)


# Every call of the system in a write that could be its last.
MOMENTS = [("write", 0), ("fsync", 0), ("link", 0), ("replace", 0), ("replace", 1), ("fsync", 1)]


@posix
@pytest.mark.parametrize(("name", "call"), MOMENTS)
def test_a_write_that_was_killed_loses_nothing_and_the_next_one_leaves_nothing_of_it(tmp_path, name, call):
    path, before = tmp_path / "run", tmp_path / "before"
    write_whole(path, b"first")
    write_whole(path, b"second", before=before)
    process = FORK.Process(target=write_until_killed, args=(path, name, call))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = path.read_bytes() == b"new"
    assert path.read_bytes() in (b"second", b"new")
    assert (
        before.read_bytes() == b"second" if name == "fsync" and call else before.read_bytes() in (b"first", b"second")
    )
    write_whole(path, b"third", before=before)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "run": b"third",
        "before": b"new" if done else b"second",
    }


@posix
def test_what_a_living_process_writes_is_not_taken_for_abandoned(tmp_path):
    """Two processes save into one folder again and again: neither removes what the other is writing."""

    def write_many(name: str) -> None:
        for i in range(150):
            write_whole(tmp_path / name, name.encode() * i, before=tmp_path / f"{name}.before")

    writers = [FORK.Process(target=write_many, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.before", "b", "b.before"]
    assert (tmp_path / "b").read_bytes() == b"b" * 149


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "run", b"x")
    assert not list(tmp_path.iterdir())


def test_files_of_yours_are_never_taken_for_abandoned(tmp_path):
    names = {".run.safetensors.part", "run.cifar_helpers-partial", ".hidden", ".run.abc"}
    for name in names:
        (tmp_path / name).touch()
    write_whole(tmp_path / "run", b"x")
    assert {path.name for path in tmp_path.iterdir()} == names | {"run"}


def test_the_file_before_is_kept_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for content in (b"1", b"2", b"3"):
        write_whole(tmp_path / "run", content, before=tmp_path / "before")
    assert ((tmp_path / "run").read_bytes(), (tmp_path / "before").read_bytes()) == (b"3", b"2")


def test_a_disk_that_is_full_for_the_copy_alone_keeps_an_older_file_before(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "run", b"1")
    write_whole(tmp_path / "run", b"2", before=tmp_path / "before")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    write_whole(tmp_path / "run", b"3", before=tmp_path / "before")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"run": b"3", "before": b"1"}


@posix
def test_what_is_abandoned_is_removed_while_its_lock_is_held(tmp_path, monkeypatch):
    """Else a process that has just made the file could take the lock, and write into what is removed."""
    path, held, unlink = tmp_path / ".x.cifar_helpers-partial", [], Path.unlink

    def look(self, missing_ok=False):
        with pytest.raises(ValueError, match="busy"), exclusive(self, "busy"):
            pass
        held.append(True)
        unlink(self, missing_ok)

    path.touch()
    monkeypatch.setattr(Path, "unlink", look)
    remove_abandoned(tmp_path)
    assert held
    assert not path.exists()


def test_nothing_before_the_first_file_stays(tmp_path):
    """One that is there is of something that somebody removed."""
    (tmp_path / "before").write_bytes(b"old")
    write_whole(tmp_path / "run", b"1", before=tmp_path / "before")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_allows_and_an_old_one_keeps_its_own(tmp_path, umask):
    path, old = tmp_path / "run", os.umask(umask)
    try:
        write_whole(path, b"1")
        append_line(tmp_path / "log", {})
        modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        assert modes == {0o666 & ~umask}
        for mode in (0o600, 0o664, 0o640):
            path.chmod(mode)
            write_whole(path, b"2")
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(old)


def test_a_folder_that_refuses_fsync_does_not_matter_once_the_file_is_written(tmp_path, monkeypatch):
    original = os.fsync

    def refuse_folders(descriptor):
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            raise OSError(22, "Invalid argument")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_whole(tmp_path / "run", b"x")
    assert (tmp_path / "run").read_bytes() == b"x"


# --- kinds ---


def make_kind(path: Path, kind: str) -> None:
    """Put something at a path that is no file of bytes."""
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "a device":
            path.symlink_to("/dev/zero")


@posix
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a socket", "a device"])
def test_what_is_no_file_is_named_and_never_opened(tmp_path, kind):
    path = tmp_path / "run"
    make_kind(path, kind)
    with pytest.raises(CheckpointError, match=f"run is {kind}"):
        load_tensors(path)
    with pytest.raises(OSError, match="a link" if path.is_symlink() else kind):
        write_whole(path, b"x")
    for use in (read_lines, lambda path: append_line(path, {})):
        with pytest.raises(ValueError, match=f"run is {kind}, and no log"):
            use(path)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert not path.is_file()


@posix
def test_a_link_is_never_replaced_by_a_file(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    for name, target in (("link", "real"), ("broken", "nothing")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(OSError, match=rf"a link.*{target}"):
            write_whole(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real").read_bytes() == b"old"


@posix
def test_a_device_itself_is_never_replaced():
    with pytest.raises(OSError, match="a device"):
        write_whole(Path("/dev/null"), b"x")


# --- locks ---


@posix
def test_a_lock_is_refused_while_another_process_holds_it_and_free_when_it_dies(tmp_path):
    def hold(ready) -> None:
        with exclusive(tmp_path, "busy"):
            ready.set()
            time.sleep(30)

    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(10)
    with pytest.raises(ValueError, match="busy"), exclusive(tmp_path, "busy"):
        pass
    process.kill()
    process.join()
    with exclusive(tmp_path, "busy"):
        pass


def test_where_there_are_no_locks_everything_goes_on(tmp_path, monkeypatch):
    (tmp_path / ".x.cifar_helpers-partial").touch()
    monkeypatch.setattr("cifar_helpers._storage.fcntl", None)
    with exclusive(tmp_path, "busy"), exclusive(tmp_path, "busy"):
        write_whole(tmp_path / "run", b"x")
        append_line(tmp_path / "log", {"a": 1})
    assert read_lines(tmp_path / "log") == [{"a": 1}]
    if os.name == "posix":  # nobody can tell whether it is abandoned
        assert (tmp_path / ".x.cifar_helpers-partial").exists()


def test_abandoned_folders_are_removed_whole(tmp_path):
    (tmp_path / ".fetch-1" / "deep").mkdir(parents=True)
    (tmp_path / ".fetch-1" / "deep" / "archive").write_bytes(b"x")
    remove_abandoned(tmp_path, ".fetch-*")
    assert not list(tmp_path.iterdir())


# --- JSON lines ---


def append_many(path: Path, writer: int) -> None:
    for i in range(200):
        append_line(path, {"writer": writer, "i": i, "padding": "x" * 500})


def test_two_processes_lose_no_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(path, w)) for w in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = read_lines(path)
    assert {(row["writer"], row["i"]) for row in rows} == {(w, i) for w in range(2) for i in range(200)}


@pytest.mark.parametrize("broken", ["{torn", "[1]", "1", "null", "", "[" * 100_000, "\xff"])
def test_a_line_that_is_no_object_is_named(tmp_path, broken):
    path = tmp_path / "runs.jsonl"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(broken.encode("latin1") + b'\n{"b": 2}\n')
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2 is no JSON object"):
        read_lines(path)


@pytest.mark.parametrize(
    "name", ["a\u2028b", "\u2029", "\x85", "\x0b\x0c\x1c\x1d\x1e", "a\nb\r\n", "\ud800", "\0", "Grün"]
)
def test_every_name_comes_back(tmp_path, name):
    path = tmp_path / "runs.jsonl"
    for row in ({"name": name}, {"after": 1}):
        append_line(path, row)
    assert read_lines(path) == [{"name": name}, {"after": 1}]
    assert path.read_bytes().count(b"\n") == 2
    path.read_text(encoding="utf-8")


@pytest.mark.parametrize("ends", ["", "\n", "\r\n"])
def test_an_editor_may_change_how_lines_end(tmp_path, ends):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"a": 1}' + ends.encode())
    append_line(path, {"b": 2})
    assert read_lines(path) == [{"a": 1}, {"b": 2}]


def test_a_torn_tail_is_set_aside_and_said_wherever_it_was_torn(tmp_path, capsys):
    path, torn = tmp_path / "runs.jsonl", tmp_path / "runs.jsonl.torn"
    whole = json.dumps({"name": "ärger", "loss": 0.5}, ensure_ascii=False).encode()
    for cut in range(1, len(whole)):
        path.write_bytes(b'{"a": 1}\n' + whole[:cut])
        assert read_lines(path) == [{"a": 1}]
        assert "last line is torn and left out" in capsys.readouterr().out
        append_line(path, {"b": 2})
        assert "set aside in runs.jsonl.torn" in capsys.readouterr().out
        assert read_lines(path) == [{"a": 1}, {"b": 2}]
        assert torn.read_bytes().split(b"\n")[cut - 1] == whole[:cut]  # nothing is lost
    assert capsys.readouterr().out == ""


def append_too_much(path: Path) -> None:
    with pytest.raises(OSError, match=r"the file is as it was.*runs\.jsonl"):
        append_line(path, {"long": "x" * 2000})
    append_line(path, {"short": 1})


@posix
def test_a_full_disk_takes_a_line_whole_or_not_at_all(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_line(path, {"a": 1})
    run_with_small_files(1000, append_too_much, path)
    assert read_lines(path) == [{"a": 1}, {"short": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["runs.jsonl"]


def test_a_write_of_a_few_bytes_at_a_time_is_continued(tmp_path, monkeypatch):
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, bytes(data[:7])))
    append_line(tmp_path / "log", {"name": "longer than seven bytes"})
    write_whole(tmp_path / "run", b"longer than seven bytes")
    assert read_lines(tmp_path / "log") == [{"name": "longer than seven bytes"}]
    assert (tmp_path / "run").read_bytes() == b"longer than seven bytes"


@posix
def test_of_several_processes_one_makes_the_row(tmp_path):
    path, made = tmp_path / "log", tmp_path / "made"

    def ask() -> None:
        def make() -> dict:
            time.sleep(0.2)
            with made.open("a") as file:
                file.write("x")
            return {"key": 1}

        assert find_or_append(path, lambda rows: next(iter(rows), None), make) == {"key": 1}

    processes = [FORK.Process(target=ask) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert made.read_text() == "x"
    assert read_lines(path) == [{"key": 1}]


def test_a_log_that_is_removed_while_it_is_waited_for_is_begun_anew(tmp_path, monkeypatch):
    path, waited = tmp_path / "log", []

    def remove(*_, **__):
        if not waited:
            path.unlink()
        waited.append(1)

    monkeypatch.setattr("cifar_helpers._storage._lock", remove)
    with open_log(path) as append:
        append({"a": 1})
    assert read_lines(path) == [{"a": 1}]
    assert len(waited) == 2


def test_what_is_stored_is_found_where_nothing_can_be_written(tmp_path, monkeypatch):
    append_line(tmp_path / "log", {"a": 1})
    monkeypatch.setattr("cifar_helpers._storage.open_log", None)
    assert find_or_append(tmp_path / "log", lambda rows: rows[0], None) == {"a": 1}


def test_lines_are_plain_json(tmp_path):
    append_line(tmp_path / "a.jsonl", {"name": "Grün"})
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == {"name": "Grün"}


def test_safetensors_reads_what_was_written_and_the_bytes_are_always_the_same(tmp_path):
    for name in ("a", "b"):
        save_tensors(tmp_path / name, TENSORS, {"text": '"sha256":"0"', "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = load_file(tmp_path / "a")
    assert read.keys() == TENSORS.keys()
    assert torch.equal(read["weights"], TENSORS["weights"])
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["about"]) == {"text": '"sha256":"0"', "b": 1}


def test_a_file_from_before_version_1_is_read_and_its_damage_refused(tmp_path):
    content = save({"w": torch.arange(3)}, metadata={"about": json.dumps({"epoch": 1})})
    line = f"sha256:{hashlib.sha256(content).hexdigest()}\n".encode()
    (tmp_path / "old").write_bytes(line + content)
    tensors, about = load_tensors(tmp_path / "old")
    assert tensors["w"].tolist() == [0, 1, 2]
    assert about == {"epoch": 1}
    (tmp_path / "old").write_bytes(line + content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tensors(tmp_path / "old")


def test_weights_from_elsewhere_are_refused_with_advice(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint of cifar_helpers.*load_file"):
        load_tensors(tmp_path / "other.safetensors")
