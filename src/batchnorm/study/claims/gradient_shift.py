"""Claim 1b: does an update of the lower layers change a layer's gradient less with BN?

For layer i with parameters W_i, on one batch: G_i is the gradient before an update, G'_i the
gradient when the layers below i have already been updated and i and those above have not. The
shift is ||G_i - G'_i|| / ||G_i|| and cos(G_i, G'_i); a run's shift is the mean over layers and
measured steps. The relative form is used because the arms' gradients differ in scale.

An untrained or dead network has no shift at all, so that only runs that learned are compared.

Source: Santurkar et al. 2018 (arXiv:1805.11604), Definition 2.1.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..evidence import Evidence
from ..outcome import Outcome, ShiftPoint
from .cell import RATIO, Cell, Definition, cells_by_condition, log_ratio, mean, where_trained

MAX_LAYERS = 8
"""Evenly spaced layers that are measured; each costs one more backward pass."""


class ShiftMeter:
    """Measures the gradient shift of single updates."""

    def __init__(self) -> None:
        self.points: list[ShiftPoint] = []

    def start(self, step: int, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
        """Remember the network before an update; call what is returned after the update."""
        before = copy.deepcopy(model)

        def finish() -> None:
            point = gradient_shift(step, before, model, x, y)
            if point is not None:
                self.points.append(point)

        return finish


def gradient_shift(
    step: int, before: nn.Module, after: nn.Module, x: Tensor, y: Tensor
) -> ShiftPoint | None:
    """Measure the shift of one update; `before` is used up, `after` is left as it is.

    Args:
        step: The step the update made.
        before: The network before the update, in the mode it trained in.
        after: The network after it.
        x: The batch of the update.
        y: Its labels.

    Returns:
        The mean over at most `MAX_LAYERS` layers; None with fewer than two layers, or where a
        gradient is zero or not finite.
    """
    layers, updated = parameters_by_layer(before), parameters_by_layer(after)
    chosen = _evenly_spaced(len(layers))
    if not chosen:
        return None
    rng = torch.get_rng_state()
    reference = _gradients(before, x, y, [layers[i] for i in chosen], rng)
    relative, cosine, moved = [], [], 0
    for i, g in zip(chosen, reference, strict=True):
        for lower in range(moved, i):
            _copy(updated[lower], layers[lower])
        moved = i
        (shifted,) = _gradients(before, x, y, [layers[i]], rng)
        relative.append(float((g - shifted).norm() / g.norm()))
        cosine.append(float(torch.dot(g / g.norm(), shifted / shifted.norm())))
    torch.set_rng_state(rng)
    if not torch.isfinite(torch.tensor(relative + cosine)).all():
        return None
    return ShiftPoint(step, sum(relative) / len(relative), sum(cosine) / len(cosine))


def parameters_by_layer(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters that each layer trains, input side first.

    Normalization belongs to the layer before it; a layer that is frozen is none.
    """
    layers: list[list[nn.Parameter]] = []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if own and isinstance(module, _BatchNorm) and layers:
            layers[-1] += own
        elif own:
            layers.append(own)
    return layers


def run_shift(outcome: Outcome) -> float | None:
    """The relative gradient shift of one run: the mean over its measured steps."""
    return mean([point.relative for point in outcome.shifts])


def cells(evidence: Evidence) -> list[Cell]:
    """ln(shift without / shift with), where both arms trained."""
    return cells_by_condition(
        evidence, where_trained(evidence, lambda a, b: log_ratio(run_shift(a), run_shift(b)))
    )


DEFINITION = Definition(
    id="1b",
    name="Gradient shift",
    quantity="relative gradient shift without batch normalization divided by that with it",
    scale="ratio",
    threshold=RATIO,
    source="Santurkar et al. 2018, Definition 2.1 (relative form)",
    cells=cells,
)


def _evenly_spaced(count: int) -> list[int]:
    """At most MAX_LAYERS layers of 1..count-1; the first has none below it and cannot shift."""
    candidates = list(range(1, count))
    if len(candidates) <= MAX_LAYERS:
        return candidates
    step = (len(candidates) - 1) / (MAX_LAYERS - 1)
    return [candidates[round(i * step)] for i in range(MAX_LAYERS)]


def _gradients(
    model: nn.Module, x: Tensor, y: Tensor, layers: list[list[nn.Parameter]], rng: Tensor
) -> list[Tensor]:
    """The flattened gradient of each layer; the same random state makes dropout the same."""
    torch.set_rng_state(rng)
    flat = [parameter for layer in layers for parameter in layer]
    loss = functional.cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss, flat, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(flat, grads, strict=True)]
    sizes = [sum(p.numel() for p in layer) for layer in layers]
    # In float64, as the squares of small gradients vanish in float32.
    return list(torch.split(torch.cat([g.reshape(-1) for g in filled]).double(), sizes))


def _copy(source: list[nn.Parameter], target: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for s, t in zip(source, target, strict=True):
            t.copy_(s)
