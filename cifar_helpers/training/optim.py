"""Learning-rate schedules in fractions of all steps, parameter groups, Muon, and the optimizers by name."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_helpers._arguments import (
    is_number,
    require,
    require_choice,
    require_flag,
    require_model,
    require_number,
    require_positive,
    require_share,
    require_trainable,
    require_whole,
)
from cifar_helpers.runtime import core_threads

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Muon",
    "check_settings",
    "freeze_layers",
    "lr_factor",
    "make_optimizer",
    "orthogonalise",
    "parameter_groups",
    "set_lr",
]

OPTIMIZERS = ("sgd", "muon", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "triangular", "one-cycle")


def lr_factor(schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Return the share of the peak learning rate at `progress` in [0, 1], the fraction of all steps done.

    A linear warm-up from 0 fills the first `warmup` of the steps; the schedule runs over the rest. "one-cycle" warms up
    by itself (Smith and Topin, 2017, as torch's OneCycleLR has it): a cosine from 1/25 to 1, over 0.3 of the steps if
    `warmup` is 0, and a cosine down to 1/250,000.

    Raises:
        ValueError: an unknown schedule, or a fraction that is none.
    """
    require_choice("schedule", schedule, SCHEDULES)
    near = is_number(progress) and -1e-6 <= progress <= 1 + 1e-6  # a sum of shares is seldom 1 to the last bit
    require(near, "progress", progress, "a share of all steps, in [0, 1]")
    progress = min(max(progress, 0.0), 1.0)
    require_share("warmup", warmup)
    if schedule == "one-cycle":
        top = warmup or 0.3
        start, end, share = (
            (1 / 25, 1.0, progress / top) if progress < top else (1.0, 4e-6, (progress - top) / (1 - top))
        )
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
    if progress < warmup:
        return progress / warmup
    rest = (progress - warmup) / (1 - warmup)
    return {"constant": 1.0, "cosine": (1 + math.cos(math.pi * rest)) / 2, "triangular": 1 - rest}[schedule]


def parameter_groups(
    model: nn.Module, weight_decay: float, norm_bias_lr: float = 1.0, layer_lr_decay: float = 1.0
) -> list[dict]:
    """Return the trainable parameters in groups: weights of two or more dimensions decay, biases and norms do not.

    Biases of BatchNorm learn `norm_bias_lr` times as fast, and a layer `layer_lr_decay` times as fast as the next one.

    Raises:
        ValueError: no network, or a number out of its range.
    """
    require_model(model)
    _check_groups(weight_decay, norm_bias_lr, layer_lr_decay)
    norms = {id(module.bias) for module in model.modules() if isinstance(module, _BatchNorm)}
    depths = _layer_depths(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        factor = layer_lr_decay ** depths[id(p)] * (norm_bias_lr if id(p) in norms else 1.0)
        groups.setdefault((p.ndim < 2, factor), []).append(p)
    return [
        {"params": members, "weight_decay": 0.0 if free else weight_decay, "lr_factor": factor}
        for (free, factor), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def _check_groups(weight_decay: float, norm_bias_lr: float, layer_lr_decay: float) -> None:
    require_number("weight_decay", weight_decay, 0)
    require_positive("norm_bias_lr", norm_bias_lr, "a positive factor; 1 changes nothing")
    decays = is_number(layer_lr_decay) and 0 < layer_lr_decay <= 1
    require(decays, "layer_lr_decay", layer_lr_decay, "a factor in (0, 1]; 1 is no decay")


def check_settings(
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    norm_bias_lr: float,
    layer_lr_decay: float,
    muon_lr: float,
) -> None:
    """Raise a ValueError unless the settings of an optimizer are in their ranges."""
    require_positive("lr", lr, "a positive number; typical values are 1e-4 to 1")
    require_positive("muon_lr", muon_lr, "a positive number; 0.05 to 0.4 are usual")
    _check_groups(weight_decay, norm_bias_lr, layer_lr_decay)
    require_share("momentum", momentum)
    require_flag("nesterov", nesterov)
    require(not nesterov or momentum > 0, "nesterov", True, "Nesterov needs a momentum above 0")


def _layer_depths(model: nn.Module) -> dict[int, int]:
    """Return, by id of every parameter, how many layers with weights come after its own; 0 is the last."""
    numbers = _layer_numbers(model)
    last = max(numbers.values(), default=0)
    return {id(p): last - numbers.get(id(p), 0) for p in model.parameters()}


def _layer_numbers(model: nn.Module) -> dict[int, int]:
    """Return the number of its layer, from 0, by id of every parameter.

    A layer is a child of the model; a norm belongs to the layer before it.
    """
    number = -1
    found: dict[int, int] = {}
    for child in [*model.children()] or [model]:
        number += any(p.ndim >= 2 for p in child.parameters())
        found |= {id(p): max(number, 0) for p in child.parameters()}
    return found


@contextmanager
def freeze_layers(model: nn.Module, count: int) -> Iterator[None]:
    """Train nothing of the first `count` layers with weights inside the block: no gradient is computed through them.

    Raises:
        ValueError: the model has no other layers, or `count` is no whole number of 0 or more.
    """
    require_model(model)
    require_whole("frozen_layers", count, 0, "a whole number of 0 or more")
    numbers = _layer_numbers(model)
    layers = max(numbers.values(), default=0) + 1
    require(count < layers, "frozen_layers", count, f"fewer than the {layers} layers with weights of this model")
    frozen = [p for p in model.parameters() if p.requires_grad and numbers.get(id(p), layers) < count]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


# Coefficients of the polynomial a s + b s³ + c s⁵ that brings singular values in (0, 1] to about 1 (Jordan, 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """Return matrices (..., m, n) with the same singular vectors and singular values near 1, by Newton-Schulz steps.

    Five steps bring every singular value above 0.003 times the Frobenius norm to between 0.6 and 1.3; three leave the
    small ones smaller, which is enough for training and cheaper.

    Raises:
        ValueError: these are no matrices of floating-point numbers, or there is no step.
    """
    right = isinstance(matrices, torch.Tensor) and matrices.is_floating_point() and matrices.ndim >= 2
    require(right, "matrices", matrices, "floating-point numbers of shape (..., m, n)")
    require_whole("steps", steps)
    a, b, c = _NEWTON_SCHULZ
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrices.shape[-2] <= matrices.shape[-1] else wide.mT


class Muon(torch.optim.Optimizer):
    """Momentum whose step on a convolution is orthogonalised, so that it moves every direction by the same amount.

    After Jordan et al. (2024, kellerjordan.github.io/posts/muon), as their airbench94 uses it on CIFAR-10: filters
    (out, in, h, w) count as matrices (out, in * h * w), keep the norm sqrt(out), and those of one shape are
    orthogonalised together. Groups with "orthogonal": False are plain SGD with Nesterov momentum and weight decay.

    Args:
        momentum: of the orthogonal groups that have none of their own.

    Raises:
        ValueError: a rate that is not positive or a momentum out of [0, 1); in `step`, a bias in an orthogonal group.

    Attributes:
        cores: threads that share the layers on a CPU; at first as many as torch has.
    """

    cores = 1  # of a copy

    def __init__(self, params: Iterable[Any], lr: float = 0.2, momentum: float = 0.6) -> None:
        require_number("lr", lr, 0)
        require_share("momentum", momentum)
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True})
        self.cores = torch.get_num_threads()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` is called first where one is given, with gradients."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["orthogonal"]:
                self._step_filters(params, group)
            else:
                self._step_plain(params, group)
        return loss

    def _step_filters(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Move the filters of all layers: those of one shape together, or on a CPU each layer in a thread of its own.

        These are hundreds of small operations, and cores that share an operation wait for each other after each.
        """
        for p in params:
            advice = "filters or matrices; biases go into a group with 'orthogonal': False, as make_optimizer has it"
            require(p.ndim >= 2, "params", f"one of shape {tuple(p.shape)}", advice)
        if params and params[0].device.type == "cpu":
            jobs = sorted(params, key=torch.numel, reverse=True)
            list(core_threads(self.cores).map(lambda p: self._step_orthogonal([p], group), jobs))
            return
        for _, same in itertools.groupby(sorted(params, key=lambda p: p.shape), key=lambda p: p.shape):
            self._step_orthogonal([*same], group)

    @torch.no_grad()  # of each thread
    def _step_orthogonal(self, filters: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Move filters of one shape along their orthogonalised momentum."""
        moved = torch.stack([self._nesterov(p, p.grad, group["momentum"]).flatten(1) for p in filters])
        for p, direction in zip(filters, orthogonalise(moved), strict=True):
            p.mul_(len(p) ** 0.5 / (p.norm() + 1e-7))
            p.add_(direction.view_as(p), alpha=-group["lr"])

    def _step_plain(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for p in params:
            gradient = p.grad.add(p, alpha=group["weight_decay"])  # type: ignore[union-attr]  # those with one
            p.add_(self._nesterov(p, gradient, group["momentum"]), alpha=-group["lr"])

    def _nesterov(self, p: torch.Tensor, gradient: Any, momentum: float) -> torch.Tensor:
        """Take the gradient into the momentum of a parameter, and return the step that looks one ahead."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
        return gradient.add(buffer, alpha=momentum)


def make_optimizer(
    model: nn.Module,
    name: str = "sgd",
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    norm_bias_lr: float = 1.0,
    layer_lr_decay: float = 1.0,
    muon_lr: float = 0.2,
) -> torch.optim.Optimizer:
    """Return SGD, Muon, Adam or AdamW over the model's trainable parameters, which must be on their device already.

    With "muon" the convolutions learn at the rate `muon_lr`, without weight decay, and all else as with "sgd".

    Raises:
        ValueError: an unknown name, no network with parameters, or a number out of its range.
    """
    require_trainable(model)
    require_choice("name", name, OPTIMIZERS)
    check_settings(
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov and name == "sgd",
        norm_bias_lr=norm_bias_lr,
        layer_lr_decay=layer_lr_decay,
        muon_lr=muon_lr,
    )
    groups = parameter_groups(model, weight_decay, norm_bias_lr, layer_lr_decay)
    if name == "muon":
        groups = _split_filters(groups, lr, muon_lr, momentum)
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    if name == "muon":
        return Muon(groups, lr=lr)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr, fused=fused)


def _split_filters(groups: list[dict], lr: float, muon_lr: float, momentum: float) -> list[dict]:
    """Return groups of which each holds filters of convolutions alone, for Muon, or none."""
    split = []
    for group in groups:
        filters = [p for p in group["params"] if p.ndim == 4]
        others = [p for p in group["params"] if p.ndim != 4]
        factor = group["lr_factor"] * muon_lr / lr
        split += [{"params": filters, "orthogonal": True, "lr_factor": factor}] if filters else []
        split += [{**group, "params": others, "orthogonal": False, "momentum": momentum}] if others else []
    return split


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`, times its own factor if it has one.

    An optimizer that `make_optimizer` did not make keeps the rates of its groups, and `lr` is a factor on them.

    Raises:
        ValueError: `lr` is no number of 0 or more.
    """
    lr = lr.item() if isinstance(lr, torch.Tensor) and lr.ndim == 0 else lr
    require_number("lr", lr, 0)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", group.get("initial_lr", 1.0))
