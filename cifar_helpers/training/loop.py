"""The training loop: one epoch, and `fit`, which can be killed at any moment and resumed.

Nothing here knows where images come from: batches are any iterable of (images, labels).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import (
    is_path,
    require,
    require_choice,
    require_flag,
    require_function,
    require_model,
    require_parameters,
    require_seed,
)
from cifar_helpers._contract import Batch, check_batches, check_logits, check_pairs, naming_images
from cifar_helpers._hashing import SHORT, hash_json, hash_tensors, hash_weights
from cifar_helpers._progress import ProgressLine, count_items, hide
from cifar_helpers._storage import CheckpointError, require_writable
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.metrics import Sums
from cifar_helpers.runtime import (
    Timer,
    autocast,
    computing_on,
    count_processes,
    deterministic_kernels,
    environment,
    is_main_process,
    join_processes,
    memory_format,
    pick_device,
    private_randomness,
    seed_everything,
)
from cifar_helpers.training._divergence import (
    check_still_finite,
    diverged_before,
    diverged_now,
    find_designed,
    find_spoiled_images,
    put_back_if_diverged,
    require_finite,
    spoiled_tensors,
)
from cifar_helpers.training._identity import name_of
from cifar_helpers.training._plan import MakeScheduler, Optimizer, Plan, Scheduler, make_plan
from cifar_helpers.training._validation import check_arguments, check_first_batches, check_loss
from cifar_helpers.training._wrappers import load_plain_state, plain_state, unwrap
from cifar_helpers.training.callbacks import BestWeights, Callback, EarlyStopping, _CallbackList
from cifar_helpers.training.checkpoint import (
    Checkpoint,
    code_digest,
    differing_keys,
    load_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import Loss, evaluate, mean_loss, on_device, require_loss
from cifar_helpers.training.optim import freeze_layers, set_lr
from cifar_helpers.training.records import EpochRecord, RunRecord, TrainingDiverged

__all__ = ["fit", "sweep", "tabulate", "train_epoch"]


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss = metrics.cross_entropy,
    lrs: Iterable[float | None] = itertools.repeat(None),
    dtype: torch.dtype = torch.float32,
    scaler: torch.amp.GradScaler | None = None,
    after_step: Callable[[], object] | None = None,
) -> Sums:
    """Take one optimizer step per batch and return `loss` and correct answers, summed over the examples as trained on.

    Args:
        batches: images with labels (B,), or with probabilities (B, C), of which the largest counts as the label; they
            are moved to the device of the model.
        loss: float32 logits (B, C) and what the batches hold beside images, to the mean over the batch.
        lrs: the learning rate of each step; None leaves the optimizer's own.
        dtype: number format of the matrix products.
        scaler: for float16, whose small gradients would vanish.
        after_step: called after every step.

    Raises:
        ValueError: an argument is of another kind, there is no batch, or one is no pair of tensors.
        TrainingDiverged: the loss is not finite; the model holds the weights and buffers from before the epoch.
    """
    require_parameters(model)
    check_batches("batches", batches)
    steps = all(hasattr(optimizer, name) for name in ("param_groups", "zero_grad", "step"))
    made = steps and not isinstance(optimizer, type)
    require(made, "optimizer", optimizer, "an optimizer, such as torch.optim.SGD(model.parameters(), lr=0.1)")
    require_loss(loss)
    require(isinstance(dtype, torch.dtype), "dtype", dtype, "a number format of torch, such as torch.bfloat16")
    if after_step is not None:
        require_function("after_step", after_step)
    require(isinstance(lrs, Iterable), "lrs", lrs, "the rate of each step: itertools.repeat(0.1)")
    with put_back_if_diverged(model), ProgressLine("step", count_items(batches)) as counted:
        return _train_epoch(model, counted.over(batches), optimizer, loss, lrs, dtype, scaler, after_step)


def _train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    lrs: Iterable[float | None],
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler | None,
    after_step: Callable[[], object] | None,
) -> Sums:
    """Do what `train_epoch` does, and leave the weights where they are after an error."""
    model.train()
    loss_sum: Any = 0.0
    correct: Any = 0
    count = 0
    trace: list[tuple[float, torch.Tensor]] = []
    device = next(model.parameters()).device
    served = on_device(check_pairs(batches), device, memory_format(model, device))
    for step, ((images, labels), lr) in enumerate(zip(served, lrs, strict=False), start=1):
        if lr is not None:
            set_lr(optimizer, lr)
        with autocast(images.device, dtype), naming_images(model, images, f"train batch {step}"):
            logits = check_logits(model(images), images)
        # Half precision ends here: many losses of torch are not made for it, and all of them lose by it.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        batch_loss = mean_loss(loss, logits, labels)
        if images.device.type != "cpu":  # a look at the loss would wait for the device at every step
            trace.append((optimizer.param_groups[0]["lr"], batch_loss.detach()))
        elif not math.isfinite(batch_loss.item()):
            raise diverged_now(step, images, optimizer, scaled=scaler is not None)
        if not batch_loss.requires_grad:
            require(False, "loss", name_of(loss), "one whose gradient reaches the model: no detach(), no item()")
        optimizer.zero_grad(set_to_none=True)
        _take_step(batch_loss, optimizer, scaler)
        if after_step is not None:
            after_step()
        loss_sum += batch_loss.detach() * len(labels)
        correct += metrics.count_correct(logits.detach(), labels)
        count += len(labels)
    if not math.isfinite(loss_sum):
        raise diverged_before(trace, optimizer)
    return Sums(float(loss_sum), int(correct), count)


def _take_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Differentiate the loss and step, through the scaler where there is one."""
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def fit(
    model: nn.Module,
    train: Iterable[Batch],
    val: Iterable[Batch],
    config: TrainConfig | None = None,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | MakeScheduler | None = None,
    scheduler_every: str | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    name: str = "run",
    device: str | torch.device | None = None,
    force: bool = False,
    verbose: bool = True,
) -> RunRecord:
    """Train `model` in place, leave it with its best weights by validation, and return the record of the run.

    What is random depends on (config.seed, epoch) alone, so a run that was killed and resumes from its checkpoint ends
    with the same bits as one that was not. Called again with the same arguments, it goes on where it was stopped, or
    loads what it finished.

    Args:
        model: also one in torch.compile or DataParallel, which then computes the training; what is validated, kept and
            given to callbacks is the network inside, under its plain names.
        train: `data.Batches`, whose epochs are shuffled and augmented as `config` says, or a DataLoader or list of
            batches (images, labels), which is taken as it is. A DataLoader follows `config.seed` too, unless it has a
            generator of its own or persistent workers, whose random states no checkpoint knows.
        val: batches for choosing the best epoch; never the test split. Both are moved to `device`.
        config: by default `TrainConfig()`.
        loss: logits (B, C) and labels (B,) to the mean over the batch, for training and validation; by default the
            cross-entropy, with the label smoothing of `config` in training.
        optimizer: an optimizer, or a function of the model that makes one; by default that of `config`. Its rates are
            its own; a schedule of `config` multiplies them.
        scheduler: a scheduler of torch, or a function of the optimizer that makes one, in place of the schedule of
            `config`.
        scheduler_every: "step" or "epoch"; by default as torch documents it, OneCycleLR and CyclicLR after every step,
            all others after every epoch. ReduceLROnPlateau is given the validation loss, or accuracy in mode "max".
        callbacks: functions (record, model) or objects with `on_epoch_end` and so on, see `training.callbacks`. One
            that returns True ends the training.
        checkpoint: file to save after every epoch and to resume from. A finished one is loaded, not trained again.
        device: by default that of `train`, else the fastest there is.
        force: resume although code, machine or versions differ; the record says which.
        verbose: print one line per epoch.

    Raises:
        ValueError: the arguments do not fit together, a field of `config` would not be used, or a weight is not
            finite: no step was taken. Or a later batch is not what training expects.
        OSError: the checkpoint cannot be written; no step was taken.
        CheckpointError: the checkpoint is damaged or belongs to another run, or to other data.
        TrainingDiverged: loss, weights or buffers are no longer finite. The model holds those of the last whole epoch.
    """
    config = TrainConfig() if config is None else config
    _require_config("config", config)
    require_model(model)
    require(isinstance(name, str), "name", name, "a text")
    require_flag("force", force)
    require_flag("verbose", verbose)
    passed, model = model, unwrap(model)
    join_processes()
    device = pick_device(getattr(train, "device", None) if device is None else device)
    check_arguments(model, train, val, config)
    path = _as_path(checkpoint)
    require(isinstance(callbacks, list | tuple), "callbacks", callbacks, "a list, also of one: [EarlyStopping(3)]")
    watching = _CallbackList([*([EarlyStopping(config.patience)] if config.patience else []), *callbacks])
    best = next((c for c in callbacks if isinstance(c, BestWeights)), None) or BestWeights()
    model.to(device, memory_format=memory_format(model, device))  # type: ignore[call-overload]  # torch documents it so
    with (
        private_randomness(device),
        deterministic_kernels(config.deterministic),
        freeze_layers(model, config.frozen_layers),
    ):
        num_classes, images = check_first_batches(model, train, val, device)
        if loss is not None:
            check_loss(loss, model, val, device)
        plan = make_plan(
            model,
            train,
            val,
            config,
            device,
            loss=loss,
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_every=scheduler_every,
            num_classes=num_classes,
            images=images,
            wrapped=None if passed is model else passed,
            identify=path is not None,
        )
        run = _Run(name, model, plan, best, path, getattr(train, "class_names", ()))
        finished = run.resume(force)
        if path is not None and not finished and is_main_process():
            require_writable(path)
        over = watching.on_fit_start(run.history, model) or finished
        with ProgressLine(f"{name}, epoch", plan.epochs, done=len(run.history)) as epochs:
            while len(run.history) < plan.epochs and not over:
                record = run.train_one_epoch()
                run.save(finished=len(run.history) == plan.epochs)
                epochs.advance()
                if verbose:
                    _say(_epoch_line(name, run.history, plan.epochs))
                if callbacks:  # they may print
                    hide()
                over = watching.on_epoch_end(record, run.evaluated)
        if not finished and len(run.history) < plan.epochs:
            run.save(finished=True)
    load_plain_state(model, best.weights)
    found = run.record()
    watching.on_fit_end(found, model)
    return found


def _require_config(argument: str, config: object) -> None:
    require(
        isinstance(config, TrainConfig), argument, config, "a TrainConfig; TrainConfig.from_dict reads plain values"
    )


def _as_path(checkpoint: Any) -> Path | None:
    """Return where a checkpoint is kept, or raise a ValueError if that is no file."""
    usual = checkpoint is None or (is_path(checkpoint) and not Path(checkpoint).is_dir())
    require(usual, "checkpoint", checkpoint, "the path of a file, such as build/run.safetensors")
    return None if checkpoint is None else Path(checkpoint)


class _Run:
    """What one call of `fit` has done so far, and how it goes on."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        plan: Plan,
        best: BestWeights,
        path: Path | None,
        class_names: Sequence[str],
    ) -> None:
        self.name, self.model, self.plan, self.best, self.path = name, model, plan, best, path
        self.designed = find_designed(model)
        self.class_names = tuple(class_names)
        self.history: list[EpochRecord] = []
        self.identity = plan.identity
        self.environment = environment(plan.device) | {
            "dtype": str(plan.dtype).removeprefix("torch."),
            "code": code_digest(),
            "replicas": plan.replicas,
            "processes": count_processes(),
        }
        if unwrap(plan.forward) is not plan.forward and not plan.identity["config"]["compile"]:
            self.environment["wrapper"] = type(plan.forward).__name__
        self.sha256: str | None = None
        best.restore((), {})

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and returned: the mean of the weights, where one is taken."""
        return self.plan.average.module if self.plan.average else self.model

    def train_one_epoch(self) -> EpochRecord:
        """Train and validate, remember the weights if they are the best, and return the epoch's record.

        Raises:
            TrainingDiverged: the model holds again what it did after the epoch before.
        """
        try:
            with put_back_if_diverged(self.model):
                record = self._train_and_validate()
        except TrainingDiverged as error:
            self._complete(error)
            raise
        self._after_epoch(record)
        self.history.append(record)
        self.best.on_epoch_end(record, self.evaluated)
        return record

    def _train_and_validate(self) -> EpochRecord:
        plan, epoch = self.plan, len(self.history)
        lrs = plan.lrs(epoch)
        evaluated = plan.share(self.evaluated)
        seed_everything(plan.seed_of(epoch))  # also what a reader's Dataset draws with NumPy or random
        with Timer(plan.device) as timer, computing_on(plan.cores):
            with ProgressLine("step", plan.steps(epoch)) as steps:
                trained = _train_epoch(
                    plan.forward,
                    steps.over(plan.serve(epoch)),
                    plan.optimizer,
                    plan.loss,
                    lrs,
                    plan.dtype,
                    plan.scaler,
                    self._after_step,
                )
            validated = evaluate(evaluated, plan.serve_val(), loss=plan.val_loss)
        self._require_finite(validated)
        return EpochRecord(
            epoch + 1,
            epoch * plan.steps_per_epoch + plan.steps(epoch),
            plan.optimizer.param_groups[0]["lr"] if lrs[-1] is None else lrs[-1],
            trained.loss,
            trained.accuracy,
            validated.loss,
            validated.accuracy,
            timer.seconds,
        )

    def _require_finite(self, validated: Sums) -> None:
        """Raise TrainingDiverged if the network of this epoch is none to save, or to call finished."""
        lr = self.plan.optimizer.param_groups[0]["lr"]
        for model in {id(m): m for m in (self.model, self.evaluated)}.values():
            check_still_finite(model, self.designed, lr)
        if not math.isfinite(validated.loss):
            cause = find_spoiled_images("val", self.plan.serve_val())
            raise TrainingDiverged("The validation loss is not finite", lr=lr, cause=cause)

    def _complete(self, error: TrainingDiverged) -> None:
        """Say in the error which epoch it was, which images were in the batch, and what is left."""
        done = len(self.history)
        error.epoch = done + 1
        if error.step is not None:
            error.images = self.plan.find_positions(done, error.step)
        left = f"after epoch {done}" if done else "before training"
        kept = f", and so does {self.path.name}" if done and self.path is not None and self.path.exists() else ""
        error.outcome = f"The model holds again what it did {left}{kept}."

    def _after_step(self) -> None:
        if self.plan.average is not None:
            self.plan.average.update_parameters(self.model)
        if self.plan.scheduler is not None and self.plan.scheduled_by_step:
            self.plan.scheduler.step()

    def _after_epoch(self, record: EpochRecord) -> None:
        scheduler = self.plan.scheduler
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(record.val_accuracy if scheduler.mode == "max" else record.val_loss)
        elif scheduler is not None and not self.plan.scheduled_by_step:
            scheduler.step()

    def save(self, finished: bool) -> None:
        """Write the checkpoint, if one was asked for; of several processes the first one does."""
        if self.path is None or not is_main_process():
            return
        plan = self.plan
        tensors, values = optimizer_state(plan.optimizer)
        settings = {
            "optimizer": values,
            "scheduler": plan.scheduler and plan.scheduler.state_dict(),
            "scaler": plan.scaler and plan.scaler.state_dict(),
        }
        state = {
            "last": plain_state(self.model),
            "optimizer": tensors,
            "average": plan.average.state_dict() if plan.average else {},
        }
        normaliser = self.identity["data"]["normaliser"]
        checkpoint = Checkpoint(
            weights=self.best.weights,
            identity=self.identity,
            history=tuple(self.history),
            class_names=self.class_names,
            normaliser=Normaliser(**normaliser) if normaliser else None,
            environment=self.environment,
            finished=finished,
            state=state,
            settings=settings,
        )
        self.sha256 = save_checkpoint(self.path, checkpoint)

    def resume(self, force: bool) -> bool:
        """Take up what an earlier call has left in the checkpoint, say so, and return whether it had finished.

        Raises:
            CheckpointError: damaged, of another run or other data, not finite, or unfinished and from another machine
                or code.
            ValueError: there is none, and the model is not finite.
        """
        if self.path is None or not self.path.exists():
            require_finite(self.model, self.designed)
            return False
        found = load_checkpoint(self.path)
        self._compare(found, force)
        self._refuse_spoiled(found)
        forced = differing_keys(found.environment, self.environment) if force else []
        self.environment = found.environment | ({"forced": forced} if forced else {})
        self.history, self.identity, self.sha256 = list(found.history), found.identity, found.sha256
        self.best.restore(self.history, {k: v.to(self.plan.device) for k, v in found.weights.items()})
        known = (
            found.identity["model"]["weights"],
            hash_tensors(found.weights[k] for k in plain_state(self.model))[:SHORT],
        )
        replaced = "" if hash_weights(self.model) in known else "; the weights that the model had are replaced"
        if found.finished:
            _say(f"{self.name}: trained before, loaded from {self.path.name}{replaced}")
            return True
        _say(f"{self.name}: goes on from {self.path.name} after epoch {len(self.history)}{replaced}")
        self._take_up(found)
        return False

    def _compare(self, found: Checkpoint, force: bool) -> None:
        """Raise a CheckpointError unless the checkpoint is of this run. The weights a run began with do not count."""
        begun = {key: value for key, value in found.identity["model"].items() if key != "weights"}
        wanted = {key: value for key, value in self.identity["model"].items() if key != "weights"}
        other = differing_keys(found.identity | {"model": begun}, self.identity | {"model": wanted})
        machine = [] if found.finished or force else differing_keys(found.environment, self.environment)
        if other or machine:
            advice = "Choose another path or delete the file" if other else "Delete the file, or pass force=True"
            if other and all(row.startswith(("config.epochs", "config.max_steps")) for row in other):
                advice += "; to train on, give its weights, load_checkpoint(path).weights, to a model with another path"
            raise CheckpointError(f"{self.path} does not continue this run: {'; '.join(other + machine)}. {advice}.")

    def _refuse_spoiled(self, found: Checkpoint) -> None:
        """Raise a CheckpointError if a network that an earlier version kept holds NaN or infinity."""
        spoiled = [name for name in spoiled_tensors(found.weights) if name not in self.designed]
        if spoiled:
            advice = "Delete the file, and train with a tenth of the learning rate"
            raise CheckpointError(f"{self.path} holds a network with NaN or infinity in {spoiled[0]}. {advice}.")

    def _take_up(self, found: Checkpoint) -> None:
        plan, settings = self.plan, found.settings
        load_plain_state(self.model, found.state["last"])
        load_optimizer_state(plan.optimizer, found.state.get("optimizer", {}), settings.get("optimizer", {}))
        if plan.average:
            plan.average.load_state_dict(found.state["average"])
        if plan.scheduler and settings.get("scheduler"):
            plan.scheduler.load_state_dict(settings["scheduler"])
        if plan.scaler and settings.get("scaler"):
            plan.scaler.load_state_dict(settings["scaler"])

    def record(self) -> RunRecord:
        return RunRecord(
            name=self.name,
            run_hash=hash_json(self.identity),
            **self.identity,
            history=tuple(self.history),
            best_epoch=self.best.epoch,
            seconds=sum(record.seconds for record in self.history),
            stopped_early=len(self.history) < self.plan.epochs,
            environment=self.environment,
            checkpoint_sha256=self.sha256,
        )


def _say(line: str) -> None:
    """Print a line at once; of several processes the first one does."""
    if not is_main_process():
        return
    hide()
    try:
        print(line, flush=True)
    except UnicodeEncodeError:  # a pipe in an encoding without · must not end a training
        print(line.encode("ascii", "replace").decode(), flush=True)


def _epoch_line(name: str, history: Sequence[EpochRecord], epochs: int) -> str:
    """Return one line on the last epoch, with the time that the rest will take."""
    e = history[-1]
    left = (epochs - e.epoch) * sum(record.seconds for record in history) / len(history)
    return (
        f"{name}: epoch {e.epoch}/{epochs} · train loss {e.train_loss:.3f}, accuracy {e.train_accuracy:.2%} · "
        f"val loss {e.val_loss:.3f}, accuracy {e.val_accuracy:.2%} · {e.seconds:.1f} s, {left:.0f} s left"
    )


# --- several runs ---


def sweep(
    configs: Mapping[str, TrainConfig],
    build: Callable[[str, TrainConfig], nn.Module],
    train: Iterable[Batch],
    val: Iterable[Batch],
    *,
    seeds: Iterable[int] = (0,),
    checkpoint: Callable[[str], str | Path] | None = None,
    device: str | torch.device | None = None,
    title: str = "",
) -> dict[str, list[RunRecord | None]]:
    """Fit every configuration with every seed on equal budgets, and return the records by name; None: it diverged.

    Prints one line per run, with its place among them: "3 of 24 · adam, seed 0: …".

    Args:
        configs: names to configurations of the same epochs, max_steps and patience.
        build: a name and its configuration, whose `seed` is one of `seeds`, to the network.
        checkpoint: the name of a run to the path of its checkpoint; a killed sweep then resumes.
        title: what every line begins with, such as the name of the data set, where several sweeps have equal names.

    Raises:
        ValueError: the budgets differ, or an argument is of another kind; nothing was trained.
    """
    require(isinstance(configs, Mapping) and len(configs) > 0, "configs", configs, "at least one, by name")
    for config in configs.values():
        _require_config("configs", config)
    budgets = {(config.epochs, config.max_steps, config.patience) for config in configs.values()}
    if len(budgets) > 1:
        raise ValueError(
            f"a sweep compares equal budgets, and (epochs, max_steps, patience) are {sorted(budgets, key=repr)}"
        )
    require_function("build", build, "a function of a name and its configuration to a network")
    function = "a function of the name of a run to its path, such as lambda name: f'build/{name}.safetensors'"
    require(checkpoint is None or callable(checkpoint), "checkpoint", checkpoint, function)
    seeds = _as_seeds(seeds)
    records: dict[str, list[RunRecord | None]] = {name: [] for name in configs}
    asked = list(itertools.product(configs.items(), seeds))
    with ProgressLine("run", len(asked)) as runs:
        for number, ((name, config), seed) in enumerate(runs.over(asked), 1):
            count = f"{number} of {len(asked)}" if len(asked) > 1 else ""
            place = "".join(f"{part} · " for part in (title, count) if part)
            label, seeded = f"{name}, seed {seed}", replace(config, seed=seed)
            path = checkpoint and checkpoint(label)
            model = build(name, seeded)
            try:
                found = fit(model, train, val, seeded, name=label, checkpoint=path, device=device, verbose=False)
            except TrainingDiverged as error:
                records[name].append(None)
                _say(f"{place}{label}: {error}")
            else:
                records[name].append(found)
                _say(f"{place}{found}")
    return records


def _as_seeds(seeds: Any) -> list[int]:
    """Return seeds in a list, or raise a ValueError if they are none."""
    several = isinstance(seeds, Iterable) and not isinstance(seeds, str)
    found = [*seeds] if several else []
    require(len(found) > 0, "seeds", seeds, "at least one, such as (0, 1, 2)")
    for seed in found:
        require_seed(seed, "seeds")
    return found


# The numbers of a record.
_NUMBERS = ("val_accuracy", "val_loss", "train_accuracy", "best_epoch", "seconds", "stopped_early")


def tabulate(
    runs: Mapping[str, Sequence[RunRecord | None]], field: str = "val_accuracy", diverged: float = math.nan
) -> torch.Tensor:
    """Return a field of all runs of a sweep, float64 (configurations, seeds); `diverged` where there is no record.

    Raises:
        ValueError: the field is no number of a record, or there are other counts of seeds.
    """
    require_choice("field", field, _NUMBERS)
    require(isinstance(runs, Mapping) and len(runs) > 0, "runs", runs, "those of at least one name, as sweep returns")
    for row in runs.values():
        listed = isinstance(row, list | tuple) and all(isinstance(run, RunRecord | None) for run in row)
        require(listed, "runs", row, "records, or None, in a list for each name")
    require(isinstance(diverged, Real), "diverged", diverged, "a number, or NaN")
    counts = {name: len(row) for name, row in runs.items()}
    require(len(set(counts.values())) == 1, "runs", counts, "equally many of each")
    rows = [[diverged if run is None else getattr(run, field) for run in row] for row in runs.values()]
    return torch.tensor(rows, dtype=torch.float64)
