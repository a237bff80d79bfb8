"""Batch normalization for PyTorch: insert it, train with it, measure what it does.

Importing this package does not import torch; the first name used does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import functional, port, study
    from .diagnosis import Diagnosis, Monitor, diagnose
    from .distributed import sync_debug
    from .moments import Moments
    from .nn import (
        BatchNorm1d,
        BatchNorm2d,
        BatchNorm3d,
        LazyBatchNorm1d,
        LazyBatchNorm2d,
        LazyBatchNorm3d,
        Renorm,
        accumulate,
        no_update,
        recompute,
    )
    from .surgery import convert, fold, freeze, insert, recalibrate, unfreeze

_MODULE_BY_NAME = {
    "BatchNorm1d": ".nn",
    "BatchNorm2d": ".nn",
    "BatchNorm3d": ".nn",
    "Diagnosis": ".diagnosis",
    "LazyBatchNorm1d": ".nn",
    "LazyBatchNorm2d": ".nn",
    "LazyBatchNorm3d": ".nn",
    "Moments": ".moments",
    "Monitor": ".diagnosis",
    "Renorm": ".nn",
    "accumulate": ".nn",
    "convert": ".surgery",
    "diagnose": ".diagnosis",
    "fold": ".surgery",
    "freeze": ".surgery",
    "functional": ".functional",
    "insert": ".surgery",
    "no_update": ".nn",
    "port": ".port",
    "recalibrate": ".surgery",
    "recompute": ".nn",
    "study": ".study",
    "sync_debug": ".distributed",
    "unfreeze": ".surgery",
}

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Diagnosis",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "Moments",
    "Monitor",
    "Renorm",
    "accumulate",
    "convert",
    "diagnose",
    "fold",
    "freeze",
    "functional",
    "insert",
    "no_update",
    "port",
    "recalibrate",
    "recompute",
    "study",
    "sync_debug",
    "unfreeze",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULE_BY_NAME[name], __name__)
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
