"""The kernels for GPUs by themselves, by the specification: interpreted here, compiled on a GPU."""

import pytest
import torch

from batchnorm import ops, reference
from batchnorm.errors import ShapeError
from batchnorm.ops.activation import ACTIVATIONS
from batchnorm.ops.affine import Affine
from batchnorm.ops.contract import LOW, MEAN, SIGNED, VAR, Moving
from cases import Layout, assert_derived, largest
from interpreter import ALONE, SHARED, interpret, modules

pytestmark = pytest.mark.slow

EPS = 1e-3
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (
    Layout((33, 5)),
    Layout((70, 65)),
    Layout((3, 1, 40)),
    Layout((1, 3, 5, 5)),
    Layout((4, 9, 7, 7)),
    Layout((70, 3, 11)),  # runs too short to be read by themselves; more parts than a tile takes
    Layout((5, 3, 8, 8)),
    Layout((2, 2, 13, 11)),
    Layout((4, 9, 3, 3), "channels_last"),
    Layout((3, 8, 6, 6), "channels_last"),
    Layout((2, 4, 3, 2, 3), "channels_last"),
)


@pytest.fixture(params=[ALONE, SHARED, pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request, monkeypatch):
    if request.param == "gpu":
        found = ops.triton.kernels(torch.empty(1, 1, device="cuda"))
        assert found is not None, ops.triton.reason()
        return found
    interpret(monkeypatch, request.param)
    return modules()[0]


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device())


def make(layout, dtype=torch.float32, mean=3.0, std=2.0, name="relu", residual=True):
    """Input, gradient of the output and what follows."""
    shape = layout.shape
    x = mean + std * randn(*shape).double()
    tensors = (
        layout.arrange(t.to(dtype)) for t in (x, randn(*shape, seed=1), randn(*shape, seed=2))
    )
    x, grad_y, addend = tensors
    weight, bias = randn(shape[1], seed=3) + 1, randn(shape[1], seed=4)
    after = Affine(weight, bias, addend if residual else None, ACTIVATIONS.get(name))
    return x, grad_y, after


def solve_exactly(x, grad_y, after, **options):
    """What the specification makes of it."""
    channels = x.shape[1]
    given = {"momentum": 0.1, "eps": EPS} | options
    weight, bias, residual = (t if t is None else t.cpu() for t in after[:3])
    return reference.step(
        x.cpu(),
        grad_y.cpu(),
        (torch.zeros(channels), torch.ones(channels)),
        weight,
        bias,
        activation=None if after.act is None else after.act.name,
        residual=residual,
        **given,
    )


def torchs(x, grad_y, after):
    """What PyTorch makes of it in the same precision."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *after[:3]) if t is not None]
    x, weight, bias, *residual = leaves
    z = torch.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.1, EPS)
    z = z + residual[0] if residual else z
    y = z if after.act is None else after.act.forward(z)
    y.backward(grad_y)
    return y.detach(), [leaf.grad for leaf in leaves]


def step(kernels, x, grad_y, after, eps=EPS):
    """Forward and backward as the autograd Function does it, with signs where they are enough."""
    signed = after.residual is not None and after.act is not None and after.act.name in SIGNED
    out = kernels.train(x, after, eps, signs=signed)
    kept = after._replace(residual=None) if signed else after
    needs = (True, True, True, after.residual is not None)
    return out, kernels.backward(grad_y, x, out.vectors, kept, out.signs, needs, constant=False)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_training_agrees_with_the_reference(layout, dtype, residual, kernels):
    x, grad_y, after = make(layout, dtype, residual=residual)
    exact = solve_exactly(x, grad_y, after)
    out, grads = step(kernels, x, grad_y, after)
    torch_y, torch_grads = torchs(x, grad_y, after)
    assert out.y.stride() == x.stride()
    names = ("output", "grad_input", "grad_weight", "grad_bias", "grad_residual")
    sums = x.numel() // x.shape[1] * largest(grad_y.cpu())
    for name, ours, theirs, value in zip(
        names,
        (out.y, *grads),
        (torch_y, *torch_grads, None),
        (exact.output, *exact[1:5]),
        strict=False,
    ):
        if ours is None:
            continue
        vector = ours.dim() == 1
        assert ours.dtype is (torch.float32 if vector else dtype)
        assert_derived(
            name,
            ours.cpu(),
            theirs.cpu(),
            value,
            ours.dtype,
            terms=sums**0.5 if vector else 1.0,
            condition=sums**0.5 if vector else largest(grad_y.cpu()) + largest(x.cpu()),
        )


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[4], LAYOUTS[5], LAYOUTS[8]], ids=str)
def test_every_activation_agrees_with_the_reference(layout, residual, name, kernels):
    x, grad_y, after = make(layout, name=name, residual=residual)
    exact = solve_exactly(x, grad_y, after)
    out, grads = step(kernels, x, grad_y, after)
    # Slopes are of size 1, sums over a channel of about √count.
    roots = (x.numel() // x.shape[1]) ** 0.5
    for ours, value, size in zip((out.y, *grads), exact[:5], (8, 8, roots, roots, 4), strict=True):
        if ours is not None:
            assert (ours.cpu().double() - value).abs().max() <= 64 * 2**-23 * size


@pytest.mark.parametrize("name", ["elu", "tanh"])
def test_small_values_lose_no_digits(name, kernels):
    """Where the exponential less 1 is a series: up to −0.35, or 0.175 of either sign for tanh."""
    z = torch.linspace(-0.35, -1e-6, 4096, device=device()).view(-1, 1)
    z = z if name == "elu" else z / 2
    zero, one = torch.zeros(1, device=device()), torch.ones(1, device=device())
    after = Affine(None, None, None, ACTIVATIONS[name])
    y = kernels.evaluate(z, after, 0.0, (zero, one)).y.cpu().double()
    exact = after.act.forward(z.cpu().double())
    assert ((y - exact) / exact).abs().max() <= 2 * 2**-23


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("ratio", [1e3, 1e6])
def test_a_large_mean_costs_no_precision(layout, ratio, kernels):
    x, _, after = make(layout, mean=ratio, std=1, name=None, residual=False)
    mean, var = reference.statistics(x.cpu())
    out = kernels.train(x, after, EPS)
    vectors = out.vectors.cpu().double()
    assert ((vectors[VAR] - var).abs() <= 1e-5 * var).all()
    assert ((vectors[MEAN] + vectors[LOW] - mean).abs() <= 1e-6 * var.sqrt()).all()
    exact = solve_exactly(x, torch.zeros_like(x), after).output
    assert (out.y.cpu().double() - exact).abs().max() <= 16 * 2**-23 * exact.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_first_value_may_be_far_from_all_others(layout, kernels):
    """What is subtracted beforehand is one of the values; here one that lies 1e4 away."""
    x, _, _ = make(layout, mean=1e4, std=1)
    x = x.clone()
    x[0, :] = 0
    if x[:, 0].numel() > 25:  # among a few, it is not far in terms of their deviation
        mean, var = reference.statistics(x.cpu())
        vectors = kernels.stats(x).cpu().double()
        assert ((vectors[VAR] - var).abs() <= 1e-5 * var).all()
        assert ((vectors[MEAN] + vectors[LOW] - mean).abs() <= 1e-6 * var.sqrt()).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("value", [0.1, -3e30])
def test_a_constant_channel_is_bias(layout, value, kernels):
    x, _, after = make(layout, name=None, residual=False)
    out = kernels.train(torch.full_like(x, value), after, EPS)
    assert torch.equal(out.vectors[VAR].cpu(), torch.zeros(x.shape[1]))
    assert torch.equal(out.y, after.bias.view(-1, *[1] * (x.dim() - 2)).expand_as(x))


def moving(channels, policy):
    mean, var = randn(channels, seed=5), randn(channels, seed=6).exp()
    missed = torch.zeros(channels, dtype=torch.int64, device=device()) if policy == "skip" else None
    return Moving(mean, var, 0.3, missed, torch.tensor(7, device=device()))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_running_statistics_are_moved(layout, kernels):
    x, _, after = make(layout)
    given = moving(x.shape[1], "skip")
    running = tuple(t.cpu().clone() for t in given[:2])
    exact = reference.step(
        x.cpu(), torch.zeros(x.shape), running, None, None, momentum=0.3, eps=EPS
    )
    kernels.train(x, after, EPS, moving=given)
    mean, var, _, missed, tracked = given
    torch.testing.assert_close(mean.cpu().double(), exact.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.cpu().double(), exact.running_var, rtol=1e-6, atol=0)
    assert missed.sum() == 0
    assert tracked == 8


@pytest.mark.parametrize("policy", ["skip", "propagate"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_channel_that_is_not_finite_leaves_the_others_alone(layout, bad, policy, kernels):
    x, _, after = make(layout)
    channels = x.shape[1]
    clean, spoiled = moving(channels, policy), moving(channels, policy)
    before = moving(channels, policy)
    expected = kernels.train(x, after, EPS, moving=clean).y
    x = x.clone()
    x[0, 0].view(-1)[-1:] = bad
    y = kernels.train(x, after, EPS, moving=spoiled).y
    assert torch.equal(y[:, 1:], expected[:, 1:])
    assert y[:, 0].isnan().all()
    for ours, others, old in zip(spoiled[:2], clean[:2], before[:2], strict=True):
        assert torch.equal(ours[1:], others[1:])
        assert ours[0] == old[0] if policy == "skip" else not ours[0].isfinite()
    assert spoiled.tracked == 8
    if policy == "skip":
        assert spoiled.missed.tolist() == [1] + [0] * (channels - 1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_normalized_again_has_the_same_bits(layout, kernels):
    x, _, after = make(layout)
    out = kernels.train(x, after, EPS)
    assert torch.equal(kernels.normalize(x, out.vectors, after), out.y)
    running = moving(x.shape[1], "skip")[:2]
    out = kernels.evaluate(x, after, EPS, running)
    assert torch.equal(kernels.normalize(x, out.vectors, after), out.y)
    exact = reference.evaluate(
        x.cpu(),
        torch.zeros(x.shape),
        tuple(t.cpu() for t in running),
        *(t.cpu() for t in after[:2]),
        eps=EPS,
        activation="relu",
        residual=after.residual.cpu(),
    ).output
    assert (out.y.cpu().double() - exact).abs().max() <= 16 * 2**-23 * exact.abs().max()


@pytest.mark.parametrize("name", sorted(SIGNED))
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_signs_stand_for_the_residual(layout, name, kernels):
    x, grad_y, after = make(layout, name=name)
    out = kernels.train(x, after, EPS, signs=True)
    assert out.signs.numel() * 8 <= 8 * x.numel()
    kept, needs = after._replace(residual=None), (True,) * 4
    by_signs = kernels.backward(grad_y, x, out.vectors, kept, out.signs, needs, False)
    by_residual = kernels.backward(grad_y, x, out.vectors, after, None, needs, False)
    assert all(map(torch.equal, by_signs, by_residual))
    passed = by_signs[3] == grad_y
    assert torch.equal(passed | (grad_y == 0), (out.y > 0) | (grad_y == 0))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_constant_statistics_have_no_gradient_through_them(layout, kernels):
    x, grad_y, after = make(layout)
    running = moving(x.shape[1], "skip")[:2]
    exact = reference.evaluate(
        x.cpu(),
        grad_y.cpu(),
        tuple(t.cpu() for t in running),
        *(t.cpu() for t in after[:2]),
        eps=EPS,
        activation="relu",
        residual=after.residual.cpu(),
    )
    out = kernels.evaluate(x, after, EPS, running, signs=True)
    kept = after._replace(residual=None)
    grads = kernels.backward(grad_y, x, out.vectors, kept, out.signs, (True,) * 4, constant=True)
    roots = (x.numel() // x.shape[1]) ** 0.5 * largest(exact.output).max()
    for ours, value, size in zip(grads, exact[1:5], (8, roots, roots, 4), strict=True):
        assert (ours.cpu().double() - value).abs().max() <= 64 * 2**-23 * size


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_nan_stays_nan_and_its_gradient_is_that_of_torch(residual, name, kernels):
    x, grad_y, after = make(LAYOUTS[4], name=name, residual=residual)
    x = x.clone()
    x[0, 0, 0, 0] = float("nan")
    running = moving(x.shape[1], "skip")[:2]
    signed = residual and name in SIGNED
    out = kernels.evaluate(x, after, EPS, running, signs=signed)
    kept = after._replace(residual=None) if signed else after
    needs = (True, False, True, residual)
    ours = kernels.backward(grad_y, x, out.vectors, kept, out.signs, needs, constant=True)
    z = torch.nn.functional.batch_norm(x, *running, *after[:2], eps=EPS)
    z = (z + after.residual if residual else z).requires_grad_()
    y = z if after.act is None else after.act.forward(z)
    (dz,) = torch.autograd.grad(y, z, grad_y)
    assert out.y.isnan().nonzero().tolist() == [[0, 0, 0, 0]]
    if name in ("elu", "hardswish"):
        return  # PyTorch's own depends on where in the tensor it is
    assert dz.isnan().sum() == (name not in (None, "relu", "leaky_relu"))
    close = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}
    torch.testing.assert_close(ours[2], dz.sum((0, 2, 3)), **close)
    if residual:
        torch.testing.assert_close(ours[3], dz, **close)


@pytest.mark.parametrize(
    "wanted", [(0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 1, 0), (1, 0, 0, 0)], ids=str
)
@pytest.mark.parametrize("constant", [False, True])
def test_only_what_is_wanted_is_computed_and_it_is_the_same(constant, wanted, kernels):
    x, grad_y, after = make(LAYOUTS[4])
    vectors = kernels.train(x, after, EPS).vectors
    needs = tuple(map(bool, wanted))
    some = kernels.backward(grad_y, x, vectors, after, None, needs, constant)
    every = kernels.backward(grad_y, x, vectors, after, None, (True,) * 4, constant)
    for one, of_all, need in zip(some, every, needs, strict=True):
        if need:
            torch.testing.assert_close(one, of_all, rtol=2**-20, atol=2**-20)
        else:
            assert one is None


def shares(layout, groups, kind):
    """Weights of positions whose sum is 1 in each group; zeros among them, or a group of zeros."""
    n, _, *positions = layout.shape
    w = randn(n, groups, *positions, seed=7).square()
    w = torch.where(w > 0.2, w, 0)
    if kind == "first":  # nothing counts where a lane begins
        w[: n // 2] = 0
    if kind == "none":
        w[:, 0] = 0
    total = w.sum((0, *range(2, w.dim())), keepdim=True)
    return w / torch.where(total > 0, total, 1)


@pytest.mark.parametrize("kind", ["some", "first", "none"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("layout", [LAYOUTS[i] for i in (4, 5, 6, 8)], ids=str)
def test_shares_weigh_the_statistics(layout, groups, kind, kernels):
    layout = Layout((layout.shape[0], 6, *layout.shape[2:]), layout.memory)
    x, _, _ = make(layout, mean=1e4, std=1)
    share = shares(layout, groups, kind)
    wide = share.cpu().double().repeat_interleave(6 // groups, 1)
    dims = (0, *range(2, x.dim()))
    exact_mean = (x.cpu().double() * wide).sum(dims)
    deviations = x.cpu().double() - exact_mean.view(1, 6, *[1] * (x.dim() - 2))
    exact_var = (deviations.square() * wide).sum(dims)
    vectors = kernels.stats(x, share).cpu().double()
    known = wide.sum(dims) > 0
    # The weights sum to 1 up to rounding only, which moves a large mean.
    assert ((vectors[MEAN] + vectors[LOW] - exact_mean).abs() <= 1e-6 * exact_mean.abs()).all()
    assert ((vectors[VAR] - exact_var).abs() <= 1e-4 * exact_var)[known].all()
    assert (vectors[:3, ~known] == 0).all()


@pytest.mark.parametrize("groups", [0, 1, 3])
@pytest.mark.parametrize("name", [None, "relu", "silu"])
@pytest.mark.parametrize("layout", [LAYOUTS[i] for i in (4, 5, 8)], ids=str)
@pytest.mark.parametrize("mean", [0, 1e6], ids=["", "large mean"])
def test_sums_and_the_gradient_of_the_input_from_them(mean, layout, name, groups, kernels):
    layout = Layout((layout.shape[0], 6, *layout.shape[2:]), layout.memory)
    x, grad_y, after = make(layout, mean=mean, std=1, name=name)
    vectors = kernels.train(x, after, EPS).vectors
    share = shares(layout, groups, "some") if groups else None
    wide = torch.tensor(0.01) if share is None else share.repeat_interleave(6 // groups, 1)
    mean, low, _, invstd = (t.double().view(6, *[1] * (x.dim() - 2)) for t in vectors)
    x_hat = ((x.double() - mean) - low) * invstd
    weight, bias = (t.double().view(6, *[1] * (x.dim() - 2)) for t in after[:2])
    z = (x_hat * weight + bias + after.residual.double()).requires_grad_()
    y = z if after.act is None else after.act.forward(z)
    (dz,) = torch.autograd.grad(y, z, grad_y.double())
    dims = (0, *range(2, x.dim()))
    found = kernels.sums(grad_y, x, vectors, after)
    expected = torch.stack([dz.sum(dims), (dz * x_hat).sum(dims)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    totals = randn(2, 6, seed=8)
    through = totals.double().view(2, 6, *[1] * (x.dim() - 2))
    scale = 0.01 if share is None else 1.0
    grad_x, grad_residual = kernels.input_gradient(
        grad_y, x, vectors, after, totals * scale, share, residual=True
    )
    portion = 0.01 if share is None else wide.double()
    exact = (dz - portion * (through[0] + x_hat * through[1])) * invstd * weight
    torch.testing.assert_close(grad_x.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_residual.double(), dz, rtol=1e-5, atol=1e-5)


def test_results_are_the_same_every_time(kernels):
    x, grad_y, after = make(LAYOUTS[1])
    first, second = (step(kernels, x, grad_y, after) for _ in range(2))
    assert all(map(torch.equal, first[0][:2], second[0][:2]))
    assert all(map(torch.equal, first[1], second[1]))


def test_vectors_of_half_precision_are_read_as_they_are(kernels):
    x, grad_y, after = make(LAYOUTS[4], torch.bfloat16)
    half = after._replace(weight=after.weight.bfloat16(), bias=after.bias.half())
    wide = after._replace(weight=half.weight.float(), bias=half.bias.double())
    for ours, expected in zip(
        step(kernels, x, grad_y, half)[1], step(kernels, x, grad_y, wide)[1], strict=True
    ):
        assert torch.equal(ours, expected)


def test_tensors_that_do_not_fit_are_refused(kernels):
    x = torch.ones(4, 3, device=device())
    short = torch.ones(2, device=device())
    for after in (Affine(weight=short), Affine(bias=short), Affine(residual=x[:, :2])):
        with pytest.raises(ShapeError, match="for a kernel"):
            kernels.train(x, after, EPS)
    for other in (x.double(), x[:, 0], torch.ones(2, 3, 8, device=device())[..., ::2]):
        with pytest.raises(ShapeError, match=r"dense float32, bfloat16 or float16"):
            kernels.train(other, Affine(), EPS)
    vectors = kernels.train(x, Affine(), EPS).vectors
    with pytest.raises(ShapeError, match="like the input"):
        kernels.backward(x[:3], x, vectors, Affine(), None, (True,) * 4, False)
    with pytest.raises(ShapeError, match="vectors"):
        kernels.normalize(x, vectors[:, :2], Affine())
