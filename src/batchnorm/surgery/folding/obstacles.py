"""What about a module itself forbids to change what it computes; always the reason, in words."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from ...nn.batch_norm import BatchNorm
from ..editing.replace import has_hooks, keepers
from ..graph.graph import Call, Graph
from ..kinds import runs_as

NORMS: tuple[type[nn.Module], ...] = (_BatchNorm, nn.SyncBatchNorm, BatchNorm)


def described(model: nn.Module, name: str) -> str:
    """A module as messages call it."""
    return f"{type(model.get_submodule(name)).__name__} '{name or 'the model itself'}'"


def about_norm(model: nn.Module, graph: Graph, name: str) -> str | None:
    """Say what forbids to fold a normalization anywhere; None if nothing does."""
    norm = model.get_submodule(name)
    if not name:
        return "it is the model itself"
    if type(norm) is nn.Module:
        return "torch.export has written it as arithmetic; fold the network, then export it"
    if not runs_as(norm, NORMS):
        return f"its class {type(norm).__name__} has a forward of its own"
    reason = about_module(model, name)
    if reason:
        return reason
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics, so it depends on the batch"
    reason = _about_calls(graph, name)
    if reason:
        return reason
    kept = next(keepers(model, norm), None)
    if kept:
        return f"the attribute '{kept}' holds it, too, outside of the tree of modules"
    return about_reads(model, graph, name)


def about_layer(model: nn.Module, graph: Graph, name: str) -> str | None:
    """Say what forbids to change the weights of a layer; None if nothing does."""
    layer = model.get_submodule(name)
    reason = about_module(model, name)
    if reason:
        return f"{described(model, name)}: {reason}"
    for attribute in ("weight", "bias"):
        own = getattr(layer, attribute)
        if not (isinstance(own, nn.Parameter) or (own is None and attribute == "bias")):
            return f"the {attribute} of {described(model, name)} is not a parameter"
    dtype = getattr(layer, "weight").dtype  # noqa: B009
    if dtype.is_complex:
        return f"{described(model, name)} is {dtype}"
    reason = about_reads(model, graph, name)
    return reason and f"{described(model, name)}: {reason}"


def about_reads(model: nn.Module, graph: Graph, name: str) -> str | None:
    """Say who reads the tensors of a module outside of its calls; None if nobody does."""
    shared = {n.rpartition(".")[0] for value in graph.tensors_of(name) for n in value.names}
    owners = {other for other in shared if _is_torch(model.get_submodule(other))}
    who = graph.reads_elsewhere(name, {name} | owners)
    return who and f"its parameters or buffers are read by {who}"


def functional_norms(model: nn.Module, graph: Graph) -> list[Call]:
    """Calls of `F.batch_norm` outside of layers for it."""
    found = []
    for call in graph.calls:
        function = getattr(call.what, "__name__", "") if call.name is None else ""
        if function.startswith("batch_norm"):
            inside = call.module
            name = inside.name if inside else None
            if name is None or not isinstance(model.get_submodule(name), _BatchNorm):
                found.append(call)
    return found


def about_module(model: nn.Module, name: str) -> str | None:
    """Say what was registered on a module that forbids to change or remove it."""
    module = model.get_submodule(name)
    if is_parametrized(module):
        lists = dict(module.parametrizations.named_children())  # type: ignore[union-attr]
        kinds = sorted({type(p).__name__ for ps in lists.values() for p in ps.children()})
        return (
            f"a parametrization ({', '.join(kinds)}) computes its weights; "
            "torch.nn.utils.parametrize.remove_parametrizations makes them fixed"
        )
    return "it has hooks, which would see other values" if has_hooks(module) else None


def _about_calls(graph: Graph, name: str) -> str | None:
    calls = graph.calls_of(name)
    if not calls:
        return "it did not run on the example"
    for call in calls:
        if call.training:
            return "it is in training mode even when the model is in evaluation"
        extra = [key for key in ("mask", "sample_weight") if call.kwargs.get(key) is not None]
        if extra:
            return f"it is called with {extra[0]}="
    return None


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")
