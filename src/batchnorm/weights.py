"""How much every position counts in the statistics: masks and sample weights as one thing."""

import torch
from torch import Tensor

from . import shapes


def of_positions(
    x: Tensor, mask: Tensor | None, sample_weight: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Put mask and weights together, as (N, 1, *S).

    Args:
        x: Values (N, C, *S).
        mask: Which positions count, bool (N,) or (N, *S), or None for all.
        sample_weight: How much they count, (N,) or (N, *S), or None for 1.
        dtype: Of the result.

    Returns:
        Weights that are 0 where the mask is False; None where there is neither.
    """
    if mask is None and sample_weight is None:
        return None
    shape = (x.shape[0], 1, *x.shape[2:])
    keep = None if mask is None else shapes.as_positions(mask, x.dim()).expand(shape)
    if sample_weight is None:
        assert keep is not None
        return keep.to(dtype)
    weights = shapes.as_positions(sample_weight.detach(), x.dim()).to(dtype)
    weights = weights.expand(shape)
    return weights if keep is None else weights.masked_fill(~keep, 0)


def weigh(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum up weights of positions.

    Args:
        weights: Not negative, (N, C, *S); C may be 1, where all channels have the same.

    Returns:
        Σw of each channel (C,); the effective number of values (Σw)²/Σw², (C,); the share of each
        position in Σw, (N, C, *S), 0 in a channel of no weight.
    """
    dims = shapes.reduce_dims(weights.dim())
    # In units of the largest, so that squares neither overflow nor vanish.
    unit = weights.amax(dims, keepdim=True)
    relative = weights / torch.where(unit > 0, unit, 1)
    total = relative.sum(dims, keepdim=True)
    share = relative / total.clamp(min=1)
    values = (weights > 0).sum(dims)
    sums = total.flatten()
    effective = sums * (sums / relative.square().sum(dims))
    return sums * unit.flatten(), torch.where(values > 1, effective, values), share
