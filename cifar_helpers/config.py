"""What a run is told: its configuration, and the budget that the profile grants it."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass

import torch

from cifar_helpers.arguments import require, require_choice

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "triangular", "one-cycle")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a network is trained, as plain values.

    An experiment is a difference: `dataclasses.replace(BASE, lr=0.2)`.

    Attributes:
        model: a name that `models.make_model` knows, or "custom" for a module of one's own.
        width: factor on every hidden width of the model.
        dropout: probability before the last linear layer, in [0, 1).
        activation: a name that `models.ACTIVATIONS` knows; None keeps the network's own.
        epochs: passes over the training images.
        batch_size: images per step.
        lr: peak learning rate, reached after the warm-up.
        momentum: of SGD; Adam and AdamW keep their own betas.
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
        image_sizes: pairs (share of all steps, pixels): from this share on, training images have this size. () leaves
            them as they are; validation is always at full size.
        augment: augmentations from `augment`, applied in order to the training batches only.
        patience: stop after this many epochs without a better validation accuracy; None never stops.
        max_steps: stop after this many optimizer steps in all; None leaves it to `epochs`.
        seed: decides initial weights, order of images, augmentation and dropout.
        precision: "auto" takes the fastest type that the device really has.
        compile: run the model through `torch.compile`.
        deterministic: on CUDA ask for deterministic kernels; a CPU is deterministic without it.
    """

    model: str = "custom"
    width: float = 1.0
    dropout: float = 0.0
    activation: str | None = None
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
    image_sizes: tuple[tuple[float, int], ...] = ()
    augment: tuple = ()
    patience: int | None = None
    max_steps: int | None = None
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "a whole number of at least 1")
        for name in ("patience", "max_steps"):
            value = getattr(self, name)
            require(value is None or (isinstance(value, int) and value >= 1), name, value, "None, or at least 1")
        require(0 < self.lr < float("inf"), "lr", self.lr, "a positive number; typical values are 1e-4 to 1")
        require(self.width > 0, "width", self.width, "a positive factor; 0.5 halves every layer")
        require(self.norm_bias_lr > 0, "norm_bias_lr", self.norm_bias_lr, "a positive factor; 1 changes nothing")
        require(
            0 < self.layer_lr_decay <= 1, "layer_lr_decay", self.layer_lr_decay, "a factor in (0, 1]; 1 is no decay"
        )
        shares = [share for share, _ in self.image_sizes]
        ordered = shares == sorted(set(shares)) and shares[:1] in ([], [0]) and all(share < 1 for share in shares)
        sized = all(isinstance(size, int) and size >= 8 for _, size in self.image_sizes)
        allowed = "rising shares from 0 to below 1, each with whole pixels of 8 or more: ((0, 24), (0.5, 32))"
        require(ordered and sized, "image_sizes", self.image_sizes, allowed)
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.mixup >= 0, "mixup", self.mixup, "0 for none, or a positive parameter; 0.2 is usual")
        for name in ("momentum", "warmup", "label_smoothing", "dropout", "ema"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        require(not self.nesterov or self.momentum > 0, "nesterov", True, "Nesterov needs a momentum above 0")

    def to_dict(self) -> dict:
        """Return the configuration as JSON-ready plain values; each augmentation is named by its class."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["image_sizes"] = [list(pair) for pair in self.image_sizes]
        plain["augment"] = [{"name": type(a).__name__, **dataclasses.asdict(a)} for a in self.augment]
        return plain


def digest(value: object) -> str:
    """Return twelve hexadecimal digits that identify a JSON-ready value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Budget:
    """What a profile grants; read at the call that spends it, and nowhere else.

    Attributes:
        train_images, eval_images: images a data set contributes to training and to validation.
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
    """Return the budget of `profile`; by default of CIFAR_PROFILE, else `full` with CUDA and `laptop` without."""
    profile = profile or os.environ.get("CIFAR_PROFILE") or ("full" if torch.cuda.is_available() else "laptop")
    require_choice("profile (CIFAR_PROFILE)", profile, PROFILES)
    return PROFILES[profile]


def profile_rank(profile: str) -> int:
    """Return the place of a profile in the order quick, laptop, full; -1 for a name that is none of them."""
    return list(PROFILES).index(profile) if profile in PROFILES else -1
