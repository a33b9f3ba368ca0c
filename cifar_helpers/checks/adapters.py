"""The three usual shapes of other people's loops, as the functions that a `Pipeline` takes.

1. `train(model, loader, optimizer, loss)` with these in any order, under any usual name, and with device, epoch, scaler
   or scheduler among them;
2. `train(epoch)`, which finds network, loader and optimizer among the names of its module or notebook, of the function
   around it, or of its own object, `trainer.train_epoch`;
3. an evaluation that returns a number, a pair or a mapping, in percent or as a fraction.
"""

import copy
import functools
import inspect
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cifar_helpers import metrics
from cifar_helpers._arguments import require, require_function

__all__ = ["NotAdaptable", "Reported", "adapt_evaluation", "adapt_training", "copy_optimizer", "optimizer_in"]

_LOADERS = (
    "batches loader dataloader dl data iterator dataiter trainloader traindataloader traindl trainbatches trainiter"
)
_LOADERS += " valloader valdataloader valdl validloader validationloader testloader testdataloader testdl evalloader"
_ROLES = {
    "model": ["model", "net", "network", "module", "classifier"],
    "batches": _LOADERS.split(),
    "optimizer": ["optimizer", "optim", "opt", "optimiser"],
    "loss": ["loss", "criterion", "lossfn", "lossfunction", "lossfunc", "losscriterion", "objective"],
    "device": ["device", "dev"],
    "epoch": ["epoch", "ep", "e", "epochindex", "epochnum", "epochnumber", "currentepoch"],
    "epochs": ["epochs", "numepochs", "nepochs", "maxepochs"],
    "scheduler": ["scheduler", "lrscheduler", "sched"],
    "scaler": ["scaler", "gradscaler"],
}


class NotAdaptable(ValueError):
    """A function has a shape that is not known; the message says what it must accept."""


@dataclass(frozen=True)
class Reported:
    """What an evaluation reported; None for what it did not.

    Attributes:
        accuracy: a fraction.
        percent: it was given in percent.
    """

    loss: float | None
    accuracy: float | None
    percent: bool = False


# --- the reader's optimizer, for a copy of her model ---


def copy_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return a function from a copy of `model` to a copy of `optimizer`, with its state, over the copy's parameters.

    What the optimizer holds and the model does not stays foreign to every copy. Hooks, such as one that clips, and the
    attributes of a class of your own are copied too.

    Raises:
        ValueError: `optimizer` is none of torch's.
    """
    right = isinstance(optimizer, torch.optim.Optimizer)
    require(right, "optimizer", optimizer, "a torch.optim.Optimizer over the parameters of the model")

    def make(other: nn.Module) -> torch.optim.Optimizer:
        pairs = list(zip(model.parameters(), other.parameters(), strict=False))
        if len(pairs) != len(list(model.parameters())) or any(p.shape != q.shape for p, q in pairs):
            values = {k: v for k, v in optimizer.param_groups[0].items() if k in optimizer.defaults}
            return type(optimizer)(other.parameters(), **values)  # another width
        memo: dict[int, Any] = {id(p): q for p, q in pairs}
        copied = copy.deepcopy(optimizer, memo)
        for name, value in vars(optimizer).items():  # `step` itself is one, where a scheduler watches it
            if name not in vars(copied) and not name.startswith("_") and not callable(value):
                setattr(copied, name, copy.deepcopy(value, memo))
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            getattr(copied, name).update(getattr(optimizer, name))
        return copied

    return make


def _copy_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Return a copy of a scheduler that sets the rates of this optimizer."""
    return copy.deepcopy(scheduler, {id(getattr(scheduler, "optimizer", None)): optimizer})


# --- first shape: everything is an argument ---


def _roles(function: Callable) -> dict[str, str] | None:
    """Return the roles of a function's parameters by their names; None if one that it needs has no known name."""
    found: dict[str, str] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        plain = re.sub("[^a-z]", "", name.lower())
        role = next((role for role, names in _ROLES.items() if plain in names), None)
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if role and named and role not in found.values():
            found[name] = role
        elif named and parameter.default is parameter.empty:
            return None
    return found


def _call(function: Callable, roles: Mapping[str, str], parts: Mapping[str, Any]) -> Any:
    """Call a function with the parts that its parameters stand for; what is not there keeps its default."""
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    given = {name: parts.get(role) for name, role in roles.items()}
    keep = {n for n, r in roles.items() if defaults[n] is not inspect.Parameter.empty and r not in ("model", "batches")}
    keep = {n for n in keep if given[n] is None or roles[n] in ("device", "epoch", "epochs")}
    return function(**{name: value for name, value in given.items() if name not in keep})


def _parts(model: nn.Module, batches: Any, optimizer: Any, loss: Any, scheduler: Any) -> dict[str, Any]:
    """Return what a loop may ask for, by its role."""
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    scheduled = None if scheduler is None or optimizer is None else _copy_scheduler(scheduler, optimizer)
    parts = {"model": model, "batches": batches, "optimizer": optimizer, "loss": loss, "device": device}
    return parts | {"epoch": 0, "epochs": 1, "scaler": scaler, "scheduler": scheduled}


# --- second shape: everything is a name ---


class _Cells(MutableMapping):
    """The variables of the function around a function, by name."""

    def __init__(self, names: Sequence[str], cells: Sequence[types.CellType]) -> None:
        self._cells = dict(zip(names, cells, strict=False))

    def __getitem__(self, name: str) -> Any:
        return self._cells[name].cell_contents

    def __setitem__(self, name: str, value: Any) -> None:
        self._cells[name].cell_contents = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, cell in self._cells.items() if _is_set(cell))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _is_set(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a variable that has no value yet
        return False
    return True


def _spaces(function: Callable) -> list[MutableMapping[str, Any]]:
    """Return where a function finds what is no argument: its module, the function around it, and its object."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    owner = getattr(function, "__self__", None)
    spaces = [getattr(function, "__globals__", {}), _Cells(getattr(code, "co_freevars", ()), cells)]
    return [*spaces, *([vars(owner)] if hasattr(owner, "__dict__") and not isinstance(owner, nn.Module) else [])]


def _known(function: Callable) -> list[Any]:
    """Return the values that a function finds by their names."""
    return [value for space in _spaces(function) for value in space.values()]


def _names_in(code: types.CodeType) -> set[str]:
    """Return the names that a piece of code reads outside of itself."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return {*code.co_names, *code.co_freevars}.union(*map(_names_in, inner))


def optimizer_in(function: Callable) -> torch.optim.Optimizer | None:
    """Return the only optimizer that a function names outside of its arguments; None if there is no such one."""
    require_function("train_epoch", function)
    code = getattr(inspect.unwrap(function), "__code__", None)
    named = _names_in(code) if code else set()
    values = {id(space[name]): space[name] for space in _spaces(function) for name in named if name in space}
    found = [value for value in values.values() if isinstance(value, torch.optim.Optimizer)]
    return found[0] if len(found) == 1 else None


def _containers(value: Any) -> Iterator[Any]:
    """Yield what a function may collect results in: a list, set, deque or mapping, and those in such a mapping."""
    if isinstance(value, list | set | deque | dict):
        yield value
    if isinstance(value, dict):
        yield from (inner for inner in value.values() if isinstance(inner, list | set | deque | dict))


@contextmanager
def _in_place_of(function: Callable, exchanged: list[tuple[Any, Any]]) -> Iterator[None]:
    """Let every name by which a function finds the first of a pair stand for the second.

    Afterwards every name is as it was, what the function counted or collected included.
    """
    new = {id(old): value for old, value in exchanged if old is not None}
    spaces = _spaces(function)
    kept = [{name: value for name, value in space.items() if not name.startswith("__")} for space in spaces]
    held = {id(v): (v, copy.copy(v)) for names in kept for value in names.values() for v in _containers(value)}
    for space, names in zip(spaces, kept, strict=True):
        space.update({name: new[id(value)] for name, value in names.items() if id(value) in new})
    try:
        yield
    finally:
        for space, names in zip(spaces, kept, strict=True):
            for name in [name for name in space if name not in names and not name.startswith("__")]:
                del space[name]
            space.update(names)
        for container, values in held.values():
            container.clear()
            container.extend(values) if isinstance(container, list | deque) else container.update(values)


def _stand_ins(
    function: Callable, model: nn.Module, m: nn.Module, optimizer: Any = None, o: Any = None
) -> list[tuple[Any, Any]]:
    """Return what a function may find by name, and the copy that it is to find: network, optimizer and schedulers."""
    known = _known(function)
    around = [v for v in known if getattr(v, "module", getattr(v, "_orig_mod", None)) is model]  # compiled, parallel
    bound = [v for v in known if optimizer is not None and getattr(v, "optimizer", None) is optimizer]
    schedulers = [(old, _copy_scheduler(old, o)) for old in bound if hasattr(old, "step")]
    return [(model, m), (optimizer, o), *((old, m) for old in around), *schedulers]


def _finds(function: Callable, model: nn.Module) -> bool:
    """Return whether a function finds the model by a name."""
    return len(_stand_ins(function, model, model)) > 2 or any(value is model for value in _known(function))


# --- a training loop ---


def adapt_training(
    function: Callable,
    model: nn.Module,
    train: Iterable[Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> Callable[..., Any]:
    """Return `function` as one that is called as `train_epoch(model, batches, optimizer, loss=loss)`.

    Args:
        function: takes what it needs by usual names, in any order, or finds `model`, `train` and `optimizer` themselves
            by name.
        optimizer, scheduler: yours; whatever scheduler the function finds is bound to the optimizer it is given.

    Raises:
        NotAdaptable: it has another shape.
        ValueError: it is no function.
    """
    require_function("train_epoch", function)
    roles = _roles(function)
    by_role = roles is not None and ({"model", "batches"} <= set(roles.values()) or _finds(function, model))
    if not by_role and not _takes_contract(function):
        raise NotAdaptable(
            f"your train function {_signature(function)} must accept (model, batches, optimizer, loss=…), or find the "
            "very model and loader that run_checks is given by name"
        )

    def train_epoch(m: nn.Module, batches: Any, o: torch.optim.Optimizer, loss: Any) -> Any:
        with _in_place_of(function, [(train, batches), *_stand_ins(function, model, m, optimizer, o)]):
            if roles is not None and by_role:
                return _call(function, roles, _parts(m, batches, o, loss, scheduler))
            return function(m, batches, o, loss=loss)

    return train_epoch


def _takes_contract(function: Callable) -> bool:
    """Return whether a function can be called as `train_epoch(model, batches, optimizer, loss=loss)`."""
    try:
        inspect.signature(function).bind(None, None, None, loss=None)
    except TypeError:
        return False
    return True


def _signature(function: Callable) -> str:
    return f"{getattr(function, '__name__', type(function).__name__)}{inspect.signature(function)}"


# --- an evaluation ---


def adapt_evaluation(
    function: Callable, model: nn.Module, val: Iterable[Any], loss: Callable, like: metrics.Sums | None = None
) -> Callable[..., Any]:
    """Return `function` as one that is called as `evaluate(model, batches)` and returns `loss` and `accuracy`.

    Args:
        function: as in `adapt_training`; returns an object with `loss` and `accuracy`, a mapping, a pair, or a number.
        like: what the first call should find; by it a pair in the order (accuracy, loss) is known, and percent.

    Raises:
        NotAdaptable: it has another shape, or, when it is called, returns none of these.
        ValueError: it is no function.
    """
    require_function("evaluate", function)
    roles, read = _roles(function), _ResultReader(like)
    by_role = roles is not None and ({"model", "batches"} <= set(roles.values()) or _finds(function, model))
    if not by_role and not _takes_two(function):
        raise NotAdaptable(
            f"your evaluate function {_signature(function)} must accept (model, batches), or find the very model and "
            "loader that run_checks is given by name"
        )

    def evaluate(m: nn.Module, batches: Any) -> Any:
        with _in_place_of(function, [(val, batches), *_stand_ins(function, model, m)]):
            if roles is not None and by_role:
                return read(_call(function, roles, _parts(m, batches, None, loss, None)))
            return read(function(m, batches))

    return evaluate


def _takes_two(function: Callable) -> bool:
    """Return whether a function can be called as `evaluate(model, batches)`."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True


class _ResultReader:
    """Reads loss and accuracy out of what an evaluation returns; the first result decides how."""

    def __init__(self, like: metrics.Sums | None) -> None:
        self.like, self.swapped, self.percent = like, False, False

    def __call__(self, result: Any) -> Any:
        """Return loss and accuracy, or raise NotAdaptable if there is no number in the result."""
        if hasattr(result, "loss") and hasattr(result, "accuracy"):
            return result
        loss, accuracy = _in_mapping(result) if isinstance(result, Mapping) else self._in_row(result)
        self._decide_scale(accuracy)
        self.like = None
        if accuracy is not None and (self.percent or accuracy > 1):
            return Reported(loss, accuracy / 100, percent=True)
        return Reported(loss, accuracy)

    def _in_row(self, result: Any) -> tuple[float | None, float]:
        values = [_number(value) for value in (result if isinstance(result, tuple | list) else [result])]
        numbers = [value for value in values if value is not None]
        if not numbers:
            raise NotAdaptable(
                f"your evaluate function returns {type(result).__name__}: let it return the accuracy, or "
                "(loss, accuracy)"
            )
        if len(numbers) == 1:
            return None, numbers[0]
        if self.like is not None:
            self.swapped = abs(numbers[1] - self.like.loss) < abs(numbers[0] - self.like.loss)
        return (numbers[1], numbers[0]) if self.swapped else (numbers[0], numbers[1])

    def _decide_scale(self, accuracy: float | None) -> None:
        """Remember whether accuracies come in percent, if this one tells."""
        if accuracy is not None and self.like is not None and accuracy > 0:
            near = 0.5 / self.like.count
            self.percent = abs(accuracy / 100 - self.like.accuracy) < near <= abs(accuracy - self.like.accuracy)


def _in_mapping(result: Mapping) -> tuple[float | None, float | None]:
    """Return loss and accuracy of a mapping, by its keys."""
    plain = {re.sub("[^a-z0-9]", "", str(key).lower()): value for key, value in result.items()}
    loss, accuracy, first = (_pick(plain, kind) for kind in ("loss", "acc", "top1"))
    return loss, first if accuracy is None else accuracy


def _pick(values: Mapping[str, Any], kind: str) -> float | None:
    """Return the first number whose key holds `kind`."""
    return next((_number(value) for key, value in values.items() if kind in key), None)


def _number(value: Any) -> float | None:
    """Return a number, or a tensor or array of one, as a float; None for anything else."""
    if isinstance(value, bool | str) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
