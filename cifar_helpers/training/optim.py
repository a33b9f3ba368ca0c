"""Learning-rate schedules in fractions of all steps, parameter groups, and the optimizers by name."""

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["lr_factor", "make_optimizer", "parameter_groups", "set_lr"]


def lr_factor(schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Return the share of the peak learning rate at `progress` in [0, 1], the fraction of all steps done.

    A linear warm-up from 0 fills the first `warmup` of the steps; the schedule runs over the rest. "one-cycle" warms up
    by itself (Smith and Topin, 2017, as torch's OneCycleLR has it): a cosine from 1/25 to 1, over 0.3 of the steps if
    `warmup` is 0, and a cosine down to 1/250,000.
    """
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
    """
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


def _layer_depths(model: nn.Module) -> dict[int, int]:
    """Return, by id of every parameter, how many layers with weights come after its own; 0 is the last.

    A layer is a child of the model; a norm belongs to the layer before it.
    """
    number = -1
    found: dict[int, int] = {}
    for child in [*model.children()] or [model]:
        number += any(p.ndim >= 2 for p in child.parameters())
        found |= {id(p): number for p in child.parameters()}
    return {id(p): max(number, 0) - max(found.get(id(p), 0), 0) for p in model.parameters()}


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
) -> torch.optim.Optimizer:
    """Return SGD, Adam or AdamW over the model's trainable parameters, which must be on their device already."""
    groups = parameter_groups(model, weight_decay, norm_bias_lr, layer_lr_decay)
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`, times its own factor if it has one.

    An optimizer that `make_optimizer` did not make keeps the rates of its groups, and `lr` is a factor on them.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", group.get("initial_lr", 1.0))
