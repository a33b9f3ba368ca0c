"""One batch on several cores or devices: every part is computed on its own, and the gradients are added.

Both classes are modules that take a whole batch and return the logits of all of it, in its order. The loss is taken
once over the joint logits, so that every loss is that of one network; its gradient goes back to the parts. What a part
does not see is the rest of the batch: BatchNorm normalises a part with the mean and variance of that part.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from cifar_helpers._arguments import require, require_model, require_whole
from cifar_helpers._contract import naming_images
from cifar_helpers.runtime import private_randomness, start_threads
from cifar_helpers.training.evaluation import evaluating

__all__ = ["Processes", "Replicas", "count_replicas", "find_obstacle"]

# Images in a part: below this BatchNorm's mean and variance become noise, and a core has too little to do.
_SMALLEST_PART = 32
# How often an image uses a parameter, on average: 1 in an MLP, 50 and more in a network of convolutions. Below this,
# adding the gradients of the replicas costs more than they save.
_LEAST_USE = 10


def count_replicas(model: nn.Module, images: torch.Tensor, batch_size: int, threads: int) -> int:
    """Return how many replicas share a batch by default: one a core, while every part has 32 images, or 1.

    It is 1 where `find_obstacle` finds one, and for a network that has few operations for its parameters.

    Raises:
        ValueError: no network, no image in a batch, or no thread.
    """
    require_model(model)
    require_whole("batch_size", batch_size)
    require_whole("threads", threads)
    count = min(threads, batch_size // _SMALLEST_PART)
    return count if count > 1 and not find_obstacle(model, images) and _use(model, images) >= _LEAST_USE else 1


def _use(model: nn.Module, images: torch.Tensor) -> float:
    """Return how many multiply-adds an image takes for each parameter."""
    with FlopCounterMode(display=False) as counter, evaluating(model):
        model(images[:2])
    return counter.get_total_flops() / (2 * len(images[:2]) * sum(p.numel() for p in model.parameters()))


class Replicas(nn.Module):
    """A network whose batches are shared by copies of it, each in a thread of its own: one CPU, all of its cores.

    The copies have the parameters of the network itself and gradients of their own, which are added after every
    backward pass. PyTorch's own way, all threads on every operation, lets them wait for each other about 150 times a
    step, and each wait is long when another program takes a core; here they wait twice.

    The running statistics of BatchNorm are those of the first part. In evaluation mode the network itself serves all
    threads.

    Args:
        count: parts of a batch; a batch of fewer than `2 * count` images is not shared.

    Raises:
        ValueError: no network, or no part.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        require_model(model)
        require_whole("count", count)
        self.model = model
        # A tuple, no ModuleList: parameters and weights to save are those of the network alone.
        self._copies = (model, *(_share_parameters(model) for _ in range(count - 1)))
        self._threads = start_threads(count, max(1, torch.get_num_threads() // count))

    def train(self, mode: bool = True) -> "Replicas":
        """Set the mode of all copies, and what is frozen in them to what is frozen in the network."""
        super().train(mode)
        for replica in self._copies[1:]:
            replica.train(mode)
            for own, p in zip(replica.parameters(), self.model.parameters(), strict=True):
                own.requires_grad_(p.requires_grad)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, C) of a batch; their gradient goes back through all copies at once."""
        if len(images) < 2 * len(self._copies):
            return self.model(images)
        copies = self._copies if self.training else [self.model] * len(self._copies)
        outputs = self._in_threads(_call, copies, images.tensor_split(len(copies)))
        if not torch.is_grad_enabled():
            return torch.cat(outputs)
        logits = torch.cat([output.detach() for output in outputs]).requires_grad_()
        logits.register_hook(lambda gradient: self._backward(outputs, gradient))
        return logits

    def _backward(self, outputs: Sequence[torch.Tensor], gradient: torch.Tensor) -> None:
        """Send the gradient of the joint logits through the copies, and add what each has found."""
        self._in_threads(torch.Tensor.backward, outputs, gradient.split([len(output) for output in outputs]))
        for p, *others in zip(*(replica.parameters() for replica in self._copies), strict=True):
            for other in others:
                if other.grad is not None:
                    p.grad = other.grad if p.grad is None else p.grad.add_(other.grad)
                    other.grad = None

    def _in_threads(self, action: Callable, *arguments: Sequence) -> list[Any]:
        """Call `action` with each row of arguments in a thread of its own, in the number format of this thread."""
        formats = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_grad_enabled()

        def act(*row: Any) -> Any:
            autocasting, dtype, with_graph = formats
            with torch.autocast("cpu", dtype, autocasting), torch.set_grad_enabled(with_graph):
                return action(*row)

        return list(self._threads.map(act, *arguments))


def _call(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images)


def _share_parameters(model: nn.Module) -> nn.Module:
    """Return a copy with buffers and gradients of its own whose parameters are the model's, in the same memory."""
    replica = copy.deepcopy(model)
    for own, p in zip(replica.parameters(), model.parameters(), strict=True):
        own.data = p.data
        own.grad = None
    return replica


def find_obstacle(model: nn.Module, images: torch.Tensor) -> str | None:
    """Return why parts of a batch cannot be computed side by side, or None: the network is tried on two images.

    Random numbers would be drawn in an order that is chance, and what a network keeps of a batch, for a loss or a hook
    to read, would be of one part alone.
    """
    require_model(model)
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()):
        return "a hook of the network would see a part of the batch alone"
    try:
        probe = copy.deepcopy(model).train()
    except (RuntimeError, TypeError) as error:
        return f"the network cannot be copied: {error}"
    with private_randomness(images.device), torch.no_grad():
        before, stream = _kept(probe), torch.get_rng_state()
        with naming_images(probe, images):
            probe(images[:2])
        if not torch.equal(stream, torch.get_rng_state()):
            return "the network draws random numbers, as dropout does"
        return None if before == _kept(probe) else "the network keeps something of a batch"


def _kept(model: nn.Module) -> list[Any]:
    """Return what identifies all that the modules hold, but for the statistics of BatchNorm."""
    held = [item for module in model.modules() for item in vars(module).items()]
    attributes = [(name, id(value), len(value) if isinstance(value, list | dict) else None) for name, value in held]
    buffers = [b for m in model.modules() if not isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]
    return [attributes, [(id(b), b._version) for b in buffers]]


class Processes(nn.Module):
    """A network whose batches are shared by the processes of a torchrun, through DistributedDataParallel.

    Every process is given the whole batch, computes its part, and gets the logits of all; in evaluation too, so that
    every process counts the same. Buffers, BatchNorm's statistics among them, are those of the first process. For
    statistics over the whole batch, on GPUs, convert the network with `nn.SyncBatchNorm.convert_sync_batchnorm`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        self._parallel: DistributedDataParallel | None = None

    def train(self, mode: bool = True) -> "Processes":
        super().train(mode)
        if mode and self._parallel is None:
            self._parallel = DistributedDataParallel(self.model)
        if not mode:
            for buffer in self.model.buffers():
                distributed.broadcast(buffer, 0)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, C) of a batch; the gradient of this process's part goes back through it.

        Raises:
            ValueError: there are fewer images than processes, in training.
        """
        parts = images.tensor_split(self.count)
        if not self.training or self._parallel is None:
            return self._gather(self.model(parts[self.rank]), parts)
        advice = f"batches of at least {self.count} images, one for each process, the last one too: drop_last=True"
        require(len(images) >= self.count, "batch", f"{len(images)} images", advice)
        logits = self._parallel(parts[self.rank])
        # DistributedDataParallel takes the mean of the gradients; those of parts of one loss are to be added.
        logits.register_hook(lambda gradient: self.count * gradient)
        return self._gather(logits, parts)

    def _gather(self, logits: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the logits of all processes; parts differ by one image at most, and travel in one size."""
        padded = logits.new_zeros(len(parts[0]), logits.shape[1])
        padded[: len(logits)] = logits.detach()
        found = [torch.empty_like(padded) for _ in parts]
        distributed.all_gather(found, padded)
        joint = [rows[: len(part)] for rows, part in zip(found, parts, strict=True)]
        joint[self.rank] = logits
        return torch.cat(joint)
