"""Less memory for training: outputs of layers are computed once more instead of being kept."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.autograd.graph import saved_tensors_hooks

from ..ops.recompute import Outputs, is_possible


@contextmanager
def recompute() -> Iterator[None]:
    """Compute outputs of our layers once more in the backward pass, instead of keeping them.

    A layer keeps its input for the backward pass, and what follows the layer, a convolution for
    example, keeps the layer's output. Of all that is saved inside the block, outputs of our layers
    are not kept; the backward pass computes them from what the layer has kept anyway, by one pass
    over memory. Gradients are the same bit for bit.

    Only the forward pass has to be inside. Where another tool decides what is saved (checkpoints,
    other hooks for saved tensors, a compiler), it goes on to do so. See docs/memory.md.

    Example:
        >>> import torch, batchnorm as bn
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 16, 3),
        ...     bn.BatchNorm2d(16, activation="relu"),
        ...     torch.nn.Conv2d(16, 16, 3),
        ... )
        >>> with recompute():
        ...     y = model(torch.randn(8, 3, 32, 32))
        >>> y.sum().backward()
    """
    if not is_possible():
        yield
        return
    outputs = Outputs()
    with saved_tensors_hooks(outputs.pack, outputs.unpack):
        try:
            yield
        finally:
            outputs.clear()
