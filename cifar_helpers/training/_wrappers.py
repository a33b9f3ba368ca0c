"""Networks inside torch.compile and DataParallel, which put a prefix before the name of every weight.

A state dict that is kept has the names of the plain network: a file that was written with two GPUs or a compiler is
read without them.
"""

from collections.abc import Mapping

import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside torch.compile, DataParallel or DistributedDataParallel; any other as it is."""
    while _inner(model):
        model = getattr(model, _inner(model))
    return model


def _inner(module: nn.Module) -> str:
    """Return the attribute under which a module holds the network that it wraps; "" if it wraps none."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    return "_orig_mod" if "_orig_mod" in getattr(module, "_modules", {}) else ""  # its class is slow to import


def plain_names(model: nn.Module) -> dict[str, str]:
    """Return, for each name of the state dict, the name without wrappers; parts of a network may be wrapped too."""
    wrappers = {name: _inner(module) for name, module in model.named_modules(remove_duplicate=False) if _inner(module)}
    names = {}
    for key in model.state_dict():
        plain = key
        for name in sorted(wrappers, key=len, reverse=True):  # the innermost first
            place = f"{name}." if name else ""
            if plain.startswith(f"{place}{wrappers[name]}."):
                plain = place + plain.removeprefix(f"{place}{wrappers[name]}.")
        names[key] = plain
    return names


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a network under the names that it has without wrappers."""
    names = plain_names(model)
    return {names[key]: value for key, value in model.state_dict().items()}


def load_plain_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network, wrapped or not, what `plain_state` returned."""
    keys = {plain: key for key, plain in plain_names(model).items()}
    model.load_state_dict({keys.get(name, name): value for name, value in state.items()})
