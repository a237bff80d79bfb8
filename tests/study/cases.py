"""Tiny networks with a brute-force twin of each, and studies whose outcomes are written by hand.

`unroll` runs a network from its parameters with plain formulas in float64: no module, hook, copy
or normalization of the library takes part, so that what it finds can judge what they find.
"""

import copy
import dataclasses
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import batchnorm as bn
from batchnorm.study.data import Data, Part
from batchnorm.study.design import BATCH_NORM, DEFAULT_INIT, GHOST, NONE, Design, Problem
from batchnorm.study.evidence import Evidence
from batchnorm.study.judge import judge
from batchnorm.study.outcome import (
    DeadCount,
    DepthProfile,
    DriftPoint,
    LargestRate,
    Outcome,
    ShiftPoint,
)
from batchnorm.study.training import OK, Evaluation
from batchnorm.study.trial import run_trial

SAMPLES = 7
CLASSES = 3

# ---------------------------------------------------------------------------- networks


def dense():
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES)
    )


def in_place():
    return nn.Sequential(
        nn.Linear(4, 5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 4),
        nn.ReLU(inplace=True),
        nn.Linear(4, CLASSES),
    )


def shared_activation():
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 4), act, nn.Linear(4, CLASSES))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 3, 2),
        nn.ReLU(),
        nn.Conv2d(3, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def with_dropout():
    return nn.Sequential(
        nn.Linear(4, 5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(5, 4),
        nn.Dropout(0.3, inplace=True),
        nn.Sigmoid(),
        nn.Linear(4, CLASSES),
    )


def normalized(make):
    """The arm with batch normalization, its scale, shift and running statistics not trivial."""

    def build():
        model = bn.insert(make(), inputs_for(make()))
        for module in model:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.weight, 1.0, 0.3)
                nn.init.normal_(module.bias, 0.0, 0.3)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        return model

    return build


FACTORIES = {
    "dense": dense,
    "in place": in_place,
    "shared activation": shared_activation,
    "conv": convolutional,
    "dropout": with_dropout,
    "dense, BN": normalized(dense),
    "in place, BN": normalized(in_place),
    "shared activation, BN": normalized(shared_activation),
    "conv, BN": normalized(convolutional),
    "dropout, BN": normalized(with_dropout),
}

networks = pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES.keys())


def inputs_for(model, samples=SAMPLES):
    shape = (1, 4, 4) if isinstance(model[0], nn.Conv2d) else (4,)
    return torch.randn(samples, *shape, dtype=model[0].weight.dtype)


def problem_for(make, seed=0, samples=SAMPLES):
    """A float64 network in training mode, a batch, and its labels."""
    torch.manual_seed(seed)
    model = make().double().train()
    return model, inputs_for(model, samples), torch.arange(samples) % CLASSES


def moved(model, seed=1, by=0.2):
    """What an update might make of the network."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p += by * torch.randn(p.shape, dtype=p.dtype, generator=generator)
    return other


# ---------------------------------------------------------------------------- the twin


def unroll(model, x, parameters=None, *, dropout=False, nudge=None):
    """Run a Sequential by formulas; return the inputs of its activations, and its scores.

    Args:
        model: Says which layers there are.
        x: The batch.
        parameters: Values by name; None: the model's own.
        dropout: Apply dropout, drawing from torch's global generator.
        nudge: (i, change): add it to the input of activation i.
    """
    values = {n: p.detach() for n, p in model.named_parameters()} | (parameters or {})
    seen = []
    for name, layer in model._modules.items():
        weight, bias = values.get(f"{name}.weight"), values.get(f"{name}.bias")
        if isinstance(layer, nn.Linear):
            x = torch.einsum("ni,oi->no", x, weight) + (0 if bias is None else bias)
        elif isinstance(layer, nn.Conv2d):
            x = convolve(x, weight) + (0 if bias is None else bias.reshape(1, -1, 1, 1))
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            x = torch.stack(
                [standardized(x[:, c]) * weight[c] + bias[c] for c in range(x.shape[1])], 1
            )
        elif isinstance(layer, nn.Flatten):
            x = x.reshape(len(x), -1)
        elif isinstance(layer, nn.Dropout):
            x = functional.dropout(x, layer.p) if dropout else x
        else:
            if nudge is not None and nudge[0] == len(seen):
                x = x + nudge[1]
            seen.append(x)
            x = ACTIVATE[type(layer)](x)
    return seen, x


ACTIVATE = {
    nn.ReLU: lambda h: h * (h > 0),
    nn.Tanh: lambda h: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp()),
    nn.Sigmoid: lambda h: 1 / (1 + (-h).exp()),
}


def standardized(values, eps=1e-5):
    center = values.sum() / values.numel()
    return (values - center) / (((values - center) ** 2).sum() / values.numel() + eps) ** 0.5


def convolve(x, weight):
    k = weight.shape[-1]
    rows = [
        torch.stack(
            [
                torch.einsum("nckl,ockl->no", x[:, :, i : i + k, j : j + k], weight)
                for j in range(x.shape[3] - k + 1)
            ],
            -1,
        )
        for i in range(x.shape[2] - k + 1)
    ]
    return torch.stack(rows, 2)


def cross_entropy(scores, y):
    """Mean of -ln softmax(scores)[y]."""
    return sum(s.exp().sum().log() - s[k] for s, k in zip(scores, y, strict=True)) / len(y)


def values_of_units(h):
    """One list of values per unit: a feature, or a channel at all of its positions."""
    return [h[:, c].reshape(-1).tolist() for c in range(h.shape[1])]


# ---------------------------------------------------------------------------- left as it was


def snapshot(model):
    """Everything that a look at a network must leave bit for bit."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {n: t.clone() for n, t in model.state_dict().items()},
        "ids": [id(t) for t in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
        "needs": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [list(getattr(m, h)) for m in model.modules() for h in hooks],
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_untouched(before, model):
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)


# ---------------------------------------------------------------------------- written studies

STEPS = (1, 2, 4, 8, 16, 32)
DEPTH = 4

PROBLEM = Problem("standardize", batch_size=32, steps=32, stability_steps=8, depth=DEPTH, width=8)


def small_design(**changes):
    design = Design(PROBLEM, ("relu",), (0.1, 1.0), 6, (4, 8, 16))
    return dataclasses.replace(design, **changes)


def written(config, *, status=OK, accuracy=0.9, **facts):
    """The outcome of a healthy trial, but for the facts given.

    `drift`, `shift`: of every probe. `growth`: |ln rho| k. `dead`: of 100 units, or None.
    `reaches`: the step from which `accuracy` is held. `gap`: train minus test accuracy, always.
    `rate`: the largest stable one.
    """
    if config.stage == "stability":
        rate = facts.get("rate", 1.0)
        return Outcome(config, OK, largest_rate=LargestRate(rate, "" if rate else "below", 6))
    learned, reaches = accuracy > 0.2, facts.get("reaches", 8)
    train = 0.95 if learned else 0.1
    curve = tuple(
        Evaluation(
            step,
            2.0 / (1 + step),
            train,
            accuracy if step >= reaches else accuracy / 2,
            2.0,
            train - facts.get("gap", 0.02),
        )
        for step in STEPS
    )
    dead, growth = facts.get("dead", 0), facts.get("growth", 1.0)
    profile = tuple(math.exp(growth / DEPTH * (DEPTH - i)) for i in range(DEPTH))
    return Outcome(
        config,
        status,
        config.problem.steps,
        final=dataclasses.replace(curve[-1], val_accuracy=accuracy),
        curve=curve,
        drifts=tuple(DriftPoint(s, facts.get("drift", 1.0), 1.0) for s in STEPS),
        shifts=tuple(ShiftPoint(s, facts.get("shift", 1.0), 0.0) for s in STEPS),
        profiles=tuple(DepthProfile(s, (1.0,) * DEPTH, profile) for s in (0, 32)),
        dead=DeadCount(0, 0, 0, 0, 0, 0.5)
        if dead is None
        else DeadCount(100, 0, dead, 0, dead, None),
    )


def study(make, design=None, classes=10):
    """Write every trial of a study as the engine would run it: the grid first, then the rest."""
    design = design or small_design()
    first = [make(c) for c in design.grid() if c.arm != DEFAULT_INIT]
    chosen = Evidence(design, first, classes).second_stage()
    return Evidence(design, first + [make(c) for c in chosen if c.arm != DEFAULT_INIT], classes)


def swap_arms(evidence):
    """The same study with the labels of its two arms exchanged."""
    other = {NONE: BATCH_NORM, BATCH_NORM: NONE}
    outcomes = [
        dataclasses.replace(o, config=dataclasses.replace(o.config, arm=other[o.config.arm]))
        for o in evidence.by_config.values()
        if o.config.stage != GHOST
    ]
    return Evidence(evidence.design, outcomes, evidence.classes)


def verdicts(evidence):
    """All seven tests by id."""
    return {test.id: test for claim in judge(evidence) for test in claim.tests}


@functools.cache
def real_study(activation, lrs, depth=3, steps=40):
    """Real trials on digits, six paired seeds."""
    problem = Problem("standardize", 32, steps, max(1, steps * 2 // 5), depth=depth, width=16)
    design = Design(problem, (activation,), lrs, 6, (4, 16))
    return study(run_trial, design)


def blobs(samples=60, features=4, classes=CLASSES, seed=0) -> Data:
    """Well separated classes, easily learned."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % classes
    centers = 4 * torch.randn(classes, features, generator=g)
    x = centers[y] + 0.3 * torch.randn(samples, features, generator=g)
    third = samples // 3
    return Data(*(Part(x[i::3][:third], y[i::3][:third]) for i in range(3)), classes)
