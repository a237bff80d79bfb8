"""Which kernels serve which tensors."""

from types import ModuleType

from torch import Tensor

from . import aten, composite


def kernels(x: Tensor) -> ModuleType:
    """Choose the module whose `standardize` and `backward` are fastest for tensors like `x`."""
    return aten if x.is_cpu or x.is_cuda else composite


def describe() -> dict[str, str]:
    """Say in words which kernels serve which tensors, for `batchnorm env`."""
    return {
        "kernels, CPU and CUDA": "PyTorch's own, on shifted inputs",
        "kernels, other devices": "plain PyTorch operations",
    }
