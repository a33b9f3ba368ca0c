"""Other people's code, as it is found: data sets, networks and loops, all of them right.

The loops have the shapes of the examples of PyTorch, of torchvision's references and of pytorch-cifar.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from small import synthetic_split
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import StochasticDepth

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
            correct += (
                output.argmax(dim=1, keepdim=True).eq(target.view_as(output.argmax(dim=1, keepdim=True))).sum().item()
            )
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
    code = """
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
""".replace("PER_BATCH", broken or "pass")
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
    parts: dict[str, Any] = field(
        default_factory=lambda: {"make_optimizer": adam, "train_epoch": plain, "evaluate": score}
    )


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
    return case(
        model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    )


# --- architectures that are right ---


class Tied(Net):
    """One layer, used twice because its weights are meant to be shared."""

    def __init__(self) -> None:
        super().__init__(norm=lambda width: nn.GroupNorm(4, width))
        self.mix = nn.Conv2d(32, 32, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.adaptive_avg_pool2d(x + self.mix(F.relu(self.mix(x))), 4).flatten(1)


class Dropped(Net):
    def __init__(self) -> None:
        super().__init__()
        self.drop2d, self.drop = nn.Dropout2d(0.2), nn.Dropout(0.5)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn2(self.conv2(self.drop2d(F.relu(self.bn1(self.conv1(x)))))))
        return self.drop(F.adaptive_avg_pool2d(x, 4).flatten(1))


class FunctionalDropout(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.dropout(self.features(x), 0.3, training=self.training))


class Residual(Net):
    """Blocks with stochastic depth, and a last gamma of zero in each, as deep networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)) for _ in range(3)
        )
        self.depth = StochasticDepth(0.2, "row")
        for block in self.blocks:
            nn.init.zeros_(block[1].weight)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        for block in self.blocks:
            x = F.relu(x + self.depth(block(x)))
        return F.adaptive_avg_pool2d(x, 4).flatten(1)


class Cosine(Net):
    """Cosines between features and class vectors, times a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(512, CLASSES, bias=False)
        self.scale = nn.Parameter(torch.tensor(16.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * F.normalize(self.features(x)) @ F.normalize(self.fc.weight).T


class Unused(Net):
    """A layer that this variant of the network does not call, as in pytorch-cifar's EfficientNet-B0."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(16, 16, 1)


class Auxiliary(Net):
    """Returns (logits, auxiliary logits) in training, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        early = F.relu(self.bn1(self.conv1(x)))
        late = F.relu(self.bn2(self.conv2(early)))
        logits = self.fc(F.adaptive_avg_pool2d(late, 4).flatten(1))
        return (logits, self.aux(early.mean((2, 3)))) if self.training else logits


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


class WithLogits(Net):
    """Returns an object with `logits`, as transformers' networks do."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.features(x)
        return Output(self.fc(x), x)


class InMapping(Net):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.features(x)
        return {"features": x, "logits": self.fc(x)}


class Averaged(Net):
    """Evaluates with a moving average of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.fc).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        if self.training:
            with torch.no_grad():
                self.average.weight.lerp_(self.fc.weight, 0.01)
        return self.fc(x) if self.training else self.average(x)


class Patches(nn.Module):
    """A small ViT: patches of 4 by 4, two encoder layers, a class token, and a head of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 4, stride=4)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 48)), nn.Parameter(0.02 * torch.randn(1, 65, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, 0.1, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, CLASSES)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.encoder(x)[:, 0]))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 4, stride=4)
        self.places = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
        self.channels = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2)
        x = (x + self.places(x)).transpose(1, 2)
        return self.head(self.norm(x + self.channels(x)).mean(1))


class FrozenBackbone(Net):
    """A backbone that is not trained; its BatchNorm goes on counting, as in PyTorch's tutorial on transfer learning."""

    def __init__(self, in_eval: bool = False) -> None:
        super().__init__()
        self.in_eval = in_eval
        for part in (self.conv1, self.bn1, self.conv2, self.bn2):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        super().train(mode)
        if self.in_eval:
            self.bn1.eval()
            self.bn2.eval()
        return self


def ours(model: nn.Module) -> Case:
    """Return a model with the package's own loop and evaluation, as with `run_checks(model, loaders)`."""
    torch.manual_seed(0)
    return Case(model, loaders(), F.cross_entropy, {})


def _head_alone() -> Case:
    model = Net()
    return case(model, optimizer=torch.optim.Adam(model.fc.parameters(), lr=2e-3))


ARCHITECTURES: dict[str, Callable[[], Case]] = {
    "BatchNorm": lambda: case(Net()),
    "GroupNorm": lambda: case(Net(norm=lambda width: nn.GroupNorm(4, width))),
    "LayerNorm": lambda: case(Net(norm=lambda width: nn.GroupNorm(1, width))),
    "InstanceNorm": lambda: case(Net(norm=lambda width: nn.InstanceNorm2d(width, affine=True))),
    "no normalisation": lambda: case(Net(norm=lambda _: nn.Identity())),
    "weight tying": lambda: case(Tied()),
    "dropout": lambda: case(Dropped()),
    "functional dropout": lambda: case(FunctionalDropout()),
    "stochastic depth, zero gamma": lambda: case(Residual()),
    "cosine head": lambda: case(Cosine()),
    "a layer that is not called": lambda: case(Unused()),
    "auxiliary head": lambda: ours(Auxiliary()),
    "an object with logits": lambda: ours(WithLogits()),
    "a mapping": lambda: ours(InMapping()),
    "average of weights": lambda: case(Averaged()),
    "small ViT": lambda: case(Patches()),
    "MLP-Mixer": lambda: case(Mixer()),
    "frozen backbone": lambda: case(FrozenBackbone()),
    "frozen backbone in eval()": lambda: case(FrozenBackbone(in_eval=True)),
    "frozen by the optimizer": _head_alone,
    "linear": lambda: case(nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))),
}


def torchvision_network(name: str, **options: Any) -> Callable[[], Case]:
    return lambda: ours(getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options))


_NAMES = [
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "mnasnet0_5",
    "mnasnet1_0",
    "densenet121",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "convnext_tiny",
    "swin_t",
]
PUBLIC: dict[str, Callable[[], Case]] = {name: torchvision_network(name) for name in _NAMES} | {
    "googlenet": torchvision_network("googlenet", aux_logits=True, init_weights=False),
    "VisionTransformer": lambda: ours(torchvision.models.VisionTransformer(32, 8, 4, 4, 128, 256, num_classes=CLASSES)),
}


def run(found: Case, **options: Any):
    """Return what `run_checks` makes of a case."""
    from cifar_helpers.checks import run_checks

    return run_checks(found.model, found.data, found.loss, **found.parts, **options)
