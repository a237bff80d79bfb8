"""Equinox: two modes, one of which keeps a variance that has to be taken apart.

"ema": running statistics as everywhere, also used in training. "batch": after n updates with decay
d, the mean kept is (1 - d**n) times the average, as it began at 0; the variance kept, which began
at 1, is d**n more than that.
"""

from typing import Any

import torch
from torch import nn

from ..errors import OptionError, PortError
from . import numbers
from .boundary import names_layer
from .given import Kind, Vectors, vectors
from .state import Exported, State, as_state, exported, ported

EQUINOX = Kind(
    "Equinox",
    scale="weight",
    scale_option="channelwise_affine",
    offset="bias",
    offset_option="channelwise_affine",
    mean="mean",
    var="var",
)

MODES = ("ema", "batch")

NOTHING = 2.0**-1000
"""What the variance may still have of the 1 it began with, for it to be the same in float64."""


@names_layer
def from_equinox(
    arrays: Any,
    *,
    mode: str,
    eps: float,
    momentum: float,
    counter: Any = None,
    first_time: Any = None,
    as_used: bool = False,
    channelwise_affine: bool = True,
    count: float | None = None,
    updates: int | None = None,
    name: str = "",
) -> State:
    """Read an `equinox.nn.BatchNorm`.

    In mode "batch" Equinox keeps sums that are still to be divided by 1 - momentum**counter. It
    divides the variance, too, which began at 1 and not at 0, so that its own inference is wrong by
    momentum**counter / (1 - momentum**counter) in every variance. Here that is taken out, unless
    `as_used=True` asks for what Equinox's inference computes. In mode "ema" Equinox normalizes by
    the running statistics in training as well; layers here do so by the batch.

    Args:
        arrays: weight, bias, mean and var by name: `layer.weight`, `layer.bias`, and the pair
            `state.get(layer.ema_state_index)` or `state.get(layer.batch_state_index)`.
        mode: The layer's, "ema" or "batch".
        eps: The layer's; Equinox's default is 1e-5.
        momentum: The layer's, the weight of the old value; Equinox's default is 0.99.
        counter: In mode "batch": `state.get(layer.batch_counter)`.
        first_time: In mode "ema": `state.get(layer.ema_first_time_index)`; may be left out.
        as_used: In mode "batch": the variance that Equinox's inference uses, wrong as it is, for
            the same outputs.
        channelwise_affine: The layer's; without it there is neither weight nor bias.
        count: Values per channel of a training batch (N, or N·H·W), to rescale the variance by
            n/(n-1) as PyTorch keeps it, for continued training; None copies it.
        updates: Batches that the statistics are of; None for the counter, or as for `from_keras`.
        name: Of the layer, for messages.

    Returns:
        The record; `.layer(dims)` makes a layer of it, `load` fills those of a model.

    Raises:
        PortError: An array is missing or unknown, a value cannot be, or no batch was seen.
        ShapeError: An array is not of shape (C,).
        DtypeError: An array is not floating point.
        OptionError: A number is out of its range, or the counter is missing.

    Example:
        >>> hidden = {"mean": [0.38], "var": [0.81 + 0.76]}  # two updates: 0.19 of 2, and of 4
        >>> options = {"mode": "batch", "eps": 1e-5, "momentum": 0.9, "channelwise_affine": False}
        >>> state = from_equinox(hidden, counter=2, **options)
        >>> round(state.mean.item(), 6), round(state.var.item(), 6)
        (2.0, 4.0)

    Source: equinox/nn/_batch_norm.py of Equinox 0.13.8.
    """
    decay = _decay(mode, momentum)
    read = vectors(arrays, EQUINOX, channelwise_affine, channelwise_affine)
    if mode == "batch":
        number = _seen(counter)
        read = _undone(read, decay, number, as_used)
        updates = number if updates is None else updates
    elif first_time is not None and bool(first_time):
        raise PortError("first_time is True: no batch was seen, so there are no statistics")
    return ported(
        read,
        eps=eps,
        momentum=numbers.turned(momentum, "momentum"),
        updates=updates,
        count=count,
        name=name,
    )


@names_layer
def to_equinox(
    layer: State | nn.Module,
    *,
    mode: str,
    momentum: float | None = None,
    count: float | None = None,
    name: str = "",
) -> Exported:
    """Write a layer for Equinox.

    Args:
        layer: A layer of this library or of torch, or a record; with weight and bias, or neither.
        mode: "ema" or "batch".
        momentum: Equinox's, the weight of the old value; None for the layer's, turned round.
        count: Values per channel of a training batch, to rescale the variance by (n-1)/n; None
            copies it.
        name: Of the layer, for messages.

    Returns:
        weight, bias, mean and var; in mode "batch" also counter, so large that what Equinox divides
        by is 1: its inference is then right, and the next batch has the weight it has here; in mode
        "ema" also first_time, False. And the arguments of `BatchNorm` beside its axis_name.

    Raises:
        PortError: The layer has no running statistics, or an activation.
        OptionError: Its momentum is None and none was given, or the mode is unknown.

    Example:
        >>> arrays, options = to_equinox(nn.BatchNorm1d(2), mode="batch")
        >>> int(arrays["counter"]), options["momentum"], options["mode"]
        (6579, 0.9, 'batch')
    """
    state = as_state(layer, name)
    decay = numbers.old_weight(state.momentum, momentum, "momentum")
    _decay(mode, decay)
    affine = state.weight is not None or state.bias is not None
    found = exported(state.with_both() if affine else state, EQUINOX, count)
    if mode == "batch":
        found["counter"] = max(state.updates, numbers.updates_until(decay, NOTHING))
    else:
        found["first_time"] = False
    options = {
        "input_size": state.num_features,
        "eps": state.eps,
        "channelwise_affine": affine,
        "momentum": decay,
        "mode": mode,
    }
    return Exported(found, options)


def _decay(mode: str, momentum: Any) -> float:
    if mode not in MODES:
        known = ", ".join(map(repr, MODES))
        raise OptionError(f"expected mode to be one of {known}; found {mode!r}")
    return numbers.share(momentum, "momentum")


def _seen(counter: Any) -> int:
    if counter is None:
        raise OptionError(
            'in mode "batch", expected counter=state.get(layer.batch_counter): what the sums are '
            "to be divided by depends on it"
        )
    number = numbers.count(counter, "counter")
    if number == 0:
        raise PortError("counter is 0: no batch was seen, so there are no statistics")
    return number


def _undone(read: Vectors, decay: float, number: int, as_used: bool) -> Vectors:
    """Divide the sums by 1 - d**n, with what the variance began with taken out."""
    if decay >= 1:
        raise OptionError("momentum is 1, so no batch counted: there are no statistics")
    left = decay**number
    var = read.var.double() - (0.0 if as_used else left)
    # The sum of d**n and a variance near 0 rounds in the dtype of the sum.
    if float(var.min()) < -number * torch.finfo(read.var.dtype).eps * left - NOTHING:
        raise PortError(
            f"expected var to be more than momentum**{number} = {left:g}, which it began with, "
            f"found {float(read.var.min()):g}; counter or momentum is not that of the training, "
            f"or the statistics were divided before"
        )
    var = var.clamp(min=0)
    mean = read.mean.double() / (1 - left)
    kept = (mean.to(read.mean.dtype), (var / (1 - left)).to(read.var.dtype))
    return Vectors(*kept, read.weight, read.bias)
