"""Training: the configuration, the loop, evaluation, optimizers, callbacks, checkpoints and records."""

from cifar_helpers.training.callbacks import (
    BestWeights,
    Callback,
    CSVLogger,
    EarlyStopping,
    LiveCurve,
    OnEpochEnd,
    OnFitEnd,
    OnFitStart,
    TensorBoardLogger,
)
from cifar_helpers.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_rounded
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import evaluate, evaluating, predict
from cifar_helpers.training.loop import fit, sweep, tabulate, train_epoch
from cifar_helpers.training.optim import lr_factor, make_optimizer, parameter_groups, set_lr
from cifar_helpers.training.records import EpochRecord, RunRecord, TrainingDiverged, best_epoch

__all__ = [
    "BestWeights",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "EarlyStopping",
    "EpochRecord",
    "LiveCurve",
    "OnEpochEnd",
    "OnFitEnd",
    "OnFitStart",
    "RunRecord",
    "TensorBoardLogger",
    "TrainConfig",
    "TrainingDiverged",
    "best_epoch",
    "evaluate",
    "evaluating",
    "fit",
    "load_checkpoint",
    "lr_factor",
    "make_optimizer",
    "parameter_groups",
    "predict",
    "save_rounded",
    "set_lr",
    "sweep",
    "tabulate",
    "train_epoch",
]
