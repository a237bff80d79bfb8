"""What a feature is: everything it can change, and why it may not go with another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

OPTIONS, INPUTS, NUMBERS, CALLS, LIFE = (
    "What the layer is told",
    "What it is given",
    "In which numbers",
    "How it is called",
    "What happens between calls",
)


@dataclass(frozen=True)
class Refused:
    """Together they raise an error, which a test waits for."""

    error: type[Exception]
    match: str
    reason: str


@dataclass(frozen=True)
class Pointless:
    """There is nothing to test."""

    reason: str


@dataclass(frozen=True)
class Feature:
    """One row and one column of the table: what it is called, and what it changes."""

    code: str
    group: str
    what: str
    slot: str = ""
    """Of the features with one slot a case has at most one; `SLOTS` says why."""
    slow: bool = False
    apart: Mapping[str, Refused | Pointless] = field(default_factory=dict)
    """Code of another feature: why not with that one."""

    options: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[..., Any] | None = None
    convert: Callable[..., Any] | None = None
    constant: tuple[str, ...] = ()

    shape: tuple[int, ...] = ()
    insert: Callable[..., None] | None = None
    fill: Callable[..., None] | None = None
    dtype: torch.dtype | None = None
    residual_dtype: torch.dtype | None = None
    arrange: Callable[..., Any] | None = None

    derive: Callable[..., Any] | None = None
    members: int = 0
    core: Callable[..., Any] | None = None
    vectorize: Callable[..., Any] | None = None
    wrap: Callable[..., Any] | None = None
    outer: Callable[..., Any] | None = None
    context: Callable[..., Any] | None = None
    patch: Callable[..., None] | None = None
    blind: bool = False
    """How many values count is not looked at."""
    late: bool = False
    error: type[Exception] | None = None
    """What `StatisticsError` becomes."""

    between: Callable[..., Any] | None = None
    twin_between: Callable[..., None] | None = None
    pooled: bool = False
    plain: bool = False


SLOTS = {
    "activation": "a layer has one activation",
    "affine": "without scale and shift there is no shift to leave out",
    "nan": "one option, one value",
    "single": "one option, one value",
    "shape": "an input has one shape",
    "dtype": "an input has one dtype",
    "layout": "values lie in memory in one way",
    "derivative": "one kind of derivative is taken",
    "checkpoint": "a call is checkpointed in one way",
    "core": "vmap is given the stacked state by functional_call",
    "build": "a layer comes into being in one way",
}


def relation(one: Feature, other: Feature) -> Refused | Pointless | None:
    """Why two features are not tested with values together; None where they are."""
    if one is not other and one.slot and one.slot == other.slot:
        return Pointless(SLOTS[one.slot])
    return one.apart.get(other.code) or other.apart.get(one.code)
