"""Arguments that are not allowed: one sentence that names the argument, its value and what is allowed."""

import difflib
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeGuard


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


def require_fraction(argument: str, value: object, allowed: str) -> None:
    """Raise a ValueError unless `value` is a number in [0, 1]."""
    require(is_number(value) and 0 <= value <= 1, argument, value, allowed)


def require_function(argument: str, value: object) -> None:
    """Raise a ValueError unless `value` can be called."""
    require(callable(value), argument, value, "a function")


def require_path(argument: str, value: object) -> None:
    """Raise a ValueError unless `value` is a path as a text or a Path."""
    require(isinstance(value, str | os.PathLike), argument, value, "a path, as a text or a pathlib.Path")


def require_names(argument: str, value: Any) -> None:
    """Raise a ValueError unless `value` holds one or more texts, each once."""
    several = isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(name, str) for name in value)
    require(several, argument, value, "several names, such as ('cat', 'dog')")
    require(len(set(value)) == len(value), argument, value, "each name once")


def require_augmentations(argument: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a tuple or list of augmentations, or of functions of an image."""
    advice = "instances of augmentations, or callables, in a tuple, also of one: (Flip(),)"
    require(isinstance(value, list | tuple), argument, value, advice)
    for one in value:
        require(not isinstance(one, type) and (callable(one) or hasattr(one, "draw")), argument, value, advice)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


_LONGEST = 200  # characters of a value in a message


def _show(value: object) -> str:
    """Return a value in one line: arrays and tensors by type and shape, what is long by its beginning."""
    if getattr(value, "shape", ()) != () and hasattr(value, "dtype"):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"  # type: ignore[attr-defined]
    text = repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
