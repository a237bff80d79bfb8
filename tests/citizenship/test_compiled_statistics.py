"""Running statistics are moved inside the graph, by the same rules, without another graph."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import batchnorm as bn

from .cases import (
    assert_close,
    assert_identical,
    batch,
    call_arguments,
    each_mode,
    layer,
    state,
)

each_option = pytest.mark.parametrize(
    "options",
    ["fused", *(pytest.param(name, marks=pytest.mark.slow) for name in ("average", "renorm"))],
)
pytestmark = pytest.mark.usefixtures("fresh_compiler")


def pair(**options):
    """Two equal layers of ours, and a compiled call of the second that counts its graphs."""
    made, other = layer(**options), layer(**options)
    counter = CompileCounterWithBackend("aot_eager")
    return made, other, torch.compile(other, backend=counter, fullgraph=True), counter


def assert_alike(call, other, made, x, **arguments):
    torch.testing.assert_close(call(x, **arguments), made(x, **arguments))
    assert_close(state(other), state(made))


@each_option
def test_non_finite_values_are_skipped(options):
    made, other, call, _ = pair(options=options)
    xs = [batch(seed=seed) for seed in range(3)]
    xs[0][1, 1], xs[1][2, 3] = torch.nan, torch.inf
    for x in xs:
        made(x), call(x)
    assert_close(state(other), state(made))
    assert other.num_nonfinite.tolist() == [0, 1, 0, 1]
    assert other.num_batches_tracked == 3 + (options == "renorm")


@pytest.mark.slow
def test_non_finite_values_raise():
    made, _, _, _ = pair(nonfinite="raise")
    call = torch.compile(made, backend="aot_eager", fullgraph=True)
    call(batch())
    before = state(made)
    with pytest.raises(RuntimeError, match="finite mean and variance"):
        call(batch().fill_(torch.nan))
    assert_identical(state(made), before)


@each_option
def test_no_update(options):
    made, other, call, _ = pair(options=options)
    before = state(made)
    for seed in range(2):
        with bn.no_update(made), bn.no_update(other):
            assert_alike(call, other, made, batch(seed=seed))
        assert_identical(state(other), before)
        assert_alike(call, other, made, batch(seed=seed))
        assert other.num_batches_tracked == before["num_batches_tracked"] + 1
        before = state(other)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("fused", "plain"),
        pytest.param("average", "mask", marks=pytest.mark.slow),
        pytest.param("virtual", "sample_weight", marks=pytest.mark.slow),
    ],
)
def test_accumulate(options, kind):
    made, other, call, _ = pair(options=options)
    arguments = call_arguments(kind, batch())
    for first in (0, 3):
        with bn.accumulate(made), bn.accumulate(other):
            for seed in range(first, first + 3):
                assert_alike(call, other, made, batch(seed=seed), **arguments)
        assert_close(state(other), state(made))
    assert_alike(call, other, made, batch())


@pytest.mark.slow
@pytest.mark.parametrize("block", [bn.no_update, bn.accumulate])
def test_blocks_compile_once(block):
    """A step of training is a block: their number is not to end at the limit of recompilations."""
    made, other, call, counter = pair(activation="silu")
    for seed in range(10):
        with block(made), block(other):
            assert_alike(call, other, made, batch(seed=seed))
        assert_alike(call, other, made, batch(seed=seed))
    assert counter.frame_count == 2


@each_option
def test_training_and_evaluation_take_turns(options):
    made, other, call, counter = pair(options=options)
    for seed, training in enumerate((True, False, True, True, False)):
        made.train(training), other.train(training)
        assert_alike(call, other, made, batch(seed=seed))
    assert counter.frame_count == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kind", "training"),
    [
        ("fused", "residual", True),
        ("average", "mask", True),
        ("renorm", "sample_weight", True),
        ("fused", "mask", False),
    ],
)
def test_one_graph_for_every_batch_size(options, kind, training):
    made, other, call, counter = pair(options=options)
    made.train(training), other.train(training)
    for samples in (12, 7, 9, 3):
        x = batch()[:samples].clone()
        arguments = call_arguments(kind, x)
        for tensor in (x, *arguments.values()):
            torch._dynamo.mark_dynamic(tensor, 0)
        assert_alike(call, other, made, x, **arguments)
    assert counter.frame_count == 1


@pytest.mark.slow
@each_mode
def test_one_graph_for_small_and_large_batches(training):
    made, other, call, counter = pair(activation="relu")
    made.train(training), other.train(training)
    for samples in (4, 16, 2):  # 4·4·32·34 values are few, four times as many are not
        x = batch(size="large")[:samples].clone()
        torch._dynamo.mark_dynamic(x, 0)
        assert_alike(call, other, made, x)
    assert counter.frame_count == 1


@each_option
def test_steps_compile_once(options):
    """What changes with every step (counts, limits of renormalization) is not built in."""
    made, other, call, counter = pair(options=options)
    for seed in range(5):
        assert_alike(call, other, made, batch(seed=seed))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_renormalization_ramps_inside_the_graph():
    renorm = {"r_max": 2.0, "d_max": 1.0, "warmup_steps": 1, "ramp_steps": (2, 3)}
    made, other, call, counter = pair(renorm=renorm)
    for seed in range(6):
        assert_alike(call, other, made, batch(seed=seed))
    assert counter.frame_count == 1
