"""The kernels for GPUs on a machine without one: run by Triton's interpreter, on the CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from batchnorm import ops

ALONE, SHARED = "triton", "triton-shared"
"""How programs are planned: each has all values of its channels, or several share one."""


def interpret(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    """Let the kernels serve the CPU, as if they were its own."""
    launch, plan = modules()
    processors = 2
    if route == SHARED:
        monkeypatch.setattr(plan, "ALONE", 0)
        monkeypatch.setattr(plan, "LARGE", 0)
        processors = 8
    monkeypatch.setattr(plan, "PROGRAMS", 1)
    monkeypatch.setattr(plan, "TILE", 128 if route == SHARED else 2048)
    monkeypatch.setattr(launch.calls, "_planned", plan.make_plan)
    monkeypatch.setattr(launch.calls, "device_of", lambda index: plan.Device(processors, 2**20))
    monkeypatch.setattr(
        ops.dispatch, "own", lambda x: launch if x.dtype in ops.triton.DTYPES else None
    )


def modules() -> tuple[Any, Any]:
    """Import the kernels and their plans where they can be interpreted; skip the test elsewhere."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, for which the kernels are compiled; see the marker gpu")
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="needs Triton")
    from batchnorm.ops.triton import launch, plan

    if interpreter._patch_lang.__module__ != __name__:
        interpreter._patch_lang = _once(interpreter._patch_lang)
        run = interpreter.GridExecutor.__call__
        # NumPy warns of what a GPU lets pass.
        interpreter.GridExecutor.__call__ = np.errstate(all="ignore")(run)
    return launch, plan


def _once(patch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let the language be patched once a launch: for every function called, it takes most of it."""
    patched: set[tuple[str, ...]] = set()

    class Scope:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

        def restore(self) -> None:
            patched.clear()
            self.scope.restore()

    def _patch_lang(function: Any) -> Any:
        # A function is patched where its module names the language: `tl`, or `core` in Triton's.
        named = tuple(name for name in ("tl", "core") if name in function.__globals__)
        if named in patched:
            return None  # what calls a function in a kernel restores nothing
        patched.add(named)
        return Scope(patch(function))

    return _patch_lang
