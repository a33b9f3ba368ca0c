"""Arguments that are not allowed: one sentence that names the argument, its value and what is allowed."""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
from torch import nn


def require(condition: bool, argument: str, value: object, allowed: str) -> None:
    """Raise a ValueError unless `condition` holds."""
    if not condition:
        raise ValueError(f"{argument}={_show(value)} is not allowed: {allowed}")


def require_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise a ValueError that offers the nearest of `choices`, unless `value` is one of them."""
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return
    nearest = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{argument}={_show(value)} is not known: choose one of {', '.join(choices)}.{hint}")


def require_whole(argument: str, value: object, least: int = 1, allowed: str = "") -> None:
    """Raise a ValueError unless `value` is a whole number of `least` or more; True and False are none."""
    require(is_whole(value) and value >= least, argument, value, allowed or f"a whole number of at least {least}")


def require_number(argument: str, value: object, least: float = -math.inf, allowed: str = "") -> None:
    """Raise a ValueError unless `value` is a finite number of `least` or more; True and False are none."""
    usual = "a number, not NaN or infinite" if least == -math.inf else f"a number of {least} or more"
    require(is_number(value) and value >= least, argument, value, allowed or usual)


def require_positive(argument: str, value: object, allowed: str = "a positive number") -> None:
    """Raise a ValueError unless `value` is a finite number above 0."""
    require(is_number(value) and value > 0, argument, value, allowed)


def require_fraction(argument: str, value: object, allowed: str) -> None:
    """Raise a ValueError unless `value` is a number in [0, 1]."""
    require(is_number(value) and 0 <= value <= 1, argument, value, allowed)


def require_share(argument: str, value: object, allowed: str = "a number in [0, 1)") -> None:
    """Raise a ValueError unless `value` is a number in [0, 1)."""
    require(is_number(value) and 0 <= value < 1, argument, value, allowed)


def require_seed(value: object, argument: str = "seed") -> None:
    """Raise a ValueError unless `value` is a whole number that torch takes as a seed."""
    require(is_whole(value), argument, value, "a whole number")
    require(-(2**63) <= value < 2**64, argument, value, "a whole number of 64 bits")  # type: ignore[operator]


def require_function(argument: str, value: object, allowed: str = "a function") -> None:
    """Raise a ValueError unless `value` can be called."""
    require(callable(value), argument, value, allowed)


def require_made_function(argument: str, value: object, allowed: str) -> None:
    """Raise a ValueError unless `value` can be called and is no class: calling that would only make an instance."""
    require_function(argument, value, allowed)
    require(not isinstance(value, type), argument, value, f"{allowed}; this is a class")


def require_model(model: object, argument: str = "model") -> None:
    """Raise a ValueError unless `model` is a network, and not the class of one."""
    made = "; this is a class, which has to be called first" if isinstance(model, type) else ""
    require(isinstance(model, nn.Module), argument, model, f"a torch.nn.Module{made}")


def require_trainable(model: Any) -> None:
    """Raise a ValueError unless `model` is a network with something to train."""
    require_model(model)
    trainable = any(p.requires_grad for p in model.parameters())
    require(trainable, "model", type(model).__name__, "a network with a parameter that requires a gradient")


def require_parameters(model: Any) -> None:
    """Raise a ValueError unless `model` is a network with parameters."""
    require_model(model)
    require(any(True for _ in model.parameters()), "model", type(model).__name__, "a network with parameters")


def require_flag(argument: str, value: object) -> None:
    """Raise a ValueError unless `value` is True or False, or 1 or 0, as other libraries have them."""
    flag = isinstance(value, bool | np.bool_) or (is_whole(value) and value in (0, 1))
    require(flag, argument, value, "True or False")


def require_path(argument: str, value: object) -> None:
    """Raise a ValueError unless `value` is a path as a text or a Path."""
    require(is_path(value), argument, value, "a path, as a text or a pathlib.Path")


def require_names(argument: str, value: Any) -> None:
    """Raise a ValueError unless `value` holds one or more texts, each once."""
    listed = isinstance(value, list | tuple) and len(value) > 0
    several = listed and all(isinstance(name, str) and name.strip() for name in value)
    require(several, argument, value, "several names, such as ('cat', 'dog')")
    require(len(set(value)) == len(value), argument, value, "each name once")


def require_augmentations(argument: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a tuple or list of augmentations, or of functions of an image."""
    advice = "instances of augmentations, or callables, in a tuple, also of one: (Flip(),)"
    require(isinstance(value, list | tuple), argument, value, advice)
    for one in value:
        require(not isinstance(one, type) and (callable(one) or hasattr(one, "draw")), argument, value, advice)


def is_path(value: object) -> bool:
    """Return whether a value is a path that a file can have."""
    return isinstance(value, str | os.PathLike) and str(value) != "" and "\0" not in str(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def make_plain(instance: Any) -> None:
    """Give a frozen dataclass its numbers of NumPy as those of Python, which JSON knows, and random streams too."""
    for field in dataclasses.fields(instance):
        object.__setattr__(instance, field.name, plain_number(getattr(instance, field.name)))


def plain_number(value: Any) -> Any:
    """Return a number of NumPy as one of Python, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


_LONGEST = 200  # characters of a value in a message


def _show(value: object) -> str:
    """Return a value in one line: arrays and tensors by type and shape, what is long by its beginning."""
    if getattr(value, "shape", ()) != () and hasattr(value, "dtype"):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"  # type: ignore[attr-defined]
    text = repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
