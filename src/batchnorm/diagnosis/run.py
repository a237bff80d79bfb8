"""A few passes over the data, the numbers they give, and what the rules say about them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Sync, meeting
from ..errors import SurgeryError
from ..surgery.kinds import is_lazy
from ..surgery.recalibration.batches import Progress, run_on, shown
from .collect import Request, check_request, collect
from .diagnosis import Diagnosis, diagnosis_of, without_layers
from .meter import layers_of
from .passes import Forward, Loss, Way


def diagnose(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    forward: Forward | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    example: Sequence[Any] | None = None,
    replicas: Sequence[Mapping[str, Tensor]] = (),
    sync: Sync = False,
    max_batches: int = 32,
    progress: Progress | bool | None = None,
) -> Diagnosis:
    """Say what is wrong with the batch normalization of a model, with evidence and a remedy.

    The model is run on the batches as in training, with the batch's and with the running
    statistics, and with statistics measured anew. It is bit for bit as before afterwards: modes,
    buffers, gradients, hooks, and the global random generators.

    Args:
        model: A model, or a layer; layers of this library and those of torch are seen.
        batches: Batches of the data it is trained on, as the training loop gets them. The first
            `max_batches` are kept in memory.
        loss: Called as loss(output, batch), returns one number to be minimized; with it, gradients
            are measured, too. The batch is on the device of the model. It is given outputs of
            training and of evaluation mode.
        forward: Called as forward(model, batch), returns the output. By default a tensor is the
            input, so is the first element of a tuple or list, a dictionary holds keyword
            arguments, and any other object is the argument; tensors are moved to the model.
        optimizer: That of the training, to be looked at.
        example: Positional arguments of the model, to see which layer feeds which. By default
            those that it was called with on the first batch.
        replicas: State dicts of the other replicas of a distributed training, to be compared;
            not needed with `sync`.
        sync: Pool what the replicas of `torch.distributed` see, each in batches of its own: True
            for all processes, or a ProcessGroup. All of them must call this, with the same model
            and at least one batch, and come to the same findings.
        max_batches: How many batches are run.
        progress: Called as progress(done, total). None: a bar on stderr if that is a terminal and
            rich is installed. False: nothing.

    Returns:
        A printable `Diagnosis`.

    Raises:
        OptionError: An option has no valid value, or the model does not take the batches.
        StatisticsError: There are no batches.
        SurgeryError: The model has lazy modules that have had no input yet, or tensors without
            numbers.
        SyncError: Another replica has failed, cannot be reached, or has another model.
        BaseException: Whatever `forward`, `loss`, the model, `batches` or Ctrl-C raise. After any
            exception the model is as it was, bit for bit.

    Example: a network whose running statistics were never updated.
        >>> from batchnorm import BatchNorm1d
        >>> model = nn.Sequential(BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2))
        >>> batches = [5 + torch.arange(8.0).view(4, 2), 5 + torch.arange(8.0).view(4, 2)]
        >>> [f.rule for f in diagnose(model, batches).findings if f.severity == "error"]
        ['never_updated']

    Source: Wu & Johnson 2021 (arXiv:2105.07576) for most of what can go wrong.
    """
    _refuse_empty(model)
    start = time.perf_counter()
    with meeting(sync, "diagnose") as others, shown(progress, "diagnose") as show:
        given = None if example is None else tuple(example)
        way = Way(model, forward or run_on, loss)
        request = Request(
            way, batches, max_batches, optimizer, given, tuple(replicas), show, others
        )
        check_request(request)
        if not layers_of(model):
            return without_layers(model)
        evidence = collect(request)
    return diagnosis_of(evidence, time.perf_counter() - start)


def _refuse_empty(model: nn.Module) -> None:
    lazy = [name or "(the model itself)" for name, m in model.named_modules() if is_lazy(m)]
    if lazy:
        raise SurgeryError(
            f"{lazy[-1]}: lazy, so the number of channels is not known yet. Run one batch through "
            f"the model first, then diagnose."
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise SurgeryError(
            "the model has tensors on the meta device, which hold no numbers; give them some first"
        )
