"""Layers watched while a model runs: what they are given, and the order they are called in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import StatisticsError
from ...nn import BatchNorm
from .population import Population, measure

Layers = Mapping[str, _BatchNorm]
"""Layers by their qualified names."""

PreHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def call_order(layers: Layers) -> Iterator[list[str]]:
    """Note, inside the block, in which order layers are called for the first time."""
    order: list[str] = []

    def note(name: str) -> PreHook:
        return lambda _, args, kwargs: None if name in order else order.append(name)

    with _hooked({name: (layer, note(name)) for name, layer in layers.items()}):
        yield order


@contextmanager
def measured(layers: Layers) -> Iterator[dict[str, Population]]:
    """Pool what layers are given inside the block; each normalizes by its batch meanwhile.

    For that it has the moments of the batch in place of its running statistics: they are computed
    anyway, and evaluation takes less time than training. What has no variance in a batch, such as
    one value per channel, is normalized by all there was so far.

    After an exception the buffers are not put back.
    """
    populations = {}
    buffers = {}
    for name, layer in layers.items():
        assert layer.running_mean is not None and layer.running_var is not None
        buffers[name] = {"running_mean": layer.running_mean, "running_var": layer.running_var}
        populations[name] = Population.empty(layer.running_mean, layer.running_var)

    def pool(name: str) -> PreHook:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            layer.training = False
            pair = _pool(populations[name], name, layer, args, kwargs)
            for key, value in zip(_STATISTICS, pair, strict=bool(pair)):
                layer._buffers[key] = value.to(buffers[name][key])

        return hook

    with _hooked({name: (layer, pool(name)) for name, layer in layers.items()}):
        yield populations
    for name, layer in layers.items():
        layer._buffers.update(buffers[name])


_STATISTICS = ("running_mean", "running_var")


def _pool(
    population: Population,
    name: str,
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Sequence[Tensor]:
    """Add the input of a call; give the mean and the variance it is to be normalized by."""
    x = _input([*args, *kwargs.values()], population)
    if x is None:
        return ()
    # A subclass of torch's may call something else by these names.
    ours = isinstance(layer, BatchNorm)
    weights = [kwargs.get(key) if ours else None for key in ("mask", "sample_weight")]
    moments = measure(x, *weights)
    policy = layer.nonfinite if isinstance(layer, BatchNorm) else "skip"
    lost = population.add(moments, skip_nonfinite=policy != "propagate")
    if policy == "raise" and bool(lost.any()):
        raise StatisticsError(
            f"{name or type(layer).__name__}: expected a finite mean and variance of every "
            f"channel, found NaN or infinity in {int(lost.sum())} of {lost.numel()}; the model is "
            f'as it was. Leave such batches out, or set nonfinite="skip" on the layer'
        )
    if weights == [None, None] and x.numel() > x.shape[1]:
        return moments.mean, moments.var()
    effective = moments.count if moments.effective is None else moments.effective
    return population.unless(effective > 1, moments.mean, moments.var())


def _input(given: Sequence[Any], population: Population) -> Tensor | None:
    """Give the input if there is something to measure; what is wrong, the layer itself refuses."""
    x = given[0] if given else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or not x.numel():
        return None
    return x if x.shape[1] == population.moments.mean.shape[0] else None


@contextmanager
def _hooked(hooks: Mapping[str, tuple[nn.Module, PreHook]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in hooks.values():
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield
