"""Images per second and memory of our training loop against what a user would write instead.

    python benchmarks/step_rate.py [--only mlp cnn study resnet18] [--turns 5] [--json FILE]

`ours` is `train_epoch` on `Batches`, as `fit` runs it here: the fastest number format of this machine, a replica of the
network on every core. `everyday` is the loop that everybody writes: a DataLoader with two workers, torchvision's v2
transforms, float32, contiguous memory. `bare` is no loop at all: forward, backward and step on one batch that lies
ready; it bounds what any loop can reach with all threads on every operation. Model, batch size and optimizer are the
same. They take turns, each in a process of its own, and the medians of the turns are compared. `of product` is the
ratio of operations per second in training and in a large matrix product of the same number format, right after it.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from cifar_helpers.course import RECIPES
from cifar_helpers.data import Flip, PadCrop, load_data, make_batches
from cifar_helpers.metrics import cross_entropy
from cifar_helpers.models import ModelConfig, build_model, layer_table
from cifar_helpers.runtime import (
    Timer,
    autocast,
    autocast_dtype,
    environment,
    environment_line,
    memory_format,
    pick_device,
)
from cifar_helpers.training import make_optimizer, train_epoch
from cifar_helpers.training.parallel import Replicas, count_replicas

AUGMENT = (Flip(), PadCrop(4))
# The networks with their batch sizes and the steps of a turn.
MODELS = {
    "mlp": (ModelConfig("mlp"), 128, 80),
    "cnn": (ModelConfig("cnn"), 128, 12),
    "study": (RECIPES["study"].experiment.model, 256, 16),
    "resnet18": (ModelConfig("resnet18"), 128, 3),
}


class Pictures(Dataset):
    """The training split as most tutorials serve it: one image at a time through torchvision transforms."""

    def __init__(self, split, normaliser) -> None:
        self.images, self.labels = split.images, split.labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(normaliser.mean, normaliser.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), self.labels[index]


class Setting:
    """Data and network of one measurement; each kind of loop is a function of the number of steps."""

    def __init__(self, name: str) -> None:
        config, self.batch_size, self.steps = MODELS[name]
        data = load_data("cifar10")
        self.device, self.split = pick_device(), data.train.take(20_000)
        self.batches, _ = make_batches(self.split, data.val, self.device)
        self.model = build_model(config, self.batches)
        self.dtype = autocast_dtype(self.device)

    def ours(self) -> Callable[[int], object]:
        self.model.to(memory_format=memory_format(self.model, self.device))
        images = next(iter(self.batches.ordered()))[0]
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        count = count_replicas(self.model, images, self.batch_size, threads)
        return self.shared(Replicas(self.model, count) if count > 1 else self.model)

    def shared(self, forward: torch.nn.Module) -> Callable[[int], object]:
        """Return our loop with the network as cores or processes share it."""
        optimizer, epochs = make_optimizer(self.model, lr=0.01), itertools.count()
        scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None

        def run(steps: int) -> None:
            epoch = self.batches.epoch(next(epochs), seed=0, batch_size=self.batch_size, augment=AUGMENT)
            train_epoch(forward, itertools.islice(epoch, steps), optimizer, dtype=self.dtype, scaler=scaler)

        return run

    def everyday(self) -> Callable[[int], object]:
        self.dtype = torch.float32
        pictures = Pictures(self.split, self.batches.normaliser)
        loader = DataLoader(pictures, self.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
        batches, criterion = _endless(loader), torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True)

        def run(steps: int) -> None:
            running_loss = 0.0
            for images, labels in itertools.islice(batches, steps):
                images, labels = images.to(self.device), labels.to(self.device)
                optimizer.zero_grad()
                loss = criterion(self.model(images), labels)
                loss.backward()
                optimizer.step()
                running_loss += loss.item()

        return run

    def bare(self) -> Callable[[int], object]:
        images, labels = next(self.batches.epoch(0, seed=0, batch_size=self.batch_size))
        self.model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(self.model, lr=0.01)

        def run(steps: int) -> None:
            for _ in range(steps):
                with autocast(self.device, self.dtype):
                    logits = self.model(images)
                cross_entropy(logits, labels).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        return run


def _endless(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


def matrix_rate(setting: Setting, size: int = 3_072, repeats: int = 5) -> float:
    """Return the operations a second of a square matrix product in the number format of training."""
    a = torch.randn(size, size, device=setting.device).to(setting.dtype)
    a @ a
    with Timer(setting.device) as timer:
        for _ in range(repeats):
            a @ a
    return repeats * 2 * size**3 / timer.seconds


def step_operations(setting: Setting) -> float:
    """Return the operations of a training step for one image: three times those of the forward pass."""
    return 3 * 2 * sum(row.multiply_adds for row in layer_table(setting.model, setting.batches.image_size))


def measure(setting: Setting, run: Callable[[int], object]) -> dict[str, float]:
    """Return images per second, the largest memory of this process and its children, and `of product`."""
    run(2)
    with Timer(setting.device) as timer:
        run(setting.steps)
    people = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(who).ru_maxrss for who in people) * 1024
    rate = setting.batch_size * setting.steps / timer.seconds
    return {"rate": rate, "peak_bytes": peak, "share": rate * step_operations(setting) / matrix_rate(setting)}


def in_own_process(*arguments: str) -> dict[str, float]:
    """Run a script of this folder with arguments that make it measure once, and return what it prints last."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(measurements: dict[str, Callable[[], dict[str, float]]], turns: int) -> dict[str, list[dict]]:
    """Return what each measurement gave, one after the other, `turns` times."""
    found: dict[str, list[dict]] = {kind: [] for kind in measurements}
    for _ in range(turns):
        for kind, take in measurements.items():
            found[kind].append(take())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        setting = Setting(args.measure[0])
        print(json.dumps(measure(setting, getattr(setting, args.measure[1])())))
        return
    print(environment_line(pick_device()))
    print(
        f"{'network':10} {'loop':9} {'images/s':>9} {'spread':>13} {'ours is':>8} {'peak GB':>8} {'of product':>10}"
        f"   n = {args.turns}"
    )
    rows = []
    for name in args.only:
        kinds = {
            kind: lambda name=name, kind=kind: in_own_process(__file__, "--measure", name, kind)
            for kind in ("ours", "everyday", "bare")
        }
        found = take_turns(kinds, args.turns)
        ours = statistics.median(row["rate"] for row in found["ours"])
        for kind, turns in found.items():
            rates = sorted(row["rate"] for row in turns)
            peak = max(row["peak_bytes"] for row in turns)
            rows.append({"model": name, "loop": kind, "rates": rates, "ratio": ours / statistics.median(rates)})
            rows[-1] |= {"peak_bytes": peak, "shares": sorted(row["share"] for row in turns)}
            spread = f"{rates[0]:.0f} to {rates[-1]:.0f}"
            print(
                f"{name:10} {kind:9} {statistics.median(rates):9.0f} {spread:>13} {rows[-1]['ratio']:7.2f}x "
                f"{peak / 1e9:8.1f} {statistics.median(rows[-1]['shares']):10.2f}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(pick_device()), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
