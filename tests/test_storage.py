import hashlib
import json
import multiprocessing
import os
import pickle
import signal
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
    load_tensors,
    read_lines,
    read_sha256,
    save_tensors,
    write_whole,
)

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


def write_beyond_the_limit(path: Path) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_whole(path, b"x" * 100_000)
    except OSError as error:
        os._exit(0 if "100,000 bytes" in str(error) and str(path) in str(error) else 3)
    os._exit(4)


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file_and_no_stump(tmp_path):
    path = tmp_path / "figure.png"
    write_whole(path, b"old")
    process = multiprocessing.get_context("fork").Process(target=write_beyond_the_limit, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


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


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write("{torn\n")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2"):
        read_lines(path)


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
