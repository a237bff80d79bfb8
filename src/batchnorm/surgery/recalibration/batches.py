"""How a batch of any structure is given to a model, and how a loop over batches shows itself."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import OptionError

Progress = Callable[[int, int | None], None]
"""Is given the number of batches done, and of all there will be, None where that is unknown."""


def arguments_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take a batch as most training loops do: the arguments that a model is called with.

    A tensor is the input. Of a tuple or list, the first element is: what follows are targets. A
    dictionary holds keyword arguments. Any other object is the argument itself.
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return tuple(batch[:1]), {}
    return (batch,), {}


def run_on(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch; tensors are moved to the device of the model if it has only one.

    Returns:
        What the model returns.

    Raises:
        OptionError: The model does not take the batch.
    """
    return runner(model)(model, batch)


def runner(model: nn.Module) -> Callable[[nn.Module, Any], Any]:
    """`run_on` for many batches: where the model is, is asked once."""
    device = device_of(model)

    def run(model: nn.Module, batch: Any) -> Any:
        args, kwargs = arguments_of(batch)
        _check(model, batch, args, kwargs)
        kwargs = {key: moved(value, device) for key, value in kwargs.items()}
        return model(*(moved(value, device) for value in args), **kwargs)

    return run


def _check(model: nn.Module, batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # scripts have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        found = f"{type(batch).__name__}({', '.join(kwargs)})" if kwargs else type(batch).__name__
        raise OptionError(
            f"expected a batch that {type(model).__name__}.forward takes, found {found}: {error}; "
            f"pass forward=, for example lambda model, batch: model(batch['input'])"
        ) from None


def device_of(model: nn.Module) -> torch.device | None:
    """Give the device of all parameters and buffers; None where there are none, or several."""
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    return devices.pop() if len(devices) == 1 else None


def moved(value: Any, device: torch.device | None) -> Any:
    """Move tensors, and those in a nest of tuples, lists, and dicts; None moves nothing."""
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if type(value) in (tuple, list):
        return type(value)(moved(item, device) for item in value)
    if type(value) is dict:
        return {key: moved(item, device) for key, item in value.items()}
    return value


def length(batches: Any) -> int | None:
    """Number of batches, None where that is not known before they are gone through."""
    try:
        return len(batches)
    except TypeError:
        return None


@contextmanager
def shown(progress: Progress | bool | None, title: str = "recalibrate") -> Iterator[Progress]:
    """Show progress while the block lasts.

    Args:
        progress: What is called after every batch; None for a bar on stderr if that is a terminal
            and rich is installed; True for the same, False for nothing.
        title: What stands beside the bar.
    """
    if callable(progress):
        yield progress
    elif progress is False or not sys.stderr.isatty():
        yield _silent
    else:
        with _bar(title) as update:
            yield update


def _silent(done: int, total: int | None) -> None:
    """Show nothing."""


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:
        yield _silent
        return
    columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("batches", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
