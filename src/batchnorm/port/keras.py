"""Keras 3: momentum is the weight of the old value, the running variance is the biased one."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import OptionError
from . import numbers
from .boundary import names_layer
from .given import Kind, plain_name, vectors
from .state import Exported, State, as_state, exported, ported

KERAS = Kind(
    "Keras",
    scale="gamma",
    scale_option="scale",
    offset="beta",
    offset_option="center",
    mean="moving_mean",
    var="moving_variance",
    # Of renorm=True: the training needs them, inference does not.
    dropped=("moving_stddev", "renorm_mean", "renorm_stddev"),
)


@names_layer
def from_keras(
    arrays: Any,
    *,
    epsilon: float,
    momentum: float,
    scale: bool = True,
    center: bool = True,
    axis: Any = -1,
    count: float | None = None,
    updates: int | None = None,
    name: str = "",
) -> State:
    """Read a `keras.layers.BatchNormalization` of Keras 3.

    The arrays of `renorm=True` (`moving_stddev`, `renorm_mean`, `renorm_stddev`) are left out:
    inference does not use them. Keras's input has its channels at `axis`, usually last; that of
    the layer which comes out has them at axis 1.

    Args:
        arrays: gamma, beta, moving_mean and moving_variance by name, as in
            `{v.name: v.numpy() for v in layer.weights}`; or in that order, as of
            `layer.get_weights()`.
        epsilon: The layer's; Keras's default is 1e-3, PyTorch's 1e-5.
        momentum: The layer's, the weight of the old value; Keras's default is 0.99.
        scale: The layer's; without it there is no gamma.
        center: The layer's; without it there is no beta.
        axis: The layer's.
        count: Values per channel of a training batch (N, or N·H·W), to rescale the variance by
            n/(n-1) as PyTorch keeps it, for continued training; None, right for inference, copies
            it.
        updates: Batches that the statistics are of; None for as many as make an average with this
            momentum forget what it began with.
        name: Of the layer, for messages.

    Returns:
        The record; `.layer(dims)` makes a layer of it, `load` fills those of a model.

    Raises:
        PortError: An array is missing or unknown, or a value cannot be.
        ShapeError: An array is not of shape (C,).
        DtypeError: An array is not floating point.
        OptionError: A number is out of its range, or there are several axes.

    Example:
        >>> gamma, beta, mean, var = [1.5, 1.0], [0.0, 0.1], [0.2, 0.3], [1.0, 2.0]
        >>> state = from_keras([gamma, beta, mean, var], epsilon=1e-3, momentum=0.99)
        >>> state.layer(dims=2)
        BatchNorm2d(2, eps=0.001, momentum=0.01, affine=True, bias=True, track_running_stats=True)

    Source: keras/src/layers/normalization/batch_normalization.py of Keras 3.15.1.
    """
    check_axis(axis)
    return ported(
        vectors(arrays, KERAS, scale, center),
        eps=epsilon,
        momentum=numbers.turned(momentum, "momentum"),
        updates=updates,
        count=count,
        name=name,
        eps_name="epsilon",
    )


@names_layer
def to_keras(
    layer: State | nn.Module,
    *,
    momentum: float | None = None,
    axis: int = -1,
    count: float | None = None,
    name: str = "",
) -> Exported:
    """Write a layer for Keras 3.

    Args:
        layer: A layer of this library or of torch, or a record.
        momentum: Keras's, the weight of the old value; None for the layer's, turned round.
        axis: Where Keras's input has its channels.
        count: Values per channel of a training batch, to rescale the variance by (n-1)/n; None
            copies it.
        name: Of the layer, for messages.

    Returns:
        The arrays in the order of `set_weights`, and the arguments of `BatchNormalization`.

    Raises:
        PortError: The layer has no running statistics, or an activation.
        OptionError: Its momentum is None and none was given.

    Example:
        >>> arrays, options = to_keras(nn.BatchNorm1d(2, affine=False))
        >>> arrays["moving_variance"], options["epsilon"], options["momentum"], options["scale"]
        (array([1., 1.], dtype=float32), 1e-05, 0.9, False)
    """
    state = as_state(layer, name)
    return Exported(exported(state, KERAS, count), keras_options(state, momentum, axis))


def keras_options(state: State, momentum: float | None, axis: int) -> dict[str, Any]:
    """Give the arguments of the constructor."""
    return {
        "axis": axis,
        "momentum": numbers.old_weight(state.momentum, momentum, "momentum"),
        "epsilon": state.eps,
        "scale": state.weight is not None,
        "center": state.bias is not None,
    }


def check_axis(axis: Any) -> None:
    """Refuse several axes: their vectors have one value for each position, too.

    Raises:
        OptionError: It is not one number.
    """
    try:
        found = [int(a) for a in (axis if hasattr(axis, "__len__") else [axis])]
    except (TypeError, ValueError):
        found = []
    if len(found) != 1 or 0 in found:
        raise OptionError(
            f"expected axis to be the one axis of the channels (usually -1), found {axis!r}; our "
            f"layers have one value for each channel, at axis 1"
        )


def split_keras(weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split the arrays of a network of Keras, or tf.keras, into those of its batch normalizations.

    Args:
        weights: By path, as in `{v.path: v.numpy() for v in model.weights}` (`v.name` in tf.keras).

    Returns:
        The arrays of each layer by name, by the path of the layer; in the order of `weights`.

    Example:
        >>> statistics = {"bn/moving_mean:0": [0.0], "bn/moving_variance:0": [1.0]}
        >>> weights = {"dense/kernel:0": [[1.0]], **statistics}
        >>> split_keras(weights)
        {'bn': {'moving_mean': [0.0], 'moving_variance': [1.0]}}
    """
    layers: dict[str, dict[str, Any]] = {}
    for path, value in weights.items():
        layers.setdefault(path.rpartition("/")[0], {})[plain_name(path)] = value
    return {path: found for path, found in layers.items() if KERAS.var in found}
