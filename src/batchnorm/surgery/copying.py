"""Copies of a model, on which everything is tried and edited."""

import copy
import warnings
from typing import TypeVar

from torch import nn
from torch.nn.parameter import UninitializedBuffer

from ..errors import SurgeryError

M = TypeVar("M", bound=nn.Module)


def copy_model(model: M) -> M:
    """Copy a model with everything on it: parameters, buffers, hooks, modes, sharing.

    Raises:
        SurgeryError: Something in the model cannot be copied.
    """
    try:
        with warnings.catch_warnings():
            # a class of torch warns of itself where an exported program is copied
            warnings.simplefilter("ignore", FutureWarning)
            return copy.deepcopy(model, _lazy_buffers(model))
    except Exception as error:
        raise SurgeryError(
            f"the model cannot be copied: {error}. A frequent cause is a weight computed by a "
            "hook, as the old torch.nn.utils.weight_norm and prune do; use "
            "torch.nn.utils.parametrizations instead."
        ) from error


def _lazy_buffers(model: nn.Module) -> dict[int, UninitializedBuffer]:
    """Copies of buffers without a shape: torch can copy only parameters without one."""
    return {
        id(b): UninitializedBuffer(device=b.device, dtype=b.dtype)  # type: ignore[call-arg]
        for b in model.buffers()
        if isinstance(b, UninitializedBuffer)
    }


def in_evaluation(model: M) -> M:
    """Copy a model, and put the copy into evaluation mode.

    What `torch.export` gives has no modes: it is what it was exported as.

    Raises:
        SurgeryError: Something in the model cannot be copied.
    """
    scratch = copy_model(model)
    return scratch if "eval" in vars(scratch) else scratch.eval()
