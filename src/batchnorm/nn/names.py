"""What a layer is called inside the model that is running."""

import sys

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def qualified_name(layer: nn.Module) -> str:
    """Find the name of a layer in the outermost module on the call stack that contains it.

    For messages only: it looks through the frames of the callers.

    Returns:
        A name such as "features.3.bn"; empty where nothing that contains the layer is running.
    """
    frame, found = sys._getframe(1), ""
    while frame is not None:
        # Reading f_locals copies all variables, and a frame that goes on keeps the copies alive.
        is_method = frame.f_code.co_varnames[:1] == ("self",)
        owner = frame.f_locals.get("self") if is_method else None
        if isinstance(owner, nn.Module) and owner is not layer:
            names = (name for name, module in owner.named_modules() if module is layer)
            found = next(names, found)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def label(layer: _BatchNorm) -> str:
    """Name a layer for a message: its class and, inside a model, its qualified name."""
    kind = f"{type(layer).__name__}({layer.num_features})"
    name = qualified_name(layer)
    return f"{kind} at {name!r}" if name else kind
