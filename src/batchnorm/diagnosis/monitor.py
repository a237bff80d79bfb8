"""Quantities of batch normalization written while a network trains.

One layer is the clock: it counts its training forwards. Only at every hundredth do the other layers
get a hook, which goes when it has been called once; the rest of the time one layer pays for a hook.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..errors import OptionError, SurgeryError
from ..nn import frozen
from ..nn.recomputation import is_recomputation
from .snapshot import snapshot

Values = dict[str, float]


class Writer(Protocol):
    """What a `SummaryWriter` of `torch.utils.tensorboard` has."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one number."""


class Monitor:
    """Watch the layers of batch normalization of a model while it trains.

    At every `every`-th training forward, the first one included, each layer is measured on the
    batch it is given; the numbers are written as soon as all layers have been called. They are
    those of one batch: the errors of the running statistics hold the noise of that batch, too,
    which for a mean is about 1/sqrt(effective batch size) standard deviations. The model, its
    gradients and its outputs are not touched.

    What is written under `batchnorm/<layer>/`:

    - `mean_error`, `log_std_error`: distance of the running statistics from those of the batch, in
      standard deviations and in logarithms, root mean square over channels
    - `effective_batch`: how many independent samples the mean of a channel is of, median
    - `eps_share`: share of eps in the sum var + eps, median
    - `dead`: share of channels whose output is positive nowhere in the batch
    - `input_rms`, `input_max`: of all values
    - `weight_rms`, `bias_rms`: of the affine parameters

    Args:
        model: A model with layers of this library or of torch, not compiled.
        every: Training forwards from one measurement to the next; with gradients accumulated over
            micro-batches each of them is one.
        log: A `SummaryWriter`, or anything with its `add_scalar(tag, value, step)`; or a function
            `log(values, step)`, such as `wandb.log`. None keeps them in `history`.

    Raises:
        OptionError: `every` is not a positive int, or `log` neither of the two.
        SurgeryError: The model has no batch normalization, or is compiled: compiled code calls no
            hook.

    Example:
        >>> from batchnorm import BatchNorm1d, Monitor
        >>> model = nn.Sequential(nn.Linear(2, 3), BatchNorm1d(3))
        >>> with Monitor(model, every=2) as monitor:
        ...     for _ in range(4):
        ...         _ = model(torch.randn(8, 2))
        >>> [step for step, _ in monitor.history]
        [0, 2]
        >>> sorted(monitor.history[0][1])[:2]
        ['batchnorm/1/bias_rms', 'batchnorm/1/dead']

    Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3, for the errors; for what they mean,
    `batchnorm.diagnose`.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        log: Writer | Callable[[Values, int], object] | None = None,
    ) -> None:
        if type(every) is not int or every < 1:
            raise OptionError(f"expected every to be a positive int, found {every!r}")
        self.history: list[tuple[int, Values]] = []
        self.forwards = 0
        """Training forwards so far."""
        self._every, self._write = every, _writer(log, self.history)
        self._layers = _layers(model)
        self._found: dict[str, dict[str, Tensor]] = {}
        self._waiting: dict[str, RemovableHandle] = {}
        self._step = 0
        self._clock = _clock(self._layers)
        layer = self._layers[self._clock]
        self._tick = layer.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See a forward of the clock; most of the time this is all that a step costs."""
        if not layer.training or torch.compiler.is_compiling() or is_recomputation():
            return
        if self._waiting or self._found or self.forwards % self._every == 0:
            self._begin(args, kwargs)
        self.forwards += 1

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """End a measurement that waits for layers that were not called; begin one that is due."""
        self.flush()
        if self.forwards % self._every == 0:
            self._step = self.forwards
            others = [name for name in self._layers if name != self._clock]
            self._waiting = {name: self._hook(name) for name in others}
            self._measure(self._clock, args, kwargs)

    def _hook(self, name: str) -> RemovableHandle:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not torch.compiler.is_compiling() and not is_recomputation():
                self._measure(name, args, kwargs)

        return self._layers[name].register_forward_pre_hook(hook, with_kwargs=True)

    def _measure(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the one call that a layer is measured in."""
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1 and x.numel():
            with torch.no_grad():
                self._found[name] = snapshot(self._layers[name], x)
        if name in self._waiting:
            self._waiting.pop(name).remove()
        if not self._waiting:
            self.flush()

    def flush(self) -> None:
        """Write what has been measured and not been written yet."""
        for handle in self._waiting.values():
            handle.remove()
        self._waiting.clear()
        found, self._found = self._found, {}
        if not found:
            return
        tags = [f"batchnorm/{n or 'model'}/{key}" for n, one in found.items() for key in one]
        # One copy from the device for all of them.
        numbers = torch.stack([value for one in found.values() for value in one.values()])
        self._write(dict(zip(tags, numbers.tolist(), strict=True)), self._step)

    def close(self) -> None:
        """Write what is left, and take all hooks away; a second time does nothing."""
        self._tick.remove()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    compiled = [
        name or "(the model itself)"
        for name, module in model.named_modules()
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
    ]
    if compiled:
        raise SurgeryError(
            f"{compiled[0]}: expected a model that is not compiled, found one that is; compiled "
            f"code calls no hook. Monitor a run without torch.compile, or use batchnorm.diagnose"
        )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    if not layers:
        raise SurgeryError(
            "expected a model with batch normalization, found none in "
            f"{type(model).__name__}; see batchnorm.insert"
        )
    return layers


def _clock(layers: dict[str, _BatchNorm]) -> str:
    """The first layer that learns, or else the first that is not frozen for good."""
    learning = [name for name, layer in layers.items() if layer.training]
    free = [name for name, layer in layers.items() if not frozen.is_frozen(layer)]
    return next(iter([*learning, *free, *layers]))


def _writer(log: Any, history: list[tuple[int, Values]]) -> Callable[[Values, int], object]:
    if log is None:
        return lambda values, step: history.append((step, values))
    if hasattr(log, "add_scalar"):

        def write(values: Values, step: int) -> None:
            for tag, value in values.items():
                log.add_scalar(tag, value, step)

        return write
    if callable(log):
        return log  # type: ignore[no-any-return]
    raise OptionError(
        "expected log to be a SummaryWriter, a function log(values, step) or None, found "
        f"{type(log).__name__}"
    )
