"""A trained network with all that belongs to it, from one file: top classes for your own pictures.

classifier = load_model("build/my_run.safetensors")
for name, probability in classifier.predict("my_dog.jpg"):
    print(f"{probability:6.1%} {name}")
"""

import inspect
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import nn

from cifar_helpers._arguments import require
from cifar_helpers._storage import CheckpointError
from cifar_helpers.data.pictures import Picture, to_square
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.models.networks import make_model
from cifar_helpers.training.checkpoint import load_checkpoint

__all__ = ["Classifier", "load_model"]


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode, the normalisation it was trained with and the names of its classes."""

    model: nn.Module
    normaliser: Normaliser
    class_names: tuple[str, ...]
    image_size: int

    def predict(self, picture: Picture, k: int = 5) -> list[tuple[str, float]]:
        """Return the k likeliest classes of one picture of any size with their probabilities, likeliest first.

        The picture is turned upright, its centre square is cut out and scaled to what the network knows.

        Args:
            picture: a path, the bytes of a file, a PIL image, a uint8 array or a uint8 tensor, as in `data.to_square`.
            k: 1 or more; more than there are classes gives all of them.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no picture, several, or of a kind that is refused, or `k` is below 1.
        """
        require(isinstance(k, Integral) and k >= 1, "k", k, "a whole number, 1 or more")
        images = to_square(picture, self.image_size)[None]
        with torch.inference_mode():
            probabilities = self.model(self.normaliser(images)).float().softmax(1)[0]
        top = probabilities.topk(min(k, len(self.class_names)))
        return [(self.class_names[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


def load_model(path: str | Path) -> Classifier:
    """Return the best network of a finished or unfinished run from its checkpoint, on the CPU.

    Raises:
        CheckpointError: the file is damaged, or holds a model that `models.make_model` did not make.
    """
    found = load_checkpoint(path)
    arguments = inspect.signature(make_model).parameters
    spec = {key: value for key, value in found.identity["model"].items() if key in arguments}
    if found.normaliser is None or not found.class_names or "num_classes" not in spec:
        raise CheckpointError(
            f"{path} does not say how to build its network: load_model needs a model from make_model, trained on "
            "Batches. A network of your own takes its weights with "
            "model.load_state_dict(load_checkpoint(path).weights)."
        )
    model = make_model(**spec)
    model.load_state_dict(found.weights)
    return Classifier(model.eval(), found.normaliser, found.class_names, spec["image_size"])
