"""The activations that can follow the normalization: value and derivative, as in torch.nn."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError

_aten = torch.ops.aten


class Activation(NamedTuple):
    """An elementwise function with its derivative, in terms of its output where that is enough."""

    name: str
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    """(grad_output, output or input) -> grad_input, differentiable."""
    from_output: bool
    """`backward` takes the output; otherwise the input."""


def _silu_backward(grad_output: Tensor, z: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        grad_input: Tensor = _aten.silu_backward.default(grad_output, z)
        return grad_input
    sigmoid = torch.sigmoid(z)  # torch's kernel has no derivative
    return grad_output * sigmoid * (1 + z * (1 - sigmoid))


ACTIVATIONS = {
    act.name: act
    for act in (
        Activation(
            "relu", torch.relu, lambda g, y: _aten.threshold_backward.default(g, y, 0), True
        ),
        Activation(
            # The slope is positive, so the output has the sign of the input.
            "leaky_relu",
            F.leaky_relu,
            lambda g, y: _aten.leaky_relu_backward.default(g, y, 0.01, False),
            True,
        ),
        Activation(
            "elu", F.elu, lambda g, y: _aten.elu_backward.default(g, 1.0, 1.0, 1.0, True, y), True
        ),
        Activation("silu", F.silu, _silu_backward, False),
        Activation("gelu", F.gelu, lambda g, z: _aten.gelu_backward.default(g, z), False),
        Activation(
            "hardswish", F.hardswish, lambda g, z: _aten.hardswish_backward.default(g, z), False
        ),
        Activation(
            "sigmoid", torch.sigmoid, lambda g, y: _aten.sigmoid_backward.default(g, y), True
        ),
        Activation("tanh", torch.tanh, lambda g, y: _aten.tanh_backward.default(g, y), True),
    )
}
"""Name -> activation, with the defaults of torch.nn: leaky slope 0.01, ELU alpha 1, exact GELU."""


def get(name: str | None) -> Activation | None:
    """Look an activation up.

    Args:
        name: A key of `ACTIVATIONS`, or None for the identity.

    Returns:
        The activation, or None for the identity.

    Raises:
        OptionError: The name is not known; the message lists those that are.

    Example:
        >>> get("relu").forward(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if name is None:
        return None
    found = ACTIVATIONS.get(name) if isinstance(name, str) else None
    if found is None:
        known = ", ".join(repr(known) for known in ACTIVATIONS)
        raise OptionError(f"expected activation to be None or one of {known}; found {name!r}")
    return found
