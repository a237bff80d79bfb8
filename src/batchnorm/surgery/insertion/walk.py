"""A tree of `nn.Sequential` read as the list of calls that running it makes.

What this reading cannot see is collected with its qualified name and the reason, never skipped.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ...errors import SurgeryError
from ..kinds import Kind, is_sequence, kind_of

_COMPUTING = (Kind.LAYER, Kind.ACTIVATION, Kind.OUTPUT)


@dataclasses.dataclass(frozen=True)
class Site:
    """One call of one module. A module used twice has two sites."""

    parent: str
    """Qualified name of the `nn.Sequential` that makes the call; empty for the model itself."""
    child: str
    """Name of the module in its parent."""
    module: nn.Module
    kind: Kind

    @property
    def name(self) -> str:
        """Qualified name of the module at this call."""
        return qualified(self.parent, self.child)

    def __str__(self) -> str:
        return f"{type(self.module).__name__} '{self.name or 'the model itself'}'"


def qualified(parent: str, child: str) -> str:
    """The name of a child as `named_modules` gives it."""
    return f"{parent}.{child}" if parent else child


def walk(model: nn.Module) -> list[Site]:
    """The calls that running the model makes, in order, one level below every `nn.Sequential`."""
    if not is_sequence(model):
        return [Site("", "", model, kind_of(model))]
    return list(_calls(model, ""))


def shared_sequences(model: nn.Module) -> dict[str, list[str]]:
    """Every `nn.Sequential` called from several places: each of its names, with all of them."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if is_sequence(module):
            names.setdefault(id(module), []).append(name)
    return {name: uses for uses in names.values() if len(uses) > 1 for name in uses}


def require_visible(sites: Iterable[Site]) -> None:
    """Refuse what cannot be seen without an example, all of it at once.

    Raises:
        SurgeryError: Some site is of unknown class.
    """
    reasons = [
        f"  {site.name or '(the model itself)'}: {type(site.module).__name__} {_blind(site)}"
        for site in sites
        if site.kind is Kind.UNKNOWN
    ]
    if reasons:
        raise SurgeryError(
            "without an example input, insert follows nn.Sequential and cannot see what runs in "
            "here:\n" + "\n".join(reasons) + "\nGive it one, to see the model run: "
            "insert(model, example)."
        )


def _holds(module: nn.Module) -> list[str]:
    inside = [m for m in module.modules() if m is not module and kind_of(m) in _COMPUTING]
    return sorted({type(m).__name__ for m in inside})


def _calls(sequence: nn.Module, name: str) -> Iterator[Site]:
    # named_children() would leave out the second use of a shared module
    for child, module in sequence._modules.items():
        site = Site(name, child, module, Kind.UNKNOWN)  # type: ignore[arg-type]
        if module is None:
            yield site
        elif is_sequence(module):
            yield from _calls(module, site.name)
        else:
            yield dataclasses.replace(site, kind=kind_of(module))


def _blind(site: Site) -> str:
    if site.module is None:
        return "is an empty place, which cannot run"
    inside = _holds(site.module)
    if inside:
        return f"has a forward of its own and holds {', '.join(inside)}"
    if isinstance(site.module, torch.jit.ScriptModule):
        return "is compiled to a script; insert before torch.jit.script"
    if isinstance(site.module, nn.Sequential):
        return "is an nn.Sequential with a forward of its own"
    return "is of a class insert does not know, and may hide a layer or an activation"
