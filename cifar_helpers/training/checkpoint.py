"""The file of a run: the best weights as plain safetensors, all that is known of them, and what a resume needs.

While a run goes on, tensors called `resume/…` hold its last weights and the state of its optimizer. A finished run is
the state dict of its best epoch and nothing else: `model.load_state_dict(safetensors.torch.load_file(path))`.
"""

import ast
import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cifar_helpers._arguments import require_path
from cifar_helpers._hashing import hash_json
from cifar_helpers._storage import (
    CheckpointError,
    load_tensors,
    name_kind,
    read_sha256,
    remove_abandoned,
    save_tensors,
)
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.training.records import EpochRecord

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "code_digest",
    "differing_keys",
    "load_checkpoint",
    "load_optimizer_state",
    "optimizer_state",
    "previous_path",
    "save_checkpoint",
    "save_rounded",
]

_RESUME = "resume/"
_SCALE = "/scale"  # behind the name of a tensor of 8 bits: that of its scales


@dataclass(frozen=True)
class Checkpoint:
    """What the file of a run holds.

    Attributes:
        weights: of the best epoch, names to tensors as in `state_dict`, on the CPU.
        identity: what the run is made of, with the keys `config`, `model` and `data`.
        history: one EpochRecord per epoch.
        class_names: () if the batches did not know them.
        normaliser: that of the training batches; None if they did not know it.
        environment: device, number format, threads, versions and code.
        finished: whether the run is over.
        state: of an unfinished run: groups such as "last" and "optimizer", each of named tensors.
        settings: of an unfinished run: plain values of optimizer, scheduler and scaler.
        sha256: of the file.
    """

    weights: dict[str, torch.Tensor]
    identity: dict[str, Any]
    history: tuple[EpochRecord, ...]
    class_names: tuple[str, ...]
    normaliser: Normaliser | None
    environment: dict[str, Any]
    finished: bool
    state: dict[str, dict[str, torch.Tensor]]
    settings: dict[str, Any]
    sha256: str = ""


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint, whole or not at all, and return its SHA-256; a finished one without `state` and `settings`.

    The file that was there stays beside it, as `previous_path` names it.

    Raises:
        CheckpointError: a setting cannot be kept, such as a function inside a scheduler.
        ValueError: it is no path.
    """
    require_path("path", path)
    about = {
        "identity": checkpoint.identity,
        "history": [asdict(record) for record in checkpoint.history],
        "class_names": list(checkpoint.class_names),
        "normaliser": checkpoint.normaliser and checkpoint.normaliser.to_dict(),
        "environment": checkpoint.environment,
        "finished": checkpoint.finished,
    }
    tensors = dict(checkpoint.weights)
    if not checkpoint.finished:
        about["settings"] = _to_json(checkpoint.settings)
        for group, members in checkpoint.state.items():
            tensors |= {f"{_RESUME}{group}/{name}": tensor for name, tensor in members.items()}
    return save_tensors(Path(path), tensors, about, before=previous_path(path))


def save_rounded(path: str | Path, checkpoint: Checkpoint) -> str:
    """Write the weights of a run, rounded to 8 bits, in a quarter of the size, and return the SHA-256 of the file.

    Every row of weights (all that go into one output) has a scale of its own, so that its largest weight is 127, and no
    weight moves by more than half of a scale. Vectors, such as those of BatchNorm, stay as they are. `load_checkpoint`
    gives float32 back, and `load_model` the network; to others the file is no state dict. The optimizer is left out.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in checkpoint.weights.items():
        if tensor.is_floating_point() and tensor.ndim >= 2:
            scales = tensor.float().flatten(1).abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            weights |= {name: (tensor / _by_row(scales, tensor)).round().to(torch.int8), f"{name}{_SCALE}": scales}
        else:
            weights[name] = tensor
    return save_checkpoint(path, replace(checkpoint, weights=weights, finished=True))


def _by_row(scales: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return scales (R,) in the shape in which they multiply a tensor (R, …)."""
    return scales.view(-1, *[1] * (tensor.ndim - 1))


def _without_scales(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors, those that `save_rounded` wrote in 8 bits as float32."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(_SCALE)}
    for name in tensors.keys() - plain.keys():
        scales, rounded = tensors[name], plain[name.removesuffix(_SCALE)]
        plain[name.removesuffix(_SCALE)] = rounded * _by_row(scales, rounded)
    return plain


def previous_path(path: str | Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    require_path("path", path)
    return Path(path).with_name(f"{Path(path).name}.previous")


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Return what a checkpoint holds, after its SHA-256 was found right.

    If it is damaged, what the one before it holds is returned, and that is said. What a killed process left
    half-written beside it is removed.

    Raises:
        CheckpointError: the file is missing, no checkpoint of a run, or damaged as the one before it is; or the path is
            that of a link, a pipe or a device, which is not read.
        ValueError: it is no path.
    """
    require_path("path", path)
    path = Path(path)
    if name_kind(path, follow=False) == "a link":  # the next save would have to replace it
        raise CheckpointError(f"{path} is a link: pass the path that it leads to, {path.resolve()}.")
    remove_abandoned(path.parent)
    try:
        return _load(path)
    except CheckpointError:
        previous = previous_path(path)
        if not path.is_file() or not previous.is_file():
            raise
        with contextlib.suppress(CheckpointError):
            found = _load(previous)
            epochs = len(found.history)
            print(f"{path} is damaged; the one before it, {previous.name} after epoch {epochs}, is used", flush=True)
            return found
        raise


def _load(path: Path) -> Checkpoint:
    tensors, about = load_tensors(path)
    if not isinstance(about, dict) or "identity" not in about:
        raise CheckpointError(f"{path} holds tensors and no run; expected a file that fit(…, checkpoint=…) wrote.")
    try:
        return _assemble(tensors, about, read_sha256(path))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a run as this version knows it ({error!r}).") from error


def _assemble(tensors: dict[str, torch.Tensor], about: dict, sha256: str) -> Checkpoint:
    if any(name.startswith("best/") for name in tensors):
        tensors, about = _upgrade(tensors, about)
    resume = {name for name in tensors if name.startswith(_RESUME)}
    weights = _without_scales({name: tensor for name, tensor in tensors.items() if name not in resume})
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key in resume:
        group, name = key.removeprefix(_RESUME).split("/", 1)
        state.setdefault(group, {})[name] = tensors[key]
    return Checkpoint(
        weights=weights,
        identity=about["identity"],
        history=tuple(EpochRecord(**row) for row in about["history"]),
        class_names=tuple(about["class_names"]),
        normaliser=Normaliser(**about["normaliser"]) if about["normaliser"] else None,
        environment=about["environment"],
        finished=about["finished"],
        state=state,
        settings=_from_json(about.get("settings", {})),
        sha256=sha256,
    )


def _upgrade(tensors: dict[str, torch.Tensor], about: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """Return a checkpoint from before version 1.0 as it would be written today."""
    best = {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}
    rest = {f"{_RESUME}{name}": tensor for name, tensor in tensors.items() if not name.startswith("best/")}
    moved = ("model", "width", "dropout", "activation")  # they were fields of the configuration
    config = {key: value for key, value in about["identity"]["config"].items() if key not in moved}
    identity = about["identity"] | {"config": config}
    return best | rest, about | {"identity": identity, "settings": {"scaler": about["scaler"]}}


# --- the state of an optimizer ---


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state of an optimizer: tensors called `parameter number/key`, and plain values."""
    whole = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for number, entry in whole["state"].items():
        for key, value in entry.items():
            (tensors if isinstance(value, torch.Tensor) else values)[f"{number}/{key}"] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in whole["param_groups"]]
    return tensors, {"values": values, "groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
) -> None:
    """Give an optimizer back what `optimizer_state` returned.

    A state of a parameter's shape takes its memory order too: fused kernels walk both side by side in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain.get("values", {})}.items():
        number, name = key.split("/", 1)
        if isinstance(value, torch.Tensor):
            like = parameters[int(number)]
            same = value.shape == like.shape
            value = (torch.empty_like(like, dtype=value.dtype).copy_(value) if same else value).detach()
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, kept in zip(groups, plain.get("groups", ()), strict=False):
        group.update(kept)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _to_json(value: Any) -> Any:
    """Return a value in the types of JSON, from which `_from_json` makes tuples and keys of other types again."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _to_json(member) for key, member in value.items()}
        return {"__items__": [[_to_json(key), _to_json(member)] for key, member in value.items()]}
    if isinstance(value, tuple):
        return {"__tuple__": [_to_json(member) for member in value]}
    if isinstance(value, list):
        return [_to_json(member) for member in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise CheckpointError(
        f"{type(value).__name__} {value!r} of optimizer or scheduler cannot be kept in a checkpoint: use plain "
        "numbers, or train without checkpoint=."
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if "__items__" in value:
            return {_from_json(key): _from_json(member) for key, member in value["__items__"]}
        if "__tuple__" in value:
            return tuple(_from_json(member) for member in value["__tuple__"])
        return {key: _from_json(member) for key, member in value.items()}
    return [_from_json(member) for member in value] if isinstance(value, list) else value


# --- whether a checkpoint belongs to a run ---


def differing_keys(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return `key (found value, now wanted value)` for every key whose values differ, also inside nested mappings."""
    rows = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            rows += [f"{key}.{row}" for row in differing_keys(a, b)]
        elif a != b:
            rows.append(f"{key} ({a!r}, now {b!r})")
    return rows


_PACKAGE = Path(__file__).parent.parent
# What decides the bits of a run; of `runtime` the functions that do.
_TRAINING_CODE: dict[str, tuple[str, ...]] = {
    "training/loop.py": (),
    "training/_plan.py": (),
    "training/evaluation.py": (),
    "training/optim.py": (),
    "training/parallel.py": (),
    "data/batches.py": (),
    "data/transforms.py": (),
    "models/networks.py": (),
    "metrics.py": ("cross_entropy", "count_correct", "sums"),
    "runtime.py": (
        "autocast",
        "autocast_dtype",
        "make_generator",
        "memory_format",
        "private_randomness",
        "seed_everything",
    ),
}


def code_digest(package: Path = _PACKAGE) -> str:
    """Return twelve digits of the code that decides the bits of a run; comments and docstrings do not count."""
    return hash_json([_code_of(package / name, wanted) for name, wanted in _TRAINING_CODE.items()])


def _code_of(path: Path, wanted: Iterable[str]) -> str:
    """Return the syntax tree of a module, or of some of its functions, as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    chosen = [node for node in tree.body if not wanted or getattr(node, "name", "") in wanted]
    return json.dumps([ast.dump(node) for node in chosen])
