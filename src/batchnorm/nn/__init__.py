"""Layers: subclasses of the torch class of the same name, with the same state_dict."""

from .batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
