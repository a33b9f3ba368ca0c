"""What identifies a value, a tensor, a network or a data set: SHA-256, in hexadecimal digits."""

import dis
import hashlib
import io
import json
import os
import pickle
import random
import sys
import types
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

SHORT = 12  # digits that tell a few thousand runs apart

# Classes and functions of these are known by their names; those of a reader by their code.
_LIBRARIES = {*sys.stdlib_module_names, "builtins", "torch", "torchvision", "numpy", "PIL", "cifar_helpers"} - {
    "__main__"
}


def hash_json(value: object) -> str:
    """Return twelve digits that identify a JSON-ready value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]


def hash_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """Return the 64 digits of the bytes of tensors, in order; of any device and type."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def hash_weights(model: nn.Module) -> str:
    """Return twelve digits that identify the weights and buffers of a model."""
    return hash_tensors(model.state_dict().values())[:SHORT]


def hash_object(value: object) -> str:
    """Return twelve digits that identify what an object holds, such as a Dataset with its transforms.

    Tensors and arrays count by their bytes, functions and classes of the reader by their code and the plain values that
    it names, files that are named by a whole path by size and time of change. States of random generators do not count.

    Raises:
        ValueError: it holds something without content, such as an open file or a lock.
    """
    sink = _Sink()
    try:
        _Pickler(sink).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError, NotImplementedError) as error:
        raise ValueError(f"a {type(value).__name__} cannot be hashed: {str(error).splitlines()[0]}") from error
    return sink.sha.hexdigest()[:SHORT]


_PLAIN = (bool, int, float, str, tuple)
_UNTOLD = ("__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__", "__match_args__")


def _globals_of(function: types.FunctionType) -> dict[str, object]:
    """Return the functions and plain values outside a function that its code reads; objects do not count."""
    found = {name: function.__globals__[name] for name in _names_of(function.__code__) if name in function.__globals__}
    return {name: value for name, value in found.items() if isinstance(value, (types.FunctionType, *_PLAIN))}


def _names_of(code: types.CodeType) -> list[str]:
    """Return the global names that a function reads, also in the functions inside it."""
    own = [step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names_of(const)]
    return sorted({*own, *inner})


def hash_code(classes: Iterable[type]) -> str | None:
    """Return twelve digits of the code of a reader's classes; None if all are of libraries."""
    theirs = sorted({kind for kind in classes if kind.__module__.split(".")[0] not in _LIBRARIES}, key=repr)
    return hash_object(theirs) if theirs else None


class _Sink(io.RawIOBase):
    """A file that keeps nothing but the hash of what is written."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()

    def write(self, content) -> int:
        self.sha.update(content)
        return len(content)


class _Pickler(pickle.Pickler):
    """Writes values for their hash alone: nothing reads it again."""

    def __init__(self, file: io.RawIOBase) -> None:
        super().__init__(file, protocol=4)
        self.fast = True  # equal strings are equal, whether they are one object or two
        self._known: set[int] = set()

    def persistent_id(self, value: object) -> object:
        """Return what stands for a value that pickle would write otherwise in another process, or cannot write."""
        if isinstance(value, torch.Tensor):
            return "tensor", str(value.dtype), tuple(value.shape), hash_tensors([value])
        if isinstance(value, np.ndarray) and value.dtype != object:
            digest = hashlib.sha256(np.ascontiguousarray(value).view(np.uint8).data).hexdigest() if value.size else ""
            return "array", value.dtype.str, value.shape, digest
        if isinstance(value, set | frozenset):
            return "set", sorted(map(hash_object, value))
        if isinstance(value, types.FunctionType | type) and value.__module__.split(".")[0] in _LIBRARIES:
            return "name", value.__module__, value.__qualname__
        if isinstance(value, types.FunctionType | type):  # a class and its methods hold each other
            if id(value) in self._known:
                return "known", value.__qualname__
            self._known.add(id(value))
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return "function", value.__qualname__, value.__code__, value.__defaults__, cells, _globals_of(value)
        if isinstance(value, types.CodeType):
            return "code", value.co_code, value.co_consts, value.co_names
        if isinstance(value, type):
            bases = [base for base in value.__bases__ if base.__module__.split(".")[0] not in _LIBRARIES]
            kinds = (types.FunctionType, *_PLAIN)
            members = {name: v for name, v in vars(value).items() if isinstance(v, kinds) and name not in _UNTOLD}
            return "class", value.__qualname__, bases, members
        if isinstance(value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState):
            return "generator", type(value).__name__
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if isinstance(value, str) and os.sep in value and os.path.isfile(value):
            facts = os.stat(value)
            return "file", value.encode("utf-8", "surrogateescape"), facts.st_size, facts.st_mtime_ns
        return None
