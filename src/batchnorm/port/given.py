"""The arrays of one layer as given, under the names of the framework they come from."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import BatchNormError, PortError
from . import arrays


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a framework calls the arrays of a batch normalization.

    Args:
        framework: Its name.
        scale: Name of the scale; of the option that says whether there is one; and so on.
        scale_option: The option that says whether there is one.
        offset: Name of the shift.
        offset_option: The option that says whether there is one.
        mean: Name of the running mean.
        var: Name of the running variance.
        dropped: Names of arrays that are not needed.
    """

    framework: str
    scale: str
    scale_option: str
    offset: str
    offset_option: str
    mean: str
    var: str
    dropped: tuple[str, ...] = ()

    def names(self, has_scale: bool, has_offset: bool) -> tuple[str, ...]:
        """Give the names in the order in which the frameworks list them."""
        affine = ((self.scale, has_scale), (self.offset, has_offset))
        return (*(name for name, is_there in affine if is_there), self.mean, self.var)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """The vectors of one layer, (C,); None for those it does not have."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None


def named(name: str, error: BatchNormError) -> BatchNormError:
    """Put the name of the layer in front of an error."""
    return type(error)(f"{name}: {error}") if name else error


def vectors(
    given: Any, kind: Kind, has_scale: bool, has_offset: bool, flat: bool = False
) -> Vectors:
    """Read the arrays of a layer, and check that they are all, and fit together.

    Args:
        given: By name, where a path before it and ":0" after it are left out; or a sequence in the
            order of `kind`.
        kind: The names.
        has_scale: Whether there is to be a scale.
        has_offset: Whether there is to be a shift.
        flat: Take (1, 1, C) and the like for (C,).

    Raises:
        PortError: One is missing or too many, or has values that cannot be.
        ShapeError: One has not the shape of the others.
        DtypeError: One is not floating point.
    """
    known = _by_name(given, kind, has_scale, has_offset)
    _check_names(known, kind, has_scale, has_offset)
    read = {name: arrays.read(value, name) for name, value in known.items()}
    if flat:
        read = {name: _flat(vector) for name, vector in read.items()}
    arrays.check_vectors(dict(read), kind.var)
    weight, bias = (read.get(name) for name in (kind.scale, kind.offset))
    return Vectors(read[kind.mean], read[kind.var], weight, bias)


def plain_name(name: str) -> str:
    """Take the last part of a path, and leave out the number that TensorFlow puts behind it.

    Example:
        >>> plain_name("block1/bn/gamma:0")
        'gamma'
    """
    return str(name).rpartition("/")[2].partition(":")[0]


def _by_name(given: Any, kind: Kind, has_scale: bool, has_offset: bool) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return _unique(given, kind)
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        expected = kind.names(has_scale, has_offset)
        allowed = {len(expected), len(expected) + len(kind.dropped)}
        if len(given) not in allowed:
            raise PortError(
                f"expected {len(expected)} arrays ({', '.join(expected)}), found {len(given)}; "
                f"if the layer has no {kind.scale} or no {kind.offset}, say "
                f"{kind.scale_option}=False or {kind.offset_option}=False"
            )
        return dict(zip(expected, given, strict=False))
    raise PortError(
        f"expected the arrays of a {kind.framework} layer by name, or in its order, found "
        f"{type(given).__name__}"
    )


def _unique(given: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in given.items():
        plain = plain_name(name)
        if plain in known:
            raise PortError(
                f"expected the arrays of one layer, found {plain} twice; split the arrays of a "
                f"network first, e.g. with bn.port.split_keras"
            )
        if value is not None and plain not in kind.dropped:
            known[plain] = value
    return known


def _check_names(known: Iterable[str], kind: Kind, has_scale: bool, has_offset: bool) -> None:
    expected = kind.names(has_scale, has_offset)
    options = {kind.scale: kind.scale_option, kind.offset: kind.offset_option}
    missing = [name for name in expected if name not in known]
    unknown = [name for name in known if name not in expected]
    found = f"found {', '.join(known) or 'none'}"
    if missing:
        hints = [f"{options[n]}=False" for n in missing if n in options]
        hint = f"; if the layer has none, say {' and '.join(hints)}" if hints else ""
        raise PortError(f"expected {', '.join(expected)}, {found}: {_listed(missing)} lacks{hint}")
    if unknown:
        hints = [f"{options[n]}=True" for n in unknown if n in options]
        hint = f"; if the layer has it, say {' and '.join(hints)}" if hints else "; leave it out"
        raise PortError(
            f"expected {', '.join(expected)} and nothing else, {found}: a batch normalization of "
            f"{kind.framework} as it was described has no {_listed(unknown)}{hint}"
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _flat(vector: Tensor) -> Tensor:
    """Drop the axes of size 1 that are there for broadcasting."""
    wide = sum(size != 1 for size in vector.shape)
    return vector.reshape(-1) if vector.dim() and wide <= 1 and vector.numel() else vector


def is_array(value: Any) -> bool:
    """Say whether something in a tree of arrays is one, and not a branch."""
    return not isinstance(value, Mapping) and (hasattr(value, "__array__") or np.ndim(value) > 0)
