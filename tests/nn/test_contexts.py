import copy
import pickle
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d, LazyBatchNorm1d, accumulate, no_update

from .cases import assert_running, assert_same_state, known, moved, random, state

each_context = pytest.mark.parametrize("context", [no_update, accumulate])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), known(4), nn.ReLU(), nn.Linear(4, 2), known(2))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_no_update_normalizes_by_the_batch_and_learns_nothing(momentum):
    layer, expected = known(momentum=momentum), known()
    before, x = state(layer), random((6, 3))
    with no_update(layer):
        y = layer(x)
        layer(x)
    assert torch.equal(y, expected(x))
    assert_same_state(layer, before)
    layer(x)
    weight = 0.1 if momentum else 1 / 6
    assert_running(layer, *moved(x.double().mean(0), x.double().var(0), weight), 6)


def test_no_update_reaches_every_layer_and_those_of_torch():
    model = nn.Sequential(network(), nn.ModuleDict({"its": nn.BatchNorm1d(2)})["its"])
    before = state(model)
    with no_update(model):
        y = model(random((6, 3)))
    assert_same_state(model, before)
    assert torch.equal(y, model(random((6, 3))))
    assert [m.num_batches_tracked.item() for m in (model[0][1], model[0][4], model[1])] == [6, 6, 1]


def test_no_update_evaluates_by_running_statistics():
    ours, its = known(2), nn.BatchNorm1d(2)
    its.load_state_dict(ours.state_dict())
    x = random((6, 2))
    with no_update(nn.Sequential(ours, its)):
        for layer in (ours, its):
            expected = (x - 3) / (7 + 1e-5) ** 0.5
            torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-5, atol=1e-5)
            assert not layer.train()(x).isclose(expected, atol=0.1).all()


def test_no_update_leaves_a_layer_that_does_not_track_as_it_was():
    its = nn.BatchNorm1d(2, track_running_stats=False)
    with no_update(its):
        its(random((6, 2)))
    assert its.track_running_stats is False


@each_context
def test_exception_ends_the_block_and_is_passed_on(context):
    layer = known()
    before = state(layer)
    with pytest.raises(KeyError, match="mine"), context(layer):
        layer(random((6, 3)))
        raise KeyError("mine")
    assert_same_state(layer, before)
    x = random((6, 3))
    with accumulate(layer):
        layer(x)
    assert_running(layer, *moved(x.double().mean(0), x.double().var(0)), 6)
    layer(x)
    assert layer.num_batches_tracked == 7


def test_inner_block_joins_the_outer_one():
    layer = known()
    x = random((12, 3))
    first, second, third = x.split(4)
    before = state(layer)
    with accumulate(layer):
        layer(first)
        with accumulate(layer):
            layer(second)
        assert_same_state(layer, before)
        layer(third)
    assert_running(layer, *moved(x.double().mean(0), x.double().var(0)), 6)


def test_exception_of_an_inner_block_discards_that_block_only():
    layer = known()
    x = random((12, 3))
    with accumulate(layer):
        layer(x[:4])
        with pytest.raises(KeyError), accumulate(layer):
            layer(100 * x[4:8])
            raise KeyError
        layer(x[8:])
    kept = torch.cat([x[:4], x[8:]]).double()
    assert_running(layer, *moved(kept.mean(0), kept.var(0)), 6)


def test_blocks_around_parts_of_a_model():
    model = network()
    x = random((12, 3))
    single = copy.deepcopy(model)
    with accumulate(model):
        with accumulate(model[1]):
            model(x[:4])
        with accumulate(model[4]):
            model(x[4:])
    with accumulate(single):
        for part in (x[:4], x[4:]):
            single(part)
    for name, buffer in single.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-6, atol=1e-6)


def test_layers_without_statistics_are_passed_over():
    layer = BatchNorm1d(3, track_running_stats=False)
    x = random((6, 3))
    with accumulate(layer), no_update(layer):
        assert torch.equal(layer(x), BatchNorm1d(3)(x))


@each_context
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_copy_made_inside_a_block_is_outside_of_it(context, copied):
    layer = known()
    x = random((6, 3))
    with context(layer):
        layer(100 * x)
        copy_of_it = copied(layer)
    copy_of_it(x)
    assert_running(copy_of_it, *moved(x.double().mean(0), x.double().var(0)), 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_model_converted_inside_a_block(dtype):
    layer = known()
    x = random((8, 3)).bfloat16()
    with accumulate(layer):
        layer(x[:4].float())
        layer.to(dtype)
        layer(x[4:].to(dtype))
    mean, var = moved(x.double().mean(0), x.double().var(0))
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=1e-6, atol=1e-6)


def test_checkpoint_loaded_inside_a_block_is_moved_by_it():
    layer, other = known(), known()
    other.running_mean.fill_(30.0)
    x = random((6, 3))
    with accumulate(layer):
        layer(x)
        layer.load_state_dict(other.state_dict())
    mean, var = moved(x.double().mean(0), x.double().var(0))
    assert_running(layer, mean + 0.9 * 27, var, 6)


@each_context
def test_layer_added_inside_a_block_is_outside_of_it(context):
    model = nn.Sequential(known())
    x = random((6, 3))
    with context(model):
        model.append(known())
        model(x)
        assert model[1].num_batches_tracked == 6
    assert model[1].num_batches_tracked == 6


@pytest.mark.parametrize("first", ["inner", "outer"])
def test_no_update_may_end_in_any_order(first):
    """As two generators that each hold a block open can make it."""
    ours, its = known(), nn.BatchNorm1d(3)
    blocks = [ExitStack(), ExitStack()]
    for block in blocks:
        block.enter_context(no_update(nn.Sequential(ours, its)))
    for block in blocks if first == "outer" else reversed(blocks):
        ours(random((6, 3))), its(random((6, 3)))
        block.close()
    assert (ours.num_batches_tracked.item(), its.num_batches_tracked.item()) == (5, 0)
    ours(random((6, 3))), its(random((6, 3)))
    assert (ours.num_batches_tracked.item(), its.num_batches_tracked.item()) == (6, 1)


def test_accumulate_may_end_in_any_order():
    """The outer block, if it ends first, takes what it saw itself; the other one follows."""
    layer = known()
    x = random((12, 3))
    blocks = [ExitStack(), ExitStack()]
    for block, part in zip(blocks, x.split(4), strict=False):
        block.enter_context(accumulate(layer))
        layer(part)
    expected = known()
    for block, part in zip(blocks, x.split(4), strict=False):
        block.close()
        expected(part)
        assert_running(layer, expected.running_mean, expected.running_var)
    layer(x[8:])
    assert layer.num_batches_tracked == 8


def test_abandoned_generator_discards_its_block():
    layer = known()
    before = state(layer)

    def training():
        with accumulate(layer):
            while True:
                layer(random((4, 3)))
                yield

    steps = training()
    next(steps), next(steps)
    steps.close()
    assert_same_state(layer, before)
    layer(random((4, 3)))
    assert layer.num_batches_tracked == 6


def test_block_is_a_decorator_that_can_be_used_again():
    layer = known()

    @accumulate(layer)
    def step(x):
        for part in x.chunk(2):
            layer(part)

    step(random((8, 3)))
    step(random((8, 3)))
    assert layer.num_batches_tracked == 7


@each_context
def test_block_cannot_be_entered_twice(context):
    layer = known()
    block = context(layer)
    with block:
        layer(random((4, 3)))
    with pytest.raises((RuntimeError, AttributeError)), block:
        raise AssertionError("the block must not be entered")
    assert (layer.paused, layer.pools) == (0, [])


def test_lazy_layer_learns_nothing_inside_no_update():
    model = nn.Sequential(LazyBatchNorm1d())
    with no_update(model):
        model(random((6, 3)))
    assert_same_state(model[0], state(BatchNorm1d(3)))
    model(random((6, 3)))
    assert model[0].num_batches_tracked == 1
