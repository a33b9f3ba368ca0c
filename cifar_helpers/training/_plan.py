"""What a configuration means for a model and its data: worked out once, before the first step.

The loop reads the plan and never the configuration.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifar_helpers import metrics
from cifar_helpers._arguments import require, require_made_function, require_trainable
from cifar_helpers._contract import Batch, EpochBatches
from cifar_helpers.data.transforms import mixup, resize
from cifar_helpers.runtime import autocast_dtype, count_processes, make_generator
from cifar_helpers.training._divergence import find_positions
from cifar_helpers.training._identity import as_plain, describe_data, describe_model, describe_parts
from cifar_helpers.training._validation import checked, ordered, unused_fields
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import Loss, on_device
from cifar_helpers.training.optim import lr_factor, make_optimizer
from cifar_helpers.training.parallel import Processes, Replicas, count_replicas, find_obstacle

Optimizer = torch.optim.Optimizer | Callable[[nn.Module], torch.optim.Optimizer]
Scheduler = torch.optim.lr_scheduler.LRScheduler
MakeScheduler = Callable[[torch.optim.Optimizer], Scheduler]


@dataclass
class Plan:
    """All that the loop needs to know.

    Attributes:
        epochs, steps_per_epoch, total_steps: how long; the last epoch may be shorter.
        serve: the number of an epoch, from 0, to its batches on the device.
        serve_val: the validation batches, as they come.
        find_positions: the number of an epoch, from 0, and of its step, from 1, to the positions of the batch's images
            in the data; None where the batches do not tell.
        lrs: the number of an epoch to the learning rate of each of its steps; None leaves the optimizer's own.
        seed_of: the number of an epoch to the seed of the global random streams in it, for dropout.
        loss: of training; `val_loss` of validation, None for the cross-entropy.
        scheduler: one of torch's, in place of `lrs`; `scheduled_by_step`: it goes on after every step, not every epoch.
        forward: the model, compiled if asked for, shared among cores or processes, or wrapped by the reader.
        share: a network to the same network as it is validated: shared as the model is.
        replicas: parts of a batch that are computed side by side on a CPU.
        cores: those of an operation, where the others are left to the other replicas.
        average: the mean of the weights, which is validated in place of the model; None where none is taken.
        identity: what makes this run another than others: `config`, `model` and `data`, as plain values.
    """

    device: torch.device
    dtype: torch.dtype
    epochs: int
    steps_per_epoch: int
    total_steps: int
    serve: Callable[[int], Iterable[Batch]]
    serve_val: Callable[[], Iterable[Batch]]
    find_positions: Callable[[int, int], tuple[int, ...] | None]
    lrs: Callable[[int], Sequence[float | None]]
    seed_of: Callable[[int], int]
    loss: Loss
    val_loss: Loss | None
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    scheduled_by_step: bool
    scaler: torch.amp.GradScaler | None
    forward: nn.Module
    share: Callable[[nn.Module], nn.Module]
    replicas: int
    cores: int
    average: AveragedModel | None
    identity: dict[str, Any]

    def steps(self, epoch: int) -> int:
        """Return the steps of an epoch; the last one may have fewer."""
        return min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)


def make_plan(
    model: nn.Module,
    train: Iterable[Batch],
    val: Iterable[Batch],
    config: TrainConfig,
    device: torch.device,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | MakeScheduler | None = None,
    scheduler_every: str | None = None,
    num_classes: int,
    images: torch.Tensor,
    wrapped: nn.Module | None = None,
    identify: bool = False,
) -> Plan:
    """Return what `config` means here.

    Args:
        wrapped: the model inside torch.compile or DataParallel, as the reader passed it.
        num_classes: outputs of the model.
        images: the first of `train`, on the device.
        identify: whether the data must be told apart from other data, because a checkpoint will ask.

    Raises:
        ValueError: the arguments do not fit together.
    """
    unused = unused_fields(config, train, loss, optimizer, scheduler)
    steps_per_epoch = _count_steps(train, config)
    total_steps = min(steps_per_epoch * config.epochs, config.max_steps or math.inf)
    made = _make_optimizer(model, config, optimizer, model if wrapped is None else wrapped)
    planned = _make_scheduler(made, scheduler)
    dtype = autocast_dtype(device, config.precision)
    shares = functools.partial(_shares, steps_per_epoch, int(total_steps))
    replicas = _count_replicas(model, train, config, images, is_whole=config.compile or wrapped is not None)
    share = functools.lru_cache(functools.partial(_share, replicas))
    parts: dict[str, object] = {"loss": loss, "optimizer": optimizer and made, "scheduler": scheduler}
    return Plan(
        device=device,
        dtype=dtype,
        epochs=math.ceil(total_steps / steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        total_steps=int(total_steps),
        serve=functools.partial(_serve, train, config, device, num_classes, shares),
        serve_val=lambda: checked("val", ordered(val), num_classes),
        find_positions=functools.partial(find_positions, train, seed=config.seed, batch_size=config.batch_size),
        lrs=functools.partial(_lrs, config, shares, own_optimizer=bool(optimizer), own_scheduler=bool(scheduler)),
        seed_of=lambda epoch: make_generator("dropout", config.seed, epoch).initial_seed(),
        loss=loss or functools.partial(metrics.cross_entropy, label_smoothing=config.label_smoothing),
        val_loss=loss,
        optimizer=made,
        scheduler=planned,
        scheduled_by_step=_is_by_step(planned, scheduler_every),
        scaler=torch.amp.GradScaler(device.type) if dtype == torch.float16 else None,
        forward=_forward(model, wrapped, config, share),
        share=share,
        replicas=replicas,
        cores=max(1, torch.get_num_threads() // replicas),
        average=_average_weights(model, config.ema) if config.ema else None,
        identity=as_plain(
            config=config.to_dict() | dict.fromkeys(unused) | describe_parts(parts),
            model=describe_model(model),
            data=describe_data(train, val, steps_per_epoch, identify),
        ),
    )


# --- optimizer and scheduler ---


def _make_optimizer(
    model: nn.Module, config: TrainConfig, given: Optimizer | None, passed: nn.Module
) -> torch.optim.Optimizer:
    """Return the optimizer of `config`, or the reader's, whose function is given the model as it was passed."""
    require_trainable(model)
    if given is None:
        return make_optimizer(
            model,
            config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=config.nesterov,
            norm_bias_lr=config.norm_bias_lr,
            layer_lr_decay=config.layer_lr_decay,
            muon_lr=config.muon_lr,
        )
    allowed = "an optimizer, or a function of the model: lambda model: torch.optim.Adam(model.parameters())"
    if not isinstance(given, torch.optim.Optimizer):
        require_made_function("optimizer", given, allowed)
    made = given if isinstance(given, torch.optim.Optimizer) else given(passed)
    require(isinstance(made, torch.optim.Optimizer), "optimizer", made, allowed)
    require(not isinstance(made, torch.optim.LBFGS), "optimizer", "LBFGS", "one that needs no closure")
    known = {id(p) for p in model.parameters()}
    foreign = sum(id(p) not in known for group in made.param_groups for p in group["params"])
    require(foreign == 0, "optimizer", type(made).__name__, f"{foreign} of its parameters are not the model's")
    for group in made.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return made


def _make_scheduler(optimizer: torch.optim.Optimizer, given: Scheduler | MakeScheduler | None) -> Scheduler | None:
    if given is None:
        return None
    allowed = "a scheduler of torch, or a function of the optimizer: lambda optimizer: StepLR(optimizer, 10)"
    if not isinstance(given, Scheduler):
        require_made_function("scheduler", given, allowed)
    made = given if isinstance(given, Scheduler) else given(optimizer)
    require(isinstance(made, Scheduler), "scheduler", made, allowed)
    require(made.optimizer is optimizer, "scheduler", type(made).__name__, "one that was made for this optimizer")
    return made


def _is_by_step(scheduler: Scheduler | None, every: str | None) -> bool:
    """Return whether a scheduler goes on after every step; those that torch documents so do without being told."""
    require(every in (None, "step", "epoch"), "scheduler_every", every, "'step' or 'epoch'")
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    require(not (plateau and every == "step"), "scheduler_every", every, "'epoch': the plateau is one of epochs")
    kinds = torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR
    return isinstance(scheduler, kinds) if every is None else every == "step"


def _average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential mean of the model's weights and buffers, which begins with those after the first step."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


# --- several cores or processes ---


def _forward(
    model: nn.Module, wrapped: nn.Module | None, config: TrainConfig, share: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Return what gives the logits in training: the reader's own wrapper, else as the configuration says."""
    if wrapped is None:
        return cast(nn.Module, torch.compile(model)) if config.compile else share(model)
    kind = type(wrapped).__name__
    require(not config.compile, "compile", True, f"False for a model that is wrapped already, here in {kind}")
    require(count_processes() == 1, "model", kind, "the network itself: under torchrun `fit` shares out its batches")
    return wrapped


def _count_replicas(model: nn.Module, train: Any, config: TrainConfig, images: torch.Tensor, *, is_whole: bool) -> int:
    """Return how many replicas of the network share a batch: as many as were asked for, else one a core.

    Args:
        is_whole: whether something else takes the batches, a compiled network or the reader's DataParallel.
    """
    require(not (config.compile and count_processes() > 1), "compile", True, "False under torchrun")
    if config.replicas == 1 or count_processes() > 1 or images.device.type != "cpu" or is_whole:
        reason = "1 or None: several replicas are for a CPU, without torchrun and without compile"
        require(config.replicas in (None, 1), "replicas", config.replicas, reason)
        return 1
    if config.replicas is None:
        batch_size = config.batch_size if isinstance(train, EpochBatches) else len(images)
        return count_replicas(model, images, batch_size, torch.get_num_threads())
    obstacle = find_obstacle(model, images)
    require(obstacle is None, "replicas", config.replicas, f"1 or None: {obstacle}")
    return config.replicas


def _share(replicas: int, model: nn.Module) -> nn.Module:
    """Return the network as the cores or processes share it."""
    if count_processes() > 1:
        return Processes(model)
    return Replicas(model, replicas) if replicas > 1 else model


# --- an epoch: its steps, their rates, its batches ---


def _count_steps(train: Any, config: TrainConfig) -> int:
    steps = train.steps(config.batch_size) if isinstance(train, EpochBatches) else len(train)
    require(steps >= 1, "train", f"{steps} batches", "at least one; drop_last leaves out a batch that is not full")
    return steps


def _shares(steps_per_epoch: int, total_steps: int, epoch: int) -> list[float]:
    """Return the share of all steps that is done in the middle of each step of an epoch."""
    done = epoch * steps_per_epoch
    return [(done + i + 0.5) / total_steps for i in range(min(steps_per_epoch, total_steps - done))]


def _lrs(
    config: TrainConfig,
    shares: Callable[[int], list[float]],
    epoch: int,
    *,
    own_optimizer: bool,
    own_scheduler: bool,
) -> list[float | None]:
    """Return the rates of an epoch's steps; with an optimizer of the reader's the factors on its own rates."""
    if own_scheduler or (own_optimizer and config.schedule == "constant" and not config.warmup):
        return [None] * len(shares(epoch))
    peak = 1.0 if own_optimizer else config.lr
    return [peak * lr_factor(config.schedule, share, config.warmup) for share in shares(epoch)]


def _serve(
    train: Any,
    config: TrainConfig,
    device: torch.device,
    num_classes: int,
    shares: Callable[[int], list[float]],
    epoch: int,
) -> Iterable[Batch]:
    """Return the batches of an epoch on the device, resized and mixed as the configuration says."""
    batches = train
    if isinstance(train, EpochBatches):
        batches = train.epoch(epoch, seed=config.seed, batch_size=config.batch_size, augment=config.augment)
    found = on_device(checked("train", batches, num_classes), device)
    batches = _resized(found, shares(epoch), config.image_sizes)
    if not config.mixup:
        return batches
    lams = _draw_lams(config.mixup, len(shares(epoch)), config.seed, epoch)
    return _mixed(batches, lams, num_classes)


def _resized(batches: Iterable[Batch], shares: Iterable[float], sizes: Sequence[tuple[float, int]]) -> Iterator[Batch]:
    """Yield one batch for each share of all steps, its images in the size that is due at that share."""
    for share, (images, labels) in zip(shares, batches, strict=False):  # in this order no batch is drawn in vain
        due = [size for start, size in sizes if start <= share]
        yield (resize(images, due[-1]) if due else images), labels


def _mixed(batches: Iterable[Batch], lams: Iterable[float], num_classes: int) -> Iterator[Batch]:
    """Yield one batch for each lam, its images mixed by it, with probabilities (B, num_classes) for labels."""
    for lam, (images, labels) in zip(lams, batches, strict=False):
        yield mixup(images, functional.one_hot(labels, num_classes).float(), lam)


def _draw_lams(alpha: float, count: int, seed: int, epoch: int) -> list[float]:
    """Return `count` draws from Beta(alpha, alpha), which depend on (seed, epoch) alone."""
    stream = np.random.default_rng(make_generator("mixup", seed, epoch).initial_seed())
    return stream.beta(alpha, alpha, count).tolist()
