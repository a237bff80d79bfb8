"""Who is measured: each implementation as a `Step` on the same problem."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .problem import EPS, Problem
from .timing import Step, rotating

Builder = Callable[[Problem], Step]
"""Makes the step of an implementation; raises `Unavailable` where it does not do what is asked."""

_OURS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
_TORCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def copy(problem: Problem) -> Step:
    """Copy the input into memory that is already there: the floor everyone is measured against."""
    target = torch.empty_like(problem.x)
    return rotating([Step(partial(target.copy_, one.x)) for one in problem.rotation])


def ours(problem: Problem) -> Step:
    """Our layer, with everything it does around the kernels."""
    activation = "relu" if problem.case.operation.relu else None
    layer = _OURS[problem.x.dim()](problem.x.shape[1], eps=EPS, activation=activation)
    return _through_autograd(problem, layer, _filled(layer, problem))


def eager(problem: Problem) -> Step:
    """The layer of PyTorch; adding and ReLU change its output in place."""
    block = _Eager(problem)
    return replace(_through_autograd(problem, block, block.norm), by=_served_by(problem))


def compiled(problem: Problem) -> Step:
    """The same, compiled for this shape."""
    torch._dynamo.reset()
    block = _Eager(problem)
    fast = torch.compile(block, fullgraph=True, dynamic=False)
    return _through_autograd(problem, fast, block.norm)


class _Eager(nn.Module):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        layer = _TORCH[problem.x.dim()](problem.x.shape[1], eps=EPS)
        self.norm = _filled(layer, problem)
        self.relu = problem.case.operation.relu

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        if residual is not None:
            y = y.add_(residual)
        return F.relu_(y) if self.relu else y


def _filled(layer: nn.Module, problem: Problem) -> Any:
    """Give a layer the parameters and statistics of the problem."""
    names = ("weight", "bias", "running_mean", "running_var")
    layer.load_state_dict({name: getattr(problem, name) for name in names}, strict=False)
    return layer.to(problem.x.device).train(not problem.case.operation.inference)


def _through_autograd(problem: Problem, block: Callable[..., Tensor], norm: Any) -> Step:
    """Call as in training, or in inference without a graph.

    Gradients are asked for, not accumulated: a network's residual is no leaf, and a leaf that
    shares its gradient with another would be given a copy.
    """
    return rotating([_on_one_set(one, block, norm) for one in problem.rotation])


def _on_one_set(problem: Problem, block: Callable[..., Tensor], norm: Any) -> Step:
    if problem.case.operation.inference:
        return Step(lambda: without_graph(block, problem.x))
    x = problem.x.detach().requires_grad_()
    residual = problem.residual
    if residual is None:
        return Step(lambda: block(x), gradient_of(problem.grad, x, norm.weight, norm.bias))
    residual = residual.detach().requires_grad_()
    leaves = x, norm.weight, norm.bias, residual
    return Step(lambda: block(x, residual), gradient_of(problem.grad, *leaves))


def _served_by(problem: Problem) -> str:
    """Name the library that PyTorch hands this on to; empty: it has kernels of its own."""
    vectors = problem.weight, problem.bias, problem.running_mean, problem.running_var
    training = not problem.case.operation.inference
    chosen = torch._C._select_batch_norm_backend(problem.x, *vectors, training, EPS)
    return _LIBRARIES.get(chosen.name, "")


_LIBRARIES = {"Cudnn": "cuDNN", "Miopen": "MIOpen"}


def without_graph(block: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Call it where no gradient will be asked for."""
    with torch.no_grad():
        return block(x)


def gradient_of(grad: Tensor, *leaves: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Make the backward of a step."""
    return lambda output: torch.autograd.grad(output, leaves, grad)
