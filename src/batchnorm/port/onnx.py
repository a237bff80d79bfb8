"""ONNX BatchNormalization: momentum is the weight of the old value, the channel is axis 1."""

from typing import Any

from torch import nn

from ..errors import OptionError
from . import numbers
from .boundary import names_layer
from .given import Kind, vectors
from .state import Exported, State, as_state, exported, ported

ONNX = Kind(
    "ONNX",
    scale="scale",
    scale_option="scale",
    offset="B",
    offset_option="B",
    mean="input_mean",
    var="input_var",
)


@names_layer
def from_onnx(
    arrays: Any,
    *,
    epsilon: float,
    momentum: float,
    training_mode: int = 0,
    count: float | None = None,
    updates: int | None = None,
    name: str = "",
) -> State:
    """Read a BatchNormalization node of ONNX.

    Its channels are at axis 1, as here. An attribute that the node does not have stands for the
    default of the standard: epsilon 1e-5, momentum 0.9.

    Args:
        arrays: scale, B, input_mean and input_var by name; or in that order, the inputs of the node
            after its first.
        epsilon: The node's attribute.
        momentum: The node's attribute, the weight of the old value.
        training_mode: The node's attribute; a node that normalizes by the batch has no statistics
            of its own.
        count: Values per channel of a training batch (N·H·W), to rescale a biased variance by
            n/(n-1); None copies it.
        updates: Batches that the statistics are of; as for `from_keras`.
        name: Of the node, for messages.

    Returns:
        The record; `.layer(dims)` makes a layer of it, `load` fills those of a model.

    Raises:
        PortError: An array is missing or unknown, or a value cannot be.
        ShapeError: An array is not of shape (C,).
        DtypeError: An array is not floating point.
        OptionError: A number is out of its range, or the node is in training mode.

    Example:
        >>> from_onnx([[1.0], [0.0], [0.5], [2.0]], epsilon=1e-5, momentum=0.9)
        State(1 channels, eps=1e-05, momentum=0.1)

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html, version 15.
    """
    if training_mode:
        raise OptionError(
            f"expected training_mode=0, found {training_mode!r}: such a node normalizes by the "
            f"batch; export the network in evaluation mode"
        )
    return ported(
        vectors(arrays, ONNX, True, True),
        eps=epsilon,
        momentum=numbers.turned(momentum, "momentum"),
        updates=updates,
        count=count,
        name=name,
        eps_name="epsilon",
    )


@names_layer
def to_onnx(
    layer: State | nn.Module,
    *,
    momentum: float | None = None,
    count: float | None = None,
    name: str = "",
) -> Exported:
    """Write a layer for a BatchNormalization node of ONNX.

    A node always has scale and B: 1 and 0 where the layer has none. For a whole network there is
    `torch.onnx.export`.

    Args:
        layer: A layer of this library or of torch, or a record.
        momentum: The weight of the old value; None for the layer's, turned round.
        count: Values per channel of a training batch, to rescale the variance by (n-1)/n; None
            copies it.
        name: Of the layer, for messages.

    Returns:
        The inputs of the node after its first, in its order, and its attributes.

    Raises:
        PortError: The layer has no running statistics, or an activation.
        OptionError: Its momentum is None and none was given.

    Example:
        >>> arrays, attributes = to_onnx(nn.BatchNorm2d(1, affine=False))
        >>> list(arrays), attributes
        (['scale', 'B', 'input_mean', 'input_var'], {'epsilon': 1e-05, 'momentum': 0.9})
    """
    state = as_state(layer, name)
    found = exported(state.with_both(), ONNX, count)
    decay = numbers.old_weight(state.momentum, momentum, "momentum")
    return Exported(found, {"epsilon": state.eps, "momentum": decay})
