"""Fetching, against a server on the loopback address that misbehaves in every way it can."""

import errno
import hashlib
import io
import itertools
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
        body = {"wrong": ARCHIVE[:-1] + b"?", "html": b"<html>moved</html>"}.get(behaviour, ARCHIVE)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour in ("short", "hang"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if behaviour == "hang":
                self.server.release.wait(20)
            return
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.release = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
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
    [("short", ""), ("wrong", "hash"), ("html", "hash"), ("busy", "503"), ("hang", "timed out")],
)
def test_a_bad_mirror_leaves_nothing_and_the_message_tells_what_to_do(server, tmp_path, behaviour, reason):
    source = make_source([server.url(behaviour)])
    with pytest.raises(DownloadFailed) as error:
        _fetch(source, tmp_path, timeout=0.5)
    message = str(error.value)
    assert reason in message
    for word in ("127.0.0.1", "tiny.tar.gz", md5(ARCHIVE), str(tmp_path), "data_batch_1", "batches.meta"):
        assert word in message
    assert is_clean(tmp_path)


@pytest.mark.parametrize("behaviour", ["short", "wrong", "html", "busy", "hang"])
def test_the_next_mirror_is_tried(server, tmp_path, behaviour):
    source = make_source([server.url(behaviour), server.url("good")])
    _fetch(source, tmp_path, timeout=0.5)
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
