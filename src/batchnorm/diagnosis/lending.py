"""Buffers that a model may write to, in the place of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..surgery.recalibration.restore import undisturbed


@contextmanager
def lent(model: nn.Module) -> Iterator[None]:
    """Let the model work on copies of its buffers in the block; they share what they shared.

    A graph from before may have saved a buffer, and to write to it and back would spoil the graph.
    Nor can a write always be seen: PyTorch's layers move running statistics without counting it in
    the version of the tensor.
    """
    own = [(m, dict(m._buffers)) for m in model.modules() if not _is_script(m)]
    copies: dict[int, Tensor] = {}
    try:
        for module, buffers in own:
            for name, tensor in buffers.items():
                if tensor is not None:
                    copies.setdefault(id(tensor), tensor.detach().clone())
                    module._buffers[name] = copies[id(tensor)]
        yield
    finally:
        with undisturbed():
            for module, buffers in own:
                module._buffers.clear()
                module._buffers.update(buffers)


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)
