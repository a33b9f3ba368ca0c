"""42 bugs of ordinary code, each a few lines that somebody could have written, and what is to catch it.

Their kinds are those of public reports and of an outsider's trial of the checks; they are none of the planted bugs of
`checks.mutants`. Three are here although no cheap check can see them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from ordinary import (
    CLASSES,
    MEAN,
    STD,
    Case,
    Net,
    Pictures,
    binary,
    by_names,
    case,
    levels,
    loaders,
    mirrored,
    normalise,
    plain,
    sets,
)
from torch import nn
from torch.utils.data import DataLoader, Subset


class InPlace(Pictures):
    """Brightness that is changed in the stored picture."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        image *= 0.9 + 0.2 * torch.rand(())
        return normalise(image), int(self.targets[index])


class Viewed(Pictures):
    """Channels last on disk, and `view` to have them first."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return normalise(self.images[index].permute(1, 2, 0).contiguous().view(3, 32, 32)), int(self.targets[index])


def in_bgr(image: torch.Tensor) -> torch.Tensor:
    return normalise(image.flip(0))


def sorted_by_class() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = levels(1000, "train")
    order = labels.argsort()
    return images[order], labels[order]


def halves_of_sorted() -> tuple[DataLoader, DataLoader]:
    whole = Pictures(*sorted_by_class())
    return loaders(Subset(whole, range(700)), Subset(whole, range(700, 1000)))


def overlapping() -> tuple[DataLoader, DataLoader]:
    whole = sets()[0]
    return loaders(
        Subset(whole, torch.randperm(1000)[:800].tolist()), Subset(whole, torch.randperm(1000)[:200].tolist())
    )


def oversampled() -> tuple[DataLoader, DataLoader]:
    """Copy every picture, to have more of them, and split then."""
    images, labels = levels(500, "train")
    images, labels, order = torch.cat([images] * 2), torch.cat([labels] * 2), torch.randperm(1000)
    parts = order[:700], order[700:]
    return loaders(*(Pictures(images[part], labels[part]) for part in parts))


def changed_labels(
    change: Callable[[torch.Tensor], torch.Tensor], in_val: bool = False
) -> tuple[DataLoader, DataLoader]:
    train_set, val_set = sets()
    train_set.targets = train_set.targets if in_val else change(train_set.targets)
    val_set.targets = change(val_set.targets) if in_val else val_set.targets
    return loaders(train_set, val_set)


def noisy(labels: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.rand(len(labels)) < 0.2, torch.randint(0, CLASSES, labels.shape), labels)


def two_exchanged(labels: torch.Tensor) -> torch.Tensor:
    return torch.where(labels == 3, 5, torch.where(labels == 5, 3, labels))


class ListOfLayers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(512, 512), nn.Linear(512, 512)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        for block in self.blocks:
            x = F.relu(block(x))
        return self.fc(x)


class SharedNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn1(self.conv3(x)))
        return F.adaptive_avg_pool2d(F.relu(self.bn2(self.conv2(x))), 4).flatten(1)


class OneCorner(Net):
    """The first place of the feature map, where the mean was meant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, CLASSES)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return x[:, :, 0, 0]


class AttentionOverBatch(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return self.fc(x * torch.softmax(x, dim=0))


class AlwaysDropout(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.dropout(self.features(x), 0.5))


def norm_with(momentum: float) -> Net:
    return Net(norm=lambda width: nn.BatchNorm2d(width, momentum=momentum))


def softmax_inside(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.softmax(1), labels)


def grads_thrown_away(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()


def step_after_loop(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
    optimizer.step()


def never_trains(model, loader, optimizer, criterion):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()


def stays_in_eval(model, loader):
    model.eval()
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y) for x, y in loader]
    return torch.cat(hits).float().mean().item()


def clipped(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
        optimizer.step()


def accumulate_undivided(model, loader, optimizer, criterion):
    """Let the gradients of four batches add up, with the rate of one."""
    model.train()
    for i, (x, y) in enumerate(loader):
        criterion(model(x), y).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def mixup_exchanged(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        lam, other = torch.rand(()).item() * 0.2, torch.randperm(len(x))
        out = model((1 - lam) * x + lam * x[other])
        loss = lam * criterion(out, y) + (1 - lam) * criterion(out, y[other])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def top5(model, loader):
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).topk(5, dim=1).indices == y[:, None]).any(1).sum().item()
            total += len(y)
    model.train()
    return correct / total


def over_nominal_size(model, loader):
    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    model.train()
    return correct / (len(loader) * loader.batch_size)


def old_head() -> Case:
    """Replace the head after the optimizer was made."""
    model = Net(1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.fc = nn.Linear(512, CLASSES)
    return case(model, optimizer=optimizer)


def sgd(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9} | options)


def _weights() -> torch.Tensor:
    return torch.linspace(0.2, 3, CLASSES)


@dataclass(frozen=True)
class Bug:
    """One bug: how to make it, and what catches it: the name of a check and words of its message; None for nothing."""

    make: Callable[[], Case]
    check: str | None
    words: str = ""


def _same_set() -> Case:
    train_set = sets(mirrored)[0]
    return case(data=(DataLoader(train_set, 64, shuffle=True), DataLoader(Pictures(*levels(1000, "train")), 100)))


BUGS: dict[str, Bug] = {
    # the data
    "BGR in validation alone": Bug(
        lambda: case(data=loaders(*sets(normalise, in_bgr))), "val like train", "channels of validation come in another"
    ),
    "view in place of permute": Bug(
        lambda: case(data=loaders(*(Viewed(*levels(n, p)) for n, p in ((1000, "train"), (500, "val"))))),
        "neighbouring pixels",
        "stands in place of permute",
    ),
    "validation is not normalised": Bug(
        lambda: case(data=loaders(*sets(normalise, lambda x: x))), "val like train", "validation are not normalised"
    ),
    "mean and std exchanged": Bug(
        lambda: case(data=loaders(*sets(lambda x: normalise(x, STD, MEAN)))), "batch contract", "are exchanged"
    ),
    "normalised twice": Bug(
        lambda: case(data=loaders(*sets(lambda x: normalise(normalise(x))))), "batch contract", "normalised twice"
    ),
    "divided by 255 twice": Bug(
        lambda: case(data=loaders(*sets(lambda x: normalise(x / 255)))), "batch contract", "divided by 255 twice"
    ),
    "augmentation into the stored images": Bug(
        lambda: case(data=loaders(InPlace(levels(1000, "train")[0].clone(), levels(1000, "train")[1]))),
        "same item twice",
        "changes what is stored",
    ),
    "drop_last in validation": Bug(
        lambda: case(data=(loaders()[0], DataLoader(sets()[1], 64, drop_last=True))), "examples served", "drop_last"
    ),
    "two random subsets that overlap": Bug(lambda: case(data=overlapping()), "leak", "very rows"),
    "evaluated on the training set": Bug(_same_set, "leak", "very rows"),
    "copied, then split": Bug(lambda: case(data=oversampled()), "leak", "pixel by pixel"),
    "sorted by class, then split": Bug(lambda: case(data=halves_of_sorted()), "classes seen", "sorted by class"),
    "sorted by class, not shuffled": Bug(
        lambda: case(data=(DataLoader(Pictures(*sorted_by_class()), 64), loaders()[1])), "batch contract", "shuffled?"
    ),
    "labels shuffled apart from images": Bug(
        lambda: case(data=changed_labels(lambda y: y[torch.randperm(len(y))])), "beats blind", "images and labels"
    ),
    "validation numbers classes otherwise": Bug(
        lambda: case(data=changed_labels(lambda y: (y + 3) % CLASSES, in_val=True)), "beats blind", "carry over to val"
    ),
    "a fifth of the labels is wrong": Bug(lambda: case(data=changed_labels(noisy)), None),
    "two classes exchanged in training": Bug(lambda: case(data=changed_labels(two_exchanged)), None),
    # the model
    "layers in a list": Bug(lambda: case(ListOfLayers()), "graph leaves", "no parameters of the model"),
    "one BatchNorm for two layers": Bug(lambda: case(SharedNorm()), "called twice", "BatchNorm is shared"),
    "reads one corner": Bug(lambda: case(OneCorner()), "pixels with influence", "rows 0 to"),
    "a thousand outputs": Bug(lambda: case(Net(1000)), "classes seen", "1000 outputs"),
    "softmax over the batch": Bug(lambda: case(AttentionOverBatch()), "dependency", "other images of its batch"),
    "BatchNorm with momentum 0": Bug(lambda: case(norm_with(0.0)), "both modes", "momentum 0"),
    "BatchNorm with momentum .99": Bug(lambda: case(norm_with(0.99)), "both modes", "momentum 0.99"),
    "dropout in evaluation too": Bug(lambda: case(AlwaysDropout()), "evaluation agrees", "is random"),
    # the loss
    "ignore_index=0": Bug(lambda: case(loss=nn.CrossEntropyLoss(ignore_index=0)), "loss function", "0 is ignored"),
    "class weights of another set": Bug(
        lambda: case(loss=nn.CrossEntropyLoss(weight=_weights())), "loss function", "weighs classes"
    ),
    "NLLLoss of logits": Bug(lambda: case(loss=nn.NLLLoss()), "loss function", "log-probabilities"),
    "softmax inside the loss": Bug(lambda: case(loss=softmax_inside), "loss function", "a softmax inside the loss"),
    # the loop
    "zero_grad after backward": Bug(lambda: case(train_epoch=grads_thrown_away), "fresh gradients", "between backward"),
    "step after the loop": Bug(lambda: case(train_epoch=step_after_loop), "fresh gradients", "outside of the loop"),
    "nobody calls train() again": Bug(
        lambda: case(train_epoch=never_trains, evaluate=stays_in_eval), "evaluation, no trace", "not call model.train()"
    ),
    "scheduler.step() per batch": Bug(lambda: by_names("scheduler.step()"), "rates and updates", "scheduler.step()"),
    "gradients clipped at 1e-6": Bug(
        lambda: case(train_epoch=clipped, make_optimizer=sgd()), "rates and updates", "gradients are clipped"
    ),
    "weight decay 1.0": Bug(lambda: case(make_optimizer=sgd(weight_decay=1.0)), "rates and updates", "weight decay 1"),
    "rate 10": Bug(lambda: case(make_optimizer=sgd(lr=10.0)), "rates and updates", "learning rate 10"),
    "rate 1e-7": Bug(lambda: case(make_optimizer=sgd(lr=1e-7)), "rates and updates", "1e-07, is too small"),
    "optimizer older than the head": Bug(old_head, "tensors that move", "not in the optimizer: fc.weight, fc.bias"),
    "four gradients are added, not averaged": Bug(
        lambda: case(train_epoch=accumulate_undivided), "fresh gradients", "4 batches are added"
    ),
    "mixup with its shares exchanged": Bug(lambda: case(train_epoch=mixup_exchanged), None),
    # the evaluation
    "top-5 as accuracy": Bug(lambda: case(evaluate=top5), "accuracy recomputed", "the top-5 accuracy"),
    "over batches of full size": Bug(
        lambda: case(evaluate=over_nominal_size), "accuracy recomputed", "batches of full size"
    ),
}  # fmt: skip


# --- 20 more, written when the checks were done: 13 were named before anything was mended ---


def seeded(model, loader, optimizer, criterion):
    torch.manual_seed(42)
    plain(model, loader, optimizer, criterion)


class KeepProb(Net):
    """The share that is kept, as another library counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.features(x)))


class SigmoidFirst(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(super().forward(x))


class Clamped(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(0, 1)


class Hot(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 100


class WithoutGradient(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.features(x)
        return self.fc(x)


def rebuilt_loss(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = torch.tensor(criterion(model(x), y).item(), requires_grad=True)
        loss.backward()
        optimizer.step()


def initialised(draw: Callable[[torch.Tensor], Any], norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> Net:
    model = Net(norm=norm)
    for layer in (model.conv1, model.conv2, model.fc):
        draw(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def transposed(image: torch.Tensor) -> torch.Tensor:
    return normalise(image.transpose(1, 2))


def first_batch_alone(model, loader):
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
            total += len(y)
            break
    model.train()
    return correct / total


def lowest(model, loader):
    model.eval()
    with torch.no_grad():
        hits = torch.cat([model(x).argmin(1) == y for x, y in loader])
    model.train()
    return hits.float().mean().item()


def counting_on() -> Callable[..., float]:
    count = {"correct": 0, "total": 0}

    def evaluate(model, loader):
        model.eval()
        with torch.no_grad():
            for x, y in loader:
                count["correct"] += (model(x).argmax(1) == y).sum().item()
                count["total"] += len(y)
        model.train()
        return count["correct"] / count["total"]

    return evaluate


def divided_twice(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        (criterion(model(x), y) / len(loader.dataset) / len(loader)).backward()
        optimizer.step()


def trains_in_eval(model, loader, optimizer, criterion):
    model.eval()
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def images_shuffled(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        x = x[torch.randperm(len(x))]
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def last_batch_alone(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _in_order() -> tuple[DataLoader, DataLoader]:
    return DataLoader(sets()[0], 64), loaders()[1]


LATER: dict[str, tuple[Callable[[], Case], str]] = {
    "manual_seed in every epoch": (lambda: case(train_epoch=seeded), "sets a seed itself"),
    "the share that is kept": (lambda: case(KeepProb()), "dropout"),
    "sigmoid before BCE with logits": (lambda: case(SigmoidFirst(), loss=binary), "sigmoid"),
    "learning rate 0": (lambda: case(make_optimizer=sgd(lr=0.0)), "learning rate, 0, is too small"),
    "a loss made of item()": (lambda: case(train_epoch=rebuilt_loss), "no gradient arrives"),
    "weights of 0": (lambda: case(initialised(nn.init.zeros_)), "exactly 0"),
    "weights of spread 1": (
        lambda: case(initialised(nn.init.normal_, lambda _: nn.Identity())), "weights, are too large"
    ),
    "rows and columns exchanged in validation": (lambda: case(data=loaders(*sets(normalise, transposed))), "rows"),
    "every label is 0": (lambda: case(data=changed_labels(lambda y: y * 0)), "labels are 0"),
    "break after a batch of validation": (lambda: case(evaluate=first_batch_alone), "accuracy of the first batch"),
    "counters that are never reset": (lambda: case(evaluate=counting_on()), "scored twice"),
    "loss over the length of the set": (
        lambda: case(train_epoch=divided_twice, make_optimizer=sgd(lr=0.01)), "is too small"
    ),
    "argmin": (lambda: case(evaluate=lowest), "lowest logit"),
    "eval() in training": (lambda: case(train_epoch=trains_in_eval), "not call model.train()"),
    "images shuffled in the loop": (lambda: case(train_epoch=images_shuffled), "with your loop"),
    "outputs clamped": (lambda: case(Clamped()), "no logit is negative"),
    "a temperature of 100": (lambda: case(Hot()), "temperature"),
    "a backbone under no_grad": (lambda: case(WithoutGradient()), "no gradient reaches"),
    "the last batch alone": (lambda: case(train_epoch=last_batch_alone), "outside of the loop"),
    "shuffle=False": (lambda: case(data=_in_order()), "same order"),
}  # fmt: skip
