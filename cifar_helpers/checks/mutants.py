"""Bugs to plant: each mutant turns a good `Pipeline` of `data.Batches` into one with a single fault that people make.

A fault sits in the model, the data, the loss, the loop or the evaluation, never in a check. The matrix of mutants and
checks is the proof that the checks work: every mutant is caught, and every check catches one that no other sees.
"""

import copy
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from cifar_helpers import metrics
from cifar_helpers._arguments import require_model
from cifar_helpers._contract import Batch
from cifar_helpers.checks.checks import CHECKS, find_head
from cifar_helpers.checks.pipeline import Check, Pipeline, _ordered, _require_pipeline
from cifar_helpers.data.batches import Batches
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.models.networks import Described
from cifar_helpers.training.evaluation import evaluate

__all__ = ["MUTANTS", "Mutant", "caught_by", "highest_log_probability", "possible_mutants", "run_matrix"]

# Images and labels of a batch to another batch.
_Change = Callable[[torch.Tensor, torch.Tensor], Batch]
_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Mutant:
    """One bug.

    Attributes:
        name: what a person wrote.
        where: data, model, loss, loop or evaluation.
        caught_by: the name of the check that is made for it; others may see it too.
        plant: a good pipeline to one with the bug.
        needs: a kind of layer without which it is none.
    """

    name: str
    where: str
    caught_by: str
    plant: Callable[[Pipeline], Pipeline]
    needs: type[nn.Module] | None = None


def _using(**parts: Any) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that exchanges whole parts of the pipeline."""
    return lambda good: replace(good, **parts)


# --- in the model ---


def _in_model(change: Callable[[nn.Module], nn.Module]) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes a copy of the model, and every wider or narrower one."""

    def plant(good: Pipeline) -> Pipeline:
        build = good.build
        changed = None if build is None else lambda width: change(build(width))
        return replace(good, model=change(copy.deepcopy(good.model)), build=changed)

    return plant


def _followed_by(layer: nn.Module) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that puts a layer behind the logits."""
    return _in_model(lambda model: nn.Sequential(model, layer))


def _preceded_by(layer: nn.Module) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that puts a layer before the network."""
    return _in_model(lambda model: nn.Sequential(layer, model))


def _num_classes(model: nn.Module) -> int:
    """Return the number of classes of a network from `make_model`."""
    return cast(Described, model).spec["num_classes"]


def _head_of(model: nn.Module) -> nn.Linear:
    """Return the last layer of a network from `make_model`."""
    return cast(nn.Linear, find_head(model, _num_classes(model)))


def _large_head(model: nn.Module) -> nn.Module:
    """Draw the head from a distribution fifty times too wide."""
    with torch.no_grad():
        _head_of(model).weight.mul_(50)
    return model


def _long_tailed_bias(model: nn.Module) -> nn.Module:
    """Start from the class frequencies of another, long-tailed data set."""
    with torch.no_grad():
        _head_of(model).bias.copy_(torch.linspace(0, -5, _num_classes(model)))
    return model


class _MixBatch(nn.Module):
    """The axes of batch and channel exchanged with `reshape` where `permute` was meant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.transpose(0, 1).reshape(images.shape)


class _CentreOverBatch(nn.Module):
    """A home-made normalisation that leaks between the examples of a training batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - images.mean(0) if self.training else images


def _detached_features(model: nn.Module) -> nn.Module:
    """Cut the graph in front of the head."""
    _head_of(model).register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
    return model


def _frozen_batchnorm(model: nn.Module) -> nn.Module:
    """Freeze BatchNorm by requires_grad, and forget its running statistics."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    return model


def _ignored_width(good: Pipeline) -> Pipeline:
    """Build the same network whatever the width."""
    build = good.build
    return replace(good, build=None if build is None else lambda width: build(1 / 8))


# --- in the data ---


class _Altered:
    """Batches that serve what others serve, changed."""

    def __init__(self, batches: Any, change: _Change) -> None:
        self._batches, self._change = batches, change

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_batches":
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __iter__(self) -> Iterator[Batch]:
        return itertools.starmap(self._change, self._batches)

    def ordered(self) -> Iterator[Batch]:
        return itertools.starmap(self._change, _ordered(self._batches))

    def steps(self, batch_size: int) -> int:
        return self._batches.steps(batch_size)

    def epoch(self, epoch: int, *, seed: int, **options: Any) -> Iterator[Batch]:
        return itertools.starmap(self._change, self._batches.epoch(epoch, seed=seed, **options))


class _OneOrder(_Altered):
    """Training batches whose order is drawn once, not at every epoch."""

    def epoch(self, epoch: int, *, seed: int, **options: Any) -> Iterator[Batch]:
        return self._batches.epoch(0, seed=seed, **options)


class _OrderOfTheClock(_Altered):
    """Training batches whose order no seed reaches."""

    def epoch(self, epoch: int, *, seed: int, **options: Any) -> Iterator[Batch]:
        return self._batches.epoch(epoch, seed=random.SystemRandom().randrange(2**31), **options)


def _in_train(change: _Change) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes the training batches."""
    return lambda good: replace(good, train=_Altered(good.train, change))


def _reordered(kind: type[_Altered]) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes nothing but the order of the training batches."""
    return lambda good: replace(good, train=kind(good.train, lambda images, labels: (images, labels)))


def _in_val(change: _Change) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes the validation batches."""
    return lambda good: replace(good, val=_Altered(good.val, change))


def _in_both(change: _Change) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes training and validation batches."""
    return lambda good: replace(good, train=_Altered(good.train, change), val=_Altered(good.val, change))


def _raw_levels(good: Pipeline) -> Pipeline:
    """Feed levels from 0 to 255, as they come from the file."""
    normaliser = cast(Batches, good.train).normaliser
    return _in_both(lambda images, labels: (normaliser.inverse(images).float(), labels))(good)


class _Renormalised(_Altered):
    """Batches normalised by another normaliser, which they declare."""

    def __init__(self, batches: Any, other: Normaliser) -> None:
        super().__init__(batches, lambda images, labels: (other(batches.normaliser.inverse(images)), labels))
        self.normaliser = other


_IDLE = Normaliser((0.0,) * 3, (1.0,) * 3)
_IMAGENET = Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _idle_normaliser(good: Pipeline) -> Pipeline:
    """Normalise with mean 0 and standard deviation 1, which leaves [0, 1] as it is."""
    return replace(good, train=_Renormalised(good.train, _IDLE), val=_Renormalised(good.val, _IDLE))


def _imagenet_val(good: Pipeline) -> Pipeline:
    """Normalise validation images with the constants of ImageNet."""
    return replace(good, val=_Renormalised(good.val, _IMAGENET))


def _mirrored_at_random(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror every image with probability one half."""
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images), labels


def _reversed_val_classes(good: Pipeline) -> Pipeline:
    """Number the classes of validation in another order."""
    last = len(cast(Batches, good.val).class_names) - 1
    return _in_val(lambda images, labels: (images, last - labels))(good)


# --- in the loss ---


def _squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of logits and one-hot labels."""
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).float())


def highest_log_probability(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the highest log-probability and the class number."""
    return F.mse_loss(logits.log_softmax(1).amax(1), labels.float())


def _over_nominal_batch(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Divide the sum by the batch size that was asked for, not by the one that came."""
    return F.cross_entropy(logits, labels, reduction="sum") / 64


# --- in the loop ---


def _without_step(model: nn.Module, batches: Iterable[Batch], optimizer: Optimizer, loss: _Loss) -> None:
    """Compute gradients and forget the optimizer."""
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss(model(images), labels).backward()


def _without_backward(model: nn.Module, batches: Iterable[Batch], optimizer: Optimizer, loss: _Loss) -> None:
    """Compute the loss, and step on no gradient."""
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss(model(images), labels)
        optimizer.step()


def _without_zero_grad(model: nn.Module, batches: Iterable[Batch], optimizer: Optimizer, loss: _Loss) -> None:
    """Let the gradients of all steps add up."""
    model.train()
    for images, labels in batches:
        loss(model(images), labels).backward()
        optimizer.step()


def _zero_grad_once(model: nn.Module, batches: Iterable[Batch], optimizer: Optimizer, loss: _Loss) -> None:
    """Call zero_grad before the loop and not inside."""
    optimizer.zero_grad()
    _without_zero_grad(model, batches, optimizer, loss)


def _steps_while_it_accumulates(model: nn.Module, batches: Iterable[Batch], optimizer: Optimizer, loss: _Loss) -> None:
    """Accumulate over two batches, with the step outside of the `if`."""
    model.train()
    for number, (images, labels) in enumerate(batches):
        if number % 2 == 0:
            optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()


def _shuffled_labels(good: Pipeline) -> Pipeline:
    """Shuffle the labels of every batch anew."""

    def train_epoch(model: nn.Module, batches: Iterable[Batch], optimizer: Optimizer, loss: _Loss) -> None:
        good.train_epoch(model, ((x, y[torch.randperm(len(y))]) for x, y in batches), optimizer, loss=loss)

    return replace(good, train_epoch=train_epoch)


def _optimizer_of_a_copy(good: Pipeline) -> Pipeline:
    """Give the optimizer the parameters of another model, as before `.to(device)` or after a deepcopy."""
    return replace(good, make_optimizer=lambda model: good.make_optimizer(copy.deepcopy(model)))


def _optimizer_without_first_layer(good: Pipeline) -> Pipeline:
    """Leave the first layer out of the optimizer."""

    def make_optimizer(model: nn.Module) -> Optimizer:
        first = next(module for module in model.modules() if list(module.parameters(recurse=False)))
        optimizer = good.make_optimizer(model)
        skipped = {id(p) for p in first.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in skipped]
        return optimizer

    return replace(good, make_optimizer=make_optimizer)


# --- in the evaluation ---


def _score_training(model: nn.Module, batches: Iterable[Batch]) -> metrics.Sums:
    """Evaluate without `model.eval()`."""
    with torch.no_grad():
        found = [metrics.sums(model.train()(images), labels) for images, labels in batches]
    return metrics.Sums(sum(f.loss_sum for f in found), sum(f.correct for f in found), sum(f.count for f in found))


def _mean_of_batch_means(model: nn.Module, batches: Iterable[Batch]) -> metrics.Sums:
    """Average the averages of batches of unequal size."""
    found = [evaluate(model, [batch]) for batch in batches]
    count = sum(f.count for f in found)
    loss, accuracy = (sum(getattr(f, what) for f in found) / len(found) for what in ("loss", "accuracy"))
    return metrics.Sums(loss * count, round(accuracy * count), count)


def _loss_of_the_last_batch(model: nn.Module, batches: Iterable[Batch]) -> metrics.Sums:
    """Report the loss of the last batch as that of the epoch."""
    found = [evaluate(model, [batch]) for batch in batches]
    count = sum(f.count for f in found)
    return metrics.Sums(found[-1].loss * count, sum(f.correct for f in found), count)


def _evaluate_and_stay(model: nn.Module, batches: Iterable[Batch]) -> metrics.Sums:
    """Call `model.eval()`, and leave the model there."""
    model.eval()
    return evaluate(model, batches)


def _evaluate_without_finally(model: nn.Module, batches: Iterable[Batch]) -> metrics.Sums:
    """Call `model.train()` afterwards, whatever the modes were, and not after an error."""
    found = _evaluate_and_stay(model, list(batches))
    model.train()
    return found


# --- all of them ---


MUTANTS = (
    Mutant("levels 0 to 255", "data", "batch contract", _raw_levels),
    Mutant("Normalize(0, 1) does nothing", "data", "batch contract", _idle_normaliser),
    Mutant("val with ImageNet's constants", "data", "round trip", _imagenet_val),
    Mutant("channels last into an MLP", "data", "batch contract", _in_both(lambda x, y: (x.permute(0, 2, 3, 1), y))),
    Mutant("labels count from 1", "data", "batch contract", _in_both(lambda x, y: (x, y + 1))),
    Mutant("labels are floats", "data", "batch contract", _in_both(lambda x, y: (x, y.float()))),
    Mutant("labels one row off", "data", "beats blind", _in_train(lambda x, y: (x, y.roll(1)))),
    Mutant("val numbers classes otherwise", "data", "beats blind", _reversed_val_classes),
    Mutant("val is augmented", "data", "evaluation agrees", _in_val(_mirrored_at_random)),
    Mutant("every epoch in one order", "data", "same seed", _reordered(_OneOrder)),
    Mutant("order without the seed", "data", "same seed", _reordered(_OrderOfTheClock)),
    Mutant("head fifty times too large", "model", "loss at init", _in_model(_large_head)),
    Mutant("bias of a long-tailed set", "model", "loss at init", _in_model(_long_tailed_bias)),
    Mutant("softmax before the loss", "model", "overfit a batch", _followed_by(nn.Softmax(1))),
    Mutant("ReLU on the logits", "model", "overfit a batch", _followed_by(nn.ReLU())),
    Mutant("reshape mixes the batch", "model", "dependency", _preceded_by(_MixBatch())),
    Mutant("centred over the batch", "model", "dependency", _preceded_by(_CentreOverBatch())),
    Mutant("features detached", "model", "tensors that move", _in_model(_detached_features)),
    Mutant("frozen BatchNorm still counts", "model", "tensors that move", _in_model(_frozen_batchnorm), _BatchNorm),
    Mutant("width is not passed on", "model", "capacity", _ignored_width),
    Mutant("squared error on logits", "loss", "loss at init", _using(loss=_squared_error)),
    Mutant("MSE of highest log p", "loss", "loss at init", _using(loss=highest_log_probability)),
    Mutant("sum over nominal batch", "loss", "zero head", _using(loss=_over_nominal_batch)),
    Mutant("no optimizer.step()", "loop", "fresh gradients", _using(train_epoch=_without_step)),
    Mutant("no loss.backward()", "loop", "fresh gradients", _using(train_epoch=_without_backward)),
    Mutant("no zero_grad", "loop", "fresh gradients", _using(train_epoch=_without_zero_grad)),
    Mutant("zero_grad once an epoch", "loop", "fresh gradients", _using(train_epoch=_zero_grad_once)),
    Mutant("steps while it accumulates", "loop", "fresh gradients", _using(train_epoch=_steps_while_it_accumulates)),
    Mutant("labels shuffled at each step", "loop", "overfit a batch", _shuffled_labels),
    Mutant("optimizer of a copy", "loop", "tensors that move", _optimizer_of_a_copy),
    Mutant("optimizer lacks a layer", "loop", "tensors that move", _optimizer_without_first_layer),
    Mutant("scored in train mode", "evaluation", "evaluation agrees", _using(evaluate=_score_training), _BatchNorm),
    Mutant("mean of batch means", "evaluation", "evaluation agrees", _using(evaluate=_mean_of_batch_means)),
    Mutant("loss of the last batch", "evaluation", "evaluation agrees", _using(evaluate=_loss_of_the_last_batch)),
    Mutant("stays in evaluation mode", "evaluation", "evaluation, no trace", _using(evaluate=_evaluate_and_stay)),
    Mutant("train() not in finally", "evaluation", "evaluation, no trace", _using(evaluate=_evaluate_without_finally)),
)  # fmt: skip


def possible_mutants(model: nn.Module) -> list[Mutant]:
    """Return the mutants that a network can have; one without BatchNorm cannot misuse it."""
    require_model(model)
    has = lambda kind: any(isinstance(module, kind) for module in model.modules())  # noqa: E731
    return [mutant for mutant in MUTANTS if mutant.needs is None or has(mutant.needs)]


def run_matrix(good: Pipeline) -> dict[str, dict[str, Check]]:
    """Return the verdict of every check, by its name, on the good pipeline ("good") and on every possible mutant."""
    _require_pipeline("good", good)
    planted = {"good": good} | {mutant.name: mutant.plant(good) for mutant in possible_mutants(good.model)}
    return {name: {found.name: found for found in (run(p) for run in CHECKS)} for name, p in planted.items()}


def caught_by(verdicts: dict[str, Check]) -> list[str]:
    """Return the names of the checks that failed."""
    return [name for name, found in verdicts.items() if found.passed is False]
