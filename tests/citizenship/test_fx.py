"""torch.fx takes our layers for leaves, as torch's; what is built on it computes the same."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import fx, nn

import batchnorm as bn

from .cases import (
    CLASSES,
    TORCH,
    assert_identical,
    batch,
    call_arguments,
    each_class,
    each_mode,
    each_option,
    layer,
    state,
)

with warnings.catch_warnings():  # torch's own, when it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.fx.experimental.optimization import fuse


@each_class
@each_option
@each_mode
def test_traced_layer_is_a_leaf_that_computes_the_same(cls, options, training):
    model = nn.Sequential(nn.Identity(), layer(cls, options), nn.Tanh()).train(training)
    expected = copy.deepcopy(model)
    traced = fx.symbolic_trace(model)
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert [node.target for node in nodes] == ["0", "1", "2"]
    assert type(traced.get_submodule("1")) is cls
    assert isinstance(traced.get_submodule("1"), TORCH[cls])
    for seed in range(2):
        assert torch.equal(traced(batch(cls, seed=seed)), expected(batch(cls, seed=seed)))
    assert_identical(state(traced), state(expected))


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "half": lambda model: model.half().float(),
    "lazy": lambda model: nn.Sequential(*model[:1], bn.LazyBatchNorm2d(), *model[2:]),
}


@pytest.mark.parametrize("way", COPIES)
def test_copied_layer_is_a_leaf_as_well(way):
    model = COPIES[way](nn.Sequential(nn.Conv2d(4, 4, 2), layer(), nn.ReLU()))
    if way == "lazy":
        model(batch())
    traced = fx.symbolic_trace(model.eval())
    assert [node.op for node in traced.graph.nodes].count("call_module") == 3
    assert torch.equal(traced(batch()), model(batch()))


def test_subclass_of_ours_is_a_leaf_and_shows_its_own_module():
    class Mine(bn.BatchNorm2d):
        pass

    traced = fx.symbolic_trace(nn.Sequential(Mine(4)))
    assert [node.op for node in traced.graph.nodes].count("call_module") == 1
    assert type(Mine(4)).__module__ == __name__
    assert {cls.__module__ for cls in CLASSES} == {"batchnorm.nn.batch_norm"}


@pytest.mark.parametrize("kind", ["residual", "mask", "sample_weight"])
def test_arguments_of_the_call_are_traced(kind):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.norm = layer(activation="relu")

        def forward(self, x, extra):
            return self.norm(self.conv(x), **{kind: extra})

    block, x = Block(), batch()
    extra = call_arguments(kind, x)[kind]
    expected = copy.deepcopy(block)(x, extra)
    traced = fx.symbolic_trace(block)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "conv",
        "norm",
    ]
    assert torch.equal(traced(x, extra), expected)


@each_option
def test_fuse_of_fx_leaves_the_result_right(options):
    """It folds exact types only; a subclass stays where it is."""
    model = nn.Sequential(nn.Conv2d(4, 4, 2), layer(options=options), nn.ReLU()).eval()
    torch.testing.assert_close(fuse(model)(batch(seed=9)), model(batch(seed=9)))
