"""Our kernels alone, through their contract: no layer, no autograd; what they need is allocated."""

import torch
from torch import Tensor

from ..ops import dispatch, triton
from ..ops.activation import get
from ..ops.affine import Affine
from ..ops.contract import Kernels, Moving, Output, Pair
from .problem import EPS, Problem
from .timing import Step, rotating
from .unavailable import Unavailable

MOMENTUM = 0.1


def step(problem: Problem) -> Step:
    """Make the step.

    Raises:
        Unavailable: No kernels serve this input.
    """
    x = problem.x
    kernels = dispatch.own(x)
    if kernels is None:
        raise Unavailable(triton.reason(x.device.index) or "the kernels do not take this input")
    running = problem.running_mean.clone(), problem.running_var.clone()
    calls = [_Call(kernels, one, running) for one in problem.rotation]
    if problem.case.operation.inference:
        return rotating([Step(call.evaluate) for call in calls])
    return rotating([Step(call.train, call.backward) for call in calls])


class _Call:
    """The calls on one set of inputs."""

    def __init__(self, kernels: Kernels, problem: Problem, running: Pair) -> None:
        operation, self._x = problem.case.operation, problem.x
        self._kernels, self._running, self._grad = kernels, running, problem.grad
        act = get("relu" if operation.relu else None)
        after = Affine(problem.weight, problem.bias, problem.residual, act)
        self._at, self._after = kernels.prepare(self._x, after)
        self._signs = operation.residual and operation.relu
        channels, device = self._x.shape[1], self._x.device
        missed = torch.zeros(channels, dtype=torch.int64, device=device)
        tracked = torch.zeros((), dtype=torch.int64, device=device)
        self._moving = Moving(*running, MOMENTUM, missed, tracked)
        self._needs = (True, True, True, operation.residual)
        self._made: Output | None = None

    def evaluate(self) -> Tensor:
        return self._kernels.evaluate(self._x, self._after, EPS, self._running, at=self._at).y

    def train(self) -> Tensor:
        made = self._kernels.train(
            self._x, self._after, EPS, self._signs, self._moving, at=self._at
        )
        self._made = made
        return made.y

    def backward(self, output: Tensor) -> list[Tensor]:
        made, self._made = self._made, None
        assert made is not None and made.y is output
        found = self._kernels.backward(
            self._grad,
            self._x,
            made.vectors,
            self._after,
            made.signs,
            self._needs,
            False,
            at=self._at,
        )
        return [gradient for gradient in found if gradient is not None]
