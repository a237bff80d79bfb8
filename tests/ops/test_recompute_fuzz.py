"""Random programs with and without the context: the same gradients, or an honest refusal."""

import random

import pytest
import torch
from recomputed_toy import Frozen, Layers, Toy, values

from batchnorm.nn.saving import recompute as context
from batchnorm.ops import recompute

PROGRAMS = 40
LENGTH = 14


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(recompute, "SMALL", 0)


class Program:
    """Random operations on a pool of tensors (4, 3), the same for the same seed."""

    def __init__(self, seed, changes):
        self.random = random.Random(seed)
        self.leaves = [values(seed), values(seed + 1)]
        self.pool = [leaf * 1 for leaf in self.leaves]
        self.layers = [Layers(Toy), Layers(Frozen)]
        self.needed = set()
        """Memory of what layers were given: a change of it may be refused."""
        self.refusable = False
        self.steps = [self.layer, self.residual, self.product, self.function, self.view]
        self.steps += [self.layer, self.forget, self.detached, *([self.change] * changes)]

    def run(self):
        for _ in range(LENGTH):
            self.random.choice(self.steps)()
        values = [(t * (number + 1)).sin().sum() for number, t in enumerate(self.pool)]
        return sum(values, self.leaves[0].sum())

    def pick(self):
        return self.random.choice(self.pool)

    def layer(self):
        self.call(self.pick())

    def residual(self):
        self.call(self.pick(), self.pick())

    def call(self, *inputs):
        self.needed |= {t.data_ptr() for t in inputs}
        self.pool.append(self.random.choice(self.layers)(*inputs))

    def product(self):
        self.pool.append(self.pick() * self.pick())

    def function(self):
        self.pool.append(self.random.choice([torch.sin, torch.sigmoid, torch.square])(self.pick()))

    def view(self):
        view = self.random.choice([lambda t: t.t(), lambda t: t.flatten(), lambda t: t.flip(0)])
        self.pool.append(view(self.pick()).square().reshape(4, 3))
        self.pool.append(self.random.choice([lambda t: t[:], lambda t: t.view(4, 3)])(self.pick()))

    def detached(self):
        self.pool.append(self.pick().detach())

    def forget(self):
        if len(self.pool) > 2:
            self.pool.remove(next(t for t in self.pool if t is self.pool[0]))

    def change(self):
        changed = self.pick()
        self.refusable |= changed.data_ptr() in self.needed
        self.random.choice([torch.relu_, lambda t: t.add_(1), lambda t: t.detach().mul_(2)])(
            changed
        )

    def gradients(self, loss):
        found = torch.autograd.grad(loss, self.leaves, retain_graph=True, allow_unused=True)
        again = torch.autograd.grad(loss, self.leaves, allow_unused=True)
        return [*found, *again]


def outcome(seed, changes, within):
    """Gradients or an error, how often an output was computed, and if an error may be new."""
    program = Program(seed, changes)
    try:
        if within:
            with context():
                loss = program.run()
        else:
            loss = program.run()
        found = program.gradients(loss)
    except RuntimeError as error:
        found = error
    return found, sum(len(layer.made) for layer in program.layers), program.refusable


@pytest.mark.parametrize("changes", [0, 1, 3])
@pytest.mark.parametrize("block", range(5))
def test_programs(block, changes):
    made = compared = 0
    for seed in range(block * PROGRAMS, (block + 1) * PROGRAMS):
        expected, none, _ = outcome(seed, changes, within=False)
        found, count, refusable = outcome(seed, changes, within=True)
        assert none == 0
        made += count
        if isinstance(found, Exception):
            assert "modified by an inplace operation" in str(found)
            assert isinstance(expected, Exception) or refusable
        elif not isinstance(expected, Exception):
            compared += 1
            for mine, its in zip(found, expected, strict=True):
                assert (mine is None and its is None) or torch.equal(mine, its), seed
    assert made and compared
