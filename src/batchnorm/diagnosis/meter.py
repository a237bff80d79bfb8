"""Layers watched in a run: what each call is given, and what it gives."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import shapes
from ..moments import Moments
from ..nn import BatchNorm
from ..surgery.recalibration.population import measure
from ..weights import of_positions
from .activations import ActivationMeter
from .evidence import Calls

BINS = 48

THINNED = 1 << 14
"""Values of an output that a histogram takes, evenly spaced, of every call."""


class _Call(NamedTuple):
    batch: int
    samples: int
    moments: Moments
    by_sample: Moments
    minimum: Tensor
    maximum: Tensor
    statistics: int
    is_degenerate: bool


class _Output(NamedTuple):
    rms: Tensor
    largest: Tensor
    histogram: Tensor


class Meter:
    """Collects the calls of layers.

    Args:
        layers: By name.
        edges: Ends of the histograms of each layer; what is missing is found on its first output.
        units: Watches the activations as well; or None.
    """

    def __init__(
        self,
        layers: Mapping[str, _BatchNorm],
        edges: dict[str, tuple[float, float]],
        units: ActivationMeter | None = None,
    ) -> None:
        self.layers = layers
        self.units = units
        self.edges = edges
        self.batch = 0
        self.is_going_back = False
        """A forward pass inside the backward pass is that of a checkpoint: it was seen before."""
        self.order: list[str] = []
        self.dtypes: dict[str, tuple[torch.dtype, torch.dtype]] = {}
        self.errors: dict[str, list[tuple[float, int]]] = {name: [] for name in layers}
        self._given: dict[str, list[_Call | None]] = {name: [] for name in layers}
        self._made: dict[str, list[tuple[_Call, _Output]]] = {name: [] for name in layers}

    def begin_batch(self, number: int) -> None:
        """Take what follows for calls of this batch."""
        self.batch = number
        if self.units is not None:
            self.units.begin_batch()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch while the block lasts."""
        with ExitStack() as stack:
            if self.units is not None:
                stack.enter_context(self.units.watching(model))
            for name, layer in self.layers.items():
                enter, leave = self._hooks(name)
                handles = (
                    layer.register_forward_pre_hook(enter, with_kwargs=True),
                    layer.register_forward_hook(leave, prepend=True),
                )
                for handle in handles:
                    stack.callback(handle.remove)
            yield

    @contextmanager
    def going_back(self) -> Iterator[None]:
        """Take forward passes in the block for repetitions: only their gradients are looked at."""
        self._set_going_back(True)
        try:
            yield
        finally:
            self._set_going_back(False)

    def _set_going_back(self, value: bool) -> None:
        self.is_going_back = value
        if self.units is not None:
            self.units.is_paused = value

    def calls(self) -> dict[str, Calls]:
        """Give what was collected, for the layers that were called with values."""
        return {name: _stacked(rows) for name, rows in self._made.items() if rows}

    def error_rms(self, name: str) -> float | None:
        """Give the root mean square of the gradients that reached the outputs of a layer."""
        total = sum(count for _, count in self.errors[name])
        return (sum(s for s, _ in self.errors[name]) / total) ** 0.5 if total else None

    def _hooks(self, name: str) -> tuple[Any, Any]:
        def enter(layer: _BatchNorm, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in self.order:
                self.order.append(name)
            with torch.no_grad():
                call = self._enter(layer, args, kwargs)
            self._given[name].append(call)
            if call is not None and call.is_degenerate and call.statistics:
                layer.training = False  # one value has no variance: training would raise

        def leave(layer: _BatchNorm, args: tuple[Any, ...], output: Any) -> None:
            call = self._given[name].pop()
            if call is None or not isinstance(output, Tensor):
                return
            if call.is_degenerate and call.statistics:
                layer.training = True
            if output.requires_grad and torch.is_grad_enabled():
                note = functools.partial(self._note_error, name)
                output.register_hook(note)  # type: ignore[no-untyped-call]
            if self.is_going_back:
                return
            with torch.no_grad():
                made = self._leave(name, args, output)
            if self.units is not None:
                own = layer.activation if isinstance(layer, BatchNorm) else None
                self.units.note_layer(name, own, output)
            self._made[name].append((call, made))

        return enter, leave

    def _enter(
        self, layer: _BatchNorm, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Call | None:
        given = [*args, *kwargs.values()]
        x = given[0] if given else None
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or not x.numel():
            return None
        if x.shape[1] != layer.num_features:
            return None
        ours = isinstance(layer, BatchNorm)
        mask, weight = (kwargs.get(key) if ours else None for key in ("mask", "sample_weight"))
        x = x.detach()
        moments = _moved(measure(x, mask, weight))
        by_sample = _moved(Moments.of(_sample_means(x, mask, weight)))
        chunks = layer.virtual_batch_size if isinstance(layer, BatchNorm) else None
        runs = shapes.virtual_batches(x.shape, chunks) if chunks else [(x.shape[0], 1)]
        return _Call(
            self.batch,
            x.shape[0],
            moments,
            by_sample,
            *_ends(x, mask, weight),
            sum(number for _, number in runs) if _trains(layer) else 0,
            shapes.count_per_channel(x.shape) == 1,
        )

    def _leave(self, name: str, args: tuple[Any, ...], output: Tensor) -> _Output:
        given = args[0].dtype if args and isinstance(args[0], Tensor) else output.dtype
        self.dtypes.setdefault(name, (given, output.dtype))
        values = output.detach().flatten()
        thin = values[:: max(1, -(-values.numel() // THINNED))].float().cpu()
        rms = values.double().square().mean().sqrt()
        edges = self._edges(name, thin)
        inside = thin[thin.isfinite()].clamp(*edges)
        counts = torch.histc(inside, BINS, *edges) if inside.numel() else torch.zeros(BINS)
        return _Output(_small(rms), _small(values.abs().max()), counts.double())

    def _edges(self, name: str, values: Tensor) -> tuple[float, float]:
        if name not in self.edges:
            known = values[values.isfinite()]
            if not known.numel():
                return -1.0, 1.0
            low, high = (float(v) for v in known.aminmax())
            margin = (high - low) / 4 or 1.0
            # An activation that ends at 0 needs no bins below.
            self.edges[name] = (low if low == 0 else low - margin), high + margin
        return self.edges[name]

    def _note_error(self, name: str, grad: Tensor) -> None:
        with torch.no_grad():
            self.errors[name].append((float(grad.double().square().sum()), grad.numel()))


def _trains(layer: _BatchNorm) -> bool:
    return layer.is_learning() if isinstance(layer, BatchNorm) else layer.training


def _small(x: Tensor) -> Tensor:
    return x.cpu().double()


def _moved(moments: Moments) -> Moments:
    return Moments(*(None if t is None else _small(t) for t in moments))  # type: ignore[arg-type]


def _ends(x: Tensor, mask: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every channel that counts."""
    dims = shapes.reduce_dims(x.dim())
    weights = of_positions(x, mask, weight, torch.float32)
    low = high = x
    if weights is not None:
        low, high = (x.masked_fill(weights == 0, end) for end in (torch.inf, -torch.inf))
    return _small(low.amin(dims)), _small(high.amax(dims))


def _sample_means(x: Tensor, mask: Tensor | None, weight: Tensor | None) -> Tensor:
    """Average the positions of every sample, (N', C); samples without any are left out."""
    wide = x.double() if x.device.type != "mps" else x.cpu().double()
    dims = tuple(range(2, x.dim()))
    weights = of_positions(wide, mask, weight, torch.float64)
    if weights is None:
        return wide.mean(dims) if dims else wide
    total = weights.sum(dims) if dims else weights
    wide = (wide * weights).masked_fill(weights == 0, 0)
    means = (wide.sum(dims) if dims else wide) / total
    return means[total.flatten() > 0]


def _stacked(rows: list[tuple[_Call, _Output]]) -> Calls:
    calls, outputs = zip(*rows, strict=True)
    count = torch.stack([c.moments.count for c in calls])
    samples = torch.stack([c.by_sample.count[0] for c in calls])
    return Calls(
        batch=tuple(c.batch for c in calls),
        samples=samples,
        count=count,
        mean=torch.stack([c.moments.mean for c in calls]),
        var=torch.stack([c.moments.var() for c in calls]),
        minimum=torch.stack([c.minimum for c in calls]),
        maximum=torch.stack([c.maximum for c in calls]),
        sample_mean=torch.stack([c.by_sample.mean for c in calls]),
        sample_var=torch.stack([c.by_sample.var(correction=1) for c in calls]),
        statistics=tuple(max(c.statistics, 1) for c in calls),
        output_rms=torch.stack([o.rms for o in outputs]),
        output_largest=torch.stack([o.largest for o in outputs]),
        histogram=torch.stack([o.histogram for o in outputs]).sum(0),
        degenerate=sum(c.is_degenerate and c.statistics > 0 for c in calls),
    )


def layers_of(model: nn.Module) -> dict[str, _BatchNorm]:
    """Find all batch normalization, by qualified name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
