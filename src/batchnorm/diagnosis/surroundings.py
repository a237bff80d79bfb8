"""What stands around a model: its loader, its optimizer, its parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..surgery.recalibration.batches import length
from .evidence import Loader, ParameterEvidence
from .redraw import samples_of


def loader_of(source: Any, batches: Sequence[Any], redrawn: str | None) -> Loader:
    """Describe the batches.

    Args:
        source: What they came from.
        batches: Those that were run.
        redrawn: Why their samples could not be put into other batches, or None.
    """
    total, last = length(source), None
    if isinstance(source, torch.utils.data.DataLoader) and source.batch_size is not None:
        size = length(source.dataset)
        last = None if size is None else source.batch_size
        if size is not None and size % source.batch_size and not source.drop_last:
            last = size % source.batch_size
    elif total == len(batches):
        last = size_of(batches[-1])
    return Loader(len(batches), tuple(map(size_of, batches)), total, last, redrawn)


def size_of(batch: Any) -> int:
    """Tell the number of samples of a batch; 0 where it has no tensors."""
    return samples_of(batch) or 0


def parameters_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    had_grad: Mapping[str, bool],
    grad_norms: Mapping[str, Sequence[float]],
) -> dict[str, ParameterEvidence]:
    """Describe the parameters.

    Args:
        model: The model.
        optimizer: That of the training, or None.
        had_grad: Whether each had a gradient as found.
        grad_norms: Norms of the gradients of each batch.
    """
    decay = _decays(optimizer)
    means = {name: sum(norms) / len(norms) for name, norms in grad_norms.items()}
    return {
        name: ParameterEvidence(
            requires_grad=parameter.requires_grad,
            norm=float(torch.linalg.vector_norm(parameter.detach().double())),
            grad_norm=means.get(name),
            weight_decay=decay.get(parameter),
            has_grad=had_grad[name],
        )
        for name, parameter in model.named_parameters()
    }


def steps_of(optimizer: torch.optim.Optimizer | None) -> int | None:
    """Tell how many steps an optimizer has made; None where it does not count them."""
    states = optimizer.state.values() if optimizer is not None else ()
    steps = [int(state["step"]) for state in states if "step" in state]
    return max(steps, default=None)


def world_size() -> int:
    """Tell how many processes train together."""
    distributed = torch.distributed
    has_world = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if has_world else 1


def _decays(optimizer: torch.optim.Optimizer | None) -> dict[Tensor, float]:
    if optimizer is None:
        return {}
    return {
        parameter: float(group.get("weight_decay", 0.0))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
