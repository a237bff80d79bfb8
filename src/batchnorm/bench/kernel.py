"""Our kernels alone: outputs already in memory, arguments packed, no layer, no autograd."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops import cpu, native
from ..ops.activation import get
from ..ops.affine import Affine
from ..ops.contract import Sizes
from .problem import EPS, Problem
from .timing import Step
from .unavailable import Unavailable

MOMENTUM = 0.1


def step(problem: Problem) -> Step:
    """Make the step.

    Raises:
        Unavailable: The library is not there.
    """
    library = native.library()
    if library is None:
        raise Unavailable("there are no kernels here; batchnorm env says why")
    x, operation = problem.x, problem.case.operation
    at = cpu.dense(x)
    vectors, y = torch.empty(4, at[1]), torch.empty_like(x)
    running = problem.running_mean.clone(), problem.running_var.clone()
    after = Affine(problem.weight, problem.bias, problem.residual, _activation(problem))
    signs = _new_signs(problem, at)
    call = cpu.packed(x, at, vectors, after, signs, y, EPS, MOMENTUM, running)
    alive = x, vectors, after, signs, y, running
    if operation.inference:
        return Step(partial(_run, library.evaluate, call, y, alive))
    forward = partial(_run, library.train, call, y, alive)
    grad_weight, grad_bias = torch.empty(2, at[1]).unbind()
    grad_residual = torch.empty_like(x) if operation.residual else None
    made = torch.empty_like(x), grad_residual, grad_weight, grad_bias
    call = cpu.packed(x, at, vectors, after, signs, grads=(problem.grad, *made))
    results = [t for t in (made[0], grad_weight, grad_bias, grad_residual) if t is not None]
    backward = partial(_run, library.backward, call, results, alive)
    return Step(forward, lambda output: backward())


def _run(function: native.Function, call: bytes, results: Any, alive: Any) -> Any:
    """Call a kernel; `alive` holds what it reads and writes."""
    code = function(call)
    if code != native.OK:
        native.refuse(code)
    return results


def _activation(problem: Problem) -> Any:
    return get("relu" if problem.case.operation.relu else None)


def _new_signs(problem: Problem, at: Sizes) -> Tensor | None:
    """Room for one bit per value, which spares the backward the residual."""
    if problem.residual is None:
        return None
    words = native.loaded().sign_words(*at, cpu.DTYPES[problem.x.dtype])
    return torch.empty(words, dtype=torch.int16)
