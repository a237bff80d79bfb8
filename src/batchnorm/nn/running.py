"""When and how running statistics are updated: the one policy, for every layer.

A training forward moves them once, by all it knows, and not at all

- inside `no_update`, or while activation checkpointing runs a forward for the second time,
- where a batch has no values, or one per channel,
- in a channel whose mean or variance in this batch is NaN or infinite (`nonfinite="skip"`).

Inside `accumulate` the moments of all forwards are merged first.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from .. import checks
from ..errors import StatisticsError
from ..functional import update_running_
from ..moments import Estimate, number
from ..ops.contract import Moving
from .pool import Pool
from .recomputation import is_recomputation, is_recomputation_of

NONFINITE = ("skip", "propagate", "raise")
"""What to do with a channel whose mean or variance in a batch is NaN or infinite."""


class Running(_BatchNorm):
    """The memory of a layer: torch's buffers, and the policy by which they change.

    The statistics keep their dtype where the layer is made half precision: a half running mean
    stalls as soon as an update is smaller than its spacing.
    """

    nonfinite: str
    num_nonfinite: Tensor | None
    paused: int
    """Number of `no_update` blocks around."""
    pools: list[Pool]
    """What the `accumulate` blocks around have merged so far, the innermost last."""
    frozen_statistics: bool = False
    """Whether `freeze` keeps the statistics as they are, and normalizes by them in training."""
    frozen_affine: tuple[str, ...] = ()
    """Names of the parameters from which `freeze` has taken the gradient."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.nonfinite = "skip"
        self.paused, self.pools = 0, []
        self.register_buffer("num_nonfinite", None, persistent=False)

    def learn(self, batch: Estimate | None) -> None:
        """Move the running statistics by what a batch says; None for an empty one.

        Raises:
            StatisticsError: A moment is not finite, and `nonfinite` is "raise"; nothing has
                changed then.
        """
        if batch is None or self.paused or is_recomputation():
            return
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            batch = batch.only_if(~is_recomputation_of(batch.mean))
        skip = None
        if self.nonfinite != "propagate" and batch.finite is not True:
            skip = _nonfinite(batch, pooled=bool(self.pools))
            if self.nonfinite == "raise" and _refuse(skip):
                skip = None
        if self.pools:
            self.pools[-1].add_(batch, skip)
        elif batch.known is True:
            self._write(batch, skip, 1)
        elif batch.known is not False:
            skip = None if skip is None else skip & batch.known
            self._write(batch, skip, batch.known.any())

    def close(self, pool: Pool) -> None:
        """Give up a pool: to the one around it, or to the running statistics."""
        index = next(i for i, other in enumerate(self.pools) if other is pool)
        del self.pools[index]
        if index > 0:
            self.pools[index - 1].join_(pool)
            return
        batch = pool.moments.estimate()
        known = number(batch.known, pool.batches, torch.bool)
        counted = (pool.batches > 0) | known.any()
        skip = counted & ~batch.var.isfinite() if self.nonfinite != "propagate" else None
        self._write(batch, skip, counted)

    def discard(self, pool: Pool) -> None:
        """Forget a pool."""
        self.pools = [other for other in self.pools if other is not pool]

    def is_learning(self) -> bool:
        """Whether the layer normalizes by the batch, and learns from it."""
        return self.training and not self.frozen_statistics

    def running_stats(self) -> tuple[Tensor, Tensor] | None:
        """Give the running mean and variance; None for a layer that keeps none."""
        buffers = self._buffers  # half the time of looking them up on the module
        mean, var = buffers["running_mean"], buffers["running_var"]
        return None if mean is None or var is None else (mean, var)

    def movable(self) -> Moving | None:
        """Give the running statistics if a batch simply moves them; None otherwise."""
        if self.paused or self.pools or not self.track_running_stats or is_recomputation():
            return None
        running, momentum = self.running_stats(), self.momentum
        if running is None or type(momentum) is not float or not 0 <= momentum <= 1:
            return None
        buffers = self._buffers
        return Moving(*running, momentum, buffers["num_nonfinite"], buffers["num_batches_tracked"])

    def note_moved(self, moving: Moving) -> None:
        """Tell torch what a kernel has written."""
        if not moving.mean.is_inference():
            written = [t for t in (*moving[:2], *moving[3:]) if isinstance(t, Tensor)]
            torch.autograd.graph.increment_version(written)

    def _write(self, batch: Estimate, skip: Tensor | None, counted: int | Tensor) -> None:
        running, tracked = self.running_stats(), self._buffers["num_batches_tracked"]
        if running is None:
            return
        momentum: float | Tensor | None = self.momentum
        if momentum is None:
            momentum = 0.0 if tracked is None else self._share_of_next(tracked, running[0].dtype)
        take = True if skip is None else ~skip
        update_running_(*running, batch, momentum, take)
        if skip is not None and self.num_nonfinite is not None:
            self.num_nonfinite.add_(skip)
        if tracked is not None:
            tracked.add_(counted)

    def _share_of_next(self, tracked: Tensor, dtype: torch.dtype) -> Tensor:
        """Weight of the next batch in the average of all; a tensor, so that nothing waits."""
        number = tracked + 1
        if self.num_nonfinite is not None:
            number = (number - self.num_nonfinite).clamp(min=1)
        return number.to(torch.promote_types(dtype, torch.float32)).reciprocal()

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the variance to 1, and all counts to 0."""
        super().reset_running_stats()
        count = getattr(self, "num_nonfinite", None)  # torch's constructor calls this as well
        if count is not None:
            count.zero_()

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not inside the blocks that are around its original."""
        return {**self.__dict__, "paused": 0, "pools": []}

    def pin_running_stats(self) -> None:
        """Widen half precision statistics, and put the count of non-finite ones beside them."""
        running = self.running_stats()
        if running is None:
            return
        self.running_mean, self.running_var = map(_widened, running)
        if is_lazy(running[0]):
            return
        wanted = self.nonfinite == "skip"
        count = torch.zeros_like(running[0], dtype=torch.int64) if wanted else None
        self.num_nonfinite = count

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        pinned = self.running_stats() or ()

        def converted(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if any(tensor is t for t in pinned) and _is_half(result):
                return _widened(tensor).to(result.device)
            return result

        super()._apply(converted, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("running_mean", "running_var"):
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor):
                state_dict[prefix + name] = _widened(value)
        if self.num_batches_tracked is None:  # as of frozen layers of other libraries
            state_dict.pop(prefix + "num_batches_tracked", None)
            args = ({**args[0], "version": 2}, *args[1:])  # or torch would put one there
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.num_nonfinite is None or self.running_mean is None:
            return
        if self.num_nonfinite.device == self.running_mean.device:
            self.num_nonfinite.zero_()
        else:  # the buffers of a meta device were assigned
            self.num_nonfinite = torch.zeros_like(self.running_mean, dtype=torch.int64)


def _nonfinite(batch: Estimate, pooled: bool) -> Tensor:
    known = number(batch.known, batch.mean, torch.bool)
    # A single value moves nothing by itself; in a pool its mean does.
    mean = batch.mean.isfinite() if pooled else batch.mean.isfinite() | ~known
    return ~mean | (known & ~batch.var.isfinite())


def _refuse(nonfinite: Tensor) -> bool:
    """Raise if a channel is not finite; say whether it was possible to look."""
    message = "expected a finite mean and variance of every channel, found NaN or infinity"
    if checks.can_wait(nonfinite):
        channels = nonfinite.nonzero().flatten().tolist()
        if channels:
            more = ", ..." if len(channels) > 5 else ""
            raise StatisticsError(
                f"{message} in {len(channels)} of {nonfinite.numel()} "
                f"({', '.join(map(str, channels[:5]))}{more}); the statistics are unchanged; "
                f'nonfinite="skip" leaves such channels out'
            )
        return True
    if torch.compiler.is_compiling():
        torch._assert_async(~nonfinite.any(), message)
    return False


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if _is_half(tensor) else tensor
