"""A model that is only borrowed: whatever is done to it, it comes back as it was."""

import random
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Snapshot:
    """Buffers and modes of all modules, and the random number generators.

    Args:
        model: Of it, buffers are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self.modes = [(module, module.training) for module in modules]
        self.buffers = [(module, dict(module._buffers), _copies(module)) for module in modules]
        self.random = Randomness(model)

    def restore(self, but: Collection[nn.Module] = ()) -> None:
        """Put everything back; the buffers of some modules excepted."""
        with undisturbed():
            for module, mode in self.modes:
                module.training = mode
            for module, tensors, (copies, versions) in self.buffers:
                if not any(module is other for other in but):
                    _put_back(module, tensors, copies, versions)
            self.random.restore()


def _copies(module: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, int | None]]:
    buffers = module._buffers
    copies = {n: None if t is None else t.detach().clone() for n, t in buffers.items()}
    return copies, {n: None if t is None else _version(t) for n, t in buffers.items()}


def _put_back(
    module: nn.Module,
    tensors: dict[str, Tensor | None],
    copies: dict[str, Tensor | None],
    versions: dict[str, int | None],
) -> None:
    for name, tensor in tensors.items():
        module._buffers[name] = tensor
        copy = copies[name]
        if tensor is None or copy is None:
            continue
        # A write that changes nothing would still spoil a backward pass that is to come.
        if versions[name] is None or _version(tensor) != versions[name]:
            with torch.no_grad():
                tensor.copy_(copy)
    for name in set(module._buffers.keys()) - set(tensors):  # of a script, keys() is a list
        del module._buffers[name]


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


class Randomness:
    """The state of the generators that a forward pass or a data loader may draw from.

    Python's, NumPy's and torch's global ones, the last on every device of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.states: list[tuple[Any, Any]] = [
            (random.setstate, random.getstate()),
            (np.random.set_state, np.random.get_state()),  # noqa: NPY002  # the user's may draw
            (torch.set_rng_state, torch.get_rng_state()),
        ]
        devices = {t.device for t in (*model.parameters(), *model.buffers())}
        for device in sorted(devices - {torch.device("cpu"), torch.device("meta")}, key=str):
            generators = torch.get_device_module(device)
            state = generators.get_rng_state(device)
            self.states.append((lambda s, g=generators, d=device: g.set_rng_state(s, d), state))

    def restore(self) -> None:
        """Let all generators go on from where they were."""
        for put, state in self.states:
            put(state)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: half restored would not be restored."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed and callable(handler):
        handler(signal.SIGINT, None)


@contextmanager
def borrowed(model: nn.Module, keep: list[nn.Module]) -> Iterator[Snapshot]:
    """Restore a model at the end of the block, and after an exception all of it.

    Args:
        model: The model.
        keep: Modules whose buffers stay as the block leaves them, if it succeeds.
    """
    snapshot = Snapshot(model)
    try:
        yield snapshot
        snapshot.restore(but=keep)
    except BaseException:
        snapshot.restore()
        raise
