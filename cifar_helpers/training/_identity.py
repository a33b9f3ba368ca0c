"""What makes a run another than others: its configuration and parts, its model, its data, as plain values."""

import json
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from cifar_helpers._hashing import SHORT, hash_code, hash_json, hash_object, hash_tensors, hash_weights
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.runtime import seed_everything


def as_plain(**values: Any) -> dict[str, Any]:
    """Return values as they come back from a file."""
    return json.loads(json.dumps(values))


def describe_parts(parts: dict[str, object]) -> dict[str, Any]:
    """Return the reader's own parts as plain values; fields of the same name are replaced."""
    return {name: _describe_part(part) for name, part in parts.items() if part is not None}


def _describe_part(part: object) -> dict[str, Any]:
    if isinstance(part, torch.optim.Optimizer):
        defaults = {key: repr(value) for key, value in part.defaults.items()}
        return {"name": type(part).__name__, **defaults, "groups": len(part.param_groups)}
    if isinstance(part, torch.optim.lr_scheduler.LRScheduler):
        return {"name": type(part).__name__}
    try:
        return {"name": name_of(part), "hash": hash_object(part)}
    except ValueError:  # then it is known by its name alone
        return {"name": name_of(part)}


def name_of(part: object) -> str:
    return getattr(part, "__qualname__", type(part).__name__)


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return what the run hash knows of a model: its spec or class, its layers, and the weights it starts from."""
    spec = getattr(model, "spec", None)
    facts = dict(spec) if isinstance(spec, Mapping) else {"name": type(model).__name__}
    facts |= {"layers": hash_json(repr(model)), "weights": hash_weights(model)}
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if frozen:  # no training changes them: another pretrained part is another model
        facts["frozen"] = hash_tensors(frozen)[:SHORT]
    code = hash_code(type(module) for module in model.modules())
    if code is not None:
        facts |= {"code": code, "values": hash_object([_plain_values(module) for module in model.modules()])}
    return facts


def _plain_values(module: nn.Module) -> dict[str, Any]:
    """Return the numbers and texts that a module of the reader's keeps beside its weights."""
    kept = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    return {name: value for name, value in kept.items() if isinstance(value, bool | int | float | str | tuple)}


def describe_data(train: Any, val: Any, steps_per_epoch: int, identify: bool) -> dict[str, Any]:
    normaliser = getattr(train, "normaliser", None)
    return {
        "train": _fingerprint("train", train, identify),
        "val": _fingerprint("val", val, identify),
        "normaliser": normaliser.to_dict() if isinstance(normaliser, Normaliser) else None,
        "steps_per_epoch": steps_per_epoch,
    }


def _fingerprint(name: str, batches: Any, identify: bool) -> str | None:
    """Return what identifies the examples, or None where nothing does and nobody asks.

    Raises:
        ValueError: a checkpoint asks, and nothing does.
    """
    told = getattr(batches, "sha256", None) or getattr(getattr(batches, "dataset", batches), "fingerprint", None)
    if told is not None:
        return str(told)
    if isinstance(batches, list | tuple):
        return hash_tensors(tensor for batch in batches for tensor in batch)[:SHORT]
    try:
        return hash_json([hash_object(_content(batches)), _probe(getattr(batches, "dataset", None))])
    except ValueError as error:
        if not identify:
            return None
        raise ValueError(
            f"{name}: {error}, and a checkpoint must not answer for other data. Give your dataset an attribute "
            "`fingerprint`, a text that changes with the data, or train without checkpoint="
        ) from error


def _probe(dataset: Any, count: int = 16) -> str | None:
    """Return what identifies some items of a data set, spread over it, drawn with the same random numbers each time.

    None if there are no items by number, or if they differ the second time, as with a random state of its own.
    """
    if not isinstance(dataset, Dataset) or isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return None

    def draw() -> str:
        seed_everything(0)
        places = sorted({round(i * (len(dataset) - 1) / (count - 1)) for i in range(count)})
        return hash_object([dataset[place] for place in places])

    try:
        first = draw()
        return first if draw() == first else None
    except (LookupError, ValueError, TypeError, OSError):  # training will say what is wrong with them
        return None


def _content(batches: Any) -> object:
    """Return what a DataLoader serves; its workers, memory and random state do not count."""
    if not isinstance(batches, DataLoader):
        return batches
    sampler = (
        batches.batch_sampler.sampler if isinstance(batches.batch_sampler, BatchSampler) else batches.batch_sampler
    )
    chosen = getattr(sampler, "indices", getattr(sampler, "weights", None))
    return batches.dataset, batches.batch_size, batches.drop_last, type(sampler), chosen, batches.collate_fn
