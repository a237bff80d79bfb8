"""What a network does with something else in its layers, where numbers raise a suspicion.

Judged by the loss. Nothing is written: parameters change their names for the run.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch.nn.modules.batchnorm import _BatchNorm

from .evidence import LayerEvidence, Trial
from .quantities import shift_over_scale

EXCHANGED = "weight and bias exchanged"
"""The trial, by the batch's statistics."""

POSITIVE = 0.9
"""Share of the channels with a positive bias from which on it may be a weight."""
ALONE = 8
"""Layers that are tried one by one as well: not all that look alike need be wrong."""

WORSE, NATS = 3.0, 0.05
"""How much larger the loss as found must be: times, and in addition. A network that was held back,
by a penalty on its scales for example, may do a little better with other ones."""


def may_be_exchanged(layer: LayerEvidence) -> bool:
    """Whether the bias looks like a weight, and the weight is smaller."""
    ratio = shift_over_scale.of(layer)
    if layer.bias is None or ratio is None:
        return False
    return ratio > 1 and float((layer.bias > 0).double().mean()) >= POSITIVE


def suspicious(
    found: Mapping[str, LayerEvidence], layers: Mapping[str, _BatchNorm]
) -> Iterator[Sequence[str]]:
    """Give the sets of layers to try: all that may be exchanged, then one by one."""
    names = [n for n, layer in layers.items() if may_be_exchanged(found[n]) and _is_plain(layer)]
    if names:
        yield names
    if 1 < len(names) <= ALONE:
        yield from ([name] for name in names)


def _is_plain(layer: _BatchNorm) -> bool:
    """Whether the parameters are not computed by a parametrization."""
    return all(layer._parameters.get(key) is not None for key in ("weight", "bias"))


@contextmanager
def exchanged(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Run the block with weight and bias in each other's place."""
    before = [(layer, layer._parameters["weight"], layer._parameters["bias"]) for layer in layers]
    try:
        for layer, weight, bias in before:
            layer._parameters.update(weight=bias, bias=weight)
        yield
    finally:
        for layer, weight, bias in before:
            layer._parameters.update(weight=weight, bias=bias)


def judged(names: Sequence[str], found: float, tried: float) -> Trial:
    """Keep what a trial has shown.

    Example:
        >>> judged(["1"], 2.3, 0.1).is_better, judged(["1"], 0.10, 0.09).is_better
        (True, False)
    """
    return Trial(tuple(names), found, tried, is_better=found > WORSE * tried + NATS)


def simplest(tried: Sequence[Trial]) -> Trial:
    """Choose the fewest layers with which the loss is about as small as with any.

    Example:
        >>> simplest([judged(["1", "4"], 9.0, 0.02), judged(["1"], 9.0, 0.03)]).layers
        ('1',)
    """
    least = min(trial.tried for trial in tried)
    enough = [trial for trial in tried if trial.tried <= least + NATS]
    return min(enough or tried, key=lambda trial: len(trial.layers))
