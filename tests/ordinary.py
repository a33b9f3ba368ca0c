"""Other people's code, as it is found: data sets, networks and loops that are right, and 42 that are not.

The loops have the shapes of the examples of PyTorch, of torchvision's references and of pytorch-cifar. None of this was
written for a check: each bug is a few lines that somebody could have written, see `BUGS`.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from small import synthetic_split
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

TINT = torch.tensor([1.0, 0.9, 0.8]).view(1, 3, 1, 1)
CLASSES = 10


@functools.cache
def levels(count: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures of warm colours, in [0, 1], and their labels."""
    split = synthetic_split(count, CLASSES, name)
    return split.images.float() / 255 * TINT, split.labels


MEAN = levels(1000, "train")[0].mean((0, 2, 3))
STD = levels(1000, "train")[0].std((0, 2, 3))


def normalise(image: torch.Tensor, mean: torch.Tensor = MEAN, std: torch.Tensor = STD) -> torch.Tensor:
    return (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)


class Pictures(Dataset):
    """Pictures in memory, transformed one at a time."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable = normalise) -> None:
        self.images, self.targets, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.targets[index])


def sets(transform: Callable = normalise, val_transform: Callable | None = None) -> tuple[Pictures, Pictures]:
    return Pictures(*levels(1000, "train"), transform), Pictures(*levels(500, "val"), val_transform or transform)


def loaders(train: Dataset | None = None, val: Dataset | None = None, **options: Any) -> tuple[DataLoader, DataLoader]:
    """Return ordinary loaders."""
    good = sets()
    return DataLoader(train or good[0], 64, shuffle=True), DataLoader(val or good[1], 100, **options)


def mirrored(image: torch.Tensor) -> torch.Tensor:
    return normalise(image.flip(-1) if torch.rand(()) < 0.5 else image)


class Net(nn.Module):
    """Two convolutions with BatchNorm and a linear head."""

    def __init__(self, outputs: int = CLASSES, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 5, stride=2, padding=2), norm(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, stride=2, padding=1), norm(32)
        self.fc = nn.Linear(32 * 4 * 4, outputs)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.adaptive_avg_pool2d(x, 4).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


# --- loops that are right ---


def train(model, device, train_loader, optimizer, epoch):
    """As in PyTorch's MNIST example."""
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
        if batch_idx % 10 == 0:
            print(f"{epoch} [{batch_idx * len(data)}/{len(train_loader.dataset)}] {loss.item():.6f}")


def test(model, device, test_loader):
    """As in PyTorch's MNIST example, with the numbers returned."""
    model.eval()
    test_loss, correct = 0, 0
    with torch.no_grad():
        for data, target in test_loader:
            output = model(data.to(device))
            test_loss += F.cross_entropy(output, target, reduction="sum").item()
            correct += output.argmax(dim=1, keepdim=True).eq(target.view_as(output.argmax(dim=1, keepdim=True))).sum().item()
    test_loss /= len(test_loader.dataset)
    return test_loss, 100.0 * correct / len(test_loader.dataset)


def train_loop(dataloader, model, loss_fn, optimizer):
    """As in PyTorch's quickstart."""
    size = len(dataloader.dataset)
    model.train()
    for batch, (X, y) in enumerate(dataloader):
        loss = loss_fn(model(X), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{batch * len(X):>5d}/{size:>5d}]")


def test_loop(dataloader, model, loss_fn):
    """As in PyTorch's quickstart: a mean of batch means for the loss, and a true accuracy."""
    model.eval()
    size, num_batches = len(dataloader.dataset), len(dataloader)
    test_loss, correct = 0, 0
    with torch.no_grad():
        for X, y in dataloader:
            pred = model(X)
            test_loss += loss_fn(pred, y).item()
            correct += (pred.argmax(1) == y).type(torch.float).sum().item()
    return {"loss": test_loss / num_batches, "accuracy": correct / size}


def train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, scaler=None):
    """As in torchvision's references; returns the mean loss."""
    model.train()
    total, count = 0.0, 0
    for image, target in data_loader:
        loss = criterion(model(image.to(device)), target.to(device))
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        total, count = total + loss.item() * len(target), count + len(target)
    return total / count


def evaluate(model, criterion, data_loader, device):
    """As in torchvision's references; returns the accuracy in percent."""
    model.eval()
    correct = count = 0
    with torch.inference_mode():
        for image, target in data_loader:
            output = model(image.to(device))
            criterion(output, target)
            correct, count = correct + (output.argmax(1) == target).sum().item(), count + len(target)
    model.train()
    return 100 * correct / count


def accumulate(model, loader, optimizer, criterion):
    """Let the gradients of four batches add up."""
    model.train()
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        (criterion(model(x), y) / 4).backward()
        if (i + 1) % 4 == 0 or i + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()


def by_closure(model, loader, optimizer, criterion):
    """Hand the computation to the optimizer, as LBFGS wants it."""
    model.train()
    for x, y in loader:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


def with_index(model, loader, optimizer, criterion):
    """Use the index that the Dataset gives with every item, to keep each loss."""
    model.train()
    kept = torch.zeros(100_000)
    for images, labels, index in loader:
        losses = F.cross_entropy(model(images), labels, reduction="none")
        kept[index] = losses.detach()
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()


def score_with_index(model, loader):
    model.eval()
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels) for images, labels, _ in loader]
    return torch.cat(hits).float().mean().item()


class Indexed(Dataset):
    def __init__(self, of: Dataset) -> None:
        self.of = of

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int):
        return *self.of[index], index


def with_mixup(model, loader, optimizer, criterion):
    """Mix the images of a batch, and the losses with them."""
    model.train()
    for x, y in loader:
        lam, other = torch.rand(()).item() * 0.2, torch.randperm(len(x))
        out = model((1 - lam) * x + lam * x[other])
        loss = (1 - lam) * criterion(out, y) + lam * criterion(out, y[other])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def names_of_a_notebook(broken: str = "") -> dict[str, Any]:
    """Return the names of a notebook, or a script, in which `train(epoch)` and `test(epoch)` find everything."""
    code = '''
train_losses, best_acc = [], 0.0

def train(epoch):
    net.train()
    train_loss, correct, total = 0, 0, 0
    for batch_idx, (inputs, targets) in enumerate(trainloader):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        PER_BATCH
        train_loss += loss.item()
        total += targets.size(0)
        correct += outputs.argmax(1).eq(targets).sum().item()
        print(batch_idx, len(trainloader), train_loss / (batch_idx + 1), 100. * correct / total)
    train_losses.append(train_loss)

def test(epoch):
    global best_acc
    net.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for inputs, targets in testloader:
            outputs = net(inputs)
            total += targets.size(0)
            correct += outputs.argmax(1).eq(targets).sum().item()
    acc = 100. * correct / total
    best_acc = max(acc, best_acc)
    return acc
'''.replace("PER_BATCH", broken or "pass")
    space: dict[str, Any] = {"torch": torch, "device": "cpu", "net": Net(), "criterion": nn.CrossEntropyLoss()}
    space["optimizer"] = torch.optim.SGD(space["net"].parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    space["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(space["optimizer"], T_max=20)
    space["trainloader"], space["testloader"] = loaders(sets(mirrored, normalise)[0])
    exec(code, space)
    return space


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=2e-3)


@dataclass
class Case:
    """What `run_checks` is called with."""

    model: nn.Module = field(default_factory=Net)
    data: tuple = field(default_factory=loaders)
    loss: Callable = field(default_factory=nn.CrossEntropyLoss)
    parts: dict[str, Any] = field(default_factory=lambda: {"make_optimizer": adam, "train_epoch": plain, "evaluate": score})


def plain(model, loader, optimizer, criterion):
    """The loop of most scripts."""
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()


def score(model, loader):
    """The evaluation of most scripts."""
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
            total += len(y)
    model.train()
    return correct / total


def case(model: nn.Module | None = None, data: Any = None, loss: Any = None, **parts: Any) -> Case:
    """Return a good case with some of its parts exchanged."""
    torch.manual_seed(0)
    found = Case(model or Net(), data or loaders(), loss or nn.CrossEntropyLoss())
    found.parts |= parts
    if "optimizer" in parts:
        del found.parts["make_optimizer"]
    return found


def by_names(broken: str = "") -> Case:
    torch.manual_seed(0)
    space = names_of_a_notebook(broken)
    parts = {"train_epoch": space["train"], "evaluate": space["test"]}
    return Case(space["net"], (space["trainloader"], space["testloader"]), space["criterion"], parts)


def smoothed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.2)


def binary(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float())


def squared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).float())


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


LOOPS: dict[str, Callable[[], Case]] = {
    "MNIST example": lambda: case(train_epoch=train, evaluate=test),
    "quickstart": lambda: case(train_epoch=train_loop, evaluate=test_loop),
    "torchvision references": lambda: case(train_epoch=train_one_epoch, evaluate=evaluate),
    "train(epoch) of a notebook": by_names,
    "gradient accumulation": lambda: case(train_epoch=accumulate),
    "optimizer.step(closure)": lambda: case(train_epoch=by_closure),
    "(x, y, index)": lambda: case(
        data=loaders(*map(Indexed, sets())), train_epoch=with_index, evaluate=score_with_index
    ),
    "mixup in the loop": lambda: case(train_epoch=with_mixup),
    "an optimizer of its own": lambda: _with_optimizer(Net()),
    "label smoothing": lambda: case(loss=smoothed),
    "binary cross-entropy": lambda: case(loss=binary),
    "squared error on one-hot": lambda: case(loss=squared),
    "focal loss": lambda: case(loss=focal),
    "augmented, shuffled validation": lambda: case(data=loaders(*sets(mirrored, normalise), shuffle=True)),
}


def _with_optimizer(model: nn.Module) -> Case:
    return case(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4))


# --- 42 bugs ---


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
    return loaders(Subset(whole, torch.randperm(1000)[:800].tolist()), Subset(whole, torch.randperm(1000)[:200].tolist()))


def oversampled() -> tuple[DataLoader, DataLoader]:
    """Copy every picture, to have more of them, and split then."""
    images, labels = levels(500, "train")
    images, labels, order = torch.cat([images] * 2), torch.cat([labels] * 2), torch.randperm(1000)
    parts = order[:700], order[700:]
    return loaders(*(Pictures(images[part], labels[part]) for part in parts))


def changed_labels(change: Callable[[torch.Tensor], torch.Tensor], in_val: bool = False) -> tuple[DataLoader, DataLoader]:
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
        lambda: case(data=(loaders()[0], DataLoader(sets()[1], 64, drop_last=True))), "examples served", "drop_last=True"
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
    "zero_grad after backward": Bug(lambda: case(train_epoch=grads_thrown_away), "fresh gradients", "between backward()"),
    "step after the loop": Bug(lambda: case(train_epoch=step_after_loop), "fresh gradients", "outside of the loop"),
    "nobody calls train() again": Bug(
        lambda: case(train_epoch=never_trains, evaluate=stays_in_eval), "evaluation, no trace", "does not call model.train()"
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


def run(found: Case, **options: Any):
    """Return what `run_checks` makes of a case."""
    from cifar_helpers.checks import run_checks

    return run_checks(found.model, found.data, found.loss, **found.parts, **options)


__all__ = ["BUGS", "LOOPS", "Case", "Net", "TensorDataset", "case", "copy", "run"]
