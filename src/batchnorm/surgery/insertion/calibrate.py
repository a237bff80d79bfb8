"""New normalizations that at first change nothing: they give back what they take away."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import StatisticsError
from ..copying import in_evaluation
from ..recalibration.batches import run_on
from ..recalibration.population import Population, measure
from .plan import Plan

Norms = dict[str, _BatchNorm]


def calibrate(model: nn.Module, plain: nn.Module, plan: Plan, batches: Iterable[Any]) -> None:
    """Set statistics, weights and biases of new layers so that they return their inputs.

    In evaluation, that is: y = (x - mean) / √(var + eps) · weight + bias with weight = √(var + eps)
    and bias = mean. Where a bias of the layer in front was dropped, the mean is that without it.

    Args:
        model: The new model; its new layers are set.
        plain: The new model with the biases that `plan` drops.
        plan: By which the new model was made.
        batches: Run once through a copy of `plain` whose new layers return their inputs.

    Raises:
        StatisticsError: Some new layer was not given two finite values of each channel.
    """
    names = [insertion.name for insertion in plan.insertions]
    scratch = in_evaluation(plain)
    populations = _measured(scratch, names, batches)
    dropped = dict(_dropped(plain, plan))
    with torch.no_grad():
        for name, population in populations.items():
            _set(model.get_submodule(name), name, population, dropped.get(name))


def _measured(
    scratch: nn.Module, names: list[str], batches: Iterable[Any]
) -> dict[str, Population]:
    layers: Norms = {name: scratch.get_submodule(name) for name in names}  # type: ignore[misc]
    populations = {name: _passing(layer) for name, layer in layers.items()}
    num_batches = 0
    with torch.no_grad():
        for batch in batches:
            run_on(scratch, batch)
            num_batches += 1
            for population in populations.values():
                population.end_batch()
    if not num_batches:
        raise StatisticsError("calibrate= expects at least one batch, found none")
    return populations


def _passing(layer: _BatchNorm) -> Population:
    """Let a layer measure what it is given, and return it as it is."""
    assert layer.running_mean is not None and layer.running_var is not None
    population = Population.empty(layer.running_mean, layer.running_var)
    layer.forward = _passer(population)  # type: ignore[method-assign]
    return population


def _passer(population: Population) -> Any:
    def forward(input: Tensor) -> Tensor:
        if input.numel():
            population.add(measure(input), skip_nonfinite=False)
        return input

    return forward


def _dropped(plain: nn.Module, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """The bias that each new layer has had in front of it, and has no more."""
    without = [plain.get_submodule(name) for name in plan.dropped_biases]
    for insertion in plan.insertions:
        # a shared layer has another name at each of its places
        layer = plain.get_submodule(insertion.follows)
        if insertion.side != "input" and any(layer is other for other in without):
            yield insertion.name, layer.bias  # type: ignore[misc]


def _set(layer: nn.Module, name: str, population: Population, bias: Tensor | None) -> None:
    mean, var, known = population.statistics()
    if not bool((known & mean.isfinite() & var.isfinite()).all()):
        raise StatisticsError(
            f"calibrate= expects two finite values of each channel of {name}, found "
            f"{int(population.moments.count.max())} values, or NaN or infinity among them"
        )
    assert isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None
    without = mean if bias is None else mean - bias.double().to(mean.device)
    values = {
        "running_mean": without,
        "running_var": var,
        "weight": (var + layer.eps).sqrt(),
        "bias": mean,
    }
    for attribute, value in values.items():
        getattr(layer, attribute).copy_(value)
    layer.num_batches_tracked.fill_(population.batches)
