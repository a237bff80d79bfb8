"""oneDNN's own batch normalization, as far as PyTorch hands it on: tensors made by `to_mkldnn()`.

Its fast kernels want a layout in which 8 or 16 channels lie together. A convolution chooses that
layout for its result, so the inputs are sent through one whose weights are all 1, channel by
channel: their values stay exactly what they were. A step is measured from such tensors to such
tensors, without converting, so the layout of the cell does not matter to it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .problem import EPS, Problem
from .timing import Step
from .unavailable import Unavailable


def step(problem: Problem) -> Step:
    """Make the step.

    Raises:
        Unavailable: PyTorch does not hand this case on to oneDNN.
    """
    _check(problem)
    operation = problem.case.operation
    x = _blocked(problem.x)
    statistics = problem.running_mean.clone(), problem.running_var.clone()
    weight, bias = problem.weight.clone(), problem.bias.clone()
    residual = None if problem.residual is None else _blocked(problem.residual)
    leaves = [x, weight, bias, *([] if residual is None else [residual])]

    def forward() -> Tensor:
        y = F.batch_norm(x, *statistics, weight, bias, not operation.inference, 0.1, EPS)
        if residual is not None:
            y = y.add_(residual)
        return torch.relu_(y) if operation.relu else y

    if operation.inference:
        return Step(torch.no_grad()(forward))
    for leaf in leaves:
        leaf.requires_grad_()
    grad = _blocked(problem.grad)
    return Step(forward, lambda y: torch.autograd.grad(y, leaves, grad))


def _check(problem: Problem) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise Unavailable("this PyTorch has no oneDNN")
    allowed = (4, 5) if problem.case.operation.inference else (4,)
    if problem.x.dim() not in allowed:
        raise Unavailable("PyTorch hands only (N, C, H, W) on to oneDNN's batch normalization")


def _blocked(x: Tensor) -> Tensor:
    convolution = F.conv2d if x.dim() == 4 else F.conv3d
    ones = torch.ones(x.shape[1], *(1,) * (x.dim() - 1), dtype=x.dtype)
    with torch.no_grad():
        return convolution(x.to_mkldnn(), ones.to_mkldnn(), groups=x.shape[1]).detach()
