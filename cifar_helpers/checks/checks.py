"""The recipe's thirteen checks: each takes a `Pipeline`, returns a `Check`, and leaves everything as it found it.

No check is enough alone: the tests plant one bug after another (`mutants`) and ask which checks see it.
"""

import copy
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import require, require_model
from cifar_helpers._contract import Batch, batch_doubts, batch_faults
from cifar_helpers._hashing import hash_tensors
from cifar_helpers.checks.pipeline import (
    Check,
    Pipeline,
    _adam,
    _BrokenBatch,
    _check,
    _device_of,
    _endless,
    _forward,
    _Found,
    _gather,
    _hard,
    _is_ours,
    _keep_time,
    _loaders_randomness,
    _logits_in,
    _logits_of,
    _NotApplicable,
    _one_epoch,
    _OutOfTime,
    _require_pipeline,
    _score,
    _take_steps,
    _training_logits,
    _validation,
    _validation_batch,
    serve,
    training_batch,
)
from cifar_helpers.runtime import deterministic_kernels, seed_everything
from cifar_helpers.training.loop import train_epoch

__all__ = [
    "BASELINE_IMAGES",
    "BASELINE_STEPS",
    "CHECKS",
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
]

_OVERFIT_IMAGES, _OVERFIT_STEPS = 24, 400
_NEAR_FLOOR, _TOWARDS_FLOOR = 0.01, 0.1  # of the way from the first loss to the lowest that the loss can have
BASELINE_STEPS, BASELINE_IMAGES = 30, 1000  # steps of a round of training, images that score it
_BLIND_STEPS = (15, 30, 60, 90, 120, 150, 180)  # when a network is asked whether it beats guessing
_CAPACITY_STEPS, _CAPACITY_BATCHES, _CAPACITY_WIDTHS = 30, 8, (1 / 64, 1 / 16, 1 / 4)
_FEWEST_IMAGES = 200  # for a validation accuracy that means something
_DEPENDENCY_IMAGES = 6
_STEPPING_IMAGES, _STEPPING_BATCHES = 16, 4  # of a pass in which only gradients are looked at


# --- what the checks are made of ---


def find_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Return the last module with one row of weights per class.

    Raises:
        ValueError: there is none.
    """
    require_model(model)
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


def _drops(module: nn.Module) -> bool:
    """Return whether a module is dropout or stochastic depth, of torch or of others."""
    return any(name in type(module).__name__ for name in ("Drop", "StochasticDepth"))


def _remove_dropout(model: nn.Module) -> nn.Module:
    """Return the model with every dropout and stochastic depth at 0, for checks in which two passes must agree."""
    for module in model.modules():
        for name in ("p", "drop_prob"):
            if _drops(module) and name in vars(module):
                setattr(module, name, 0.0)
    return model


def _train_copy(pipeline: Pipeline, batches: Iterable[Batch], model: nn.Module | None = None) -> nn.Module:
    """Return a copy of the model after one step on each of the batches."""
    model = copy.deepcopy(model or pipeline.model)
    _take_steps(pipeline, model, pipeline.make_optimizer(model), batches)
    return model


def _few(names: Iterable[str]) -> str:
    """Return the first three names, and how many there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" … ({len(names)})" if len(names) > 3 else "")


# --- the data ---


@_check("batch contract")
def check_batches(pipeline: Pipeline) -> _Found:
    """Shape, type and range of images and labels, in training and validation."""
    num_classes = _logits_of(pipeline, training_batch(pipeline, 2)[0]).shape[1]
    batches = {"train": training_batch(pipeline), "val": _gather(_validation(pipeline), pipeline.batch_size)}
    faults = [f"{name}: {fault}" for name, batch in batches.items() for fault in batch_faults(*batch, num_classes)]
    labels = _hard(batches["train"][1])
    if len(labels) >= 16 and len(labels.unique()) == 1:
        faults.append(f"train: all {len(labels)} labels are {labels[0]}: is the order shuffled?")
    doubts = [] if faults else [f"{name}: {d}" for name, (x, _) in batches.items() for d in batch_doubts(x)]
    why = "; ".join(faults or doubts)
    return _Found(not faults + doubts, len(faults + doubts), "no fault", why, doubtful=not faults)


@_check("round trip")
def check_round_trip(pipeline: Pipeline) -> _Found:
    """Normalised images decode to bytes, and these bytes normalise to exactly the same images."""
    normalisers: list[Any] = [getattr(batches, "normaliser", None) for batches in (pipeline.train, pipeline.val)]
    if None in normalisers:
        raise _NotApplicable("train and val need a normaliser, as data.Batches have")
    errors = []
    for normaliser, batches in zip(normalisers, (_one_epoch(pipeline), _validation(pipeline)), strict=True):
        images, _ = _gather(batches, pipeline.batch_size)
        errors.append((normaliser(normaliser.inverse(images)) - images).abs().max().item())
    levels = torch.arange(256, dtype=torch.uint8, device=images.device).expand(1, 3, 256, 256)
    exact = torch.equal(normalisers[0].inverse(normalisers[0](levels)), levels) and normalisers[0] == normalisers[1]
    return _Found(
        exact and max(errors) == 0,
        max(errors),
        "= 0, in standard deviations",
        "train and val are not normalised as their normaliser says",
        "take the mean and standard deviation of your own training images, for both",
    )


# --- the model, before training ---


@_check("loss at init")
def check_loss_at_init(pipeline: Pipeline) -> _Found:
    """An untrained network must not prefer a class: the loss in training mode is about ln C."""
    served = list(serve(pipeline, 4))
    batches = [(_training_logits(pipeline, images), labels) for images, labels in served]
    num_classes = batches[0][0].shape[1]
    off = statistics.mean(pipeline.loss(*batch).item() for batch in batches) - math.log(num_classes)
    bound = f"within 0.4 of ln {num_classes}"
    if abs(off) < 0.4:
        return _Found(True, off, bound)
    why, remedy = _explain_first_loss(pipeline, *batches[0], served[0][0])
    return _Found(False, off, bound, why, remedy, doubtful=math.isfinite(off))


def _explain_first_loss(
    pipeline: Pipeline, logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor
) -> tuple[str, str]:
    """Return why the first loss is not ln C, and what to do about it."""
    found, expected = pipeline.loss(logits, labels).item(), metrics.cross_entropy(logits, labels).item()
    if not abs(found - expected) < 0.05 * abs(expected) + 1e-3:
        below = ": NLLLoss takes log-probabilities" if found < 0 else ""
        why = f"the loss, {found:.3g}, is not the mean cross-entropy of the logits, which is {expected:.3g}{below}"
        return why, "pass logits to CrossEntropyLoss; squared error, BCE or focal loss are fine where they are meant"
    if images.std() > 5:
        return f"the inputs are too large: their standard deviation is {images.std():.3g}", "normalise the images"
    drops = [f"{name}, p={m.p:g}" for name, m in pipeline.model.named_modules() if getattr(m, "p", 0) and _drops(m)]
    without = _training_logits(pipeline, images, _remove_dropout(copy.deepcopy(pipeline.model)))
    if drops and abs(pipeline.loss(without, labels).item() - math.log(logits.shape[1])) < 0.4:
        why = f"dropout ({_few(drops)}) enlarges what it keeps; without it the loss is right"
        return why, "p is the share that is dropped, not the one that is kept; above 0.5 is unusual"
    spread, bias = logits.std().item(), _spread_of_bias(pipeline.model, logits.shape[1])
    if bias > 0.5 * spread:
        why = f"the bias of the head prefers classes before any is seen: it spreads by {bias:.2g}"
        return why, "start from 0, or from the logarithm of how frequent each class is in this set"
    why = f"the logits of the untrained network spread by {spread:.2g}: its head, or its weights, are too large"
    return why, "draw the head smaller; harmless in networks that are known to start so"


def _spread_of_bias(model: nn.Module, num_classes: int) -> float:
    """Return the standard deviation of the bias of the head; 0 if there is none."""
    with suppress(_NotApplicable):
        bias = getattr(find_head(model, num_classes), "bias", None)
        return 0.0 if bias is None else bias.std().item()
    return 0.0


@_check("zero head", "loss")
def check_zero_head(pipeline: Pipeline) -> _Found:
    """With a head of zeros all classes are equally likely, and the loss is ln C to the last digit."""
    images, labels = training_batch(pipeline, pipeline.batch_size - 3)  # not what a loss might take for granted
    num_classes = _logits_of(pipeline, images).shape[1]
    _redraw_head(pipeline.model, num_classes, 0.0)
    logits = _logits_of(pipeline, images)
    if (logits != logits[0]).any():
        raise _NotApplicable("the last layer with a row of weights per class is not the head")
    off = pipeline.loss(logits, labels).item() - math.log(num_classes)
    bound = f"within 1e-5 of ln {num_classes}"
    half = len(logits) // 2
    twice = pipeline.loss(torch.cat([logits[:half]] * 2), torch.cat([labels[:half]] * 2)).item()
    once = pipeline.loss(logits[:half], labels[:half]).item()
    if abs(twice - once) > 1e-4 * abs(once):
        why = f"the loss changes with the number of examples: {once:.3g} for {half}, {twice:.3g} for the same twice"
        return _Found(False, off, bound, why, "divide by the number of labels of the batch that came")
    if abs(off) < 1e-5 or not _moves_with_cross_entropy(pipeline, num_classes):
        return _Found(True, off, bound if abs(off) < 1e-5 else "another loss than cross-entropy")
    why = f"of logits that are all equal the loss is {off + math.log(num_classes):.4g}: something is added or scaled"
    return _Found(False, off, bound, why, "is a penalty inside the loss? Then its value is no cross-entropy", True)


def _moves_with_cross_entropy(pipeline: Pipeline, num_classes: int) -> bool:
    """Return whether the loss is a cross-entropy with a factor or something added, and no other loss."""
    device = _device_of(pipeline.model)
    labels = torch.arange(4 * num_classes, device=device) % num_classes
    logits = [torch.randn(len(labels), num_classes, device=device) * scale for scale in (0.0, 1.0, 2.0)]
    ours = [metrics.cross_entropy(x, labels).item() for x in logits]
    theirs = [pipeline.loss(x, labels).item() for x in logits]
    slopes = [(b - a) / (d - c) for (a, b), (c, d) in zip(itertools.pairwise(theirs), itertools.pairwise(ours))]  # noqa: B905
    return abs(slopes[0] - slopes[1]) < 1e-3 * abs(slopes[0])


def dependency_matrix(
    model: nn.Module,
    images: torch.Tensor,
    batchnorm_trains: bool = False,
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return (N, N): the largest gradient of the logits of example i (row) with respect to image j (column).

    The logits are weighted at random, because some sums of outputs are constant. The model is in training mode, its
    BatchNorm in evaluation mode unless `batchnorm_trains`; modes are restored, buffers kept.

    Args:
        forward: the model and images to logits, where the model itself is not that.

    Raises:
        ValueError: no Module, or no images (N, 3, H, W) as the network takes them.
    """
    require_model(model)
    right = isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim == 4
    require(right, "images", images, "normalised images, floating-point numbers of shape (N, 3, H, W)")
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batchnorm_trains)
    images = images.detach().clone().requires_grad_()
    logits = model(images) if forward is None else forward(model, images)
    weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)
    weighted = logits @ weights
    gradients = [torch.autograd.grad(weighted[i], images, retain_graph=True)[0] for i in range(len(images))]
    return torch.stack([gradient.abs().amax((1, 2, 3)) for gradient in gradients]).cpu()


@_check("dependency")
def check_dependency(pipeline: Pipeline) -> _Found:
    """The logits of an example depend on its own image, and on no other: gradients elsewhere are exactly 0."""
    images, _ = training_batch(pipeline, _DEPENDENCY_IMAGES)
    num_classes = _logits_of(pipeline, images).shape[1]
    with suppress(_NotApplicable):  # a head of zeros would hide its own image; without a head there is none to redraw
        _redraw_head(pipeline.model, num_classes, 0.1)
    matrix = dependency_matrix(pipeline.model, images, forward=lambda model, x: _forward(pipeline, model, x))
    leak, own = (matrix - matrix.diag().diag()).max().item(), matrix.diag().min().item()
    why = "an image has no effect on its own logits"
    if leak:
        why = "the logits of an image depend on other images of its batch"
    remedy = "look for reshape or view in place of permute, and for a mean or softmax over the batch axis"
    return _Found(leak == 0 and own > 0, leak, "= 0 on other images, > 0 on its own", why, remedy if leak else "")


# --- the loop ---


@_check("tensors that move", "train_epoch", "make_optimizer")
def check_movement(pipeline: Pipeline) -> _Found:
    """Three steps change every trainable tensor, and nothing that is frozen, BatchNorm's statistics included."""
    before = {name: tensor.clone() for name, tensor in pipeline.model.state_dict().items()}
    gradients = _gradient_norms(pipeline)
    trained = copy.deepcopy(pipeline.model)
    optimizer = pipeline.make_optimizer(trained)
    _take_steps(pipeline, trained, optimizer, serve(pipeline, 3))
    after = trained.state_dict()
    must, must_not = _sort_tensors(pipeline)
    largest = max((norm for norm in gradients.values() if norm is not None), default=0.0)
    rounding = {name for name, norm in gradients.items() if norm is not None and 0 < norm < 1e-5 * largest}
    stuck = [name for name in must if torch.equal(before[name], after[name]) and name not in rounding]
    spoiled = [name for name in must if not after[name].isfinite().all()]
    moved = [name for name in must_not if not torch.equal(before[name], after[name])]
    bound = "no tensor that does otherwise"
    if spoiled:
        return _Found(False, len(spoiled), bound, f"no longer finite after three steps: {_few(spoiled)}")
    if stuck:
        why, remedy, doubtful = _explain_stuck(pipeline, trained, optimizer, stuck, gradients)
        return _Found(False, len(stuck + moved), bound, why, remedy, doubtful)
    why = f"frozen, and moved: {_few(moved)}"
    remedy = (
        "keep frozen BatchNorm in eval() after every train(); fine if it is meant to count, or an average of weights"
    )
    return _Found(not moved, len(moved), bound, why, remedy, doubtful=pipeline.frozen is None)


def _gradient_norms(pipeline: Pipeline) -> dict[str, float | None]:
    """Return the norm of the gradient of every parameter, all heads together; None where none arrives."""
    model = copy.deepcopy(pipeline.model).train()
    images, labels = training_batch(pipeline)
    heads = [_forward(pipeline, model, images)] if pipeline.forward else _logits_in(model(images))
    total = sum(pipeline.loss(head, labels) for head in heads)
    model.zero_grad()
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()
    return {name: None if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}


def _explain_stuck(
    pipeline: Pipeline,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    stuck: list[str],
    gradients: dict[str, float | None],
) -> tuple[str, str, bool]:
    """Return why parameters do not move, what to do about it, and whether it may be meant."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    trainable = [name for name in _sort_tensors(pipeline)[0] if name in named]
    missing = [name for name in trainable if id(named[name]) not in held]
    if missing and not held & {id(p) for p in named.values()}:
        remedy = "make the optimizer of the model that is trained, after .to(device) and after its head is replaced"
        return "stuck: the optimizer holds none of the parameters of this model", remedy, False
    if missing:
        why = f"{len(missing)} trainable parameters are not in the optimizer: {_few(missing)}"
        remedy = "make the optimizer after the last change of the model; if they are meant to stay: frozen=(…)"
        return why, remedy, missing == trainable[: len(missing)]
    lost = [name for name in stuck if gradients.get(name) is None]
    if lost:
        unused = [name for name in lost if not _is_used(pipeline, name)]
        if unused == lost == stuck:
            return f"never used in the forward pass: {_few(unused)}", "call the layer, or remove it", True
        cut = [name for name in lost if name not in unused]
        why = f"no gradient reaches {_few(cut or unused)}, though the forward pass uses them"
        return why, "look for detach(), .data, no_grad(), or a detour over NumPy", False
    if all(gradients[name] == 0 for name in stuck):
        why = f"the gradient of {_few(stuck)} is exactly 0"
        return why, "is their output thrown away, or the ReLU behind dead?", True
    remedy = "look at the rate of the optimizer, and at what happens between backward() and step()"
    return f"stuck: {_few(stuck)}, though a gradient reaches them", remedy, False


def _is_used(pipeline: Pipeline, name: str) -> bool:
    """Return whether the logits change if a parameter is set to NaN."""
    model = copy.deepcopy(pipeline.model)
    with torch.no_grad():
        model.get_parameter(name).fill_(math.nan)
    return not bool(_training_logits(pipeline, training_batch(pipeline, 8)[0], model).isfinite().all())


def _sort_tensors(pipeline: Pipeline) -> tuple[list[str], list[str]]:
    """Return the names of the tensors that training must change, and of those that it must leave alone."""
    model, frozen = pipeline.model, tuple(pipeline.frozen or ())
    parameters = dict(model.named_parameters())
    must = [name for name, p in parameters.items() if p.requires_grad and not name.startswith(frozen)]
    must_not = [name for name, p in parameters.items() if name not in must]
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        if own and not set(own) & set(must):
            must_not += [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)]
    return must, [name for name in must_not if name in model.state_dict()]


class _GradientRecorder(torch.optim.Optimizer):
    """An optimizer that steps nowhere and keeps the gradient it was given at each step.

    Attributes:
        seen: the gradient at each step, all parameters in a row.
        arrived: the sum of the norms of what backward passes have left since the last step.
        backward: how many there were since the last step, by parameter; empty before the first.
        counts: how many there were before each step.
        lost: the steps that found no gradient although one had arrived.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": 0.0})
        self.seen: list[torch.Tensor] = []
        self.lost, self.arrived = 0, 0.0
        self.backward: Counter[int] = Counter()
        self.counts: list[int] = []
        for parameter in self.param_groups[0]["params"]:
            parameter.register_post_accumulate_grad_hook(self._note)

    def _note(self, parameter: torch.Tensor) -> None:
        self.arrived += 0.0 if parameter.grad is None else parameter.grad.norm().item()
        self.backward[id(parameter)] += 1

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = self.param_groups[0]["params"]
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        self.seen.append(torch.cat(gradients))
        self.lost += int(self.arrived > 0 and self.seen[-1].norm().item() == 0)
        self.counts.append(max(self.backward.values(), default=0))
        self.arrived, self.backward = 0.0, Counter(dict.fromkeys(self.backward, 0))
        return loss


@_check("fresh gradients", "train_epoch")
def check_fresh_gradients(pipeline: Pipeline) -> _Found:
    """The same batch at the same weights has the same gradient at every step: nothing is carried over."""
    batches = max(_STEPPING_BATCHES, 2 * (pipeline.accumulate or 1))
    recorder, bound = _record_gradients(pipeline, batches), "change < 0.001 from step to step"
    for longer in (16, 64) if recorder.backward and not recorder.seen else ():
        batches, recorder = longer, recorder if recorder.seen else _record_gradients(pipeline, longer)
    steps = len(recorder.seen)
    if steps == 0:
        what = "optimizer.step()" if recorder.backward else "loss.backward(), then optimizer.step(),"
        return _Found(False, math.nan, bound, f"{what} is never called", f"call {what} once for each batch")
    first = recorder.seen[0]
    if recorder.lost:
        why = "zero_grad() stands between backward() and step(): the step finds no gradient"
        return _Found(False, math.nan, bound, why, "zero_grad(), backward(), step(), in this order")
    if first.norm() == 0:
        why = "no gradient arrives at the step" + ("" if recorder.backward else ": loss.backward() is never called")
        return _Found(False, math.nan, bound, why, "call loss.backward() before optimizer.step()")
    growth = max(((gradient - first).norm() / first.norm()).item() for gradient in recorder.seen)
    if growth >= 1e-3:
        why = "gradients add up from step to step"
        return _Found(False, growth, bound, why, "call optimizer.zero_grad() before every backward()")
    return _Found(True, growth, bound) if steps == 2 * batches else _judge_accumulation(pipeline, recorder, 2 * batches)


def _record_gradients(pipeline: Pipeline, batches: int) -> _GradientRecorder:
    """Return the gradients of two passes over so many times the same batch, at weights that stay."""
    model = copy.deepcopy(pipeline.model)
    recorder, batch = _GradientRecorder(model), training_batch(pipeline, min(_STEPPING_IMAGES, pipeline.batch_size))
    theirs = pipeline.make_optimizer(model).param_groups[0]  # what a scheduler may ask for
    recorder.param_groups[0] |= {key: value for key, value in theirs.items() if key != "params"}
    model.register_forward_pre_hook(lambda *_: seed_everything(pipeline.seed))  # dropout repeats itself
    for _ in range(2):  # what the loop draws itself, as for mixup, repeats itself too
        _take_steps(pipeline, model, recorder, [batch] * batches, lambda _: seed_everything(pipeline.seed))
        recorder.zero_grad()  # of what a loop that accumulates leaves over
    return recorder


def _judge_accumulation(pipeline: Pipeline, recorder: _GradientRecorder, batches: int) -> _Found:
    """Return the verdict on a loop that steps once for several batches, or several times for one."""
    count, meant = statistics.median(recorder.counts), pipeline.accumulate
    bound = "one step for each batch" if meant is None else f"one step for {meant} batches"
    if len(recorder.seen) > batches:
        steps = len(recorder.seen) / batches
        why = f"{steps:.3g} steps for each batch: does the function train for several epochs?"
        return _Found(False, steps, bound, why, "let it train for one epoch", doubtful=True)
    longer = _record_gradients(pipeline, batches)
    if len(longer.seen) == len(recorder.seen) == 2:
        why = "one step an epoch, however many batches there are: optimizer.step() stands outside of the loop"
        return _Found(False, count, bound, why, "indent optimizer.step() into the loop")
    factor = (recorder.seen[0].norm() / _single_gradient(pipeline).norm()).item()
    if factor > 1.5:
        why = f"the gradients of {count:g} batches are added: a step is {factor:.3g} times as large as one batch's"
        return _Found(False, factor, bound, why, "divide the loss by the number of batches that add up", doubtful=True)
    why = f"one step for {count:g} batches: their gradients accumulate"
    return _Found(meant == count, count, bound, why, f"if that is meant: accumulate={count:g}", doubtful=True)


def _single_gradient(pipeline: Pipeline) -> torch.Tensor:
    """Return the gradient of one batch by the package's own loop."""
    model = copy.deepcopy(pipeline.model)
    recorder, batch = _GradientRecorder(model), training_batch(pipeline, min(_STEPPING_IMAGES, pipeline.batch_size))
    seed_everything(pipeline.seed)
    _take_steps(replace(pipeline, train_epoch=train_epoch), model, recorder, [batch])
    return recorder.seen[0]


@_check("same seed", "train_epoch")
def check_seed(pipeline: Pipeline) -> _Found:
    """The same seed gives the same weights to the last bit; another epoch gives another order."""
    weights, on_cuda = [], _device_of(pipeline.model).type == "cuda"
    for _ in range(2):
        seed_everything(pipeline.seed)
        with _loaders_randomness(pipeline), deterministic_kernels(on_cuda):
            weights.append(_train_copy(pipeline, serve(pipeline, 3)).state_dict())
    differ = sum(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    shuffled = isinstance(pipeline.train, list | tuple) or not _same_order(pipeline)
    bound = "= 0 tensors, epochs differ"
    if not shuffled:
        return _Found(False, differ, bound, "every epoch has the same order", "shuffle the training images")
    if not _is_ours(pipeline, "train_epoch") and _seeds_itself(pipeline):
        why = "your train function sets a seed itself, such as manual_seed(0): every epoch has the same order"
        return _Found(False, differ, bound, why, "set the seed once, before the first epoch", doubtful=True)
    why = "something draws without the seed: two runs with one seed end with different weights"
    remedy = "draw with torch, NumPy or random, and no generator of your own that is seeded once or not at all"
    return _Found(differ == 0, differ, bound, why, remedy, doubtful=True)


def _seeds_itself(pipeline: Pipeline) -> bool:
    """Return whether the random numbers after the loop do not depend on those before it."""
    states = []
    for seed in (1, 2):
        seed_everything(seed)
        batch = training_batch(pipeline, 8)
        seed_everything(seed)
        _train_copy(pipeline, [batch])
        states.append(torch.get_rng_state())
    return torch.equal(*states)


def _same_order(pipeline: Pipeline) -> bool:
    """Return whether the first batches of two epochs are the same."""
    a, b = (_gather(_one_epoch(pipeline, epoch), pipeline.batch_size) for epoch in (0, 1))
    return torch.equal(a[1], b[1]) and torch.equal(a[0], b[0])


# --- the model, trained for a few steps ---


@dataclass(frozen=True)
class _ByHeart:
    """How well a fixed batch was learned: by the reader's loss and by accuracy, in training mode."""

    loss: float
    first: float
    floor: float
    accuracy: float
    steps: int

    def within(self, share: float) -> bool:
        """Return whether all are right and the loss is within this share of the way to its floor."""
        return self.accuracy == 1 and self.loss - self.floor < max(share * (self.first - self.floor), 1e-6)


@_check("overfit a batch", "train_epoch", "make_optimizer", "loss")
def check_overfit(pipeline: Pipeline) -> _Found:
    """A fixed batch of a few images is memorised: all right in training mode, the loss near the lowest it can be."""
    images, labels = training_batch(pipeline, min(_OVERFIT_IMAGES, pipeline.batch_size))
    start = _remove_dropout(pipeline.model)
    model = copy.deepcopy(start)
    found = _learn_by_heart(pipeline, model, images, labels)
    bound = f"all right, loss near its floor {found.floor:.2g}" if abs(found.floor) > 1e-3 else "all right, loss near 0"
    if found.within(_TOWARDS_FLOOR):
        return _Found(True, found.loss, bound)
    why, remedy, doubtful = _explain_floor(pipeline, start, model, images, labels, found)
    return _Found(False, found.loss, bound, why, remedy, doubtful)


def _learn_by_heart(pipeline: Pipeline, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> _ByHeart:
    """Train on one batch until it is known or the steps are used up."""
    optimizer = pipeline.make_optimizer(model)
    first = _loss_on(pipeline, model, images, labels)
    floor = _lowest_loss(pipeline, labels, _training_logits(pipeline, images, model).shape[1])
    at_once = 10 if len(images) == _OVERFIT_IMAGES else 2
    for steps in range(0, _OVERFIT_STEPS + 1, at_once):
        logits = _training_logits(pipeline, images, model)
        accuracy = _clearly_right(logits, _hard(labels)).float().mean().item()
        found = _ByHeart(pipeline.loss(logits, labels).item(), first, floor, accuracy, steps)
        if found.within(_NEAR_FLOOR) or steps == _OVERFIT_STEPS or not math.isfinite(found.loss):
            break
        _keep_time(pipeline.deadline)
        _take_steps(pipeline, model, optimizer, [(images, labels)] * at_once)
    return found


def _clearly_right(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return whether the logit of the class is above all others; where all are 0, behind a ReLU, none is."""
    others = logits.scatter(1, classes[:, None], -math.inf)
    return logits.gather(1, classes[:, None])[:, 0] > others.amax(1)


def _loss_on(pipeline: Pipeline, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return pipeline.loss(_training_logits(pipeline, images, model), labels).item()


def _lowest_loss(pipeline: Pipeline, labels: torch.Tensor, num_classes: int) -> float:
    """Return the lowest loss that logits of any size can reach on these labels, by descent on the logits alone."""
    logits = torch.zeros(len(labels), num_classes, device=labels.device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    lowest = math.inf
    with torch.enable_grad():
        for _ in range(150):
            loss = pipeline.loss(logits, labels)
            lowest = min(lowest, loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return lowest


def _explain_floor(
    pipeline: Pipeline,
    start: nn.Module,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    found: _ByHeart,
) -> tuple[str, str, bool]:
    """Return what a loss that no longer falls comes from, what to do, and whether it may be meant."""
    logits, classes = _training_logits(pipeline, images, model), _hard(labels)
    num_classes, scored = logits.shape[1], metrics.sums(logits, classes)
    if (logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all():
        why = "stuck at ln(e + C - 1) - 1: a softmax before the cross-entropy"
        return why, "return logits: the loss applies the softmax", False
    if (logits > 0).all() and (logits < 1).all():
        why = f"every output lies between {logits.min():.2g} and {logits.max():.2g}: a sigmoid before the loss?"
        return why, "return logits: the loss applies what it needs", False
    if (logits >= 0).all():
        losses = -logits.log_softmax(1).gather(1, classes[:, None]).flatten()
        closed = int(((losses - math.log(num_classes)).abs() < 0.1).sum())
        why = f"no logit is negative, {closed} of {scored.count} images stay at ln C: is there a ReLU on the logits?"
        return why, "let the last layer be linear", False
    culprit = _exchange_parts(pipeline, start, images, labels)
    if culprit:
        return culprit
    entropy = _entropy(torch.bincount(classes).float() / len(classes))
    if abs(scored.loss - math.log(num_classes)) < 0.02:
        return "stuck at ln C: nothing was learned", "", False
    if abs(scored.loss - entropy) < 0.1 and scored.accuracy < 0.5:
        return "stuck at the entropy of the labels: images and labels do not stay together", "", False
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    why = f"accuracy {scored.accuracy:.0%}, loss {found.loss:.3g} after {found.steps} steps"
    if frozen and found.loss < found.first:
        return f"{why}; {len(frozen)} tensors are frozen, and what is left learns it slowly", "", True
    return why, "", found.accuracy == 1


def _exchange_parts(
    pipeline: Pipeline, start: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[str, str, bool] | None:
    """Return which part prevents learning: the one that learns when the package's own stands in its place."""
    trials: dict[str, dict[str, Any]] = {}
    if not _is_ours(pipeline, "train_epoch"):
        trials["your loop"] = {"train_epoch": train_epoch}
    if not _is_ours(pipeline, "make_optimizer"):
        trials["your optimizer"] = {"make_optimizer": _adam}
    if len(trials) == 2:
        trials["your optimizer and your loop"] = {"train_epoch": train_epoch, "make_optimizer": _adam}
    for part, others in trials.items():
        with suppress(RuntimeError, _OutOfTime):
            if _learn_by_heart(replace(pipeline, **others), copy.deepcopy(start), images, labels).accuracy == 1:
                return _name_culprit(pipeline, start, part)
    return None


def _name_culprit(pipeline: Pipeline, start: nn.Module, part: str) -> tuple[str, str, bool]:
    """Return what is known of the part that prevents learning."""
    if part != "your optimizer":
        ours = "the package's loop, step by step the same" if "loop" in part else "ours"
        return f"nothing is learned with {part}, all with {ours}", "look at the order of the calls in your loop", False
    group = pipeline.make_optimizer(copy.deepcopy(start)).param_groups[0]
    decay = group.get("weight_decay", 0)
    settings = f"learning rate {group['lr']:g}, weight decay {decay:g}"
    why = f"not learned with your optimizer ({settings}), but with Adam at 0.001"
    return why, "look at its learning rate, weight decay, and the parameters that it holds", True


def _entropy(shares: torch.Tensor) -> float:
    """Return the entropy of probabilities (C,), in nats."""
    return -torch.special.xlogy(shares, shares).sum().item()


@_check("beats blind", "train_epoch", "make_optimizer")
def check_baselines(pipeline: Pipeline) -> _Found:
    """Trained for a while, it is better on validation than whoever always guesses the most frequent class.

    It stops as soon as the difference is four standard errors.
    """
    images, labels = _validation_batch(pipeline, BASELINE_IMAGES if pipeline.batch_size == 64 else BASELINE_IMAGES // 2)
    blind = labels.bincount().max().item() / len(labels)
    if len(labels) < _FEWEST_IMAGES or blind > 0.6:
        raise _NotApplicable(f"needs {_FEWEST_IMAGES} validation images of which no class is more than 60 %")
    margin = 4 * math.sqrt(2 * blind * (1 - blind) / len(labels))
    model = copy.deepcopy(pipeline.model)
    optimizer, served = pipeline.make_optimizer(model), _endless(pipeline)
    for before, after in itertools.pairwise((0, *_BLIND_STEPS)):
        _take_steps(pipeline, model, optimizer, list(itertools.islice(served, after - before)))
        accuracy = _score(pipeline, model, [(images, labels)]).accuracy
        require(accuracy is None or 0 <= accuracy <= 1, "accuracy", accuracy, "a fraction, no percentage")
        accuracy = _accuracy(_logits_of(pipeline, images, model), labels) if accuracy is None else accuracy
        if accuracy - blind > margin:
            return _Found(True, accuracy - blind, f"> {margin:.3f} of accuracy")
    if accuracy - blind > margin / 2:  # two standard errors: it learns, and slowly
        why = f"after {_BLIND_STEPS[-1]} steps of {pipeline.batch_size} images it is hardly better than guessing"
        return _Found(False, accuracy - blind, f"> {margin:.3f} of accuracy", why, "a larger learning rate?", True)
    why, remedy, doubtful = _explain_blindness(pipeline, model, images, labels, blind + margin / 2, served)
    return _Found(False, accuracy - blind, f"> {margin:.3f} of accuracy", why, remedy, doubtful)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(1) == labels).float().mean().item()


def _explain_blindness(
    pipeline: Pipeline,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    wanted: float,
    served: Iterator[Batch],
) -> tuple[str, str, bool]:
    """Return why a trained network is no better than guessing, what to do, and whether it may be meant."""
    if _accuracy(_logits_of(pipeline, images, model), labels) > wanted:
        why = "the network beats guessing, and your evaluation does not say so: does it evaluate another network?"
        return why, "an average of weights needs more steps than this; else let it use the model it is given", True
    certain = _remove_dropout(copy.deepcopy(model))
    if _accuracy(_training_logits(pipeline, images, copy.deepcopy(certain)), labels) > wanted:
        momentum = {m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        why = f"it beats guessing in training mode alone; momentum of BatchNorm: {momentum or 'none'}"
        return why, "the statistics of evaluation need more steps, or do not follow", True
    trained = _gather(itertools.islice(served, 8), 8 * pipeline.batch_size)
    if _accuracy(_training_logits(pipeline, trained[0], certain), _hard(trained[1])) > wanted:
        return "what it learns does not carry over to val", "do images and labels belong together, in both?", False
    why = f"after {_BLIND_STEPS[-1]} steps it does no better than guessing on training images either"
    return why, "do images and labels belong together? Is the learning rate right?", False


def baseline_scores(pipeline: Pipeline) -> Iterator[dict[str, float]]:
    """Yield validation accuracies after every BASELINE_STEPS: on the data as it is, on zeros, on shuffled labels."""
    _require_pipeline("pipeline", pipeline)
    images, labels = _gather(_validation(pipeline), BASELINE_IMAGES)
    models = {name: copy.deepcopy(pipeline.model) for name in _SPOILED}
    optimizers = {name: pipeline.make_optimizer(model) for name, model in models.items()}
    served = _endless(pipeline)
    while True:
        pool, scores = list(itertools.islice(served, BASELINE_STEPS)), {}
        for name, (spoil_images, spoil_labels) in _SPOILED.items():
            batches = [(spoil_images(x), spoil_labels(y)) for x, y in pool]
            _take_steps(pipeline, models[name], optimizers[name], batches)
            scores[name] = _score(pipeline, models[name], [(spoil_images(images), labels)]).accuracy
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
def check_capacity(pipeline: Pipeline) -> _Found:
    """With equal steps on the same images, a wider network reaches a lower training loss."""
    if pipeline.build is None:
        raise _NotApplicable("pass build=, a function from a width factor to a model")
    losses = _capacity_losses(pipeline, pipeline.build)
    drop = min(a - b for a, b in itertools.pairwise(losses))
    why, remedy = "more units do not help", "is the width passed on, is there a bottleneck?"
    return _Found(drop > 0.01, drop, "> 0.01 lower at every step up", why, remedy)


def _capacity_losses(pipeline: Pipeline, build: Callable[[float], nn.Module]) -> list[float]:
    """Return the training loss of models of growing width after equal steps on the same images."""
    pool = list(serve(pipeline, _CAPACITY_BATCHES))
    images, labels = _gather(pool, _CAPACITY_BATCHES * pipeline.batch_size)
    losses = []
    for width in _CAPACITY_WIDTHS:
        batches = itertools.islice(itertools.cycle(pool), _CAPACITY_STEPS)
        model = _train_copy(pipeline, batches, build(width).to(_device_of(pipeline.model)))
        losses.append(metrics.sums(_training_logits(pipeline, images, model), _hard(labels)).loss)
    return losses


# --- the evaluation ---


@_check("evaluation agrees", "evaluate")
def check_evaluation(pipeline: Pipeline) -> _Found:
    """The result depends neither on the batch size nor on the order, and the images are the same at every pass."""
    count = 2 * pipeline.batch_size + 3  # a prime by default, so that the last batch is smaller
    images, labels = _validation_batch(pipeline, count)
    bound = "loss differs < 0.01 %, same hits"
    if not torch.equal(images, _validation_batch(pipeline, count)[0]):
        why = "validation images change from pass to pass: are they augmented?"
        return _Found(False, math.nan, bound, why, "give validation a transform of its own, without anything random")
    with _watching(pipeline.model) as seen:
        whole = _score(pipeline, pipeline.model, [(images, labels)])
    if seen:
        why = f"the evaluation runs in training mode: {_few(sorted(seen))}"
        return _Found(False, len(seen), bound, why, "call model.eval() before it")
    again = _score(pipeline, pipeline.model, [(images, labels)])
    if max(_difference(again.loss, whole.loss, 1), _difference(again.accuracy, whole.accuracy, 1)) > 1e-5:
        why = "the evaluation is random: the same images, scored twice, have different scores"
        return _Found(False, math.nan, bound, why, "F.dropout needs training=self.training; nn.Dropout knows the mode")
    ways = [list(zip(images.split(size), labels.split(size), strict=True)) for size in (1, 7)]
    others = [_score(pipeline, pipeline.model, way) for way in (*ways, [(images.flip(0), labels.flip(0))])]
    off = max(_difference(other.loss, whole.loss, abs(whole.loss or 1)) for other in others)
    wrong = [other for other in others if _difference(other.accuracy, whole.accuracy, 1) >= 0.5 / len(labels)]
    if off < 1e-4 and not wrong:
        return _Found(True, off, bound)
    if wrong or not _is_mean_of_means(pipeline, ways[1], others[1]):
        why = "the score depends on how the images are cut into batches: a mean of batch means, or a batch that mixes"
        return _Found(False, off, bound, why, "add up hits and losses over the examples, and divide once")
    why = "the loss is a mean of batch means, in which a smaller last batch counts too much"
    return _Found(False, off, bound, why, "weigh each batch by its number of examples", doubtful=True)


def _difference(a: float | None, b: float | None, scale: float) -> float:
    """Return by how much two reported numbers differ; 0 if none was reported."""
    return 0.0 if a is None or b is None else abs(a - b) / scale


def _is_mean_of_means(pipeline: Pipeline, batches: list[Batch], reported: Any) -> bool:
    """Return whether a reported loss is the mean of those of the batches."""
    losses = [pipeline.loss(_logits_of(pipeline, images), labels).item() for images, labels in batches]
    return abs(statistics.mean(losses) / reported.loss - 1) < 1e-4


@contextmanager
def _watching(model: nn.Module) -> Iterator[set[str]]:
    """Collect the names of BatchNorm and dropout layers that run in training mode."""
    seen: set[str] = set()
    handles = []
    for name, module in model.named_modules():
        counts = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        if counts or (_drops(module) and getattr(module, "p", 1) != 0):
            note = lambda m, _, name=name: seen.add(name) if m.training else None  # noqa: E731
            handles.append(module.register_forward_pre_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@_check("evaluation, no trace", "evaluate")
def check_no_trace(pipeline: Pipeline) -> _Found:
    """Evaluation leaves modes, buffers and gradients as they were, also when a batch raises in the middle."""
    model, batch = pipeline.model.train(), _validation_batch(pipeline, _DEPENDENCY_IMAGES)
    modules = list(model.modules())
    modules[-1].eval()
    before = [module.training for module in modules], _state_digest(model)
    left, state = [], False
    for what, at_batch in (("afterwards", None), ("after an error in a batch", _break_the_second)):
        with suppress(_BrokenBatch):
            _score(pipeline, model, [batch] * (2 if at_batch else 1), at_batch)
        modes, digest = [module.training for module in modules], _state_digest(model)
        state = state or digest != before[1]
        if (modes, digest) != before:
            left.append(what)
    where = " and ".join(left)
    if state:
        why = f"evaluation changes weights, buffers or gradients, {where}"
        return _Found(False, len(left), "no difference", why, "call model.eval(), and nothing that trains")
    if not left:
        return _Found(True, 0, "no difference")
    why, first = f"the modes of the network differ {where}", "restore every submodule's mode, in a finally clause"
    if not _trains_again(pipeline, model):
        why += ", and your loop does not call model.train()"
        return _Found(False, len(left), "no difference", why, f"{first}, and begin every epoch with model.train()")
    harmless = not _is_ours(pipeline, "train_epoch")  # as in most scripts: eval() here, train() there
    remedy = f"{first}; harmless if every epoch begins with model.train()"
    return _Found(harmless, len(left), "no difference, or train() at once", why, remedy, doubtful=True)


def _break_the_second(number: int) -> None:
    """Raise at the second batch."""
    if number:
        raise _BrokenBatch


def _trains_again(pipeline: Pipeline, model: nn.Module) -> bool:
    """Return whether the loop puts a model that is in evaluation mode into training mode."""
    model = copy.deepcopy(model).eval()
    with _watching_mode(model) as modes:
        _take_steps(pipeline, model, pipeline.make_optimizer(model), [training_batch(pipeline, 4)])
    return all(modes)


@contextmanager
def _watching_mode(model: nn.Module) -> Iterator[list[bool]]:
    """Collect whether the model is in training mode whenever it is called."""
    modes: list[bool] = []
    handle = model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    try:
        yield modes
    finally:
        handle.remove()


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
