"""Whatever the input, its layout and the options: our errors only, and the values specified."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from batchnorm import Renorm, functional, reference
from batchnorm.errors import BatchNormError, StatisticsError
from batchnorm.nn import BatchNorm
from cases import ACTIVATIONS, DTYPES, LAYOUTS, take_route
from interpreter import ALONE, SHARED

QUICK = settings(max_examples=400, deadline=None, derandomize=True, database=None)
LONG = settings(QUICK, max_examples=4_000)
EPS = 1e-5
LARGE = {torch.float16: 6e4, torch.bfloat16: 1e30, torch.float32: 1e30, torch.float64: 1e100}
SLOPE = 1.5  # the steepest of the activations is hardswish at 3
R_MAX, D_MAX = 1.5, 0.5
HALF = 2.0**127  # of the range of float32


@dataclass
class Problem:
    x: Tensor
    grad_y: Tensor
    calls: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    training: bool = True

    def layer(self):
        layer = BatchNorm(self.x.shape[1], **self.options)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in layer.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 2.0, generator=generator)
        return layer.train(self.training)


@st.composite
def layouts(draw, shape):
    """How a tensor of this shape lies in memory: a function that makes it so."""
    order = draw(st.permutations(range(len(shape))))
    step = draw(st.sampled_from([1, 1, 2]))
    same = draw(st.sampled_from([None, None, None, *range(len(shape))]))

    def arrange(x):
        if same is not None and x.shape[same]:
            x = x.narrow(same, 0, 1).expand(shape)
        if same is None or draw_copy:
            x = x.permute(order).contiguous().permute([order.index(k) for k in range(x.dim())])
        return x.repeat_interleave(step, -1)[..., ::step] if step > 1 else x

    draw_copy = draw(st.booleans())
    return arrange


@st.composite
def values(draw, shape, dtype):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = draw(st.sampled_from([1.0, 1.0, 0.0, 1e-3, 1e-42, 1e3, LARGE[dtype] / 10]))
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, -3e2, 1e4, -1e6]))
    x = x * scale + offset * min(1.0, LARGE[dtype] / 1e6)
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-45, LARGE[dtype], -LARGE[dtype]]
    for value in draw(st.lists(st.sampled_from(special), max_size=2)):
        if x.numel():
            x.view(-1)[draw(st.integers(0, x.numel() - 1))] = value
    return x.to(dtype)


@st.composite
def problems(draw):
    axes = draw(st.integers(0, 3))
    spatial = tuple(draw(st.sampled_from([2, 3, 1, 1, 4, 0])) for _ in range(axes))
    samples, channels = draw(st.sampled_from([4, 3, 2, 5, 1, 7, 0])), draw(st.integers(1, 3))
    shape = (samples, channels, *spatial)
    dtype = draw(st.sampled_from(DTYPES))
    arrange = draw(layouts(shape))
    problem = Problem(
        arrange(draw(values(shape, dtype))),
        torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype),
        training=draw(st.sampled_from([True, True, True, False])),
    )
    positions = draw(st.sampled_from([(samples,), (samples, *spatial)]))
    count = math.prod(positions)
    if draw(st.booleans()):
        keep = draw(st.lists(st.sampled_from([True, True, False]), min_size=count, max_size=count))
        problem.calls["mask"] = torch.tensor(keep, dtype=torch.bool).view(positions)
    if draw(st.booleans()):
        weight = st.sampled_from([1.0, 0.5, 2.0, 0.0, 100.0])
        w = draw(st.lists(weight, min_size=count, max_size=count))
        problem.calls["sample_weight"] = torch.tensor(w, dtype=torch.float32).view(positions)
        spoiled = ~problem.x.isfinite().all(1)
        if len(positions) == 1:
            spoiled = spoiled.reshape(samples, math.prod(spatial)).any(1)
        problem.calls["sample_weight"][spoiled] = 2.0  # what has weight 0 must be finite
    if draw(st.booleans()):
        problem.calls["residual"] = arrange(torch.randn(shape).to(dtype))
    problem.options = {
        "momentum": draw(st.sampled_from([0.1, 1.0, None])),
        "affine": draw(st.booleans()),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "virtual_batch_size": draw(st.sampled_from([None, None, 1, 2, 3, 100])),
        "nonfinite": draw(st.sampled_from(["skip", "skip", "propagate", "raise"])),
        "degenerate": draw(st.sampled_from(["raise", "running"])),
        "renorm": draw(st.sampled_from([None, None, Renorm(R_MAX, D_MAX, 0, 0)])),
        "dtype": torch.float64 if dtype is torch.float64 else torch.float32,
    }
    return problem


def specified(problem, layer):
    """What the reference makes of it; its renormalization has limits only after the first batch."""
    x = problem.x.double()
    residual, mask = (problem.calls.get(name) for name in ("residual", "mask"))
    running = layer.running_mean.double(), layer.running_var.double()
    common = {
        "weight": layer.weight,
        "bias": layer.bias,
        "eps": EPS,
        "activation": layer.activation,
        "residual": residual,
        "mask": mask,
    }
    common = {k: v.detach() if isinstance(v, Tensor) else v for k, v in common.items()}
    if not problem.training:
        return reference.evaluate(x, problem.grad_y, running, **common)
    return reference.step(
        x,
        problem.grad_y,
        running,
        **common,
        momentum=layer.momentum,
        sample_weight=problem.calls.get("sample_weight"),
        virtual_batch_size=layer.virtual_batch_size,
        limits=None if layer.renorm is None else (R_MAX, D_MAX),
        degenerate=layer.degenerate,
        batches=layer.num_batches_tracked,
    )


@dataclass
class Facts:
    """What decides about errors and tolerances."""

    problem: Problem

    def __post_init__(self):
        x, calls = self.problem.x.double(), self.problem.calls
        self.w = reference.weights(x, calls.get("mask"), calls.get("sample_weight"))
        self.there = reference.weights(x, calls.get("mask")) > 0
        size = self.problem.options["virtual_batch_size"] if self.problem.training else None
        chunks = reference.virtual_chunks(x, size)
        self.sizes = [len(chunk) for chunk in chunks]
        self.moments = reference.moments(x, self.w)
        self.var = reference.var(self.moments, correction=1)
        kind = torch.float64 if self.problem.x.dtype is torch.float64 else torch.float32
        self.known = self.moments[3] > 1
        self.finite = self.moments[1].to(kind).isfinite() & self.var.to(kind).isfinite()
        self.stats_dtype = kind

    def refused(self):
        """Whether an error is due; None where either is right."""
        problem, options = self.problem, self.problem.options
        if not problem.training or not problem.x.numel():
            return None if self.weightless() else False
        if self.weightless():
            return None
        single = any(
            (w > 0).sum() < 2 and bool(there.any())
            for w, there in zip(self.w.split(self.sizes), self.there.split(self.sizes), strict=True)
        )
        if single and options["degenerate"] == "raise":
            return True
        return options["nonfinite"] == "raise" and bool((self.known & ~self.finite).any())

    def finite_channels(self):
        """Channels without NaN and infinity outside the mask."""
        bad = ~self.problem.x.isfinite() & self.there.unsqueeze(1)
        return ~bad.movedim(1, 0).flatten(1).any(1)

    def weightless(self):
        weight = self.problem.calls.get("sample_weight")
        return weight is not None and weight.numel() > 0 and not (self.w > 0).any()

    def condition(self, layer):
        """Per channel: the largest |x|, the smallest σ, and the largest normalized value."""
        x, channels = self.problem.x.double(), self.problem.x.shape[1]
        stats = [(layer.running_mean.double(), layer.running_var.double())]
        if self.problem.training:
            parts = zip(x.split(self.sizes), self.w.split(self.sizes), strict=True)
            stats += [reference.statistics(part, w) for part, w in parts if w.sum() > 0]
        keep = self.there.unsqueeze(1).expand_as(x)
        rows = x.masked_fill(~keep, 0).movedim(1, -1).reshape(-1, channels)
        std = torch.stack([(var + EPS).sqrt() for _, var in stats])
        hat = [(rows - mean).abs().amax(0) / s for (mean, _), s in zip(stats, std, strict=True)]
        return rows.abs().amax(0), std.amin(0), torch.stack(hat).amax(0)

    def lever(self):
        """How much more than an even share of a sum one value can get, at most."""
        parts = [w for w in self.w.split(self.sizes) if w.sum() > 0]
        return max((w.numel() * (w.max() / w.sum()).item() for w in parts), default=1.0)


def attempt(problem, layer):
    x = problem.x.detach().requires_grad_()
    y = layer(x, **problem.calls)
    (grad,) = torch.autograd.grad(y, x, problem.grad_y)
    return y.detach(), grad


def check(problem):
    layer, facts = problem.layer(), Facts(problem)
    if problem.training and layer.renorm is not None:
        layer.num_batches_tracked.fill_(1)
    before = copy.deepcopy(layer)
    refused = facts.refused()
    try:
        y, grad = attempt(problem, layer)
    except BatchNormError as error:
        assert isinstance(error, StatisticsError)
        assert refused is not False, error
        assert_buffers_equal(layer, before)
        return
    assert refused is not True, "an error was due"
    assert y.shape == grad.shape == problem.x.shape
    assert y.dtype is grad.dtype is problem.x.dtype
    assert_values(problem, facts, before, y, grad)
    if problem.training:
        assert_statistics(facts, before, layer)
    else:
        assert_buffers_equal(layer, before)


def assert_buffers_equal(layer, before):
    for name, buffer in before.named_buffers():
        assert torch.equal(layer.get_buffer(name), buffer), name


def assert_values(problem, facts, before, y, grad):
    if not y.numel():
        return
    expected = specified(problem, before)
    unit = torch.finfo(facts.stats_dtype).eps
    largest, std, hat = facts.condition(before)
    weight = 1 if before.weight is None else before.weight.detach().double()
    residual = problem.calls.get("residual")
    extra = 0.0 if residual is None else residual.abs().max().item()
    slip = 32 * unit * (1 + largest / std) * (1 + hat) * weight * R_MAX
    bound = SLOPE * slip + 4 * unit * (2 + extra)
    assert_close("output", y, expected.output, bound)
    finite = facts.finite_channels()
    bound = slip * (1 + hat) / std * problem.grad_y.abs().max() * facts.lever()
    smooth = before.activation is None
    exact = expected.grad_input
    assert_close("gradient", grad[:, finite], exact[:, finite], bound[finite] if smooth else None)


def assert_close(name, found, exact, bound):
    """The bound is per channel; None for one that is not known."""
    seen, info = exact.isfinite(), torch.finfo(found.dtype)
    assert not (found.isnan() & seen).any(), f"{name} is NaN where it has a value"
    if bound is None:
        return
    rounding = 2 * info.eps * exact.abs() + info.smallest_normal
    bound = bound.view(1, -1, *(1,) * (exact.dim() - 2)) + rounding
    inside = seen & (exact.abs() < info.max / 2) & bound.isfinite()
    off = ((found.double() - exact).abs() / bound)[inside]
    assert not off.numel() or off.max() <= 1, f"{name}: {off.max():.3g} of the tolerance"


def assert_statistics(facts, before, layer):
    options = facts.problem.options
    if not facts.problem.x.numel():
        return assert_buffers_equal(layer, before)
    found = layer.running_mean.double(), layer.running_var.double()
    if options["nonfinite"] == "skip":
        assert all(t.isfinite().all() for t in found)
        missed = facts.known & ~facts.finite
        assert torch.equal(layer.num_nonfinite, missed.to(torch.int64))
    taken = facts.known & facts.finite
    counted = layer.num_batches_tracked - before.num_batches_tracked
    assert counted == int(facts.known.any())
    share = 1 / (before.num_batches_tracked + 1) if layer.momentum is None else layer.momentum
    unit = torch.finfo(facts.stats_dtype).eps
    largest, _, _ = facts.condition(before)
    mean, var, effective = facts.moments[1], facts.var, facts.moments[3]
    slip = 32 * unit * largest
    spread = effective / (effective - 1)
    loose = (2 * var.sqrt() * slip + slip**2 + 32 * unit * var) * spread
    for new, old, value, bound in (
        (found[0], before.running_mean.double(), mean, slip),
        (found[1], before.running_var.double(), var, loose),
    ):
        kept = ~facts.known if options["nonfinite"] == "propagate" else ~taken
        assert torch.equal(new[kept], old[kept])
        expected = (1 - share) * old + share * value
        error = (new - expected).abs() - bound - 8 * unit * (old.abs() + expected.abs())
        assert (error[taken] <= 0).all()
    return None


@QUICK
@given(problems())
def test_hostile_input(problem):
    check(problem)


@pytest.mark.slow
@LONG
@given(problems())
def test_much_hostile_input(problem):
    check(problem)


@pytest.mark.slow
@pytest.mark.parametrize("route", [ALONE, SHARED])
@settings(QUICK, max_examples=120)
@given(problems())
def test_hostile_input_of_the_kernels_for_gpus(route, problem):
    """But for squares beyond float32, for which nobody looks where that would make a GPU wait."""
    assume(problem.x.nan_to_num(posinf=0, neginf=0).abs().amax() < 1e15 if problem.x.numel() else 1)
    with pytest.MonkeyPatch.context() as patch:
        take_route(patch, route)
        check(problem)


@QUICK
@given(st.floats(-HALF, HALF, width=32), st.sampled_from(LAYOUTS), st.sampled_from(DTYPES))
def test_constant_channel_becomes_the_bias(value, layout, dtype):
    """Its value less its mean is 0, not what rounding leaves of it."""
    value = max(-LARGE[dtype], min(LARGE[dtype], value))
    x = layout.arrange(torch.full(layout.shape, value).to(dtype))
    bias = torch.arange(layout.shape[1]) + 1.0
    y = functional.batch_norm(x, None, None, bias=bias, training=True)
    assert torch.equal(y, bias.view(-1, *(1,) * (x.dim() - 2)).expand(x.shape).to(dtype))


@pytest.mark.parametrize("shape", [(4, 0), (0, 0), (4, 0, 3), (1, 0, 2, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"virtual_batch_size": 2}, {"renorm": (2.0, 1.0)}], ids=str
)
def test_no_channels(shape, training, options):
    x = torch.zeros(shape, requires_grad=True)
    mean, var = torch.zeros(0), torch.ones(0)
    calls = {"mask": torch.ones(shape[0], dtype=torch.bool), "residual": x, "activation": "silu"}
    y = functional.batch_norm(x, mean, var, training=training, **calls, **options)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
