"""Learning-rate schedules in fractions of all steps, parameter groups, and the optimizers by name."""

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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


def parameter_groups(model: nn.Module, weight_decay: float, norm_bias_lr: float = 1.0) -> list[dict]:
    """Return groups without empty ones: weights of two or more dimensions, which decay; biases and norms, which do not;
    and, if `norm_bias_lr` is not 1, the biases of BatchNorm, whose learning rate is that many times as high."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and norm_bias_lr != 1]
    fast = {id(module.bias) for module in norms}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay, "lr_factor": 1.0},
        {"params": [p for p in trainable if p.ndim < 2 and id(p) not in fast], "weight_decay": 0.0, "lr_factor": 1.0},
        {"params": [p for p in trainable if id(p) in fast], "weight_decay": 0.0, "lr_factor": norm_bias_lr},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: nn.Module,
    name: str = "sgd",
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    norm_bias_lr: float = 1.0,
) -> torch.optim.Optimizer:
    """Return SGD, Adam or AdamW over the model's trainable parameters, which must be on their device already."""
    groups = parameter_groups(model, weight_decay, norm_bias_lr)
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`, times its own factor if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
