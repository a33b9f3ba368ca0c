"""What identifies values, tensors, networks and data sets."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from cifar_helpers._hashing import hash_code, hash_json, hash_object, hash_tensors, hash_weights

FACTOR, name = 2, "a"


def scale(x):
    return FACTOR * x


class Data(Dataset):
    scale = 1

    def __init__(self, count: int = 5) -> None:
        self.x, self.rng, self.names = torch.arange(count), np.random.default_rng(0), {"b", "a", "c"}

    def __getitem__(self, index):
        return [scale(x) for x in self.x[index : index + 1]]


def test_equal_content_has_equal_digits():
    assert hash_object(Data()) == hash_object(Data())
    assert hash_object(Data()) != hash_object(Data(6))
    assert hash_object({"a": 1, "b": (2.5, None)}) == hash_object({"a": 1, "b": (2.5, None)})
    assert hash_object(TensorDataset(torch.ones(2))) != hash_object(TensorDataset(torch.zeros(2)))
    assert hash_object(Subset(Data(), [1])) != hash_object(Subset(Data(), [2]))
    assert hash_object(np.arange(3)) != hash_object(np.arange(3.0))


def test_a_random_state_does_not_count():
    data = Data()
    before = hash_object(data)
    data.rng.random()
    assert hash_object(data) == before
    assert hash_object(torch.Generator()) == hash_object(torch.Generator().manual_seed(1))
    assert hash_object(random.Random(0)) == hash_object(random.Random(1))


def test_what_a_function_reads_outside_itself_counts(monkeypatch):
    before = hash_object(Data())
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert hash_object(Data()) != before
    monkeypatch.setitem(globals(), "FACTOR", 2)
    monkeypatch.setattr(Data, "scale", 4)
    assert hash_object(Data()) != before


def test_attributes_are_no_globals(monkeypatch):
    def read(record):
        return record.name

    before = hash_object(read)
    monkeypatch.setitem(globals(), "name", "b")
    assert hash_object(read) == before


def test_what_has_no_content_is_named():
    with open(__file__) as file, pytest.raises(ValueError, match="a TextIOWrapper cannot be hashed"):
        hash_object(file)


def test_another_process_finds_the_same_digits():
    code = "from test_hashing import *; print(hash_object(Data()), hash_code([Data]))"
    found = {
        subprocess.run([sys.executable, "-c", code], cwd="tests" if __package__ else __file__.rsplit("/", 1)[0],
                       env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_code_of_libraries_is_known_by_name():
    assert hash_code([torch.nn.Linear]) is None
    assert hash_code([torch.nn.Linear, Data]) == hash_code([Data])


def test_tensors_and_weights():
    net = torch.nn.Linear(2, 2)
    assert len(hash_tensors([torch.ones(2)])) == 64
    assert hash_tensors([torch.ones(2, dtype=torch.bfloat16)]) != hash_tensors([torch.ones(2)])
    before = hash_weights(net)
    with torch.no_grad():
        net.bias += 1
    assert hash_weights(net) != before
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
