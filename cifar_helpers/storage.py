"""Files that appear whole or not at all: checkpoints without pickle, and append-only JSON lines."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

HASH_LINE = len("sha256:") + 64 + 1


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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can open a folder (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], about: dict) -> str:
    """Write tensors and JSON-ready facts as one file and return the SHA-256 of its content.

    The file is a line `sha256:…` followed by a safetensors file whose metadata holds `about`. No pickle.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata={"about": json.dumps(about, sort_keys=True)})
    sha256 = hashlib.sha256(content).hexdigest()
    write_whole(path, f"sha256:{sha256}\n".encode() + content)
    return sha256


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the tensors (on the CPU) and the facts of a checkpoint, after its SHA-256 was found right.

    Raises:
        CheckpointError: the file is missing, truncated, altered, or no checkpoint of this package.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}). Check the path, or train the model first."
        ) from error
    line, content = data[:HASH_LINE], data[HASH_LINE:]
    if not line.startswith(b"sha256:") or not line.endswith(b"\n"):
        raise CheckpointError(f"{path} is no checkpoint of cifar_helpers: its first line is no SHA-256.")
    found, expected = hashlib.sha256(content).hexdigest(), line[7:-1].decode("ascii", "replace")
    if found != expected:
        raise CheckpointError(
            f"{path} is damaged: its content has SHA-256 {found[:12]}…, its first line says {expected[:12]}…. "
            "Delete the file and train again, or restore it from a copy."
        )
    try:
        return load(content), read_about(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} has the right SHA-256 but is not readable: {error}.") from error


def checkpoint_sha256(path: Path) -> str:
    """Return the SHA-256 in the first line of a checkpoint."""
    with path.open("rb") as file:
        return file.readline().decode("ascii").removeprefix("sha256:").strip()


def read_about(content: bytes) -> dict:
    """Return the facts that `save_checkpoint` put into the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])


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
