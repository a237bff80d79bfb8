"""Normalization by statistics that do not depend on the batch."""

from torch import Tensor
from torch.nn import functional as F

from .. import checks
from ..errors import StatisticsError
from ..moments import statistics_dtype
from ..ops import normalize
from ..ops.affine import Affine, finish
from .batch import Batch, check, zeroed
from .options import Pair


def evaluate(
    x: Tensor, running: Pair | None, after: Affine, eps: float, mask: Tensor | None = None
) -> Tensor:
    """Normalize by running statistics; see `functional.batch_norm`."""
    if not checks.is_exporting():
        check(x, running, after, eps, mask)
    if running is None:
        raise StatisticsError(
            "expected running_mean and running_var outside training, found None; pass them, or "
            "training=True to use the statistics of this batch"
        )
    batch = Batch.of(x, after, mask)
    return zeroed(by_constants(batch.x, running, batch.after, eps), batch.drop)


def by_constants(x: Tensor, statistics: Pair, after: Affine, eps: float) -> Tensor:
    """Normalize by a mean and a variance, of any dtype."""
    if checks.is_exporting():
        return _exported(x, statistics, after, eps)
    dtype = statistics_dtype(x)
    mean, var = (t.to(dtype) for t in statistics)
    return normalize.by_constants(x, mean, var, after, eps)


def _exported(x: Tensor, statistics: Pair, after: Affine, eps: float) -> Tensor:
    """Normalize by the one operation that other tools know by name, and fold."""
    dtype = statistics[0].dtype
    weight, bias = (
        t if t is None or t.dtype is dtype else t.to(dtype) for t in (after.weight, after.bias)
    )
    z = F.batch_norm(x, *statistics, weight, bias, eps=eps)
    return finish(z, after, x.dtype)
