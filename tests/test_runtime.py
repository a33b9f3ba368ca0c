import random

import numpy as np
import pytest
import torch

from cifar_helpers.runtime import (
    Timer,
    _container_memory,
    autocast,
    autocast_dtype,
    available_memory,
    computing_on,
    core_threads,
    deterministic_kernels,
    doctor,
    environment_line,
    join_processes,
    make_generator,
    pick_device,
    private_randomness,
    seed_everything,
)

CPU = torch.device("cpu")


def test_every_thread_computes_on_one_core_and_the_caller_on_as_many_as_before():
    before = torch.get_num_threads()
    assert list(core_threads(2).map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
    assert core_threads(2) is core_threads(2)
    with computing_on(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["gpu", "cuda0x", "tpu"])
def test_unknown_device_says_what_is_allowed(name):
    with pytest.raises(ValueError, match=f"device='{name}' is not known: choose auto, cpu"):
        pick_device(name)


def test_missing_device_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="finds none: use 'cpu'"):
        pick_device("cuda")


def test_device_comes_from_the_argument_then_the_environment(monkeypatch):
    monkeypatch.setenv("CIFAR_DEVICE", "cpu")
    assert pick_device() == CPU
    monkeypatch.setenv("CIFAR_DEVICE", "nonsense")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_t4_trains_in_float16_whatever_it_claims(monkeypatch, capability, dtype):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *a, **k: True)
    assert autocast_dtype(torch.device("cuda")) == dtype


def test_mps_and_a_plain_processor_train_in_float32(monkeypatch):
    assert autocast_dtype(torch.device("mps")) == torch.float32
    monkeypatch.setattr("cifar_helpers.runtime.cpu_has_bfloat16", lambda: False)
    assert autocast_dtype(CPU) == torch.float32
    assert autocast_dtype(CPU, "bfloat16") == torch.bfloat16


def test_autocast_changes_products_only_when_asked():
    a = torch.ones(2, 2)
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16


def test_generators_depend_on_their_keys_alone():
    def draw(*keys):
        return torch.rand(3, generator=make_generator(*keys)).tolist()

    assert draw("order", 0, 1) == draw("order", 0, 1)
    assert (
        len({tuple(draw(*keys)) for keys in [("order", 0, 1), ("order", 1, 0), ("flip", 0, 1), ("order", 0, 11)]}) == 4
    )


def test_generators_give_the_same_numbers_on_every_machine():
    assert torch.randperm(6, generator=make_generator("order", 0, 0)).tolist() == [2, 1, 4, 5, 0, 3]


def test_seeding_repeats_all_three_streams():
    def draw():
        seed_everything(3)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


def test_private_randomness_leaves_the_readers_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with private_randomness(CPU):
        torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected)


def test_deterministic_kernels_are_restored_after_an_error():
    def fail() -> None:
        with deterministic_kernels(True):
            assert torch.are_deterministic_algorithms_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not torch.are_deterministic_algorithms_enabled()


def test_timer_and_doctor_measure():
    with Timer(CPU) as timer:
        sum(range(1000))
    assert timer.seconds > 0
    assert {"environment", "device", "threads"} <= {what for what, _, _ in doctor()}
    assert "torch" in environment_line(CPU)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "CIFAR_DEVICE": "cuda"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="--nproc-per-node='2' is not allowed: at most 1, one for each GPU, or"):
        join_processes()


def test_each_process_has_the_gpu_of_its_rank(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("cifar_helpers.runtime.count_processes", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda") == pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device='cuda:0' is not allowed: 'cuda' under torchrun"):
        pick_device("cuda:0")


def test_available_memory_is_less_than_all_and_within_the_limit_of_a_container(tmp_path):
    psutil = pytest.importorskip("psutil")
    assert 1e8 < available_memory() <= psutil.virtual_memory().total
    assert _container_memory(tmp_path) == []
    (tmp_path / "memory").mkdir()
    for folder, limit, used in (
        (tmp_path, "memory.max", "anon"),
        (tmp_path / "memory", "memory.limit_in_bytes", "rss"),
    ):
        (folder / limit).write_text("4000\n")
        (folder / "memory.stat").write_text(f"file 3000\n{used} 1500\n")
    assert _container_memory(tmp_path) == [2500, 2500]
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_memory(tmp_path) == [2500]
