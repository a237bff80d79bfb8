"""Layers that learn their number of channels from the first input."""

from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _LazyNormBase

from .. import checks
from .batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d


class _LazyBatchNorm(_LazyNormBase, BatchNorm):
    """What the three have in common: all arguments of `BatchNorm` but `num_features`."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.set_options(**options)

    def initialize_parameters(self, input: Tensor, *_: Any, **__: Any) -> None:
        """Make parameters and buffers for the channels of the first input."""
        checks.check_input(input)
        super().initialize_parameters(input)
        # A checkpoint that was loaded before has decided already.
        vectors = [t for t in (self.weight, self.running_mean) if t is not None]
        self.num_features = vectors[0].shape[0] if vectors else input.shape[1]
        self.pin_running_stats()


class LazyBatchNorm1d(_LazyBatchNorm):
    """`BatchNorm1d` without `num_features`; becomes one at the first input.

    Example:
        >>> import torch
        >>> layer = LazyBatchNorm1d(activation="relu")
        >>> y = layer(torch.randn(8, 3))
        >>> layer
        BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, \
track_running_stats=True, activation='relu')
    """

    cls_to_become = BatchNorm1d
    _ndims = BatchNorm1d._ndims


class LazyBatchNorm2d(_LazyBatchNorm):
    """`BatchNorm2d` without `num_features`; becomes one at the first input."""

    cls_to_become = BatchNorm2d
    _ndims = BatchNorm2d._ndims


class LazyBatchNorm3d(_LazyBatchNorm):
    """`BatchNorm3d` without `num_features`; becomes one at the first input."""

    cls_to_become = BatchNorm3d
    _ndims = BatchNorm3d._ndims
