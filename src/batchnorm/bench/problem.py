"""The tensors of one cell, and what they must give: computed in float64 by plain operations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .case import CHANNELS_LAST, Case

EPS = 1e-5

MARGIN = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Where ReLU's input is as near to 0 as this, the gradient is 0: whether a value of 1e-9 is
positive after rounding is luck, and would say nothing about an implementation."""

_CHUNK = 2**20
"""About so many values are converted to float64 at once: the copies stay in the cache."""


@dataclass(frozen=True)
class Problem:
    """Inputs, and the results in float64."""

    case: Case
    x: Tensor
    residual: Tensor | None
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    grad: Tensor
    """Of the output."""
    output: Tensor
    gradients: tuple[Tensor, ...]
    """Of input, weight, bias, and of the residual where there is one; none in inference."""
    others: tuple["Problem", ...] = ()
    """The same values in other places, to be called in turns with these."""

    @property
    def rotation(self) -> tuple["Problem", ...]:
        """This one and the others."""
        return self, *self.others


def make_problem(case: Case, device: torch.device | None = None, sets: int = 1) -> Problem:
    """Draw the inputs, always the same ones, and compute the results.

    Channels have means between −1 and 1 and standard deviations between 0.5 and 1.5.

    Args:
        case: What is computed.
        device: Where; None: on the CPU.
        sets: How many copies of the inputs there are to be.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator(device).manual_seed(0)
    channels, operation, ndim = case.shape[1], case.operation, len(case.shape)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(channels, generator=generator, device=device) * (high - low) + low

    def normal() -> Tensor:
        return torch.randn(case.shape, generator=generator, device=device)

    mean, std = uniform(-1, 1), uniform(0.5, 1.5)
    x = _laid_out(normal() * _over(std, ndim) + _over(mean, ndim), case)
    problem = Problem(
        case=case,
        x=x,
        residual=_laid_out(normal(), case) if operation.residual else None,
        weight=uniform(0.5, 1.5),
        bias=uniform(-0.5, 0.5),
        running_mean=mean,
        running_var=std**2,
        grad=x.new_empty(0) if operation.inference else _laid_out(normal(), case),
        output=torch.empty_like(x, dtype=torch.float64),
        gradients=_new_gradients(x, case),
    )
    _solve(problem)
    return replace(problem, others=tuple(_copied(problem) for _ in range(sets - 1)))


def deviation(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Largest deviation of any of the tensors, in root mean squares of what it should be.

    Example:
        >>> deviation([torch.tensor([1.0, 6.0])], [torch.tensor([1.0, 7.0])])  # 1/√25
        0.2
    """
    pairs = zip(found, exact, strict=True)
    distances = [_largest_distance(one.detach(), other) for one, other in pairs]
    return math.nan if any(map(math.isnan, distances)) else max(distances)


def _largest_distance(found: Tensor, exact: Tensor) -> float:
    dense = found.to_dense() if found.is_mkldnn else found
    squares, distances = 0.0, [0.0]
    parts = -(-exact.numel() // _CHUNK)
    for one, other in zip(dense.chunk(parts), exact.chunk(parts), strict=True):
        squares += other.square().sum().item()
        distances.append((one.double() - other).abs_().max().item())
    scale = math.sqrt(squares / exact.numel()) or 1.0
    return math.nan if any(map(math.isnan, distances)) else max(distances) / scale


def _copied(problem: Problem) -> Problem:
    residual = None if problem.residual is None else problem.residual.clone()
    return replace(problem, x=problem.x.clone(), residual=residual, grad=problem.grad.clone())


def _laid_out(values: Tensor, case: Case) -> Tensor:
    values = values.to(getattr(torch, case.dtype))
    if case.layout != CHANNELS_LAST:
        return values
    innermost = torch.channels_last if len(case.shape) == 4 else torch.channels_last_3d
    return values.contiguous(memory_format=innermost)


def _new_gradients(x: Tensor, case: Case) -> tuple[Tensor, ...]:
    if case.operation.inference:
        return ()
    wide = torch.float64
    vectors = torch.empty(2, x.shape[1], dtype=wide, device=x.device).unbind()
    whole = torch.empty_like(x, dtype=wide)
    return (whole, *vectors, *((torch.empty_like(whole),) if case.operation.residual else ()))


def _over(vector: Tensor, ndim: int) -> Tensor:
    """Let a vector (C,) broadcast over (N, C, ...)."""
    return vector.view(-1, *(1,) * (ndim - 2))


def _solve(problem: Problem) -> None:
    """Fill in the results, and clear the gradient of the output near the kink of ReLU."""
    channels = problem.x.shape[1]
    step = max(1, _CHUNK * channels // problem.x.numel())
    for first in range(0, channels, step):
        _solve_channels(problem, slice(first, min(first + step, channels)))


def _solve_channels(problem: Problem, at: slice) -> None:
    x = problem.x[:, at].double()
    axes = [axis for axis in range(x.dim()) if axis != 1]
    if problem.case.operation.inference:
        mean = _over(problem.running_mean[at].double(), x.dim())
        var = _over(problem.running_var[at].double(), x.dim())
    else:
        mean = x.mean(axes, keepdim=True)
        var = (x - mean).square_().mean(axes, keepdim=True)
    scale = _over(problem.weight[at].double(), x.dim())
    x_hat = (x - mean) / (var + EPS).sqrt()
    z = x_hat * scale + _over(problem.bias[at].double(), x.dim())
    if problem.residual is not None:
        z += problem.residual[:, at].double()
    problem.output[:, at] = z.clamp(min=0) if problem.case.operation.relu else z
    if not problem.case.operation.inference:
        dz = _before_relu(problem, at, z)
        _solve_gradients(problem.gradients, at, dz, x_hat, scale / (var + EPS).sqrt())


def _before_relu(problem: Problem, at: slice, z: Tensor) -> Tensor:
    """Gradient of z; where that is near 0, the gradient of the output is set to 0."""
    grad = problem.grad[:, at]
    if not problem.case.operation.relu:
        return grad.double()
    grad[z.abs() < MARGIN[grad.dtype]] = 0
    return grad.double() * (z > 0)


def _solve_gradients(
    gradients: tuple[Tensor, ...], at: slice, dz: Tensor, x_hat: Tensor, slope: Tensor
) -> None:
    axes = [axis for axis in range(dz.dim()) if axis != 1]
    grad_input, grad_weight, grad_bias, *grad_residual = gradients
    grad_weight[at], grad_bias[at] = (dz * x_hat).sum(axes), dz.sum(axes)
    through = _over(grad_bias[at], dz.dim()) + x_hat * _over(grad_weight[at], dz.dim())
    grad_input[:, at] = (dz - through * (dz.shape[1] / dz.numel())) * slope
    for whole in grad_residual:
        whole[:, at] = dz
