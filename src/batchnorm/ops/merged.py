"""The moments of one batch that lies on several replicas: what each sends, and the merge.

A replica sends one row of numbers: whether it refuses its batch, how many values it has, and per
channel their mean, what that lacks in its dtype, and the sum of squared deviations. Every replica
has all rows then, and merges them by the same arithmetic: the result is equal bit for bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .. import shapes
from ..moments import center_shifted, statistics_dtype
from ..weights import weigh
from . import dispatch
from .contract import LOW, MEAN, VAR, readable

REFUSED, COUNT, EFFECTIVE, VALUES, THERE, HEAD = range(6)
"""Where a row has what; the vectors (C,) follow from `HEAD` on."""


class Replicas(Protocol):
    """The others, and how to talk to them; every method is one collective."""

    size: int
    rank: int

    def gather(self, row: Tensor) -> Tensor:
        """Give the rows of all replicas, (W, n), in the order of their ranks."""

    def total(self, sums: Tensor) -> Tensor:
        """Give the sum over all replicas."""


class Part(NamedTuple):
    """What a replica has.

    Args:
        head: The numbers of a row before its vectors.
        shift: A constant, (C,).
        mean: Mean of x − shift, (C,).
        var: Variance (correction 0), (C,).
    """

    head: Tensor
    shift: Tensor
    mean: Tensor
    var: Tensor

    def row(self) -> Tensor:
        """Make what is sent."""
        high, low = two_sum(self.shift, self.mean)
        return torch.cat([self.head, high, low, self.var * self.head[COUNT]])


class Merged(NamedTuple):
    """What all replicas have together.

    Args:
        mean: Mean, (C,).
        low: What the mean lacks in its dtype, (C,).
        var: Variance (correction 0), (C,).
        count: Values per channel, or their weights, a tensor of one number; so are the next.
        effective: As in `moments.Moments`.
        values: How many values have a positive weight.
        there: How many are not masked.
        shares: Share of every replica in the count, (W,).
        heads: The numbers of all rows before their vectors, (W, HEAD).
    """

    mean: Tensor
    low: Tensor
    var: Tensor
    count: Tensor  # type: ignore[assignment]
    effective: Tensor
    values: Tensor
    there: Tensor
    shares: Tensor
    heads: Tensor


def nothing(channels: int, like: Tensor, refused: bool = False) -> Part:
    """Make the part of a replica without values.

    Args:
        channels: Number of channels.
        like: A tensor on the device, of the dtype of the input.
        refused: Whether there are values that it refuses.
    """
    dtype = statistics_dtype(like)
    head = torch.zeros(HEAD, dtype=dtype, device=like.device)
    head[REFUSED] = refused
    zero = torch.zeros(channels, dtype=dtype, device=like.device)
    return Part(head, zero, zero, zero)


def own_part(x: Tensor, weights: Tensor | None, there: Tensor | None) -> Part:
    """Compute the part of this replica.

    Args:
        x: Values (N, C, *S); may be empty.
        weights: How much each position counts, (N, 1, *S); None for all alike.
        there: How many are not masked, a tensor of one number; None for all.

    Returns:
        The part, differentiable where a graph is recorded.
    """
    dtype = statistics_dtype(x)
    if x.numel() == 0:
        # A function of x all the same: the backward pass is one for all replicas.
        zero = x.sum(shapes.reduce_dims(x.dim()), dtype=dtype)
        return nothing(x.shape[1], x)._replace(mean=zero, var=zero)
    if weights is None:
        count = x.numel() // x.shape[1]
        head = torch.full((HEAD,), count, dtype=dtype, device=x.device)
        head[REFUSED] = 0
        return Part(head, *_moments(x, None))
    total, effective, share = weigh(weights)
    values = (weights > 0).sum().to(dtype).view(1)
    counts = values if there is None else there.to(dtype).view(1)
    head = torch.cat([torch.zeros_like(total), total, effective, values, counts])
    return Part(head, *_moments(x, share))


def _moments(x: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    own = None if torch.is_grad_enabled() else dispatch.fused(x)
    if own is not None and (share is None or own.WEIGHTED):
        vectors = own.stats(readable(x), share)
        return vectors[MEAN], vectors[LOW], vectors[VAR]
    _, mean, var, shift = center_shifted(x, share)
    return shift, mean, var


def merge(rows: Tensor) -> Merged:
    """Merge the rows of all replicas, (W, HEAD + 3·C).

    Σw(x − mean)² is that of the parts, plus Σ count·(their mean − mean)². One of the means is
    subtracted beforehand from all, so that a large one costs no precision.

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3), equation 1.5, for any
    number of parts.
    """
    heads = rows[:, :HEAD]
    means, lows, m2s = rows[:, HEAD:].view(rows.shape[0], 3, -1).unbind(1)
    counts = heads[:, COUNT]
    count = counts.sum()
    shares = torch.where(count > 0, counts / count, 0)
    shift = means.index_select(0, counts.argmax().view(1)).squeeze(0)
    # A replica without values has mean 0, which must not be subtracted from an infinite one.
    deltas = torch.where(counts[:, None] > 0, (means - shift) + lows, 0)
    delta = (shares[:, None] * deltas).sum(0)
    between = (counts[:, None] * (deltas - delta).square()).sum(0)
    var = torch.where(count > 0, (m2s.sum(0) + between) / count, 0)
    squares = torch.where(counts > 0, shares.square() / heads[:, EFFECTIVE], 0).sum()
    effective = torch.where(count > 0, squares.reciprocal(), 0)
    values = heads[:, VALUES].sum()
    # As `weigh` does: one value is one value, whatever rounding says.
    effective = torch.where(values > 1, effective, values)
    there = heads[:, THERE].sum()
    return Merged(*two_sum(shift, delta), var, count, effective, values, there, shares, heads)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Add two numbers; give the rounded sum, and what it lacks.

    Source: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
    """
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def merged_with_graph(part: Part, replicas: Replicas) -> Merged:
    """Merge the parts of all replicas as a differentiable function of this one's.

    The gradient of a sum of losses over all replicas is meant, as everywhere: the backward pass is
    one collective.
    """
    apply = _merge if torch.compiler.is_compiling() else _merge_forward
    return Merged(*apply(part.mean, part.var, part.shift, part.head, replicas))


def total_with_graph(sums: Tensor, replicas: Replicas) -> Tensor:
    """Sum over all replicas; differentiable to any order."""
    apply = _total if torch.compiler.is_compiling() else _total_forward
    total: Tensor = apply(sums, replicas)
    return total


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(
        mean: Tensor, var: Tensor, shift: Tensor, head: Tensor, replicas: Replicas
    ) -> tuple[Tensor, ...]:
        return tuple(merge(replicas.gather(Part(head, shift, mean, var).row())))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        mean, _, shift, _, ctx.replicas = inputs
        found = Merged(*output)
        ctx.mark_non_differentiable(*(t for t in output if t is not found[0] and t is not found[2]))
        ctx.set_materialize_grads(True)
        kept = mean, shift, found.mean, found.low, found.shares
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mean, shift, mean_of_all, low, shares = ctx.saved_tensors
        sums = total_with_graph(torch.cat([grads[0], grads[2]]), ctx.replicas)
        grad_mean, grad_var = sums.chunk(2)
        share = shares[ctx.replicas.rank]
        deviation = (shift - mean_of_all) + mean - low
        return share * (grad_mean + 2 * deviation * grad_var), share * grad_var, None, None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(sums: Tensor, replicas: Replicas) -> Tensor:
        return replicas.total(sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.replicas = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return total_with_graph(grads[0], ctx.replicas), None


class _MergeForward(_Merge):
    """The same in forward mode, of which compilers would not take a Function."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        mean, shift, mean_of_all, low, shares = ctx.saved_tensors
        of_mean, of_var = (torch.zeros_like(mean) if t is None else t for t in tangents[:2])
        share = shares[ctx.replicas.rank]
        deviation = (shift - mean_of_all) + mean - low
        # The derivative by the mean of all vanishes: deviations from it add up to 0.
        each = torch.cat([share * of_mean, share * (of_var + 2 * deviation * of_mean)])
        all_mean, all_var = ctx.replicas.total(each).chunk(2)
        return all_mean, None, all_var, *(None,) * 6


class _TotalForward(_Total):
    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return total_with_graph(tangents[0], ctx.replicas)


_merge: Callable[..., Any] = _Merge.apply
_merge_forward: Callable[..., Any] = _MergeForward.apply
_total: Callable[..., Any] = _Total.apply
_total_forward: Callable[..., Any] = _TotalForward.apply
