"""Further checks, of mistakes that are ordinary in other people's code: each looks for one kind, and names it.

What no cheap check can see: wrong labels here and there, two classes exchanged in training and validation alike, an
augmentation that is too strong, a network or a rate that is merely not the best.
"""

import copy
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sized
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset, Subset

from cifar_helpers import metrics
from cifar_helpers._contract import Batch, EpochBatches
from cifar_helpers.checks.checks import _few, _lowest_loss, _redraw_head, _remove_dropout
from cifar_helpers.checks.pipeline import (
    Check,
    Pipeline,
    _check,
    _device_of,
    _drawn,
    _forward,
    _Found,
    _gather,
    _hard,
    _here,
    _in_process,
    _is_ours,
    _logits_of,
    _NotApplicable,
    _score,
    _take_apart,
    _take_steps,
    _training_logits,
    _validation,
    _validation_batch,
    serve,
    training_batch,
)
from cifar_helpers.runtime import seed_everything

__all__ = [
    "FURTHER_CHECKS",
    "check_classes",
    "check_influence",
    "check_leak",
    "check_loss_function",
    "check_modes",
    "check_neighbours",
    "check_parameters",
    "check_repeated_item",
    "check_reported_accuracy",
    "check_reuse",
    "check_served",
    "check_updates",
    "check_val_like_train",
]

_COMPARED = 600  # images of training, and as many of validation
_RUN_STEPS = 20  # half of it for a slow network
_ITEMS = 4
_STORED = 50_000  # rows in memory that are compared


# --- the data ---


def _many(pipeline: Pipeline, count: int = _COMPARED) -> Batch:
    """Return `count` training examples as they are served, augmentation included."""
    if isinstance(pipeline.train, EpochBatches):
        return _gather(pipeline.train.epoch(0, seed=pipeline.seed, batch_size=250), count)
    return _gather(_here(pipeline, map(_take_apart, _in_process(pipeline.train, 256))), count)


@_check("val like train")
def check_val_like_train(pipeline: Pipeline) -> _Found:
    """Validation images have the contrast between channels, the spread and the brightness of training images.

    Looked at in the middle of the images, which cropping with a border leaves alone.
    """
    images, (train, _) = _gather(_validation(pipeline), _COMPARED)[0], _many(pipeline)
    bound = "differences < 0.3 spreads, or z < 8"
    if images.shape[1:] != train.shape[1:]:
        sizes = f"{tuple(train.shape[1:])} in training, {tuple(images.shape[1:])} in validation"
        return _Found(False, math.nan, bound, f"images differ in shape: {sizes}", "", doubtful=True)
    worst, z = _largest_difference(train, images)
    if z < 8:
        return _Found(True, z, bound)
    if _reversed_channels(train, images, z):
        why = "the channels of validation come in another order than those of training: blue first?"
        return _Found(False, z, bound, why, "cv2 reads BGR: convert with [..., ::-1], or read both alike")
    return _Found(False, z, bound, _explain_difference(train, images, worst), "use the same normalisation for both")


def _reversed_channels(train: torch.Tensor, val: torch.Tensor, z: float) -> bool:
    """Return whether first and last channel are exchanged in validation.

    Under one normalisation for all channels, exchanging them again makes both sets alike. Under the set's own, which
    leaves mean 0 and spread 1 in training, the exchanged channels have reciprocal spreads and means to match.
    """
    if val.shape[1] != 3:
        return False
    if _largest_difference(train, val.flip(1))[1] < z / 2:
        return True
    means, stds = (f(val.transpose(0, 1).flatten(1).float(), 1) for f in (torch.mean, torch.std))
    fits = [stds[0] * stds[2] - 1, means[2] + means[0] / stds[0], means[1], stds[1] - 1]
    return max(abs(x.item()) for x in fits) < 0.15 and abs(means[0].item()) > 0.1


def _explain_difference(train: torch.Tensor, val: torch.Tensor, worst: str) -> str:
    """Return in which way validation images are not like training images."""
    figures = [f"mean {x.mean():.3g}, spread {x.std():.3g}" for x in (train, val)]
    raw = "; those of validation are not normalised" if val.min() >= 0 and train.min() < 0 else ""
    return f"{worst} differs: {figures[0]} in training, {figures[1]} in validation{raw}"


def _largest_difference(a: torch.Tensor, b: torch.Tensor) -> tuple[str, float]:
    """Return what differs most between two sets of images, and its z; 0 where the difference is small."""
    found = {}
    for name, (x, y) in {name: (f(_middle(a)), f(_middle(b))) for name, f in _FEATURES.items()}.items():
        if x.shape[1]:
            spread = ((x.var(0) + y.var(0)) / 2).sqrt().clamp_min(1e-6)
            effect = ((x.mean(0) - y.mean(0)).abs() / spread).max().item()
            least = 0.3 if name == "the contrast between channels" else 1.0
            found[name] = effect * math.sqrt(len(x) * len(y) / (len(x) + len(y))) if effect > least else 0.0
    worst = max(found, key=lambda name: found[name])
    return worst, found[worst]


def _middle(images: torch.Tensor) -> torch.Tensor:
    """Return the middle quarter of images (B, C, H, W), in float."""
    h, w = images.shape[2] // 4, images.shape[3] // 4
    return images[:, :, h : h + max(1, 2 * h), w : w + max(1, 2 * w)].float()


def _contrasts(images: torch.Tensor) -> torch.Tensor:
    """Return the differences between the mean channels of each image, (B, pairs)."""
    means = images.mean((2, 3))
    pairs = list(itertools.combinations(range(means.shape[1]), 2)) if means.shape[1] == 3 else []
    return torch.stack([means[:, i] - means[:, j] for i, j in pairs], 1) if pairs else means[:, :0]


_FEATURES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the contrast between channels": _contrasts,
    "the spread of pixels": lambda images: images.flatten(1).std(1, keepdim=True).clamp_min(1e-6).log(),
    "the brightness": lambda images: images.mean((1, 2, 3))[:, None],
}


@_check("neighbouring pixels")
def check_neighbours(pipeline: Pipeline) -> _Found:
    """Neighbouring pixels are alike in both directions, as they are in pictures."""
    found = []
    for name, images in (("train", _many(pipeline, 64)[0]), ("val", _gather(_validation(pipeline), 64)[0])):
        alike = _alike(images)
        found.append(alike)
        if alike < 0.5:
            b, c, h, w = images.shape
            mended = _alike(images.reshape(b, h, w, c).permute(0, 3, 1, 2))
            why = f"{name}: neighbouring pixels are not alike (correlation {alike:.2f})"
            if mended > max(0.5, alike + 0.2):
                why += f"; read as channels last it is {mended:.2f}: view or reshape stands in place of permute"
                return _Found(False, alike, "correlation > 0.5", why, "images.permute(0, 3, 1, 2), or ToTensor")
            return _Found(False, alike, "correlation > 0.5", f"{why}: are pixels mixed, or is it noise?", "", True)
    return _Found(True, min(found), "correlation > 0.5")


def _alike(images: torch.Tensor) -> float:
    """Return the smaller of the correlations of pixels with their right and their lower neighbours."""
    x = images.float() - images.float().mean((0, 2, 3), keepdim=True)
    pairs = ((x[..., 1:], x[..., :-1]), (x[:, :, 1:], x[:, :, :-1]))
    return min(((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)).item() for a, b in pairs)


@_check("classes seen")
def check_classes(pipeline: Pipeline) -> _Found:
    """The labels use the outputs that the network has, and validation has no class that training lacks."""
    images, labels = _many(pipeline)
    outputs = _logits_of(pipeline, images[:2]).shape[1]
    train = _all_labels(pipeline.train)
    train = _hard(labels).cpu() if train is None else train
    val = _validation_batch(pipeline, _COMPARED)[1].cpu()
    seen, bound = len(train.unique()), f"of {outputs} outputs"
    unknown = ~torch.isin(val, train)
    if unknown.float().mean() > 0.1:
        names = ", ".join(map(str, val[unknown].unique().tolist()[:5]))
        why = f"{unknown.float().mean():.0%} of validation images are of classes that training lacks: {names}"
        return _Found(False, seen, bound, why, "is the set sorted by class, and split in the middle?")
    expected = outputs * (1 - math.exp(-len(train) / outputs))  # of classes that are equally frequent
    why = f"the network has {outputs} outputs, and the labels use {seen} classes"
    return _Found(seen > 0.6 * expected, seen, bound, why, f"let the last layer have {seen} outputs", doubtful=True)


def _all_labels(batches: Iterable[Any]) -> torch.Tensor | None:
    """Return the labels of a whole Dataset where it keeps them in one place; None where it does not."""
    dataset, indices = _unfold(batches)
    if getattr(dataset, "target_transform", None) is not None:
        return None  # others are served
    kept = getattr(dataset, "targets", getattr(dataset, "labels", None))
    tensors: Any = getattr(dataset, "tensors", ())
    kept = tensors[1] if kept is None and len(tensors) > 1 else kept
    try:
        labels = torch.as_tensor(_array(kept))
        return labels[indices] if labels.shape == (len(dataset),) and labels.dtype == torch.int64 else None
    except (TypeError, ValueError, IndexError, RuntimeError):
        return None


def _unfold(batches: Any) -> tuple[Any, torch.Tensor]:
    """Return the Dataset at the bottom of a DataLoader and the rows of it that are served; None without one."""
    dataset = getattr(batches, "dataset", None)
    if not isinstance(batches, DataLoader) or isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return None, torch.zeros(0, dtype=torch.int64)
    rows = torch.arange(len(dataset))
    held = getattr(batches.sampler, "indices", None)  # of a SubsetRandomSampler
    rows = rows if held is None else torch.as_tensor(list(held))
    while isinstance(dataset, Subset):
        rows, dataset = torch.as_tensor(list(dataset.indices))[rows], dataset.dataset
    return dataset, rows


@_check("same item twice")
def check_repeated_item(pipeline: Pipeline) -> _Found:
    """An item of the Dataset, read twice with the same seed, is the same: reading changes nothing that is stored."""
    bound = "= 0 items that differ"
    loader: Any = pipeline.train
    dataset, rows = _unfold(loader)
    if dataset is None:
        raise _NotApplicable("train is no DataLoader over a Dataset with a length")
    kept = {int(i): _stored_digest(dataset, int(i)) for i in rows[:_ITEMS]}
    read = [int(i) for i in getattr(loader.sampler, "indices", range(len(kept)))][: len(kept)]
    items = [[_read(loader.dataset, i, pipeline.seed) for i in read] for _ in range(2)]
    differ = sum(not torch.equal(a, b) for a, b in zip(*items, strict=True))
    written = sum(_stored_digest(dataset, i) != before for i, before in kept.items())
    if written:
        why = f"reading an item changes what is stored: {written} of {len(kept)} images, a little at every epoch"
        return _Found(False, written, bound, why, "let the augmentation work on a copy: image.clone(), image.copy()")
    why = f"{differ} of {len(kept)} items differ when they are read twice with the same seed"
    remedy = "draw with torch, NumPy or random: a generator of your own repeats itself in every worker"
    return _Found(not differ, differ, bound, why, remedy, doubtful=True)


def _read(dataset: Any, index: int, seed: int) -> torch.Tensor:
    """Return the image of an item, copied."""
    seed_everything(seed)
    item = dataset[index]
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, tuple | list) else [item]
    image = next((part for part in parts if isinstance(part, torch.Tensor | np.ndarray)), None)
    if image is None:
        raise _NotApplicable("items of train hold no tensor and no array")
    return torch.as_tensor(_array(image).copy())


def _stored_digest(dataset: Any, row: int) -> int:
    """Return a number that tells whether what a Dataset stores in memory for an item has changed."""
    return hash(tuple(_array(value[row]).tobytes() for value in _stored(dataset)))


def _array(value: Any) -> np.ndarray:
    """Return a tensor or an array as an array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _stored(dataset: Any) -> list[Any]:
    """Return the arrays, tensors, and lists of them, that hold a row for each item of a Dataset in memory."""
    held = [*getattr(dataset, "__dict__", {}).values(), *getattr(dataset, "tensors", ())]
    return [value for value in held if _length(value) == len(dataset) and getattr(value[0], "ndim", 0) >= 1]


def _length(value: Any) -> int:
    """Return how many rows an array, a tensor or a list has; 0 for anything else."""
    return len(value) if isinstance(value, np.ndarray | torch.Tensor | list) and getattr(value, "ndim", 1) > 0 else 0


@_check("examples served")
def check_served(pipeline: Pipeline) -> _Found:
    """Validation serves every example once."""
    bound = "= 0 examples left out"
    loader: Any = pipeline.val
    if _unfold(loader)[0] is None or loader.batch_sampler is None:
        raise _NotApplicable("val is no DataLoader over a Dataset with a length")
    drawn = _drawn(loader)
    served = sum(len(numbers) for numbers in itertools.islice(loader.batch_sampler, len(drawn)))
    if served != len(drawn):
        why = f"validation serves {served:,} of {len(drawn):,} examples: drop_last=True"
        return _Found(False, len(drawn) - served, bound, why, "DataLoader(…, drop_last=False) for validation")
    twice, remedy = len(drawn) - len(set(drawn)), "DataLoader(…, shuffle=False), without a sampler"
    why = f"validation draws with replacement: {len(set(drawn)):,} different examples in {len(drawn):,}"
    return _Found(not twice, twice, bound, why, remedy, doubtful=True)


@_check("leak")
def check_leak(pipeline: Pipeline) -> _Found:
    """Validation images are not among the training images, neither as the same files or rows nor as equal pixels."""
    bound = "< 1 % of validation"
    if pipeline.train is pipeline.val:
        return _Found(False, 1.0, bound, "validation is the training loader itself", "evaluate on a split of its own")
    shared = _shared_rows(pipeline)
    if shared:
        why = f"{shared:.0%} of validation images are the very rows or files that training has"
        return _Found(False, shared, bound, why, "split the indices once, and use each part for one purpose")
    train, val = _pixels(pipeline, pipeline.train), _pixels(pipeline, pipeline.val)
    known = {hash(row.tobytes()) for row in train}
    exact = sum(hash(row.tobytes()) in known for row in val) / len(val)
    if exact >= 0.01:
        why = f"{exact:.0%} of {len(val):,} validation images are pixel by pixel among {len(train):,} of training"
        return _Found(False, exact, bound, why, "take copies out of one of the two")
    near = _near(train, val)
    why = f"{near:.0%} of {len(val):,} validation images are almost equal to one of {len(train):,} of training"
    return _Found(near < 0.1, near, bound, why, "do both come from the same pictures, enlarged or mirrored?", True)


def _shared_rows(pipeline: Pipeline) -> float:
    """Return the share of validation rows that are rows, or files, of training too; 0 where that cannot be known."""
    (first, rows), (second, others) = _unfold(pipeline.train), _unfold(pipeline.val)
    if first is None or second is None or not len(others):
        return 0.0
    files = [_listed_files(dataset) for dataset in (first, second)]
    if files[0] and files[1]:
        trained = {files[0][i] for i in rows.tolist()}
        return float(np.mean([files[1][i] in trained for i in others.tolist()]))
    same = first is second or _same_storage(first, second)
    return torch.isin(others, rows).float().mean().item() if same else 0.0


def _listed_files(dataset: Any) -> list[str]:
    """Return the file of each item, as an ImageFolder lists them, (path, class); empty where a Dataset does not."""
    listed = getattr(dataset, "samples", getattr(dataset, "imgs", None))
    first = listed[0] if isinstance(listed, list) and listed else None
    is_pair = isinstance(first, tuple | list) and bool(first) and isinstance(first[0], str | os.PathLike)
    return [str(item[0]) for item in listed] if is_pair else []  # type: ignore[union-attr]


def _same_storage(a: Any, b: Any) -> bool:
    """Return whether two Datasets hold the very same array, or arrays with equal rows at the beginning and the end."""
    x, y = _stored(a), _stored(b)
    if not x or not y or len(x[0]) != len(y[0]):
        return False
    return all(np.array_equal(_array(x[0][i]), _array(y[0][i])) for i in (0, len(x[0]) // 2, len(x[0]) - 1))


def _pixels(pipeline: Pipeline, batches: Iterable[Any]) -> np.ndarray:
    """Return images in rows: as they are stored where they are in memory, else a part of them as they are served."""
    dataset, rows = _unfold(batches)
    stored = [value for value in (_stored(dataset) if dataset is not None else []) if np.ndim(value[0]) >= 2]
    if stored and not isinstance(stored[0], list):
        array = _array(stored[0])[rows.numpy()[:_STORED]]
        return np.ascontiguousarray(array.reshape(len(array), -1))
    is_val = batches is pipeline.val
    images = _gather(_validation(pipeline), 1000)[0] if is_val else _many(pipeline, 4 * _COMPARED)[0]
    return np.ascontiguousarray(images.cpu().numpy().reshape(len(images), -1))


def _near(train: np.ndarray, val: np.ndarray) -> float:
    """Return the share of some validation images that one of some training images nearly equals."""
    if train.shape[1:] != val.shape[1:]:
        return 0.0
    a, b = (torch.from_numpy(rows[:count].astype(np.float32)) for rows, count in ((train, 4000), (val, 250)))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-6) for x in (a, b))
    return ((b @ a.T).amax(1) > 0.995).float().mean().item()


# --- the loss ---


@_check("loss function", "loss")
def check_loss_function(pipeline: Pipeline) -> _Found:
    """The loss falls when the right logit rises, has a lowest value, and stays the same if classes are renamed."""
    num_classes, device = _logits_of(pipeline, training_batch(pipeline, 2)[0]).shape[1], _device_of(pipeline.model)
    labels = torch.arange(max(64, 4 * num_classes), device=device) % num_classes
    logits = (2 * torch.randn(len(labels), num_classes, device=device)).requires_grad_()
    bound = "changes < 0.01 % if classes are renamed"
    pipeline = replace(pipeline, loss=_for_numbers(pipeline))
    (slopes,) = torch.autograd.grad(pipeline.loss(logits, labels), logits)
    right = (slopes.gather(1, labels[:, None]) < 0).float().mean().item()
    renamed = _change_if_renamed(pipeline, logits.detach(), labels)
    ignored = [k for k in range(min(num_classes, 100)) if _is_ignored(pipeline, k, num_classes, device)]
    if ignored:
        why = f"the label {', '.join(map(str, ignored[:3]))} is ignored: examples of it have no loss"
        return _Found(False, renamed, bound, why, "leave ignore_index at its default")
    if right < 0.5:
        why = f"the loss does not fall when the logit of the right class rises ({right:.0%} of examples)"
        return _Found(False, right, "falls for every example", why, "pass logits and class numbers to CrossEntropyLoss")
    why, remedy = _name_floor(pipeline, labels[:16] % num_classes, num_classes)
    if why:
        return _Found(False, renamed, bound, why, remedy)
    if renamed < 1e-4:
        return _Found(True, renamed, bound)
    return _judge_weights(pipeline, renamed, num_classes, bound)


def _for_numbers(pipeline: Pipeline) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss as one of class numbers, also where training has probabilities for labels."""
    if training_batch(pipeline, 2)[1].ndim == 1:
        return pipeline.loss
    return lambda logits, labels: pipeline.loss(logits, nn.functional.one_hot(labels, logits.shape[1]).float())


def _change_if_renamed(pipeline: Pipeline, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return by which share the loss changes, at most, when logits and labels are permuted alike."""
    loss, worst = pipeline.loss(logits, labels).item(), 0.0
    for _ in range(3):
        order = torch.randperm(logits.shape[1]).to(labels.device)
        other = pipeline.loss(logits[:, order], order.argsort()[labels]).item()
        worst = max(worst, abs(other - loss) / max(abs(loss), 1e-12))
    return worst


def _is_ignored(pipeline: Pipeline, label: int, num_classes: int, device: torch.device) -> bool:
    """Return whether examples of a class have no loss, or none but NaN."""
    labels = torch.full((4,), label, device=device)
    logits = torch.zeros(4, num_classes, device=device, requires_grad=True)
    loss = pipeline.loss(logits, labels)
    return not math.isfinite(loss.item()) or not loss.requires_grad or (
        not torch.autograd.grad(loss, logits)[0].abs().sum() > 0
    )  # fmt: skip


def _name_floor(pipeline: Pipeline, labels: torch.Tensor, num_classes: int) -> tuple[str, str]:
    """Return what the lowest value of the loss says about it; nothing if it may be right."""
    floor = _lowest_loss(pipeline, labels, num_classes)
    if floor < -1:
        return "the loss falls without end as logits grow: log-probabilities are asked for, and logits are given", (
            "CrossEntropyLoss in place of NLLLoss, or log_softmax before it"
        )
    if num_classes > 2 and abs(floor - (math.log(math.e + num_classes - 1) - 1)) < 2e-3:
        return "the loss cannot fall below ln(e + C - 1) - 1: a softmax inside the loss, before the cross-entropy", (
            "pass logits to CrossEntropyLoss, which applies the softmax"
        )
    return "", ""


def _judge_weights(pipeline: Pipeline, renamed: float, num_classes: int, bound: str) -> _Found:
    """Return the verdict on a loss that treats classes unequally: do the weights fit how frequent the classes are?"""
    weights, labels = _class_weights(pipeline, num_classes), _all_labels(pipeline.train)
    labels = _hard(_many(pipeline)[1]).cpu() if labels is None else labels
    counts = torch.bincount(labels, minlength=num_classes)[:num_classes].double()
    if weights is None:
        why = "the loss depends on the numbers of the classes: labels are taken for quantities"
        return _Found(False, renamed, bound, why, "pass logits and class numbers to CrossEntropyLoss")
    uneven = counts.min() > 0 and counts.max() > 1.2 * counts.min()
    fits = uneven and np.corrcoef(weights.log(), -counts.log())[0, 1] > 0.7
    why = (
        f"the loss weighs classes from {weights.min():.2g} to {weights.max():.2g} (1 for the first), and training has "
        f"{int(counts.min())} to {int(counts.max())} examples of each"
    )
    remedy = "weights of another set? Leave weight= away where classes are equally frequent"
    return _Found(bool(fits), renamed, "weights fit the classes" if fits else bound, why, remedy, doubtful=True)


def _class_weights(pipeline: Pipeline, num_classes: int) -> torch.Tensor | None:
    """Return the weight of each class, that of the first 1, as a weighted mean has them; None if it is no such loss."""
    device = _device_of(pipeline.model)
    easy, hard = torch.zeros(2, num_classes, device=device).unbind()
    found = [1.0]
    for k in range(1, num_classes):
        easy = torch.zeros(num_classes, device=device)
        hard = torch.zeros(num_classes, device=device)
        easy[0], hard[k] = 2.0, -2.0
        a, b = (pipeline.loss(x[None], torch.tensor([y], device=device)).item() for x, y in ((easy, 0), (hard, k)))
        mean = pipeline.loss(torch.stack([easy, hard]), torch.tensor([0, k], device=device)).item()
        if not min(a, b) < mean < max(a, b):
            return None
        found.append((mean - a) / (b - mean))
    return torch.tensor(found, dtype=torch.float64)


# --- the model ---


@_check("graph leaves")
def check_parameters(pipeline: Pipeline) -> _Found:
    """Everything that the logits depend on and that can be trained is a parameter of the model."""
    model = pipeline.model.train()
    known = {id(p) for p in model.parameters()}
    logits = _forward(pipeline, model, training_batch(pipeline, 8)[0])
    strange = [tuple(leaf.shape) for leaf in _leaves(logits) if id(leaf) not in known]
    why = f"{len(strange)} tensors of the graph are no parameters of the model, of shape {_few(map(str, strange))}"
    remedy = "keep layers in nn.ModuleList, not in a Python list, and tensors in nn.Parameter: no optimizer sees these"
    return _Found(not strange, len(strange), "= 0 that are no parameters", why, remedy)


def _leaves(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors at which gradients of `tensor` end."""
    leaves, seen, open_nodes = [], set(), [tensor.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        open_nodes += [following for following, _ in node.next_functions]
    return leaves


@_check("called twice")
def check_reuse(pipeline: Pipeline) -> _Found:
    """No layer with weights is used twice in a pass, BatchNorm above all, whose statistics then mix two layers."""
    calls: Counter[str] = Counter()
    for name, module in pipeline.model.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, n=name: calls.update([n]))
    _training_logits(pipeline, training_batch(pipeline, 8)[0])
    twice = [name for name, count in calls.items() if count > 1]
    norms = [name for name in twice if isinstance(pipeline.model.get_submodule(name), _BatchNorm)]
    what = f"BatchNorm is shared by several layers: {_few(norms)}" if norms else f"used more than once: {_few(twice)}"
    remedy = "give each place a layer of its own; fine if the weights are meant to be shared"
    return _Found(not twice, len(twice), "= 0 layers", f"in one pass, {what}", remedy, doubtful=True)


@_check("pixels with influence")
def check_influence(pipeline: Pipeline) -> _Found:
    """Nearly every pixel of an image has an influence on the logits of some image."""
    model, images = pipeline.model, training_batch(pipeline, 16)[0].detach().clone().requires_grad_()
    num_classes = _logits_of(pipeline, images.detach()[:2]).shape[1]
    with suppress(_NotApplicable):
        _redraw_head(model, num_classes, 0.1)
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # its statistics would carry an influence to every pixel
    logits = _forward(pipeline, model, images)
    (gradient,) = torch.autograd.grad((logits @ torch.linspace(1, 2, num_classes, device=logits.device)).sum(), images)
    reached = (gradient != 0).any(0).any(0)
    share, bound = reached.float().mean().item(), "> 70 % of pixels"
    if share > 0.7:
        return _Found(True, share, bound)
    rows, columns = (torch.nonzero(reached.any(axis)).flatten().tolist() for axis in (1, 0))
    where = f"rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}" if rows else "none"
    why = f"{share:.0%} of the pixels have an influence on the logits: {where}"
    remedy = "is a corner cut out, a single place of the feature map read, or the stride larger than the kernel?"
    return _Found(False, share, bound, why, remedy, doubtful=share > 0.4)


# --- training and evaluation ---


@dataclass
class _Run:
    """A short training by the reader's own loop and optimizer, and what was seen at each step."""

    model: nn.Module
    rates: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    weight_decay: float = 0.0
    decay: list[float] = field(default_factory=list)
    images: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    labels: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


def _short_run(pipeline: Pipeline) -> _Run:
    """Return a training of a few steps; the same one to every check of a call of `run_checks`."""
    if pipeline.kept is not None and "run" in pipeline.kept:
        return pipeline.kept["run"]
    small = replace(pipeline, batch_size=min(32, pipeline.batch_size))
    run = _Run(_remove_dropout(copy.deepcopy(pipeline.model)))
    optimizer = pipeline.make_optimizer(run.model)
    batches = list(serve(small, _RUN_STEPS if pipeline.batch_size >= 32 else _RUN_STEPS // 2))
    run.images, run.labels = _gather(batches, 4 * small.batch_size)
    _watch_steps(run, optimizer)
    run.weight_decay = max(group.get("weight_decay", 0.0) for group in optimizer.param_groups)
    _take_steps(pipeline, run.model, optimizer, batches)
    if pipeline.kept is not None:
        pipeline.kept["run"] = run
    return run


def _watch_steps(run: _Run, optimizer: torch.optim.Optimizer) -> None:
    """Note at every step the rate, the gradient as it arrives and as it is used, and how far the weights go."""
    trainable = [p for p in run.model.parameters() if p.requires_grad]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    weights = [p for p in trainable if p.ndim >= 2 and id(p) in held and p.norm() > 0][:8]
    squares, before = [0.0], [torch.zeros(0)]

    def arrive(parameter: torch.Tensor) -> None:
        squares[0] += 0.0 if parameter.grad is None else parameter.grad.norm().item() ** 2

    def begin(*_: Any) -> None:
        before[:] = [p.detach().clone() for p in weights]
        gradients = [p.grad.norm().item() for p in trainable if p.grad is not None]
        run.rates.append(float(optimizer.param_groups[0]["lr"]))
        run.arrived.append(math.sqrt(squares[0]))
        run.used.append(math.hypot(*gradients))
        run.decay.append(_pull_of_decay(optimizer, run.used[-1]))
        squares[0] = 0.0

    def end(*_: Any) -> None:
        steps = [
            ((p - old).norm() / old.norm().clamp_min(1e-12)).item() for p, old in zip(weights, before, strict=True)
        ]
        run.ratios.append(float(np.median(steps)) if steps else math.nan)

    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(arrive)
    optimizer.register_step_pre_hook(begin)
    optimizer.register_step_post_hook(end)


def _pull_of_decay(optimizer: torch.optim.Optimizer, gradient: float) -> float:
    """Return how many times as strong as the gradient the weight decay pulls; 0 where it is kept apart from it."""
    if "AdamW" in type(optimizer).__name__ or any(
        group.get("decoupled_weight_decay") for group in optimizer.param_groups
    ):
        return 0.0
    pulls = [
        group.get("weight_decay", 0.0) * p.detach().norm().item()
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    return math.hypot(*pulls) / max(gradient, 1e-12)


@_check("rates and updates", "train_epoch", "make_optimizer")
def check_updates(pipeline: Pipeline) -> _Found:
    """In some steps the rate keeps its order of magnitude, and a step moves weights by 1e-6 to 0.5 of their size."""
    run, bound = _short_run(pipeline), "update / weight in 1e-6 to 0.5"
    if not run.ratios:
        raise _NotApplicable("your loop takes no step of the optimizer that it is given")
    if math.isnan(run.ratios[0]):
        raise _NotApplicable("the optimizer holds no weights of this model")
    ratio, largest, rate = float(np.median(run.ratios)), max(run.ratios), run.rates[0]
    clipped = float(np.median(run.used)) / max(float(np.median(run.arrived)), 1e-12)
    pull = float(np.median(run.decay[:5]))  # before it has made an end of the weights
    if pull > 1 and clipped > 0.01:
        why = f"weight decay {run.weight_decay:g} pulls {pull:.3g} times as hard as the loss"
        return _Found(False, pull, "less than the loss", why, "1e-4 to 1e-3 is usual with SGD and Adam")
    if not all(bool(p.isfinite().all()) for p in run.model.parameters()) or not largest < 0.5:
        why = f"a step changes weights by {largest:.2g} of their size, with learning rate {rate:g}: it is too large"
        return _Found(False, largest, bound, why, "try a tenth, and again a tenth", doubtful=largest < 1)
    if clipped < 0.01 and ratio < 1e-4:
        norms = f"they arrive with norm {np.median(run.arrived):.2g}, {np.median(run.used):.2g} is left"
        why = f"gradients are clipped: {norms}"
        return _Found(False, ratio, bound, why, "clip at a norm of about 1, and after backward()")
    if ratio < 1e-6:
        why = f"a step changes weights by {ratio:.1g} of their size: the learning rate, {rate:g}, is too small"
        return _Found(False, ratio, bound, why, "ten times as much, until the first losses fall")
    if run.rates[-1] < 0.1 * max(run.rates):
        why = f"the learning rate falls from {max(run.rates):.2g} to {run.rates[-1]:.2g} within {len(run.rates)} steps"
        return _Found(False, ratio, bound, why, "is scheduler.step() called per batch, and counted in epochs?", True)
    return _Found(True, ratio, bound)


@_check("both modes")
def check_modes(pipeline: Pipeline) -> _Found:
    """After some steps the same images have about the same loss in training and in evaluation mode."""
    norms = {
        name: m for name, m in pipeline.model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats
    }
    bound = "losses alike"
    if not norms:
        return _Found(True, math.nan, "no BatchNorm")
    momenta = sorted({m.momentum for m in norms.values() if m.momentum is not None})
    if 0 in momenta or (momenta and momenta[-1] > 0.7):
        what = "it never counts" if 0 in momenta else "the newest batch is nearly all that counts"
        odd = 0 if 0 in momenta else momenta[-1]
        why = f"BatchNorm has momentum {odd:g}: {what} in the statistics of evaluation"
        return _Found(
            False, odd, "momentum about 0.1", why, "in torch it is the weight of the newest batch: 0.1 or 0.01"
        )
    run = _short_run(pipeline)
    train, val = (f(pipeline, run.images, copy.deepcopy(run.model)) for f in (_training_logits, _logits_of))
    losses = [metrics.cross_entropy(x, _hard(run.labels)).item() for x in (train, val)]
    why = f"the same images have a loss of {losses[0]:.3g} in training and {losses[1]:.3g} in evaluation mode"
    remedy = f"BatchNorm has momentum {momenta}: its statistics need more steps, or follow too slowly"
    lag = 4 * math.log(val.shape[1]) if momenta and momenta[0] >= 0.05 else 0.0  # usual after so few steps
    return _Found(losses[1] < max(1 + 2 * losses[0], lag), losses[1] - losses[0], bound, why, remedy, doubtful=True)


@_check("accuracy recomputed", "evaluate")
def check_reported_accuracy(pipeline: Pipeline) -> _Found:
    """The reported accuracy is the one that the logits have."""
    if _is_ours(pipeline, "evaluate"):
        raise _NotApplicable("pass evaluate=, your own")
    count = 3 * pipeline.batch_size + 18  # 210 by default, in batches of 50: the last is smaller
    images, labels = _validation_batch(pipeline, count)
    order = (_logits_of(pipeline, images).argmax(1) == labels).int().argsort()  # so that batches differ
    images, labels = images[order], labels[order]
    size = count * 5 // 21
    batches = list(zip(images.split(size), labels.split(size), strict=True))
    reported = _score(pipeline, pipeline.model, batches).accuracy
    if reported is None:
        raise _NotApplicable("your evaluation reports a loss and no accuracy")
    logits = _logits_of(pipeline, images)
    found, bound = metrics.sums(logits, labels).accuracy, "= recomputed, to half an image"
    if abs(reported - found) < 0.5 / len(labels):
        return _Found(True, reported - found, bound)
    why = f"reported {reported:.3f}, recomputed from the logits {found:.3f}"
    for cause, value in _other_accuracies(pipeline, logits, labels, batches).items():
        if abs(value - reported) < 1e-4:
            return _Found(
                False, reported - found, bound, f"{why}: it is {cause}", "count hits, and divide by their number"
            )
    other = copy.deepcopy(pipeline.model)
    _redraw_head(other, logits.shape[1], 0.0)
    ignores = abs(_score(pipeline, other, batches).accuracy - reported) < 1e-9
    why = f"{why}: another network than the one it is given is evaluated" if ignores else why
    return _Found(False, reported - found, bound, why, "compare logits.argmax(1) with the labels", doubtful=ignores)


def _other_accuracies(
    pipeline: Pipeline, logits: torch.Tensor, labels: torch.Tensor, batches: list[Batch]
) -> dict[str, float]:
    """Return numbers that are taken for the accuracy, by what they are."""
    hits, count = (logits.argmax(1) == labels).sum().item(), len(labels)
    by_batch = [part.float().mean().item() for part in (logits.argmax(1) == labels).split(len(batches[0][1]))]
    dataset = getattr(pipeline.val, "dataset", None)
    whole = len(dataset) if isinstance(dataset, Sized) else count
    values = {f"the top-{k} accuracy": metrics.top_k_accuracy(logits, labels, k) for k in range(2, 11)}
    return {
        "the mean of the accuracies of batches, in which a smaller last one counts too much": float(np.mean(by_batch)),
        "the accuracy of the first batch": by_batch[0],
        "the accuracy of the last batch": by_batch[-1],
        "how often the lowest logit is the label's": (logits.argmin(1) == labels).float().mean().item(),
        "the share of errors": 1 - hits / count,
        "hits over the number of batches": hits / len(batches),
        "hits over batches of full size": hits / (len(batches) * len(batches[0][1])),
        "hits over the whole Dataset, of which a part is served": hits / whole,
    } | values


FURTHER_CHECKS: tuple[Callable[[Pipeline], Check], ...] = (
    check_val_like_train,
    check_neighbours,
    check_classes,
    check_repeated_item,
    check_served,
    check_leak,
    check_loss_function,
    check_parameters,
    check_reuse,
    check_influence,
    check_reported_accuracy,
    check_updates,
    check_modes,
)
