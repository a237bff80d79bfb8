"""One call of batch_norm as data: its exact results, and how far from them one may be."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from batchnorm import reference
from cases import assert_derived

from .testing_package import noncontiguous_like

Results = dict[str, Tensor | None]
"""By name: output, gradients where they were asked for, and running statistics where given."""


@dataclass(frozen=True)
class Problem:
    """What batch_norm is given, with the gradient of its output."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    grad_output: Tensor
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    @classmethod
    def of_sample(cls, sample) -> "Problem":
        """A copy of what an OpInfo samples: nothing that is done to it shows there."""
        tensors = [None if t is None else copy(t) for t in (sample.input, *sample.args)]
        return cls(*tensors, random_like(sample.input), **sample.kwargs)

    @classmethod
    def of_layer(cls, layer: nn.Module, x: Tensor) -> "Problem":
        """What the layer of torch is about to solve, in a copy."""
        tracks = layer.running_mean is not None
        tensors = (x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
        return cls(
            *(None if t is None else copy(t) for t in tensors),
            random_like(x),
            training=layer.training or not tracks,
            momentum=1.0 if layer.momentum is None else layer.momentum,  # of a first batch
            eps=layer.eps,
        )

    def noncontiguous(self) -> "Problem":
        """The same with every tensor, running statistics too, one of NaN-interleaved values."""
        with torch.no_grad():
            spread = {
                name: noncontiguous_like(t)
                for name, t in vars(self).items()
                if isinstance(t, Tensor)
            }
        return replace(self, **spread)

    def exactly(self) -> Results:
        """Solve it by the executable specification, in float64."""
        x, grad_y = self.input.detach(), self.grad_output
        if x.dim() < 2:  # torch takes an empty input of one axis
            none = torch.zeros(0, dtype=torch.float64)
            return dict.fromkeys(("output", "grad_input", "running_mean", "running_var"), none)
        running = self.running_mean, self.running_var
        if running[0] is None:
            running = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
        affine = (None if t is None else t.detach() for t in (self.weight, self.bias))
        if self.training:
            found = reference.step(
                x, grad_y, running, *affine, momentum=self.momentum, eps=self.eps
            )
        else:
            found = reference.evaluate(x, grad_y, running, *affine, eps=self.eps)
        return found._asdict()

    def growth(self) -> dict[str, tuple[float, float]]:
        """For each result: its largest terms, and what an ulp of the statistics can grow to."""
        x, weight = self.input.detach(), self.weight
        if not x.numel():
            return {}
        var = self.running_var if not self.training else reference.statistics(x)[1]
        mean = 0.0 if self.running_mean is None else largest(self.running_mean)
        invstd = (var.double().min() + self.eps).item() ** -0.5
        scale, dy = 1.0 if weight is None else largest(weight), largest(self.grad_output)
        values, count = largest(x) + mean, x.numel() // x.shape[1]
        shift = values * invstd  # one ulp of the mean, in standard deviations
        x_hat = min(shift, count**0.5) if self.training else shift
        grad = scale * invstd * dy
        share = abs(self.momentum) + abs(1 - self.momentum)
        squares = values**2 + (0.0 if self.running_var is None else largest(self.running_var))
        bias = 0.0 if self.bias is None else largest(self.bias)
        return {
            "output": (scale * x_hat + bias, scale * shift),
            "grad_input": (grad, grad * (1 + x_hat) * (1 + shift)),
            "grad_weight": (dy * x_hat, dy * count * (x_hat + shift)),
            "grad_bias": (dy, dy * count),
            "running_mean": (share * values, share * values),
            "running_var": (share * squares, share * squares),
        }


def copy(t: Tensor) -> Tensor:
    """A leaf of the same values, need of a gradient and, if dense, strides."""
    return t.detach().clone().requires_grad_(t.requires_grad)


def random_like(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)


def largest(t: Tensor) -> float:
    return t.detach().abs().max().item()


def solve(problem: Problem, batch_norm) -> Results:
    """Solve a problem by a functional, which moves the problem's running statistics."""
    p = problem
    output = batch_norm(
        p.input,
        p.running_mean,
        p.running_var,
        p.weight,
        p.bias,
        training=p.training,
        momentum=p.momentum,
        eps=p.eps,
    )
    return _collect(output, p.grad_output, p.input, p)


def solve_by_layer(layer: nn.Module, x: Tensor, grad_output: Tensor) -> Results:
    """Solve the problem that x is to a layer."""
    return _collect(layer(x), grad_output, x, layer)


def _collect(output: Tensor, grad_output: Tensor, x: Tensor, holder) -> Results:
    if output.requires_grad:
        output.backward(grad_output)
    return {
        "output": output,
        "grad_input": x.grad,
        "grad_weight": None if holder.weight is None else holder.weight.grad,
        "grad_bias": None if holder.bias is None else holder.bias.grad,
        "running_mean": holder.running_mean,
        "running_var": holder.running_var,
    }


def assert_as_torch(problem: Problem, exact: Results, ours: Results, torchs: Results) -> None:
    """Demand of every result torch's dtype, shape and strides, and an error of torch's size.

    Args:
        problem: What was solved, as it was before.
        exact: Its exact results.
        ours: What is judged.
        torchs: What torch computes.
    """
    growth = problem.growth()
    for name, its in torchs.items():
        our = ours[name]
        assert (our is None) == (its is None), name
        if its is None:
            continue
        assert (our.dtype, our.shape) == (its.dtype, its.shape), name
        assert our.stride() == its.stride() or not its.numel(), name
        assert our.requires_grad == its.requires_grad, name
        terms = growth.get(name, (0.0, 0.0))
        assert_derived(name, our.detach(), its.detach(), exact[name], its.dtype, *terms)
