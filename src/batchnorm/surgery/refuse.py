"""Models that no verb which changes the structure can work on."""

import torch
from torch import nn

from ..errors import SurgeryError
from .kinds import is_lazy


def require_materialized(model: nn.Module) -> None:
    """Refuse lazy modules: nobody knows their number of channels yet.

    Raises:
        SurgeryError: Some parameter has no shape yet.
    """
    lazy = [n or "(the model itself)" for n, m in model.named_modules() if _is_lazy_itself(m)]
    if lazy:
        raise SurgeryError(
            f"{', '.join(lazy)}: lazy, so the number of channels is not known yet. Run one batch "
            "through the model first."
        )


def require_readable(model: nn.Module) -> None:
    """Refuse models whose modules are not Python any more.

    Raises:
        SurgeryError: A part is compiled.
    """
    for name, module in model.named_modules():
        is_compiled = type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")
        if isinstance(module, torch.jit.ScriptModule) or is_compiled:
            raise SurgeryError(
                f"'{name or 'the model itself'}' is compiled; expected a model of Python modules. "
                "Do this before torch.compile or torch.jit.script."
            )


def _is_lazy_itself(module: nn.Module) -> bool:
    return is_lazy(module) and not any(is_lazy(child) for child in module.children())
