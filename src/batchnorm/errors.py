"""Every exception the library raises on purpose.

BatchNormError
├── ShapeError(ValueError)        a tensor has the wrong number of axes or channels
├── DtypeError(TypeError)         a tensor holds the wrong kind of values
├── StatisticsError(ValueError)   there are no statistics to compute or to use
├── OptionError(ValueError)       an option has a value that is not one of the known ones
├── SyncError(RuntimeError)       replicas do not do the same, or one of them is gone
├── SurgeryError(ValueError)      a model cannot be changed the way that was asked for
├── PortError(ValueError)         arrays are not those of the layer they were said to be of
└── CommandError                  a command cannot go on; carries the exit code
    ├── UsageError                exit code 2: what the user gave is wrong
    ├── MissingExtraError         exit code 3: an optional dependency is not installed
    ├── DeviceError               exit code 3: there is no such GPU, or PyTorch cannot use it
    └── ClusterError              exit code 3: other machines cannot be used, or went away

A message says what was expected, what was found, where, and what to do. A note below it, which
tracebacks show, says where the documentation treats the class: its attribute `page`.
"""

from functools import cached_property
from typing import ClassVar


class BatchNormError(Exception):
    """Base of every error raised by this library."""

    page: ClassVar[str] = "docs/errors.md#BatchNormError"
    """File and anchor in the documentation; a class made elsewhere has that of its base."""

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__:
            cls.page = f"docs/errors.md#{cls.__name__}"

    # Made when a traceback asks for it: torch.compile traces no constructor of an exception.
    @cached_property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        return [f"See {self.page}"]


class ShapeError(BatchNormError, ValueError):
    """A tensor has the wrong number of axes or channels."""


class DtypeError(BatchNormError, TypeError):
    """A tensor holds the wrong kind of values."""


class StatisticsError(BatchNormError, ValueError):
    """There are no statistics to compute or to use."""


class OptionError(BatchNormError, ValueError):
    """An option has a value that is not one of the known ones."""


class SyncError(BatchNormError, RuntimeError):
    """Replicas do not do the same, or one of them is gone."""


class SurgeryError(BatchNormError, ValueError):
    """A model cannot be changed the way that was asked for."""


class PortError(BatchNormError, ValueError):
    """Arrays are not those of the layer they were said to be of."""


class CommandError(BatchNormError):
    """A command cannot go on; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(CommandError):
    """What the user gave is wrong: a file, a callable, a value, a data set."""

    exit_code = 2


class MissingExtraError(CommandError):
    """A part of the library was used whose optional dependencies are not installed."""

    exit_code = 3


class DeviceError(CommandError):
    """There is no such GPU, or PyTorch cannot use it."""

    exit_code = 3


class ClusterError(CommandError):
    """Other machines that should work cannot be reached, or went away."""

    exit_code = 3
