"""What arguments must be: each check raises one clear error or returns."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from . import shapes
from .errors import DtypeError, OptionError, ShapeError, StatisticsError

DEGENERATE = ("raise", "running")
"""What to do with one value per channel in training."""


def is_exporting() -> bool:
    """Say whether the model is being turned into a graph for other tools."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch._C._is_tracing()


def can_wait(x: Tensor) -> bool:
    """Say whether numbers of a tensor can be read at all: not while a graph is being recorded."""
    return (
        type(x) in (Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and not x.is_meta
        and not torch.compiler.is_compiling()
        and not is_exporting()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._len_torch_dispatch_stack() == 0
    )


def can_read(x: Tensor) -> bool:
    """Say whether reading numbers of a tensor makes nobody wait: it is on the CPU."""
    return x.is_cpu and can_wait(x)


def check_input(x: Tensor) -> None:
    """Refuse what is not a floating (N, C, *S) tensor.

    Raises:
        ShapeError: Fewer than two axes.
        DtypeError: The values are not floating point.
    """
    if x.dim() < 2:
        raise ShapeError(
            f"expected an input with a batch and a channel axis (N, C, ...), "
            f"found shape {shape_text(x.shape)}; add the missing axis, e.g. input.unsqueeze(0)"
        )
    if not x.is_floating_point():
        raise DtypeError(f"expected a floating point input, found {x.dtype}; convert it first")


def check_per_channel(x: Tensor, vectors: dict[str, Tensor | None]) -> None:
    """Refuse a vector that does not have one value for each channel of x.

    Raises:
        ShapeError: A vector is not of shape (C,); the message has its name.
    """
    expected = (x.shape[1],)
    for name, vector in vectors.items():
        if vector is not None and vector.shape != expected:
            raise ShapeError(
                f"expected {name} to have one value for each of the {x.shape[1]} channels of the "
                f"input ({shape_text(x.shape)}), found shape {shape_text(vector.shape)}"
            )


def check_residual(x: Tensor, residual: Tensor | None) -> None:
    """Refuse a residual that is not a floating tensor of the shape of x.

    Raises:
        ShapeError: Another shape; it is not broadcast.
        DtypeError: The values are not floating point.
    """
    if residual is None:
        return
    if residual.shape != x.shape:
        raise ShapeError(
            f"expected a residual of the shape of the input, {shape_text(x.shape)}, "
            f"found {shape_text(residual.shape)}; expand it first if it is to be broadcast"
        )
    if not residual.is_floating_point():
        raise DtypeError(f"expected a floating point residual, found {residual.dtype}")


def check_mask(x: Tensor, mask: Tensor | None) -> None:
    """Refuse a mask that is not boolean of shape (N,) or (N, *S).

    Raises:
        ShapeError: Another shape.
        DtypeError: The values are not bool.
    """
    if mask is None:
        return
    _check_positions(x, "mask", mask)
    if mask.dtype is not torch.bool:
        raise DtypeError(
            f"expected a boolean mask (True where a position counts), found {mask.dtype}; "
            f"compare first, e.g. mask != 0"
        )


def check_sample_weight(
    x: Tensor, mask: Tensor | None, sample_weight: Tensor | None, alone: bool = True
) -> None:
    """Refuse weights that are not floating of shape (N,) or (N, *S), or no weights at all.

    The values are looked at where nobody has to wait for them, see `can_read`. That all are 0 is
    left to the caller where this is not the whole batch: not `alone`.

    Raises:
        ShapeError: Another shape.
        StatisticsError: A weight is negative or not finite, or all that are not masked are 0.
        DtypeError: The values are not floating point.
    """
    if sample_weight is None:
        return
    _check_positions(x, "sample_weight", sample_weight)
    if not sample_weight.is_floating_point():
        raise DtypeError(
            f"expected floating point sample_weight, found {sample_weight.dtype}; "
            f"convert it, e.g. sample_weight.float(), or pass a boolean one as mask"
        )
    if not can_read(sample_weight) or (mask is not None and not can_read(mask)):
        return
    weights = sample_weight.detach()
    if mask is not None:
        shape = (x.shape[0], 1, *x.shape[2:])
        weights, keep = (shapes.as_positions(t, x.dim()).expand(shape) for t in (weights, mask))
        weights = weights[keep]
    if weights.numel() == 0:
        return
    low, high = weights.aminmax()
    if not (low >= 0 and math.isfinite(high)):
        raise StatisticsError(
            f"expected sample_weight to be finite and not negative, "
            f"found values from {low:g} to {high:g}"
        )
    if high == 0 and alone:
        raise no_weight()


def no_weight() -> StatisticsError:
    """Make the error of a batch whose weights are all 0."""
    return StatisticsError(
        "expected a positive sample_weight somewhere, found 0 everywhere; "
        "leave such a batch out, or mask its positions"
    )


def _check_positions(x: Tensor, name: str, tensor: Tensor) -> None:
    expected = [(x.shape[0],), (x.shape[0], *x.shape[2:])][: x.dim() - 1]
    if tuple(tensor.shape) not in expected:
        wanted = " or ".join(shape_text(shape) for shape in expected)
        raise ShapeError(
            f"expected {name} of shape {wanted} for an input {shape_text(x.shape)} "
            f"(one value per sample, or per position without the channel axis), "
            f"found {shape_text(tensor.shape)}"
        )


def check_virtual_batch_size(size: int | None) -> None:
    """Refuse a virtual batch size that is not None or a positive int.

    Raises:
        OptionError: It is something else; True is not taken for 1.
    """
    if size is None or (type(size) is int and size >= 1):
        return
    raise OptionError(
        f"expected virtual_batch_size to be None or a positive int (samples per chunk), "
        f"found {size!r}"
    )


def check_momentum(momentum: float | None) -> None:
    """Refuse a momentum that is not None or a number from 0 to 1.

    Raises:
        OptionError: It is something else.
    """
    if momentum is None or 0 <= momentum <= 1:
        return
    raise OptionError(
        f"expected momentum to be None or from 0 to 1 (the weight of the new value), "
        f"found {momentum!r}"
    )


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Refuse a value that is not one of the known ones.

    Raises:
        OptionError: The message lists the known ones.
    """
    if not (isinstance(value, str) and value in known):
        choices = ", ".join(map(repr, known))
        raise OptionError(f"expected {name} to be one of {choices}; found {value!r}")


def shape_text(shape: Sequence[int]) -> str:
    """Print a shape the way messages show it.

    Example:
        >>> shape_text((1, 512, 1, 1))
        '1×512×1×1'
    """
    return "×".join(map(str, shape)) or "() (a scalar)"
