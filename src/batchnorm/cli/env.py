"""`batchnorm env`: versions, devices, and which kernels serve which case."""

import json as json_module
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGES = (
    "batchnorm",
    "torch",
    "triton",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "altair",
    "typer",
)
_OURS, _TORCH, _PLAIN = "compiled kernels", "PyTorch's kernels", "plain PyTorch operations"
_GPU = "Triton kernels"


def command(
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show versions, devices, and which kernels serve which case."""
    facts = _facts()
    if json:
        print(json_module.dumps(facts))
        return
    table = Table("what", show_header=False)
    table.add_column("found", overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    Console().print(table)


def _facts() -> dict[str, str]:
    import torch

    facts = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["threads"] = str(torch.get_num_threads())
    facts["processor"] = torch.backends.cpu.get_cpu_capability()
    facts["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {**facts, _OURS: _compiled(), _GPU: _triton(), **_served()}


def _compiled() -> str:
    """Say what the compiled kernels use, or why there are none and what helps."""
    from ..ops import native

    library = native.library()
    if library is None and native.VARIABLE in (native.reason() or ""):
        return f"none: {native.reason()}. Unset it, and the installed ones are used"
    if library is None:
        return (
            f"none: {native.reason()}. With a C++ compiler (g++ or clang++), install again with "
            "pip install --force-reinstall --no-cache-dir, or, in a checkout, run: make native"
        )
    cache = f"{library.last_level_cache / 2**20:.0f} MiB of last-level cache"
    threads = "PyTorch's threads" if library.parallel_for else "one thread, PyTorch shares none"
    return f"{library.instructions}, {threads}, {cache}; {library.path}"


def _triton() -> str:
    """Say for which GPUs there are kernels, or why there are none and what helps."""
    import torch

    from ..ops import triton

    if not torch.cuda.is_available():
        return f"none: {triton.reason()}"
    devices = range(torch.cuda.device_count())
    found = [f"{torch.cuda.get_device_name(i)}: {triton.reason(i) or 'served'}" for i in devices]
    return "; ".join(found)


def _served() -> dict[str, str]:
    """Say which path serves which case, as the dispatch itself decides, and why not another."""
    import torch

    from ..ops import native

    absent = "" if native.library() else "; the compiled kernels are missing"
    narrow = "; the compiled kernels take float32 and bfloat16"
    large = 8, 64, 32, 32
    cases = {
        "float32 on the CPU": (torch.empty(large), absent),
        "bfloat16 on the CPU": (torch.empty(large, dtype=torch.bfloat16), absent),
        "float64, float16 on the CPU": (torch.empty(large, dtype=torch.float64), narrow),
        **(_on_gpus(large) if torch.cuda.is_available() else {}),
        "other devices": (torch.empty(large, device="meta"), "; PyTorch's are for CPU and CUDA"),
    }
    served = {name: _path(x) + reason for name, (x, reason) in cases.items()}
    served["in vmap, grad, jvp"] = f"{_transformed()}; the others are opaque to transforms"
    return served


def _on_gpus(shape: tuple[int, ...]) -> dict[str, tuple["Tensor", str]]:
    import torch

    from ..ops import triton

    reason = triton.reason(torch.cuda.current_device())
    absent = "" if reason is None else f"; {reason}"
    narrow = "; the Triton kernels take float32, bfloat16 and float16"
    return {
        "float32, bfloat16, float16 on CUDA": (torch.empty(shape, device="cuda"), absent),
        "float64 on CUDA": (torch.empty(shape, dtype=torch.float64, device="cuda"), narrow),
    }


def _path(x: "Tensor") -> str:
    from ..ops import aten, dispatch

    if dispatch.fused(x) is not None:
        return _OURS if x.is_cpu else _GPU
    return _TORCH if dispatch.kernels(x) is aten else _PLAIN


def _transformed() -> str:
    import torch

    found: list[str] = []

    def look(x: "Tensor") -> "Tensor":
        found.append(_path(x))
        return x

    torch.vmap(look)(torch.empty(2, 8, 64, 32))
    return found[0]
