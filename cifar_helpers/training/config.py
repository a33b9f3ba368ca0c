"""How a network is trained, as one frozen value."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cifar_helpers._arguments import (
    is_number,
    is_whole,
    make_plain,
    require,
    require_augmentations,
    require_choice,
    require_share,
)
from cifar_helpers.data.transforms import TRANSFORMS, Transform, describe_transform
from cifar_helpers.training.optim import OPTIMIZERS, SCHEDULES, check_settings

__all__ = ["TrainConfig"]

_PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a network is trained, as plain values; the network itself is not among them.

    An experiment is a difference: `dataclasses.replace(BASE, lr=0.2)`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        lr: peak learning rate, reached after the warm-up.
        momentum: of SGD; Adam and AdamW keep their own betas.
        muon_lr: peak learning rate of the convolutions with the optimizer "muon"; `lr` is that of all else then.
        weight_decay: applied to weights of two or more dimensions, never to biases and norms.
        schedule: "constant", "cosine" to 0, "triangular" (linear up, linear down to 0), or "one-cycle", a cosine up
            and a cosine down.
        warmup: fraction of all steps in which the learning rate rises from 0, in [0, 1).
        label_smoothing: share of the target spread over all classes, in [0, 1).
        mixup: parameter of the Beta distribution from which a batch draws how to mix two images; 0 mixes none.
        ema: decay per step of the mean of the weights that validation sees and the run returns; 0 takes no mean.
        norm_bias_lr: factor on the learning rate of the biases of BatchNorm.
        layer_lr_decay: factor on the learning rate from one layer to the one before it; below 1 the first layers of a
            pretrained network hardly move.
        frozen_layers: the first layers with weights that are not trained; no gradient is computed through them.
        image_sizes: pairs (share of all steps, pixels): from this share on, training images have this size. () leaves
            them as they are; validation is always at full size.
        augment: augmentations from `data.transforms`, or callables such as those of `torchvision.transforms.v2`,
            applied in order to the training batches only.
        patience: stop after this many epochs without a better validation accuracy; None never stops.
        max_steps: stop after this many optimizer steps in all; None leaves it to `epochs`.
        replicas: parts of a batch that copies of the network compute side by side on a CPU, each with BatchNorm
            statistics of its own; None takes one for each core, while a part has 32 images or more and the network
            more to compute than gradients to add (an MLP has not).
        seed: decides order of images, augmentation and dropout; the initial weights are the model's.
        precision: "auto" takes the fastest type that the device really has.
        compile: run the model through `torch.compile`.
        deterministic: on CUDA ask for deterministic kernels; a CPU is deterministic without it.

    Raises:
        ValueError: a value of a wrong type or out of range, named.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    norm_bias_lr: float = 1.0
    layer_lr_decay: float = 1.0
    muon_lr: float = 0.2
    frozen_layers: int = 0
    image_sizes: tuple[tuple[float, int], ...] = ()
    augment: tuple[Transform, ...] = ()
    patience: int | None = None
    max_steps: int | None = None
    replicas: int | None = None
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        self._check_types()
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("precision", self.precision, _PRECISIONS)
        for name in ("epochs", "batch_size", "patience", "max_steps", "replicas"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "a whole number of at least 1")
        check_settings(
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            norm_bias_lr=self.norm_bias_lr,
            layer_lr_decay=self.layer_lr_decay,
            muon_lr=self.muon_lr,
        )
        require(self.frozen_layers >= 0, "frozen_layers", self.frozen_layers, "a whole number of 0 or more")
        require(self.mixup >= 0, "mixup", self.mixup, "0 for none, or a positive parameter; 0.2 is usual")
        for name in ("warmup", "label_smoothing", "ema"):
            require_share(name, getattr(self, name))

    def _check_types(self) -> None:
        """Raise a ValueError for a value that is not of its field's type; a bool is no number."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in _KINDS and not (value is None and field.type == (int | None)):
                is_right, allowed = _KINDS[field.type]
                require(is_right(value), field.name, value, allowed)
        _check_augment(self.augment)
        _check_sizes(self.image_sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready plain values; each augmentation is named by its class."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["image_sizes"] = [list(pair) for pair in self.image_sizes]
        plain["augment"] = [describe_transform(transform) for transform in self.augment]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration that `to_dict` turned into plain values; missing fields have their defaults.

        Raises:
            ValueError: an unknown field, or an augmentation that is not of `data.transforms`: pass it again yourself.
        """
        require(isinstance(plain, Mapping), "plain", plain, "a mapping of names to values, as to_dict returns it")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in plain:
            require_choice("field", name, known)
        augment = plain.get("augment", ())
        if isinstance(augment, list | tuple):
            augment = tuple(_make_transform(row) for row in augment)
        sizes = _to_tuples(plain.get("image_sizes", ()))
        return cls(**{**plain, "image_sizes": sizes, "augment": augment})


_KINDS: dict[object, tuple[Callable[[object], bool], str]] = {
    int: (is_whole, "a whole number"),
    int | None: (is_whole, "a whole number, or None"),
    float: (is_number, "a number, not NaN or infinite"),
    bool: (lambda value: isinstance(value, bool), "True or False"),
    str: (lambda value: isinstance(value, str), "a text"),
}


def _check_augment(augment: object) -> None:
    advice = "a tuple such as (Flip(),); TrainConfig.from_dict reads JSON"
    require(isinstance(augment, tuple), "augment", augment, advice)
    require_augmentations("augment", augment)


def _check_sizes(sizes: object) -> None:
    allowed = "rising shares from 0 to below 1, each with whole pixels of 8 or more: ((0, 24), (0.5, 32))"
    pairs = isinstance(sizes, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in sizes)
    require(pairs, "image_sizes", sizes, allowed)
    shares = [share for share, _ in sizes]  # type: ignore[attr-defined]  # it is a tuple of pairs
    numbers = all(is_number(share) for share in shares)
    ordered = numbers and shares == sorted(set(shares)) and shares[:1] in ([], [0]) and all(s < 1 for s in shares)
    sized = all(is_whole(size) and size >= 8 for _, size in sizes)  # type: ignore[attr-defined]
    require(ordered and sized, "image_sizes", sizes, allowed)


def _to_tuples(value: Any) -> Any:
    """Return lists, also those inside lists, as tuples, and anything else as it is."""
    return tuple(_to_tuples(member) for member in value) if isinstance(value, list | tuple) else value


def _make_transform(row: Mapping[str, Any]) -> Transform:
    written = isinstance(row, Mapping) and "name" in row
    require(written, "augment", row, "what to_dict wrote, such as {'name': 'Flip', 'p': 0.5}")
    name = row["name"]
    advice = f"one of {', '.join(TRANSFORMS)}; another one is passed by yourself: replace(config, augment=(…,))"
    require(name in TRANSFORMS, "augment", name, advice)
    values = {key: _to_tuples(value) for key, value in row.items() if key != "name"}
    for key in values:
        require_choice("field", key, [field.name for field in dataclasses.fields(TRANSFORMS[name])])
    return TRANSFORMS[name](**values)
