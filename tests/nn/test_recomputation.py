import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from batchnorm import BatchNorm1d, Renorm, accumulate
from batchnorm.errors import StatisticsError
from batchnorm.nn.recomputation import REMEMBERED, is_recomputation

from .cases import assert_same_state, known, random, state

RENORM = Renorm(1e3, 1e3, warmup_steps=0, ramp_steps=0)  # r and d are hardly ever clipped
each_kind = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
each_option = pytest.mark.parametrize(
    "options",
    [{}, {"renorm": RENORM}, {"renorm": RENORM, "virtual_batch_size": 3, "activation": "relu"}],
    ids=["plain", "renorm", "virtual"],
)


def grads(layer, inputs, order=None, reentrant=None):
    """Forward all, then backward each loss in the order given; reentrant None: no checkpoint."""

    def call(x):
        return layer(x) if reentrant is None else checkpoint(layer, x, use_reentrant=reentrant)

    leaves = [x.clone().requires_grad_() for x in inputs]
    losses = [call(x).pow(3).sum() for x in leaves]
    layer.zero_grad()
    if order is None:
        sum(losses).backward()
    for index in order or ():
        losses[index].backward()
    return [leaf.grad for leaf in leaves] + [p.grad.clone() for p in layer.parameters()]


def assert_as_without(layer, inputs, order=None, reentrant=False):
    plain = copy.deepcopy(layer)
    expected, found = grads(plain, inputs, order), grads(layer, inputs, order, reentrant)
    torch.testing.assert_close(found[: len(inputs)], expected[: len(inputs)], rtol=0.0, atol=0.0)
    torch.testing.assert_close(found, expected)  # sums over inputs may have another order
    assert_same_state(layer, state(plain))


def batches(count, offset=0.0, shape=(8, 3)):
    return [random(shape, seed=k, offset=offset + k) for k in range(count)]


def test_only_a_forward_inside_a_backward_pass_is_a_recomputation():
    seen = []

    def look(x):
        seen.append(is_recomputation())
        return x.exp()

    x = torch.ones(2, requires_grad=True)
    look(x)
    checkpoint(look, x, use_reentrant=False).sum().backward()
    look(x)
    assert seen == [False, False, True, False]


@each_kind
@each_option
@pytest.mark.parametrize("count", [1, 3])
def test_checkpointed_micro_batches_give_the_same_gradients(count, options, reentrant):
    assert_as_without(known(**options), batches(count), None, reentrant)


@each_kind
@each_option
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_losses_may_be_taken_in_any_order(order, options, reentrant):
    assert_as_without(known(**options), batches(3), order, reentrant)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_batches_that_differ_little_for_their_size_are_told_apart(order):
    far = torch.tensor([1e6, 0.0, 0.0])
    layer = known(renorm=RENORM)
    layer.running_mean.copy_(far)
    assert_as_without(layer, [x + far for x in batches(2)], order)


@each_kind
@each_option
def test_same_batch_twice(options, reentrant):
    """The first forward has moved the statistics, so the second has another correction."""
    x = random((8, 3))
    assert_as_without(known(**options), [x, x, x], None, reentrant)


@each_option
def test_two_backward_passes_through_one_graph(options):
    layer = known(**options)
    xs = [x.requires_grad_() for x in (*batches(2), batches(1)[0])]
    loss = sum(checkpoint(layer, x, use_reentrant=False).pow(3).sum() for x in xs)
    first, second = (torch.autograd.grad(loss, xs, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


@each_option
def test_layer_twice_in_one_checkpoint(options):
    layer, plain = known(**options), known(**options)
    x = random((8, 3))
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    checkpoint(lambda x: layer(torch.tanh(layer(x))), leaves[0], use_reentrant=False).pow(
        3
    ).sum().backward()
    plain(torch.tanh(plain(leaves[1]))).pow(3).sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)
    assert_same_state(layer, state(plain))


@each_option
def test_steps_of_a_training(options):
    layer, plain = known(**options), known(**options)
    optimizers = [torch.optim.SGD(made.parameters(), 0.01) for made in (layer, plain)]
    for step in range(2 * REMEMBERED):
        x = random((8, 3), seed=step % 3)
        for made, optimizer in zip((layer, plain), optimizers, strict=True):
            optimizer.zero_grad()
            y = checkpoint(made, x, use_reentrant=False) if made is layer else made(x)
            (y - x).square().mean().backward()
            optimizer.step()
    assert_same_state(layer, state(plain))
    for found, expected in zip(layer.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_pooled_micro_batches_under_a_checkpoint():
    layer, plain = known(renorm=RENORM), known(renorm=RENORM)
    with accumulate(layer):
        found = grads(layer, batches(3), (0, 1, 2), False)
    with accumulate(plain):
        expected = grads(plain, batches(3), (0, 1, 2))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
    assert_same_state(layer, state(plain))


def test_so_many_passes_are_remembered_and_one_more_is_refused():
    assert_as_without(known(renorm=RENORM), batches(REMEMBERED, shape=(4, 3)))
    layer = known(renorm=RENORM)
    with pytest.raises(StatisticsError, match=f"remembers {REMEMBERED} forward passes"):
        grads(layer, batches(REMEMBERED + 1, shape=(4, 3)), None, False)


def test_memory_is_bounded():
    layer = known(renorm=RENORM)
    for _ in range(3 * REMEMBERED):
        layer(random((4, 3)))
    assert len(layer._corrections.latest) == REMEMBERED
    entry = layer._corrections.latest[0]
    assert [t.shape for t in (*entry.key, *entry.value)] == [(3,)] * 4


def test_without_renorm_nothing_is_remembered():
    layer = known()
    layer(random((4, 3)))
    assert not layer._corrections.latest


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_copy_remembers_nothing(copied):
    layer = known(renorm=RENORM)
    x = random((8, 3)).requires_grad_()
    y = checkpoint(layer, x, use_reentrant=False)
    twin = copied(layer)
    assert not twin._corrections.latest
    assert twin._corrections.number != layer._corrections.number
    assert_as_without(twin, batches(2))
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_evaluation_and_frozen_layers_are_recomputed_alike():
    layer = known(renorm=RENORM).eval()
    assert_as_without(layer, batches(2))
    assert_as_without(BatchNorm1d(3, track_running_stats=False), batches(2))
