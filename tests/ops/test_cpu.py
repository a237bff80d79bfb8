"""The C++ kernels by themselves: every instruction set, layout and size, by the specification."""

import pytest
import torch

from batchnorm import reference
from batchnorm.errors import ShapeError
from batchnorm.ops import cpu, native
from batchnorm.ops.activation import ACTIVATIONS
from batchnorm.ops.affine import Affine
from batchnorm.ops.contract import Moving
from cases import Layout, assert_derived, largest

pytestmark = pytest.mark.native
EPS = 1e-3
INSTRUCTIONS = ("portable", "avx2", "avx512")
LAYOUTS = (
    Layout((256, 65)),
    Layout((64, 100)),
    Layout((9001, 3)),
    Layout((40_000, 7)),  # more values than the second-level cache is read in tiles
    Layout((3, 1, 1000)),
    Layout((1, 3, 5, 5)),
    Layout((4, 65, 7, 7)),
    Layout((33, 8, 7, 7)),
    Layout((80, 6, 7, 7)),
    Layout((3, 8, 14, 14)),
    Layout((2, 3, 57, 57)),
    Layout((2, 2, 300, 301)),  # a plane of more than one chunk
    Layout((4, 65, 7, 7), "channels_last"),
    Layout((3, 8, 14, 14), "channels_last"),
    Layout((2, 3, 57, 57), "channels_last"),
    Layout((2, 16, 3, 5, 7)),
    Layout((2, 16, 3, 5, 7), "channels_last"),
    Layout((5, 2, 1, 1)),
)


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request):
    library = native.loaded()
    best = library.instructions
    if not library.restrict(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    library.restrict(best)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make(layout, dtype=torch.float32, mean=3.0, std=2.0, name="relu"):
    """Input, gradient of the output and what follows, of every kind."""
    x, grad_y, residual = (
        layout.arrange(t.to(dtype))
        for t in (
            mean + std * randn(*layout.shape).double(),
            randn(*layout.shape, seed=1),
            randn(*layout.shape, seed=2),
        )
    )
    channels = layout.shape[1]
    weight, bias = randn(channels, seed=3) + 1, randn(channels, seed=4)
    return x, grad_y, Affine(weight, bias, residual, ACTIVATIONS.get(name))


def torchs(x, grad_y, after):
    """What PyTorch makes of it in the same precision."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *after[:3]) if t is not None]
    x, weight, bias, *residual = leaves
    z = torch.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.1, EPS)
    z = z + residual[0] if residual else z
    y = z if after.act is None else after.act.forward(z)
    y.backward(grad_y)
    return y.detach(), [leaf.grad for leaf in leaves]


def solve_exactly(x, grad_y, after):
    """What the specification makes of it."""
    running = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    name = None if after.act is None else after.act.name
    return reference.step(
        x,
        grad_y,
        running,
        *after[:2],
        momentum=0.1,
        eps=EPS,
        activation=name,
        residual=after.residual,
    )


@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_training_agrees_with_the_reference(layout, dtype, with_residual, instructions):
    x, grad_y, after = make(layout, dtype)
    if not with_residual:
        after = after._replace(residual=None)
    exact = solve_exactly(x, grad_y, after)
    out = cpu.train(x, after, EPS, signs=with_residual)
    kept = after._replace(residual=None) if with_residual else after
    needs = (True, True, True, with_residual)
    grads = cpu.backward(grad_y, x, out.vectors, kept, out.signs, needs, constant=False)
    torch_y, torch_grads = torchs(x, grad_y, after)
    names = ("output", "grad_input", "grad_weight", "grad_bias", "grad_residual")
    exacts = (exact.output, *exact[1:5])
    count = x.numel() // x.shape[1]
    sums = count * largest(grad_y)
    for name, ours, theirs, value in zip(
        names, (out.y, *grads), (torch_y, *torch_grads, None), exacts, strict=False
    ):
        if ours is None:
            continue
        vector = ours.dim() == 1
        assert_derived(
            name,
            ours,
            theirs,
            value,
            torch.float32 if vector else dtype,
            terms=sums**0.5 if vector else 1.0,
            condition=sums**0.5 if vector else largest(grad_y) + largest(x),
        )


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[6], LAYOUTS[12]], ids=str)
def test_every_activation_agrees_with_the_reference(layout, with_residual, name, instructions):
    x, grad_y, after = make(layout, name=name)
    if not with_residual:
        after = after._replace(residual=None)
    exact = solve_exactly(x, grad_y, after)
    out = cpu.train(x, after, EPS)
    needs = (True, True, True, with_residual)
    grads = cpu.backward(grad_y, x, out.vectors, after, None, needs, constant=False)
    # Slopes are of size 1, sums over a channel of about √count.
    roots = (x.numel() // x.shape[1]) ** 0.5
    for ours, value, size in zip((out.y, *grads), exact[:5], (8, 8, roots, roots, 4), strict=True):
        if ours is not None:
            assert (ours.double() - value).abs().max() <= 64 * 2**-23 * size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("ratio", [0, 1e2, 1e4, 1e6])
def test_a_large_mean_costs_no_precision(layout, ratio, instructions):
    x, _, after = make(layout, mean=ratio, std=1)
    after = after._replace(residual=None, act=None)
    mean, var = reference.statistics(x)
    out = cpu.train(x, after, EPS)
    assert ((out.vectors[cpu.VAR] - var).abs() <= 1e-5 * var).all()
    assert ((out.vectors[:2].double().sum(0) - mean).abs() <= 1e-6 * var.sqrt()).all()
    exact = solve_exactly(x, torch.zeros_like(x), after).output
    # A few ulp of the output, whatever the mean.
    assert (out.y.double() - exact).abs().max() <= 16 * 2**-23 * exact.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("value", [0.1, 1e2, 1e7, 1e10, -3e30, 1e-40])
def test_a_constant_channel_is_bias(layout, value, instructions):
    x, _, after = make(layout)
    x = torch.full_like(x, value)
    out = cpu.train(x, after._replace(residual=None, act=None), EPS)
    assert torch.equal(out.vectors[cpu.VAR], torch.zeros(x.shape[1]))
    assert torch.equal(out.y, after.bias.view(-1, *[1] * (x.dim() - 2)).expand_as(x))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_channel_that_is_not_finite_leaves_the_others_alone(layout, bad, instructions):
    x, _, after = make(layout)
    clean = cpu.train(x, after, EPS)
    x = x.clone()
    x[0, 0].view(-1)[-1:] = bad
    running = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    out = cpu.train(x, after, EPS, moving=Moving(*running, 0.5))
    assert clean.finite
    assert not out.finite
    assert torch.equal(out.y[:, 1:], clean.y[:, 1:])
    assert out.y[:, 0].isnan().all()
    assert torch.equal(running[0], torch.zeros(x.shape[1]))
    assert torch.equal(running[1], torch.ones(x.shape[1]))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_normalized_again_has_the_same_bits(layout, instructions):
    x, _, after = make(layout)
    out = cpu.train(x, after, EPS)
    assert torch.equal(cpu.normalize(x, out.vectors, after), out.y)
    running = randn(x.shape[1], seed=5), randn(x.shape[1], seed=6).exp()
    out = cpu.evaluate(x, after, EPS, running)
    assert torch.equal(cpu.normalize(x, out.vectors, after), out.y)
    exact = reference.evaluate(
        x,
        torch.zeros_like(x),
        running,
        *after[:2],
        eps=EPS,
        activation="relu",
        residual=after.residual,
    ).output
    assert (out.y.double() - exact).abs().max() <= 16 * 2**-23 * exact.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_signs_stand_for_the_residual(layout, instructions):
    for name in cpu.SIGNED:
        x, grad_y, after = make(layout, name=name)
        out = cpu.train(x, after, EPS, signs=True)
        needs = (True,) * 4
        by_signs = cpu.backward(
            grad_y, x, out.vectors, after._replace(residual=None), out.signs, needs, False
        )
        by_residual = cpu.backward(grad_y, x, out.vectors, after, None, needs, False)
        assert all(map(torch.equal, by_signs, by_residual))
        passed = by_signs[3] == grad_y
        assert torch.equal(passed | (grad_y == 0), (out.y > 0) | (grad_y == 0))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(layout):
    x, grad_y, after = make(layout)
    threads, seen = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            out = cpu.train(x, after, EPS)
            grads = cpu.backward(grad_y, x, out.vectors, after, None, (True,) * 4, False)
            seen.append((out.y, out.vectors, *grads))
    finally:
        torch.set_num_threads(threads)
    for others in seen[1:]:
        assert all(map(torch.equal, seen[0], others))


@pytest.mark.parametrize("layout", [*LAYOUTS[:2], LAYOUTS[6], LAYOUTS[12]], ids=str)
def test_constant_statistics_have_no_gradient_through_them(layout, instructions):
    x, grad_y, after = make(layout)
    running = randn(x.shape[1], seed=5), randn(x.shape[1], seed=6).exp()
    exact = reference.evaluate(
        x, grad_y, running, *after[:2], eps=EPS, activation="relu", residual=after.residual
    )
    out = cpu.evaluate(x, after, EPS, running, signs=True)
    kept = after._replace(residual=None)
    grads = cpu.backward(grad_y, x, out.vectors, kept, out.signs, (True,) * 4, constant=True)
    roots = (x.numel() // x.shape[1]) ** 0.5 * largest(exact.output).max()
    for ours, value, size in zip(grads, exact[1:5], (8, roots, roots, 4), strict=True):
        assert (ours.double() - value).abs().max() <= 64 * 2**-23 * size


def test_running_statistics_are_moved():
    x, _, after = make(LAYOUTS[0])
    running = randn(65, seed=5), randn(65, seed=6).exp()
    exact = reference.step(x, torch.zeros_like(x), running, None, None, momentum=0.3, eps=EPS)
    out = cpu.train(x, after, EPS, moving=Moving(*running, 0.3))
    assert out.finite
    torch.testing.assert_close(running[0].double(), exact.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(running[1].double(), exact.running_var, rtol=1e-6, atol=0)


def test_one_bit_per_value_is_kept_for_large_planes():
    x, _, after = make(Layout((8, 16, 56, 56)))
    for memory in ("contiguous", "channels_last"):
        out = cpu.train(Layout(x.shape, memory).arrange(x), after, EPS, signs=True)
        assert out.signs.numel() * 16 <= 1.02 * x.numel()


def test_more_than_2_to_the_31_values_can_be_counted():
    words = native.loaded().sign_words
    assert 1 << 32 <= words(1 << 20, 1 << 16, 1, 0) <= 1.01 * (1 << 32)
    assert words(1 << 40, 1 << 40, 1 << 40, 0) == -1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3, 8)[..., ::2], "dense"),
        (torch.ones(2, 3).double(), "float32 or bfloat16"),
        (torch.ones(3), r"\(N, C, \.\.\.\)"),
        (torch.ones(2, 3, device="meta"), "on the CPU"),
    ],
    ids=["strided", "double", "vector", "meta"],
)
def test_what_is_not_for_the_kernels_is_refused_before_a_pointer_is_taken(x, message):
    with pytest.raises(ShapeError, match=message):
        cpu.train(x, Affine(), EPS)


def test_tensors_that_do_not_fit_are_refused():
    x = torch.ones(4, 3)
    good, short = torch.ones(3), torch.ones(2)
    for after in (Affine(weight=short), Affine(bias=short), Affine(residual=torch.ones(4, 2))):
        with pytest.raises(ShapeError, match="for a kernel"):
            cpu.train(x, after, EPS)
    for running in ((good, short), (good.double(), good), (good, torch.ones(6)[::2])):
        with pytest.raises(ShapeError, match="a mean and a variance of 3 float32 values"):
            cpu.train(x, Affine(), EPS, moving=Moving(*running, 0.1))
    vectors = cpu.train(x, Affine(), EPS).vectors
    with pytest.raises(ShapeError, match="like the input"):
        cpu.backward(torch.ones(3, 3), x, vectors, Affine(), None, (True,) * 4, False)
    with pytest.raises(ShapeError, match="vectors"):
        cpu.normalize(x, vectors[:, :2], Affine())
    with pytest.raises(ShapeError, match="signs"):
        act = Affine(act=ACTIVATIONS["relu"])
        cpu.backward(x, x, vectors, act, torch.zeros(1, dtype=torch.int16)[:0], (True,) * 4, False)
