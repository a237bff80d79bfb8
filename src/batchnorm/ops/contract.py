"""What kernels have to fulfil that do everything in one pass over memory.

Statistics, normalization, residual and activation in one call, forward and backward. `cpu` (C++)
and `triton.launch` (GPU) are two such sets of kernels; `dispatch` says which of them serves a
tensor, and `fused`, `given` and `library` are written against this contract alone.

The statistics of a batch are one tensor (4, C) in float32, `vectors`: mean, what it lacks in
float32, variance (correction 0), and 1/√(variance + eps). With the second, the output is right at
any ratio of mean to standard deviation.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import ShapeError
from .affine import Affine

Sizes = tuple[int, int, int]
"""Outer size, channels, inner size of a dense tensor."""

Pair = tuple[Tensor, Tensor]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Of input, weight, bias and residual."""

MEAN, LOW, VAR, INVSTD = range(4)
"""Rows of `vectors`."""

SIGNED = frozenset({"relu", "leaky_relu"})
"""Activations whose slope is known from the sign of their input."""


class Moving(NamedTuple):
    """Running statistics that a forward is to move.

    Args:
        mean: Running mean, (C,) in float32.
        var: Running variance (correction 1), (C,) in float32.
        momentum: Weight of the new value.
        missed: Per channel, how many updates were left out as they were not finite, int64 (C,);
            None where those are to be taken.
        tracked: How many batches there were, one int64; None where nobody counts.
    """

    mean: Tensor
    var: Tensor
    momentum: float
    missed: Tensor | None = None
    tracked: Tensor | None = None


class Output(NamedTuple):
    """What a forward gives.

    Args:
        y: Output, with the strides of the input.
        vectors: The statistics that have normalized it, (4, C).
        signs: Where the activation let pass, one bit per value, in an order of the kernels' own;
            None where it was not asked for.
        finite: Whether all statistics are finite; None where nobody has looked.
    """

    y: Tensor
    vectors: Tensor
    signs: Tensor | None
    finite: bool | None


class Kernels(Protocol):
    """A set of kernels. Whoever calls them has asked `dispatch`."""

    @property
    def WEIGHTED(self) -> bool:
        """Whether `stats` and `input_gradient` take shares of positions."""

    @property
    def LOOKS(self) -> bool:
        """Whether `train` says if all statistics are finite; that would make a GPU wait."""

    def prepare(self, x: Tensor, after: Affine, at: Sizes | None = None) -> tuple[Sizes, Affine]:
        """Convert and copy what follows where the kernels could not read it.

        Args:
            x: Input.
            after: What follows.
            at: What `sizes` has given for an x that is known to be for the kernels; None: it is
                asked.

        Returns:
            The sizes of x, and what follows.

        Raises:
            ShapeError: A tensor is not for the kernels.
        """

    def can_move(self, running: Pair, x: Tensor) -> bool:
        """Say whether `train` can move these running statistics by those of x."""

    def stats(self, x: Tensor, share: Tensor | None = None) -> Tensor:
        """Compute `vectors`, of which the last row has no meaning.

        Args:
            x: Input (N, C, *S), dense and not empty.
            share: Where the kernels are `WEIGHTED`: how much each position counts, (N, G, *S) in
                float32, for G groups of neighboring channels; in each the sum is 1, or 0. None:
                all alike.
        """

    def train(
        self,
        x: Tensor,
        after: Affine,
        eps: float,
        signs: bool = False,
        moving: Moving | None = None,
        at: Sizes | None = None,
    ) -> Output:
        """Normalize by the statistics of x.

        Args:
            x: Input (N, C, *S), dense and not empty.
            after: What follows.
            eps: Added to the variance.
            signs: Whether `backward` is to have signs instead of the residual.
            moving: Running statistics to move; where `finite` comes out False, all of them are as
                they were.
            at: What `prepare` has given, with `after`; None: nothing is prepared.
        """

    def evaluate(
        self,
        x: Tensor,
        after: Affine,
        eps: float,
        running: Pair,
        signs: bool = False,
        at: Sizes | None = None,
    ) -> Output:
        """Normalize by a mean and a variance that are given, vectors (C,)."""

    def normalize(self, x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
        """Compute once more, bit for bit, what `train` or `evaluate` has given."""

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        vectors: Tensor,
        after: Affine,
        signs: Tensor | None,
        needs: Sequence[bool],
        constant: bool,
        at: Sizes | None = None,
    ) -> Gradients:
        """Compute the gradients of input, weight, bias and residual.

        Args:
            grad_y: Gradient of the output.
            x: Input.
            vectors: What the forward has given.
            after: What followed; the residual is not needed where there are signs.
            signs: What the forward has given.
            needs: Which four gradients are wanted; the others are None.
            constant: Whether the statistics did not depend on x.
            at: What `prepare` has given, with `after`; None: nothing is prepared.
        """

    def sums(self, grad_y: Tensor, x: Tensor, vectors: Tensor, after: Affine) -> Tensor:
        """Compute Σ dz and Σ dz·x̂ of every channel, (2, C) in float32.

        dz is the gradient before the activation, x̂ the input normalized.
        """

    def input_gradient(
        self,
        grad_y: Tensor,
        x: Tensor,
        vectors: Tensor,
        after: Affine,
        totals: Tensor,
        share: Tensor | None,
        residual: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of input and residual from sums that are given.

        (dz − share·(totals₀ + x̂·totals₁))·invstd·weight, and dz.

        Args:
            grad_y: Gradient of the output.
            x: Input.
            vectors: What has normalized it.
            after: What followed.
            totals: As `sums`, (2, C), over all values that the statistics are of.
            share: As for `stats`, where the kernels are `WEIGHTED`; None where the totals are
                multiplied by it already.
            residual: Whether the second is wanted; None otherwise.
        """


def sizes(x: Tensor) -> Sizes | None:
    """Give the sizes of a tensor (N, C, *S) for the kernels; None where it is not dense.

    Example:
        >>> x = torch.empty(2, 3, 4, 5)
        >>> sizes(x), sizes(x.to(memory_format=torch.channels_last)), sizes(x[..., ::2])
        ((2, 3, 20), (40, 3, 1), None)
    """
    outer, channels = x.shape[:2]
    if x.is_contiguous():
        return outer, channels, x.numel() // (outer * channels) if outer * channels else 0
    if x.movedim(1, -1).is_contiguous():
        return x.numel() // channels, channels, 1
    return None


def readable(x: Tensor) -> Tensor:
    """Give x, or, where it is not dense, a copy."""
    return x if sizes(x) is not None else x.contiguous()


def alike(tensor: Tensor, x: Tensor) -> Tensor:
    """Give a tensor of the shape of x its dtype, its device and its strides."""
    if tensor.shape != x.shape:
        raise ShapeError(
            f"expected a tensor like the input for a kernel, {tuple(x.shape)}, found shape "
            f"{tuple(tensor.shape)}"
        )
    # Where a size is 1, its stride has no meaning.
    same = tensor.stride() == x.stride() or (tensor.is_contiguous() and x.is_contiguous())
    if same and tensor.dtype is x.dtype and tensor.device == x.device:
        return tensor
    return torch.empty_like(x).copy_(tensor.detach())


def check_vectors(vectors: Tensor, channels: int) -> None:
    """Refuse vectors of another number of channels, or of another dtype."""
    if vectors.shape != (4, channels) or vectors.dtype is not torch.float32:
        raise ShapeError(
            f"expected the vectors of {channels} channels, (4, {channels}) in float32, "
            f"found {tuple(vectors.shape)}, {vectors.dtype}"
        )
