"""Haiku: averages that begin at 0 and are divided by what that costs them, in three arrays each.

After n updates with decay d, `average = hidden / (1 - d**n)`, and `counter = n`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OptionError, PortError
from . import arrays, numbers
from .boundary import names_layer
from .given import Kind, vectors
from .state import Exported, State, as_state, exported, ported

HAIKU = Kind(
    "Haiku",
    scale="scale",
    scale_option="create_scale",
    offset="offset",
    offset_option="create_offset",
    mean="mean_ema average",
    var="var_ema average",
)

AVERAGES = ("mean_ema", "var_ema")

TOLERANCE = 4.0
"""Times the rounding of 1 - decay**n, that hidden may be off what average says."""
ROUNDS_AWAY = 2.0**-25
"""Half of what 1 can lack in float32."""


@names_layer
def from_haiku(
    params: Mapping[str, Any],
    mean_ema: Mapping[str, Any],
    var_ema: Mapping[str, Any],
    *,
    eps: float,
    decay_rate: float,
    create_scale: bool = True,
    create_offset: bool = True,
    count: float | None = None,
    updates: int | None = None,
    name: str = "",
) -> State:
    """Read a `haiku.BatchNorm`.

    Haiku's arrays have the axes of its input, (1, 1, 1, C); they are flattened. Its input has its
    channels last unless `data_format` says otherwise; that of the layer which comes out has them
    at axis 1.

    Args:
        params: scale and offset.
        mean_ema: hidden, average and counter of the running mean, from the state
            `"<layer>/~/mean_ema"`; average is what inference uses.
        var_ema: The same of the running variance.
        eps: The layer's; Haiku's default is 1e-5.
        decay_rate: The layer's, the weight of the old value.
        create_scale: The layer's.
        create_offset: The layer's.
        count: Values per channel of a training batch (N, or N·H·W), to rescale the variance by
            n/(n-1) as PyTorch keeps it, for continued training; None, right for inference, copies
            it.
        updates: Batches that the statistics are of; None for the counter.
        name: Of the layer, for messages.

    Returns:
        The record; `.layer(dims)` makes a layer of it, `load` fills those of a model.

    Raises:
        PortError: An array is missing or unknown, a value cannot be, the counter is 0, or hidden is
            not what average says.
        ShapeError: An array has more than one axis that is not 1.
        DtypeError: An array is not floating point.
        OptionError: A number is out of its range.

    Example:
        >>> ema = {"hidden": [[0.19]], "average": [[1.0]], "counter": 2}
        >>> params = {"scale": [[1.5]], "offset": [[0.0]]}
        >>> state = from_haiku(params, ema, ema, eps=1e-5, decay_rate=0.9)
        >>> state.mean, state.updates
        (tensor([1.], dtype=torch.float64), 2)

    Source: haiku/_src/batch_norm.py and haiku/_src/moving_averages.py of Haiku 0.0.17.
    """
    decay = numbers.share(decay_rate, "decay_rate")
    given: dict[str, Any] = dict(params)
    counters = []
    for key, average in zip(AVERAGES, (mean_ema, var_ema), strict=True):
        counters.append(_check_average(average, key, decay))
        given[f"{key} average"] = average["average"]
    if counters[0] != counters[1]:
        raise PortError(
            f"expected one counter for mean and variance, found {counters[0]} in mean_ema and "
            f"{counters[1]} in var_ema; they are of two layers, or of two checkpoints"
        )
    return ported(
        vectors(given, HAIKU, create_scale, create_offset, flat=True),
        eps=eps,
        momentum=numbers.turned(decay, "decay_rate"),
        updates=counters[0] if updates is None else updates,
        count=count,
        name=name,
    )


@names_layer
def to_haiku(
    layer: State | nn.Module,
    *,
    ndim: int,
    axis: int = -1,
    decay_rate: float | None = None,
    counter: int | None = None,
    count: float | None = None,
    name: str = "",
) -> Exported:
    """Write a layer for Haiku.

    Args:
        layer: A layer of this library or of torch, or a record.
        ndim: Number of axes of the input there, such as 4 for pictures.
        axis: Which of them is the channels'.
        decay_rate: Haiku's, the weight of the old value; None for the layer's, turned round.
        counter: Updates that Haiku is to believe in; None for so many that the division is over
            (or the layer's, if that is more), so that the next batch has the weight it has here.
            With a small one the next batch overwrites much of what is ported.
        count: Values per channel of a training batch, to rescale the variance by (n-1)/n; None
            copies it.
        name: Of the layer, for messages.

    Returns:
        The arrays `{"params": ..., "mean_ema": ..., "var_ema": ...}`, and the arguments of
        `BatchNorm`.

    Raises:
        PortError: The layer has no running statistics, or an activation.
        OptionError: Its momentum is None and none was given; `ndim`, `axis` or `counter` cannot be.

    Example:
        >>> arrays, options = to_haiku(nn.BatchNorm1d(3), ndim=2)
        >>> arrays["mean_ema"]["average"].shape, int(arrays["mean_ema"]["counter"])
        ((1, 3), 165)
        >>> options
        {'create_scale': True, 'create_offset': True, 'decay_rate': 0.9, 'eps': 1e-05}
    """
    state = as_state(layer, name)
    decay = numbers.old_weight(state.momentum, decay_rate, "decay_rate")
    shape = _shape(ndim, axis)
    found = {k: v.reshape(shape) for k, v in exported(state, HAIKU, count).items()}
    number = _counter(counter, state.updates, decay)
    result: dict[str, Any] = {
        "params": {k: found[k] for k in (HAIKU.scale, HAIKU.offset) if k in found}
    }
    for key in AVERAGES:
        average = found[f"{key} average"]
        share = 1 - decay**number
        hidden = (average.astype(np.float64) * share).astype(average.dtype)
        result[key] = {"hidden": hidden, "average": average, "counter": np.int32(number)}
    options = {
        "create_scale": state.weight is not None,
        "create_offset": state.bias is not None,
        "decay_rate": decay,
        "eps": state.eps,
    }
    return Exported(result, options)


def split_haiku(
    params: Mapping[str, Mapping[str, Any]], state: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Split parameters and state of a network of Haiku into those of its batch normalizations.

    Args:
        params: What `transform_with_state(...).init` returns first.
        state: What it returns second.

    Returns:
        The arguments params, mean_ema and var_ema of `from_haiku`, by the name of the layer.

    Example:
        >>> ema = {"hidden": [0.0], "average": [0.0], "counter": 1}
        >>> state = {"net/batch_norm/~/mean_ema": ema, "net/batch_norm/~/var_ema": ema}
        >>> split_haiku({"net/linear": {}, "net/batch_norm": {"scale": [1.0]}}, state).keys()
        dict_keys(['net/batch_norm'])
    """
    ends = {key: f"/~/{key}" for key in AVERAGES}
    names = [path.removesuffix(ends["mean_ema"]) for path in state if path.endswith("/mean_ema")]
    return {
        name: {
            "params": params.get(name, {}),
            **{key: state[name + end] for key, end in ends.items()},
        }
        for name in names
        if all(name + end in state for end in ends.values())
    }


def _counter(given: int | None, updates: int, decay: float) -> int:
    least = numbers.updates_until(decay, ROUNDS_AWAY) if given is None else 1
    number = max(updates, least) if given is None else numbers.count(given, "counter")
    if not 1 <= number < 2**31:
        raise OptionError(f"expected counter to be from 1 to 2147483647, found {number}")
    return number


def _shape(ndim: int, axis: int) -> list[int]:
    if not (type(ndim) is int and ndim >= 2 and type(axis) is int and -ndim <= axis < ndim):
        raise OptionError(
            f"expected ndim to be the number of axes of the input, 2 or more, and axis to be one "
            f"of them, found ndim={ndim!r} and axis={axis!r}"
        )
    shape = [1] * ndim
    shape[axis] = -1
    return shape


def _check_average(average: Mapping[str, Any], key: str, decay: float) -> int:
    """Give the counter of an average whose three arrays belong together."""
    missing = [k for k in ("hidden", "average", "counter") if k not in average]
    if missing:
        raise PortError(
            f"expected hidden, average and counter in {key}, found {', '.join(average) or 'none'}: "
            f"{' and '.join(missing)} lacks"
        )
    counter = numbers.count(average["counter"], f"{key} counter")
    if counter == 0:
        raise PortError(f"{key} counter is 0: no batch was seen, so there are no statistics")
    hidden, found = (arrays.read(average[k], f"{key} {k}") for k in ("hidden", "average"))
    if hidden.shape != found.shape or _is_off(hidden, found, decay, counter):
        raise PortError(
            f"expected {key} hidden / (1 - decay_rate**{counter}) to be its average, found other "
            f"values: decay_rate is not that of the training, or the arrays are of two checkpoints"
        )
    return counter


def _is_off(hidden: Tensor, average: Tensor, decay: float, counter: int) -> bool:
    off = (hidden.double() - average.double() * (1 - decay**counter)).abs()
    # Haiku rounds decay to the dtype of the average before it takes its power from 1.
    relative = torch.finfo(average.dtype).eps * (4 + 1 / max(1 - decay, 1e-9))
    allowed = TOLERANCE * relative * average.double().abs() + torch.finfo(average.dtype).tiny
    return bool((off > allowed).any())
