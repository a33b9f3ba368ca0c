"""Files that appear whole or not at all: safetensors that know their own hash, and append-only JSON lines."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

_PLACE = b'"sha256":"'  # in the header, before the digest; inside another text its quotes would be escaped
_NO_DIGEST = b"0" * 64
_OLD_LINE = len("sha256:") + 64 + 1  # before version 1.0 a line with the hash came first


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file, what is wrong and what to do."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Raises:
        OSError: naming the path and the bytes needed; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)  # a temporary file is private, a finished one is not
        os.replace(partial, path)
    except OSError as error:
        if partial:
            partial.unlink(missing_ok=True)
        message = f"{error.strerror or error}; {len(content):,} bytes were to be written, the old file is untouched"
        raise OSError(error.errno, message, str(path)) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can open a folder (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- safetensors with a hash ---


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: dict) -> str:
    """Write tensors and JSON-ready facts as one safetensors file and return its SHA-256.

    `safetensors.torch.load_file` reads it. The metadata holds `about`, as JSON, and `sha256`: that of the whole file
    with zeros in the place of the digest.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in plain.values())
    for name, tensor in plain.items():  # tied weights share theirs, which safetensors refuses
        if storages[tensor.untyped_storage().data_ptr()] > 1:
            plain[name] = tensor.clone()
    metadata = {"about": json.dumps(about, sort_keys=True), "format": "pt", "sha256": _NO_DIGEST.decode()}
    content = _sort_header(save(plain, metadata=metadata))
    digest = hashlib.sha256(content).hexdigest()
    write_whole(path, _with_digest(content, digest.encode()))
    return digest


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the tensors (on the CPU) and the facts that `save_tensors` wrote, after the SHA-256 was found right.

    Raises:
        CheckpointError: the file is missing, truncated, altered, or not one that `save_tensors` wrote.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}). Check the path, or train the model first."
        ) from error
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


def read_sha256(path: Path) -> str:
    """Return the SHA-256 that stands in a file of `save_tensors`, which `load_tensors` compares."""
    data = path.read_bytes()
    return (_split_old(path, data) if data.startswith(b"sha256:") else _split(path, data))[1]


def _split(path: Path, data: bytes) -> tuple[bytes, str, str]:
    """Return a file's content, the SHA-256 that stands in it, and the one that it has."""
    place = data.find(_PLACE) + len(_PLACE)
    digest = data[place : place + 64]
    if place < len(_PLACE) or len(digest) < 64 or data[place + 64 : place + 65] != b'"':
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


def append_line(path: Path, row: dict) -> None:
    """Append one JSON line in a single write, so that lines of two processes never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict]:
    """Return the rows of a JSON-lines file, oldest first; a missing file has none.

    Raises:
        ValueError: naming the file and the line that is not JSON.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error.msg}): mend or delete that line.") from error
    return rows
