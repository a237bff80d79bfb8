"""Arrays of any origin as tensors, and tensors as arrays: NumPy knows no bfloat16, torch no order.

Nothing here shares memory with what was given, or with what is given out.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..checks import shape_text
from ..errors import DtypeError, PortError, ShapeError

Array = np.ndarray[Any, np.dtype[Any]]

SHOWN = 5
"""Channels that a message names."""


def read(value: Any, what: str) -> Tensor:
    """Copy an array into a tensor on the CPU, with the same values in the same precision.

    Args:
        value: What NumPy can read, in floating point: an array, also of `ml_dtypes.bfloat16` and of
            either byte order, a list of numbers, a variable with `__array__`; or a tensor on any
            device.
        what: Its name, for messages.

    Returns:
        float16, bfloat16, float32 or float64.

    Raises:
        DtypeError: It holds something else.
        PortError: It cannot be read, or has no values.

    Example:
        >>> read(np.array([1.5, 2.0], dtype=">f4"), "gamma")
        tensor([1.5000, 2.0000])
    """
    return _from_tensor(value, what) if isinstance(value, Tensor) else _from_array(value, what)


def _from_tensor(value: Tensor, what: str) -> Tensor:
    if is_lazy(value) or value.is_meta:
        raise PortError(f"expected values in {what}, found a tensor that has none yet")
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise _wrong_dtype(what, str(value.dtype).removeprefix("torch."))
    # A clone, as a tensor that was made under inference_mode could not be changed later.
    with torch.inference_mode(False):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _from_array(value: Any, what: str) -> Tensor:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise PortError(
            f"expected {what} to be an array that NumPy can read, found {type(value).__name__}: "
            f"{error}"
        ) from error
    if array.dtype.name == "bfloat16":
        bits = np.array(array, order="C").view(np.int16)
        return torch.from_numpy(bits).view(torch.bfloat16)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise _wrong_dtype(what, str(array.dtype))
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _wrong_dtype(what: str, found: str) -> DtypeError:
    return DtypeError(
        f"expected floating point values in {what}, found {found}; give the values as they are "
        f"trained, e.g. as float32, not an index, a code or a handle of them"
    )


def write(tensor: Tensor) -> Array:
    """Copy a tensor into an array; bfloat16 becomes float32, which has all its values.

    Example:
        >>> write(torch.tensor([0.5, 1.0], dtype=torch.bfloat16))
        array([0.5, 1. ], dtype=float32)
    """
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    return np.array(tensor.numpy())


def check_vectors(vectors: dict[str, Tensor | None], variance: str) -> None:
    """Refuse what cannot be the vectors of one layer.

    Args:
        vectors: By the names they have where they come from; None for one that is not there.
        variance: The name of the variance.

    Raises:
        ShapeError: They are not all of one shape (C,) with at least one channel.
        PortError: A value is not finite, or a variance is negative.
    """
    known = {name: vector for name, vector in vectors.items() if vector is not None}
    for name, vector in known.items():
        if vector.dim() != 1 or not vector.numel():
            raise ShapeError(
                f"expected {name} to be a vector with one value for each channel, (C,), found "
                f"shape {shape_text(vector.shape)}{_advice(vector)}"
            )
    if len({len(vector) for vector in known.values()}) > 1:
        sizes = ", ".join(f"{len(vector)} in {name}" for name, vector in known.items())
        raise ShapeError(
            f"expected as many values in each array as there are channels, found {sizes}; "
            f"one of them belongs to another layer"
        )
    for name, vector in known.items():
        _check_finite(name, vector)
    _check_variance(known, variance)


def _advice(vector: Tensor) -> str:
    if not vector.numel():
        return "; it is empty"
    if sum(size > 1 for size in vector.shape) == 1:
        return "; reshape it to (-1,) if the other axes are only there for broadcasting"
    if vector.dim() == 2:
        return "; where layers were stacked (scan, vmap), give one row after the other"
    return ""


def _check_finite(name: str, vector: Tensor) -> None:
    bad = ~vector.isfinite()
    if bool(bad.any()):
        raise PortError(
            f"expected finite values in {name}, found NaN or infinity in {_channels(bad)}; "
            f"look for the batch that brought them, or port an earlier checkpoint"
        )


def _check_variance(vectors: dict[str, Tensor], variance: str) -> None:
    var = vectors.get(variance)
    if var is None or not bool((var < 0).any()):
        return
    others = [name for name, v in vectors.items() if name != variance and bool((v >= 0).all())]
    hint = f"; {' and '.join(others)} have none: were two arrays swapped?" if others else ""
    raise PortError(
        f"expected no negative value in {variance}, found {float(var.min()):g} in "
        f"{_channels(var < 0)}{hint}"
    )


def _channels(bad: Tensor) -> str:
    where = bad.nonzero().flatten().tolist()
    more = ", ..." if len(where) > SHOWN else ""
    which = f"channel{'s' * (len(where) > 1)} {', '.join(map(str, where[:SHOWN]))}{more}"
    return f"{which} ({len(where)} of {len(bad)})"
