"""Layers: subclasses of the torch class of the same name, with the same state_dict."""

from .batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from .contexts import accumulate, no_update
from .lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from .renorm import Renorm
from .saving import recompute

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "Renorm",
    "accumulate",
    "no_update",
    "recompute",
]
