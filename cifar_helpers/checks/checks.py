"""The recipe's sanity checks: each takes a `Pipeline`, returns a `Check`, and leaves everything as it found it.

`run_checks(model, make_batches(train, val))` runs them all on your own model and prints the table. No check is enough
alone: the tests plant one bug after another (`mutants`) and ask which checks see it.
"""

import copy
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import is_whole, require, require_choice, require_function, require_whole
from cifar_helpers._contract import Batch, EpochBatches, Ordered, batch_faults
from cifar_helpers._hashing import hash_tensors
from cifar_helpers.runtime import deterministic_kernels, private_randomness, seed_everything
from cifar_helpers.training.evaluation import evaluate, evaluating
from cifar_helpers.training.loop import train_epoch
from cifar_helpers.training.optim import make_optimizer

__all__ = [
    "BASELINE_IMAGES",
    "BASELINE_STEPS",
    "CHECKS",
    "Check",
    "Pipeline",
    "baseline_scores",
    "check_baselines",
    "check_batches",
    "check_capacity",
    "check_dependency",
    "check_evaluation",
    "check_fresh_gradients",
    "check_loss_at_init",
    "check_movement",
    "check_no_trace",
    "check_overfit",
    "check_round_trip",
    "check_seed",
    "check_zero_head",
    "dependency_matrix",
    "find_head",
    "run_checks",
    "serve",
    "training_batch",
]

_BATCH_SIZE = 64
_OVERFIT_IMAGES, _OVERFIT_STEPS = 24, 400
BASELINE_STEPS, _BASELINE_ROUNDS, BASELINE_IMAGES = 30, 6, 1000  # a round of each training; images that score it
_CAPACITY_STEPS, _CAPACITY_BATCHES, _CAPACITY_WIDTHS = 30, 8, (1 / 64, 1 / 16, 1 / 4)
_FEWEST_IMAGES = 200  # for a validation accuracy that means something
_EVALUATION_IMAGES = 131  # a prime, so that a batch size above 1 leaves a ragged last batch
_DEPENDENCY_IMAGES = 6
_NOT_EMPTY = "at least one batch, and again at every pass: a list, a DataLoader or data.Batches, no generator"


# The optimizer that forgives most at the beginning of a project.
_adam = functools.partial(make_optimizer, name="adam", lr=1e-3)


@dataclass(frozen=True)
class Pipeline:
    """All that stands between the images and the reported number; every part can be your own.

    Attributes:
        model: images (B, 3, H, W) to logits (B, C).
        train, val: `data.Batches`, or any re-iterables of batches (images, labels).
        loss: logits and labels to the mean over the batch.
        make_optimizer: the model to its optimizer.
        train_epoch: called as `train_epoch(model, batches, optimizer, loss=loss)`, takes one step per batch.
        evaluate: called as `evaluate(model, batches)`, returns a value with `loss` and `accuracy`, a fraction.
        build: a width factor to a new model of that width; without it the capacity is not checked.
        seed: of the order of the images and of everything else that is drawn.

    Raises:
        ValueError: the model is no Module, the seed no whole number, or another part no function.
    """

    model: nn.Module
    train: Iterable[Batch]
    val: Iterable[Batch]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = metrics.cross_entropy
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] = _adam
    train_epoch: Callable = train_epoch
    evaluate: Callable = evaluate
    build: Callable[[float], nn.Module] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require_module(self.model)
        for name in (
            "loss",
            "make_optimizer",
            "train_epoch",
            "evaluate",
            *(["build"] if self.build is not None else []),
        ):
            require_function(name, getattr(self, name))
        require(is_whole(self.seed), "seed", self.seed, "a whole number")


def _require_module(model: object) -> None:
    require(isinstance(model, nn.Module), "model", model, "a torch.nn.Module")


def _require_pipeline(name: str, pipeline: object) -> None:
    require(isinstance(pipeline, Pipeline), name, pipeline, "a Pipeline(model, train, val); run_checks makes one")


@dataclass(frozen=True)
class Check:
    """The result of one check. `passed` is None for a check that could not run; `why` then says what it needs."""

    name: str
    passed: bool | None
    measured: float
    bound: str
    why: str

    def __str__(self) -> str:
        verdict = {True: "passed", False: "FAILED", None: "not run"}[self.passed]
        measured = "" if math.isnan(self.measured) else f"{self.measured:.3g}"
        return f"{verdict:9}{self.name:22}{measured:>10}  {self.bound:34}{'' if self.passed else self.why}".rstrip()


class _NotApplicable(ValueError):
    """The pipeline lacks what a check looks at; the message says what to pass."""


# What the function of a check returns: passed, measured, bound, why.
_Verdict = tuple[bool, float, str, str]


def _check(name: str) -> Callable[[Callable[[Pipeline], _Verdict]], Callable[[Pipeline], Check]]:
    """Turn a function from a Pipeline to (passed, measured, bound, why) into one that returns a `Check`.

    The function gets a copy of the model and seeded random streams, so it may change both. An error that the pipeline
    raises is a failed check. Forward hooks of the model are copied with it and run.
    """

    def decorate(function: Callable[[Pipeline], _Verdict]) -> Callable[[Pipeline], Check]:
        @functools.wraps(function)
        def run(pipeline: Pipeline) -> Check:
            _require_pipeline("pipeline", pipeline)
            with private_randomness(_device_of(pipeline.model)), _loaders_randomness(pipeline):
                seed_everything(pipeline.seed)
                try:
                    return Check(name, *function(replace(pipeline, model=copy.deepcopy(pipeline.model))))
                except _NotApplicable as error:
                    return Check(name, None, math.nan, "", str(error))
                except Exception as error:
                    return Check(name, False, math.nan, "runs", f"{type(error).__name__}: {error}".splitlines()[0])

        return run

    return decorate


# --- what the checks are made of ---


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


def _one_epoch(pipeline: Pipeline, epoch: int = 0) -> Iterator[Batch]:
    """Return the training batches of an epoch, each of _BATCH_SIZE examples or fewer."""
    if isinstance(pipeline.train, EpochBatches):
        return pipeline.train.epoch(epoch, seed=pipeline.seed, batch_size=_BATCH_SIZE)
    return ((images[:_BATCH_SIZE], labels[:_BATCH_SIZE]) for images, labels in pipeline.train)


def _ordered(batches: Iterable[Batch]) -> Iterable[Batch]:
    """Return the batches in their order, unchanged; a container without `ordered` is gone through as it is."""
    return batches.ordered() if isinstance(batches, Ordered) else batches


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
    images, labels = [], []
    for x, y in batches:
        images.append(x)
        labels.append(y)
        if sum(map(len, labels)) >= count:
            break
    require(bool(labels), "batches", "no batch", _NOT_EMPTY)
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def training_batch(pipeline: Pipeline, count: int = _BATCH_SIZE) -> Batch:
    """Return the first `count` training examples of the first epoch."""
    _require_pipeline("pipeline", pipeline)
    require_whole("count", count)
    return _gather(_one_epoch(pipeline), count)


def _logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, C) in evaluation mode."""
    with evaluating(model):
        return model(images).float()


def find_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Return the last module with one row of weights per class.

    Raises:
        ValueError: there is none.
    """
    _require_module(model)
    heads = [module for module in model.modules() if _weight_rows(module) == num_classes]
    if not heads:
        raise _NotApplicable(f"no layer has {num_classes} rows of weights, one per class")
    return heads[-1]


def _weight_rows(module: nn.Module) -> int | None:
    """Return how many rows a module's matrix or filters of weights have; None if it has none."""
    weight = getattr(module, "weight", None)
    return len(weight) if isinstance(weight, nn.Parameter) and weight.ndim >= 2 else None


def _redraw_head(model: nn.Module, num_classes: int, std: float) -> None:
    """Draw the weights of the head anew with standard deviation `std`, and set its bias to 0."""
    head = find_head(model, num_classes)
    weight, bias = head.get_parameter("weight"), getattr(head, "bias", None)
    with torch.no_grad():
        weight.normal_(0, std) if std else weight.zero_()
        if bias is not None:
            bias.zero_()


def _remove_dropout(model: nn.Module) -> nn.Module:
    """Return the model with every dropout at 0, for checks in which two passes must agree."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def _training_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, C) in training mode, without a graph."""
    with torch.no_grad():
        return model.train()(images).float()


def _train_copy(pipeline: Pipeline, batches: Iterable[Batch], model: nn.Module | None = None) -> nn.Module:
    """Return a copy of the model after one step on each of the batches."""
    model = copy.deepcopy(model or pipeline.model)
    pipeline.train_epoch(model, list(batches), pipeline.make_optimizer(model), loss=pipeline.loss)
    return model


# --- the data ---


@_check("batch contract")
def check_batches(pipeline: Pipeline) -> _Verdict:
    """Shape, type and range of images and labels, in training and validation."""
    num_classes = _logits_of(pipeline.model, training_batch(pipeline, 2)[0]).shape[1]
    batches = {"train": training_batch(pipeline), "val": _gather(_ordered(pipeline.val), _BATCH_SIZE)}
    faults = [f"{name}: {fault}" for name, batch in batches.items() for fault in batch_faults(*batch, num_classes)]
    return not faults, len(faults), "no fault", "; ".join(faults)


@_check("round trip")
def check_round_trip(pipeline: Pipeline) -> _Verdict:
    """Normalised images decode to bytes, and these bytes normalise to exactly the same images."""
    normalisers: list[Any] = [getattr(batches, "normaliser", None) for batches in (pipeline.train, pipeline.val)]
    if None in normalisers:
        raise _NotApplicable("train and val need a normaliser, as data.Batches have")
    errors = []
    for normaliser, batches in zip(normalisers, (_one_epoch(pipeline), _ordered(pipeline.val)), strict=True):
        images, _ = _gather(batches, _BATCH_SIZE)
        errors.append((normaliser(normaliser.inverse(images)) - images).abs().max().item())
    levels = torch.arange(256, dtype=torch.uint8, device=images.device).expand(1, 3, 256, 256)
    exact = torch.equal(normalisers[0].inverse(normalisers[0](levels)), levels) and normalisers[0] == normalisers[1]
    why = "train and val are not normalised as their normaliser says: are the constants another data set's?"
    return exact and max(errors) == 0, max(errors), "= 0, in standard deviations", why


# --- the model, before training ---


@_check("loss at init")
def check_loss_at_init(pipeline: Pipeline) -> _Verdict:
    """An untrained network must not prefer a class: the loss in training mode is about ln C."""
    batches = [(_training_logits(pipeline.model, images), labels) for images, labels in serve(pipeline, 4)]
    num_classes = batches[0][0].shape[1]
    off = statistics.mean(pipeline.loss(*batch).item() for batch in batches) - math.log(num_classes)
    why = "the inputs or the head are too large, or the loss is not the mean cross-entropy of logits"
    return abs(off) < 0.4, off, f"within 0.4 of ln {num_classes}", why


@_check("zero head")
def check_zero_head(pipeline: Pipeline) -> _Verdict:
    """With a head of zeros all classes are equally likely, and the loss is ln C to the last digit."""
    images, labels = training_batch(pipeline, _BATCH_SIZE - 3)  # not the batch size that a loss might take for granted
    num_classes = _logits_of(pipeline.model, images).shape[1]
    _redraw_head(pipeline.model, num_classes, 0.0)
    logits = _logits_of(pipeline.model, images)
    if (logits != logits[0]).any():
        raise _NotApplicable("the last layer with a row of weights per class is not the head")
    off = pipeline.loss(logits, labels).item() - math.log(num_classes)
    why = "the loss is not the mean cross-entropy: is it divided by another count, or is something added?"
    return abs(off) < 1e-5, off, f"within 1e-5 of ln {num_classes}", why


def dependency_matrix(model: nn.Module, images: torch.Tensor, batchnorm_trains: bool = False) -> torch.Tensor:
    """Return (N, N): the largest gradient of the logits of example i (row) with respect to image j (column).

    The logits are weighted at random, because some sums of outputs are constant. The model is in training mode, its
    BatchNorm in evaluation mode unless `batchnorm_trains`; modes are restored, buffers kept.

    Raises:
        ValueError: no Module, or no images (N, 3, H, W) as the network takes them.
    """
    _require_module(model)
    right = isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim == 4
    require(right, "images", images, "normalised images, floating-point numbers of shape (N, 3, H, W)")
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batchnorm_trains)
    images = images.detach().clone().requires_grad_()
    logits = model(images)
    weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)
    weighted = logits @ weights
    gradients = [torch.autograd.grad(weighted[i], images, retain_graph=True)[0] for i in range(len(images))]
    return torch.stack([gradient.abs().amax((1, 2, 3)) for gradient in gradients]).cpu()


@_check("dependency")
def check_dependency(pipeline: Pipeline) -> _Verdict:
    """The logits of an example depend on its own image, and on no other: gradients elsewhere are exactly 0."""
    images, _ = training_batch(pipeline, _DEPENDENCY_IMAGES)
    num_classes = _logits_of(pipeline.model, images).shape[1]
    with suppress(_NotApplicable):  # a head of zeros would hide its own image; without a head there is none to redraw
        _redraw_head(pipeline.model, num_classes, 0.1)
    matrix = dependency_matrix(pipeline.model, images)
    leak, own = (matrix - matrix.diag().diag()).max().item(), matrix.diag().min().item()
    why = "examples of a batch mix: look for reshape, view, or a mean over the wrong axis"
    return leak == 0 and own > 0, leak, "= 0 on other images, > 0 on its own", why if leak else "an input has no effect"


# --- the loop ---


@_check("tensors that move")
def check_movement(pipeline: Pipeline) -> _Verdict:
    """Three steps change every trainable tensor, and nothing that is frozen, BatchNorm's statistics included."""
    before = {name: tensor.clone() for name, tensor in pipeline.model.state_dict().items()}
    trained = _train_copy(pipeline, serve(pipeline, 3))
    after, rounding = trained.state_dict(), _only_rounding(trained)
    must, must_not = _sort_tensors(pipeline.model)
    stuck = [name for name in must if torch.equal(before[name], after[name]) and name not in rounding]
    stuck += [name for name in must if not after[name].isfinite().all()]
    moved = [name for name in must_not if not torch.equal(before[name], after[name])]
    faults = {"stuck": stuck, "frozen, and moved": moved}
    why = "; ".join(_name_some(what, names) for what, names in faults.items() if names)
    return not stuck and not moved, len(stuck + moved), "no tensor that does otherwise", why


def _only_rounding(model: nn.Module) -> set[str]:
    """Return the parameters whose gradient is nothing but rounding, as that of a bias in front of BatchNorm."""
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    return {name for name, norm in norms.items() if 0 < norm < 1e-5 * max(norms.values())}


def _name_some(what: str, names: list[str]) -> str:
    """Return the first three names, and how many there are."""
    return f"{what}: {', '.join(names[:3])}" + (f" … ({len(names)})" if len(names) > 3 else "")


def _sort_tensors(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the names of the tensors that training must change, and of those that it must leave alone."""
    parameters = dict(model.named_parameters())
    must = [name for name, p in parameters.items() if p.requires_grad]
    must_not = [name for name, p in parameters.items() if not p.requires_grad]
    for prefix, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            must_not += [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)]
    return must, must_not


class _GradientRecorder(torch.optim.Optimizer):
    """An optimizer that steps nowhere and keeps the gradient it was given at each step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": 0.0})
        self.seen: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> Any:
        parameters = self.param_groups[0]["params"]
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        self.seen.append(torch.cat(gradients))


@_check("fresh gradients")
def check_fresh_gradients(pipeline: Pipeline) -> _Verdict:
    """The same batch at the same weights has the same gradient at every step: nothing is carried over."""
    recorder, batch = _GradientRecorder(pipeline.model), training_batch(pipeline)
    pipeline.model.register_forward_pre_hook(lambda *_: seed_everything(pipeline.seed))  # dropout repeats itself
    for _ in range(2):
        pipeline.train_epoch(pipeline.model, [batch, batch], recorder, loss=pipeline.loss)
    bound = "change < 0.001 from step to step"
    if len(recorder.seen) != 4:
        return False, math.nan, bound, f"{len(recorder.seen)} steps for 4 batches: call optimizer.step() once for each"
    first = recorder.seen[0]
    if first.norm() == 0:
        return False, math.nan, bound, "no gradient arrives: call loss.backward() before optimizer.step()"
    growth = max(((gradient - first).norm() / first.norm()).item() for gradient in recorder.seen)
    return growth < 1e-3, growth, bound, "gradients add up: call optimizer.zero_grad() at every step"


@_check("same seed")
def check_seed(pipeline: Pipeline) -> _Verdict:
    """The same seed gives the same weights to the last bit; another epoch gives another order."""
    weights, on_cuda = [], _device_of(pipeline.model).type == "cuda"
    for _ in range(2):
        seed_everything(pipeline.seed)
        with _loaders_randomness(pipeline), deterministic_kernels(on_cuda):
            weights.append(_train_copy(pipeline, serve(pipeline, 3)).state_dict())
    differ = sum(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    shuffled = isinstance(pipeline.train, list | tuple) or not _same_order(pipeline)
    why = (
        "something draws without the seed" if differ else "every epoch has the same order: shuffle the training images"
    )
    return differ == 0 and shuffled, differ, "= 0 tensors, epochs differ", why


def _same_order(pipeline: Pipeline) -> bool:
    """Return whether the first batches of two epochs are the same."""
    a, b = (_gather(_one_epoch(pipeline, epoch), _BATCH_SIZE) for epoch in (0, 1))
    return torch.equal(a[1], b[1]) and torch.equal(a[0], b[0])


# --- the model, trained for a few steps ---


@_check("overfit a batch")
def check_overfit(pipeline: Pipeline) -> _Verdict:
    """A fixed batch of a few images is memorised, by cross-entropy and in training mode."""
    images, labels = training_batch(pipeline, _OVERFIT_IMAGES)
    model = _remove_dropout(pipeline.model)
    optimizer = pipeline.make_optimizer(model)
    for _ in range(0, _OVERFIT_STEPS, 10):
        found = metrics.sums(_training_logits(model, images), labels)
        if found.loss < 0.01 and found.accuracy == 1:
            break
        pipeline.train_epoch(model, [(images, labels)] * 10, optimizer, loss=pipeline.loss)
    why = _explain_floor(_training_logits(model, images), labels)
    return found.loss < 0.01 and found.accuracy == 1, found.loss, f"< 0.01, all right, in {_OVERFIT_STEPS} steps", why


def _explain_floor(logits: torch.Tensor, labels: torch.Tensor) -> str:
    """Return what a loss that no longer falls is known to come from."""
    num_classes, found = logits.shape[1], metrics.sums(logits, labels)
    shares = torch.bincount(labels).float() / len(labels)
    floors = {
        "ln C: nothing was learned": math.log(num_classes),
        "ln(e + C - 1) - 1: a softmax before the cross-entropy": math.log(math.e + num_classes - 1) - 1,
        "the entropy of the labels: images and labels do not stay together": _entropy(shares),
    }
    near = [cause for cause, floor in floors.items() if abs(found.loss - floor) < 0.02]
    if near:
        return f"stuck at {near[0]}"
    losses = -logits.log_softmax(1).gather(1, labels[:, None]).flatten()
    closed = (losses - math.log(num_classes)).abs() < 0.1
    if closed.any() and (losses[~closed] < 0.1).all():
        return f"{int(closed.sum())} of {found.count} images stay at ln C: is there a ReLU on the logits?"
    slow = ", the loss is not yet low: label smoothing, or a small learning rate?" if found.accuracy == 1 else ""
    return f"accuracy {found.accuracy:.0%} after {_OVERFIT_STEPS} steps{slow}"


def _entropy(shares: torch.Tensor) -> float:
    """Return the entropy of probabilities (C,), in nats."""
    return -torch.special.xlogy(shares, shares).sum().item()


@_check("beats blind")
def check_baselines(pipeline: Pipeline) -> _Verdict:
    """Trained on images it beats itself trained on zeros and on shuffled labels, on validation.

    It stops as soon as the difference is four standard errors.
    """
    labels = _gather(_ordered(pipeline.val), BASELINE_IMAGES)[1]
    largest = labels.bincount().max().item() / len(labels)
    if len(labels) < _FEWEST_IMAGES or largest > 0.6:
        raise _NotApplicable(f"needs {_FEWEST_IMAGES} validation images of which no class is more than 60 %")
    for scores in itertools.islice(baseline_scores(pipeline), _BASELINE_ROUNDS):
        require(all(0 <= score <= 1 for score in scores.values()), "accuracy", scores, "a fraction, no percentage")
        blind = max(scores["zero images"], scores["shuffled labels"])
        margin = 4 * math.sqrt(2 * max(blind, 0.01) * (1 - blind) / len(labels))
        if scores["real"] - blind > margin:
            break
    why = "what it learns does not carry over to val: do images and labels belong together, in both?"
    return scores["real"] - blind > margin, scores["real"] - blind, f"> {margin:.3f} of accuracy", why


def baseline_scores(pipeline: Pipeline) -> Iterator[dict[str, float]]:
    """Yield validation accuracies after every BASELINE_STEPS: on the data as it is, on zeros, on shuffled labels."""
    _require_pipeline("pipeline", pipeline)
    images, labels = _gather(_ordered(pipeline.val), BASELINE_IMAGES)
    models = {name: copy.deepcopy(pipeline.model) for name in _SPOILED}
    optimizers = {name: pipeline.make_optimizer(model) for name, model in models.items()}
    served = _endless(pipeline)
    while True:
        pool, scores = list(itertools.islice(served, BASELINE_STEPS)), {}
        for name, (spoil_images, spoil_labels) in _SPOILED.items():
            batches = [(spoil_images(x), spoil_labels(y)) for x, y in pool]
            pipeline.train_epoch(models[name], batches, optimizers[name], loss=pipeline.loss)
            scores[name] = pipeline.evaluate(models[name], [(spoil_images(images), labels)]).accuracy
        yield scores


def _keep(tensor: torch.Tensor) -> torch.Tensor:
    """Return the argument."""
    return tensor


def _shuffle(labels: torch.Tensor) -> torch.Tensor:
    """Return the labels of a batch in random order."""
    return labels[torch.randperm(len(labels)).to(labels.device)]


_Change = Callable[[torch.Tensor], torch.Tensor]
_SPOILED: dict[str, tuple[_Change, _Change]] = {
    "real": (_keep, _keep),
    "zero images": (torch.zeros_like, _keep),
    "shuffled labels": (_keep, _shuffle),
}


@_check("capacity")
def check_capacity(pipeline: Pipeline) -> _Verdict:
    """With equal steps on the same images, a wider network reaches a lower training loss."""
    if pipeline.build is None:
        raise _NotApplicable("pass build=, a function from a width factor to a model")
    losses = _capacity_losses(pipeline, pipeline.build)
    drop = min(a - b for a, b in itertools.pairwise(losses))
    why = "more units do not help: is the width passed on, is there a bottleneck?"
    return drop > 0.01, drop, "> 0.01 lower at every step up", why


def _capacity_losses(pipeline: Pipeline, build: Callable[[float], nn.Module]) -> list[float]:
    """Return the training loss of models of growing width after equal steps on the same images."""
    pool = list(serve(pipeline, _CAPACITY_BATCHES))
    whole = _gather(pool, _CAPACITY_BATCHES * _BATCH_SIZE)
    losses = []
    for width in _CAPACITY_WIDTHS:
        batches = itertools.islice(itertools.cycle(pool), _CAPACITY_STEPS)
        model = _train_copy(pipeline, batches, build(width).to(_device_of(pipeline.model)))
        losses.append(metrics.sums(_training_logits(model, whole[0]), whole[1]).loss)
    return losses


# --- the evaluation ---


@_check("evaluation agrees")
def check_evaluation(pipeline: Pipeline) -> _Verdict:
    """The result depends neither on the batch size nor on the order, and the images are the same at every pass."""
    images, labels = _gather(_ordered(pipeline.val), _EVALUATION_IMAGES)
    whole = pipeline.evaluate(pipeline.model, [(images, labels)])
    ways = [list(zip(images.split(size), labels.split(size), strict=True)) for size in (1, 7)]
    others = [pipeline.evaluate(pipeline.model, way) for way in (*ways, [(images.flip(0), labels.flip(0))])]
    off = max(abs(other.loss / whole.loss - 1) for other in others)
    same_correct = all(abs(other.accuracy - whole.accuracy) < 0.5 / len(labels) for other in others)
    same_images = torch.equal(images, _gather(_ordered(pipeline.val), _EVALUATION_IMAGES)[0])
    why = "look for train mode, a mean of batch means, or a batch that mixes"
    why = why if same_images else "validation images change from pass to pass: are they augmented?"
    return off < 1e-4 and same_correct and same_images, off, "loss differs < 0.01 %, same hits", why


@_check("evaluation, no trace")
def check_no_trace(pipeline: Pipeline) -> _Verdict:
    """Evaluation leaves modes, buffers and gradients as they were, also when a batch raises in the middle."""
    model, batch = pipeline.model.train(), _gather(_ordered(pipeline.val), _DEPENDENCY_IMAGES)
    modules = list(model.modules())
    modules[-1].eval()
    before = [module.training for module in modules], _state_digest(model)
    left = []
    for what, batches in (("afterwards", [batch]), ("after an error in a batch", _failing(batch))):
        with suppress(_BrokenBatch):
            pipeline.evaluate(model, batches)
        if ([module.training for module in modules], _state_digest(model)) != before:
            left.append(what)
    why = (
        f"modes, buffers or gradients differ {' and '.join(left)}: restore every submodule's mode, in a finally clause"
    )
    return not left, len(left), "no difference", why


class _BrokenBatch(Exception):
    """Raised by `_failing`, and caught."""


def _failing(batch: Batch) -> Iterator[Batch]:
    """Yield one batch, then raise."""
    yield batch
    raise _BrokenBatch


def _state_digest(model: nn.Module) -> str:
    """Return what identifies the weights, buffers and gradients of a model."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return hash_tensors([*model.state_dict().values(), *gradients])


# --- all of them ---


# Cheap and telling ones first: the first failure in the table is the first to mend.
CHECKS: tuple[Callable[[Pipeline], Check], ...] = (
    check_batches,
    check_round_trip,
    check_loss_at_init,
    check_zero_head,
    check_dependency,
    check_movement,
    check_fresh_gradients,
    check_seed,
    check_overfit,
    check_baselines,
    check_capacity,
    check_evaluation,
    check_no_trace,
)


def run_checks(
    model: nn.Module,
    data: tuple[Iterable[Batch], Iterable[Batch]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = metrics.cross_entropy,
    **parts: Any,
) -> list[Check]:
    """Run every check on your own model, print one row each as it finishes, and return them.

    Args:
        data: training and validation batches, as `data.make_batches` returns them or as two lists of batches.
        parts: your own make_optimizer, train_epoch, evaluate, build or seed, as in `Pipeline`.

    Raises:
        ValueError: model and batches are on different devices, the batches can be gone through only once, or an
            argument is of another kind.
    """
    pair = isinstance(data, list | tuple) and len(data) == 2
    require(pair, "data", data, "two sets of batches, (train, val), as make_batches returns them")
    for name in parts:
        require_choice("part", name, ("make_optimizer", "train_epoch", "evaluate", "build", "seed"))
    pipeline = Pipeline(model, *data, loss, **parts)
    with private_randomness(_device_of(model)), _loaders_randomness(pipeline):
        firsts = [_first_batch("train", pipeline.train), _first_batch("val", pipeline.val)]
    here = _device_of(model)
    for images, _ in firsts:
        require(images.device.type == here.type, "model", str(here), f"batches are on {images.device}: move one")
    found = []
    for run in CHECKS:
        found.append(run(pipeline))
        print(found[-1], flush=True)
    return found


def _first_batch(name: str, batches: Iterable[Batch]) -> Batch:
    """Return the first batch, or raise a ValueError if there is none, or would be none at the next pass."""
    first = [] if isinstance(batches, Iterator) else list(itertools.islice(_ordered(batches), 1))
    require(bool(first), name, "no batch", _NOT_EMPTY)
    return first[0]
