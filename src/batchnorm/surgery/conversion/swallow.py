"""Normalizations that take in the activation and the addition after them, in a copy of a model."""

import operator
import uuid
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from ..editing.replace import shows_values
from ..editing.retrace import IN_PLACE, trace
from ..editing.rewritten import Rewritten, put_back
from ..graph.graph import Call, Graph
from . import activations
from .sites import Site

_ADDING = (operator.add, torch.add, IN_PLACE["iadd"])
_ADDING_METHODS = ("add", "add_", "__add__", "__iadd__")


class Swallowed(nn.Identity):
    """An activation that the normalization before it computes now.

    The module is the one that was there, with another class, so it can become again what it was.
    """

    original: type[nn.Module]
    tokens: tuple[str, ...]

    def extra_repr(self) -> str:
        """Show what it was."""
        return f"was {self.original.__name__}"


def swallow_module(model: nn.Module, site: Site) -> None:
    """Let a layer of ours compute the activation that is a module of its own.

    Args:
        model: A copy that nobody else has.
        site: The layer and the module.
    """
    assert site.module is not None
    act, token = model.get_submodule(site.module), uuid.uuid4().hex
    if not isinstance(act, Swallowed):
        original = type(act)
        act.__class__ = Swallowed
        act.original, act.tokens = original, ()  # type: ignore[assignment]
    act.tokens = (*act.tokens, token)  # type: ignore[assignment, misc]
    _take_in(model, site, token)


def swallow_in_forward(
    model: nn.Module, owner: str, sites: list[Site], graph: Graph
) -> dict[str, str]:
    """Rewrite the forward of one module, so that its layers compute what follows them.

    Args:
        model: A copy that nobody else has.
        owner: The module.
        sites: All that belong to it.
        graph: What was seen of the model.

    Returns:
        Norm -> what stands in the way, for those that could not be done.
    """
    between = frozenset(name for site in sites for name in site.between)
    hooked = next((n for n in sorted(between) if shows_values(model.get_submodule(n))), None)
    if hooked is not None:
        return dict.fromkeys((s.norm for s in sites), f"a hook on '{hooked}' sees values inside")
    module = model.get_submodule(owner)
    prefix = f"{owner}." if owner else ""
    through = frozenset(name.removeprefix(prefix) for name in between)
    traced = trace(module, through)
    if not isinstance(traced, str):
        traced = _as_seen(model, owner, between, graph, traced) or traced
    if isinstance(traced, str):
        return dict.fromkeys((s.norm for s in sites), f"{_called(module, owner)}: {traced}")
    failed, tokens = {}, []
    for site in sites:
        reason = _edit(traced, module, site.norm.removeprefix(prefix), site)
        if reason:
            failed[site.norm] = f"{_called(module, owner)}: {reason}"
            continue
        tokens.append(uuid.uuid4().hex)
        _take_in(model, site, tokens[-1])
    if tokens:
        put_back(module, traced)
        module.tokens = (*vars(module).get("tokens", ()), *tokens)  # type: ignore[assignment]
    return failed


def _called(module: nn.Module, name: str) -> str:
    return f"{type(module).__name__} '{name or 'the model itself'}'"


def _take_in(model: nn.Module, site: Site, token: str) -> None:
    layer = model.get_submodule(site.norm)
    if site.activation is not None:
        layer.activation = site.activation  # type: ignore[assignment]
    layer.swallowed = (token, layer.activation, site.has_residual)  # type: ignore[assignment]


def _as_seen(
    model: nn.Module, owner: str, between: frozenset[str], graph: Graph, traced: fx.Graph
) -> str | None:
    """Say where the traced graph calls other modules than ran; None if it calls the same ones."""
    if any(isinstance(model.get_submodule(name), Rewritten) for name in between):
        return None
    module = model.get_submodule(owner)
    found = [module.get_submodule(str(n.target)) for n in traced.nodes if n.op == "call_module"]
    for call in graph.calls_of(owner):
        ran = [model.get_submodule(name) for name in _names_inside(graph, call, between)]
        if len(ran) != len(found) or any(a is not b for a, b in zip(ran, found, strict=True)):
            return "torch.fx sees other modules called than ran on the example"
    return _about_arguments(graph, owner, traced) or _about_kept(graph, owner)


def _names_inside(graph: Graph, owner: Call, between: frozenset[str]) -> list[str]:
    names = []
    for call in graph.calls:
        if call.name is None or call.name in between or owner not in call.outer:
            continue
        inside = call.outer[call.outer.index(owner) + 1 :]
        if all(other.name is None or other.name in between for other in inside):
            names.append(call.name)
    return names


def _about_arguments(graph: Graph, owner: str, traced: fx.Graph) -> str | None:
    """Arguments that are no tensors may decide what runs, and torch.fx does not see it."""
    count = sum(node.op == "placeholder" for node in traced.nodes)
    for call in graph.calls_of(owner):
        given = [*call.args, *call.kwargs.values()]
        if len(given) != count or not all(_is_value(x) for x in given):
            return "it has arguments that are no tensors, or were not given"
    return None


def _about_kept(graph: Graph, owner: str) -> str | None:
    """A value put into a list or a closure is a side effect, which no graph holds."""
    kept = (v.made_by for v in graph.values if v.is_kept and v.made_by is not None)
    inside = any(call.name == owner for step in kept for call in step.calls)
    return "something keeps a value that is made inside" if inside else None


def _is_value(argument: Any) -> bool:
    return type(argument).__name__ == "Value"


def _edit(graph: fx.Graph, module: nn.Module, norm: str, site: Site) -> str | None:
    nodes = [n for n in graph.nodes if n.op == "call_module" and n.target == norm]
    chains = [_chain(module, node, site) for node in nodes]
    wrong = next((chain for chain in chains if isinstance(chain, str)), None)
    if wrong or not chains:
        return wrong or "torch.fx does not see the normalization called"
    for node in nodes:
        chain = _chain(module, node, site)  # the residual may be what another one has become
        assert not isinstance(chain, str)
        _merge(graph, chain)
    return None


class _Chain(NamedTuple):
    nodes: list[fx.Node]
    """The normalization, what it takes in, and modules between that do nothing."""
    addition: fx.Node | None
    residual: fx.Node | None


def _chain(module: nn.Module, norm: fx.Node, site: Site) -> _Chain | str:
    nodes, addition, residual = [norm], None, None
    if site.has_residual:
        addition = _follow(module, nodes)
        if addition is None or not _adds(addition, nodes[-2]):
            return "torch.fx sees the addition otherwise"
        residual = next(n for n in addition.all_input_nodes if n is not nodes[-2])
    if site.activation is not None:
        user = _follow(module, nodes)
        if user is None or _activation(module, user) != site.activation:
            return "torch.fx sees the activation otherwise"
    return _Chain(nodes, addition, residual)


def _follow(module: nn.Module, nodes: list[fx.Node]) -> fx.Node | None:
    """Go on to the only reader of the last node, past modules that do nothing."""
    while len(nodes[-1].users) == 1:
        user = next(iter(nodes[-1].users))
        nodes.append(user)
        if not _is_identity(module, user):
            return user
    return None


def _is_identity(module: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity


def _adds(node: fx.Node, term: fx.Node) -> bool:
    by_function = node.op == "call_function" and node.target in _ADDING
    by_method = node.op == "call_method" and node.target in _ADDING_METHODS
    if not (by_function or by_method) or len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1:
        return False
    if set(node.kwargs) - {"alpha"} or not all(isinstance(a, fx.Node) for a in node.args):
        return False
    writes = node.target in (IN_PLACE["iadd"], "add_", "__iadd__")
    return node.args[0] is term if writes else node.args.count(term) == 1


def _activation(module: nn.Module, node: fx.Node) -> str | None:
    if node.op == "call_module":
        alone = len(node.args) == 1 and not node.kwargs
        return activations.of_module(module.get_submodule(str(node.target))) if alone else None
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    is_torch = node.op == "call_method" or _is_of_torch(node.target)
    kwargs = dict(node.kwargs)
    return activations.of_function(str(name), node.args, kwargs) if is_torch else None


def _is_of_torch(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    return any(
        getattr(place, name, None) is function
        for place in (torch, torch.nn.functional, torch._C._nn)
    )


def _merge(graph: fx.Graph, chain: _Chain) -> None:
    """Let the call of the layer stand for the chain; with a residual, run when that is there."""
    norm = chain.nodes[0]
    if chain.addition is not None:
        norm.kwargs = {**norm.kwargs, "residual": chain.residual}
        chain.addition.prepend(norm)
    chain.nodes[-1].replace_all_uses_with(norm)
    for node in reversed(chain.nodes[1:]):
        graph.erase_node(node)
