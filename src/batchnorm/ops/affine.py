"""What follows the normalization."""

from typing import NamedTuple

import torch
from torch import Tensor

from .activation import Activation


class Affine(NamedTuple):
    """Scale, shift, residual and activation, in this order; None for nothing.

    Args:
        weight: Scale (C,).
        bias: Shift (C,).
        residual: Added next; of the shape of the input.
        act: Applied last.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    act: Activation | None = None


def finish(z: Tensor, after: Affine, dtype: torch.dtype) -> Tensor:
    """Add the residual, apply the activation, convert."""
    y = z if after.residual is None else z + after.residual
    if after.act is not None:
        y = after.act.forward(y)
    return y if y.dtype is dtype else y.to(dtype)
