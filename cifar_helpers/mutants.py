"""Bugs to plant: each mutant turns a good `checks.Pipeline` into one with a single fault that people really make.

A fault sits in the model, the data, the loss, the loop or the evaluation, never in a check. The matrix of mutants and
checks is the proof that the checks work: every mutant is caught, and every check catches one that no other sees.
"""

import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_helpers import metrics
from cifar_helpers.augment import Normaliser
from cifar_helpers.checks import CHECKS, Check, Pipeline, find_head
from cifar_helpers.train import evaluate


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


def using(**parts) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that exchanges whole parts of the pipeline."""
    return lambda good: replace(good, **parts)


# --- in the model ---


def in_model(change: Callable[[nn.Module], nn.Module]) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes a copy of the model, and every wider or narrower one."""

    def plant(good: Pipeline) -> Pipeline:
        build = good.build and (lambda width: change(good.build(width)))
        return replace(good, model=change(copy.deepcopy(good.model)), build=build)

    return plant


def followed_by(layer: nn.Module) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that puts a layer behind the logits."""
    return in_model(lambda model: nn.Sequential(model, layer))


def preceded_by(layer: nn.Module) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that puts a layer before the network."""
    return in_model(lambda model: nn.Sequential(layer, model))


def head_of(model: nn.Module) -> nn.Module:
    """Return the last layer of one of our own models."""
    return find_head(model, model.spec["num_classes"])


def large_head(model: nn.Module) -> nn.Module:
    """Draw the head from a distribution fifty times too wide."""
    with torch.no_grad():
        head_of(model).weight.mul_(50)
    return model


def long_tailed_bias(model: nn.Module) -> nn.Module:
    """Start from the class frequencies of another, long-tailed data set."""
    with torch.no_grad():
        head_of(model).bias.copy_(torch.linspace(0, -5, model.spec["num_classes"]))
    return model


class MixBatch(nn.Module):
    """The axes of batch and channel exchanged with `reshape` where `permute` was meant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.transpose(0, 1).reshape(images.shape)


class CentreOverBatch(nn.Module):
    """A home-made normalisation that leaks between the examples of a training batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - images.mean(0) if self.training else images


def detached_features(model: nn.Module) -> nn.Module:
    """Cut the graph in front of the head."""
    head_of(model).register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
    return model


def frozen_batchnorm(model: nn.Module) -> nn.Module:
    """Freeze BatchNorm by requires_grad, and forget its running statistics."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    return model


def ignored_width(good: Pipeline) -> Pipeline:
    """Build the same network whatever the width."""
    return replace(good, build=good.build and (lambda width: good.build(1 / 8)))


# --- in the data ---


class Altered:
    """Batches that serve what others serve, changed."""

    def __init__(self, batches, change: Callable) -> None:
        self._batches, self._change = batches, change

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_batches":
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __iter__(self):
        return itertools.starmap(self._change, self._batches)

    def epoch(self, epoch: int, **options):
        return itertools.starmap(self._change, self._batches.epoch(epoch, **options))


class OneOrder(Altered):
    """Training batches whose order is drawn once, not at every epoch."""

    def epoch(self, epoch: int, **options):
        return self._batches.epoch(0, **options)


class OrderOfTheClock(Altered):
    """Training batches whose order no seed reaches."""

    def epoch(self, epoch: int, *, seed: int, **options):
        return self._batches.epoch(epoch, seed=random.SystemRandom().randrange(2**31), **options)


def in_train(change: Callable) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes the training batches."""
    return lambda good: replace(good, train=Altered(good.train, change))


def in_order(kind: type[Altered]) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes nothing but the order of the training batches."""
    return lambda good: replace(good, train=kind(good.train, lambda images, labels: (images, labels)))


def in_val(change: Callable) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes the validation batches."""
    return lambda good: replace(good, val=Altered(good.val, change))


def in_both(change: Callable) -> Callable[[Pipeline], Pipeline]:
    """Return a plant that changes training and validation batches."""
    return lambda good: replace(good, train=Altered(good.train, change), val=Altered(good.val, change))


def raw_levels(good: Pipeline) -> Pipeline:
    """Feed levels from 0 to 255, as they come from the file."""
    return in_both(lambda images, labels: (good.train.normaliser.inverse(images).float(), labels))(good)


class Renormalised(Altered):
    """Batches normalised by another normaliser, which they declare."""

    def __init__(self, batches, other: Normaliser) -> None:
        super().__init__(batches, lambda images, labels: (other(batches.normaliser.inverse(images)), labels))
        self.normaliser = other


IDLE = Normaliser((0.0,) * 3, (1.0,) * 3)
IMAGENET = Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def idle_normaliser(good: Pipeline) -> Pipeline:
    """Normalise with mean 0 and standard deviation 1, which leaves [0, 1] as it is."""
    return replace(good, train=Renormalised(good.train, IDLE), val=Renormalised(good.val, IDLE))


def imagenet_val(good: Pipeline) -> Pipeline:
    """Normalise validation images with the constants of ImageNet."""
    return replace(good, val=Renormalised(good.val, IMAGENET))


def mirrored_at_random(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror every image with probability one half."""
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images), labels


def reversed_val_classes(good: Pipeline) -> Pipeline:
    """Number the classes of validation in another order."""
    last = len(good.val.class_names) - 1
    return in_val(lambda images, labels: (images, last - labels))(good)


# --- in the loss ---


def squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of logits and one-hot labels."""
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).float())


def highest_log_probability(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the highest log-probability and the class number."""
    return F.mse_loss(logits.log_softmax(1).amax(1), labels.float())


def over_nominal_batch(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Divide the sum by the batch size that was asked for, not by the one that came."""
    return F.cross_entropy(logits, labels, reduction="sum") / 64


# --- in the loop ---


def without_step(model, batches, optimizer, loss) -> None:
    """Compute gradients and forget the optimizer."""
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss(model(images), labels).backward()


def without_backward(model, batches, optimizer, loss) -> None:
    """Compute the loss, and step on no gradient."""
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss(model(images), labels)
        optimizer.step()


def without_zero_grad(model, batches, optimizer, loss) -> None:
    """Let the gradients of all steps add up."""
    model.train()
    for images, labels in batches:
        loss(model(images), labels).backward()
        optimizer.step()


def zero_grad_once(model, batches, optimizer, loss) -> None:
    """Call zero_grad before the loop and not inside."""
    optimizer.zero_grad()
    without_zero_grad(model, batches, optimizer, loss)


def steps_while_it_accumulates(model, batches, optimizer, loss) -> None:
    """Accumulate over two batches, with the step outside of the `if`."""
    model.train()
    for number, (images, labels) in enumerate(batches):
        if number % 2 == 0:
            optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()


def shuffled_labels(good: Pipeline) -> Pipeline:
    """Shuffle the labels of every batch anew."""

    def train_epoch(model, batches, optimizer, loss) -> None:
        good.train_epoch(model, ((x, y[torch.randperm(len(y))]) for x, y in batches), optimizer, loss=loss)

    return replace(good, train_epoch=train_epoch)


def optimizer_of_a_copy(good: Pipeline) -> Pipeline:
    """Give the optimizer the parameters of another model, as before `.to(device)` or after a deepcopy."""
    return replace(good, make_optimizer=lambda model: good.make_optimizer(copy.deepcopy(model)))


def optimizer_without_first_layer(good: Pipeline) -> Pipeline:
    """Leave the first layer out of the optimizer."""

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        first = next(module for module in model.modules() if list(module.parameters(recurse=False)))
        optimizer = good.make_optimizer(model)
        skipped = {id(p) for p in first.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in skipped]
        return optimizer

    return replace(good, make_optimizer=make_optimizer)


# --- in the evaluation ---


def score_training(model: nn.Module, batches) -> metrics.Sums:
    """Evaluate without `model.eval()`."""
    with torch.no_grad():
        found = [metrics.sums(model.train()(images), labels) for images, labels in batches]
    return metrics.Sums(sum(f.loss_sum for f in found), sum(f.correct for f in found), sum(f.count for f in found))


def mean_of_batch_means(model: nn.Module, batches) -> metrics.Sums:
    """Average the averages of batches of unequal size."""
    found = [evaluate(model, [batch]) for batch in batches]
    count = sum(f.count for f in found)
    loss, accuracy = (sum(getattr(f, what) for f in found) / len(found) for what in ("loss", "accuracy"))
    return metrics.Sums(loss * count, round(accuracy * count), count)


def loss_of_the_last_batch(model: nn.Module, batches) -> metrics.Sums:
    """Report the loss of the last batch as that of the epoch."""
    found = [evaluate(model, [batch]) for batch in batches]
    count = sum(f.count for f in found)
    return metrics.Sums(found[-1].loss * count, sum(f.correct for f in found), count)


def evaluate_and_stay(model: nn.Module, batches) -> metrics.Sums:
    """Call `model.eval()`, and leave the model there."""
    model.eval()
    return evaluate(model, batches)


def evaluate_without_finally(model: nn.Module, batches) -> metrics.Sums:
    """Call `model.train()` afterwards, whatever the modes were, and not after an error."""
    found = evaluate_and_stay(model, list(batches))
    model.train()
    return found


# --- all of them ---


MUTANTS = (
    Mutant("levels 0 to 255", "data", "batch contract", raw_levels),
    Mutant("Normalize(0, 1) does nothing", "data", "batch contract", idle_normaliser),
    Mutant("val with ImageNet's constants", "data", "round trip", imagenet_val),
    Mutant("channels last into an MLP", "data", "batch contract", in_both(lambda x, y: (x.permute(0, 2, 3, 1), y))),
    Mutant("labels count from 1", "data", "batch contract", in_both(lambda x, y: (x, y + 1))),
    Mutant("labels are floats", "data", "batch contract", in_both(lambda x, y: (x, y.float()))),
    Mutant("labels one row off", "data", "beats blind", in_train(lambda x, y: (x, y.roll(1)))),
    Mutant("val numbers classes otherwise", "data", "beats blind", reversed_val_classes),
    Mutant("val is augmented", "data", "evaluation agrees", in_val(mirrored_at_random)),
    Mutant("every epoch in one order", "data", "same seed", in_order(OneOrder)),
    Mutant("order without the seed", "data", "same seed", in_order(OrderOfTheClock)),
    Mutant("head fifty times too large", "model", "loss at init", in_model(large_head)),
    Mutant("bias of a long-tailed set", "model", "loss at init", in_model(long_tailed_bias)),
    Mutant("softmax before the loss", "model", "overfit a batch", followed_by(nn.Softmax(1))),
    Mutant("ReLU on the logits", "model", "overfit a batch", followed_by(nn.ReLU())),
    Mutant("reshape mixes the batch", "model", "dependency", preceded_by(MixBatch())),
    Mutant("centred over the batch", "model", "dependency", preceded_by(CentreOverBatch())),
    Mutant("features detached", "model", "tensors that move", in_model(detached_features)),
    Mutant("frozen BatchNorm still counts", "model", "tensors that move", in_model(frozen_batchnorm), _BatchNorm),
    Mutant("width is not passed on", "model", "capacity", ignored_width),
    Mutant("squared error on logits", "loss", "loss at init", using(loss=squared_error)),
    Mutant("MSE of highest log p", "loss", "loss at init", using(loss=highest_log_probability)),
    Mutant("sum over nominal batch", "loss", "zero head", using(loss=over_nominal_batch)),
    Mutant("no optimizer.step()", "loop", "fresh gradients", using(train_epoch=without_step)),
    Mutant("no loss.backward()", "loop", "fresh gradients", using(train_epoch=without_backward)),
    Mutant("no zero_grad", "loop", "fresh gradients", using(train_epoch=without_zero_grad)),
    Mutant("zero_grad once an epoch", "loop", "fresh gradients", using(train_epoch=zero_grad_once)),
    Mutant("steps while it accumulates", "loop", "fresh gradients", using(train_epoch=steps_while_it_accumulates)),
    Mutant("labels shuffled at each step", "loop", "overfit a batch", shuffled_labels),
    Mutant("optimizer of a copy", "loop", "tensors that move", optimizer_of_a_copy),
    Mutant("optimizer lacks a layer", "loop", "tensors that move", optimizer_without_first_layer),
    Mutant("scored in train mode", "evaluation", "evaluation agrees", using(evaluate=score_training), _BatchNorm),
    Mutant("mean of batch means", "evaluation", "evaluation agrees", using(evaluate=mean_of_batch_means)),
    Mutant("loss of the last batch", "evaluation", "evaluation agrees", using(evaluate=loss_of_the_last_batch)),
    Mutant("stays in evaluation mode", "evaluation", "evaluation, no trace", using(evaluate=evaluate_and_stay)),
    Mutant("train() not in finally", "evaluation", "evaluation, no trace", using(evaluate=evaluate_without_finally)),
)  # fmt: skip


def possible_mutants(model: nn.Module) -> list[Mutant]:
    """Return the mutants that a network can have; one without BatchNorm cannot misuse it."""
    has = lambda kind: any(isinstance(module, kind) for module in model.modules())  # noqa: E731
    return [mutant for mutant in MUTANTS if mutant.needs is None or has(mutant.needs)]


def run_matrix(good: Pipeline) -> dict[str, dict[str, Check]]:
    """Return the verdict of every check, by its name, on the good pipeline ("good") and on every possible mutant."""
    planted = {"good": good} | {mutant.name: mutant.plant(good) for mutant in possible_mutants(good.model)}
    return {name: {found.name: found for found in (run(p) for run in CHECKS)} for name, p in planted.items()}


def caught_by(verdicts: dict[str, Check]) -> list[str]:
    """Return the names of the checks that failed."""
    return [name for name, found in verdicts.items() if found.passed is False]
