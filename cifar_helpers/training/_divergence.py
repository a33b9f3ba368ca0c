"""Numbers that are no longer finite: which tensors hold them, what was there before, and how a training ends."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.data import DataLoader, SequentialSampler

from cifar_helpers._contract import Batch, EpochBatches
from cifar_helpers.training._wrappers import plain_names, plain_state
from cifar_helpers.training.records import TrainingDiverged

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def spoiled_tensors(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    floats = {name: t for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.dtype in _FLOATS}
    return [name for name, tensor in floats.items() if not tensor.isfinite().all()]


def find_designed(model: nn.Module) -> frozenset[str]:
    """Return the names of buffers that are not finite before training, as a mask of -inf is; no statistics of norms."""
    statistics = {id(b) for module in model.modules() if isinstance(module, _NormBase) for b in module.buffers(False)}
    free = {id(buffer) for buffer in model.buffers()} - statistics
    names, values = plain_names(model), model.state_dict(keep_vars=True)
    return frozenset(names[key] for key in spoiled_tensors(values) if id(values[key]) in free)


def require_finite(model: nn.Module, designed: frozenset[str]) -> None:
    """Raise a ValueError if a network holds NaN or infinity before training, but for the `designed` buffers."""
    spoiled = [name for name in spoiled_tensors(plain_state(model)) if name not in designed]
    if spoiled:
        raise ValueError(
            f"the model holds NaN or infinity in {_list(spoiled)} before the first step; expected finite weights and "
            "statistics: make the network again, or load weights from before it diverged"
        )


def check_still_finite(model: nn.Module, designed: frozenset[str], lr: float) -> None:
    """Raise TrainingDiverged if a network holds NaN or infinity, but for the `designed` buffers.

    With a huge learning rate BatchNorm divides by a standard deviation that is infinite: the loss stays a number.
    """
    spoiled = [name for name in spoiled_tensors(plain_state(model)) if name not in designed]
    if spoiled:
        raise TrainingDiverged(f"The model holds NaN or infinity in {_list(spoiled)}", lr=lr)


@contextlib.contextmanager
def put_back_if_diverged(model: nn.Module) -> Iterator[None]:
    """Give a network the weights and buffers that it has now again if the block raises TrainingDiverged."""
    kept = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
    try:
        yield
    except TrainingDiverged:
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                tensor.copy_(kept[name])
        model.zero_grad()
        raise


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights and buffers, also those that no state dict holds."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


_LOSS = "The loss is not finite"
_MEND = "hold NaN or infinity: mend them, or leave them out."


def diverged_now(step: int, images: torch.Tensor, optimizer: torch.optim.Optimizer, scaled: bool) -> TrainingDiverged:
    """Return what to raise about a loss that is no number, before the step that would spoil the weights.

    Args:
        step: of the epoch, from 1.
        scaled: whether the gradients, still those of the step before, are multiplied by something.
    """
    spoiled = _spoiled_images(images)
    cause = f"The images at positions {_list(spoiled)} of the batch {_MEND}" if spoiled else ""
    norm = None if step == 1 or scaled else _gradient_norm(optimizer)
    return TrainingDiverged(_LOSS, step=step, lr=optimizer.param_groups[0]["lr"], gradient_norm=norm, cause=cause)


def diverged_before(trace: Sequence[tuple[float, torch.Tensor]], optimizer: torch.optim.Optimizer) -> TrainingDiverged:
    """Return what to raise about the loss of an epoch that is over.

    Args:
        trace: rate and loss of every step, of a device that is not waited for.
    """
    wrong = [(step, lr) for step, (lr, loss) in enumerate(trace, start=1) if not math.isfinite(loss)]
    step, lr = wrong[0] if wrong else (None, optimizer.param_groups[0]["lr"])  # else the sum alone is infinite
    return TrainingDiverged(_LOSS, step=step, lr=lr)


def find_spoiled_images(name: str, batches: Iterable[Batch]) -> str:
    """Return a sentence on the first batch with images that are not finite, or ""."""
    for number, (images, _) in enumerate(batches, start=1):
        if _spoiled_images(images):
            return f"The images at positions {_list(_spoiled_images(images))} of {name} batch {number} {_MEND}"
    return ""


def _spoiled_images(images: torch.Tensor) -> list[int]:
    return (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()


def _gradient_norm(optimizer: torch.optim.Optimizer) -> float:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


def find_positions(train: Any, epoch: int, step: int, *, seed: int, batch_size: int) -> tuple[int, ...] | None:
    """Return the positions in the data of the images of a batch, or None where the batches do not tell.

    Args:
        epoch: from 0.
        step: from 1.
    """
    if isinstance(train, EpochBatches) and hasattr(train, "order"):
        return tuple(train.order(epoch, seed).split(batch_size)[step - 1].tolist())
    if isinstance(train, DataLoader) and isinstance(train.sampler, SequentialSampler) and train.batch_size:
        return tuple(range(len(train.sampler)))[(step - 1) * train.batch_size : step * train.batch_size]
    return None


def _list(values: Sequence[object], most: int = 6) -> str:
    """Return the first of some values as text."""
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")
