"""The C++ library: where it is, whether it can be used, and how it is called."""

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ABI = 1
"""Version of csrc/batchnorm_cpu.h that this file is written for."""

OK, NOT_FINITE = 0, 4
"""What a call returns where it has done its work; the second: with a moment that is not finite."""

_ERRORS = {1: "an argument makes no sense", 2: "out of memory", 3: "the parallel loop failed"}

pack: Callable[..., bytes] = struct.Struct("@3q4i2d18P").pack
"""Make a `batchnorm_call`: sizes (3), dtype, activation, threads, constant, eps, momentum, and
pointers (18) in the order of the header."""


Function = Callable[[bytes], int]
"""Takes what `pack` makes; returns a code."""


class Library:
    """The functions of csrc/batchnorm_cpu.h, each taking what `pack` makes.

    Args:
        path: The shared library.

    Raises:
        OSError: It cannot be loaded, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        found = library.batchnorm_abi()
        if found != ABI:
            raise OSError(f"expected version {ABI} of {path}, found {found}; build it again")
        self.stats = _function(library, "batchnorm_stats")
        self.train = _function(library, "batchnorm_train")
        self.evaluate = _function(library, "batchnorm_evaluate")
        self.normalize = _function(library, "batchnorm_normalize")
        self.backward = _function(library, "batchnorm_backward")
        self.sign_words = library.batchnorm_sign_words
        self.sign_words.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_int32]
        self.sign_words.restype = ctypes.c_int64
        self._restrict = library.batchnorm_restrict
        self._restrict.argtypes = [ctypes.c_char_p]
        self._instructions = library.batchnorm_instructions
        self._instructions.restype = ctypes.c_char_p
        library.batchnorm_last_level_cache.restype = ctypes.c_int64
        self.last_level_cache: int = library.batchnorm_last_level_cache()
        """Bytes; larger outputs go past it."""
        self.parallel_for = _parallel_for()

    @property
    def instructions(self) -> str:
        """The instruction set in use: "portable", "avx2" or "avx512"."""
        name: bytes = self._instructions()
        return name.decode()

    def restrict(self, instructions: str) -> bool:
        """Use only this instruction set; False where the machine does not have it."""
        return bool(self._restrict(instructions.encode()) == OK)


def library() -> Library | None:
    """Give the library; None where there is none, for the `reason`."""
    return _library


def reason() -> str | None:
    """Say why there is no library; None where there is one."""
    return _reason


def loaded() -> Library:
    """Give the library where it is known to be there."""
    assert _library is not None
    return _library


def refuse(code: int) -> None:
    """Raise for a code that is neither `OK` nor `NOT_FINITE`."""
    if code == 2:
        raise MemoryError("batchnorm: the CPU kernels found no memory for their sums")
    raise RuntimeError(f"batchnorm: a CPU kernel failed: {_ERRORS.get(code, f'code {code}')}")


def _load() -> tuple[Library | None, str | None]:
    asked = os.environ.get(VARIABLE)
    if asked == "":
        return None, f"the environment variable {VARIABLE} is empty"
    folder = Path(__file__).parents[1] / "_native"
    path = Path(asked) if asked else folder / f"libbatchnorm_cpu{_SUFFIX}"
    if asked and not path.exists():
        return None, f"the environment variable {VARIABLE} names {path}, and there is no such file"
    if not path.exists():
        return None, f"it was not built when the package was installed: there is no {path}"
    try:
        return Library(path), None
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be used: {error}"


VARIABLE = "BATCHNORM_CPU_LIBRARY"
"""Names another library than the one that was installed; empty for none."""

_SUFFIX = {"darwin": ".dylib"}.get(sys.platform, ".so")


def _function(library: ctypes.CDLL, name: str) -> Function:
    function = library[name]
    function.argtypes = [ctypes.c_char_p]
    function.restype = ctypes.c_int32
    return function


def _parallel_for() -> int:
    """Address of PyTorch's own loop over its threads; 0 where it has none."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            function = ctypes.CDLL(str(folder / name)).torch_parallel_for
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0


# When the module is imported, since a compiler could not trace it.
_library, _reason = _load()
