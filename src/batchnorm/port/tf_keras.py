"""tf.keras 2: as Keras 3, but the kernel for pictures keeps the unbiased running variance."""

from typing import Any

from torch import nn

from ..errors import OptionError
from . import numbers
from .boundary import names_layer
from .given import vectors
from .keras import KERAS, check_axis, keras_options
from .state import Exported, State, as_state, exported, ported


@names_layer
def from_tf_keras(
    arrays: Any,
    *,
    epsilon: float,
    momentum: float,
    fused: bool | None = None,
    scale: bool = True,
    center: bool = True,
    axis: Any = -1,
    count: float | None = None,
    updates: int | None = None,
    name: str = "",
) -> State:
    """Read a `tf.keras.layers.BatchNormalization` of Keras 2 (`tf_keras`).

    Args:
        arrays: As for `from_keras`; names may end in ":0", and begin with the layer's.
        epsilon: The layer's; the default there is 1e-3.
        momentum: The layer's, the weight of the old value; the default there is 0.99.
        fused: The layer's (`layer.fused` after its first call): True where a fused kernel has run,
            as it does by default for inputs with 4 axes, and with 5; it keeps the unbiased
            variance. Only needed with `count`.
        scale: The layer's; without it there is no gamma.
        center: The layer's; without it there is no beta.
        axis: The layer's; a list of one is one axis.
        count: Values per channel of a training batch (N, or N·H·W), to rescale a biased variance
            as PyTorch keeps it, for continued training; None, right for inference, copies it.
        updates: Batches that the statistics are of; as for `from_keras`.
        name: Of the layer, for messages.

    Returns:
        The record; `.layer(dims)` makes a layer of it, `load` fills those of a model.

    Raises:
        PortError: An array is missing or unknown, or a value cannot be.
        ShapeError: An array is not of shape (C,).
        DtypeError: An array is not floating point.
        OptionError: A number is out of its range, there are several axes, or `fused` is needed.

    Example:
        >>> arrays = {"bn/moving_mean:0": [0.0], "bn/moving_variance:0": [2.0]}
        >>> options = {"epsilon": 1e-3, "momentum": 0.99, "scale": False, "center": False}
        >>> from_tf_keras(arrays, fused=True, count=5, **options).var.item()  # unbiased already
        2.0
        >>> from_tf_keras(arrays, fused=False, count=5, **options).var.item()
        2.5

    Source: tf_keras/layers/normalization/batch_normalization.py, `_fused_batch_norm`.
    """
    check_axis(axis)
    return ported(
        vectors(arrays, KERAS, scale, center),
        eps=epsilon,
        momentum=numbers.turned(momentum, "momentum"),
        updates=updates,
        count=count,
        correction=_correction(fused, count),
        name=name,
        eps_name="epsilon",
    )


@names_layer
def to_tf_keras(
    layer: State | nn.Module,
    *,
    fused: bool | None = None,
    momentum: float | None = None,
    axis: int = -1,
    count: float | None = None,
    name: str = "",
) -> Exported:
    """Write a layer for tf.keras 2.

    Args:
        layer: A layer of this library or of torch, or a record.
        fused: Whether the layer there will use a fused kernel; only needed with `count`.
        momentum: The weight of the old value; None for the layer's, turned round.
        axis: Where the input there has its channels.
        count: Values per channel of a training batch, to rescale the variance by (n-1)/n where the
            layer there keeps the biased one; None copies it.
        name: Of the layer, for messages.

    Returns:
        The arrays in the order of `set_weights`, and the arguments of `BatchNormalization`.

    Raises:
        PortError: The layer has no running statistics, or an activation.
        OptionError: Its momentum is None and none was given, or `fused` is needed.

    Example:
        >>> list(to_tf_keras(nn.BatchNorm1d(2)).arrays)
        ['gamma', 'beta', 'moving_mean', 'moving_variance']
    """
    state = as_state(layer, name)
    arrays = exported(state, KERAS, count, _correction(fused, count))
    return Exported(arrays, keras_options(state, momentum, axis))


def _correction(fused: bool | None, count: float | None) -> int:
    if fused is None and count is not None:
        raise OptionError(
            "with count, expected fused to be True or False: fused kernels of tf.keras keep the "
            "unbiased running variance, the others the biased one; see layer.fused"
        )
    return int(bool(fused))
