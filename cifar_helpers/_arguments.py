"""Arguments that are not allowed: one sentence that names the argument, its value and what is allowed."""

import difflib
from collections.abc import Iterable


def require(condition: bool, argument: str, value: object, allowed: str) -> None:
    """Raise a ValueError unless `condition` holds."""
    if not condition:
        raise ValueError(f"{argument}={value!r} is not allowed: {allowed}")


def require_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise a ValueError that offers the nearest of `choices`, unless `value` is one of them."""
    choices = tuple(choices)
    if value in choices:
        return
    nearest = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"{argument}={value!r} is not known: choose one of {', '.join(choices)}.{hint}")
