"""The layers of a whole network: all of them are filled, or none."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import BatchNormError, OptionError, PortError, ShapeError
from ..records import Change
from .given import named
from .state import State, require_norm, require_statistics

LISTED = 8
"""Layers that a message lists."""

Records = Mapping[str, State] | Sequence[State]


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer, and what is to be written into it."""

    name: str
    layer: _BatchNorm
    state: State


def load(
    model: nn.Module, states: Records, *, strict: bool = True, dry_run: bool = False
) -> tuple[Change, ...]:
    """Fill the batch normalizations of a model, in place, with what came from elsewhere.

    Weight, bias, running statistics, `num_batches_tracked`, eps and momentum are set; tensors stay
    the same objects, on their device and in their dtype. A layer whose record has no scale gets 1
    with `requires_grad=False`, one without a shift 0 likewise. Everything is checked first; after
    an exception the model is as it was.

    Args:
        model: A model, or a layer, of this library's layers or torch's.
        states: Records by the qualified name of the layer in `model`; or in the order of
            `model.named_modules()`, which is that of definition.
        strict: Every batch normalization of the model must get one; otherwise those without a
            record are left (by name only).
        dry_run: Only check, and say what would be done.

    Returns:
        One printable `Change` for each layer that gets a record.

    Raises:
        PortError: Numbers or names do not fit, or a layer cannot hold a record.
        ShapeError: A layer has another number of channels.
        OptionError: `states` is neither, or `strict=False` was asked for without names.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())
        >>> state = State([0.0, 1.0], [1.0, 2.0], None, None, eps=1e-3, momentum=0.01, name="bn")
        >>> for change in load(model, {"1": state}):
        ...     print(change)
        1: load 2 channels, eps 0.001, momentum 0.01, weight and bias not learned (from bn)
        >>> model[1]
        BatchNorm1d(2, eps=0.001, momentum=0.01, affine=True, bias=True, track_running_stats=True)
    """
    if isinstance(states, Mapping):
        places = _by_name(model, states, strict)
    else:
        places = _by_order(model, states, strict)
    for place in places:
        try:
            _check(place)
        except BatchNormError as error:
            raise named(_label(place), error) from error.__cause__
    _check_shared(places)
    if not dry_run:
        with _all_or_none(places):
            for place in places:
                place.state.write(place.layer)
    return tuple(Change(place.name, *_said(place)) for place in places)


def states(model: nn.Module) -> dict[str, State]:
    """Read every batch normalization of a model, to write each for another framework.

    Args:
        model: A model, or a layer, of this library's layers or torch's.

    Returns:
        The records by qualified name, in the order of `model.named_modules()`.

    Raises:
        PortError: A layer has no running statistics or no size yet, or has an activation in it.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())
        >>> states(model)
        {'1': State(2 channels, eps=1e-05, momentum=0.1, name='1')}
    """
    return {name: State.of(layer, name) for name, layer in _norms(model).items()}


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}


def _by_name(model: nn.Module, states: Mapping[str, State], strict: bool) -> list[Place]:
    _check_records(list(states.values()))
    every = dict(model.named_modules(remove_duplicate=False))
    unknown = [name for name in states if not isinstance(every.get(name), _BatchNorm)]
    if unknown:
        what = {n: type(every[n]).__name__ if n in every else "nothing" for n in unknown}
        found = ", ".join(f"{w} at {n!r}" for n, w in what.items())
        raise PortError(
            f"expected names of batch normalizations of the model "
            f"({_listed(list(_norms(model)))}), found {found}"
        )
    places = [Place(name, _as_norm(every[name]), state) for name, state in states.items()]
    filled = [place.layer for place in places]
    missing = [n for n, m in _norms(model).items() if not any(m is layer for layer in filled)]
    if missing and strict:
        raise PortError(
            f"expected a record for every batch normalization of the model, found none for "
            f"{_listed(missing)}; with strict=False they are left as they are"
        )
    return places


def _by_order(model: nn.Module, states: Sequence[State], strict: bool) -> list[Place]:
    if not isinstance(states, Sequence) or isinstance(states, (str, bytes)):
        raise OptionError(
            f"expected records by name, or a list of them, found {type(states).__name__}"
        )
    if not strict:
        raise OptionError("strict=False needs records by name: an order says nothing about gaps")
    _check_records(states)
    norms = _norms(model)
    sizes = [(name, layer.num_features) for name, layer in norms.items()]
    if len(sizes) != len(states):
        raise PortError(
            f"expected as many records as the model has batch normalizations, {len(sizes)}, found "
            f"{len(states)}{_first_difference(sizes, states)}"
        )
    if any(size != state.num_features for (_, size), state in zip(sizes, states, strict=True)):
        raise ShapeError(
            f"expected records in the order of the model's batch normalizations"
            f"{_first_difference(sizes, states)}; give them by name if the orders differ"
        )
    pairs = zip(norms.items(), states, strict=True)
    return [Place(name, layer, state) for (name, layer), state in pairs]


def _check_records(states: Sequence[State]) -> None:
    for state in states:
        if not isinstance(state, State):
            raise OptionError(
                f"expected records, such as from_keras returns, found {type(state).__name__}"
            )


def _first_difference(sizes: list[tuple[str, int]], states: Sequence[State]) -> str:
    for number, (place, state) in enumerate(zip_longest(sizes, states), 1):
        ours = "nothing" if place is None else f"{place[1]} channels at {place[0]!r}"
        name = "" if state is None or not state.name else f" from {state.name!r}"
        theirs = "nothing" if state is None else f"{state.num_features} channels{name}"
        if place is None or state is None or place[1] != state.num_features:
            return f"; they differ first at number {number}: {ours} here, {theirs} there"
    return ""


def _as_norm(module: nn.Module) -> _BatchNorm:
    assert isinstance(module, _BatchNorm)
    return module


def _label(place: Place) -> str:
    where = place.name or "(model)"
    return f"{where} (from {place.state.name})" if place.state.name else where


def _check(place: Place) -> None:
    layer, state = require_norm(place.layer), place.state
    require_statistics(layer)
    if layer.num_features != state.num_features:
        raise ShapeError(
            f"expected {layer.num_features} channels, found {state.num_features} in the record"
        )
    for key, option in (("weight", "affine=True"), ("bias", "affine=True and bias=True")):
        value = getattr(state, key)
        if getattr(layer, key) is not None and layer._parameters.get(key) is None:
            raise PortError(f"{key} is computed (by a parametrization, say); make it a parameter")
        if value is not None and getattr(layer, key) is None:
            raise PortError(
                f"the record has a {key} and the layer has none; make the layer with {option}"
            )
    for key, target, value in _pairs(place):
        if value is not None and not bool(value.to(target.dtype).isfinite().all()):
            raise PortError(
                f"{key} has values up to {float(value.abs().max()):g}, which are infinite in the "
                f"layer's {str(target.dtype).removeprefix('torch.')}; make the layer float32"
            )


def _pairs(place: Place) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Give every tensor of a layer that is written, and what into it; None for 1 or 0."""
    layer, state = place.layer, place.state
    named_pairs = (
        ("weight", layer.weight, state.weight),
        ("bias", layer.bias, state.bias),
        ("running_mean", layer.running_mean, state.mean),
        ("running_var", layer.running_var, state.var),
    )
    for key, target, value in named_pairs:
        if target is not None:
            yield key, target, value


def _check_shared(places: list[Place]) -> None:
    """Refuse two records for one tensor, unless they say the same."""
    written: dict[int, tuple[str, State]] = {}
    for place in places:
        for key, target, value in _pairs(place):
            label, state = written.setdefault(id(target), (f"{place.name}.{key}", place.state))
            before = getattr(state, key.removeprefix("running_"))
            same = value is before or (
                value is not None and before is not None and bool((value == before).all())
            )
            if not same:
                raise PortError(
                    f"{label} and {place.name}.{key} are the same tensor, and were given different "
                    f"values; give both the same, or do not share it"
                )


def _said(place: Place) -> tuple[str, str]:
    layer, state = place.layer, place.state
    parts = [f"load {state.num_features} channels", f"eps {state.eps:g}"]
    parts.append(f"momentum {'None' if state.momentum is None else f'{state.momentum:g}'}")
    kept = [k for k, t, v in _pairs(place) if v is None]
    if kept:
        parts.append(f"{' and '.join(kept)} not learned")
    return ", ".join(parts), f"from {state.name}" if state.name else f"into {type(layer).__name__}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more or "it has none"


@contextlib.contextmanager
def _all_or_none(places: list[Place]) -> Iterator[None]:
    """Put everything back where writing one of the layers fails."""
    layers = [place.layer for place in places]
    numbers = [(layer, layer.eps, layer.momentum) for layer in layers]
    tensors = [
        (tensor, tensor.detach().clone(), tensor.requires_grad)
        for layer in layers
        for tensor in (*layer.parameters(False), *layer.buffers(False))
    ]
    try:
        yield
    except BaseException:
        for layer, eps, momentum in numbers:
            layer.eps, layer.momentum = eps, momentum
        with torch.no_grad():
            for tensor, value, requires_grad in tensors:
                if tensor.is_inference():  # it cannot be written, and was not
                    continue
                tensor.copy_(value).requires_grad_(requires_grad)
        raise
