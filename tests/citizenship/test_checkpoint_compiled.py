"""Activation checkpointing and torch.compile, either inside the other."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from .cases import assert_close, batch, layer, loss, state
from .training import network, plainly, train

each_option = pytest.mark.parametrize("options", ["fused", "renorm"])
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_compiler")]


@each_option
def test_checkpoint_inside_a_compiled_function(options):
    model = network(options).double()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(model, x):
        return model[2:](checkpoint(model[:2], x, use_reentrant=False))

    expected = train(copy.deepcopy(model), plainly)
    assert_close(train(model, run), expected, rtol=1e-9, atol=1e-9)


@each_option
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_compiled_layer_inside_a_checkpoint(options, use_reentrant):
    made = layer(options=options).double()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    expected = train(copy.deepcopy(made), plainly)
    found = train(made, lambda _, x: checkpoint(compiled, x, use_reentrant=use_reentrant))
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


@each_option
def test_compiled_layer_between_two_backward_passes(options):
    """Forward passes that are not recomputations count, before and after those that are."""
    made, expected = layer(options=options).double(), layer(options=options).double()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    for seed in range(4):
        x = batch(seed=seed, dtype=torch.float64)
        expected(x)
        if seed % 2:
            compiled(x)
        else:
            loss(checkpoint(compiled, x.requires_grad_(), use_reentrant=False)).backward()
    assert_close(state(made), state(expected), rtol=1e-9, atol=1e-9)
