"""The proof of a port: one input and one output, as the other framework gave them in inference.

Vectors say nothing about where the channels are, whether two of them were swapped, or which eps was
used; an output does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import shapes
from ..checks import shape_text
from ..errors import OptionError, PortError, ShapeError
from . import arrays

TOLERANCE = 1e-4
"""Largest difference, in standard deviations of the output, that rounding may make."""

EPSILONS = (1e-3, 1e-5, 1e-4, 1e-6, 1e-8, 1e-12, 2e-5)
"""Those that frameworks and papers use."""


def check(
    module: nn.Module,
    input: Any,
    output: Any,
    *,
    axis: int = -1,
    tolerance: float | None = None,
) -> float:
    """Compare a layer, or a network, with what another framework computes in inference.

    Args:
        module: A layer or a network; it is run in evaluation mode, and its modes are put back.
        input: What the other framework was given, with its channels at `axis`.
        output: What it gave back in inference; an output with as many axes as the input has its
            channels at `axis`, too.
        axis: Where its channels are: -1 for Keras, Flax and Haiku, 1 for ONNX and Equinox. Here
            they are at axis 1.
        tolerance: The largest difference, in standard deviations of the output, to accept; None
            for 1e-4, or 8 units in the last place where one of both computes in half precision.

    Returns:
        The largest difference, in standard deviations of the output.

    Raises:
        PortError: The outputs differ; for a single layer the message says what explains it, if
            something does.
        ShapeError: The channels are not at this axis, or the outputs are of different shapes.
        DtypeError: An array is not floating point.
        OptionError: There is no such axis.

    Example:
        >>> layer = nn.BatchNorm2d(3, eps=1e-3).eval()
        >>> x = torch.randn(2, 4, 5, 3)  # channels last
        >>> check(layer, x, x / (1 + 1e-3) ** 0.5) < 1e-5
        True
    """
    x, expected = arrays.read(input, "input"), arrays.read(output, "output")
    x, moved = _moved(x, axis, "input"), expected
    if expected.dim() == x.dim():
        moved = _moved(expected, axis, "output")
    if isinstance(module, _BatchNorm):
        _check_channels(module, x, axis)
    found = _run(module, x)
    if found.shape != moved.shape:
        raise ShapeError(
            f"expected an output {shape_text(moved.shape)} (channels at axis 1), "
            f"found {shape_text(found.shape)}"
        )
    off = _distance(found, moved)
    allowed = _allowed(found, expected) if tolerance is None else tolerance
    if not off <= allowed:
        reason = _explained(module, x, moved, allowed) if isinstance(module, _BatchNorm) else ""
        raise PortError(
            f"expected the output of the other framework, found differences of up to {off:.2g} of "
            f"its standard deviations, more than {allowed:.2g}{reason}"
        )
    return off


def _moved(x: Tensor, axis: int, what: str) -> Tensor:
    if x.dim() < 2 or not -x.dim() <= axis < x.dim() or axis % x.dim() == 0:
        raise OptionError(
            f"expected axis to be one of the {what}'s ({shape_text(x.shape)}), and not its first, "
            f"found {axis!r}"
        )
    return x.movedim(axis, 1)


def _check_channels(layer: _BatchNorm, x: Tensor, axis: int) -> None:
    if shapes.num_channels(x) != layer.num_features:
        raise ShapeError(
            f"expected {layer.num_features} channels at axis {axis}, found "
            f"{shapes.num_channels(x)}; say where they are with axis="
        )


def _run(module: nn.Module, x: Tensor) -> Tensor:
    like = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), x)
    with _evaluating(module), torch.no_grad():
        found = module(x.to(like.device, like.dtype))
    if not isinstance(found, Tensor):
        raise PortError(f"expected the module to return a tensor, found {type(found).__name__}")
    return found.cpu()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


def _distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference in standard deviations; infinite where only one of both is a number."""
    a, b = found.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    known = b[b.isfinite()]
    spread = float(known.std(correction=0)) if known.numel() else 0.0
    off = (a - b).abs().masked_fill(same, 0).nan_to_num(nan=torch.inf)
    return float(off.max()) / (spread or 1.0)


def _allowed(found: Tensor, expected: Tensor) -> float:
    return max(TOLERANCE, *(8 * torch.finfo(t.dtype).eps for t in (found, expected)))


def _explained(layer: _BatchNorm, x: Tensor, expected: Tensor, allowed: float) -> str:
    """Say what would make the outputs equal."""
    for what, compute in _suspicions(layer, x.double()):
        if _distance(compute(), expected) <= allowed:
            return f"; they are equal {what}"
    return "; neither another eps nor statistics of the batch nor swapped arrays explain it"


def _suspicions(layer: _BatchNorm, x: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    mean, var = (_wide(t, x.shape[1], 0.0) for t in (layer.running_mean, layer.running_var))
    weight, bias = _wide(layer.weight, x.shape[1], 1.0), _wide(layer.bias, x.shape[1], 0.0)
    dims = shapes.reduce_dims(x.dim())
    batch = x.mean(dims), x.var(dims, correction=0)
    eps = layer.eps

    def at(mean: Tensor, var: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        mean, scale, bias = (
            shapes.as_channels(t, x.dim()) for t in (mean, weight / (var + eps).sqrt(), bias)
        )
        return (x - mean) * scale + bias

    for other in EPSILONS:
        yield f"with eps={other:g}", partial(at, mean, var, other, weight, bias)
    yield (
        "if the batch normalizes: the output there was computed in training mode",
        partial(at, *batch, eps, weight, bias),
    )
    yield "with weight and bias swapped", partial(at, mean, var, eps, bias, weight)
    yield "with mean and variance swapped", partial(at, var, mean, eps, weight, bias)
    yield (
        "if running_var is a standard deviation, and is squared",
        partial(at, mean, var.square(), eps, weight, bias),
    )
    yield (
        "if running_var is 1/variance, and is inverted",
        partial(at, mean, 1 / var, eps, weight, bias),
    )
    yield (
        "after a ReLU: the output there has an activation behind it",
        lambda: at(mean, var, eps, weight, bias).relu(),
    )


def _wide(tensor: Tensor | None, channels: int, neutral: float) -> Tensor:
    if tensor is None:
        return torch.full((channels,), neutral, dtype=torch.float64)
    return tensor.detach().cpu().double()
