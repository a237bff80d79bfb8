"""The contract of fused kernels on NVIDIA GPUs, written in Triton.

`launch` fulfils the contract; `plan` says how a tensor is cut into programs; `forward` and
`backward` hold the kernels, made of the pieces in `tiles`, `moments` and `activations`. Nothing
but this file is imported before a tensor on a GPU asks for it: importing Triton takes time, and
where it is missing PyTorch's kernels serve.
"""

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from ..contract import Kernels

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

LEAST_VERSION = (3, 4)
LEAST_CAPABILITY = (8, 0)
"""Of compute; older GPUs have no bfloat16."""

LEAST_VALUES = 0
"""Tensors of fewer values go to PyTorch's kernels. No GPU was at hand to measure where that pays;
`benchmarks/gpu.py` measures it."""

MOST_VALUES = 2**31 - 2**16
"""Values of a channel: rows are counted in 32 bits."""

VARIABLE = "BATCHNORM_TRITON"
"""Set to 0, it turns the kernels off."""


def kernels(x: Tensor) -> Kernels | None:
    """Give the kernels for a tensor on a GPU; None where PyTorch's serve it, for the `reason`."""
    if x.dtype not in DTYPES or x.numel() < LEAST_VALUES:
        return None
    if not torch.compiler.is_compiling() and x.numel() // max(x.shape[1], 1) > MOST_VALUES:
        return None
    return _load(x.device.index)


def reason(device: int | None = None) -> str | None:
    """Say why there are no kernels for a GPU; None where there are some."""
    if device not in _reasons:
        _reasons[device] = _why_not(device)
    return _reasons[device]


def _load(device: int | None) -> Kernels | None:
    if device not in _kernels:
        launch: Any = None if reason(device) else importlib.import_module(".launch", __name__)
        _kernels[device] = launch
    return _kernels[device]


# A compiler could not trace it. This is what `torch.compiler.assume_constant_result` does, without
# importing the compiler, which takes longer than everything else here.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _why_not(device: int | None) -> str | None:
    if os.environ.get(VARIABLE) == "0":
        return f"the environment variable {VARIABLE} is 0"
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use"
    if torch.version.hip is not None:
        return "they have not been tried on AMD GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        wanted, here = _dotted(LEAST_CAPABILITY), _dotted(capability)
        return f"they need a GPU of compute capability {wanted}, found {here}"
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error}); pip install 'batchnorm[triton]'"
    found = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if found < LEAST_VERSION:
        return f"they need Triton {_dotted(LEAST_VERSION)}, found {triton.__version__}"
    return None


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


_reasons: dict[int | None, str | None] = {}
_kernels: dict[int | None, Kernels | None] = {}
