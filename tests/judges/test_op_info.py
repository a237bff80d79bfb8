"""The samples that PyTorch's OpInfo of `nn.functional.batch_norm` draws, to the last one.

Every judgement is passed on torch's own operator first: what it did not pass would judge nothing.
"""

import hypothesis
import pytest
import torch

from batchnorm.errors import DtypeError
from batchnorm.functional import batch_norm

from .problem import Problem, assert_as_torch, solve
from .samples import LABELS, OP, draw, each_sample, label, torchs_own_warning
from .testing_package import OPERATORS, PROFILE, gradcheck, gradgradcheck

pytestmark = pytest.mark.slow


DTYPES = sorted(OP.supported_dtypes("cpu"), key=str)
OTHER_DTYPES = (torch.bool, torch.uint8, torch.int32, torch.int64, torch.complex64)

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_layout = pytest.mark.parametrize("layout", ["contiguous", "noncontiguous"])


def test_there_are_samples_of_every_dtype_and_none_is_left_out():
    assert set(DTYPES) == {torch.bfloat16, torch.float16, torch.float32, torch.float64}
    for dtype in DTYPES:
        for requires_grad in (True, False):
            samples = draw(dtype, requires_grad)
            assert len(samples) == len(LABELS) > 0
            assert {s.input.requires_grad for s in samples} == {requires_grad}


def test_the_other_variant_has_the_same_samples_and_no_dtype_on_a_cpu():
    assert list(OPERATORS) == ["main", "without_cudnn"]
    other = OPERATORS["without_cudnn"]
    assert not other.supported_dtypes("cpu")
    assert list(map(label, draw(op=other))) == list(map(label, draw()))


def test_there_is_no_other_source_of_samples():
    assert OP.reference_inputs_func is None
    assert OP.error_inputs_func is None


def test_importing_the_judges_leaves_other_tests_as_they_are():
    assert hypothesis.settings.get_current_profile_name() == PROFILE
    assert not torch.backends.flags_frozen()


@pytest.mark.usefixtures("route")
@each_sample
@each_layout
@pytest.mark.parametrize("requires_grad", [True, False], ids=["grad", "nograd"])
@each_dtype
def test_sample_is_solved_as_torch_solves_it(dtype, requires_grad, layout, index):
    def make():
        problem = Problem.of_sample(draw(dtype, requires_grad)[index])
        return problem.noncontiguous() if layout == "noncontiguous" else problem

    problem = make()
    ours, torchs = solve(make(), batch_norm), solve(make(), OP.op)
    assert_as_torch(problem, problem.exactly(), ours, torchs)


@each_sample
def test_sample_keeps_its_arguments(index):
    sample, before = (draw(requires_grad=True)[index] for _ in range(2))
    running = {id(t) for t in sample.args[:2]}
    y = batch_norm(sample.input, *sample.args, **sample.kwargs)
    for t, old in zip((sample.input, *sample.args), (before.input, *before.args), strict=True):
        if t is not None and (id(t) not in running or not sample.kwargs.get("training")):
            assert t._version == old._version
            assert torch.equal(t, old)
            assert y is not t
            assert not t.numel() or t.data_ptr() != y.data_ptr()


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
def test_dtypes_that_torch_refuses_are_refused(dtype):
    x = torch.ones(3, 2, dtype=dtype)
    with pytest.raises(NotImplementedError):
        OP.op(x, None, None, training=True)
    with pytest.raises(DtypeError, match="floating point"):
        batch_norm(x, None, None, training=True)


GRADIENT_JUDGES = {
    "backward": lambda f, args, **mode: gradcheck(
        f, args, check_batched_grad=OP.check_batched_grad, check_grad_dtypes=True, **mode
    ),
    "double-backward": lambda f, args, **mode: gradgradcheck(
        f,
        args,
        gen_non_contig_grad_outputs=True,
        check_batched_grad=OP.check_batched_gradgrad,
        check_grad_dtypes=True,
        **mode,
    ),
    "forward-mode": lambda f, args, **mode: gradcheck(
        f,
        args,
        check_forward_ad=True,
        check_backward_ad=False,
        check_batched_grad=False,
        check_undefined_grad=False,
        check_batched_forward_grad=OP.check_batched_forward_grad,
        check_grad_dtypes=True,
        **mode,
    ),
    "forward-over-reverse": lambda f, args, **mode: gradgradcheck(
        f,
        args,
        check_fwd_over_rev=True,
        check_rev_over_rev=False,
        check_batched_grad=False,
        check_undefined_grad=False,
        check_grad_dtypes=True,
        **mode,
    ),
}


def test_torch_promises_every_judged_derivative():
    promises = ("supports_autograd", "supports_gradgrad", "supports_forward_ad")
    batched = ("check_batched_grad", "check_batched_gradgrad", "check_batched_forward_grad")
    for name in (*promises, "supports_fwgrad_bwgrad", *batched):
        assert getattr(OP, name), name


def as_function(sample, normalize):
    """The sample as a function of what requires a gradient; running statistics start afresh."""
    given = (sample.input, *sample.args)
    needs = [t is not None and t.requires_grad for t in given]

    def function(*tensors):
        rest = iter(tensors)
        args = [next(rest) if need else t for need, t in zip(needs, given, strict=True)]
        args[1:3] = (None if t is None else t.clone() for t in args[1:3])
        return normalize(*args, **sample.kwargs)

    return function, tuple(t for need, t in zip(needs, given, strict=True) if need)


@torchs_own_warning
@each_sample
@pytest.mark.parametrize("fast_mode", [True, False], ids=["fast", "full"])
@pytest.mark.parametrize("judge", GRADIENT_JUDGES)
def test_derivatives_of_a_sample(judge, fast_mode, index, candidate):
    function, tensors = as_function(draw(requires_grad=True)[index], candidate)
    assert GRADIENT_JUDGES[judge](function, tensors, fast_mode=fast_mode)
