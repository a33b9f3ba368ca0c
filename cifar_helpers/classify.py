"""A trained network with all that belongs to it, from one file: top classes for one's own pictures.

classifier = load_model("build/checkpoints/…/cnn.safetensors")
for name, probability in classifier.predict("my_dog.jpg"):
    print(f"{probability:6.1%} {name}")
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from cifar_helpers.augment import Normaliser, to_square
from cifar_helpers.models import make_model
from cifar_helpers.storage import CheckpointError, load_checkpoint


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode, the normalisation it was trained with and the names of its classes."""

    model: nn.Module
    normaliser: Normaliser
    class_names: tuple[str, ...]
    image_size: int

    def predict(self, picture: str | Path | Image.Image, k: int = 5) -> list[tuple[str, float]]:
        """Return the k likeliest classes of one picture of any size with their probabilities, likeliest first.

        The picture is turned upright, its centre square is cut out and scaled down to what the network knows.
        """
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
    tensors, about = load_checkpoint(Path(path))
    spec = dict(about.get("identity", {}).get("model", {}))
    for derived in ("layers", "weights"):
        spec.pop(derived, None)
    if not about.get("normaliser") or not about.get("class_names") or "num_classes" not in spec:
        raise CheckpointError(
            f"{path} does not say how to build its network: load_model needs a model from make_model, trained on "
            "Batches. For a network of your own use storage.load_checkpoint and load_state_dict."
        )
    model = make_model(**spec)
    prefix = "best/"
    model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    normaliser = Normaliser(**{k: tuple(v) for k, v in about["normaliser"].items()})
    return Classifier(model.eval(), normaliser, tuple(about["class_names"]), spec["image_size"])
