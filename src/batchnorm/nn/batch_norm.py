"""The layers: torch's constructor, buffers and state_dict around `functional.batch_norm`."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .. import functional, shapes
from ..errors import ShapeError
from ..moments import statistics_dtype
from ..ops import activation as activations


class BatchNorm(_BatchNorm):
    """Batch normalization of an input with any number of axes, (N, C, ...).

    Takes the arguments of `torch.nn.BatchNorm1d` in the same order, and has the same state_dict:
    each loads the other's. Momentum is the weight of the **new** value. With `momentum=None` the
    running statistics are the plain average of those of all batches so far.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
        momentum: Weight of the new value in the running statistics; None for their average.
        affine: Learn a scale, and a shift unless `bias` is False.
        track_running_stats: Keep running statistics; otherwise evaluation uses the batch's, too.
        device: Where parameters and buffers live.
        dtype: Their dtype.
        bias: Learn a shift (only where `affine`).
        activation: Applied last: "relu", "leaky_relu", "elu", "silu", "gelu", "hardswish",
            "sigmoid", "tanh", or None.
        virtual_batch_size: In training, normalize chunks of so many samples, each by its own
            statistics ("ghost" batch normalization).

    Raises:
        OptionError: `activation` or `virtual_batch_size` has no valid value.

    Example:
        >>> layer = BatchNorm(1, activation="relu")
        >>> layer(torch.tensor([[-1.0], [1.0]])).relu().shape
        torch.Size([2, 1])
        >>> layer.running_var  # 0.9·1 + 0.1·2
        tensor([1.1000])

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167); Hoffer, Hubara & Soudry 2017
    (arXiv:1705.08741) for virtual batches.
    """

    activation: str | None
    virtual_batch_size: int | None
    _ndims: ClassVar[tuple[int, ...]] = ()  # () for any number of at least 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        virtual_batch_size: int | None = None,
    ) -> None:
        activations.get(activation)
        shapes.check_virtual_batch_size(virtual_batch_size)
        # torch before 2.13 has no `bias`; removing the parameter works with all.
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.activation = activation
        self.virtual_batch_size = virtual_batch_size

    def reset_parameters(self) -> None:
        """Set weight 1, bias 0 and the running statistics to mean 0, variance 1."""
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                torch.nn.init.constant_(parameter, value)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in training, update the running statistics once that has succeeded.

        Args:
            input: Activations (N, C, ...), floating.

        Returns:
            A tensor like `input`.

        Raises:
            ShapeError: Wrong number of axes or channels.
            StatisticsError: One value per channel in training.
        """
        self._check_input_dim(input)
        tracks = self.training and self.track_running_stats
        running_mean, running_var, tracked = None, None, None
        if tracks or not self.training:
            running_mean, running_var = self.running_mean, self.running_var
        if tracks:
            tracked = self.num_batches_tracked
        momentum: float | Tensor | None = self.momentum
        if momentum is None:
            momentum = 0.0 if tracked is None else _share_of_next(tracked, self.running_mean)
        output = functional.batch_norm(
            input,
            running_mean,
            running_var,
            self.weight,
            self.bias,
            self.training or running_mean is None,
            momentum,
            self.eps,
            activation=self.activation,
            virtual_batch_size=self.virtual_batch_size if self.training else None,
        )
        if tracked is not None and input.numel():
            tracked.add_(1)
        return output

    def extra_repr(self) -> str:
        """Show torch's options, then ours where they are set."""
        options = {"activation": self.activation, "virtual_batch_size": self.virtual_batch_size}
        ours = [f"{name}={value!r}" for name, value in options.items() if value is not None]
        return ", ".join([super().extra_repr(), *ours])  # type: ignore[no-untyped-call]

    def _check_input_dim(self, input: Tensor) -> None:
        ndim = input.dim()
        if ndim < 2 or (self._ndims and ndim not in self._ndims):
            expected = " or ".join(f"{n}" for n in self._ndims) or "at least 2"
            raise ShapeError(
                f"{self._label()}: expected an input with {expected} axes (N, C, ...), "
                f"found {ndim} (input {shapes.shape_text(input.shape)})"
            )
        if shapes.num_channels(input) != self.num_features:
            raise ShapeError(
                f"{self._label()}: expected {self.num_features} channels at axis 1, "
                f"found {shapes.num_channels(input)} (input {shapes.shape_text(input.shape)}); "
                f"set num_features to the size of that axis, or move the channels there"
            )

    def _label(self) -> str:
        return f"{type(self).__name__}({self.num_features})"


class BatchNorm1d(BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, for (N, C) and (N, C, L), with the options of `BatchNorm`."""

    _ndims = (2, 3)


class BatchNorm2d(BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, for (N, C, H, W), with the options of `BatchNorm`."""

    _ndims = (4,)


class BatchNorm3d(BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, for (N, C, D, H, W), with the options of `BatchNorm`."""

    _ndims = (5,)


def _share_of_next(tracked: Tensor, running_mean: Tensor | None) -> Tensor:
    """Weight of the next batch in the average of all; a tensor, so that nothing waits for it."""
    dtype = torch.float32 if running_mean is None else statistics_dtype(running_mean)
    return (tracked + 1).to(dtype).reciprocal_()
