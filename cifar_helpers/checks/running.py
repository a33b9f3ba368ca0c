"""All checks on your own model, loaders, loss, loop, optimizer and evaluation: `run_checks`."""

import copy
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import is_number, require, require_choice, require_names
from cifar_helpers._contract import Batch, Ordered
from cifar_helpers.checks.adapters import NotAdaptable, adapt_evaluation, adapt_training, copy_optimizer, optimizer_in
from cifar_helpers.checks.checks import CHECKS
from cifar_helpers.checks.pipeline import (
    _NOT_EMPTY,
    Check,
    Pipeline,
    _device_of,
    _forward,
    _is_ours,
    _loaders_randomness,
    _logits_of,
    _NotApplicable,
    _one_line,
    _score,
    _take_apart,
    _take_steps,
    _training_logits,
    _validation_batch,
    training_batch,
)
from cifar_helpers.checks.probes import FURTHER_CHECKS
from cifar_helpers.runtime import private_randomness, seed_everything
from cifar_helpers.training.evaluation import evaluate
from cifar_helpers.training.loop import train_epoch

__all__ = ["ChecksFailed", "run_checks"]

_SECONDS = 30.0
_TRIAL_IMAGES = 8
# The longest last, so that a time limit costs as little as it can.
_LAST = ("overfit a batch", "beats blind", "capacity")
_NEEDS = {
    "train_epoch": (
        "tensors that move", "fresh gradients", "same seed", "rates and updates", "both modes", *_LAST
    ),
    "evaluate": ("evaluation agrees", "evaluation, no trace", "accuracy recomputed", "beats blind"),
    "optimizer": ("fresh gradients", "rates and updates"),
    "loss": ("loss at init", "zero head", "loss function", "tensors that move", "overfit a batch"),
}  # fmt: skip
_PARTS = ("make_optimizer", "train_epoch", "evaluate", "build", "seed", "forward", "frozen", "accumulate")


class ChecksFailed(Exception):
    """A check failed and `strict` was asked for; the message holds its rows."""


def run_checks(
    model: nn.Module,
    data: tuple[Iterable[Any], Iterable[Any]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = metrics.cross_entropy,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    seconds: float | None = _SECONDS,
    only: Sequence[str] | None = None,
    strict: bool = False,
    **parts: Any,
) -> list[Check]:
    """Run every check on your own model, print a row of each as it finishes, and return them.

    Works on copies; what you passed is left as it was found. Returned and printed are the thirteen checks of the recipe
    (`CHECKS`), and of the further ones (`FURTHER_CHECKS`) those with a finding. A row is PASS, FAIL, WARN for what may
    be meant, or SKIP, "not run", for what the pipeline does not have. A row that judges a part of the package, because
    you passed none of your own, says "not yours".

    Args:
        data: training and validation batches: DataLoaders, what `data.make_batches` returns, or two lists of batches.
        loss: logits and labels to the mean over the batch.
        optimizer: yours, over the parameters of `model`; each check gets a copy of it. `make_optimizer`, a function of
            the model, does as well. One that your loop finds by name is found here too.
        scheduler: yours, if your loop takes one as an argument.
        seconds: after which no further check is begun and none goes on training; None for no limit.
        only: names of the checks to run.
        strict: raise if a check fails, for continuous integration; warnings do not count.
        parts: your own `train_epoch` and `evaluate`, in any of the shapes of `checks.adapters`; build, forward, frozen,
            accumulate or seed, as in `Pipeline`.

    What no check sees: wrong labels here and there, two classes exchanged in training and validation alike, labels that
    are mixed wrongly with their images, and whatever is merely not the best.

    Raises:
        ValueError: model and batches are on different devices, the batches can be gone through only once, or an
            argument is not known.
        ChecksFailed: with `strict`, naming what failed.
    """
    names = [run.check_name for run in (*CHECKS, *FURTHER_CHECKS)]  # type: ignore[attr-defined]
    if only is not None:
        require_names("only", only)
        for name in only:
            require_choice("only", name, names)
    for name in parts:
        require_choice("part", name, _PARTS)
    require(
        seconds is None or (is_number(seconds) and seconds > 0),
        "seconds",
        seconds,
        "a positive number, or None for no limit",
    )
    pair = isinstance(data, tuple | list) and len(data) == 2
    require(pair, "data", data, "two sets of batches, (train, val), as make_batches returns them")
    if optimizer is not None:
        parts["make_optimizer"] = copy_optimizer(optimizer, model)
    pipeline = Pipeline(model, *data, loss, **parts, kept={})
    _check_places(pipeline)
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    with private_randomness(_device_of(model)), _loaders_randomness(pipeline):
        seed_everything(pipeline.seed)
        try:
            _try_model(pipeline)
        except _NotApplicable as error:
            return _conclude([Check("model runs", None, math.nan, "", str(error))], strict)
        except Exception as error:
            return _conclude(
                [Check("model runs", False, math.nan, "runs on your first batch", _one_line(error))], strict
            )
        pipeline = replace(pipeline, batch_size=_affordable(pipeline), deadline=deadline)
        pipeline, missing = _adapt(pipeline, optimizer, scheduler)
    found = list(_run_all(pipeline, missing, only, seconds))
    return _conclude(found if only is not None else _summarise(found), strict)


def _check_places(pipeline: Pipeline) -> None:
    """Raise a ValueError unless both loaders serve batches, again and again, where the model is."""
    here = _device_of(pipeline.model)
    with private_randomness(here), _loaders_randomness(pipeline):
        firsts = [_first_batch("train", pipeline.train), _first_batch("val", pipeline.val)]
    for images, _ in firsts:
        own = _is_ours(pipeline, "train_epoch") and pipeline.forward is None
        moved = not own and here.type != "cpu"  # the reader's loop moves them
        require(
            moved or images.device.type == here.type, "model", str(here), f"batches are on {images.device}: move one"
        )


def _first_batch(name: str, batches: Iterable[Any]) -> Batch:
    """Return the first batch, or raise a ValueError if there is none, or would be none at the next pass."""
    served: Iterator[Any] = iter(()) if isinstance(batches, Iterator) else iter(
        batches.ordered() if isinstance(batches, Ordered) else batches
    )  # fmt: skip
    first = list(itertools.islice(served, 1))
    require(bool(first), name, "no batch", _NOT_EMPTY)
    return _take_apart(first[0])


# --- are the parts of a known form? ---


def _try_model(pipeline: Pipeline) -> None:
    """Raise what the model raises on a few images, in both modes."""
    images = training_batch(pipeline, _TRIAL_IMAGES)[0]
    for logits in (_logits_of(pipeline, images), _training_logits(pipeline, images, copy.deepcopy(pipeline.model))):
        if logits.ndim == 2 and logits.shape[1] == 1:
            raise _NotApplicable("the model has one output; the checks need one for each class, of two too")
        if logits.ndim != 2:
            raise _NotApplicable(
                f"the model returns shape {tuple(logits.shape)}, expected logits (B, C): pass forward="
            )


def _adapt(
    pipeline: Pipeline, optimizer: torch.optim.Optimizer | None, scheduler: Any
) -> tuple[Pipeline, dict[str, str]]:
    """Return the pipeline with loop and evaluation in the form of `Pipeline`, and why a part of it is not used."""
    missing = _try_loss(pipeline)
    if not _is_ours(pipeline, "train_epoch"):
        if _is_ours(pipeline, "make_optimizer"):
            optimizer = optimizer_in(pipeline.train_epoch)
            make = optimizer and copy_optimizer(optimizer, pipeline.model)
            pipeline = replace(pipeline, make_optimizer=make) if make else pipeline
        try:
            loop = adapt_training(
                pipeline.train_epoch, pipeline.model, pipeline.train, optimizer=optimizer, scheduler=scheduler
            )
            missing |= _try_training(replace(pipeline, train_epoch=loop))
        except NotAdaptable as error:
            missing["train_epoch"] = str(error)
        pipeline = replace(pipeline, train_epoch=train_epoch if "train_epoch" in missing else loop)
    if not _is_ours(pipeline, "evaluate"):
        try:
            pipeline = replace(pipeline, evaluate=_tried_evaluation(pipeline))
        except NotAdaptable as error:
            missing["evaluate"] = str(error)
            pipeline = replace(pipeline, evaluate=evaluate)
    return pipeline, missing


def _try_loss(pipeline: Pipeline) -> dict[str, str]:
    """Return why the loss cannot be used; nothing if it can."""
    images, labels = training_batch(pipeline, _TRIAL_IMAGES)
    try:
        pipeline.loss(_logits_of(pipeline, images), labels).item()
    except Exception as error:
        return {"loss": f"your loss raises {_one_line(error)} for logits (B, C) and labels"}
    return {}


def _try_training(pipeline: Pipeline) -> dict[str, str]:
    """Return why the loop, or the optimizer that it is given, cannot be used; nothing if they can."""
    batch, steps = training_batch(pipeline, _TRIAL_IMAGES), [0]
    model = copy.deepcopy(pipeline.model)
    before = [p.detach().clone() for p in model.parameters()]
    try:
        optimizer = pipeline.make_optimizer(model)
        optimizer.register_step_post_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
        _take_steps(pipeline, model, optimizer, [batch] * 4)
    except Exception as error:
        if _raises_with_ours(pipeline, batch):
            return {}  # the data or the loss are to blame, and the checks will say so
        return {"train_epoch": f"your train function raises {_one_line(error)}"}
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    if not steps[0] and moved:
        return {"optimizer": "your train function takes no step of the optimizer that it is given, but of another one"}
    return {}


def _raises_with_ours(pipeline: Pipeline, batch: Batch) -> bool:
    """Return whether the package's own loop raises on this batch too."""
    model = copy.deepcopy(pipeline.model)
    try:
        _take_steps(replace(pipeline, train_epoch=train_epoch), model, pipeline.make_optimizer(model), [batch])
    except Exception:
        return True
    return False


def _tried_evaluation(pipeline: Pipeline) -> Callable[..., Any]:
    """Return the evaluation in the form of `Pipeline`, after one call.

    Raises:
        NotAdaptable: its form is not known, or it raises where the package's own does not.
    """
    images, labels = _validation_batch(pipeline, 4 * _TRIAL_IMAGES)
    logits = _logits_of(pipeline, images)
    labels[::2] = logits.argmax(1)[::2]  # half of them right: an accuracy of 0 would not tell percent from a fraction
    like = metrics.sums(logits, labels) if labels.max() < logits.shape[1] else None
    adapted = adapt_evaluation(pipeline.evaluate, pipeline.model, pipeline.val, pipeline.loss, like)
    try:
        _score(replace(pipeline, evaluate=adapted), copy.deepcopy(pipeline.model), [(images, labels)])
    except NotAdaptable:
        raise
    except Exception as error:
        if like is not None:
            raise NotAdaptable(f"your evaluate function raises {_one_line(error)}") from None
    return adapted


def _affordable(pipeline: Pipeline) -> int:
    """Return the images per step of which a step takes no more than about a third of a second, 8 to 64."""
    model, images = copy.deepcopy(pipeline.model), training_batch(pipeline, _TRIAL_IMAGES)[0]
    for _ in range(2):  # the first call also prepares
        begun = time.perf_counter(), time.process_time()
        _forward(pipeline, model.train(), images).sum().backward()
        spent = time.perf_counter() - begun[0], time.process_time() - begun[1]  # the second beside other programs
    seconds = min(spent) / len(images)
    return next((size for size in (64, 32, 16) if size * seconds < 0.35), 8)


# --- one after the other ---


def _run_all(
    pipeline: Pipeline, missing: dict[str, str], only: Sequence[str] | None, seconds: float | None
) -> Iterator[Check]:
    """Yield the result of every check, and print the rows that are to be seen."""
    runs = sorted((*CHECKS, *FURTHER_CHECKS), key=lambda run: run.check_name in _LAST)  # type: ignore[attr-defined]
    said: set[str] = set()
    for run in runs:
        name = run.check_name  # type: ignore[attr-defined]
        if only is not None and name not in only:
            continue
        reason = next((part for part, names in _NEEDS.items() if part in missing and name in names), None)
        _show_progress(name)
        if reason:
            why = f"{reason}, see above" if reason in said else missing[reason]
            found = Check(name, None, math.nan, "", why)
            said.add(reason)
        elif time.monotonic() > pipeline.deadline:
            found = Check(name, None, math.nan, "", f"{seconds:g} s were over; only=({name!r},), seconds=300 runs it")
        else:
            found = run(pipeline)
        _show_progress("")
        if run in CHECKS or found.passed is False or only is not None:
            print(found, flush=True)
        yield found


def _show_progress(name: str) -> None:
    """Show which check is running, where a person watches a terminal."""
    if sys.stdout.isatty():
        print(f"\r{f'… {name}' if name else '':60}\r", end="", flush=True)


def _summarise(found: list[Check]) -> list[Check]:
    """Print in one line which further checks have no finding, and return the rest."""
    recipe = {run.check_name for run in CHECKS}  # type: ignore[attr-defined]
    further = [check for check in found if check.name not in recipe]
    passed = [check.name for check in further if check.passed]
    print(f"PASS  {len(passed)} further checks: {', '.join(passed)}")
    for check in further:
        if check.passed is None:
            print(check)
    return [check for check in found if check.name in recipe or check.passed is False]


def _conclude(found: list[Check], strict: bool) -> list[Check]:
    """Return the results, or raise if one failed and that is asked for."""
    if len(found) == 1 and found[0].name == "model runs":
        print(found[0])
    failed = [str(check) for check in found if check.status == "FAIL"]
    if strict and failed:
        raise ChecksFailed("\n".join([f"{len(failed)} of {len(found)} checks failed", *failed]))
    return found
