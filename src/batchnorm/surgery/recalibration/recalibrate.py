"""Running statistics measured anew: those of a whole data set instead of a moving average."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...distributed import Sync
from ...errors import OptionError, StatisticsError, SurgeryError
from ...nn import frozen
from ...ops.merged import Replicas
from ..kinds import is_lazy
from .batches import Progress, length, runner, shown
from .meter import Layers, call_order, measured
from .population import Convergence, Population, distance
from .restore import Snapshot, borrowed
from .summary import Recalibrated, Recalibration
from .together import Outcome, others, pooled, same_order

Forward = Callable[[Any, Any], object]


class _Plan(NamedTuple):
    model: nn.Module
    batches: Iterable[Any]
    forward: Forward
    tolerance: float | None
    progress: Progress
    others: Callable[[], Replicas | None]


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Forward | None = None,
    *,
    passes: int | None = 1,
    tolerance: float | None = None,
    progress: Progress | bool | None = None,
    sync: Sync = False,
) -> Recalibration:
    """Set running statistics to those of all values in `batches`, in place.

    Every layer gets the mean and the variance (correction 1) of all it is given, each value
    counting once: moments are pooled in float64 over batches of any size, over all calls of a
    shared layer, and without what a mask hides. Dropout and all else that is not a layer to be
    measured runs in evaluation mode.

    With one pass, all layers are measured at once, behind layers that normalize by the batch, as
    in training. In inference they will normalize by the new statistics instead, which makes a
    difference where batches are small or not alike. With `passes=None` the layers are measured one
    after the other, each behind layers that are already done: every statistic then is exactly that
    of inference, for as many passes as there are layers. A number in between measures so many
    groups of neighbors. Each pass starts from the same state of the global random generators.

    Layers are left as they are, and reported, if they are frozen (see `freeze`; a layer that is in
    evaluation mode while others are in training mode is taken to be frozen, too), keep no running
    statistics, or are not called.
    Momentum stays; `num_batches_tracked` grows to the number of batches if it was less, so that
    with `momentum=None` the next training batch does not outweigh them.

    Args:
        model: A model, or a layer; layers of this library and those of torch are measured.
        batches: Batches; for more than one pass something that can be gone through again, such as
            a list or a DataLoader.
        forward: Called as forward(model, batch) without gradients. By default a tensor is the
            input, so is the first element of a tuple or list, a dictionary holds keyword
            arguments, and any other object is the argument; tensors are moved to the model.
        passes: How many times to go through the batches; None for once per layer.
        tolerance: Stop a pass once twice the batches have moved no mean by more than so many
            standard deviations and no logarithm of a variance by more than that; looked at after
            8, 16, 32, ... batches, which should be in random order. None: use all.
        progress: Called as progress(done, total) after every batch. None: a bar on stderr if that
            is a terminal and rich is installed. False: nothing.
        sync: Pool what the replicas of `torch.distributed` find, each in batches of its own: True
            for all processes, or a ProcessGroup. All of them must call this, and afterwards have
            the same statistics; one may have no batches.

    Returns:
        A printable record: for every layer the number of values and how far its statistics moved,
        or why it was left.

    Raises:
        OptionError: An option has no valid value, or the model does not take the batches.
        StatisticsError: There are no batches; or a moment is not finite, and the layer has
            `nonfinite="raise"`.
        SurgeryError: The model has lazy modules that have had no input yet.
        BaseException: Whatever `forward`, the model, `batches` or Ctrl-C raise. After any
            exception the model is as it was, bit for bit.

    Example: all values weigh the same, whatever the sizes of the batches.
        >>> from batchnorm import BatchNorm1d
        >>> layer = BatchNorm1d(1)
        >>> batches = [torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[7.0]])]
        >>> result = recalibrate(layer, batches)
        >>> layer.running_mean, layer.running_var
        (tensor([4.]), tensor([6.6667]))
        >>> print(result.layers[0])
        (model): 4 values, mean moved 4 sd, variance x 6.67

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 2, line 10; Wu & Johnson 2021
    (arXiv:2105.07576), section 3 ("precise" statistics); Chan, Golub & LeVeque 1983 for pooling.
    """
    _check(model, batches, passes, tolerance)
    every = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    left = _left(every)
    layers = {name: layer for name, layer in every.items() if name not in left}
    changed: list[nn.Module] = []
    with (
        borrowed(model, changed) as before,
        shown(progress) as show,
        torch.no_grad(),
        eagerly(),
    ):
        plan = _Plan(model, batches, forward or runner(model), tolerance, show, others(sync))
        start = time.perf_counter()
        _evaluate(model)
        done = _run(plan, _groups(plan, layers, passes), layers, before, changed)
        pooled = {name: population for one in done for name, population in one.populations.items()}
        rows = [_row(n, m.eps, pooled.get(n), left.get(n)) for n, m in every.items()]
        seconds = time.perf_counter() - start
    longest = max((one.batches for one in done), default=0)
    asked = tolerance is not None and done
    converged = all(one.converged for one in done) if asked else None
    return Recalibration(tuple(rows), len(done), longest, converged, seconds)


def _check(
    model: nn.Module, batches: Iterable[Any], passes: int | None, tolerance: float | None
) -> None:
    if not (passes is None or (type(passes) is int and passes >= 1)):
        raise OptionError(f"expected passes to be None or a positive int, found {passes!r}")
    if not (tolerance is None or (tolerance > 0 and math.isfinite(tolerance))):
        raise OptionError(
            f"expected tolerance to be None or a positive number of standard deviations, "
            f"found {tolerance!r}"
        )
    if passes != 1 and isinstance(batches, Iterator):  # iter() may draw random numbers
        raise OptionError(
            f"expected batches that can be gone through again, such as a list or a DataLoader, for "
            f"passes={passes}; found a {type(batches).__name__}, which is used up after one pass"
        )
    lazy = [name or "(the model itself)" for name, m in model.named_modules() if is_lazy(m)]
    if lazy:
        raise SurgeryError(
            f"{lazy[-1]}: lazy, so the number of channels is not known yet. Run one batch through "
            f"the model first, then recalibrate."
        )


def _left(layers: Layers) -> dict[str, str]:
    """Say which layers stay as they are, and why."""
    held = {name for name, layer in layers.items() if frozen.is_frozen(layer)}
    some_train = any(layer.training for name, layer in layers.items() if name not in held)
    left = {}
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            left[name] = "it keeps no running statistics"
        elif name in held:
            left[name] = "its statistics are frozen; see batchnorm.unfreeze"
        elif some_train and not layer.training:
            left[name] = "in evaluation mode where others are in training mode: taken to be frozen"
    return left


def _evaluate(model: nn.Module) -> None:
    """Put all in evaluation mode; not by `eval()`: a model's own `train` may do more than that."""
    for module in model.modules():
        module.training = False


def eagerly() -> AbstractContextManager[Any]:
    """Let compiled models run as they are written: hooks would be compiled into new graphs."""
    compiled = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _groups(plan: _Plan, layers: Layers, passes: int | None) -> list[Layers]:
    """Split the layers into groups of neighbors, in the order in which they are called first."""
    if passes == 1 or len(layers) <= 1:
        return [layers] if layers else []
    with call_order(layers) as order:
        for batch in islice(iter(plan.batches), 1):
            plan.forward(plan.model, batch)
    order = same_order(order, layers, plan.others())
    order += [name for name in layers if name not in order]
    number = len(order) if passes is None else min(passes, len(order))
    ends = [len(order) * k // number for k in range(number + 1)]
    return [{name: layers[name] for name in order[first:end]} for first, end in pairwise(ends)]


def _run(
    plan: _Plan,
    groups: list[Layers],
    layers: Layers,
    before: Snapshot,
    changed: list[nn.Module],
) -> list[Outcome]:
    size = length(plan.batches)
    done: list[Outcome] = []
    seen = 0
    for number, group in enumerate(groups):
        before.random.restore()
        total = None if size is None else size * (len(groups) - number) + seen
        one = _go_through(plan, group, seen, total)
        seen += one.batches
        for name, population in one.populations.items():
            if _write(layers[name], population):
                changed.append(layers[name])
        done.append(one)
    return done


def _go_through(plan: _Plan, group: Layers, seen: int, total: int | None) -> Outcome:
    """Run the model on all batches; or until nothing moves any more, if that was asked for."""
    until = None if plan.tolerance is None else Convergence(plan.tolerance)
    number, converged = 0, False
    with measured(group) as populations:
        named = {name: (population, group[name].eps) for name, population in populations.items()}
        for number, batch in enumerate(plan.batches, start=1):
            plan.forward(plan.model, batch)
            for population in populations.values():
                population.end_batch()
            plan.progress(seen + number, total)
            if until is not None and until.reached(number, named):
                converged = True
                break
    found = pooled(Outcome(populations, number, converged), plan.others())
    if found.batches == 0:
        raise StatisticsError(
            "expected at least one batch, found none; the model is as it was. If batches is a "
            "generator, it may have been used up before"
        )
    return found


def _write(layer: _BatchNorm, population: Population) -> bool:
    """Set the statistics of a layer; say whether there were any."""
    mean, var, known = population.statistics()
    if not bool(known.any()):
        return False
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.clamp_(min=population.batches)
    return True


def _row(name: str, eps: float, population: Population | None, left: str | None) -> Recalibrated:
    if population is None:
        return Recalibrated(name, 0.0, 0, None, None, 0, left)
    count = float(population.moments.count.max())
    skipped = int(population.left_out.max())
    mean, var, known = population.statistics()
    if not bool(known.any()):
        reason = "it had no two finite values of a channel" if count or skipped else _NOT_CALLED
        return Recalibrated(name, count, population.batches, None, None, skipped, reason)
    shift, ratio = (t[known] for t in distance(population.before, (mean, var), eps))
    most = ratio[ratio.abs().argmax()].exp()
    return Recalibrated(
        name, count, population.batches, _number(shift.max()), _number(most), skipped
    )


_NOT_CALLED = "it was not called with values, or by its method forward, which cannot be watched"


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
