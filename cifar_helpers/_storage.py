"""Files that appear whole or not at all: safetensors that know their own hash, and append-only JSON lines."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PLACE = b'"sha256":"'  # in the header, before the digest; inside another text its quotes would be escaped
_NO_DIGEST = b"0" * 64
# How files of torch.save begin, a zip or before 2020 a pickle, and what they are called.
_OF_TORCH = (b"PK\x03\x04", b"\x80\x02")
_TORCH_ENDINGS = (".pth", ".pt", ".t7", ".tar", ".ckpt", ".bin")
_OLD_LINE = len("sha256:") + 64 + 1  # before version 1.0 a line with the hash came first


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file, what is wrong and what to do."""


def write_whole(path: Path, content: bytes, *, before: Path | None = None) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    A file that is replaced keeps its mode. What a killed process left half-written in the folder is removed.

    Args:
        before: where the old file stays, for which that path is replaced; without an old file it is removed.

    Raises:
        OSError: naming the path and the bytes needed; the old file is untouched. Links, pipes, devices and folders are
            not replaced.
    """
    _refuse_to_replace(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with _partial_file(path) as (file, partial):
            _write_all(file.fileno(), content)
            os.fsync(file.fileno())
            _copy_mode(path, partial)
            if os.name != "posix":  # elsewhere a file can be moved, and is locked, while it is open
                file.close()
            _move(partial, path, before)
    except OSError as error:
        message = f"{error.strerror or error}; {len(content):,} bytes were to be written, the old file is untouched"
        raise OSError(error.errno, message, str(path)) from error
    _sync_folder(path.parent)


def require_writable(path: Path) -> None:
    """Raise the OSError with which `write_whole` would fail, before there is anything to write; nothing is left."""
    _refuse_to_replace(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # its name may be longer than that of the partial file
        with _partial_file(path):
            pass
    except OSError as error:
        below = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "there is a file where its folder would be" if below else error.strerror or error
        message = f"{reason}; nothing can be written there, choose another path"
        raise OSError(error.errno, message, str(path)) from error


_PARTIAL = ".cifar_helpers-partial"
PARTIALS = f".*{_PARTIAL}"  # the names of all of them
_BINARY = getattr(os, "O_BINARY", 0)  # of Windows


@contextlib.contextmanager
def _partial_file(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """Make and lock a new file beside `path`, with the mode that the umask allows; what is left of it is removed."""
    while True:
        partial = _partial_of(path)
        try:
            with FileIO(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666), "wb") as file:
                if _take_lock(file.fileno()) is False or not partial.exists():
                    continue  # another process took it for abandoned before it was locked
                yield file, partial
                return
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _partial_of(path: Path) -> Path:
    """Return a new name beside `path` for what is to become it."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{_PARTIAL}")


def _move(partial: Path, path: Path, before: Path | None) -> None:
    """Put `partial` in the place of `path`. At every moment the old file is there under one name or the other."""
    if before is None or not path.exists():
        os.replace(partial, path)
        if before is not None:
            before.unlink(missing_ok=True)
        return
    old = _partial_of(before)
    try:
        with _second_name(path, old) as given:
            os.replace(partial, path)
            if given:
                with contextlib.suppress(OSError):  # the new file is there; then an older one stays before it
                    os.replace(old, before)
    finally:
        old.unlink(missing_ok=True)


@contextlib.contextmanager
def _second_name(path: Path, other: Path) -> Iterator[bool]:
    """Give a file a second name, a copy where the file system knows no hard links, and lock it meanwhile.

    Yields whether it could be done.
    """
    descriptor = os.open(path, os.O_RDONLY) if os.name == "posix" else None  # elsewhere it could not be replaced
    try:
        if descriptor is not None:
            _take_lock(descriptor)
        yield _link_or_copy(path, other)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _link_or_copy(path: Path, other: Path) -> bool:
    for give in (os.link, shutil.copyfile):
        with contextlib.suppress(OSError):
            give(path, other)
            return True
    return False


def _copy_mode(path: Path, partial: Path) -> None:
    """Give a new file the mode of the one that it replaces, where the file system knows modes."""
    with contextlib.suppress(OSError):
        partial.chmod(stat.S_IMODE(path.stat().st_mode))


def _write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes: the system may take fewer at a time, as it does on a full disk before it says so."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can do that: the file itself is written."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# --- kinds ---

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def name_kind(path: Path, *, follow: bool = True) -> str:
    """Return "" for a file of bytes or nothing at all, else what there is instead, such as "a pipe".

    Nothing is opened: a pipe would be waited for, and some devices have no end.

    Args:
        follow: look at what a link leads to, not at the link.
    """
    try:
        mode = path.stat().st_mode if follow else path.lstat().st_mode
    except OSError:
        return ""
    return _KINDS.get(stat.S_IFMT(mode), "")


def _refuse_to_replace(path: Path) -> None:
    kind = name_kind(path, follow=False)
    if kind:
        there = f"; pass the path that it leads to, {path.resolve()}" if kind == "a link" else "; choose another path"
        raise FileExistsError(errno.EEXIST, f"there is {kind}, which stays as it is{there}", str(path))


# --- locks: the system takes them back from a process that dies ---


def _take_lock(descriptor: int) -> bool | None:
    """Take the lock of an open file or folder without waiting, and return whether it was free.

    None: there are no locks here (Windows, some network drives). Then everything goes on without.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def exclusive(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder, so that one process at a time goes through a block.

    Args:
        busy: what is said if another process holds it.
        wait: for that process, after it was said.

    Raises:
        ValueError: another process holds it, and it was not to be waited for.
    """
    descriptor = _open_to_lock(path)
    try:
        _lock(descriptor, busy, wait)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_to_lock(path: Path) -> int | None:
    """Return a descriptor; None where a folder cannot be opened (Windows)."""
    try:
        return os.open(path, os.O_RDONLY)
    except PermissionError:
        return None


def _lock(descriptor: int | None, busy: str, wait: bool) -> None:
    if descriptor is None or _take_lock(descriptor) is not False:
        return
    if not wait:
        raise ValueError(busy)
    print(busy, flush=True)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def remove_abandoned(folder: Path, pattern: str = PARTIALS) -> None:
    """Remove files and folders of this program that match, and whose lock no living process holds, where it may."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # not ours to remove, or another process was quicker
            descriptor = _open_to_lock(path)
            if descriptor is None:
                continue
            try:
                free = _take_lock(descriptor)
                if free:  # removed while it is held: its writer may be about to take the lock
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)
            if free is None and os.name != "posix":  # Windows refuses to remove what is open elsewhere
                path.unlink()


# --- safetensors with a hash ---


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: dict, *, before: Path | None = None) -> str:
    """Write tensors and JSON-ready facts as one safetensors file and return its SHA-256.

    `safetensors.torch.load_file` reads it. The metadata holds `about`, as JSON, and `sha256`: that of the whole file
    with zeros in the place of the digest.

    Args:
        before: as in `write_whole`.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in plain.values())
    for name, tensor in plain.items():  # tied weights share theirs, which safetensors refuses
        if storages[tensor.untyped_storage().data_ptr()] > 1:
            plain[name] = tensor.clone()
    metadata = {"about": json.dumps(about, sort_keys=True), "format": "pt", "sha256": _NO_DIGEST.decode()}
    content = _sort_header(save(plain, metadata=metadata))
    digest = hashlib.sha256(content).hexdigest()
    write_whole(path, _with_digest(content, digest.encode()), before=before)
    return digest


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the tensors (on the CPU) and the facts that `save_tensors` wrote, after the SHA-256 was found right.

    Raises:
        CheckpointError: the file is missing, truncated, altered, or not one that `save_tensors` wrote.
    """
    data = read_file(path)
    content, expected, found = _split_old(path, data) if data.startswith(b"sha256:") else _split(path, data)
    if found != expected:
        raise CheckpointError(
            f"{path} is damaged: its content has SHA-256 {found[:12]}…, expected {expected[:12]}…. "
            "Delete the file and train again, or restore it from a copy."
        )
    try:
        return load(content), json.loads(_read_header(content)["__metadata__"]["about"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} has the right SHA-256 but is not readable: {error}.") from error


def read_file(path: Path) -> bytes:
    """Return the content of a file of bytes; nothing else is opened.

    Raises:
        CheckpointError: there is none, or it is a pipe, a device or a folder, or larger than the memory.
    """
    kind = name_kind(path)
    if kind:
        raise CheckpointError(f"{path} is {kind}, and no file: it was not opened. Pass the path of a checkpoint.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}). Check the path, or train the model first."
        ) from error
    except MemoryError as error:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, which the memory does not hold.") from error


def read_sha256(path: Path) -> str:
    """Return the SHA-256 that stands in a file of `save_tensors`, which `load_tensors` compares."""
    data = path.read_bytes()
    return (_split_old(path, data) if data.startswith(b"sha256:") else _split(path, data))[1]


def _split(path: Path, data: bytes) -> tuple[bytes, str, str]:
    """Return a file's content, the SHA-256 that stands in it, and the one that it has."""
    place = data.find(_PLACE) + len(_PLACE)
    digest = data[place : place + 64]
    if place < len(_PLACE) or len(digest) < 64 or data[place + 64 : place + 65] != b'"':
        if data.startswith(_OF_TORCH) or path.suffix.lower() in _TORCH_ENDINGS:
            name = "rename it to end in .pth, " if path.suffix == ".safetensors" else ""  # or torch reads safetensors
            raise CheckpointError(
                f"{path} is no safetensors file, but as it seems one of torch.save, which may run code when it is read "
                f"and is not opened here: {name}model = make_model(…), or the class that it was made with, and then "
                "model.load_state_dict(torch.load(path, weights_only=True)), whose weights often lie one key deeper, "
                'such as ["state_dict"] or ["net"].'
            )
        raise CheckpointError(
            f"{path} is no checkpoint of cifar_helpers: it is no safetensors file with a SHA-256 in its metadata. "
            "Weights from elsewhere are read with safetensors.torch.load_file and model.load_state_dict."
        )
    content = _with_digest(data, _NO_DIGEST)
    return content, digest.decode("ascii", "replace"), hashlib.sha256(content).hexdigest()


def _split_old(path: Path, data: bytes) -> tuple[bytes, str, str]:
    """Return the same of a file from before version 1.0: a line `sha256:…`, and then a safetensors file."""
    content = data[_OLD_LINE:]
    return content, data[7 : _OLD_LINE - 1].decode("ascii", "replace"), hashlib.sha256(content).hexdigest()


def _with_digest(content: bytes, digest: bytes) -> bytes:
    place = content.index(_PLACE) + len(_PLACE)
    return content[:place] + digest + content[place + 64 :]


def _read_header(content: bytes) -> dict:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])


def _sort_header(content: bytes) -> bytes:
    """Return a safetensors file with its header in one order: the library writes the metadata in a random one."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(_read_header(content), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


# --- JSON lines ---


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[Callable[[dict], None]]:
    """Hold the one lock of a JSON-lines file; yield the function that appends a row, whole or not at all.

    A torn last line, which a kill or a power cut left, is set aside first, in a file beside it, and that is said.

    Raises:
        ValueError: the path is that of a pipe, a device or a folder.
    """
    _require_log(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_locked(path)
    try:
        _set_aside(descriptor, path)
        yield lambda row: _append(descriptor, path, row)
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """Return a descriptor of a log, whose lock it holds."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)
        try:
            _lock(descriptor, f"{path}: waiting for another process that writes there", wait=True)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a log that was removed while it was waited for


def append_line(path: Path, row: dict) -> None:
    """Append one JSON line, so that lines of two processes never mix.

    Raises:
        OSError: naming the path; the file is as it was.
    """
    with open_log(path) as append:
        append(row)


def find_or_append(path: Path, find: Callable[[list[dict]], dict | None], make: Callable[[], dict]) -> dict:
    """Return the row that `find` finds among all; if there is none, append the one that `make` makes, and return it.

    Of several processes at once, one makes the row and the others wait for it.
    """
    found = find(read_lines(path))  # also where nothing can be written
    if found is not None:
        return found
    with open_log(path) as append:
        found = find(read_lines(path))
        if found is None:
            found = make()
            append(found)
        return found


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _append(descriptor: int, path: Path, row: dict) -> None:
    # What UTF-8 cannot write, half of a surrogate pair, becomes an escape, which JSON reads as the same.
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    size = os.fstat(descriptor).st_size
    try:
        if size and os.lseek(descriptor, -1, os.SEEK_END) >= 0 and os.read(descriptor, 1) != b"\n":
            line = b"\n" + line  # an editor took the last one away
        _write_all(descriptor, line)
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, size)
        message = f"{error.strerror or error}; a line of {len(line):,} bytes was to be appended, the file is as it was"
        raise OSError(error.errno, message, str(path)) from error


def _set_aside(descriptor: int, path: Path) -> None:
    """Move a torn last line to a file beside the log, and say so."""
    torn = _split_lines(path.read_bytes())[1]
    if torn:
        aside = path.with_name(f"{path.name}.torn")
        with aside.open("ab") as file:
            file.write(torn + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(torn))
        print(f"{path}: its last line was torn, by a kill or a full disk, and is set aside in {aside.name}", flush=True)


def read_lines(path: Path) -> list[dict]:
    """Return the rows of a JSON-lines file, oldest first; a missing file has none, and a torn last line is left out.

    Raises:
        ValueError: naming the file and the line that is no JSON object; or the path is that of a pipe or a device.
    """
    _require_log(path)
    if not path.exists():
        return []
    lines, torn = _split_lines(path.read_bytes())
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_parse(line))
        except ValueError as error:
            message = str(error).splitlines()[0]
            raise ValueError(
                f"{path}, line {number} is no JSON object ({message}): mend or delete that line."
            ) from error
    if torn:
        print(f"{path}: its last line is torn and left out; the next entry sets it aside", flush=True)
    return rows


def _require_log(path: Path) -> None:
    if name_kind(path):
        raise ValueError(f"{path} is {name_kind(path)}, and no log: it was not opened. Move it away.")


def _split_lines(content: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines of a file, and what a torn write left behind them.

    Only a line feed ends a line: the name of a run may hold what Unicode also calls a line's end.
    """
    *lines, last = content.split(b"\n")
    if not last.strip():
        return lines, b""
    try:
        _parse(last)
    except ValueError:
        return lines, last
    return [*lines, last], b""


def _parse(line: bytes) -> dict:
    """Return the JSON object that a line holds; a part of one is none."""
    try:
        row = json.loads(line.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}")
    return row
