"""A plain training step in one call of a kernel: when it is taken, and that it changes nothing."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from batchnorm.errors import BatchNormError
from batchnorm.nn.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d
from batchnorm.nn.contexts import accumulate, no_update
from batchnorm.nn.renorm import Renorm

from .cases import assert_same_but_rounding, known, state

pytestmark = pytest.mark.native


@pytest.fixture
def taken(monkeypatch):
    """For each forward, whether it was done at once."""
    seen, original = [], BatchNorm._at_once

    def watched(self, *args):
        output = original(self, *args)
        seen.append(output is not None)
        return output

    monkeypatch.setattr(BatchNorm, "_at_once", watched)
    return seen


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OPTIONS = {
    "plain": {},
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "bare": {"affine": False},
    "unshifted": {"bias": False},
    "momentum1": {"momentum": 1.0},
    "momentum0": {"momentum": 0.0},
    "running": {"degenerate": "running"},
    "raise": {"nonfinite": "raise"},
    "propagate": {"nonfinite": "propagate"},
}


@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_does_what_all_the_steps_do(options, with_residual, taken, monkeypatch):
    layers = [known(5, BatchNorm2d, **options) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    results = []
    for layer in layers:
        if layer is layers[1]:
            monkeypatch.setattr(BatchNorm2d, "_at_once", lambda *_: None)
        x, residual = rows(3, 5, 4, 4).requires_grad_(), rows(3, 5, 4, 4, seed=1).requires_grad_()
        y = layer(x, residual) if with_residual else layer(x)
        y.square().sum().backward()
        grads = [t.grad for t in (x, residual, *layer.parameters()) if t.grad is not None]
        results.append([y.detach(), *grads])
    assert taken == [True]
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)
    assert_same_but_rounding(layers[0], state(layers[1]))


def test_the_buffers_know_that_they_were_changed(taken):
    layer = known(5)
    before = [t._version for t in layer.running_stats()]
    layer(rows(8, 5))
    assert taken == [True]
    assert [t._version for t in layer.running_stats()] == [v + 1 for v in before]
    assert layer.num_batches_tracked == 6


def test_a_graph_that_needs_the_running_statistics_refuses_to_use_moved_ones(taken):
    layer = known(5)
    loss = (rows(5).requires_grad_() * layer.running_mean).sum()
    layer(rows(8, 5))
    assert taken == [True]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("shape", [(8, 5), (1, 5), (3, 5, 4, 4)], ids=str)
def test_evaluation_does_what_all_the_steps_do(shape, with_residual, taken, monkeypatch):
    layer = known(5, BatchNorm, activation="relu").eval()
    before, results = state(layer), []
    for number in range(2):
        if number:
            monkeypatch.setattr(BatchNorm, "_at_once", lambda *_: None)
        x, residual = rows(*shape).requires_grad_(), rows(*shape, seed=1).requires_grad_()
        y = layer(x, residual) if with_residual else layer(x)
        y.square().sum().backward()
        leaves = (x, residual, layer.weight, layer.bias)
        results.append([y.detach(), *(t.grad for t in leaves if t.grad is not None)])
        layer.zero_grad()
    assert taken == [True]
    assert all(map(torch.equal, *results))
    assert all(torch.equal(t, before[name]) for name, t in layer.named_buffers())


def test_evaluation_by_the_batch_is_more_than_plain(taken):
    x = rows(8, 5)
    y = BatchNorm1d(5, track_running_stats=False).eval()(x)
    assert taken == [False]
    torch.testing.assert_close(y, torch.nn.functional.batch_norm(x, None, None, training=True))


NOT = {
    "mask": (lambda layer, x: layer(x, mask=torch.ones(8, dtype=torch.bool)), []),
    "weights": (lambda layer, x: layer(x, sample_weight=torch.ones(8)), []),
    "double": (lambda layer, x: layer.double()(x.double()), [False]),
    "half": (lambda layer, x: layer.half()(x.half()), [False]),
}


@pytest.mark.parametrize(("call", "expected"), NOT.values(), ids=NOT)
def test_it_is_not_for_calls_that_are_more_than_plain(call, expected, taken):
    call(known(5), rows(8, 5))
    assert taken == expected


LAYERS = {
    "average": {"momentum": None},
    "virtual": {"virtual_batch_size": 4},
    "renorm": {"renorm": Renorm()},
}


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_it_is_not_for_layers_that_are_more_than_plain(options, taken):
    known(5, **options)(rows(8, 5))
    assert taken == [False]


def test_it_is_not_for_layers_without_statistics(taken):
    BatchNorm1d(5, track_running_stats=False)(rows(8, 5))
    assert taken == [False]


def test_blocks_in_which_nothing_is_moved_are_seen(taken):
    layer = known(5)
    before = state(layer)
    with no_update(layer):
        layer(rows(8, 5))
    with accumulate(layer):
        layer(rows(8, 5))
        assert all(torch.equal(t, before[name]) for name, t in layer.named_buffers())
    assert taken == [False, False]
    assert layer.num_batches_tracked == 6


def test_a_recomputation_moves_nothing(taken):
    layer = known(5)
    y = checkpoint(layer, rows(8, 5).requires_grad_(), use_reentrant=False)
    after = state(layer)
    y.sum().backward()
    assert taken == [True, False]
    assert all(torch.equal(t, after[name]) for name, t in layer.named_buffers())


@pytest.mark.parametrize(
    "x",
    [rows(1, 5), rows(8, 4), rows(8, 5, 2, 2), rows(8), torch.ones(8, 5, dtype=torch.int64)],
    ids=["one value", "channels", "axes", "vector", "integers"],
)
def test_what_is_wrong_is_refused_by_the_checks_and_changes_nothing(x, taken):
    layer = known(5)
    before = state(layer)
    with pytest.raises(BatchNormError):
        layer(x)
    assert taken == [False]
    assert all(torch.equal(t, before[name]) for name, t in layer.named_buffers())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_batch_that_is_not_finite_is_done_step_by_step(bad, taken):
    layer = known(5)
    x = rows(8, 5)
    x[3, 2] = bad
    layer(x)
    assert taken == [False]
    assert layer.num_nonfinite.tolist() == [0, 0, 1, 0, 0]
    assert layer.running_mean[2] == known(5).running_mean[2]
    assert layer.running_mean[1] != known(5).running_mean[1]
