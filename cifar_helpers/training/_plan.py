"""What a configuration means for a model and its data: worked out once, before the first step.

The loop reads the plan and never the configuration.
"""

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from cifar_helpers import metrics
from cifar_helpers._arguments import require
from cifar_helpers._contract import Batch, EpochBatches, Ordered, check_batch, check_label_range
from cifar_helpers._hashing import SHORT, hash_code, hash_json, hash_object, hash_tensors, hash_weights
from cifar_helpers.data.transforms import Normaliser, mixup, resize
from cifar_helpers.runtime import autocast_dtype, make_generator, seed_everything
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import Loss, check_normaliser, evaluating, on_device
from cifar_helpers.training.optim import lr_factor, make_optimizer

Optimizer = torch.optim.Optimizer | Callable[[nn.Module], torch.optim.Optimizer]
Scheduler = torch.optim.lr_scheduler.LRScheduler
MakeScheduler = Callable[[torch.optim.Optimizer], Scheduler]

# Fields that a part of the reader's own makes meaningless.
_BY_OPTIMIZER = ("optimizer", "lr", "momentum", "nesterov", "weight_decay", "norm_bias_lr", "layer_lr_decay")
_BY_SCHEDULER = ("schedule", "warmup")
_BY_LOSS = ("label_smoothing",)
_BY_LOADER = ("batch_size", "augment")


@dataclass
class Plan:
    """All that the loop needs to know.

    Attributes:
        epochs, steps_per_epoch, total_steps: how long; the last epoch may be shorter.
        serve: the number of an epoch, from 0, to its batches on the device.
        lrs: the number of an epoch to the learning rate of each of its steps; None leaves the optimizer's own.
        seed_of: the number of an epoch to the seed of torch's global stream in it, for dropout.
        loss: of training; `val_loss` of validation, None for the cross-entropy.
        step_scheduler: called after every step; `epoch_scheduler` after every epoch, with its record.
        forward: the model, compiled if asked for.
        average: the mean of the weights, which is validated in place of the model; None where none is taken.
        identity: what makes this run another than others: `config`, `model` and `data`, as plain values.
    """

    device: torch.device
    dtype: torch.dtype
    epochs: int
    steps_per_epoch: int
    total_steps: int
    serve: Callable[[int], Iterable[Batch]]
    lrs: Callable[[int], Sequence[float | None]]
    seed_of: Callable[[int], int]
    loss: Loss
    val_loss: Loss | None
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    scheduled_by_step: bool
    scaler: torch.amp.GradScaler | None
    forward: nn.Module
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
    identify: bool = False,
) -> Plan:
    """Return what `config` means here.

    Args:
        num_classes: outputs of the model.
        identify: whether the data must be told apart from other data, because a checkpoint will ask.

    Raises:
        ValueError: the arguments do not fit together.
    """
    unused = _unused_fields(config, train, loss, optimizer, scheduler)
    steps_per_epoch = _count_steps(train, config)
    total_steps = min(steps_per_epoch * config.epochs, config.max_steps or math.inf)
    made = _make_optimizer(model, config, optimizer)
    planned = _make_scheduler(made, scheduler)
    dtype = autocast_dtype(device, config.precision)
    shares = functools.partial(_shares, steps_per_epoch, int(total_steps))
    parts: dict[str, object] = {"loss": loss, "optimizer": optimizer and made, "scheduler": scheduler}
    return Plan(
        device=device,
        dtype=dtype,
        epochs=math.ceil(total_steps / steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        total_steps=int(total_steps),
        serve=functools.partial(_serve, train, config, device, num_classes, shares),
        lrs=functools.partial(_lrs, config, shares, own_optimizer=bool(optimizer), own_scheduler=bool(scheduler)),
        seed_of=lambda epoch: make_generator("dropout", config.seed, epoch).initial_seed(),
        loss=loss or functools.partial(metrics.cross_entropy, label_smoothing=config.label_smoothing),
        val_loss=loss,
        optimizer=made,
        scheduler=planned,
        scheduled_by_step=_is_by_step(planned, scheduler_every),
        scaler=torch.amp.GradScaler(device.type) if dtype == torch.float16 else None,
        forward=cast(nn.Module, torch.compile(model)) if config.compile else model,
        average=_average_weights(model, config.ema) if config.ema else None,
        identity=_as_json(
            config=config.to_dict() | dict.fromkeys(unused) | _describe_parts(parts),
            model=describe_model(model),
            data=_describe_data(train, val, steps_per_epoch, identify),
        ),
    )


def _as_json(**values: Any) -> dict[str, Any]:
    """Return values as they come back from a file."""
    return json.loads(json.dumps(values))


# --- what the reader's own parts make meaningless ---


def _unused_fields(config: TrainConfig, train: object, loss: object, optimizer: object, scheduler: object) -> list[str]:
    """Return the fields of the configuration that are not used here, or raise a ValueError if one of them was set."""
    reasons = {
        "optimizer=": (_BY_OPTIMIZER, optimizer is not None, "set it in your optimizer"),
        "scheduler=": (_BY_SCHEDULER, scheduler is not None, "set it in your scheduler"),
        "loss=": (_BY_LOSS, loss is not None, "set it in your loss"),
        type(train).__name__: (_BY_LOADER, not isinstance(train, EpochBatches), "the batches are served as they come"),
    }
    defaults = {field.name: field.default for field in fields(config)}
    unused = []
    for what, (names, given, advice) in reasons.items():
        for name in names if given else ():
            value = getattr(config, name)
            allowed = f"{what.removesuffix('=')} makes it meaningless: {advice}, and leave {name}={defaults[name]!r}"
            require(value == defaults[name], name, value, allowed)
            unused.append(name)
    return unused


def _describe_parts(parts: dict[str, object]) -> dict[str, Any]:
    """Return the reader's own parts as plain values; fields of the same name are replaced."""
    return {name: _describe_part(part) for name, part in parts.items() if part is not None}


def _describe_part(part: object) -> dict[str, Any]:
    if isinstance(part, torch.optim.Optimizer):
        defaults = {key: repr(value) for key, value in part.defaults.items()}
        return {"name": type(part).__name__, **defaults, "groups": len(part.param_groups)}
    if isinstance(part, Scheduler):
        return {"name": type(part).__name__}
    try:
        return {"name": _name_of(part), "hash": hash_object(part)}
    except ValueError:  # then it is known by its name alone
        return {"name": _name_of(part)}


def _name_of(part: object) -> str:
    return getattr(part, "__qualname__", type(part).__name__)


# --- optimizer and scheduler ---


def _make_optimizer(model: nn.Module, config: TrainConfig, given: Optimizer | None) -> torch.optim.Optimizer:
    trainable = any(p.requires_grad for p in model.parameters())
    require(trainable, "model", type(model).__name__, "a network with a parameter that requires a gradient")
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
        )
    allowed = "an optimizer, or a function of the model: lambda model: torch.optim.Adam(model.parameters())"
    require(not isinstance(given, type), "optimizer", given, allowed)
    made = given if isinstance(given, torch.optim.Optimizer) else given(model)
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
    require(not isinstance(given, type), "scheduler", given, allowed)
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
    batches = _resized(on_device(batches, device), shares(epoch), config.image_sizes)
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


# --- what identifies a run ---


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return what the run hash knows of a model: its spec or class, its layers, and the weights it starts from."""
    facts = dict(getattr(model, "spec", {"name": type(model).__name__}))
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


def _describe_data(train: Any, val: Any, steps_per_epoch: int, identify: bool) -> dict[str, Any]:
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


# --- what is wrong with the arguments, said before the first step ---


def check_arguments(model: nn.Module, train: Any, val: Any, config: TrainConfig) -> None:
    """Raise a ValueError if splits, model and configuration do not belong together."""
    for batches in (train, val):
        check_normaliser(model, batches)
    size = getattr(model, "image_size", None)
    if config.image_sizes and size is not None:
        raise ValueError(
            f"image_sizes={config.image_sizes} would be undone: this pretrained model scales every image to "
            f"{size} pixels. Leave image_sizes empty"
        )
    splits = getattr(train, "split", "train"), getattr(val, "split", "val")
    if "test" in splits:
        raise ValueError("fit was given the test split; choose on `val`, and score once through course.final_test")
    if splits[0] == "val":
        raise ValueError("train is the validation split; expected fit(model, train, val, config) in this order")
    names = getattr(train, "class_names", None), getattr(val, "class_names", None)
    if None not in names and names[0] != names[1]:
        raise ValueError(f"train has the classes {names[0]}, val has {names[1]}; expected the same in the same order")
    for batches in (train, val):
        try:
            len(batches)
        except TypeError as error:
            kind = type(batches).__name__
            raise ValueError(
                f"batches of type {kind} have no length; expected a list or a DataLoader over a Dataset that has one"
            ) from error
    if _has_batchnorm(model) and 1 in _last_batch_sizes(train, config):
        raise ValueError(
            f"batch_size={getattr(train, 'batch_size', config.batch_size)} leaves a last batch of one image, and "
            "BatchNorm cannot take the variance of one: choose another batch_size, or drop_last=True"
        )


def _has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _last_batch_sizes(train: Any, config: TrainConfig) -> set[int]:
    """Return the sizes that batches of an epoch can have besides the usual one."""
    if isinstance(train, list | tuple):
        pairs = [batch for batch in train if isinstance(batch, list | tuple) and len(batch) == 2]
        return {len(labels) for _, labels in pairs if isinstance(labels, torch.Tensor) and labels.ndim}
    if getattr(train, "drop_last", False):
        return set()
    if isinstance(train, EpochBatches):
        count, size = getattr(train, "num_images", 0), config.batch_size
    elif isinstance(train, DataLoader) and train.batch_size is not None:
        count, size = len(train.sampler), train.batch_size  # type: ignore[arg-type]  # its length was just taken
    else:
        return set()
    return {count % size or size}


def check_first_batches(model: nn.Module, train: Any, val: Any, device: torch.device) -> int:
    """Return the number of outputs of the model, or raise a ValueError if a batch is not what training expects.

    Of a list every batch is looked at, of anything else the first.
    """
    num_classes = 0
    for name, batches in (("train", train), ("val", val)):
        served = batches if isinstance(batches, list | tuple) else itertools.islice(_ordered(batches), 1)
        listed = []
        for batch in served:
            check_batch(name, batch)
            listed.append(batch)
        if not listed:
            raise ValueError(f"{name} holds no batch; expected at least one")
        first = listed[0][0]
        for images, _ in listed:
            if images.shape[1:] != first.shape[1:]:
                shapes = tuple(images.shape), tuple(first.shape)
                raise ValueError(f"{name} images have shape {shapes[0]}, those of the first batch {shapes[1]}")
        num_classes = count_outputs(model, first.to(device))
        if len(getattr(batches, "class_names", ())) > num_classes:
            raise ValueError(f"{name} has {len(batches.class_names)} classes, the model has {num_classes} outputs")
        for _, labels in listed:
            check_label_range(name, labels, num_classes)
    return num_classes


def check_loss(loss: Loss, model: nn.Module, val: Any, device: torch.device) -> None:
    """Raise a ValueError unless a loss gives the mean over a batch: twice the same batch, and it stays what it was."""
    images, labels = next(iter(on_device(_ordered(val), device)))
    with evaluating(model):
        logits = model(images).float()
    once = loss(logits, labels)
    allowed = "the mean over the batch, one number: reduction='mean'"
    require(once.ndim == 0, "loss", f"{_name_of(loss)} of shape {tuple(once.shape)}", allowed)
    twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels])).item()
    summed = math.isclose(twice, 2 * once.item(), rel_tol=1e-3) and not math.isclose(once.item(), 0, abs_tol=1e-6)
    require(not summed, "loss", f"{_name_of(loss)}, twice as large for twice the batch", allowed)


def _ordered(batches: Any) -> Iterator[Batch]:
    return batches.ordered() if isinstance(batches, Ordered) else iter(batches)


def count_outputs(model: nn.Module, images: torch.Tensor) -> int:
    """Return the number of logits that the model gives for an image, or raise a ValueError that says what it took."""
    shape = tuple(images.shape)
    try:
        with evaluating(model):
            logits = model(images[:2])
    except RuntimeError as error:
        size = getattr(model, "spec", {}).get("image_size", shape[-1])
        advice = "" if size == shape[-1] else f"; it was made for {size} pixels: make_model(…, image_size={shape[-1]})"
        reason = str(error).splitlines()[0]
        raise ValueError(f"the model cannot take images of shape {shape}: {reason}{advice}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the model returns {found} for images {shape}; expected logits (N, C)")
    return logits.shape[1]
