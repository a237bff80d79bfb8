"""What PyTorch's tests demand of an operator made of operators, on the samples of its OpInfo.

Tensor subclasses, fake tensors, traces and ahead-of-time graphs must get what a plain call gets.
"""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from batchnorm.functional import batch_norm

from .samples import LABELS, OP, draw, each_sample, torchs_own_warning
from .testing_package import composite_compliance, optests

pytestmark = pytest.mark.slow


def assert_same(actual, expected, **_):
    """The same up to what PyTorch's tests tolerate in float64."""
    assert_close(actual, expected)


COMPOSITE_JUDGES = {
    "subclass-in-every-place": composite_compliance.check_with_mode,
    "subclass-in-some-places": composite_compliance.check_all_permutations,
    "subclass-in-some-places-backward": composite_compliance.check_backward_formula,
}
TRACE_JUDGES = {
    "fake": optests.fake_check,
    "traced": partial(optests.make_fx_check, tracing_mode="real"),
    "traced-with-symbolic-shapes": partial(optests.make_fx_check, tracing_mode="symbolic"),
    "ahead-of-time": partial(optests.aot_autograd_check, dynamic=False),
    "ahead-of-time-with-symbolic-shapes": partial(optests.aot_autograd_check, dynamic=True),
}


def arguments(index):
    sample = draw(requires_grad=True)[index]
    return [sample.input, *sample.args], sample.kwargs


def without_statistics_to_write(args, kwargs):
    """In training, leave out what `test_a_subclass_is_not_written_into_plain_statistics` is on."""
    return [args[0], None, None, *args[3:]] if kwargs.get("training") else args


@each_sample
@pytest.mark.parametrize("judge", COMPOSITE_JUDGES)
def test_tensor_subclasses_are_never_bypassed(judge, index, candidate):
    args, kwargs = arguments(index)
    args = without_statistics_to_write(args, kwargs)
    COMPOSITE_JUDGES[judge](candidate, args, kwargs, assert_equal_fn=assert_same)


WRITING = [
    index
    for index, sample in enumerate(draw())
    if sample.kwargs.get("training") and sample.input.numel() and sample.args[0] is not None
]


@pytest.mark.parametrize("index", WRITING, ids=[LABELS[index] for index in WRITING])
def test_a_subclass_is_not_written_into_plain_statistics(index):
    """The one thing torch's kernel may do, and operators made of operators may not."""
    judge = composite_compliance.check_all_permutations
    args, kwargs = arguments(index)
    judge(OP.op, args, kwargs, assert_equal_fn=assert_same)
    with pytest.raises(RuntimeError, match="Composite compliance check failed"):
        judge(batch_norm, args, kwargs, assert_equal_fn=assert_same)


# The dearest judge, and large tensors take the route of small ones in forward mode.
@pytest.mark.slow
@pytest.mark.parametrize("candidate", ["torch-autograd", "function-composite"], indirect=True)
@torchs_own_warning
@each_sample
def test_tensor_subclasses_are_never_bypassed_in_forward_mode(index, candidate):
    args, kwargs = arguments(index)
    args = without_statistics_to_write(args, kwargs)
    composite_compliance.check_forward_ad_formula(
        candidate, args, kwargs, assert_equal_fn=assert_same
    )


def with_statistics(normalize):
    """A function without side effects, which returns the new running statistics as well."""

    def function(x, running_mean, running_var, *affine, **options):
        running = [None if t is None else t.clone() for t in (running_mean, running_var)]
        y = normalize(x, *running, *affine, **options)
        return y, *(t for t in running if t is not None)

    return function


@each_sample
@pytest.mark.parametrize("effect", ["in-place", "returned"])
@pytest.mark.parametrize("judge", TRACE_JUDGES)
def test_graph_of_a_sample_computes_what_the_call_does(judge, effect, index, candidate):
    function = with_statistics(candidate) if effect == "returned" else candidate
    TRACE_JUDGES[judge](function, *arguments(index))


def is_shared(t):
    return torch._C._is_cow_tensor(t)


@each_sample
def test_shared_memory_is_copied_for_the_statistics_only(index, candidate):
    """A copy-on-write tensor that is only read stays shared, in the backward pass too."""
    args, kwargs = arguments(index)
    lazy = [None if t is None else torch._lazy_clone(t.detach()) for t in args]
    for new, old in zip(lazy, args, strict=True):
        if old is not None:
            new.requires_grad_(old.requires_grad)
    y = candidate(*lazy, **kwargs)
    y.backward(torch.ones_like(y))
    may_write = OP.allow_cow_input_materialize_forward
    for place, t in enumerate(lazy):
        assert t is None or not t.numel() or is_shared(t) or place in may_write, place
