"""What PyTorch's tests demand of the layers in its module database, demanded of ours.

The layers compute on the inputs of ModuleInfo; torch's own layer, given the same weights, is the
measure. Conversion to other dtypes and devices is judged in `test_module_state`.
"""

import pytest
import torch
from torch.func import functional_call

import batchnorm

from .layers import CASES, ERRORS, FLAGS, draw, draw_errors, each_case, each_mode
from .problem import Problem, assert_as_torch, random_like, solve_by_layer
from .samples import torchs_own_warning
from .testing_package import (
    FORWARD_ERROR,
    MODULES,
    gradcheck,
    gradgradcheck,
    noncontiguous_like,
)

pytestmark = pytest.mark.slow


FORMATS = {
    2: ("contiguous_format",),
    3: ("contiguous_format",),
    4: ("contiguous_format", "channels_last"),
    5: ("contiguous_format", "channels_last_3d"),
}
MEMORY_FORMATS = [(case, name) for case in CASES for name in FORMATS[case.input().dim()]]

SMALL = 60
"""Up to so many values every element of a Jacobian is judged, beyond them a random projection."""

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_gradient = pytest.mark.parametrize("requires_grad", [True, False], ids=["grad", "nograd"])


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_every_input_is_judged(name):
    info = MODULES[name]
    assert set(info.dtypes) == {torch.float32, torch.float64}
    assert info.train_and_eval_differ
    assert info.supports_gradgrad
    count = len([case for case in CASES if case.name == name])
    for dtype in info.dtypes:
        for requires_grad in (True, False):
            for training in FLAGS.values():
                assert len(draw(name, dtype, requires_grad, training)) == count > 0
    assert len([error for error in ERRORS if error[0] == name]) > 0


def assert_layer_as_torch(case, dtype, training, arrange=lambda t: t, requires_grad=True):
    """Demand torch's output, gradients and running statistics; return both layers."""
    its, ours = (make(training, dtype=dtype) for make in (case.torchs, case.ours))
    x = case.input(dtype)
    problem = Problem.of_layer(its, x)
    grad_output = arrange(random_like(x))
    torchs, found = (
        solve_by_layer(layer, arrange(x.clone()).requires_grad_(requires_grad), grad_output)
        for layer in (its, ours)
    )
    assert_as_torch(problem, problem.exactly(), found, torchs)
    return its, ours


@pytest.mark.usefixtures("route")
@each_case
@each_mode
@each_dtype
@each_gradient
def test_layer_computes_what_torchs_does(case, training, dtype, requires_grad):
    its, ours = assert_layer_as_torch(case, dtype, training, requires_grad=requires_grad)
    assert list(its.state_dict()) == list(ours.state_dict())
    counted = ours.num_batches_tracked
    if case.is_empty and training:
        # By intent: a batch that moves nothing is not counted, so that the plain average of
        # momentum=None stays one. torch counts it.
        assert (int(its.num_batches_tracked), int(counted)) == (1, 0)
    else:
        assert counted is its.num_batches_tracked is None or counted == its.num_batches_tracked


@pytest.mark.usefixtures("route")
@each_case
@each_mode
def test_noncontiguous_input_gives_the_same(case, training):
    assert_layer_as_torch(case, torch.float64, training, noncontiguous_like)


@pytest.mark.usefixtures("route")
@each_mode
@pytest.mark.parametrize(("case", "memory_format"), MEMORY_FORMATS, ids=str)
def test_memory_format_is_kept(case, memory_format, training):
    memory_format = getattr(torch, memory_format)

    def arrange(t):
        return t.contiguous(memory_format=memory_format)

    assert_layer_as_torch(case, torch.float64, training, arrange)
    layer = case.ours(training, dtype=torch.float64).to(memory_format=memory_format)
    y = layer(arrange(case.input()))
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", MODULES)
def test_mode_decides_what_is_computed(name):
    case = next(case for case in CASES if case.name == name)
    x = case.input()
    train, evaluation = (case.ours(training, dtype=x.dtype)(x) for training in (True, False))
    assert not torch.allclose(train, evaluation)
    layer = case.ours(dtype=x.dtype)
    del layer.training
    with pytest.raises(AttributeError, match="training"):
        layer(x)


def error_id(error):
    name, index = error
    given = draw_errors(name)[index].module_error_input.constructor_input
    return f"{name}-{given.kwargs}"


@pytest.mark.parametrize("whose", ["torch", "ours"])
@pytest.mark.parametrize("error", ERRORS, ids=error_id)
def test_error_is_the_one_torch_demands(error, whose):
    name, index = error
    expected = draw_errors(name)[index]
    assert expected.error_on is FORWARD_ERROR
    cls = MODULES[name].module_cls if whose == "torch" else getattr(batchnorm, name)
    given = expected.module_error_input.constructor_input
    forward = expected.module_error_input.forward_input
    layer = cls(*given.args, **given.kwargs)
    before = {key: t.clone() for key, t in layer.state_dict().items()}
    with pytest.raises(expected.error_type, match=expected.error_regex):
        layer(*forward.args, **forward.kwargs)
    if whose == "torch":  # it counts the batch before it looks
        before["num_batches_tracked"] += 1
    assert all(torch.equal(t, before[key]) for key, t in layer.state_dict().items())


def as_function(case, training):
    """The layer as a function of its input and its parameters."""
    layer = case.ours(training, dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def function(x, *tensors):
        return functional_call(layer, dict(zip(parameters, tensors, strict=True)), (x,))

    return function, (case.input(requires_grad=True), *parameters.values())


GRADIENT_JUDGES = {
    "backward": lambda *args, **mode: gradcheck(*args, check_forward_ad=True, **mode),
    "double-backward": lambda *args, **mode: gradgradcheck(*args, check_fwd_over_rev=True, **mode),
}


@torchs_own_warning
@pytest.mark.usefixtures("route")
@each_case
@each_mode
@pytest.mark.parametrize("judge", GRADIENT_JUDGES)
def test_derivatives(judge, case, training):
    full = case.input().numel() <= SMALL
    assert GRADIENT_JUDGES[judge](*as_function(case, training), fast_mode=not full)
