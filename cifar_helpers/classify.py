"""A trained network with all that belongs to it, from one file: top classes for your own pictures.

classifier = pretrained("cifar10")  # or load_model("build/my_run.safetensors")
for name, probability in classifier.predict("my_dog.jpg"):
    print(f"{probability:6.1%} {name}")
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cifar_helpers._arguments import require, require_choice, require_model, require_names, require_path, require_whole
from cifar_helpers._contract import check_logits, naming_images
from cifar_helpers.data.download import SOURCES
from cifar_helpers.data.folders import readable_endings
from cifar_helpers.data.pictures import Picture, to_square
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.training.evaluation import evaluating
from cifar_helpers.transfer import load_network

__all__ = ["Classifier", "find_pictures", "load_model", "pretrained", "pretrained_path"]

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Classifier:
    """A network, which answers in evaluation mode, the normalisation it was trained with and the names of its classes.

    Raises:
        ValueError: one of them is something else, or a name is there twice.
    """

    model: nn.Module
    normaliser: Normaliser
    class_names: tuple[str, ...]
    image_size: int

    def __post_init__(self) -> None:
        require_model(self.model)
        require(
            isinstance(self.normaliser, Normaliser), "normaliser", self.normaliser, "a Normaliser, that of training"
        )
        require_names("class_names", self.class_names)
        require_whole("image_size", self.image_size)

    def predict(self, picture: Picture, k: int = 5) -> list[tuple[str, float]]:
        """Return the k likeliest classes of one picture of any size with their probabilities, likeliest first.

        The picture is turned upright, its centre square is cut out and scaled to what the network knows.

        Args:
            picture: a path, the bytes of a file, a PIL image, a uint8 array or a uint8 tensor, as in `data.to_square`.
            k: 1 or more; more than there are classes gives all of them.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no picture, several, or of a kind that is refused, or `k` is below 1; or the network does
                not take images of this size, or gives no finite logits.
        """
        require_whole("k", k, allowed="a whole number, 1 or more")
        images = to_square(picture, self.image_size)[None]
        normalised = self.normaliser(images)
        with naming_images(self.model, normalised), evaluating(self.model):
            probabilities = check_logits(self.model(normalised), images).float().softmax(1)[0]
        count = len(probabilities)
        finite = bool(probabilities.isfinite().all())
        require(finite, "model", type(self.model).__name__, "a network whose outputs are finite; its weights are not")
        require(len(self.class_names) == count, "class_names", self.class_names, f"{count}, one for each output")
        top = probabilities.topk(min(k, len(self.class_names)))
        return [(self.class_names[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


def load_model(path: str | Path) -> Classifier:
    """Return the best network of a finished or unfinished run from its checkpoint, on the CPU.

    Its pictures have the size that the network knows: of a fine-tuned one that to which it scales every image.

    Raises:
        CheckpointError: the file is damaged, or holds a model that neither `models.make_model` nor
            `transfer.make_transfer_model` made.
        ValueError: it is no path.
    """
    return Classifier(*load_network(path))


def pretrained(dataset: str = "cifar10") -> Classifier:
    """Return a network of the package for one of the data sets, which needs no training and no download.

    It is the recipe `final` of notebook 06, half a million weights, trained on the 45,000 training images.
    `weights/README.md` in the package says how good it is.

    Raises:
        ValueError: `dataset` is neither "cifar10" nor "cifar100".
    """
    return load_model(pretrained_path(dataset))


def pretrained_path(dataset: str = "cifar10") -> Path:
    """Return the path of the checkpoint that `pretrained` loads, for example for `transfer.own_backbone`.

    Raises:
        ValueError: `dataset` is neither "cifar10" nor "cifar100".
    """
    require_choice("dataset", dataset, SOURCES)
    return _WEIGHTS / f"final-{dataset}.safetensors"


def find_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures in a folder by name, as their endings say; what is hidden and sub-folders are left alone.

    Raises:
        ValueError: there is no such folder, or no picture in it.
    """
    require_path("folder", folder)
    endings = readable_endings()
    visible = (path for path in Path(folder).glob("[!.]*") if path.is_file())
    found = sorted(path for path in visible if path.suffix.lower() in endings)
    require(bool(found), "folder", str(folder), "one with pictures in it, such as photo.jpg")
    return found
