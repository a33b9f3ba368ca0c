"""Three ways to share a training step among the cores, on quiet cores and beside another program.

    python benchmarks/busy_cores.py [--turns 5] [--beside nothing loop training] [--json FILE]

`threads` is PyTorch's own way: all threads on every operation of one network. `replicas` is ours, a copy of the network
on every core in one process; `processes` is torchrun with one process a core. All train the study network on the same
batches. `loop` is a program that computes on one core without end, `training` another training with as many threads as
there are cores. The ways take turns, each in processes of its own; the ratio is that to `threads` under the same load.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from step_rate import Setting, in_own_process, measure, take_turns

from cifar_helpers.models import make_model
from cifar_helpers.runtime import (
    environment,
    environment_line,
    is_main_process,
    join_processes,
    leave_processes,
    memory_format,
    pick_device,
)
from cifar_helpers.training.parallel import Processes

WAYS = ("threads", "replicas", "processes")


def measure_way(way: str) -> None:
    """Print what this process, or the first of several, measures."""
    join_processes()
    setting = Setting("study")
    setting.model.to(memory_format=memory_format(setting.model, setting.device))
    forwards = {"threads": lambda: setting.model, "processes": lambda: Processes(setting.model)}
    found = measure(setting, setting.ours() if way == "replicas" else setting.shared(forwards[way]()))
    if is_main_process():
        print(json.dumps(found))
    leave_processes()


def start_way(way: str) -> dict[str, float]:
    """Measure one way in processes of its own."""
    cores = os.cpu_count() or 1
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(cores)] if way == "processes" else []
    return in_own_process(*launch, __file__, "--measure", way)


def _loop() -> None:
    while True:
        pass


def _train() -> None:
    model, images = make_model("cnn", width=0.5), torch.randn(128, 3, 32, 32)
    while True:
        model.zero_grad()
        model(images).sum().backward()


LOADS: dict[str, Callable[[], None] | None] = {"nothing": None, "loop": _loop, "training": _train}


@contextlib.contextmanager
def beside(load: str) -> Iterator[None]:
    """Let another program compute during a block."""
    action = LOADS[load]
    if action is None:
        yield
        return
    program = multiprocessing.get_context("spawn").Process(target=action, daemon=True)
    program.start()
    try:
        yield
    finally:
        program.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--beside", nargs="+", choices=LOADS, default=list(LOADS)[:2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure_way(args.measure)
    print(environment_line(pick_device()))
    print(f"{'beside':9} {'way':10} {'images/s':>9} {'spread':>13} {'ratio':>6}   n = {args.turns}")
    rows = []
    for load in args.beside:
        with beside(load):
            found = take_turns({way: lambda way=way: start_way(way) for way in WAYS}, args.turns)
        base = statistics.median(row["rate"] for row in found["threads"])
        for way, turns in found.items():
            rates = sorted(row["rate"] for row in turns)
            ratio = statistics.median(rates) / base
            rows.append({"beside": load, "way": way, "rates": rates, "ratio": ratio})
            spread = f"{rates[0]:.0f} to {rates[-1]:.0f}"
            print(f"{load:9} {way:10} {statistics.median(rates):9.0f} {spread:>13} {ratio:6.2f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(pick_device()), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
