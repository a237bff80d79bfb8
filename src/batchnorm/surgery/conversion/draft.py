"""One model being converted: a copy, what was seen of it, and what was done."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...errors import OptionError
from ...records import Change
from ..changes import Changes
from ..editing.replace import keepers, replace_module
from ..folding.behind import argument
from ..graph.graph import Graph, Value
from . import restore
from .choices import Choice, choose, is_norm
from .layers import BY_AXES, OURS_BY_TORCH, TORCH_BY_OURS, class_of, group_norm_of
from .sites import Site, Sites
from .swallow import swallow_in_forward, swallow_module

LEAVE = "leave alone"


class Draft:
    """A copy of a model that is converted in place.

    Args:
        model: A copy that nobody else has.
        to: As of `convert`.
        options: As of `convert`.
        graphs: What was seen in evaluation and in training; none without an example.
    """

    def __init__(
        self, model: nn.Module, to: str, options: Mapping[str, Any], graphs: Sequence[Graph]
    ) -> None:
        self.model, self.to, self.options, self.graphs = model, to, options, graphs
        self._swallowed: dict[str, str] = {}
        self._why: dict[str, str] = {}

    def run(self) -> Changes:
        """Convert what can be; say what was done with each layer, and what was left."""
        names = [name for name, module in self.model.named_modules() if is_norm(module)]
        choices = {name: self._choose(name) for name in self._in_order(names)}
        self._require_divisors(choices)
        chosen = {name: c for name, c in choices.items() if isinstance(c, Choice)}
        sites = self._sites(list(chosen))
        said = self._become(chosen)
        for name in self._swallow(sites):
            said[name] = ""
        return Changes(self._change(name, choices[name], said.get(name, "")) for name in choices)

    def _in_order(self, names: list[str]) -> list[str]:
        """By the order of their first calls, then those that were not seen called."""
        calls = [call.name for graph in self.graphs[:1] for call in graph.calls]
        order = {name: i for i, name in reversed(list(enumerate(calls)))}
        return sorted(names, key=lambda name: order.get(name, len(calls)))

    def _choose(self, name: str) -> Choice | str:
        layer = self.model.get_submodule(name)
        choice = choose(layer, self.to, self._axes(name), self.options)
        if self.to == "group" and isinstance(choice, Choice):
            kept = "" if not name else next(keepers(self.model, layer), None)
            if kept is not None:
                return f"'{kept}' holds it, too" if kept else "it is the model itself"
        return choice

    def _axes(self, name: str) -> int | None:
        for graph in self.graphs:
            for call in graph.calls_of(name):
                source = argument(call, 0, "input")
                if isinstance(source, Value):
                    return len(source.shape)
        return None

    def _sites(self, chosen: list[str]) -> Sites | None:
        if self.to != "fused":
            return None
        decisions = [text for graph in self.graphs for text in graph.decisions]
        free = [name for name in chosen if self._may_take(name)]
        if decisions:
            reason = f"{decisions[0]} decides by values which code runs"
            self._why = dict.fromkeys(free, reason)
            return None
        sites = Sites(self.model, self.graphs, free)
        self._why = sites.why
        return sites

    def _may_take(self, name: str) -> bool:
        layer = self.model.get_submodule(name)
        has_act = any(isinstance(c, nn.Module) for c in layer.children())
        return getattr(layer, "activation", None) is None and not has_act

    def _become(self, chosen: Mapping[str, Choice]) -> dict[str, str]:
        said = {}
        if self.to == "torch":
            return self._become_torchs(list(chosen))
        for name, choice in chosen.items():
            layer = self.model.get_submodule(name)
            choice.apply(layer)
            if choice.groups is not None:
                replace_module(self.model, name, group_norm_of(layer, choice.groups))  # type: ignore[arg-type]
            said[name] = ""
        return said

    def _become_torchs(self, names: list[str]) -> dict[str, str]:
        model, said = self.model, {}
        names = [n for n in names if class_of(model.get_submodule(n)) not in OURS_BY_TORCH]
        givers = restore.givers(model, names)
        restore.give_back(model, givers)
        for name in names:
            cls = self._class_for(name)
            said[name] = restore.become_what_it_was(model, name, cls, name in givers)
        return said

    def _class_for(self, name: str) -> type[nn.Module]:
        layer = self.model.get_submodule(name)
        if getattr(layer, "sync", False) is not False:
            return nn.SyncBatchNorm
        own = class_of(layer)
        return TORCH_BY_OURS.get(own) or BY_AXES[self._axes(name) or 0]

    def _swallow(self, sites: Sites | None) -> list[str]:
        """Take in what follows, innermost forwards first; return the layers that did."""
        if sites is None:
            return []
        done = [site for site in sites.all if site.module is not None]
        for site in done:
            swallow_module(self.model, site)
        by_owner: dict[str, list[Site]] = {}
        for site in sites.all:
            if site.module is None:
                by_owner.setdefault(site.owner, []).append(site)
        for owner in sorted(by_owner, key=lambda name: -name.count(".") - bool(name)):
            failed = swallow_in_forward(self.model, owner, by_owner[owner], self.graphs[0])
            self._why |= failed
            done += [site for site in by_owner[owner] if site.norm not in failed]
        self._swallowed = {site.norm: str(site) for site in done}
        return [site.norm for site in done]

    def _change(self, name: str, choice: Choice | str, said: str) -> Change:
        if isinstance(choice, str):
            return Change(name, LEAVE, choice)
        taken, why = self._swallowed.get(name), self._why.get(name)
        if taken:
            more = f"; {why}" if why else ""
            return Change(
                name, f"{choice.action}, with {taken}", f"nothing else reads what is between{more}"
            )
        reasons = [choice.reason, *([why] if why else []), *([said] if said else [])]
        return Change(name, choice.action, "; ".join(reasons))

    def _require_divisors(self, choices: Mapping[str, Choice | str]) -> None:
        for name, choice in choices.items():
            groups = choice.groups if isinstance(choice, Choice) else None
            if groups is None:
                continue
            channels = self.model.get_submodule(name).num_features
            if channels % groups:  # type: ignore[operator]
                raise OptionError(
                    f"{name}: expected num_groups to divide its {channels} channels, found "
                    f"{groups}; leave num_groups out for a number that does"
                )
