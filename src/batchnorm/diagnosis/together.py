"""What several replicas have seen, as if one had gone through the batches of all."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed import Meeting
from ..errors import OptionError, SyncError
from .activations import Units
from .evidence import ActivationEvidence, Calls, Evidence, LayerEvidence, Loader, ParameterEvidence
from .outputs import Difference

V = TypeVar("V")

Pair = tuple[str, str]
"""Names of two runs."""


class Share(NamedTuple):
    """What one replica has seen: evidence, and the sums behind those numbers that are means.

    Args:
        evidence: Without the graph.
        has_graph: Whether there is one.
        units: Activations, by name.
        errors: Squared gradients and their number, of each call of each layer.
        grad_norms: Of each batch, by parameter.
        differences: Between the outputs of two runs.
    """

    evidence: Evidence
    has_graph: bool
    units: Mapping[str, Units]
    errors: Mapping[str, Sequence[tuple[float, int]]]
    grad_norms: Mapping[str, Sequence[float]]
    differences: Mapping[Pair, Difference]


def check_alike(others: Meeting, model: nn.Module, layers: Mapping[str, _BatchNorm], n: int) -> int:
    """Refuse models that are not the same, and numbers of batches that would hang.

    Returns:
        How many batches all replicas have together.

    Raises:
        SyncError: Layers differ.
        OptionError: Layers talk to each other, and replicas have different numbers of batches.
    """
    told = others.gather(([(k, layer.num_features) for k, layer in layers.items()], n))
    if any(names != told[0][0] for names, _ in told):
        raise SyncError(
            "diagnose: the models of the replicas have different batch normalization layers; with "
            "sync= all have to diagnose the same model"
        )
    numbers = [number for _, number in told]
    if talks(model) and len(set(numbers)) > 1:
        raise OptionError(
            f"expected as many batches on every replica, since layers of the model are "
            f"synchronized, or it is wrapped in DistributedDataParallel; found "
            f"{', '.join(map(str, numbers))}. Set max_batches to the smallest, or unwrap the model"
        )
    return sum(numbers)


def talks(model: nn.Module) -> bool:
    """Say whether a forward pass waits for other replicas, as far as can be seen."""
    return any(
        isinstance(m, nn.SyncBatchNorm | nn.parallel.DistributedDataParallel)
        or (isinstance(m, _BatchNorm) and bool(getattr(m, "sync", False)))
        for m in model.modules()
    )


def same_edges(
    others: Meeting, edges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Agree on the ends of histograms: those of the first replica that has called a layer."""
    told = others.gather(dict(edges))
    return {name: ends for mine in reversed(told) for name, ends in mine.items()}


def together(mine: Share, others: Meeting) -> Evidence:
    """Pool what all replicas have seen; equal on all of them.

    What is one replica's own, such as its running statistics, its weights and its optimizer, is
    that of the first one; running statistics of the others are kept beside it.
    """
    if others.size == 1:
        return mine.evidence
    shares = others.gather(mine._replace(evidence=dataclasses.replace(mine.evidence, graph=None)))
    others.close()
    every = [share.evidence for share in shares]
    first, widest = every[0], max(every, key=lambda e: max(e.loader.sizes))
    pairs = {pair for share in shares for pair in share.differences}
    return dataclasses.replace(
        first,
        layers={name: _layer(name, shares, widest) for name in _order(every)},
        activations=_activations(shares),
        graph=mine.evidence.graph if all(share.has_graph for share in shares) else None,
        no_graph=next((e.no_graph for e in every if e.no_graph is not None), None),
        gaps={p: _sum(s.differences[p] for s in shares if p in s.differences).gap() for p in pairs},
        losses=_joined([e.losses for e in every]),
        loader=_loader([e.loader for e in every]),
        parameters=_parameters(first, _joined([share.grad_norms for share in shares])),
        world_size=others.size,
        replicas=first.replicas + others.size - 1,
        leakage=widest.leakage,
        seconds={k: max(e.seconds.get(k, 0.0) for e in every) for e in every for k in e.seconds},
        notes=tuple(dict.fromkeys(note for e in every for note in e.notes)),
    )


def _order(every: Sequence[Evidence]) -> list[str]:
    """Give the names of layers in the order of calls; those nobody has called come last."""
    called = [name for e in every for name, layer in e.layers.items() if layer.runs]
    return list(dict.fromkeys([*called, *every[0].layers]))


def _layer(name: str, shares: Sequence[Share], widest: Evidence) -> LayerEvidence:
    every = [share.evidence.layers[name] for share in shares]
    first = every[0]
    seen = [share.evidence.loader.seen for share in shares]
    errors = [one for share in shares for one in share.errors[name]]
    count = sum(number for _, number in errors)
    buffers = tuple(
        (e.running_mean, e.running_var)
        for e in every[1:]
        if e.running_mean is not None and e.running_var is not None
    )
    return dataclasses.replace(
        first,
        input_dtype=next((e.input_dtype for e in every if e.input_dtype is not None), None),
        output_dtype=next((e.output_dtype for e in every if e.output_dtype is not None), None),
        calls=sum(n * e.calls for n, e in zip(seen, every, strict=True)) / sum(seen),
        updates=widest.layers[name].updates,
        error_rms=(sum(s for s, _ in errors) / count) ** 0.5 if count else None,
        edges=next((e.edges for e in every if e.edges is not None), None),
        runs=_runs(every, seen),
        replicas=(*first.replicas, *buffers),
    )


def _runs(every: Sequence[LayerEvidence], seen: Sequence[int]) -> dict[str, Calls]:
    starts = [sum(seen[:rank]) for rank in range(len(seen))]
    names = dict.fromkeys(run for layer in every for run in layer.runs)
    return {
        run: _calls([(s, e.runs[run]) for s, e in zip(starts, every, strict=True) if run in e.runs])
        for run in names
    }


def _calls(parts: Sequence[tuple[int, Calls]]) -> Calls:
    """Line up calls; each comes with the number of the first batch of its replica."""
    every = [calls for _, calls in parts]
    rows = {
        field.name: torch.cat([getattr(calls, field.name) for calls in every])
        for field in dataclasses.fields(Calls)
        if isinstance(getattr(every[0], field.name), Tensor) and field.name != "histogram"
    }
    return Calls(
        batch=tuple(start + batch for start, calls in parts for batch in calls.batch),
        statistics=tuple(itertools.chain.from_iterable(calls.statistics for calls in every)),
        histogram=torch.stack([calls.histogram for calls in every]).sum(0),
        degenerate=sum(calls.degenerate for calls in every),
        **rows,
    )


def _activations(shares: Sequence[Share]) -> dict[str, ActivationEvidence]:
    found: dict[str, Units] = {}
    for share in shares:
        for name, units in share.units.items():
            found[name] = found[name].merge(units) if name in found else units
    return {name: units.evidence(name) for name, units in found.items()}


def _sum(parts: Iterable[Difference]) -> Difference:
    first, *rest = parts
    for other in rest:
        first = first.merge(other)
    return first


def _joined(parts: Sequence[Mapping[str, Sequence[V]]]) -> dict[str, tuple[V, ...]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: tuple(v for part in parts for v in part.get(name, ())) for name in names}


def _parameters(
    first: Evidence, norms: Mapping[str, Sequence[float]]
) -> dict[str, ParameterEvidence]:
    means = {name: sum(of) / len(of) for name, of in norms.items()}
    return {
        name: dataclasses.replace(parameter, grad_norm=means.get(name))
        for name, parameter in first.parameters.items()
    }


def _loader(every: Sequence[Loader]) -> Loader:
    totals = [loader.total for loader in every if loader.total is not None]
    lasts = [loader.last_size for loader in every if loader.last_size is not None]
    redrawn = [loader.redrawn for loader in every if loader.redrawn is not None]
    return Loader(
        seen=sum(loader.seen for loader in every),
        sizes=tuple(itertools.chain.from_iterable(loader.sizes for loader in every)),
        total=sum(totals) if len(totals) == len(every) else None,
        last_size=min(lasts, default=None),
        redrawn=redrawn[0] if len(redrawn) == len(every) else None,
    )
