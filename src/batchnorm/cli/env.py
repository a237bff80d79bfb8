"""`batchnorm env`: versions, devices, and which kernels serve which case."""

import json as json_module
import platform
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

_PACKAGES = ("batchnorm", "torch", "numpy", "scipy", "scikit-learn", "joblib", "altair", "typer")


def command(
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show versions, devices, and which kernels serve which case."""
    facts = _facts()
    if json:
        print(json_module.dumps(facts))
        return
    table = Table("what", "found", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    Console().print(table)


def _facts() -> dict[str, str]:
    import torch

    from ..ops import describe

    facts = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["threads"] = str(torch.get_num_threads())
    facts["processor"] = torch.backends.cpu.get_cpu_capability()
    facts["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {**facts, **describe()}
