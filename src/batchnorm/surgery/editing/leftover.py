"""What stays of a normalization whose arithmetic has gone into its neighbors."""

from torch import Tensor, nn

from ...ops import activation as activations

_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class Residual(nn.Module):
    """y = activation(input + residual), in the place of a layer that was called with a residual.

    Args:
        activation: As of the layer.

    Example:
        >>> import torch
        >>> Residual("relu")(torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0]))
        tensor([2., 0.])
    """

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        activations.get(activation)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Add, then activate."""
        act = activations.get(self.activation)
        total = input if residual is None else input + residual
        return total if act is None else act.forward(total)

    def extra_repr(self) -> str:
        """Show the activation."""
        return f"activation={self.activation!r}"


def leftover(activation: str | None, has_residual: bool) -> nn.Module:
    """Build the module that takes the place of a folded normalization.

    Example:
        >>> leftover("relu", has_residual=False), leftover(None, has_residual=False)
        (ReLU(), Identity())
    """
    if has_residual:
        return Residual(activation)
    return nn.Identity() if activation is None else _MODULES[activation]()
