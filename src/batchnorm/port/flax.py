"""Flax, linen and nnx: momentum is the weight of the old value, the running variance is biased."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import PortError
from . import numbers
from .boundary import names_layer
from .given import Kind, is_array, vectors
from .state import Exported, State, as_state, exported, ported

FLAX = Kind(
    "Flax",
    scale="scale",
    scale_option="use_scale",
    offset="bias",
    offset_option="use_bias",
    mean="mean",
    var="var",
)

COLLECTIONS = {"params": (FLAX.scale, FLAX.offset), "batch_stats": (FLAX.mean, FLAX.var)}
"""Where linen keeps them."""


@names_layer
def from_flax(
    arrays: Any,
    *,
    epsilon: float,
    momentum: float,
    use_scale: bool = True,
    use_bias: bool = True,
    count: float | None = None,
    updates: int | None = None,
    name: str = "",
) -> State:
    """Read a `flax.linen.BatchNorm` or a `flax.nnx.BatchNorm`.

    Flax's input has its channels at `axis`, usually last; that of the layer which comes out has
    them at axis 1.

    Args:
        arrays: scale, bias, mean and var by name; or the two collections of linen,
            `{"params": {...}, "batch_stats": {...}}`.
        epsilon: The layer's; Flax's default is 1e-5.
        momentum: The layer's, the weight of the old value; Flax's default is 0.99.
        use_scale: The layer's.
        use_bias: The layer's.
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
        OptionError: A number is out of its range.

    Example:
        >>> variables = {"params": {"scale": [1.0], "bias": [0.5]},
        ...              "batch_stats": {"mean": [0.1], "var": [2.0]}}
        >>> from_flax(variables, epsilon=1e-5, momentum=0.9)
        State(1 channels, eps=1e-05, momentum=0.1)

    Source: flax/linen/normalization.py and flax/nnx/nn/normalization.py of Flax 0.12.8.
    """
    return ported(
        vectors(_flat(arrays), FLAX, use_scale, use_bias),
        eps=epsilon,
        momentum=numbers.turned(momentum, "momentum"),
        updates=updates,
        count=count,
        name=name,
        eps_name="epsilon",
    )


@names_layer
def to_flax(
    layer: State | nn.Module,
    *,
    momentum: float | None = None,
    count: float | None = None,
    name: str = "",
) -> Exported:
    """Write a layer for Flax.

    Args:
        layer: A layer of this library or of torch, or a record.
        momentum: Flax's, the weight of the old value; None for the layer's, turned round.
        count: Values per channel of a training batch, to rescale the variance by (n-1)/n; None
            copies it.
        name: Of the layer, for messages.

    Returns:
        scale, bias, mean and var, as nnx names its attributes, and the arguments of `BatchNorm`;
        `linen_collections` puts the arrays where linen wants them.

    Raises:
        PortError: The layer has no running statistics, or an activation.
        OptionError: Its momentum is None and none was given.

    Example:
        >>> arrays, options = to_flax(nn.BatchNorm1d(1))
        >>> sorted(linen_collections(arrays)["batch_stats"]), options["momentum"]
        (['mean', 'var'], 0.9)
    """
    state = as_state(layer, name)
    options = {
        "momentum": numbers.old_weight(state.momentum, momentum, "momentum"),
        "epsilon": state.eps,
        "use_scale": state.weight is not None,
        "use_bias": state.bias is not None,
    }
    return Exported(exported(state, FLAX, count), options)


def linen_collections(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Put the arrays of a layer into the collections of linen.

    Example:
        >>> linen_collections({"scale": 1, "mean": 2, "var": 3})
        {'params': {'scale': 1}, 'batch_stats': {'mean': 2, 'var': 3}}
    """
    return {
        collection: {name: arrays[name] for name in names if name in arrays}
        for collection, names in COLLECTIONS.items()
    }


def split_flax(variables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split the arrays of a network of Flax into those of its batch normalizations.

    Args:
        variables: The collections of linen, `{"params": ..., "batch_stats": ...}`; or the pure
            dictionary of an nnx model, `nnx.to_pure_dict(nnx.state(model))`.

    Returns:
        scale, bias, mean and var of each layer, by its path.

    Raises:
        PortError: There is no collection "batch_stats" beside "params".

    Example:
        >>> variables = {
        ...     "params": {"Dense_0": {"kernel": [[1.0]]}, "BatchNorm_0": {"bias": [0.5]}},
        ...     "batch_stats": {"BatchNorm_0": {"mean": [0.1], "var": [2.0]}},
        ... }
        >>> split_flax(variables)
        {'BatchNorm_0': {'bias': [0.5], 'mean': [0.1], 'var': [2.0]}}
    """
    if "params" in variables and "batch_stats" not in variables:
        raise PortError(
            "expected the collections params and batch_stats, found no batch_stats: the running "
            "statistics are there"
        )
    found: dict[str, dict[str, Any]] = {}
    for collection in COLLECTIONS if "batch_stats" in variables else (None,):
        tree = variables if collection is None else variables.get(collection, {})
        for path, leaves in _branches(tree, ()):
            found.setdefault("/".join(path), {}).update(leaves)
    return {path: leaves for path, leaves in found.items() if {"mean", "var"} <= set(leaves)}


def _flat(arrays: Any) -> Any:
    if not isinstance(arrays, Mapping) or not set(arrays) & set(COLLECTIONS):
        return arrays
    unknown = [name for name in arrays if name not in COLLECTIONS]
    if unknown:
        raise PortError(
            f"expected the collections params and batch_stats of one layer, found "
            f"{', '.join(map(str, arrays))}"
        )
    return {name: value for part in arrays.values() for name, value in part.items()}


def _branches(tree: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Give every branch of a tree that has leaves, with its path."""
    if not isinstance(tree, Mapping):
        return []
    leaves = {str(key): value for key, value in tree.items() if is_array(value)}
    below = [b for key, value in tree.items() for b in _branches(value, (*path, str(key)))]
    return ([(path, leaves)] if leaves else []) + below
