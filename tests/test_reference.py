"""The specification against autograd, against torch in float64, and against sums done by hand.

The sums by hand are its doctests.
"""

import itertools
from functools import reduce

import pytest
import torch
from torch.testing import assert_close

from batchnorm import reference
from cases import ACTIVATIONS, LAYOUTS, TORCH_ACTIVATIONS

EPS, NAN = 1e-3, float("nan")
SHAPE = (7, 3, 4)


def make(layout):
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *layout.shape, generator=generator, dtype=torch.float64)
    weight, bias, mean = torch.randn(3, layout.shape[1], generator=generator, dtype=torch.float64)
    return x, grad, weight, bias, mean, mean.square() + 0.1


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, GRAD, RESIDUAL = 2 + 3 * randn(3, *SHAPE)
WEIGHT, BIAS, MEAN = randn(3, 3, seed=1)
RUNNING = MEAN, MEAN.square() + 0.5
MASK = randn(7, 4, seed=2) > -0.5
SAMPLES = torch.tensor([True, False, True, True, False, True, True])
WEIGHTS = randn(7, 4, seed=3).square()
WEIGHTS[1, 1:3] = 0


def run(x=X, grad_y=GRAD, running=RUNNING, weight=WEIGHT, bias=BIAS, **options):
    return reference.step(x, grad_y, running, weight, bias, eps=EPS, **options)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_reference_agrees_with_torch(layout, training):
    x, grad, weight, bias, mean, var = make(layout)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    running = mean.clone(), var.clone()
    y = torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], training, 0.3, EPS)
    if training:
        ours, batch_mean, batch_var = reference.forward_train(x, weight, bias, EPS)
        grads = reference.backward_train(grad, x, weight, EPS)
        updated = reference.running_update((mean, var), reference.moments(x), 0.3)
        assert_close(updated, running)
        assert_close(batch_mean, x.movedim(1, 0).flatten(1).mean(1))
        assert_close(batch_var, x.movedim(1, 0).flatten(1).var(1, correction=0))
    else:
        ours = reference.forward(x, mean, var, weight, bias, EPS)
        grads = reference.backward_eval(grad, x, mean, var, weight, EPS)
    assert_close(ours, y)
    assert_close(grads, torch.autograd.grad(y, leaves, grad))


@pytest.mark.parametrize("rd", [reference.PLAIN, (torch.tensor([1.5, 0.5, 1.0]), MEAN)])
@pytest.mark.parametrize("w", [None, WEIGHTS, WEIGHTS * MASK], ids=["no", "yes", "masked"])
@pytest.mark.parametrize("affine", [True, False])
def test_backward_by_hand_is_the_gradient_of_forward(affine, w, rd):
    """Against finite differences of the specification's own forward."""
    params = (WEIGHT.clone(), BIAS.clone()) if affine else ()

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight=None, bias=None):
            ctx.save_for_backward(x, weight)
            return reference.forward_train(x, weight, bias, EPS, w, rd)[0]

        @staticmethod
        def backward(ctx, grad_y):
            x, weight = ctx.saved_tensors
            return reference.backward_train(grad_y, x, weight, EPS, w, rd)[: 1 + len(params)]

    inputs = [t.clone().requires_grad_() for t in (X, *params)]
    assert torch.autograd.gradcheck(ByHand.apply, inputs)


def straightforward(
    x,
    weight,
    bias,
    residual,
    *,
    sizes,
    activation=None,
    mask=None,
    sample_weight=None,
    limits=(1.0, 0.0),
    degenerate="raise",
):
    """Output as one differentiable formula per chunk, for masks and weights of shape (N, *S)."""
    w = torch.ones(7, 4) if sample_weight is None else sample_weight
    w = (w if mask is None else w * mask).unsqueeze(1)
    mu, sigma = (t.view(-1, 1) for t in (RUNNING[0], (RUNNING[1] + EPS).sqrt()))
    outputs = []
    for part, v in zip(x.split(sizes), w.split(sizes), strict=True):
        mean = (v * part).sum((0, 2), keepdim=True) / v.sum()
        std = ((v * (part - mean) ** 2).sum((0, 2), keepdim=True) / v.sum() + EPS).sqrt()
        with torch.no_grad():
            r = torch.clamp(std / sigma, 1 / limits[0], limits[0])
            d = torch.clamp((mean - mu) / sigma, -limits[1], limits[1])
        single = degenerate == "running" and v.count_nonzero() == 1
        outputs.append((part - mu) / sigma if single else (part - mean) / std * r + d)
    z = torch.cat(outputs) * weight.view(-1, 1) + bias.view(-1, 1) + residual
    y = TORCH_ACTIVATIONS[activation](z)
    return y if mask is None else torch.where(mask.unsqueeze(1), y, 0.0)


ONE_LEFT = MASK.clone()
ONE_LEFT[2:4] = torch.tensor([[False, True, False, False], [False] * 4])
VARIANTS = {
    "plain": {},
    "activation": {"activation": "silu"},
    "mask": {"mask": MASK},
    "weights": {"sample_weight": WEIGHTS},
    "renorm": {"limits": (1.2, 0.3)},
    "running": {"mask": ONE_LEFT, "degenerate": "running"},
    "all": {
        "activation": "gelu",
        "mask": ONE_LEFT,
        "sample_weight": WEIGHTS + 0.1,
        "limits": (1.5, 0.8),
        "degenerate": "running",
    },
}


@pytest.mark.parametrize("size", [None, 2], ids=["whole", "virtual"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_agrees_with_autograd_of_the_formula(variant, size):
    options = VARIANTS[variant]
    leaves = [t.clone().requires_grad_() for t in (X, WEIGHT, BIAS, RESIDUAL)]
    y = straightforward(*leaves, sizes=[2, 2, 2, 1] if size else [7], **options)
    grads = torch.autograd.grad(y, leaves, GRAD)
    ours = run(residual=RESIDUAL, virtual_batch_size=size, **options)
    assert_same(ours[:5], (y, *grads))
    w = reference.weights(X, options.get("mask"), options.get("sample_weight"))
    updated = reference.running_update(RUNNING, reference.moments(X, w), 0.1)
    assert_same(ours[5:], updated)


@pytest.mark.parametrize("mask", [None, MASK, SAMPLES], ids=["no", "positions", "samples"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_evaluate_agrees_with_torch(activation, mask):
    leaves = [t.clone().requires_grad_() for t in (X, WEIGHT, BIAS, RESIDUAL)]
    x, weight, bias, residual = leaves
    z = torch.nn.functional.batch_norm(x, *RUNNING, weight, bias, eps=EPS) + residual
    y = TORCH_ACTIVATIONS[activation](z)
    if mask is not None:
        y = y * (mask.view(7, 1, 1) if mask.dim() == 1 else mask.view(7, 1, 4))
    ours = reference.evaluate(
        X, GRAD, RUNNING, WEIGHT, BIAS, eps=EPS, activation=activation, residual=RESIDUAL, mask=mask
    )
    assert_same(ours[:5], (y, *torch.autograd.grad(y, leaves, GRAD)))
    assert_same(ours[5:], RUNNING)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_slope_agree_with_torch(name):
    z = torch.linspace(-6, 6, 97, dtype=torch.float64) + 1e-3
    z.requires_grad_()
    y = TORCH_ACTIVATIONS[name](z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    assert_close(reference.activate(name, z.detach()), y.detach())
    assert_close(reference.activate_backward(name, torch.ones_like(z), z.detach()), slope)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sizes", [(3, 4), (0, 7), (1, 1, 0, 5), (2, 2, 3)], ids=str)
def test_merge_is_the_moments_of_both(sizes, weighted):
    w = WEIGHTS if weighted else torch.ones(7, 4)
    w = w * torch.tensor([1, 1, 1, 0, 1, 1, 1]).view(7, 1)
    parts = map(reference.moments, X.split(sizes), w.split(sizes))
    assert_same(reduce(reference.merge, parts), reference.moments(X, w))


def test_merge_of_nothing_with_nothing_is_nothing():
    nothing = reference.moments(X[:0])
    zeros = (torch.zeros(3).double(),) * 4
    assert_same(nothing, zeros)
    assert_same(reference.merge(nothing, nothing), zeros)
    assert_same(reference.moments(X, torch.zeros(7, 4)), zeros)


def test_integer_weights_are_repetitions():
    """In the mean, the variance that normalizes, the outputs and the gradients."""
    times = torch.tensor([1, 3, 0, 2, 5, 1, 2])
    repeated, grad = (t.repeat_interleave(times, 0) for t in (X, GRAD / times.view(7, 1, 1)))
    weighted = run(grad_y=GRAD * (times > 0).view(7, 1, 1), sample_weight=times.double())
    whole = run(repeated, grad)
    owner = torch.arange(7).repeat_interleave(times)
    assert_same([weighted.output[owner]], [whole.output])
    summed = torch.zeros_like(X).index_add(0, owner, whole.grad_input)
    assert_same(weighted[1:4], (summed, *whole[2:4]))
    batch = reference.moments(X, reference.weights(X, sample_weight=times))
    count, mean, m2, _ = reference.moments(repeated)
    assert_same(batch[:3], (count, mean, m2))


def test_scale_of_weights_does_not_matter():
    plain, scaled = run(sample_weight=WEIGHTS), run(sample_weight=1e-3 * WEIGHTS)
    assert_same(scaled, plain)


def test_equal_weights_are_no_weights():
    assert_same(run(sample_weight=torch.full((7,), 0.1)), run())


def test_variance_with_correction_is_unbiased_for_weights():
    """Averaged over all samples of three tosses of a coin, whose variance is 1/4."""
    tosses = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).T  # a channel per sample
    w = torch.tensor([1.0, 2.0, 4.0])
    assert_close(reference.var(reference.moments(tosses, w), 1).mean().item(), 0.25)


@pytest.mark.parametrize(
    ("w", "correction"), [([0, 0], 0), ([0, 0], 1), ([0, 3], 1), ([1, 1e-20], 1), ([2, 1], 2)]
)
def test_variance_is_nan_without_degrees_of_freedom(w, correction):
    batch = reference.moments(torch.tensor([[1.0], [3.0]]), torch.tensor(w))
    assert reference.var(batch, correction).isnan().all()


@pytest.mark.parametrize("poison", [NAN, float("inf")])
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masked_values_never_show(activation, size, poison):
    options = {"mask": MASK, "activation": activation, "virtual_batch_size": size}
    tensors = [t.masked_fill(~MASK.unsqueeze(1), poison) for t in (X, GRAD, RESIDUAL)]
    w = WEIGHTS.masked_fill(~MASK, poison)
    dirty = run(*tensors[:2], residual=tensors[2], sample_weight=w, **options)
    clean = run(residual=RESIDUAL, sample_weight=WEIGHTS, **options)
    assert_same(dirty, clean)
    for t in (dirty.output, dirty.grad_input, dirty.grad_residual):
        assert not t.masked_select(~MASK.unsqueeze(1)).any()


@pytest.mark.parametrize("poison", [NAN, float("inf")])
def test_masked_values_never_show_in_evaluation(poison):
    tensors = [t.masked_fill(~MASK.unsqueeze(1), poison) for t in (X, GRAD, RESIDUAL)]
    dirty, clean = (
        reference.evaluate(x, grad, RUNNING, WEIGHT, BIAS, residual=residual, mask=MASK)
        for x, grad, residual in (tensors, (X, GRAD, RESIDUAL))
    )
    assert_same(dirty, clean)


def test_backward_does_not_look_at_values_without_weight_and_gradient():
    keep = MASK.unsqueeze(1)
    x, grad = X.masked_fill(~keep, NAN), GRAD * keep
    rd = reference.renorm(*reference.statistics(x, MASK), *RUNNING, 2.0, 1.0, EPS)
    dirty = reference.backward_train(grad, x, WEIGHT, EPS, MASK, rd)
    assert_same(dirty, reference.backward_train(grad, X, WEIGHT, EPS, MASK, rd))


@pytest.mark.parametrize("limits", [None, (1.5, 0.2)])
def test_mask_of_samples_drops_them(limits):
    masked = run(mask=SAMPLES, residual=RESIDUAL, activation="silu", limits=limits)
    dropped = run(
        X[SAMPLES],
        GRAD[SAMPLES],
        residual=RESIDUAL[SAMPLES],
        activation="silu",
        limits=limits,
    )
    for name, ours, theirs in zip(dropped._fields, masked, dropped, strict=True):
        per_value = name in ("output", "grad_input", "grad_residual")
        assert_close(ours[SAMPLES] if per_value else ours, theirs)
        assert not (per_value and ours[~SAMPLES].any())


def test_renorm_without_limits_gives_the_output_of_evaluation():
    renormed = run(limits=(float("inf"), float("inf")))
    evaluated = reference.evaluate(X, GRAD, RUNNING, WEIGHT, BIAS, eps=EPS)
    assert_same([renormed.output], [evaluated.output])
    assert_same(renormed[2:4], evaluated[2:4])
    # Unlike in evaluation, the gradient knows that mean and variance depend on the input.
    assert_close(renormed.grad_input.sum((0, 2)), torch.zeros(3).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("options", [{}, {"mask": MASK, "virtual_batch_size": 3}], ids=str)
def test_renorm_with_the_narrowest_limits_is_batch_normalization(options):
    assert_same(run(limits=(1.0, 0.0), **options), run(**options))


@pytest.mark.parametrize("ramp", [0, (0, 0)])
def test_renorm_limits_without_a_ramp_are_full_after_the_warm_up(ramp):
    limits = [reference.renorm_limits(step, 3.0, 5.0, 2, ramp) for step in (0, 2, 3)]
    assert limits == [(1, 0), (1, 0), (3, 5)]


@pytest.mark.parametrize("limits", [None, (1.5, 0.2)])
def test_virtual_chunks_are_separate_batches_with_one_update(limits):
    """Seven samples in chunks of at most three: 3 + 2 + 2."""
    options = {"sample_weight": WEIGHTS, "limits": limits}
    whole = run(virtual_batch_size=3, **options)
    parts = [
        run(X[at], GRAD[at], sample_weight=WEIGHTS[at], limits=limits)
        for at in (slice(0, 3), slice(3, 5), slice(5, 7))
    ]
    y, dx, dweight, dbias, dresidual, _, _ = zip(*parts, strict=True)
    joined = torch.cat(y), torch.cat(dx), sum(dweight), sum(dbias), torch.cat(dresidual)
    assert_same(whole[:5], joined)
    assert_same(whole[5:], run(**options)[5:])


@pytest.mark.parametrize("by", ["size", "mask", "weights"])
def test_a_single_value_is_evaluated_and_moves_nothing(by):
    at = torch.tensor([False, True, False, False, False, False, False])
    if by == "size":
        x, grad, options = X[1:2, :, :1], GRAD[1:2, :, :1], {}
    else:
        x, grad, options = X[..., :1], GRAD[..., :1], {"mask": at}
    if by == "weights":
        options = {"sample_weight": at.double()}
    ours = run(x, grad, degenerate="running", **options)
    mask = options.get("mask")
    assert_same(ours, reference.evaluate(x, grad, RUNNING, WEIGHT, BIAS, eps=EPS, mask=mask))


def test_a_single_value_becomes_the_bias_unless_told_otherwise():
    ours = run(X[:1, :, :1], GRAD[:1, :, :1])
    assert_same([ours.output.flatten(), ours.grad_input], [BIAS, torch.zeros(1, 3, 1).double()])
    assert_same(ours[5:], RUNNING)


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("degenerate", ["raise", "running"])
@pytest.mark.parametrize("limits", [None, (1.5, 0.2)])
@pytest.mark.parametrize("empty", ["no samples", "no positions", "all masked"])
def test_nothing_has_no_gradients_and_keeps_the_statistics(empty, limits, degenerate, size):
    at = {"no samples": slice(0), "no positions": (..., slice(0)), "all masked": ...}[empty]
    mask = torch.zeros(7).bool() if empty == "all masked" else None
    options = {"limits": limits, "degenerate": degenerate, "virtual_batch_size": size}
    ours = run(X[at], GRAD[at], mask=mask, activation="sigmoid", **options)
    assert_same(ours[:2], torch.zeros_like(X[at]).expand(2, *X[at].shape))
    assert_same(ours[2:4], torch.zeros(2, 3).double())
    assert_same(ours[5:], RUNNING)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_nonfinite_channels_keep_their_statistics_or_propagate(bad):
    x = X.clone()
    x[2, 1, 0] = bad
    clean = run(momentum=0.3)
    skipped, propagated = (run(x, momentum=0.3, nonfinite=n) for n in ("skip", "propagate"))
    for at, old in ((5, RUNNING[0]), (6, RUNNING[1])):
        assert_same([skipped[at][::2], skipped[at][1]], [clean[at][::2], old[1]])
        assert_same([propagated[at][::2]], [clean[at][::2]])
        assert not propagated[at][1].isfinite()


def test_average_over_batches_counts_those_of_each_channel():
    """Of two batches, where the middle channel saw only the second."""
    dirty = X.clone()
    dirty[0, 1, 0] = NAN
    running = RUNNING
    for batch, seen in ((dirty, [0, 0, 0]), (X + 1, [1, 0, 1])):
        *_, mean, var = run(
            batch, running=running, momentum=None, nonfinite="skip", batches=torch.tensor(seen)
        )
        running = mean, var
    mean = X.mean((0, 2)) + torch.tensor([0.5, 1.0, 0.5])
    assert_same(running, (mean, X.movedim(1, 0).flatten(1).var(1)))


def test_a_skipped_channel_does_not_enter_pooled_moments():
    dirty = X.clone()
    dirty[0, 1, 0] = NAN
    batches = [reference.drop_nonfinite(reference.moments(t)) for t in (dirty[:3], X[3:])]
    count, mean, m2, effective = reduce(reference.merge, batches)
    clean, late = reference.moments(X), reference.moments(X[3:])
    for ours, whole, rest in zip((count, mean, m2, effective), clean, late, strict=True):
        assert_same([ours[::2], ours[1]], [whole[::2], rest[1]])
