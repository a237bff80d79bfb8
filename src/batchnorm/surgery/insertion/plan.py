"""Where batch normalization goes in a sequence of calls, and why not where it does not.

A *stage* is one layer with weights and everything up to the next one. A stage gets one batch
normalization, at its first activation, unless there is a reason against it. Nothing is edited here.
"""

import dataclasses
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ...errors import SurgeryError
from ...records import Change
from ..changes import Changes
from ..kinds import RANGES, Kind, runs_as
from .channels import channels_at
from .walk import Site, qualified


@dataclasses.dataclass(frozen=True)
class Insertion:
    """One batch normalization to build, and its place."""

    parent: str
    """Qualified name of the `nn.Sequential` it goes into."""
    after: str | None
    """The child it goes behind; None: in front of all."""
    child: str
    """Its own name in its parent."""
    dim: int
    num_features: int
    dtype: torch.dtype
    device: torch.device

    @property
    def name(self) -> str:
        """Its qualified name."""
        return qualified(self.parent, self.child)

    @property
    def follows(self) -> str:
        """Qualified name of the module it goes behind; of its sequence if it comes first."""
        return qualified(self.parent, self.after) if self.after else self.parent


@dataclasses.dataclass
class Plan:
    """Everything that is going to be edited, and the list of it for people."""

    insertions: list[Insertion] = dataclasses.field(default_factory=list)
    dropped_biases: list[str] = dataclasses.field(default_factory=list)
    changes: Changes = dataclasses.field(default_factory=Changes)

    def leave(self, site: Site, reason: str) -> None:
        """Note that nothing is done at a site."""
        self.changes.append(Change(site.name, "leave alone", reason))

    def insert(self, insertion: Insertion, reason: str) -> None:
        """Note one insertion."""
        self.insertions.append(insertion)
        what = f"insert BatchNorm{insertion.dim}d({insertion.num_features})"
        self.changes.append(Change(insertion.name, what, reason))


@dataclasses.dataclass(frozen=True)
class Stage:
    """One layer with weights and the calls up to the next layer."""

    layer: Site
    rest: tuple[Site, ...]
    is_last: bool

    def of(self, *kinds: Kind) -> list[Site]:
        """The calls behind the layer that are of one of the kinds."""
        return [site for site in self.rest if site.kind in kinds]


def plan_hidden(model: nn.Module, sites: list[Site], where: str) -> Plan:
    """Plan one batch normalization for every hidden layer.

    Args:
        model: The model that the sites were read from.
        sites: Its calls, all of them visible.
        where: "before_activation" or "after_activation".

    Raises:
        SurgeryError: There is no activation, or a place where batch normalization would be wrong.
    """
    if not any(site.kind is Kind.ACTIVATION for site in sites):
        raise SurgeryError(
            "the model has no activation that insert knows, so no hidden layer to normalize. "
            "Activations must be modules, such as nn.ReLU(), not calls in a forward."
        )
    plan = Plan()
    prefix, stages = _stages(sites)
    for site in prefix:
        if site.kind is Kind.ACTIVATION:
            plan.leave(site, "no linear or convolutional layer comes before it")
    for stage in stages:
        _plan_stage(plan, model, stage, where)
    return plan


def free_name(sequence: nn.Module, wanted: str) -> str:
    """The wanted name, or with the first of the endings 2, 3 ... that is free in the sequence."""
    name, number = wanted, 1
    while hasattr(sequence, name):
        number += 1
        name = f"{wanted}{number}"
    return name


def drop_biases(plan: Plan, sites: list[Site]) -> None:
    """Plan the removal of every bias that the batch normalization right behind it cancels.

    Behind an activation nothing cancels it, so "after_activation" drops none.
    """
    behind = {(ins.parent, ins.after) for ins in plan.insertions}
    calls: dict[int, list[Site]] = {}
    for site in sites:
        if site.kind is Kind.LAYER:
            calls.setdefault(id(site.module), []).append(site)
    for uses in calls.values():  # a layer used twice is spoken of once
        num_normalized = sum((site.parent, site.child) in behind for site in uses)
        if num_normalized and _has_bias(uses[0].module):
            _drop_bias(plan, uses[0], num_other_uses=len(uses) - num_normalized)
    _sort(plan, sites)


def _stages(sites: list[Site]) -> tuple[list[Site], list[Stage]]:
    starts = [i for i, site in enumerate(sites) if site.kind is Kind.LAYER]
    ends = [*starts[1:], len(sites)]
    stages = [
        Stage(sites[start], tuple(sites[start + 1 : end]), is_last=end == len(sites))
        for start, end in zip(starts, ends, strict=True)
    ]
    return sites[: starts[0]] if starts else sites, stages


def _plan_stage(plan: Plan, model: nn.Module, stage: Stage, where: str) -> None:
    activations = stage.of(Kind.ACTIVATION)
    reason = _reason_against(stage, where)
    if reason:
        plan.leave(stage.layer, reason)
        return
    site = stage.layer if where == "before_activation" else activations[0]
    dim, num_features = channels_at(site, stage.layer, stage.rest)
    sequence = model.get_submodule(site.parent)
    weight = _weight_of(stage.layer)
    child = free_name(sequence, f"{site.child}_norm")
    plan.insert(
        Insertion(site.parent, site.child, child, dim, num_features, weight.dtype, weight.device),
        f"after {site}, before {activations[0]}" if site is stage.layer else f"after {site}",
    )
    for extra in activations[1:]:
        plan.leave(extra, f"{stage.layer} is normalized at its first activation, {activations[0]}")


def _reason_against(stage: Stage, where: str) -> str | None:
    norms, outputs = stage.of(Kind.NORM), stage.of(Kind.OUTPUT)
    steps = stage.of(Kind.ACTIVATION, Kind.OUTPUT)
    if norms:
        return f"already normalized by {norms[0]}"
    if not steps:
        return "the last layer, without activation" if stage.is_last else "no activation follows it"
    if steps[0] in outputs:
        return f"{steps[0]} gives probabilities; it is not the activation of a hidden layer"
    if stage.is_last and where == "after_activation":
        return f"{steps[0]} gives the output of the network; normalizing it would destroy it"
    if stage.is_last and runs_as(steps[0].module, RANGES):
        return f"{steps[0]} gives the network's output its range; this is no hidden layer"
    return None


def _sort(plan: Plan, sites: list[Site]) -> None:
    order = {site.name: i for i, site in enumerate(sites)}
    order |= {ins.name: order[ins.follows] for ins in plan.insertions}
    plan.changes.sort(key=lambda change: order[change.name])


def _has_bias(layer: nn.Module) -> bool:
    # reading a parametrized attribute computes it, and may update the original's buffers
    return is_parametrized(layer, "bias") or layer.bias is not None


def _drop_bias(plan: Plan, site: Site, num_other_uses: int) -> None:
    reason = None
    if num_other_uses:
        reason = f"the layer is shared, and not normalized at {num_other_uses} other place(s)"
    elif "bias" not in dict(site.module.named_parameters(recurse=False)):
        reason = "it is computed by a parametrization; behind the normalization it has no effect"
    elif site.module._forward_hooks:
        reason = "a forward hook sees the output of the layer"
    if reason:
        plan.changes.append(Change(site.name, "keep bias", reason))
        return
    plan.dropped_biases.append(site.name)
    plan.changes.append(Change(site.name, "drop bias", "the normalization behind it cancels it"))


def _weight_of(layer: Site) -> Tensor:
    weight = next(chain(layer.module.parameters(), layer.module.buffers()))
    if weight.is_complex():
        raise SurgeryError(f"{layer} is {weight.dtype}; batch normalization is for real numbers.")
    return weight
