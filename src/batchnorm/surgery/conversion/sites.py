"""Which normalizations can take in what follows them, at every call and in both modes."""

import dataclasses
from collections.abc import Sequence

from torch import nn

from ..editing.replace import keepers
from ..graph.graph import Call, Graph
from .follow import Followers, Run, followers


@dataclasses.dataclass(frozen=True)
class Site:
    """A normalization, and what it takes in."""

    norm: str
    activation: str | None
    has_residual: bool
    module: str | None
    """The activation, where it is a module all of whose calls go: no forward has to change."""
    owner: str
    """The module whose forward has to change, where one has to."""
    between: frozenset[str]
    """Modules between it and the calls, whose forward becomes part of its own."""

    def __str__(self) -> str:
        parts = ["the addition" if self.has_residual else None, self.activation]
        return " and ".join(part for part in parts if part)


class Sites:
    """What was found on runs of one model in evaluation and in training.

    Args:
        model: As it is, before anything is changed.
        graphs: Of both runs.
        norms: Names of the normalizations that may take something in.
    """

    def __init__(self, model: nn.Module, graphs: Sequence[Graph], norms: Sequence[str]) -> None:
        self.model, self.graphs = model, graphs
        self._runs = [Run(model, graph) for graph in graphs]
        self.why: dict[str, str] = {}
        """Why a normalization takes in no more than it does."""
        found = {norm: self._followers(norm) for norm in norms}
        self._found = {norm: seen for norm, seen in found.items() if seen}
        self._share_additions()
        alone = self._alone()
        self.all = [s for norm in list(self._found) if (s := self._site(norm, alone)) is not None]

    def _followers(self, norm: str) -> list[Followers]:
        seen = [[followers(r, c) for c in r.graph.calls_of(norm)] for r in self._runs]
        if not all(seen):
            self.why[norm] = "it did not run on the example"
            return []
        flat = [one for calls in seen for one in calls]
        self.why[norm] = next((one.why for one in flat if one.why), "")
        if len({one.addition is None for one in flat}) > 1:
            self.why[norm] = "another call of it is followed by something else"
            return []
        if len({one.name for one in flat}) > 1:
            flat = [dataclasses.replace(one, activation=None, name=None) for one in flat]
        return flat if any(len(one.calls) > 1 for one in flat) else []

    def _share_additions(self) -> None:
        """Give an addition of two normalizations to the one that is nearer, or called later."""
        takers: dict[Call, str] = {}
        for norm, seen in sorted(self._found.items(), key=self._distance):
            additions = [one.addition for one in seen if one.addition is not None]
            winner = next((takers[a] for a in additions if a in takers), None)
            if winner is None:
                takers |= dict.fromkeys(additions, norm)
            else:
                self.why[norm] = f"the addition after it goes into '{winner}'"
                del self._found[norm]

    def _distance(self, item: tuple[str, list[Followers]]) -> tuple[int, int]:
        one = item[1][0]
        return len(one.between), -self.graphs[0].calls.index(one.norm)

    def _alone(self) -> set[str]:
        """Modules that are called as the activation right after a normalization, and only so."""
        covered = {
            one.activation
            for seen in self._found.values()
            for one in seen
            if one.addition is None and one.activation is not None
        }
        names = {call.name for call in covered if call.name is not None}
        return {
            name
            for name in names
            if all(call in covered for g in self.graphs for call in g.calls_of(name))
            and not any(keepers(self.model, self.model.get_submodule(name)))
        }

    def _site(self, norm: str, alone: set[str]) -> Site | None:
        seen = self._found[norm]
        first = seen[0]
        modules = {one.activation.name for one in seen if one.activation is not None}
        if first.addition is None and modules <= alone:
            module = next(iter(modules)) if len(modules) == 1 else None
            if module is not None:
                return Site(norm, first.name, False, module, "", frozenset())
        owners = {one.owner.name for one in seen if one.owner is not None}
        if len(owners) != 1 or any(one.owner is None for one in seen):
            self.why[norm] = "what follows it is not always in the same forward"
            return None
        owner = owners.pop()
        assert owner is not None  # an owner is a call of a module
        between = frozenset(name for one in seen for name in one.between)
        return Site(norm, first.name, first.addition is not None, None, owner, between)
