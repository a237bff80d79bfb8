"""Where batch normalization goes in nested `nn.Sequential` that nobody has seen running.

A *stage* is one layer with weights and everything up to the next one. A stage gets one batch
normalization, at its first activation, unless there is a reason against it. Nothing is edited here.
"""

import dataclasses

from torch import nn

from ...errors import SurgeryError
from ..kinds import ELEMENTWISE, RANGES, SPATIAL, Kind, dim_of, num_features_of, runs_as
from .plan import Insertion, Plan, free_name, has_bias, weight_of
from .walk import Site, require_visible, shared_sequences, walk


@dataclasses.dataclass(frozen=True)
class Stage:
    """One layer with weights and the calls up to the next layer."""

    layer: Site
    rest: tuple[Site, ...]
    is_last: bool

    def of(self, *kinds: Kind) -> list[Site]:
        """The calls behind the layer that are of one of the kinds."""
        return [site for site in self.rest if site.kind in kinds]


def plan_sequence(model: nn.Module, where: str) -> Plan:
    """Plan one batch normalization for every hidden layer of nested `nn.Sequential`.

    Linear layers are taken to have input (N, C).

    Args:
        model: The model.
        where: "before_activation" or "after_activation".

    Raises:
        SurgeryError: A part cannot be seen, there is no activation, or batch normalization would be
            wrong at a place.
    """
    sites = walk(model)
    require_visible(sites)
    if not any(site.kind is Kind.ACTIVATION for site in sites):
        raise SurgeryError(
            "the model has no activation that insert knows, so no hidden layer to normalize. "
            "Activations must be modules, such as nn.ReLU(); those that are called in a forward "
            "are seen with an example: insert(model, example)."
        )
    plan = Plan()
    prefix, stages = _stages(sites)
    for site in prefix:
        if site.kind is Kind.ACTIVATION:
            plan.leave(site.name, "no linear or convolutional layer comes before it")
    for stage in stages:
        _plan_stage(plan, model, stage, where)
    _require_own_places(model, plan)
    _drop_biases(plan, sites)
    return plan


def _drop_biases(plan: Plan, sites: list[Site]) -> None:
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
        if num_normalized and has_bias(uses[0].module):
            keep = _reason_to_keep(uses[0].module, num_other_uses=len(uses) - num_normalized)
            plan.drop_bias(uses[0].name, uses[0].module, keep)
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
        plan.leave(stage.layer.name, reason)
        return
    site = stage.layer if where == "before_activation" else activations[0]
    _require_channels_kept(site, stage)
    dim, num_features = dim_of(stage.layer.module), num_features_of(stage.layer.module)
    sequence = model.get_submodule(site.parent)
    weight = weight_of(stage.layer.module)
    if weight.is_complex():
        raise SurgeryError(
            f"{stage.layer} is {weight.dtype}; batch normalization is for real numbers."
        )
    child = free_name(sequence, f"{site.child}_norm")
    plan.insert(
        Insertion(site.parent, site.child, child, dim, num_features, weight.dtype, weight.device),
        f"after {site}, before {activations[0]}" if site is stage.layer else f"after {site}",
    )
    for extra in activations[1:]:
        first = activations[0]
        plan.leave(extra.name, f"{stage.layer} is normalized at its first activation, {first}")


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


def _reason_to_keep(layer: nn.Module, num_other_uses: int) -> str | None:
    if num_other_uses:
        return f"the layer is shared, and not normalized at {num_other_uses} other place(s)"
    return "a forward hook sees the output of the layer" if layer._forward_hooks else None


def _require_channels_kept(site: Site, stage: Stage) -> None:
    if site is stage.layer:
        return
    keeping = ELEMENTWISE if isinstance(stage.layer.module, nn.Linear) else ELEMENTWISE + SPATIAL
    between = stage.rest[: stage.rest.index(site)]
    changing = [str(other) for other in between if not runs_as(other.module, keeping)]
    if isinstance(site.module, nn.GLU):
        changing.append(str(site))
    if changing:
        raise SurgeryError(
            f"{', '.join(changing)} changes the number of channels that {site} gives out. Give "
            "insert an example input, so that it can be seen: insert(model, example)."
        )


def _require_own_places(model: nn.Module, plan: Plan) -> None:
    shared = shared_sequences(model)
    for insertion in plan.insertions:
        if insertion.parent in shared:
            names = ", ".join(map(repr, shared[insertion.parent]))
            raise SurgeryError(
                f"{names} are one and the same nn.Sequential, so its calls would share the "
                "statistics of one normalization. Give each call an nn.Sequential of its own; the "
                "layers in it may stay shared."
            )
