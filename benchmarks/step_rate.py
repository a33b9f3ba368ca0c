"""Images per second of our training loop against two others, on the same model, batch size and optimizer.

    python benchmarks/step_rate.py [--json FILE] [--repeats 5]

`everyday` is the loop that everybody writes: a DataLoader with two workers, PIL transforms, float32, contiguous
memory. `bare` is no loop at all: forward, backward and step on one batch that lies ready, in our number format; it
bounds what any loop can reach. The three take turns in one process, and the medians of the turns are compared.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cifar_helpers.data import Flip, PadCrop, Split, load_data, make_batches
from cifar_helpers.metrics import cross_entropy
from cifar_helpers.models import make_model
from cifar_helpers.runtime import Timer, autocast, autocast_dtype, environment, environment_line, pick_device
from cifar_helpers.training import make_optimizer, train_epoch

AUGMENT = (Flip(), PadCrop(4))


class PictureDataset(Dataset):
    """The split as most tutorials serve it: one PIL image at a time through torchvision transforms."""

    def __init__(self, split: Split, normaliser) -> None:
        self.pictures = split.images.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(normaliser.mean, normaliser.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.pictures[index])), self.labels[index]


def endless(loader: DataLoader):
    while True:
        yield from loader


def everyday_loop(name: str, batch_size: int, split: Split, normaliser, device: torch.device) -> Callable[[int], None]:
    """Return a function that takes `steps` training steps as most tutorials do."""
    loader = DataLoader(
        PictureDataset(split, normaliser), batch_size, shuffle=True, num_workers=2, persistent_workers=True
    )
    batches = endless(loader)
    model = make_model(name).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    criterion = torch.nn.CrossEntropyLoss()

    def run(steps: int) -> None:
        running_loss = 0.0
        for images, labels in itertools.islice(batches, steps):
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()

    return run


def our_loop(name: str, batch_size: int, split: Split, val: Split, device: torch.device) -> Callable[[int], None]:
    """Return a function that takes `steps` training steps through `Batches` and `train_epoch`."""
    batches, _ = make_batches(split, val, device)
    model = make_model(name).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, lr=0.01)
    dtype = autocast_dtype(device)
    scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
    epochs = itertools.count()

    def run(steps: int) -> None:
        epoch = batches.epoch(next(epochs), seed=0, batch_size=batch_size, augment=AUGMENT)
        train_epoch(model, itertools.islice(epoch, steps), optimizer, dtype=dtype, scaler=scaler)

    return run


def bare_loop(name: str, batch_size: int, split: Split, val: Split, device: torch.device) -> Callable[[int], None]:
    """Return a function that takes `steps` bare steps on one prepared batch, in our format and memory order."""
    batches, _ = make_batches(split, val, device)
    images, labels = next(batches.epoch(0, seed=0, batch_size=batch_size))
    model = make_model(name).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, lr=0.01)
    dtype = autocast_dtype(device)

    def run(steps: int) -> None:
        for _ in range(steps):
            with autocast(device, dtype):
                logits = model(images)
            cross_entropy(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def compare(name: str, batch_size: int, steps: int, repeats: int, device: torch.device) -> list[dict]:
    """Return two rows, ours against everyday and ours against bare, in images per second."""
    data = load_data("cifar10")
    split = data.train.take(20_000)
    batches, _ = make_batches(split, data.val, device)
    loops = {
        "ours": our_loop(name, batch_size, split, data.val, device),
        "everyday": everyday_loop(name, batch_size, split, batches.normaliser, device),
        "bare": bare_loop(name, batch_size, split, data.val, device),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in loops}
    for run in loops.values():
        run(3)
    for _ in range(repeats):
        for kind, run in loops.items():
            with Timer(device) as timer:
                run(steps)
            rates[kind].append(batch_size * steps / timer.seconds)
            time.sleep(0.5)  # the workers fill their queues again, in nobody's time
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    return [
        row(f"{name}, batch {batch_size} / {kind}", medians["ours"], medians[kind], repeats)
        for kind in ("everyday", "bare")
    ]


def row(name: str, ours: float, baseline: float, n: int) -> dict:
    return {"name": name, "ours": ours, "baseline": baseline, "ratio": ours / baseline, "unit": "images/s", "n": n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = pick_device()
    print(environment_line(device))
    rows = []
    for name, batch_size, steps in (("mlp", 128, 100), ("mlp", 256, 60), ("mlp", 512, 30), ("cnn", 128, 20)):
        rows += compare(name, batch_size, steps, args.repeats, device)
    print(f"{'model / baseline':26} {'ours':>9} {'baseline':>9} {'ratio':>6}  images/s, median of {args.repeats}")
    for r in rows:
        print(f"{r['name']:26} {r['ours']:9.0f} {r['baseline']:9.0f} {r['ratio']:6.2f}")
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(device), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
