"""The machine: device, number format, threads, random streams, clocks and a one-line description."""

import atexit
import datetime
import functools
import hashlib
import os
import platform
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import NoReturn

import numpy as np
import torch
from torch import nn

from cifar_helpers._arguments import (
    plain_number,
    require,
    require_choice,
    require_function,
    require_seed,
    require_whole,
)

__all__ = [
    "Timer",
    "autocast",
    "autocast_dtype",
    "available_memory",
    "computing_on",
    "core_threads",
    "count_processes",
    "cpu_has_bfloat16",
    "deterministic_kernels",
    "device_name",
    "doctor",
    "end_process",
    "environment",
    "environment_line",
    "is_main_process",
    "join_processes",
    "leave_processes",
    "main_process_first",
    "make_generator",
    "median_seconds",
    "memory_format",
    "pick_device",
    "private_randomness",
    "seed_everything",
    "start_threads",
    "synchronize",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device called `name`; by default that of CIFAR_DEVICE, else CUDA, else MPS, else the CPU.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    name = str(os.environ.get("CIFAR_DEVICE") or "auto" if name is None else name)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    kind = name.split(":")[0]
    if kind == "cuda" and count_processes() > 1:
        own = f"cuda:{os.environ['LOCAL_RANK']}"
        require(name in ("cuda", own), "device", name, "'cuda' under torchrun: each process takes the GPU of its rank")
        name = own
    if kind not in available or not re.fullmatch(r"[a-z]+(:\d+)?", name):
        raise ValueError(f"device={name!r} is not known: choose auto, cpu, cuda, cuda:0 or mps")
    device = torch.device(name)
    alone = kind == "cuda" and count_processes() == 1
    if not available[kind] or (alone and (device.index or 0) >= torch.cuda.device_count()):
        found = torch.cuda.device_count() if available[kind] else "none"
        raise ValueError(
            f"device={name!r} was asked for, but torch {torch.__version__} finds {found}: use 'cpu' or 'auto'"
        )
    return device


def count_processes() -> int:
    """Return the number of processes that `torchrun` started; 1 without it."""
    return torch.distributed.get_world_size() if _joined() else 1


def is_main_process() -> bool:
    """Return whether this process writes files and prints: the first of those that `torchrun` started, or the only."""
    return not _joined() or torch.distributed.get_rank() == 0


def join_processes() -> None:
    """Connect the processes that `torchrun` started, by nccl between GPUs and gloo between CPUs; else do nothing.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    if _joined() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    if pick_device().type == "cuda":
        rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        advice = f"at most {gpus}, one for each GPU, or with CIFAR_DEVICE=cpu as many as there are cores"
        require(rank < gpus, "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], advice)
        torch.cuda.set_device(rank)
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        torch.distributed.init_process_group("gloo")
    atexit.register(_destroy_group)  # for a run that is stopped


def leave_processes() -> None:
    """Take leave of the processes that `join_processes` connected, when all of them have come to this line."""
    if _joined():
        torch.distributed.barrier()
        _destroy_group()


def end_process(status: int) -> NoReturn:
    """End this process; one of several ends at once, without tearing down the interpreter, after a success together.

    Now and then one that was torn down was aborted ("terminate called without an active exception"), and torchrun then
    stopped the other: seen twice in runs of all tests, with gloo in torch 2.15.
    """
    if _joined():
        if status == 0:  # after an error the others may wait for something else
            leave_processes()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _destroy_group() -> None:
    if _joined():
        torch.distributed.destroy_process_group()


@contextmanager
def main_process_first():
    """Let the main process go through a block alone, and the others after it: a download is made once."""
    if not is_main_process():
        torch.distributed.barrier()
    try:
        yield
    finally:  # also after an error, which the others would wait for
        if is_main_process() and _joined():
            torch.distributed.barrier()


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def computing_on(cores: int):
    """Let the operations of this thread use so many cores inside the block."""
    require_whole("cores", cores)
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def core_threads(count: int) -> ThreadPoolExecutor:
    """Return `count` threads that each compute on one core, the same ones at every call."""
    return start_threads(count, 1)


def start_threads(count: int, cores: int) -> ThreadPoolExecutor:
    """Return `count` threads, started, each of which computes on so many cores."""
    require_whole("count", count)
    require_whole("cores", cores)

    def begin() -> None:
        torch.get_num_threads()  # torch gives a new thread its default now, and not later over what follows
        torch.set_num_threads(cores)

    before, started = torch.get_num_threads(), Barrier(count)
    pool = ThreadPoolExecutor(count, "replica", begin)
    list(pool.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(before)  # what one thread sets is the default of all later ones
    return pool


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Return the number format to train in: the fastest that the device computes in hardware.

    CUDA: bfloat16 from compute capability 8.0, float16 before (a T4 claims bfloat16 and emulates it). CPU:
    bfloat16 where the processor has instructions for it. Everything else: float32.
    """
    require_choice("precision", precision, ("auto", *_DTYPES))
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX or Arm BF16)."""
    read: Callable[[], dict] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = read()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which matrix products run in `dtype`; float32 changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory format in which a network is trained: channels last, the faster one, wherever that is safe.

    On a CPU, torch 2.15 writes past its memory in the backward pass of a 1x1 convolution with a stride and fewer input
    channels than a vector register holds (8 floats with AVX2, 16 with AVX-512), if images are channels last: the
    process dies. A network with such a layer, as in the shortcuts of a narrow residual network, stays contiguous.
    """
    overruns = any(
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and max(m.stride) > 1 and m.in_channels < 16
        for m in model.modules()
    )
    return torch.contiguous_format if device.type == "cpu" and overruns else torch.channels_last


def make_generator(*keys: object) -> torch.Generator:
    """Return a CPU generator whose stream depends on `keys` alone: equal keys, equal numbers, also those of NumPy."""
    name = hashlib.sha256(repr(tuple(plain_number(key) for key in keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(name[:7], "little"))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    require_seed(seed)
    random.seed(int(seed))  # it takes no number of NumPy
    np.random.seed(seed % 2**32)  # it takes no larger ones
    torch.manual_seed(int(seed))


@contextmanager
def private_randomness(device: torch.device):
    """Let a block draw from the global streams of torch, NumPy and Python and leave them as they were before it."""
    devices = [device] if device.type == "cuda" else []
    others = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])


@contextmanager
def deterministic_kernels(enabled: bool):
    """Ask torch for deterministic kernels inside the block and restore its settings afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given, so that a clock read next tells the truth."""
    _require_device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Timer:
    """Seconds of a block, with the device idle at both ends: `with Timer(device) as t: …; t.seconds`."""

    def __init__(self, device: torch.device) -> None:
        _require_device(device)
        self.device = device
        self.seconds = float("nan")

    def __enter__(self) -> "Timer":
        synchronize(self.device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        synchronize(self.device)
        self.seconds = time.perf_counter() - self._start


def device_name(device: torch.device) -> str:
    """Return a name a reader recognises: the GPU's product name, or `cpu`."""
    _require_device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _require_device(device: object) -> None:
    require(isinstance(device, torch.device), "device", device, "a torch.device, such as pick_device('cpu')")


def environment(device: torch.device) -> dict:
    """Return what a number depends on besides the code: device, number format, threads and versions."""
    return {
        "device": device_name(device),
        "dtype": str(autocast_dtype(device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def environment_line(device: torch.device) -> str:
    """Return the environment and the date in one line, for the top of a notebook."""
    e = environment(device)
    today = datetime.date.today().isoformat()
    return (
        f"{today} · {e['device']} · {e['dtype']} · {e['threads']} threads · "
        f"torch {e['torch']} · Python {e['python']} · {e['system']}"
    )


def median_seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the median wall-clock seconds of `action` over `repeats` calls, after one call to warm up."""
    require_function("action", action)
    require_whole("repeats", repeats)
    action()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _matmul_rate(threads: int, dtype: torch.dtype = torch.float32, size: int = 768) -> float:
    """Return the GFLOP/s of a square matrix product on `threads` CPU threads; the thread count is restored."""
    before = torch.get_num_threads()
    a = torch.ones(size, size, dtype=dtype)
    try:
        torch.set_num_threads(threads)
        return 2 * size**3 / median_seconds(lambda: a @ a) / 1e9
    finally:
        torch.set_num_threads(before)


def available_memory() -> int | None:
    """Return the bytes of main memory that programs can still take; None where the system does not say.

    On Linux what is free or can be freed at once, within the limit of a container; on macOS all that is built in.
    """
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return min([int(facts["MemAvailable"].split()[0]) * 1024, *_container_memory()])
    except (OSError, KeyError):  # no Linux
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def _container_memory(groups: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return what a container may still take, its caches not counted; [] without a limit."""
    found = []
    for folder, limit, used in ((groups, "memory.max", "anon"), (groups / "memory", "memory.limit_in_bytes", "rss")):
        try:
            rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            found.append(int((folder / limit).read_text()) - int(rows[used]))
        except (OSError, ValueError, KeyError):  # the other version of control groups, or "max"
            continue
    return found


def doctor() -> list[tuple[str, str, str]]:
    """Return rows (what, found, advice) on this machine; the advice says what to do, and is empty where all is well."""
    try:
        device, wish = pick_device(), ""
    except ValueError as error:  # CIFAR_DEVICE names one that is not here
        device, wish = torch.device("cpu"), str(error)
    counts = sorted({1, torch.get_num_threads()})
    rates = {n: _matmul_rate(n) for n in counts}
    slow = rates[counts[-1]] < rates[1]
    busy = "the cores are busy: end other programs, or set OMP_NUM_THREADS=1" if slow else ""
    rows = [("environment", environment_line(device), ""), ("device", device_name(device), wish or _advise(device))]
    rows += [("threads", " · ".join(f"{n}: {rate:.0f} GFLOP/s" for n, rate in rates.items()), busy)]
    if device.type == "cpu":
        rates16 = _matmul_rate(counts[-1], torch.bfloat16) / rates[counts[-1]]
        used = "yes" if cpu_has_bfloat16() else "no, float32 is used"
        rows += [("bfloat16", f"{used}; {rates16:.1f} x the float32 rate", "")]
    memory = available_memory()
    if memory is not None:
        tight = "end other programs: a notebook takes up to 3 GiB in profile quick" if memory < 3 * 2**30 else ""
        rows += [("memory", f"{memory / 2**30:.1f} GiB free", tight)]
    return rows


def _advise(device: torch.device) -> str:
    """Return what to do about a device that is slow."""
    if device.type != "cpu":
        return ""
    if shutil.which("nvidia-smi"):
        return f"torch {torch.__version__} does not see the NVIDIA GPU: pip install --upgrade torch, or a newer driver"
    return "no GPU: begin with CIFAR_PROFILE=quick; every notebook says how long it takes here before it trains"
