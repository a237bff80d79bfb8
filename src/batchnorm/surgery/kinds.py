"""What a module is to surgery, decided by explicit tables: nothing is guessed from a name.

A module counts as one of a table only if it runs that class's `forward`: a subclass with a forward
of its own may do anything, so it is `UNKNOWN`. A parametrized module keeps its class's forward.
"""

from enum import Enum

import torch
from torch import nn


class Kind(Enum):
    """The role of one module in a sequence of modules."""

    LAYER = "a layer with weights, which may have an activation"
    ACTIVATION = "an activation of hidden layers"
    OUTPUT = "a function that turns scores into probabilities"
    NORM = "a normalization"
    PASSIVE = "neither a layer, nor an activation, nor a normalization"
    UNKNOWN = "a module with a forward of its own"


DIM_BY_LAYER: dict[type[nn.Module], int] = {
    nn.Linear: 1,
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
"""The batch normalization (1d, 2d, 3d) that belongs after each kind of layer."""

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)

OUTPUTS: tuple[type[nn.Module], ...] = (nn.LogSoftmax, nn.Softmax, nn.Softmax2d, nn.Softmin)

RANGES: tuple[type[nn.Module], ...] = (
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.LogSigmoid,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
"""Activations that, as the last step of a network, give its output the range that a target has."""

NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalization of every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)

ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.AlphaDropout,
    nn.CrossMapLRN2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.FeatureAlphaDropout,
    nn.Identity,
    nn.LocalResponseNorm,
)

SPATIAL: tuple[type[nn.Module], ...] = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.CircularPad1d,
    nn.CircularPad2d,
    nn.CircularPad3d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.ConstantPad3d,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.LPPool1d,
    nn.LPPool2d,
    nn.LPPool3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
    nn.Upsample,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
)
"""Modules that keep the channels of a convolution and change only what lies behind them."""

RESHAPING: tuple[type[nn.Module], ...] = (
    nn.ChannelShuffle,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.Flatten,
    nn.Fold,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Unflatten,
    nn.Unfold,
)

_TABLES: tuple[tuple[Kind, tuple[type[nn.Module], ...]], ...] = (
    (Kind.LAYER, tuple(DIM_BY_LAYER)),
    (Kind.ACTIVATION, ACTIVATIONS),
    (Kind.OUTPUT, OUTPUTS),
    (Kind.PASSIVE, ELEMENTWISE + SPATIAL + RESHAPING),
)


def kind_of(module: nn.Module) -> Kind:
    """What the module is; `UNKNOWN` for whatever no table lists."""
    if isinstance(module, NORMS):
        return Kind.NORM
    return next((k for k, classes in _TABLES if runs_as(module, classes)), Kind.UNKNOWN)


def runs_as(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether the module runs the unchanged forward of one of the classes."""
    return any(
        isinstance(module, cls) and type(module).forward is cls.forward for cls in classes
    ) and "forward" not in vars(module)


def is_sequence(module: nn.Module) -> bool:
    """Whether calling the module is calling its children in order, and nothing else."""
    iterates = getattr(type(module), "__iter__", None)
    return runs_as(module, (nn.Sequential,)) and iterates is nn.Sequential.__iter__


def is_lazy(module: nn.Module) -> bool:
    """Whether some parameter or buffer waits for a first batch to get its shape."""
    tensors = [*module.parameters(), *module.buffers()]
    return any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors)


def dim_of(layer: nn.Module) -> int:
    """1, 2 or 3: which batch normalization belongs after the layer."""
    return next(dim for cls, dim in DIM_BY_LAYER.items() if isinstance(layer, cls))


def num_features_of(layer: nn.Module) -> int:
    """How many channels the layer gives out."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]
