"""Fetching, against a server on the loopback address that misbehaves in every way it can."""

import errno
import gzip
import hashlib
import io
import itertools
import multiprocessing
import os
import socket
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from torchvision import datasets

from cifar_helpers.data import download
from cifar_helpers.data.download import SOURCES, DataError, DownloadFailed, _fetch, ensure_files, wrong_files

posix = pytest.mark.skipif(os.name != "posix", reason="kills, forks and pipes are POSIX")
MEMBERS = {"data_batch_1": b"a" * 300_000, "batches.meta": b"names"}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def make_archive(members: dict[str, bytes], folder: str = "tiny") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=0) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


ARCHIVE = make_archive(MEMBERS)
NUMBERS = itertools.count()


def make_source(urls: list[str], archive: bytes = ARCHIVE) -> download.Source:
    """Return a tiny data set whose files and hashes are those of MEMBERS."""
    reader = SimpleNamespace(
        base_folder="tiny",
        filename="tiny.tar.gz",
        tgz_md5=md5(archive),
        train_list=[["data_batch_1", md5(MEMBERS["data_batch_1"])]],
        test_list=[],
        meta={"filename": "batches.meta", "md5": md5(MEMBERS["batches.meta"])},
    )
    name = f"Tiny{next(NUMBERS)}"
    setattr(datasets, name, reader)  # where a source looks for its reader
    return download.Source("Tiny", 10, name, tuple(urls), archive_bytes=len(archive))


class Handler(BaseHTTPRequestHandler):
    """Answers /good as it should and every other path in the way its name says."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        behaviour = self.path.split("/")[1]
        if behaviour == "busy":
            self.send_error(503)
            return
        if behaviour == "circle":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        if behaviour == "slow-head":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Words: " + b"a" * 1000)
            return
        body = {"wrong": ARCHIVE[:-1] + b"?", "html": b"<html>moved</html>"}.get(behaviour, ARCHIVE)
        self.send_response(200)
        if behaviour != "endless":
            self.send_header("Content-Length", str(10**12 if behaviour == "huge" else len(body)))
        self.end_headers()
        if behaviour == "drip":
            self.drip(body)
            return
        if behaviour == "stall":
            self.wfile.write(body[:200_000])
            self.drip(body[200_000:])
            return
        while behaviour in ("endless", "huge") and not self.server.release.is_set():
            self.wfile.write(body)
            self.server.sent += len(body)
        if behaviour in ("short", "hang"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if behaviour == "hang":
                self.server.release.wait(20)
            return
        self.wfile.write(body)

    def drip(self, body: bytes) -> None:
        """Send a byte now and then, each of them in time."""
        for i in range(len(body)):
            self.wfile.write(body[i : i + 1])
            if self.server.release.wait(0.05):
                return

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.release, server.sent = [], threading.Event(), 0
    server.handle_error = lambda *_: None  # a client that goes away
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = lambda behaviour: f"http://127.0.0.1:{server.server_port}/{behaviour}/tiny.tar.gz"
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def is_clean(folder) -> bool:
    """Return whether nothing half-made lies in the folder."""
    return not any(path.is_file() for path in folder.rglob("*")) and not list(folder.glob(".fetch-*"))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("short", ""),
        ("wrong", "hash"),
        ("html", "hash"),
        ("busy", "503"),
        ("hang", "timed out"),
        ("circle", "redirects"),
        ("drip", "timed out"),
        ("stall", "timed out"),
        ("slow-head", "timed out"),
        ("huge", "1,000,000,000,000 bytes or more, and the archive has"),
        ("endless", "bytes or more, and the archive has"),
    ],
)
def test_a_bad_mirror_leaves_nothing_and_the_message_tells_what_to_do(server, tmp_path, behaviour, reason):
    source = make_source([server.url(behaviour)])
    start = time.monotonic()
    with pytest.raises(DownloadFailed) as error:
        _fetch(source, tmp_path, timeout=0.2)
    assert time.monotonic() - start < 3
    assert server.sent < 50 * len(ARCHIVE)  # what fits into the buffers of a connection
    message = str(error.value)
    assert reason in message
    for word in ("127.0.0.1", "tiny.tar.gz", md5(ARCHIVE), str(tmp_path), "data_batch_1", "batches.meta"):
        assert word in message
    assert is_clean(tmp_path)


@pytest.mark.parametrize("behaviour", ["short", "wrong", "html", "busy", "hang", "drip", "huge"])
def test_the_next_mirror_is_tried(server, tmp_path, behaviour):
    source = make_source([server.url(behaviour), server.url("good")])
    _fetch(source, tmp_path, timeout=0.2)
    assert wrong_files(source, tmp_path) == {}
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == set(MEMBERS)


def test_good_files_are_never_fetched_twice(server, tmp_path):
    source = make_source([server.url("good")])
    ensure_files(source, tmp_path)
    ensure_files(source, tmp_path)
    assert len(server.asked) == 1


def test_progress_is_at_most_ten_lines(server, tmp_path, capsys):
    _fetch(make_source([server.url("good")]), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "Fetching Tiny from 127.0.0.1" in lines[0]
    assert 2 <= len(lines) <= 10


def test_an_archive_placed_by_hand_is_used_and_kept(tmp_path):
    (tmp_path / "tiny.tar.gz").write_bytes(ARCHIVE)
    source = make_source(["http://127.0.0.1:9/tiny.tar.gz"])
    ensure_files(source, tmp_path)
    assert wrong_files(source, tmp_path) == {}
    assert (tmp_path / "tiny.tar.gz").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html></html>", ARCHIVE[: len(ARCHIVE) // 2], make_archive({"evil": b"x"})],
    ids=["empty", "page", "half", "other"],
)
def test_a_wrong_archive_placed_by_hand_is_an_error(tmp_path, content):
    (tmp_path / "tiny.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match="not the official archive"):
        ensure_files(make_source(["http://127.0.0.1:9/tiny.tar.gz"]), tmp_path)


def link_to(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"tiny/{name}")
    info.type, info.linkname = kind, target
    return info


def archive_of(*infos: tarfile.TarInfo) -> bytes:
    """Return an archive of headers alone, whatever they promise."""
    return gzip.compress(b"".join(info.tobuf() for info in infos) + bytes(1024))


def member_of(size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo("tiny/data_batch_1")
    info.size = size
    return info


HOSTILE = {
    "a circle of links": archive_of(link_to("data_batch_1", "other"), link_to("other", "data_batch_1")),
    "a link to itself": archive_of(link_to("data_batch_1", "data_batch_1")),
    "a hard link to itself": archive_of(link_to("data_batch_1", "tiny/data_batch_1", tarfile.LNKTYPE)),
    "a link out": archive_of(link_to("data_batch_1", "/etc/passwd")),
    "a device": archive_of(link_to("data_batch_1", "", tarfile.CHRTYPE)),
    "a pipe": archive_of(link_to("data_batch_1", "", tarfile.FIFOTYPE)),
    "a folder": archive_of(link_to("data_batch_1", "", tarfile.DIRTYPE)),
    "2 GiB": archive_of(member_of(2**31)),
    "8 EiB": archive_of(member_of(2**63 - 1)),
    "more than there is": archive_of(member_of(300_000)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_one_error_and_nothing_is_written(tmp_path, content):
    (tmp_path / "tiny.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"tiny\.tar\.gz (is not the official archive|holds no file data_batch_1)"):
        ensure_files(make_source([]), tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["tiny.tar.gz"]


def test_a_damaged_archive_is_one_error_wherever_it_is_damaged(tmp_path):
    """Among these are broken blocks of deflate, in which zlib has an error of its own."""
    words = b"".join(md5(bytes([i])).encode() for i in range(200))
    good = gzip.compress(gzip.decompress(make_archive(MEMBERS | {"data_batch_1": words})))
    source = make_source([])
    for i in range(150):
        place = 10 + (i * 7919) % (len(good) - 10)
        damaged = good[:place] + bytes([good[place] ^ (1 << i % 8)]) + good[place + 1 :]
        (tmp_path / "tiny.tar.gz").write_bytes(damaged if i % 3 else good[:place])
        with pytest.raises(DataError, match=r"tiny\.tar\.gz"):
            ensure_files(source, tmp_path)


@posix
def test_what_is_no_archive_by_its_kind_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "tiny.tar.gz")
    with pytest.raises(DataError, match=r"tiny\.tar\.gz is a pipe"):
        ensure_files(make_source([]), tmp_path)


@posix
def test_two_processes_at_once_end_with_one_good_copy(server, tmp_path):
    source, fork = make_source([server.url("good")]), multiprocessing.get_context("fork")
    processes = [fork.Process(target=ensure_files, args=(source, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(server.asked) == 1
    assert wrong_files(source, tmp_path) == {}
    assert not list(tmp_path.glob(".*"))


@posix
def test_a_killed_download_leaves_nothing_once_it_is_repeated(server, tmp_path):
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=ensure_files, args=(make_source([server.url("hang")]), tmp_path))
    process.start()
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob(".fetch-*/*")):
        time.sleep(0.01)
    process.kill()
    process.join()
    (tmp_path / ".fetch-mine").mkdir()  # no name of ours
    source = make_source([server.url("good")])
    ensure_files(source, tmp_path)
    assert wrong_files(source, tmp_path) == {}
    assert [path.name for path in tmp_path.glob(".*")] == [".fetch-mine"]
    (tmp_path / ".fetch-1234abcd").mkdir()  # of one that was killed at its very end
    ensure_files(source, tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == [".fetch-mine"]


def test_only_the_known_members_leave_an_archive(tmp_path):
    archive = make_archive(MEMBERS | {"../../escaped": b"x"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tiny.tar.gz").write_bytes(archive)
    ensure_files(make_source([]), tmp_path / "in")
    assert not list(tmp_path.rglob("escaped"))


def test_a_member_with_other_content_is_an_error(tmp_path):
    archive = make_archive(MEMBERS | {"batches.meta": b"other"})
    (tmp_path / "tiny.tar.gz").write_bytes(archive)
    with pytest.raises(DataError, match=r"batches\.meta with a wrong MD5"):
        ensure_files(make_source([]), tmp_path)


def test_a_damaged_file_is_an_error_and_is_not_replaced(server, tmp_path):
    source = make_source([server.url("good")])
    ensure_files(source, tmp_path)
    damaged = tmp_path / "tiny" / "data_batch_1"
    damaged.write_bytes(b"a" * 299_999)
    with pytest.raises(DataError, match=r"data_batch_1 \(MD5 .*Delete it"):
        ensure_files(source, tmp_path)
    assert damaged.stat().st_size == 299_999


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="is a file; CIFAR_DATA_DIR must name a folder"):
        ensure_files(make_source([]), tmp_path / "data")


def never_answer(*_args, timeout=None, **_kwargs):
    time.sleep(timeout or 60)
    raise TimeoutError


def refuse(*_args, **_kwargs):
    raise ConnectionRefusedError


@pytest.mark.parametrize("connect", [never_answer, refuse])
def test_without_network_the_answer_comes_within_five_seconds(monkeypatch, tmp_path, connect):
    monkeypatch.setattr(socket, "create_connection", connect)
    start = time.monotonic()
    with pytest.raises(DownloadFailed, match="no connection"):
        _fetch(SOURCES["cifar10"], tmp_path)
    assert time.monotonic() - start < 5
    assert is_clean(tmp_path)


def test_a_name_service_that_hangs_does_not_hold_us(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: never_answer(timeout=30))
    start = time.monotonic()
    with pytest.raises(DownloadFailed):
        _fetch(SOURCES["cifar100"], tmp_path)
    assert time.monotonic() - start < 5


def test_behind_a_proxy_no_direct_connection_is_asked_for(server, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "getproxies", lambda: {"https": "http://127.0.0.1:9"})
    monkeypatch.setattr(download, "reachable_mirrors", lambda urls: set())
    source = make_source([server.url("good")])
    _fetch(source, tmp_path)
    assert wrong_files(source, tmp_path) == {}


def test_a_full_disk_is_not_a_mirrors_fault(server, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "write_whole", full)
    with pytest.raises(DataError, match=r"cannot hold the data.*CIFAR_DATA_DIR"):
        _fetch(make_source([server.url("good"), server.url("good")]), tmp_path)
    assert len(server.asked) == 1


def test_every_mirror_offers_the_archive_that_torchvision_names():
    for source in SOURCES.values():
        assert all(url.endswith("/" + source.archive) for url in source.mirrors)
        assert len(source.mirrors) >= 2
        assert len(source.members) >= 3
