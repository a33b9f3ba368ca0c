"""Train image classifiers on CIFAR-10, CIFAR-100 and your own pictures, and check that the training is right.

The names below are what most programs need; each package says in its `__all__` what else there is. `metrics`,
`statistics`, `plots`, `transfer`, `submission` and `course` are modules of their own.
"""

from cifar_helpers.checks import run_checks
from cifar_helpers.classify import Classifier, load_model, pretrained
from cifar_helpers.data import (
    Batches,
    DataError,
    Flip,
    Normaliser,
    PadCrop,
    Split,
    load_data,
    make_batches,
    read_image_folder,
)
from cifar_helpers.models import layer_table, make_model
from cifar_helpers.training import (
    CheckpointError,
    EarlyStopping,
    RunRecord,
    TrainConfig,
    TrainingDiverged,
    evaluate,
    fit,
    load_checkpoint,
    predict,
    sweep,
    train_epoch,
)

__version__ = "1.0.0"

__all__ = [
    "Batches",
    "CheckpointError",
    "Classifier",
    "DataError",
    "EarlyStopping",
    "Flip",
    "Normaliser",
    "PadCrop",
    "RunRecord",
    "Split",
    "TrainConfig",
    "TrainingDiverged",
    "evaluate",
    "fit",
    "layer_table",
    "load_checkpoint",
    "load_data",
    "load_model",
    "make_batches",
    "make_model",
    "predict",
    "pretrained",
    "read_image_folder",
    "run_checks",
    "sweep",
    "train_epoch",
]
