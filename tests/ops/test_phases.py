"""Every set of kernels against the contract in the docstring of batchnorm.ops."""

import inspect

import pytest
import torch

from batchnorm import ops, reference

KERNELS = [ops.composite, ops.aten]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(7, 5), (4, 3, 6), (3, 4, 2, 5)]
EPS = 1e-3
SHARES = ["per position", "per channel", "with zeros", "nothing"]
ALL = (True, True, True)

each_kernels = pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.__name__)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_share = pytest.mark.parametrize("kind", SHARES)
each_affine = pytest.mark.parametrize("affine", [True, False])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(shape, dtype, affine=True):
    x, grad = (randn(*shape, seed=seed).to(dtype) for seed in (0, 1))
    weight, bias = (randn(shape[1], seed=seed).to(dtype) for seed in (2, 3))
    return 3 + x, grad, *((weight, bias) if affine else (None, None))


def make_share(kind, shape, dtype):
    """Weights as the specification takes them, and shares as the contract does."""
    w = randn(shape[0], *shape[2:], seed=4).square()
    if kind == "nothing":
        w = torch.zeros_like(w)
    elif kind == "with zeros":
        w = (w - 0.3).clamp(min=0)
    share = (w / w.sum().clamp(min=1e-300)).unsqueeze(1).to(wide(dtype))
    return w, share.expand(shape) if kind == "per channel" else share


def wide(dtype):
    return torch.promote_types(dtype, torch.float32)


def assert_exact(ours, exact, dtype):
    """All in the dtype of the statistics, and good to some ulps of it."""
    bound = 64 * torch.finfo(wide(dtype)).eps
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype is wide(dtype)
        torch.testing.assert_close(a.double(), b, rtol=bound, atol=bound)


def assert_gradients(grads, exact, dtype):
    """Those of the parameters are in the dtype of the statistics, that of the input is in its."""
    grad_input, *others = grads
    assert grad_input.dtype is dtype
    ulp, bound = torch.finfo(dtype).eps, 64 * torch.finfo(wide(dtype)).eps
    torch.testing.assert_close(grad_input.double(), exact[0], rtol=ulp, atol=bound)
    assert_exact(others, exact[1:], dtype)


@each_kernels
@each_dtype
@each_shape
def test_stats_are_mean_and_variance(kernels, shape, dtype):
    x, *_ = make(shape, dtype)
    assert_exact(kernels.stats(x), reference.statistics(x), dtype)


@each_share
@each_dtype
@each_shape
def test_stats_take_shares(kind, shape, dtype):
    x, *_ = make(shape, dtype)
    w, share = make_share(kind, shape, dtype)
    assert_exact(ops.composite.stats(x, share), reference.statistics(x, w), dtype)


@each_kernels
@each_dtype
@each_shape
def test_stats_of_a_constant_channel_are_exact(kernels, shape, dtype):
    x = torch.full(shape, 0.1, dtype=dtype)
    mean, var = kernels.stats(x)
    assert torch.equal(mean, torch.full_like(mean, x.flatten()[0].item()))
    assert torch.equal(var, torch.zeros_like(var))


@each_affine
@each_dtype
@each_shape
def test_normalize_subtracts_before_it_scales(shape, dtype, affine):
    x, _, weight, bias = make(shape, dtype, affine)
    mean, var = reference.statistics(x)
    z = ops.composite.normalize(
        x, mean.to(wide(dtype)), ((var + EPS) ** -0.5).to(wide(dtype)), weight, bias
    )
    assert_exact([z], [reference.forward(x, mean, var, weight, bias, EPS)], dtype)


def test_normalize_keeps_a_spread_of_one_on_a_mean_of_a_million():
    x = (1e6 + torch.arange(8.0))[:, None]
    z = ops.composite.normalize(x, torch.tensor([1e6 + 3]), torch.tensor([0.3]), None, None)
    assert torch.equal(z, (torch.arange(8.0) - 3)[:, None] * 0.3)


@each_kernels
@each_affine
@each_dtype
@each_shape
def test_standardize_returns_the_result_and_its_statistics(kernels, shape, dtype, affine):
    x, _, weight, bias = make(shape, dtype, affine)
    y, mean, var = reference.forward_train(x, weight, bias, EPS)
    count = x.numel() // shape[1]
    exact = y, mean, var * count / (count - 1), (var + EPS) ** -0.5
    assert_exact(kernels.standardize(x, weight, bias, EPS), exact, dtype)


@each_kernels
@pytest.mark.parametrize("shape", [(64, 3), (8, 3, 4, 4)], ids=str)
def test_standardize_keeps_a_spread_of_one_on_a_mean_of_a_million(kernels, shape):
    x = (1e6 + randn(*shape)).float().movedim(1, -1).contiguous().movedim(-1, 1)
    y, mean, var = reference.forward_train(x, None, None, EPS)
    ours = kernels.standardize(x, None, None, EPS)
    torch.testing.assert_close(ours[0].double(), y, rtol=0, atol=1e-5)
    statistics = [t.double() for t in kernels.stats(x)]
    torch.testing.assert_close(statistics, [mean, var], rtol=1e-5, atol=0)


@each_share
@each_affine
@each_dtype
@each_shape
def test_standardize_shared_normalizes_by_what_counts(kind, shape, dtype, affine):
    x, _, weight, bias = make(shape, dtype, affine)
    w, share = make_share(kind, shape, dtype)
    known = torch.full((shape[1],), kind != "nothing")
    y, mean, var = reference.forward_train(x, weight, bias, EPS, w)
    invstd = (var + EPS) ** -0.5
    if kind == "nothing":
        y, invstd = torch.zeros_like(y), torch.zeros_like(invstd)
        y = y if bias is None else y + bias.view(-1, *[1] * (x.dim() - 2))
    ours = ops.composite.standardize_shared(x, share, known, weight, bias, EPS, None)
    assert_exact(ours, (y, mean, var, mean, invstd), dtype)


@each_share
@each_affine
@each_dtype
@each_shape
def test_standardize_shared_takes_the_other_statistics_where_they_are_not_known(
    kind, shape, dtype, affine
):
    x, _, weight, bias = make(shape, dtype, affine)
    w, share = make_share(kind, shape, dtype)
    known = (torch.arange(shape[1]) % 2 == 0) & (kind != "nothing")
    other = (
        randn(shape[1], seed=5).to(wide(dtype)),
        randn(shape[1], seed=6).square().to(wide(dtype)),
    )
    _, mean, var = reference.forward_train(x, weight, bias, EPS, w)
    by, by_var = (
        torch.where(known, a, b.double()) for a, b in zip((mean, var), other, strict=True)
    )
    y = reference.forward(x, by, by_var, weight, bias, EPS)
    ours = ops.composite.standardize_shared(x, share, known, weight, bias, EPS, other)
    assert_exact(ours, (y, mean, var, by, (by_var + EPS) ** -0.5), dtype)


@each_kernels
@each_dtype
@each_shape
@pytest.mark.parametrize(
    "needs", [ALL, (False, True, False), (True, False, False), (False, False, True)]
)
def test_backward_returns_what_is_needed(kernels, needs, shape, dtype):
    x, grad, weight, _ = make(shape, dtype)
    _, mean, _, invstd = kernels.standardize(x, weight, None, EPS)
    grads = kernels.backward(grad, x, mean, invstd, weight, needs)
    exact = reference.backward_train(grad, x, weight, EPS)
    assert [g is not None for g in grads] == list(needs)
    every = kernels.backward(grad, x, mean, invstd, weight, ALL)
    for some, one in zip(grads, every, strict=True):
        assert some is None or torch.equal(some, one)
    assert_gradients(every, exact, dtype)


@each_kernels
@each_dtype
@each_shape
def test_backward_without_a_weight(kernels, shape, dtype):
    x, grad, *_ = make(shape, dtype)
    _, mean, _, invstd = kernels.standardize(x, None, None, EPS)
    grads = kernels.backward(grad, x, mean, invstd, None, ALL)
    assert_gradients(grads, reference.backward_train(grad, x, None, EPS), dtype)


@pytest.mark.parametrize("kind", SHARES[:3])
@each_affine
@each_dtype
@each_shape
def test_backward_takes_shares(kind, shape, dtype, affine):
    x, grad, weight, _ = make(shape, dtype, affine)
    w, share = make_share(kind, shape, dtype)
    known = torch.ones(shape[1]).bool()
    *_, mean, invstd = ops.composite.standardize_shared(x, share, known, None, None, EPS, None)
    grads = ops.composite.backward(grad, x, mean, invstd, weight, ALL, share)
    assert_gradients(grads, reference.backward_train(grad, x, weight, EPS, w), dtype)


@pytest.mark.parametrize("needs", [ALL, (True, False, False), (False, False, True)])
@each_affine
@each_dtype
@each_shape
def test_backward_constant_is_that_of_given_statistics(shape, dtype, affine, needs):
    x, grad, weight, _ = make(shape, dtype, affine)
    mean, var = randn(shape[1], seed=5).to(wide(dtype)), torch.ones(shape[1], dtype=wide(dtype))
    phase, invstd = ops.composite.backward_constant, (var + EPS).rsqrt()
    grads = phase(grad, x, mean, invstd, weight, ALL)
    assert_gradients(grads, reference.backward_eval(grad, x, mean, var, weight, EPS), dtype)
    some = phase(grad, x, mean, invstd, weight, needs)
    assert [g is not None for g in some] == list(needs)


@pytest.mark.parametrize("kind", [None, *SHARES[:3]])
@each_dtype
@each_shape
def test_backward_can_sum_over_parts_of_a_batch(kind, shape, dtype):
    """What replicas do: reduce here, add up, finish here."""
    x, grad, weight, _ = make(shape, dtype)
    count = x.numel() // shape[1]
    w, share = (None, None) if kind is None else make_share(kind, shape, dtype)
    mean, var = reference.statistics(x, w)
    mean, invstd = mean.to(wide(dtype)), ((var + EPS) ** -0.5).to(wide(dtype))
    shares = [1 / count] * len(torch.split(x, 2)) if share is None else torch.split(share, 2)
    parts = list(zip(torch.split(grad, 2), torch.split(x, 2), shares, strict=True))
    sums = [ops.composite.backward_reduce(dy, part, mean) for dy, part, _ in parts]
    sum_dy, sum_dy_xmu = (sum(s) for s in zip(*sums, strict=True))
    outputs = [
        ops.composite.backward_elemt(dy, part, mean, invstd, weight, sum_dy, sum_dy_xmu, each)
        for dy, part, each in parts
    ]
    exact = reference.backward_train(grad, x, weight, EPS, w)
    assert_gradients([torch.cat(outputs), sum_dy_xmu * invstd, sum_dy], exact, dtype)


def arguments(shape=(4, 3, 6)):
    x, grad, weight, bias = make(shape, torch.float64)
    _, share = make_share("with zeros", shape, torch.float64)
    mean, var = randn(3, seed=5), randn(3, seed=6).square()
    return {
        "x": x,
        "grad_z": grad,
        "weight": weight,
        "bias": bias,
        "share": share,
        "mean": mean,
        "invstd": var.rsqrt(),
        "known": torch.tensor([True, False, True]),
        "otherwise": (mean, var),
        "eps": EPS,
        "needs": ALL,
        "sum_dy": mean,
        "sum_dy_xmu": var,
    }


def call(kernels, phase, given):
    function = getattr(kernels, phase)
    return function(**{name: given[name] for name in inspect.signature(function).parameters})


PHASES = [(ops.composite, phase) for phase in ops.composite.__all__] + [
    (ops.aten, phase) for phase in ("stats", "standardize", "backward")
]


@pytest.mark.parametrize(("kernels", "phase"), PHASES, ids=lambda p: getattr(p, "__name__", p))
def test_a_phase_returns_new_tensors_and_changes_none_of_its_arguments(kernels, phase):
    given = arguments()
    tensors = [t for t in given.values() if isinstance(t, torch.Tensor)] + [*given["otherwise"]]
    before = [t.clone() for t in tensors]
    results = call(kernels, phase, given)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    old = {t.untyped_storage().data_ptr() for t in tensors}
    assert not old & {t.untyped_storage().data_ptr() for t in results}
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("phase", ops.composite.__all__)
def test_every_composite_phase_is_differentiable_twice(phase):
    given = arguments()
    wanted = inspect.signature(getattr(ops.composite, phase)).parameters
    floating = ("x", "grad_z", "weight", "bias", "mean", "invstd", "sum_dy", "sum_dy_xmu")
    names = [name for name in floating if name in wanted]

    def f(*tensors):
        return call(ops.composite, phase, given | dict(zip(names, tensors, strict=True)))

    leaves = [given[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("affine", [True, False])
def test_only_the_result_of_atens_standardize_is_differentiable(affine):
    x, _, weight, bias = make((4, 3, 6), torch.float64, affine)
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    z, *_ = ops.aten.standardize(x, weight, bias, EPS)
    grad = randn(4, 3, 6, seed=1)
    ours = torch.autograd.grad(z, leaves, grad)
    exact = reference.backward_train(grad, x.detach(), weight, EPS)
    for a, b in zip(ours, exact, strict=False):
        torch.testing.assert_close(a, b)
