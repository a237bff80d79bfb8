"""The user's model, as the commands that change one get it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


def made(
    make: Callable[..., Any],
    spec: str,
    state: Mapping[str, "Tensor"] | None = None,
    weights: Path | None = None,
) -> "nn.Module":
    """Make a model, and load a state_dict into it.

    Args:
        make: What `spec` names.
        spec: As the user wrote it after --model.
        state: The state_dict; None to leave the model as it was made.
        weights: The file it came from, for messages.

    Raises:
        UsageError: The callable raises or makes no module, or the state_dict is that of another.
    """
    from torch import nn

    model = called(make, f"--model {spec!r}")
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {spec!r}: expected a torch.nn.Module, found {type(model).__name__}"
        )
    if state is None:
        return model
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"--weights {str(weights)!r} does not fit --model {spec!r}: {error}"
        ) from error
    return model


def called(function: Callable[..., Any], where: str) -> Any:
    """Call what the user has named.

    Raises:
        UsageError: It raises.
    """
    try:
        return function()
    except Exception as error:
        raise UsageError(f"{where}: raised {type(error).__name__}: {error}") from error


def batches_of(data: Callable[..., Any], spec: str) -> Any:
    """Call what the user has named after --data.

    Raises:
        UsageError: It raises, or gives no batches.
    """
    batches = called(data, f"--data {spec!r}")
    if not hasattr(batches, "__iter__") or hasattr(batches, "dim"):
        raise UsageError(
            f"--data {spec!r}: expected batches, such as a list or a DataLoader, found "
            f"{type(batches).__name__}"
        )
    return batches
