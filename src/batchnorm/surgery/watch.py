"""Layers watched while a model runs: what they are given, and the order they are called in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import StatisticsError
from ..nn import BatchNorm
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

    A batch of one value per channel has no variance: it counts, and is normalized by the running
    statistics.
    """
    populations = {
        name: Population.empty(layer.running_mean)
        for name, layer in layers.items()
        if layer.running_mean is not None
    }

    def pool(name: str) -> PreHook:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            layer.training = _pool(populations[name], name, layer, args, kwargs)

        return hook

    with _hooked({name: (layers[name], pool(name)) for name in populations}):
        yield populations
    for name in populations:
        layers[name].training = False


def _pool(
    population: Population,
    name: str,
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Add the input of a call; say whether the layer can normalize by it."""
    given = [*args, *kwargs.values()]
    x = given[0] if given else None
    # What a layer cannot take, it refuses in words of its own.
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or not x.numel():
        return False
    if x.shape[1] != population.moments.mean.shape[0]:
        return False
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
    if weights == [None, None]:
        return x.numel() > x.shape[1]
    effective = moments.count if moments.effective is None else moments.effective
    return bool((effective > 1).any())


@contextmanager
def _hooked(hooks: Mapping[str, tuple[nn.Module, PreHook]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in hooks.values():
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield
