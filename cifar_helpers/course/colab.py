"""What is different on Colab: a slow machine where there is no GPU, and files that are gone when the session ends."""

import os

from cifar_helpers.runtime import pick_device

__all__ = ["KEEP", "colab_advice", "on_colab"]

# A line for a cell above all others.
KEEP = (
    'import os; from google.colab import drive; drive.mount("/content/drive"); '
    'os.environ["CIFAR_OUT"] = "/content/drive/MyDrive/cifar"'
)


def on_colab() -> bool:
    """Return whether this is a machine of Google Colab, which says so in a variable of the environment."""
    return "COLAB_RELEASE_TAG" in os.environ


def colab_advice(profile: str) -> list[str]:
    """Return what a reader on Colab should know before the first training, in a line each; elsewhere nothing.

    Args:
        profile: that of the notebook.
    """
    if not on_colab():
        return []
    advice = []
    if profile == "quick" and not os.environ.get("CIFAR_PROFILE") and pick_device().type == "cpu":
        advice.append(
            "Colab without a GPU: the quick profile, a first look. For the accuracies of the course choose a GPU "
            "(Runtime, Change runtime type), or have patience: a cell above all others with %env CIFAR_PROFILE=laptop"
        )
    if not os.environ.get("CIFAR_OUT"):
        advice.append(
            f"Colab forgets its files. To keep checkpoints on your Drive, a cell above all others with {KEEP}"
        )
    return advice
