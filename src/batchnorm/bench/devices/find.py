"""From the name of a device to the device."""

import re

import torch

from ...errors import DeviceError, UsageError
from .cpu import Cpu
from .cuda import Cuda
from .device import Device


def find(name: str) -> Device:
    """Give a device.

    Args:
        name: "cpu", "cuda" (the current GPU) or "cuda:1".

    Raises:
        UsageError: That is no such name.
        DeviceError: There is no such GPU.
    """
    if name == "cpu":
        return Cpu()
    match = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if match is None:
        raise UsageError(f"--device {name}: expected cpu, cuda, or cuda:0, cuda:1 and so on")
    built = torch.version.cuda or torch.version.hip
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = None if match[1] is None else int(match[1])
    missing = what_is_missing(torch.__version__, built, count, index)
    if missing:
        raise DeviceError(f"--device {name}: expected a GPU that PyTorch can use, found {missing}")
    place = torch.device("cuda", torch.cuda.current_device() if index is None else index)
    return Cuda(place, torch.cuda.get_device_properties(place))


def what_is_missing(torch_version: str, built: str | None, count: int, index: int | None) -> str:
    """Say why a GPU cannot be used, and what to do; empty where it can be.

    Args:
        torch_version: Of PyTorch.
        built: Version of CUDA that PyTorch was built for; None: none.
        count: How many GPUs PyTorch finds.
        index: Which one is asked for; None: any.

    Example:
        >>> what_is_missing("2.13.0", "12.8", count=1, index=1)
        'only cuda:0; choose one of those'
    """
    if built is None:
        return (
            f"PyTorch {torch_version}, which was built without CUDA; install one for your GPU "
            "(https://pytorch.org/get-started/locally), or measure --device cpu"
        )
    if count == 0:
        return (
            f"none (PyTorch {torch_version} for CUDA {built} sees no GPU); see whether nvidia-smi "
            "lists one, and what CUDA_VISIBLE_DEVICES is, or measure --device cpu"
        )
    if index is not None and index >= count:
        there = ", ".join(f"cuda:{i}" for i in range(count))
        return f"only {there}; choose one of those"
    return ""
