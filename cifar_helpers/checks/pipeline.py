"""What the checks look at, a `Pipeline`, and what each returns, a `Check`; how batches are drawn and handed on.

A reader's loop gets what it would get from herself: a DataLoader of her own type where she has one, with `dataset` and
`len`, batches in the form in which hers come, and her own model.
"""

import copy
import functools
import io
import itertools
import math
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset

from cifar_helpers import metrics
from cifar_helpers._arguments import (
    require,
    require_function,
    require_model,
    require_names,
    require_seed,
    require_whole,
)
from cifar_helpers._contract import Batch, EpochBatches, Ordered
from cifar_helpers.runtime import make_generator, private_randomness, seed_everything
from cifar_helpers.training.evaluation import evaluate, evaluating
from cifar_helpers.training.loop import train_epoch
from cifar_helpers.training.optim import make_optimizer

__all__ = ["Check", "Pipeline", "serve", "training_batch"]

_NOT_EMPTY = "at least one batch, and again at every pass: a list, a DataLoader or data.Batches, no generator"
_AUXILIARY = 0.3  # weight of each further head in the loss, as GoogLeNet's authors have it


# The optimizer that forgives most at the beginning of a project.
_adam = functools.partial(make_optimizer, name="adam", lr=1e-3)


@dataclass(frozen=True)
class Pipeline:
    """All that stands between the images and the reported number; every part can be your own.

    Attributes:
        model: images (B, 3, H, W) to logits (B, C), or to a tuple, a mapping or an object that holds `logits`.
        train, val: `data.Batches`, DataLoaders, or any re-iterables of batches (images, labels), which may hold more,
            such as (images, labels, index), or be mappings.
        loss: logits and labels to the mean over the batch.
        make_optimizer: the model to its optimizer.
        train_epoch: called as `train_epoch(model, batches, optimizer, loss=loss)`, takes one step per batch.
        evaluate: called as `evaluate(model, batches)`, returns a value with `loss` and `accuracy`, a fraction.
        build: a width factor to a new model of that width; without it the capacity is not checked.
        seed: of the order of the images and of everything else that is drawn.
        forward: the model and a batch, in the form in which yours come, to logits (B, C).
        frozen: the beginnings of the names of what training must leave alone, such as ("backbone",).
        accumulate: the batches of which the gradients add up before a step, where that is meant.
        batch_size: images per step in the checks; `run_checks` takes fewer for a slow network.
        deadline: `time.monotonic()` after which no check goes on training.
        kept: what the checks of one call of `run_checks` share; None where each works for itself.

    Raises:
        ValueError: the model is no Module, the seed no whole number, or another part no function.
    """

    model: nn.Module
    train: Iterable[Any]
    val: Iterable[Any]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = metrics.cross_entropy
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] = _adam
    train_epoch: Callable = train_epoch
    evaluate: Callable = evaluate
    build: Callable[[float], nn.Module] | None = None
    seed: int = 0
    forward: Callable[[nn.Module, Any], torch.Tensor] | None = None
    frozen: Sequence[str] | None = None
    accumulate: int | None = None
    batch_size: int = 64
    deadline: float = math.inf
    kept: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require_model(self.model)
        optional = [name for name in ("build", "forward") if getattr(self, name) is not None]
        for name in ("loss", "make_optimizer", "train_epoch", "evaluate", *optional):
            require_function(name, getattr(self, name))
        require_seed(self.seed)
        if self.frozen:
            require_names("frozen", self.frozen)
        if self.accumulate is not None:
            require_whole("accumulate", self.accumulate)
        require_whole("batch_size", self.batch_size)


def _require_pipeline(name: str, pipeline: object) -> None:
    require(isinstance(pipeline, Pipeline), name, pipeline, "a Pipeline(model, train, val); run_checks makes one")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        passed: None for a check that could not run; `why` then says what it needs.
        measured, bound: the number, NaN if there is none, and what it should be.
        why: what was found, in one line; `remedy`: what to do about it.
        doubtful: what was found may be meant: a warning, no failure.
        not_yours: the parts that this check judges and that are the package's own, because you passed none.
    """

    name: str
    passed: bool | None
    measured: float
    bound: str
    why: str
    remedy: str = ""
    doubtful: bool = False
    not_yours: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """PASS, FAIL, WARN for what may be meant, or SKIP."""
        if self.passed is None:
            return "SKIP"
        return "PASS" if self.passed else "WARN" if self.doubtful else "FAIL"

    def __str__(self) -> str:
        measured = "" if math.isnan(self.measured) else f"{self.measured:.3g}"
        whose = f"not yours: {', '.join(self.not_yours)}" if self.not_yours and self.passed is not None else ""
        row = f"{self.status}  {self.name:22}{measured:>10}  {self.bound:36}{whose}".rstrip()
        if self.passed:
            return row
        if self.passed is None:
            return f"{self.status}  {self.name:22}  not run: {self.why}"
        return "\n".join([row, f"      cause:  {self.why}", *([f"      remedy: {self.remedy}"] * bool(self.remedy))])


@dataclass(frozen=True)
class _Found:
    """What the function of a check returns: a `Check` without its name."""

    passed: bool
    measured: float
    bound: str
    why: str = ""
    remedy: str = ""
    doubtful: bool = False


class _NotApplicable(ValueError):
    """The pipeline lacks what a check looks at; the message says what to pass."""


class _OutOfTime(_NotApplicable):
    """The deadline has passed."""


def _check(name: str, *judges: str) -> Callable[[Callable[[Pipeline], _Found]], Callable[[Pipeline], Check]]:
    """Turn a function from a Pipeline to `_Found` into one that returns a `Check`.

    The function gets a copy of the model and seeded random streams, so it may change both. An error that the pipeline
    raises is a failed check. Forward hooks of the model are copied with it and run.

    Args:
        judges: the parts of the pipeline that the verdict is about.
    """

    def decorate(function: Callable[[Pipeline], _Found]) -> Callable[[Pipeline], Check]:
        @functools.wraps(function)
        def run(pipeline: Pipeline) -> Check:
            _require_pipeline("pipeline", pipeline)
            not_yours = tuple(part for part in judges if _is_ours(pipeline, part))
            with private_randomness(_device_of(pipeline.model)), _loaders_randomness(pipeline):
                seed_everything(pipeline.seed)
                try:
                    kept = {} if pipeline.kept is None else pipeline.kept
                    found = function(replace(pipeline, model=copy.deepcopy(pipeline.model), kept=kept))
                except _NotApplicable as error:
                    return Check(name, None, math.nan, "", str(error))
                except Exception as error:
                    return Check(name, False, math.nan, "runs", _one_line(error))
            return Check(name, **vars(found), not_yours=not_yours)

        run.check_name, run.judges = name, judges  # type: ignore[attr-defined]
        return run

    return decorate


def _is_ours(pipeline: Pipeline, part: str) -> bool:
    """Return whether a part of the pipeline is the package's own."""
    return getattr(pipeline, part) is Pipeline.__dataclass_fields__[part].default


def _one_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    return next(iter(f"{type(error).__name__}: {error}".splitlines()))


# --- random numbers and time ---


def _device_of(model: nn.Module) -> torch.device:
    """Return where the parameters are, or raise a ValueError if there are none."""
    parameters = list(model.parameters())
    require(bool(parameters), "model", type(model).__name__, "a network with parameters to train")
    return parameters[0].device


@contextmanager
def _loaders_randomness(pipeline: Pipeline) -> Iterator[None]:
    """Give the generators of DataLoaders and their samplers back the state that they had."""
    holders = [x for batches in (pipeline.train, pipeline.val) for x in (batches, getattr(batches, "sampler", None))]
    generators = [g for g in (getattr(x, "generator", None) for x in holders) if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _keep_time(deadline: float) -> None:
    """Raise when the deadline has passed."""
    if time.monotonic() > deadline:
        raise _OutOfTime("the time limit was reached; run_checks(..., seconds=300) gives it more")


# --- batches, as they come ---


def _take_apart(batch: Any) -> Batch:
    """Return images and labels of a reader's batch, which may hold more.

    Raises:
        _NotApplicable: there is no telling which they are.
    """
    if isinstance(batch, tuple | list) and len(batch) >= 2 and isinstance(batch[0], torch.Tensor):
        with suppress(TypeError, ValueError):  # labels that are no numbers
            return batch[0], torch.as_tensor(batch[1])
    if isinstance(batch, Mapping):
        image, label = _keys(batch)
        return batch[image], batch[label]
    raise _NotApplicable(f"batches are {type(batch).__name__}: serve (images, labels), with whatever else behind them")


def _keys(batch: Mapping) -> tuple[Any, Any]:
    """Return the keys of images and labels in a mapping."""
    tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    images = [key for key, value in tensors.items() if value.ndim >= 3]
    labels = [key for key in tensors if str(key).lower() in ("label", "labels", "target", "targets", "y", "class")]
    labels = labels or [key for key, value in tensors.items() if value.ndim == 1]
    if not images or not labels:
        raise _NotApplicable(f"batches have the keys {', '.join(map(str, batch))}: serve images and labels")
    return images[0], labels[0]


def _put_together(sample: Any, images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Return images and labels in the form of `sample`, a batch of the reader's, with what else it holds."""
    if isinstance(sample, Mapping):
        image, label = _keys(sample)
        return {**{k: _rows(v, len(images)) for k, v in sample.items()}, image: images, label: labels}
    more = [_rows(value, len(images)) for value in sample[2:]]
    return (images, labels, *more) if more else (images, labels)


def _rows(value: Any, count: int) -> Any:
    """Return `count` rows of what a batch holds beside images and labels."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return value[torch.arange(count) % len(value)]
    return [value[i % len(value)] for i in range(count)] if isinstance(value, list | tuple) else value


_samples: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def _sample(batches: Iterable[Any]) -> Any:
    """Return a batch of these in the form in which they come; no random number is used up."""
    if isinstance(batches, list | tuple):
        return batches[0]
    with suppress(TypeError, KeyError):
        return _samples[batches]
    with private_randomness(torch.device("cpu")):
        first = next(iter(batches))
    with suppress(TypeError):
        _samples[batches] = first
    return first


def _hard(labels: torch.Tensor) -> torch.Tensor:
    """Return class numbers (B,) for labels (B,) or probabilities (B, C)."""
    return labels.argmax(1) if labels.ndim == 2 else labels


def _one_epoch(pipeline: Pipeline, epoch: int = 0) -> Iterator[Batch]:
    """Return the training batches of an epoch, each of `batch_size` examples or fewer."""
    if isinstance(pipeline.train, EpochBatches):
        return pipeline.train.epoch(epoch, seed=pipeline.seed, batch_size=pipeline.batch_size)
    served = map(_take_apart, _in_process(pipeline.train, pipeline.batch_size))
    taken = ((images[: pipeline.batch_size], labels[: pipeline.batch_size]) for images, labels in served)
    return _here(pipeline, taken)


def _here(pipeline: Pipeline, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches on the device of the model: a reader's loop moves hers itself."""
    device = _device_of(pipeline.model)
    for images, labels in batches:
        yield images.to(device), labels.to(device)


def _validation(pipeline: Pipeline) -> Iterator[Batch]:
    """Return the validation batches, unchanged, on the device of the model."""
    return _here(pipeline, _ordered(pipeline.val))


def _ordered(batches: Iterable[Any]) -> Iterable[Batch]:
    """Return the batches, unchanged; those of a DataLoader over a Dataset in one mixed order, the same at every call.

    An ImageFolder comes sorted by class, and the first thousand would be one class; a loader that shuffles would serve
    others at every pass.
    """
    if isinstance(batches, Ordered):
        return batches.ordered()
    return map(_take_apart, _mixed(batches))


def _is_plain(batches: Iterable[Any]) -> bool:
    """Return whether these are served by an ordinary DataLoader over a Dataset with a length."""
    if not isinstance(batches, DataLoader) or type(batches).__iter__ is not DataLoader.__iter__:
        return False
    return batches.batch_size is not None and not isinstance(batches.dataset, IterableDataset)


def _in_process(batches: Iterable[Any], largest: int) -> Iterable[Any]:
    """Return a DataLoader without workers, which take long to start, and of small batches; anything else as it is."""
    if not _is_plain(batches):
        return batches
    loader: DataLoader = batches  # type: ignore[assignment]
    size = min(largest, loader.batch_size or largest)
    return DataLoader(loader.dataset, size, sampler=loader.sampler, collate_fn=loader.collate_fn)


def _mixed(batches: Iterable[Any]) -> Iterable[Any]:
    """Return a DataLoader over what the given one serves, in a fixed order; anything else as it is."""
    if not _is_plain(batches):
        return batches
    loader: DataLoader = batches  # type: ignore[assignment]
    numbers = sorted(_drawn(loader))
    order = torch.randperm(len(numbers), generator=make_generator("mixed")).tolist()
    subset = Subset(loader.dataset, [numbers[i] for i in order])
    return DataLoader(subset, min(loader.batch_size or 1, 256), collate_fn=loader.collate_fn)


def _drawn(loader: DataLoader) -> list[int]:
    """Return the numbers of the examples that a loader serves in an epoch; no random number is used up."""
    with private_randomness(torch.device("cpu")):
        torch.manual_seed(0)
        count = len(loader.sampler if isinstance(loader.sampler, Sized) else loader.dataset)  # type: ignore[arg-type]
        return list(itertools.islice(loader.sampler, count))


def serve(pipeline: Pipeline, steps: int) -> Iterator[Batch]:
    """Return `steps` training batches over as many epochs as it takes."""
    _require_pipeline("pipeline", pipeline)
    require_whole("steps", steps, 0)
    return itertools.islice(_endless(pipeline), steps)


def _endless(pipeline: Pipeline) -> Iterator[Batch]:
    """Yield the training batches of one epoch after the other, or raise a ValueError when an epoch has none."""
    for epoch in itertools.count():
        empty = True
        for batch in _one_epoch(pipeline, epoch):
            empty = False
            yield batch
        require(not empty, "train", "no batch", _NOT_EMPTY)


def _gather(batches: Iterable[Batch], count: int) -> Batch:
    """Return the first `count` examples of `batches`, as one batch."""
    images, labels, found = [], [], 0
    for x, y in batches:
        images.append(x)
        labels.append(y)
        found += len(y)
        if found >= count:
            break
    require(bool(labels), "batches", "no batch", _NOT_EMPTY)
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def training_batch(pipeline: Pipeline, count: int | None = None) -> Batch:
    """Return the first `count` training examples of the first epoch; by default as many as a step has."""
    _require_pipeline("pipeline", pipeline)
    if count is not None:
        require_whole("count", count)
    return _gather(_one_epoch(pipeline), count or pipeline.batch_size)


def _validation_batch(pipeline: Pipeline, count: int) -> Batch:
    """Return `count` validation examples, always the same, with class numbers for labels."""
    images, labels = _gather(_validation(pipeline), count)
    return images, _hard(labels)


# --- batches, handed on ---


class _Rows(Dataset):
    """Given examples in the form of a reader's Dataset, whose other attributes it has."""

    def __init__(self, batches: Sequence[Any], like: Any, at_batch: Callable[[int], None]) -> None:
        self._batches, self._like, self._at_batch = batches, like, at_batch
        sizes = [len(_take_apart(batch)[0]) for batch in batches]
        self._places = [(i, j) for i, size in enumerate(sizes) for j in range(size)]
        starts = [0, *itertools.accumulate(sizes)]
        self.batches = [list(range(a, b)) for a, b in itertools.pairwise(starts)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._like, name)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        i, j = self._places[index]
        if j == 0:
            self._at_batch(i)
        batch = self._batches[i]
        if isinstance(batch, Mapping):
            return {key: _row(value, j) for key, value in batch.items()}
        return tuple(_row(value, j) for value in batch)


def _row(value: Any, place: int) -> Any:
    """Return one example of a part of a batch."""
    return value[place] if isinstance(value, torch.Tensor | list | tuple) else value


class _GivenBatches(Sampler):
    """The rows of given batches, batch by batch."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _WatchedList(list):
    """A list of batches that calls a function with the number of each before it is served."""

    at_batch: Callable[[int], None]

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(super().__iter__()):
            self.at_batch(number)
            yield batch


class _BrokenBatch(Exception):
    """Raised in the middle of a pass by a check that wants to see what is left then, and caught."""


def _hand_on(batches: Iterable[Batch], like: Iterable[Any], at_batch: Callable[[int], None]) -> Any:
    """Return batches in the container and the form in which the reader's own, `like`, come.

    Args:
        at_batch: called with the number of each batch before it is served.
    """
    given = list(batches)
    if isinstance(like, EpochBatches | Ordered):
        return _watched(given, at_batch)
    formed = [_put_together(_sample(like), *batch) for batch in given]
    if isinstance(like, list | tuple) or not hasattr(like, "dataset"):
        return _watched(formed, at_batch)
    rows = _Rows(formed, like.dataset, at_batch)
    sizes = [len(numbers) for numbers in rows.batches]
    even = len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
    options: dict[str, Any] = {"batch_size": sizes[0]} if even else {"batch_sampler": _GivenBatches(rows.batches)}
    kind: Any = type(like)
    with suppress(Exception):  # a subclass may take other arguments
        return kind(rows, **options)
    return DataLoader(rows, **options)


def _watched(batches: list[Any], at_batch: Callable[[int], None]) -> _WatchedList:
    """Return a list of batches that calls a function before each."""
    watched = _WatchedList(batches)
    watched.at_batch = at_batch
    return watched


@contextmanager
def _quiet(enabled: bool = True) -> Iterator[None]:
    """Swallow what a reader's function prints and warns of: it is called many times."""
    with warnings.catch_warnings():
        if not enabled:
            yield
            return
        warnings.simplefilter("ignore")
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield


def _take_steps(
    pipeline: Pipeline,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    at_batch: Callable[[int], None] | None = None,
) -> None:
    """Let the pipeline's loop take a step on each of the batches; by default it stops at the deadline."""
    watch = at_batch or (lambda _: _keep_time(pipeline.deadline))
    ours = _is_ours(pipeline, "train_epoch")
    given = _watched(list(batches), watch) if ours else _hand_on(batches, pipeline.train, watch)
    if ours and not _returns_logits(pipeline, model, given):
        _train_heads(pipeline, model, optimizer, given)
        return
    with _quiet(not ours):
        pipeline.train_epoch(model, given, optimizer, loss=pipeline.loss)


def _score(
    pipeline: Pipeline, model: nn.Module, batches: Iterable[Batch], at_batch: Callable[[int], None] | None = None
) -> Any:
    """Return what the pipeline's evaluation makes of the batches; by default it stops at the deadline."""
    watch = at_batch or (lambda _: _keep_time(pipeline.deadline))
    ours = _is_ours(pipeline, "evaluate")
    given = _watched(list(batches), watch) if ours else _hand_on(batches, pipeline.val, watch)
    if ours and not _returns_logits(pipeline, model, given):
        model = _LogitsOnly(model, pipeline)
    with _quiet(not ours):
        return pipeline.evaluate(model, given)


# --- logits, whatever a model returns ---


def _logits_in(output: Any) -> list[torch.Tensor]:
    """Return the logits (B, C) in what a model returns, those of the main head first.

    Raises:
        _NotApplicable: there are none.
    """
    if isinstance(output, torch.Tensor):
        return [output]
    values: list[Any] = []
    if isinstance(output, Mapping):
        values = [output[key] for key in ("logits", "out", "output") if key in output] + list(output.values())
    elif hasattr(output, "logits"):
        further = [getattr(output, name, None) for name in getattr(output, "_fields", ())]
        values = [output.logits, *further]
    elif isinstance(output, tuple | list):
        values = list(output)
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor) and value.ndim == 2 and not any(value is known for known in found):
            found.append(value)
    if not found:
        raise _NotApplicable(f"the model returns a {type(output).__name__}: pass forward=, (model, batch) to logits")
    return [x for x in found if x.shape == found[0].shape]


def _forward(pipeline: Pipeline, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, C) of images, in the mode that the model is in."""
    if pipeline.forward is None:
        return _logits_in(model(images))[0]
    sample = _sample(pipeline.train)
    labels = _take_apart(sample)[1]
    batch = _put_together(sample, images, _rows(labels, len(images)).to(images.device))
    return pipeline.forward(model, batch)


def _logits_of(pipeline: Pipeline, images: torch.Tensor, model: nn.Module | None = None) -> torch.Tensor:
    """Return the logits (B, C) in evaluation mode."""
    model = model or pipeline.model
    with evaluating(model):
        return torch.cat([_forward(pipeline, model, part).float() for part in images.split(250)])


def _training_logits(pipeline: Pipeline, images: torch.Tensor, model: nn.Module | None = None) -> torch.Tensor:
    """Return the logits (B, C) in training mode, without a graph."""
    with torch.no_grad():
        return _forward(pipeline, (model or pipeline.model).train(), images).float()


def _returns_logits(pipeline: Pipeline, model: nn.Module, batches: list[Batch]) -> bool:
    """Return whether the model gives logits alone, in training too."""
    if pipeline.forward is not None:
        return False
    kept = {} if pipeline.kept is None else pipeline.kept
    if "plain" not in kept:
        probe = copy.deepcopy(model).train()
        for module in probe.modules():  # whoever watches the model need not see this
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        with private_randomness(_device_of(model)), torch.no_grad():
            kept["plain"] = isinstance(probe(batches[0][0][:4].to(_device_of(model))), torch.Tensor)
    return kept["plain"]


class _LogitsOnly(nn.Module):
    """A model that returns more, or takes more, as one from images to logits."""

    def __init__(self, model: nn.Module, pipeline: Pipeline) -> None:
        super().__init__()
        self.model, self._pipeline = model, pipeline

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _forward(self._pipeline, self.model, images)


def _train_heads(
    pipeline: Pipeline, model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]
) -> None:
    """Take a step on each batch with a model of several heads; each further one counts _AUXILIARY."""
    model.train()
    for images, labels in batches:
        heads = [_forward(pipeline, model, images)] if pipeline.forward else _logits_in(model(images))
        losses = [pipeline.loss(head, labels) for head in heads]
        optimizer.zero_grad()
        (losses[0] + _AUXILIARY * sum(losses[1:])).backward()
        optimizer.step()
