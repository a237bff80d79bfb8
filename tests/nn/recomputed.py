"""Training with and without `bn.recompute()`, and how often outputs were computed once more."""

import copy
from contextlib import nullcontext

import torch
from torch import nn

import batchnorm as bn
from batchnorm.ops import recompute
from scripts import BENCHMARKS, load

PATH = BENCHMARKS / "recompute.py"
benchmark = load("recompute")
"""The networks that are measured are those that are tested."""


class Counter:
    """Counts outputs computed once more."""

    def __init__(self, monkeypatch):
        self.count = 0
        original = recompute.Recipe._compute

        def compute(recipe, made):
            self.count += recipe not in made
            return original(recipe, made)

        monkeypatch.setattr(recompute.Recipe, "_compute", compute)
        monkeypatch.setattr(recompute, "SMALL", 0)


def image(*shape, seed=0, dtype=torch.float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (1 + 2 * x).to(dtype).requires_grad_()


def chain(activation="relu", **options):
    """Convolutions with a layer of ours between them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3)]
    for _ in range(2):
        layers += [bn.BatchNorm2d(8, activation=activation, **options), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*layers)


def call(model, x):
    return model(x)


def step(model, x, way=call, context=nullcontext, backward_inside=False):
    """Run forward and backward; give everything that came out."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
    model.zero_grad()
    with context():
        y = way(model, x)
        loss = (y * torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)).sum()
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"output": y.detach(), "gradient of the input": x.grad, **gradients, **state}


def assert_same(model, x, way=call, context=bn.recompute, **options):
    """Hold everything to be, bit for bit, what it is without the context."""
    other = copy.deepcopy(model)
    for _ in range(2):
        expected = step(other, x, way)
        found = step(model, x, way, context, **options)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            if tensor is None:
                assert found[name] is None, name
            else:
                assert torch.equal(found[name], tensor), name
