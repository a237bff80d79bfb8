"""First and second derivatives of `batch_norm`, against finite differences and against autograd."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from batchnorm import reference
from batchnorm.functional import batch_norm
from cases import ACTIVATIONS, ALL_ROUTES, take_route

EPS = 1e-5
SHAPE = (5, 2, 3)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


RUNNING = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
SAMPLES = torch.tensor([True, True, False, True, True])
POSITIONS = randn(5, 3, seed=1) > -0.8
WEIGHTS = randn(5, 3, seed=2).square()
ZEROS = WEIGHTS * (randn(5, 3, seed=3) > -0.8)
SINGLE = torch.zeros(5, 3, dtype=torch.bool)
SINGLE[0, 1] = SINGLE[3:] = True

TRAIN = {"training": True}
CUT = TRAIN | {"virtual_batch_size": 2}
RUN = {"degenerate": "running"}
OPTIONS = {
    "train": TRAIN,
    "virtual": CUT,
    "eval": {},
    "samples masked": TRAIN | {"mask": SAMPLES},
    "positions masked": TRAIN | {"mask": POSITIONS},
    "all masked": TRAIN | {"mask": ~(POSITIONS | ~POSITIONS)},
    "masked in evaluation": {"mask": POSITIONS},
    "weights of samples": TRAIN | {"sample_weight": WEIGHTS[:, 0]},
    "weights": TRAIN | {"sample_weight": WEIGHTS},
    "weights of 0": TRAIN | {"sample_weight": ZEROS},
    "huge weights": TRAIN | {"sample_weight": WEIGHTS * 1e200},
    "masked weights": TRAIN | {"sample_weight": WEIGHTS, "mask": POSITIONS},
    "virtual, masked": CUT | RUN | {"mask": POSITIONS},
    "virtual, weights": CUT | RUN | {"sample_weight": ZEROS},
    "virtual, all": CUT | RUN | {"sample_weight": ZEROS, "mask": POSITIONS},
    "one value": TRAIN | RUN | {"mask": SINGLE & (torch.arange(5) == 0)[:, None]},
    "one value in one chunk": CUT | RUN | {"mask": SINGLE},
    "one value that has weight": CUT | RUN | {"sample_weight": SINGLE * 1.0},
}


@pytest.fixture(params=ALL_ROUTES)
def route(request, monkeypatch):
    take_route(monkeypatch, request.param)


def leaves(affine=True, residual=True, shape=SHAPE):
    x, other = randn(*shape), randn(*shape, seed=4)
    vector = torch.tensor([1.5, -0.5], dtype=torch.float64)
    tensors = [x, *([vector, vector.flip(0)] if affine else []), *([other] if residual else [])]
    return [t.clone().requires_grad_() for t in tensors]


def make(affine, residual, activation, options):
    """A function of the leaves."""

    def f(x, *others):
        others = list(others)
        added = others.pop() if residual else None
        # Copies: the running statistics must be the same in every call.
        running = (t.clone() for t in RUNNING)
        return batch_norm(x, *running, *others, activation=activation, residual=added, **options)

    return f


def assert_differentiable(f, inputs):
    assert gradcheck(f, inputs, fast_mode=True)
    assert gradgradcheck(f, inputs, fast_mode=True)
    # gradgradcheck takes the first derivative on trust.
    y = f(*inputs)
    grad_y = randn(*y.shape, seed=5)
    first = torch.autograd.grad(y, inputs, grad_y)
    differentiable = torch.autograd.grad(f(*inputs), inputs, grad_y, create_graph=True)
    torch.testing.assert_close(differentiable, first)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("mode", ["train", "virtual", "eval"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_and_their_gradients_are_right(activation, affine, mode):
    f = make(affine, False, activation, OPTIONS[mode])
    assert_differentiable(f, leaves(affine, residual=False))


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("activation", [None, "gelu", "sigmoid"])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_right_whatever_counts(name, activation):
    assert_differentiable(make(True, True, activation, OPTIONS[name]), leaves())


@pytest.mark.usefixtures("route")
def test_gradients_of_one_value_per_channel_are_right():
    f = make(True, True, "gelu", TRAIN | RUN)
    assert_differentiable(f, leaves(shape=(1, 2)))


def renormalized(x, weight, bias, residual, options, limits):
    """The same in plain torch, with r and d as numbers."""
    w = reference.weights(x, options.get("mask"), options.get("sample_weight"))
    chunks = reference.virtual_chunks(x, options.get("virtual_batch_size"))
    outputs = []
    for chunk, part in zip(chunks, w.split([len(c) for c in chunks]), strict=True):
        share = (part / part.sum()).unsqueeze(1)
        mean = (share * chunk).sum((0, 2), keepdim=True)
        var = (share * (chunk - mean).square()).sum((0, 2), keepdim=True)
        statistics = mean.detach().flatten(), var.detach().flatten(), *RUNNING
        r, d = (t[:, None] for t in reference.renorm(*statistics, *limits, EPS))
        x_hat = (chunk - mean) / (var + EPS).sqrt() * r + d
        outputs.append(x_hat * weight[:, None] + bias[:, None])
    y = torch.nn.functional.gelu(torch.cat(outputs) + residual)
    mask = options.get("mask")
    return y if mask is None else y * reference.weights(x, mask).unsqueeze(1)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("limits", [(1.0, 0.0), (1.5, 0.3), (1e3, 1e3)])
@pytest.mark.parametrize(
    "name", ["train", "virtual", "positions masked", "weights of 0", "masked weights"]
)
def test_renormalization_is_constant_for_first_and_second_derivatives(name, limits):
    """Finite differences would see r and d move; autograd of a twin with constants does not."""
    f = make(True, True, "gelu", OPTIONS[name] | {"renorm": limits})
    grad_y, directions = randn(*SHAPE, seed=5), [randn(*t.shape, seed=6) for t in leaves()]

    def derivatives(function):
        inputs = leaves()
        y = function(*inputs)
        first = torch.autograd.grad(y, inputs, grad_y, create_graph=True)
        return y, first, torch.autograd.grad(first, inputs, directions)

    ours = derivatives(f)
    twins = derivatives(lambda *inputs: renormalized(*inputs, OPTIONS[name], limits))
    torch.testing.assert_close(ours, twins, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"sample_weight": WEIGHTS[:, 0]}, {"mask": SAMPLES}])
def test_gradient_does_not_count_a_path_twice(options):
    """With create_graph, a weight that is a function of the input is still one argument."""
    x = randn(5, 2).requires_grad_()

    def f(x):
        return batch_norm(x, None, None, weight=x.square().mean(0), training=True, **options)

    assert gradgradcheck(f, (x,))


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("name", ["train", "weights", "eval"])
@pytest.mark.parametrize("asked", ["x", "weight", "bias", "residual"])
def test_only_the_gradients_asked_for_are_computed(asked, name):
    names = ("x", "weight", "bias", "residual")
    tensors = dict(zip(names, (t.detach() for t in leaves()), strict=True))
    tensors[asked].requires_grad_()
    make(True, True, "silu", OPTIONS[name])(*tensors.values()).sum().backward()
    assert {name for name, t in tensors.items() if t.grad is not None} == {asked}


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("options", [{}, {"renorm": (3.0, 5.0)}, {"virtual_batch_size": 2}])
def test_weights_and_running_statistics_are_not_differentiated(options):
    sample_weight = WEIGHTS.clone().requires_grad_()
    x = leaves()[0]
    constants = [t.clone() for t in RUNNING]
    y = batch_norm(x, *constants, training=True, sample_weight=sample_weight, **options)
    y.square().sum().backward()
    assert sample_weight.grad is None
    assert not any(t.requires_grad for t in constants)


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("options", [{}, {"mask": torch.tensor([True, True])}])
def test_evaluation_can_be_differentiated_after_a_training_step(options):
    x = torch.tensor([[1.0], [3.0]], requires_grad=True)
    running_mean, running_var = torch.zeros(1), torch.ones(1)
    y = batch_norm(x, running_mean, running_var, eps=3.0, **options)
    batch_norm(x.detach(), running_mean, running_var, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((2, 1), 0.5))


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize(
    "options", [{"renorm": (3.0, 5.0)}, RUN | {"mask": SINGLE, **CUT}], ids=str
)
def test_backward_uses_the_running_statistics_of_its_forward(options):
    """They have moved before the backward pass comes."""
    grads = []
    for momentum in (0.0, 0.9):
        inputs = leaves()
        running = [t.clone() for t in RUNNING]
        others = dict(zip(("weight", "bias", "residual"), inputs[1:], strict=True))
        options = {"training": True, "momentum": momentum, "activation": "gelu"} | options
        y = batch_norm(inputs[0], *running, **(others | options | {"momentum": momentum}))
        grads.append(torch.autograd.grad(y.square().sum(), inputs))
    torch.testing.assert_close(*grads, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [None, 2])
def test_function_transforms_see_through_small_batches(size, training):
    x = randn(6, 3, 2).requires_grad_()
    running = (None, None) if training else (torch.zeros(3), torch.ones(3))

    def loss(x):
        y = batch_norm(x, *running, training=training, virtual_batch_size=size, activation="gelu")
        return y.square().sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)


AMBIGUOUS = {  # a shape with a size of 1, and strides where that axis has an unusual one
    (3, 2, 4, 1): [(8, 1, 2, 1), (8, 4, 1, 7), (2, 1, 6, 1)],
    (1, 3, 4, 4): [(1, 1, 12, 3), (7, 16, 4, 1)],
    (3, 2, 1, 4, 2): [(16, 1, 1, 4, 2), (16, 8, 1, 2, 1)],
}


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("innermost", [True, False])
@pytest.mark.parametrize(
    ("shape", "stride"),
    [(shape, stride) for shape, strides in AMBIGUOUS.items() for stride in strides],
    ids=str,
)
def test_strides_that_mean_nothing_do_not_matter(shape, stride, innermost):
    """PyTorch's own gradient is wrong for some of them (pytorch#63224)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.empty_strided(shape, stride, dtype=torch.float64)
    x.copy_(torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    grad_y = torch.randn(shape, generator=generator, dtype=torch.float64)
    if innermost:
        grad_y = grad_y.movedim(1, -1).contiguous().movedim(-1, 1)
    y = batch_norm(x, None, None, training=True)
    (grad,) = torch.autograd.grad(y, x, grad_y)
    torch.testing.assert_close(grad, reference.backward_train(grad_y, x, None, 1e-5)[0])
