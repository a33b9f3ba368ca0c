"""What a profile grants: one budget each for a first look, a laptop and a GPU."""

import dataclasses
import os
from dataclasses import dataclass

import torch

from cifar_helpers._arguments import require_choice
from cifar_helpers.course.colab import on_colab
from cifar_helpers.runtime import pick_device

__all__ = ["FULL", "LAPTOP", "PROFILES", "QUICK", "Budget", "get_budget", "profile_rank"]


@dataclass(frozen=True)
class Budget:
    """What a profile grants; read at the call that spends it, and nowhere else.

    Attributes:
        train_images, eval_images: images that a data set contributes to training and to validation.
        epochs: of a baseline run.
        seeds: repetitions of a comparison.
        max_steps: bound on the optimizer steps of one run, None for no bound.
        reference_images, query_images: images that a nearest-neighbour search looks in and for.
        tsne_points: images shown to t-SNE, whose cost grows faster than linearly.
    """

    profile: str
    train_images: int
    eval_images: int
    epochs: int
    seeds: int
    max_steps: int | None
    reference_images: int
    query_images: int
    tsne_points: int


QUICK = Budget(
    "quick",
    train_images=10_000,
    eval_images=2_000,
    epochs=4,
    seeds=1,
    max_steps=300,
    reference_images=10_000,
    query_images=2_000,
    tsne_points=600,
)
LAPTOP = Budget(
    "laptop",
    train_images=45_000,
    eval_images=5_000,
    epochs=10,
    seeds=2,
    max_steps=None,
    reference_images=50_000,
    query_images=10_000,
    tsne_points=2_000,
)
FULL = dataclasses.replace(LAPTOP, profile="full", epochs=20, seeds=5, tsne_points=5_000)

# From the smallest to the largest: a later profile outranks an earlier one.
PROFILES = {budget.profile: budget for budget in (QUICK, LAPTOP, FULL)}


def get_budget(profile: str | None = None) -> Budget:
    """Return the budget of `profile`; by default of CIFAR_PROFILE, else the one that suits this machine.

    That is `full` on a GPU of compute capability 8.0 or more, `laptop` on an older one, such as the T4 of Colab, and
    without any, and `quick` on Colab without a GPU, where a session may end before a longer one does.

    Raises:
        ValueError: no profile has this name.
    """
    profile = profile or os.environ.get("CIFAR_PROFILE") or _suit_machine()
    require_choice("profile (CIFAR_PROFILE)", profile, PROFILES)
    return PROFILES[profile]


def _suit_machine() -> str:
    """Return the default profile of this machine."""
    device = pick_device()
    if device.type == "cuda":
        return "full" if torch.cuda.get_device_capability(device) >= (8, 0) else "laptop"
    return "quick" if on_colab() else "laptop"


def profile_rank(profile: str) -> int:
    """Return the place of a profile in the order quick, laptop, full; -1 for a name that is none of them."""
    return list(PROFILES).index(profile) if profile in PROFILES else -1
