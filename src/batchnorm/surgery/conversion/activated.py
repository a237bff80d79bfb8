"""PyTorch's layers that add a residual and apply an activation, where no module could be put."""

from torch import Tensor, nn

from ...ops import activation as activations


class _Activated(nn.Module):
    activation: str | None

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize, add, then activate."""
        y: Tensor = super().forward(input)
        act = activations.get(self.activation)
        total = y if residual is None else y + residual
        return total if act is None else act.forward(total)

    def extra_repr(self) -> str:
        """Show the activation, too."""
        return f"{super().extra_repr()}, activation={self.activation!r}"


class ActivatedBatchNorm1d(_Activated, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, then a residual and an activation."""


class ActivatedBatchNorm2d(_Activated, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, then a residual and an activation."""


class ActivatedBatchNorm3d(_Activated, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, then a residual and an activation."""


ACTIVATED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: ActivatedBatchNorm1d,
    nn.BatchNorm2d: ActivatedBatchNorm2d,
    nn.BatchNorm3d: ActivatedBatchNorm3d,
}
