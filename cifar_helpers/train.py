"""The training loop: one epoch, an evaluation, and `fit`, which can be killed at any moment and resumed.

Nothing here knows where images come from: batches are any iterable of (images, labels).
"""

import functools
import hashlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from cifar_helpers import metrics
from cifar_helpers.augment import mixup, resize
from cifar_helpers.config import TrainConfig, digest
from cifar_helpers.metrics import Sums
from cifar_helpers.optim import lr_factor, make_optimizer, set_lr
from cifar_helpers.runs import (
    EpochRecord,
    RunRecord,
    Workspace,
    code_digest,
    differing_keys,
    load_progress,
    save_progress,
    with_receipt,
)
from cifar_helpers.runtime import (
    Timer,
    autocast,
    autocast_dtype,
    deterministic_kernels,
    environment,
    make_generator,
    pick_device,
    private_randomness,
)
from cifar_helpers.storage import CheckpointError, checkpoint_sha256, read_lines

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message says at which step and what to change."""


# --- evaluation ---


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without a graph; restore the mode of every submodule, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: nn.Module, batches: Iterable[Batch], mirrored: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 logits (N, C) and int64 labels (N,) of all batches, on the CPU.

    Computed in float32 on every device, so that no count depends on the batch size. With `mirrored` the logits are the
    mean of those of the image and of its mirror image, at twice the cost.

    Raises:
        ValueError: the batches are normalised otherwise than the model, a pretrained one, was trained with.
    """
    check_normaliser(model, batches)
    with evaluating(model):
        scored = ((model(x) + model(x.flip(-1)) if mirrored else model(x), y) for x, y in batches)
        logits, labels = zip(*((z.float().cpu() / (1 + mirrored), y.cpu()) for z, y in scored), strict=True)
    return torch.cat(logits), torch.cat(labels)


def evaluate(model: nn.Module, batches: Iterable[Batch], mirrored: bool = False) -> Sums:
    """Return loss and hits summed over all examples; `mirrored` as in `predict`.

    Raises:
        ValueError: the labels are hidden, as a competition does with those of its test images.
    """
    refuse_hidden(batches)
    return metrics.sums(*predict(model, batches, mirrored))


def refuse_hidden(batches) -> None:
    """Raise a ValueError if the labels of these batches are hidden."""
    if getattr(batches, "labels_hidden", False):
        raise ValueError(
            "every label of this test split is 0: they are hidden, and an accuracy against them means nothing. Judge "
            "on `val`; what is asked for is a file, submission.write_submission"
        )


# --- training ---


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = metrics.cross_entropy,
    lrs: Iterable[float] = itertools.repeat(None),
    dtype: torch.dtype = torch.float32,
    scaler: torch.amp.GradScaler | None = None,
    after_step: Callable[[nn.Module], object] | None = None,
) -> Sums:
    """Take one optimizer step per batch and return `loss` and hits, summed over the examples as they were trained on.

    Args:
        batches: images with labels (B,), or with probabilities (B, C), of which the largest counts as the label.
        loss: logits (B, C) and what the batches hold beside images, to the mean over the batch.
        lrs: the learning rate of each step; None leaves the optimizer's own.
        dtype: number format of the matrix products.
        scaler: for float16, whose small gradients would vanish.
        after_step: called with the model after every step.

    Raises:
        TrainingDiverged: the loss is not finite; on a CPU before the step that would spoil the weights.
    """
    model.train()
    loss_sum, correct, count = 0.0, 0, 0
    for step, ((images, labels), lr) in enumerate(zip(batches, lrs, strict=False)):
        if lr is not None:
            set_lr(optimizer, lr)
        with autocast(images.device, dtype):
            logits = model(images)
        batch_loss = loss(logits, labels)
        if images.device.type == "cpu" and not math.isfinite(batch_loss.item()):
            raise TrainingDiverged(explain_divergence(f"at step {step} of this epoch", optimizer))
        optimizer.zero_grad(set_to_none=True)
        take_step(batch_loss, optimizer, scaler)
        if after_step is not None:
            after_step(model)
        loss_sum += batch_loss.detach() * len(labels)
        correct += metrics.hits(logits.detach(), labels)
        count += len(labels)
    if not math.isfinite(loss_sum):
        raise TrainingDiverged(explain_divergence("somewhere in this epoch", optimizer))
    return Sums(float(loss_sum), int(correct), count)


def take_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Differentiate the loss and step, through the scaler where there is one."""
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def explain_divergence(where: str, optimizer: torch.optim.Optimizer) -> str:
    """Return what to do about a loss that is no number; `where` says when it was noticed."""
    lr = optimizer.param_groups[0]["lr"]
    return (
        f"The loss is not finite {where}, with learning rate {lr:g}. Try a tenth of it, a "
        "warm-up, or look for NaN in the images. A checkpoint, if one was asked for, holds the epoch before."
    )


def fit(
    model: nn.Module,
    train: Iterable[Batch],
    val: Iterable[Batch],
    config: TrainConfig,
    *,
    name: str = "run",
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    force: bool = False,
    verbose: bool = True,
) -> RunRecord:
    """Train `model` in place, leave it with its best weights by validation, and return the record of the run.

    What is random depends on (config.seed, epoch) alone, so a
    run that was killed and resumes from its checkpoint ends with the same bits as one that was not.

    Args:
        train: `data.Batches`, whose epochs are shuffled and augmented as `config` says, or any re-iterable of
            batches with a length, which is taken as it is.
        val: batches for choosing the best epoch; never the test split.
        checkpoint: file to save after every epoch and to resume from. A finished one is loaded, not trained again.
        force: resume although code, machine or versions differ; the record says which.
        verbose: print one line per epoch.

    Raises:
        ValueError: the arguments do not fit together; no step was taken.
        CheckpointError: the checkpoint is damaged or belongs to another run.
        TrainingDiverged: the loss is no longer finite.
    """
    device = pick_device(device or getattr(train, "device", None))
    check_arguments(model, train, val, config)
    model.to(device, memory_format=torch.channels_last)
    with deterministic_kernels(config.deterministic):
        check_first_batches(model, train, val, device)
        run = Run(model, train, val, config, device, checkpoint and Path(checkpoint))
    history, finished = run.resume(force) if checkpoint else ([], False)
    if finished:
        print(f"{name}: trained before, loaded from {Path(checkpoint).name}", flush=True)
        model.load_state_dict(run.best_weights)
        return run.record(name, history)
    with private_randomness(device), deterministic_kernels(config.deterministic):
        while not run.is_over(history):
            history.append(run.train_one_epoch(history, name))
            run.save(history)
            if verbose:
                print(epoch_line(name, history, run.epochs), flush=True)
    model.load_state_dict(run.best_weights)
    return run.record(name, history)


def sweep(
    configs: Mapping[str, TrainConfig],
    build: Callable[[TrainConfig], nn.Module],
    train: Iterable[Batch],
    val: Iterable[Batch],
    *,
    seeds: Iterable[int] = (0,),
    checkpoint: Callable[[str], Path] | None = None,
    device: str | torch.device | None = None,
) -> dict[str, list[RunRecord | None]]:
    """Fit every configuration with every seed on equal budgets, and return the records by name; None: it diverged.

    Prints one line per run.

    Args:
        configs: names to configurations of the same epochs, max_steps and patience.
        build: a configuration to its network; `seed` is one of `seeds` then.
        checkpoint: a name to the path of a checkpoint, as `Workspace.checkpoint` is; a killed sweep then resumes.

    Raises:
        ValueError: the budgets differ; nothing was trained.
    """
    budgets = {(config.epochs, config.max_steps, config.patience) for config in configs.values()}
    if len(budgets) > 1:
        raise ValueError(f"a sweep compares equal budgets, and (epochs, max_steps, patience) are {sorted(budgets)}")
    records: dict[str, list[RunRecord | None]] = {name: [] for name in configs}
    for (name, config), seed in itertools.product(configs.items(), seeds):
        label, seeded = f"{name}, seed {seed}", replace(config, seed=seed)
        options = {"name": label, "checkpoint": checkpoint and checkpoint(label), "device": device, "verbose": False}
        try:
            records[name].append(fit(build(seeded), train, val, seeded, **options))
        except TrainingDiverged as error:
            records[name].append(None)
            print(f"{label}: {error}", flush=True)
        else:
            print(records[name][-1], flush=True)
    return records


def tabulate(
    runs: Mapping[str, Sequence[RunRecord | None]], field: str = "val_accuracy", diverged: float = math.nan
) -> torch.Tensor:
    """Return a field of all runs of a sweep, float64 (configurations, seeds); `diverged` where there is no record."""
    rows = [[diverged if run is None else getattr(run, field) for run in row] for row in runs.values()]
    return torch.tensor(rows, dtype=torch.float64)


class Run:
    """The moving parts of one call of `fit`: model, optimizer, scaler, mean of the weights, best weights so far."""

    def __init__(self, model, train, val, config: TrainConfig, device: torch.device, checkpoint: Path | None) -> None:
        self.model, self.train, self.val = model, train, val
        self.config, self.device, self.checkpoint = config, device, checkpoint
        self.dtype = autocast_dtype(device, config.precision)
        self.steps_per_epoch = count_steps(train, config)
        self.total_steps = min(self.steps_per_epoch * config.epochs, config.max_steps or math.inf)
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        self.optimizer = make_optimizer(
            model,
            config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=config.nesterov,
            norm_bias_lr=config.norm_bias_lr,
            layer_lr_decay=config.layer_lr_decay,
        )
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype == torch.float16 else None
        self.forward = torch.compile(model) if config.compile else model
        self.average = average_weights(model, config.ema) if config.ema else None
        self.best_weights: dict[str, torch.Tensor] = {}
        self.checkpoint_sha256: str | None = None
        self.environment = environment(device) | {
            "dtype": str(self.dtype).removeprefix("torch."),
            "code": code_digest(),
        }
        self.about = {
            "class_names": list(getattr(train, "class_names", ())),
            "normaliser": as_plain(train.normaliser) if hasattr(train, "normaliser") else None,
        }
        self.identity = {
            "config": config.to_dict(),
            "model": describe_model(model),
            "data": {
                "train": fingerprint(train),
                "val": fingerprint(val),
                "normaliser": self.about["normaliser"],
                "steps_per_epoch": self.steps_per_epoch,
            },
        }

    def train_one_epoch(self, history: list[EpochRecord], name: str) -> EpochRecord:
        """Train, validate, remember the weights if they are the best, and return the epoch's record."""
        epoch, config = len(history), self.config
        done = epoch * self.steps_per_epoch
        steps = min(self.steps_per_epoch, self.total_steps - done)
        shares = [(done + i + 0.5) / self.total_steps for i in range(steps)]  # the middle of each step
        lrs = [config.lr * lr_factor(config.schedule, share, config.warmup) for share in shares]
        torch.manual_seed(make_generator("dropout", config.seed, epoch).initial_seed())
        with Timer(self.device) as timer:
            batches = resized(epoch_batches(self.train, epoch, config), shares, config.image_sizes)
            if config.mixup:
                batches = mixed(batches, draw_shares(config.mixup, steps, config.seed, epoch), self.num_classes)
            batches = show_bar(batches, steps, name)
            trained = train_epoch(
                self.forward,
                batches,
                self.optimizer,
                loss=functools.partial(metrics.cross_entropy, label_smoothing=config.label_smoothing),
                lrs=lrs,
                dtype=self.dtype,
                scaler=self.scaler,
                after_step=self.average and self.average.update_parameters,
            )
            validated = evaluate(self.judged, self.val)
        if not math.isfinite(validated.loss):
            raise TrainingDiverged(explain_divergence("after this epoch, in validation", self.optimizer))
        record = EpochRecord(
            epoch + 1,
            done + steps,
            lrs[-1],
            trained.loss,
            trained.accuracy,
            validated.loss,
            validated.accuracy,
            timer.seconds,
        )
        if record == best_epoch([*history, record]):
            self.best_weights = {k: v.detach().clone() for k, v in self.judged.state_dict().items()}
        return record

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and returned: the mean of the weights, where one is taken."""
        return self.average.module if self.average else self.model

    @functools.cached_property
    def num_classes(self) -> int:
        return count_outputs(self.model, next(iter(self.val))[0])

    def is_over(self, history: list[EpochRecord]) -> bool:
        return len(history) >= self.epochs or self.out_of_patience(history)

    def out_of_patience(self, history: list[EpochRecord]) -> bool:
        """Return whether `patience` epochs went by since the best one."""
        return bool(history) and len(history) - best_epoch(history).epoch >= (self.config.patience or math.inf)

    def save(self, history: list[EpochRecord]) -> None:
        """Write the checkpoint, if one was asked for."""
        if self.checkpoint is None:
            return
        about = self.about | {
            "identity": self.identity,
            "environment": self.environment,
            "history": [asdict(record) for record in history],
            "finished": self.is_over(history),
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }
        groups = {
            "best": self.best_weights,
            "last": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "average": self.average.state_dict() if self.average else {},
        }
        self.checkpoint_sha256 = save_progress(self.checkpoint, about, groups)

    def resume(self, force: bool) -> tuple[list[EpochRecord], bool]:
        """Take up the state of an earlier call from the checkpoint; return its history and whether it had finished.

        Raises:
            CheckpointError: damaged, of another run, or unfinished and from another machine or code.
        """
        if not self.checkpoint.exists():
            return [], False
        about, groups = load_progress(self.checkpoint)
        other_run = differing_keys(about["identity"], self.identity)
        other_machine = [] if about["finished"] or force else differing_keys(about["environment"], self.environment)
        if other_run or other_machine:
            advice = "Choose another path or delete the file" if other_run else "Delete the file, or pass force=True"
            listed = "; ".join(other_run + other_machine)
            raise CheckpointError(f"{self.checkpoint} does not continue this run: {listed}. {advice}.")
        forced = differing_keys(about["environment"], self.environment) if force else []
        self.environment = about["environment"] | ({"forced": forced} if forced else {})
        self.checkpoint_sha256 = checkpoint_sha256(self.checkpoint)
        self.best_weights = {k: v.to(self.device) for k, v in groups["best"].items()}
        self.model.load_state_dict(groups["last"])
        load_optimizer_tensors(self.optimizer, groups.get("optimizer", {}))
        if self.average:
            self.average.load_state_dict(groups["average"])
        if self.scaler and about["scaler"]:
            self.scaler.load_state_dict(about["scaler"])
        return [EpochRecord(**row) for row in about["history"]], about["finished"]

    def record(self, name: str, history: list[EpochRecord]) -> RunRecord:
        return RunRecord(
            name=name,
            run_hash=digest(self.identity),
            **self.identity,
            history=tuple(history),
            best_epoch=best_epoch(history).epoch,
            seconds=sum(record.seconds for record in history),
            stopped_early=self.out_of_patience(history) and len(history) < self.epochs,
            environment=self.environment,
            checkpoint_sha256=self.checkpoint_sha256,
        )


def best_epoch(history: list[EpochRecord]) -> EpochRecord:
    """Return the epoch with the highest validation accuracy; among equals the lowest loss, then the first."""
    return max(history, key=lambda record: (record.val_accuracy, -record.val_loss))


def epoch_batches(train, epoch: int, config: TrainConfig) -> Iterable[Batch]:
    """Return the batches of one epoch: shuffled and augmented from `data.Batches`, anything else as it is."""
    if not hasattr(train, "epoch"):
        return train
    return train.epoch(epoch, seed=config.seed, batch_size=config.batch_size, augment=config.augment)


def resized(batches: Iterable[Batch], shares: Iterable[float], sizes: Sequence[tuple[float, int]]) -> Iterator[Batch]:
    """Yield one batch for each share of all steps, its images in the size that is due at that share."""
    for share, (images, labels) in zip(shares, batches, strict=False):  # in this order no batch is drawn in vain
        due = [size for start, size in sizes if start <= share]
        yield (resize(images, due[-1]) if due else images), labels


def mixed(batches: Iterable[Batch], shares: Iterable[float], num_classes: int) -> Iterator[Batch]:
    """Yield one batch for each share, its images mixed by it, with probabilities (B, num_classes) for labels."""
    for share, (images, labels) in zip(shares, batches, strict=False):
        yield mixup(images, functional.one_hot(labels, num_classes).float(), share)


def draw_shares(alpha: float, count: int, seed: int, epoch: int) -> list[float]:
    """Return `count` draws from Beta(alpha, alpha), which depend on (seed, epoch) alone."""
    stream = np.random.default_rng(make_generator("mixup", seed, epoch).initial_seed())
    return stream.beta(alpha, alpha, count).tolist()


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential mean of the model's weights and buffers, which begins with those after the first step."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def count_steps(train, config: TrainConfig) -> int:
    """Return the optimizer steps of one epoch."""
    return train.steps(config.batch_size) if hasattr(train, "epoch") else len(train)


def describe_model(model: nn.Module) -> dict:
    """Return what the run hash knows of a model: its spec or class, its layers, and the weights it starts from."""
    spec = getattr(model, "spec", {"name": type(model).__name__})
    return spec | {"layers": digest(repr(model)), "weights": hash_weights(model)}


def hash_weights(model: nn.Module) -> str:
    """Return twelve hexadecimal digits that identify weights and buffers."""
    return short_hash(model.state_dict().values())


def short_hash(tensors: Iterable[torch.Tensor]) -> str:
    """Return twelve hexadecimal digits of the SHA-256 of tensors, in order."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()[:12]


def fingerprint(batches) -> str | None:
    """Return what identifies the examples: the split's own hash, that of a list's tensors, else None."""
    if isinstance(batches, list | tuple):
        return short_hash(tensor for batch in batches for tensor in batch)
    return getattr(batches, "sha256", None)


def as_plain(normaliser) -> dict:
    """Return a normaliser's values as JSON keeps them."""
    return {name: list(values) for name, values in asdict(normaliser).items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as `parameter number/key` to tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{i}/{key}": value for i, entry in state.items() for key, value in entry.items() if value is not None}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give the optimizer back the state that `optimizer_tensors` returned.

    A state of a parameter's shape takes its memory order too: fused kernels walk both side by side in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split("/", 1)
        like = parameters[int(number)]
        ordered = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(number), {})[name] = ordered.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def show_bar(batches: Iterable[Batch], steps: int, name: str) -> Iterable[Batch]:
    """Return the batches, behind a progress bar where a person watches a terminal."""
    return tqdm(batches, name, steps, leave=False, disable=not sys.stdout.isatty(), file=sys.stdout)


def epoch_line(name: str, history: list[EpochRecord], epochs: int) -> str:
    """Return one line on the last epoch, with the time that the rest will take."""
    e = history[-1]
    left = (epochs - e.epoch) * sum(record.seconds for record in history) / len(history)
    return (
        f"{name}: epoch {e.epoch}/{epochs} · train loss {e.train_loss:.3f}, accuracy {e.train_accuracy:.2%} · "
        f"val loss {e.val_loss:.3f}, accuracy {e.val_accuracy:.2%} · {e.seconds:.1f} s, {left:.0f} s left"
    )


# --- what is wrong with the arguments, said before the first step ---


def check_normaliser(model: nn.Module, batches) -> None:
    """Raise a ValueError if a pretrained model, which knows its normaliser, is given batches of another one."""
    own, given = getattr(model, "normaliser", None), getattr(batches, "normaliser", None)
    if None not in (own, given) and own != given:
        raise ValueError(
            f"the model was pretrained on images normalised with {own}, these are normalised with {given}; "
            "make them with make_batches(train, val, device, model.normaliser)"
        )


def check_arguments(model: nn.Module, train, val, config: TrainConfig) -> None:
    """Raise a ValueError if splits, model and configuration do not belong together."""
    for batches in (train, val):
        check_normaliser(model, batches)
    if config.image_sizes and hasattr(model, "image_size"):
        raise ValueError(
            f"image_sizes={config.image_sizes} would be undone: this pretrained model scales every image to "
            f"{model.image_size} pixels. Leave image_sizes empty"
        )
    splits = getattr(train, "split", "train"), getattr(val, "split", "val")
    if "test" in splits:
        raise ValueError("fit was given the test split; choose on `val`, and score once through train.final_test")
    if splits[0] == "val":
        raise ValueError("train is the validation split; expected fit(model, train, val, config) in this order")
    names = getattr(train, "class_names", None), getattr(val, "class_names", None)
    if None not in names and names[0] != names[1]:
        raise ValueError(f"train has the classes {names[0]}, val has {names[1]}; expected the same in the same order")
    for batches in (train, val):
        if not hasattr(batches, "epoch") and not hasattr(batches, "__len__"):
            raise ValueError(
                f"batches of type {type(batches).__name__} have no length; expected a list or a DataLoader"
            )
    spec = getattr(model, "spec", None)
    if config.model != "custom" and spec is not None:
        asked = {key: getattr(config, key) for key in ("width", "dropout", "activation", "seed")} | {
            "name": config.model
        }
        other = differing_keys({key: spec.get(key) for key in asked}, asked)
        if other:
            raise ValueError(f"the model is not the configuration's: {'; '.join(other)}. Make them agree in make_model")
    if has_batchnorm(model) and 1 in last_batch_sizes(train, config):
        raise ValueError(
            f"batch_size={config.batch_size} leaves a last batch of one image, and BatchNorm cannot take the variance "
            "of one: choose another batch_size, or leave that image out"
        )


def has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def last_batch_sizes(train, config: TrainConfig) -> set[int]:
    """Return the sizes that batches of an epoch can have besides the usual one."""
    if hasattr(train, "epoch"):
        return {train.num_images % config.batch_size or config.batch_size}
    return {len(labels) for _, labels in train} if isinstance(train, list | tuple) else set()


def check_first_batches(model: nn.Module, train, val, device: torch.device) -> None:
    """Raise a ValueError if a batch, or what the model makes of it, is not what training expects."""
    for name, batches in (("train", train), ("val", val)):
        listed = list(batches) if isinstance(batches, list | tuple) else list(itertools.islice(iter(batches), 1))
        if not listed:
            raise ValueError(f"{name} holds no batch; expected at least one")
        for images, labels in listed:
            check_batch(name, images, labels, device)
            if images.shape[1:] != listed[0][0].shape[1:]:
                shapes = tuple(images.shape), tuple(listed[0][0].shape)
                raise ValueError(f"{name} images have shape {shapes[0]}, those of the first batch {shapes[1]}")
        num_classes = count_outputs(model, listed[0][0])
        if len(getattr(batches, "class_names", ())) > num_classes:
            raise ValueError(f"{name} has {len(batches.class_names)} classes, the model has {num_classes} outputs")
        for _, labels in listed:
            check_label_range(name, labels, num_classes)


def count_outputs(model: nn.Module, images: torch.Tensor) -> int:
    """Return the number of logits that the model gives for an image, or raise a ValueError that says what it took."""
    shape = tuple(images.shape)
    try:
        with evaluating(model):
            logits = model(images[:2])
    except RuntimeError as error:
        raise ValueError(f"the model cannot take images of shape {shape}: {str(error).splitlines()[0]}") from error
    if logits.ndim != 2:
        raise ValueError(f"the model returns shape {tuple(logits.shape)} for images {shape}; expected logits (N, C)")
    return logits.shape[1]


def check_batch(name: str, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> None:
    """Raise a ValueError unless the batch is float32 images and as many int64 labels, both on `device`."""
    if len(labels) == 0:
        raise ValueError(f"{name} holds an empty batch; expected at least one image")
    if images.dtype != torch.float32:
        raise ValueError(f"{name} images are {images.dtype}; expected normalised torch.float32")
    if images.ndim == 4 and images.shape[-1] == 3 and images.shape[1] != 3:
        raise ValueError(f"{name} images have shape {tuple(images.shape)}, channels last: images.permute(0, 3, 1, 2)")
    if labels.dtype != torch.int64:
        raise ValueError(f"{name} labels are {labels.dtype}; expected torch.int64 class numbers: labels.long()")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{name} labels have shape {tuple(labels.shape)}; expected ({len(images)},)")
    if images.device.type != device.type:
        raise ValueError(f"{name} batches are on {images.device}, the model goes to {device}; move one of them")


def check_label_range(name: str, labels: torch.Tensor, num_classes: int) -> None:
    """Raise a ValueError that names the first label outside [0, num_classes)."""
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        label = int(labels[wrong[0]])
        raise ValueError(f"{name} label {label} at position {int(wrong[0])}; expected 0 to {num_classes - 1}")


# --- the test split ---


def audit_test(dataset, reason: str, workspace: Workspace):
    """Return the sealed test split for a look that decides nothing, and leave a receipt with the reason.

    For label-blind looks, for figures that the literature fixed long ago, and for questions to runs that `final_test`
    has scored. The same reason leaves one receipt.
    """
    test = dataset.sealed_test
    key = {"kind": "audit", "dataset": dataset.name, "data": test.sha256, "purpose": reason}
    with_receipt(workspace.receipts, key, dict)
    return test


def final_test(
    model: nn.Module, dataset, batches, record: RunRecord, workspace: Workspace, mirrored: bool = False
) -> Sums:
    """Return loss and hits of a finished run on the sealed test split, evaluated once and kept as a receipt.

    The same weights on the same data return the stored result and evaluate nothing. Logits, in float16 as they are
    scored, and ranks of the labels are left beside those of validation, for whoever asks them further questions.

    Args:
        model: holds the weights of `record`.
        batches: those the model was trained or validated on, for their normaliser and device.
        mirrored: as in `predict`; one of the choices that are made on validation.

    Raises:
        ValueError: the batches are normalised otherwise than those of the run, or the labels are hidden.
    """
    test = dataset.sealed_test
    if record.data["normaliser"] != as_plain(batches.normaliser):
        raise ValueError(f"batches are normalised otherwise than those that {record.name!r} was trained on")
    scored = batches.like(test)
    refuse_hidden(scored)
    key = {"kind": "final", "dataset": dataset.name, "data": test.sha256, "purpose": record.name}
    others = [row for row in read_lines(workspace.receipts) if key.items() <= row.items()]
    key |= {"run_hash": record.run_hash, "weights": hash_weights(model), "mirrored": mirrored}
    if any(row["weights"] != key["weights"] for row in others):
        print(f"{record.name}: the test split was scored before, with other weights ({len(others)} receipts)")

    def score() -> dict:
        logits, labels = predict(model, scored, mirrored)
        logits = logits.half().float()  # as they are kept, so that whoever reads them counts the same hits
        about = {"data": test.sha256, "weights": key["weights"], "mirrored": mirrored}
        workspace.save_logits(record, logits, about, "test")
        workspace.save_ranks(record, metrics.label_ranks(logits, labels), about)
        return asdict(metrics.sums(logits, labels))

    return Sums(**with_receipt(workspace.receipts, key, score))
