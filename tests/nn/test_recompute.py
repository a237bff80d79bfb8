"""`bn.recompute()` around networks: everything is as without it, bit for bit, but the memory."""

import json
import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.ops.activation import ACTIVATIONS
from cases import need_library

from .recomputed import PATH, Counter, assert_same, benchmark, chain, image, step


@pytest.fixture(autouse=True)
def computed(monkeypatch):
    need_library()
    return Counter(monkeypatch)


each_format = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
each_network = pytest.mark.parametrize("name", benchmark.NETWORKS)


def resnet(name, width=16):
    torch.manual_seed(0)
    return benchmark.resnet(name, ours=True, width=width)


@each_format
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_chain_of_layers(activation, memory_format, computed):
    model = chain(activation).to(memory_format=memory_format)
    assert_same(model, image(4, 3, 9, 9).to(memory_format=memory_format))
    assert computed.count == 4


@each_format
@each_network
def test_residual_network(name, memory_format, computed):
    model = resnet(name).to(memory_format=memory_format)
    assert_same(model, image(4, 3, 32, 32).to(memory_format=memory_format))
    layers = sum(isinstance(module, bn.BatchNorm2d) for module in model.modules())
    assert computed.count == 2 * (layers - 1)  # all but the last, which is averaged


@each_network
def test_residual_network_in_bfloat16(name, computed):
    model = resnet(name).to(torch.bfloat16)
    assert_same(model, image(4, 3, 32, 32, dtype=torch.bfloat16))
    assert computed.count


def freeze(model):
    for module in model.modules():
        if isinstance(module, bn.BatchNorm2d):
            module.eval().requires_grad_(False)


FREEZE = {
    "evaluation": nn.Module.eval,
    "frozen layers": freeze,
    "frozen convolutions": lambda model: [
        module.requires_grad_(False) for module in model.modules() if isinstance(module, nn.Conv2d)
    ],
    "frozen start": lambda model: model[:4].requires_grad_(False),
    "some evaluated": lambda model: [model[3].eval(), model[5].eval()],
}


@pytest.mark.parametrize("needs_input", [True, False], ids=["input", "no input"])
@pytest.mark.parametrize("frozen", FREEZE)
def test_frozen_residual_network(frozen, needs_input, computed):
    model = resnet("resnet18")
    FREEZE[frozen](model)
    assert_same(model, image(4, 3, 32, 32).detach().requires_grad_(needs_input))
    assert computed.count


OPTIONS = {
    "virtual batches": {"virtual_batch_size": 2},
    "uneven virtual batches": {"virtual_batch_size": 3},
    "renorm": {"renorm": bn.Renorm(1.5, 0.3, 0, 0)},
    "average": {"momentum": None},
    "not affine": {"affine": False},
    "no bias": {"bias": False},
    "no running statistics": {"track_running_stats": False},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_of_the_layer(options):
    model = chain("silu", **OPTIONS[options])
    model[1].num_batches_tracked = model[3].num_batches_tracked = torch.tensor(3)
    assert_same(model, image(4, 3, 9, 9))


@pytest.mark.parametrize("kind", ["mask", "sample_weight"])
def test_masks_and_weights(kind):
    given = {"mask": torch.tensor([True, False, True, True]), "sample_weight": torch.arange(4.0)}

    def way(model, x):
        y = model[1](model[0](x), **{kind: given[kind]})
        return model[4](model[3](model[2](y), y[..., 1:-1, 1:-1]))

    assert_same(chain(), image(4, 3, 9, 9), way)


@pytest.mark.parametrize("bad", [torch.nan, 1e30])
def test_numbers_that_break_statistics(bad):
    x = image(4, 3, 9, 9).detach()
    x[0, 0, 0, 0] = bad
    model = chain()
    expected = [step(model, x)["output"], step(model, x, context=bn.recompute)["output"]]
    assert torch.equal(*(y.nan_to_num(7.0) for y in expected))


SHARED = {
    "one input of two layers": lambda m, x: m[2](m[1](m[0](x)) + m[3](m[0](x))),
    "two layers after one convolution": lambda m, x: (
        lambda y: m[2](m[1](y)) * m[2](m[3](y)).sigmoid()
    )(m[0](x)),
    "a layer twice": lambda m, x: m[4](m[1](m[2](m[1](m[0](x))))),
    "a layer after a layer": lambda m, x: m[4](m[3](m[1](m[0](x)))),
    "residual is the input": lambda m, x: (lambda y: m[2](m[1](y, y)))(m[0](x)),
    "residual is an output": lambda m, x: (lambda y: m[2](m[3](y, y)))(m[1](m[0](x))),
    "residual is broadcast": lambda m, x: (
        lambda y: m[2](m[1](y, y.mean((2, 3), keepdim=True).expand_as(y)))
    )(m[0](x)),
    "two consumers": lambda m, x: (lambda y: m[2](y) - m[4](y))(m[1](m[0](x))),
    "a view": lambda m, x: m[1](m[0](x)).flatten(1).square(),
    "part of it": lambda m, x: m[2](m[1](m[0](x))[:, :, 1:]),
    "pooling": lambda m, x: m[2](F.max_pool2d(m[1](m[0](x)), 2)),
    "joined": lambda m, x: m[2](torch.cat([m[1](m[0](x)), m[3](m[0](x))], 2)),
}


@pytest.mark.parametrize("shared", SHARED)
def test_tensors_with_several_uses(shared):
    assert_same(chain(), image(4, 3, 9, 9), SHARED[shared])


def relu_(y):
    return F.relu(y, inplace=True)


CHANGES = {
    "relu_": relu_,
    "add_": lambda y: y.add_(1),
    "mul_": lambda y: y.mul_(2),
    "item": lambda y: (y.__setitem__((slice(None), 0), 0.0), y)[1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_output_changed_in_place(change, computed):
    def way(model, x):
        return model[2](CHANGES[change](model[1](model[0](x))))

    assert_same(chain(None), image(4, 3, 9, 9), way)
    assert computed.count == 0


@pytest.mark.parametrize("context", [None, bn.recompute], ids=["without", "within"])
@pytest.mark.parametrize("change", CHANGES)
def test_input_changed_in_place_is_refused_as_without(change, context):
    def way(model, x):
        before = model[0](x) * 1
        y = model[2](model[1](before))
        return y + CHANGES[change](before)[..., :5, :5].mean()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step(chain(), image(4, 3, 9, 9), way, *([] if context is None else [context]))


def test_weights_changed_before_the_backward_pass_are_refused(computed):
    model = chain()
    with bn.recompute():
        y = model(image(4, 3, 9, 9))
    with torch.no_grad():
        model[1].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_recipe_has_the_weights_of_its_time(computed):
    """Of a frozen layer nobody asks for the weights, but the recipe does."""
    model = chain()
    model[0].requires_grad_(False), model[1].eval().requires_grad_(False)
    x = image(4, 3, 9, 9).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[2](model[1](model[0](x))).sum(), model[2].weight)
    with bn.recompute():
        y = model[2](model[1](model[0](x)))
    with torch.no_grad():
        for tensor in (model[1].weight, model[1].bias, *model[1].buffers()):
            tensor.add_(1)
    assert torch.equal(torch.autograd.grad(y.sum(), model[2].weight)[0], expected)
    assert computed.count == 1


def test_layers_in_training_between_forward_and_backward(computed):
    """All forward passes first, as with micro-batches: running statistics have moved on."""

    def way(model, x):
        return torch.cat([model(x + number) for number in range(3)])

    assert_same(chain(), image(4, 3, 9, 9), way)
    assert computed.count == 2 * 2 * 3


def test_several_backward_passes(computed):
    model, x = resnet("resnet18"), image(4, 3, 32, 32)
    expected = step(model, x)["gradient of 0.weight"].clone()
    with bn.recompute():
        y = model(x)
        loss = (y * torch.arange(y.numel()).cos().view(y.shape)).sum()
    counts = []
    for retain in (True, True, False):
        found = torch.autograd.grad(loss, model[0].weight, retain_graph=retain)[0]
        assert torch.equal(found, expected)
        counts.append(computed.count)
    assert counts == [19, 38, 57]


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_gradient_penalty(inside):
    def way(model, x):
        y = model(x)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return grad

    assert_same(chain("silu"), image(4, 3, 9, 9), way, backward_inside=inside)


def test_gradient_penalty_with_a_residual():
    def way(model, x):
        y = model[1](model[0](x))
        z = model[3](y.sin(), y)
        (grad,) = torch.autograd.grad(model[2](z).square().sum(), x, create_graph=True)
        return grad

    assert_same(chain("relu"), image(4, 3, 9, 9), way)


def no_grad_first(model, x):
    with torch.no_grad():
        y = model[:2](x)
    return model[2:](y) * x.mean()


CHECKPOINTS = {
    "reentrant": lambda m, x: checkpoint(m, x, use_reentrant=True),
    "not reentrant": lambda m, x: checkpoint(m, x, use_reentrant=False),
    "a part, reentrant": lambda m, x: m[3:](checkpoint(m[:3], x, use_reentrant=True)),
    "a part": lambda m, x: m[3:](checkpoint(m[:3], x, use_reentrant=False)),
    "a layer, reentrant": lambda m, x: m[2:](checkpoint(m[1], m[0](x), use_reentrant=True)),
    "a layer": lambda m, x: m[2:](checkpoint(m[1], m[0](x), use_reentrant=False)),
    "from an output, reentrant": lambda m, x: checkpoint(m[2:], m[:2](x), use_reentrant=True),
    "from an output": lambda m, x: checkpoint(m[2:], m[:2](x), use_reentrant=False),
    "no graph first": no_grad_first,
}


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("way", CHECKPOINTS)
def test_checkpoint_in_the_context(way, inside):
    assert_same(chain("silu"), image(4, 3, 9, 9), CHECKPOINTS[way], backward_inside=inside)


def within(model, x):
    with bn.recompute():
        return model(x)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_context_in_a_checkpoint(reentrant):
    def way(model, x):
        return model[4](checkpoint(partial(within, model[:4]), x, use_reentrant=reentrant))

    assert_same(chain("silu"), image(4, 3, 9, 9), way)


def test_exception_in_a_forward_pass(computed):
    model = chain()
    with pytest.raises(RuntimeError, match="channels"), bn.recompute():
        model(image(4, 5, 9, 9))
    step(model, image(4, 3, 9, 9))
    assert computed.count == 0


def alive_after_forward(model, x, context):
    """Bytes of all outputs of modules that live between forward and backward, in a loss's graph."""
    refs = []

    def note(module, args, output):
        refs.append(weakref.ref(output.untyped_storage()))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    with context():
        loss = model(x).square().mean()
    for handle in handles:
        handle.remove()
    storages = {ref() for ref in refs} - {None}
    found = sum(storage.nbytes() for storage in storages)
    loss.backward()
    return found


@each_network
def test_memory_between_forward_and_backward(name):
    x = image(4, 3, 64, 64).detach()
    model = resnet(name)
    kept = alive_after_forward(model, x, nullcontext)
    freed = alive_after_forward(model, x, bn.recompute)
    assert freed <= 0.6 * kept


@each_network
def test_saved_bytes_against_torch(name):
    x = image(4, 3, 64, 64).detach()
    saved = {}
    for variant in benchmark.VARIANTS:
        torch.manual_seed(0)
        model = benchmark.resnet(name, variant != "torch", width=64)
        saved[variant] = benchmark.saved_bytes(model, x, variant)
    assert saved["recompute"] <= 0.6 * saved["torch"]
    assert saved["fused"] <= 1.05 * saved["torch"]


def test_everything_is_freed_by_the_backward_pass():
    model, refs = resnet("resnet18"), []
    for module in model.modules():
        module.register_forward_hook(
            lambda module, args, output: refs.append(weakref.ref(output.untyped_storage()))
        )
    with bn.recompute():
        loss = model(image(4, 3, 32, 32).detach()).square().mean()
    loss.backward()
    assert {ref() for ref in refs} == {None}


def test_figures_of_the_documentation_are_those_measured():
    rows = json.loads(PATH.with_suffix(".json").read_text())["rows"]
    page = PATH.parents[1] / "docs" / "memory.md"
    assert benchmark.table(rows) in page.read_text(encoding="utf-8")
    for row in rows.values():
        assert row["recompute"]["saved_bytes"] <= 0.6 * row["torch"]["saved_bytes"]
        assert row["recompute"]["seconds"] <= 1.1 * row["fused"]["seconds"]
