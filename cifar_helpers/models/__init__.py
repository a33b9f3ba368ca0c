"""Networks by name, and what they are made of: layer table, receptive field, feature maps."""

from cifar_helpers.models.networks import (
    ACTIVATIONS,
    MODELS,
    Described,
    GlobalMax,
    ModelConfig,
    ResidualBlock,
    Scale,
    build_model,
    make_model,
    whiten,
)
from cifar_helpers.models.summary import (
    Layer,
    activation_spreads,
    count_parameters,
    feature_maps,
    gradient_sizes,
    layer_table,
    receptive_field,
)

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "Described",
    "GlobalMax",
    "Layer",
    "ModelConfig",
    "ResidualBlock",
    "Scale",
    "activation_spreads",
    "build_model",
    "count_parameters",
    "feature_maps",
    "gradient_sizes",
    "layer_table",
    "make_model",
    "receptive_field",
    "whiten",
]
