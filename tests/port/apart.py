"""The other frameworks, each in a process of its own.

JAX warns when a process that has it forks, Keras chooses its backend by the environment, and both
take seconds to import; so no test process imports them. A function of `with_*.py` is run there, on
arrays and plain values, and its result comes back.
"""

import atexit
import functools
import importlib
import importlib.util
import multiprocessing
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

SECONDS = 120
"""How long one call may take, the import included."""


class Apart:
    """A process that runs the functions of one module.

    Args:
        module: Name of the module, beside this file.
        needs: Packages it imports.
        environment: Variables to set there.
    """

    def __init__(self, module: str, needs: tuple[str, ...], environment: dict[str, str]) -> None:
        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}, which is not installed")
        context = multiprocessing.get_context("spawn")
        self.module = f"{__package__}.{module}"
        self.pool = ProcessPoolExecutor(
            1, context, initializer=_prepare, initargs=(environment, self.module)
        )
        atexit.register(self.pool.shutdown)

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.pool.submit(_run, self.module, name, args, kwargs).result(SECONDS)


def _prepare(environment: dict[str, str], module: str) -> None:
    os.environ.update(environment, OMP_NUM_THREADS="1")
    warnings.simplefilter("ignore")  # of the frameworks' own imports
    importlib.import_module(module)


def _run(module: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(importlib.import_module(module), name)(*args, **kwargs)


@functools.cache
def keras() -> Apart:
    """Keras 3 on PyTorch."""
    return Apart("with_keras", ("keras",), {"KERAS_BACKEND": "torch", "KERAS_HOME": os.devnull})


@functools.cache
def tf_keras() -> Apart:
    """Keras 2, where TensorFlow is installed."""
    return Apart("with_tf_keras", ("tf_keras", "tensorflow"), {"TF_CPP_MIN_LOG_LEVEL": "3"})


@functools.cache
def jax() -> Apart:
    """Flax, Haiku and Equinox, on the CPU."""
    return Apart("with_jax", ("jax", "flax", "haiku", "equinox"), {"JAX_PLATFORMS": "cpu"})
