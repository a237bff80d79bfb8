"""Claim 2: does batch normalization keep the backward signal from vanishing or exploding?

Let h_l be the input of activation l = 1..k and d_l = rms(dLoss/dh_l) the error signal there. The
backward growth per layer is rho = exp(-slope of ln d_l on l), and |ln rho| k is by how many
natural logarithms the signal grows or shrinks over the network: 0 is ideal. Measured at
initialization and after 100 updates, on a training batch.

The initialization of the arm without BN decides this claim: it gets the one meant for its
activation. Deep ReLU networks with BN grow the backward signal by about 1.21 per layer at any
initialization, and are the case against the claim.

Source: measures a_l and d_l after He et al. 2015 (arXiv:1502.01852), section 2.2; Yang et al. 2019
(arXiv:1902.08129) for the growth that batch normalization itself causes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..design import BATCH_NORM, NONE
from ..evidence import BEST, Evidence
from ..outcome import DepthProfile, Outcome
from ..probe import twin, watched
from .cell import RATIO, Cell, Definition, paired, why_untrained

LATE_STEP = 100

_TINY = torch.finfo(torch.float32).tiny
"""An error signal of exactly 0 has vanished altogether: it counts as the smallest float."""


def depth_profile(step: int, model: nn.Module, x: Tensor, y: Tensor) -> DepthProfile | None:
    """Measure rms(h_l) and rms(dLoss/dh_l) of every activation; the network is left as it is.

    Returns:
        The profile, input side first, or None for a network without activation modules or whose
        signals are not finite.
    """
    copied = twin(model)
    with watched(copied) as seen:
        loss = functional.cross_entropy(copied(x), y)
    inputs = [h for _, h in seen if h.requires_grad]
    if not inputs:
        return None
    errors = torch.autograd.grad(loss, inputs, allow_unused=True)
    kept = [(h, g) for h, g in zip(inputs, errors, strict=True) if g is not None]
    input_rms, error_rms = [_rms(h) for h, _ in kept], [_rms(g) for _, g in kept]
    if not all(math.isfinite(value) for value in input_rms + error_rms):
        return None
    return DepthProfile(step, tuple(input_rms), tuple(error_rms))


def total_growth(profile: DepthProfile) -> float | None:
    """|ln rho| k: natural logarithms gained or lost by the error signal over the network.

    Example:
        >>> profile = DepthProfile(0, (1.0, 1.0, 1.0), (4.0, 2.0, 1.0))  # doubles per layer back
        >>> round(total_growth(profile) / math.log(2), 6)
        3.0
    """
    logs = [math.log(max(d, _TINY)) for d in profile.error_rms if d is not None]
    if len(logs) < 2:
        return None
    center = (len(logs) - 1) / 2
    products = [(i - center) * value for i, value in enumerate(logs)]
    slope = math.fsum(products) / math.fsum((i - center) ** 2 for i in range(len(logs)))
    return abs(slope) * len(logs)


def cells(evidence: Evidence) -> list[Cell]:
    """|ln rho| k without minus with, at initialization and after 100 updates."""
    late = min(LATE_STEP, evidence.design.problem.steps)
    return [
        Cell(
            activation,
            words,
            paired(evidence, activation, BEST, lambda a, b, s=step: _difference(a, b, s)),  # type: ignore[misc]
            _why_missing(evidence, activation),
        )
        for activation in evidence.design.activations
        for step, words in ((0, "at initialization"), (late, f"after {late} steps"))
    ]


DEFINITION = Definition(
    id="2",
    name="Backward growth",
    quantity="by what factor the error signal grows or shrinks over the network, "
    "without batch normalization divided by with it",
    scale="ratio",
    threshold=RATIO,
    source="He et al. 2015, section 2.2; Yang et al. 2019",
    cells=cells,
)


def _why_missing(evidence: Evidence, activation: str) -> str:
    probes = [
        evidence.probe(activation, arm, BEST, seed)
        for arm in (NONE, BATCH_NORM)
        for seed in range(evidence.design.seeds)
    ]
    depths = [len(p.error_rms) for probe in probes if probe is not None for p in probe.profiles]
    if not depths or min(depths) < 2:
        return "growth needs at least two activations that are modules, such as nn.ReLU"
    return why_untrained(evidence, activation, BEST)


def _difference(without: Outcome, with_bn: Outcome, step: int) -> float | None:
    a, b = _growth_at(without, step), _growth_at(with_bn, step)
    return None if a is None or b is None else a - b


def _growth_at(outcome: Outcome, step: int) -> float | None:
    return next((total_growth(p) for p in outcome.profiles if p.step == step), None)


def _rms(values: Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())
