"""Batch normalization taken out of a network, into the layers beside it."""

from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...records import Change
from ..changes import Changes
from ..copying import copy_model
from ..editing.prove import require_equal
from ..example import Example
from ..graph.graph import Graph
from ..graph.watch import eps_where_it_runs, watch
from ..refuse import require_materialized, require_readable
from .ahead import targets_ahead
from .behind import argument, targets_behind
from .draft import Draft, Fold, activation_of, fits
from .frozen import looks_frozen, put_back
from .obstacles import about_norm, described, functional_norms
from .prepare import prepared, would_read_a_bias

M = TypeVar("M", bound=nn.Module)

LEAVE = "leave alone"
"""What a list of changes says of a normalization that stays."""

_SIDES = {
    "output": "nothing else reads its output",
    "input": "nothing else feeds its input",
    "norm": "nothing else feeds it",
}
"""What had to be shown of the modules that take a normalization over."""


class Folded(NamedTuple, Generic[M]):
    """A model without the normalizations that could be folded, and what was done."""

    model: M
    changes: Changes


@overload
def fold(
    model: M,
    *example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = ...,
    dry_run: Literal[False] = ...,
) -> Folded[M]: ...


@overload
def fold(
    model: M,
    *example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = ...,
    dry_run: Literal[True],
) -> Changes: ...


def fold(
    model: M,
    *example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Folded[M] | Changes:
    """Return a copy of a model whose batch normalization has gone into the layers beside it.

    The copy computes in evaluation what the model computes in evaluation: the running statistics
    become part of the weights. It is for inference; training it would be another thing.

    A copy of the model is run on the example in eval mode, and watched. A normalization goes

    - into the linear, convolutional, or transposed convolutional layers that feed it, where nobody
      else reads their outputs, also past views,
    - else into the layers, or the normalization, that read it, where nobody else does, and where
      zero padding does not stand in the way.

    In its place stays `nn.Identity`, or its activation. All else is left alone, with the reason in
    the list. A layer called several times is changed only if that is right at each call. What was
    seen holds for the way that the example took through the model: where Python code depends on
    *values*, nothing is folded; code that depends on *shapes* should go the same way for all
    inputs that are to come.

    Before it returns, the outputs of the copy are compared with those of the model, in float64
    (where the model runs in it) and in its own dtype.

    Args:
        model: The network. It is not touched; its hooks run on copies.
        *example_inputs: Positional arguments of one call, in any nest of tuples, lists, and dicts.
        example_kwargs: Keyword arguments of the call.
        dry_run: Return only the list of what would be done and left alone, and why.

    Returns:
        The new model and a printable list of `Change`; with `dry_run=True` only the list.

    Raises:
        SurgeryError: The model does not run on the example, a part of it is compiled, it cannot be
            copied, or the outputs differ.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> folded, changes = fold(model, torch.randn(2, 3, 8, 8))
        >>> print(changes)
        1: fold into Conv2d '0' (nothing else reads its output)
        >>> folded
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.2: w_fold = γ·w / √(σ² + ε).
    """
    require_materialized(model)
    require_readable(model)
    example = Example(example_inputs, example_kwargs or {})
    edited = prepared(model)
    folds, changes, eps = _fold_all(Draft(edited, would_read_a_bias(edited, example)), example)
    put_back(edited)
    if dry_run:
        return changes
    if folds:
        _prove(model, edited, folds, example, eps)
    return Folded(edited, changes)


def _fold_all(draft: Draft, example: Example) -> tuple[list[Fold], Changes, float]:
    """Fold until nothing more can be, as one round can make room for the next.

    Returns:
        What was folded, that and what was left as a list for people, and `Graph.eps`.
    """
    folds: list[Fold] = []
    done = Changes()
    while True:
        graph = watch(draft.model, example)
        round_ = _Round(draft, graph)
        left = round_.run()
        if not round_.folds:
            return folds, Changes([*done, *left]), graph.eps
        folds += round_.folds
        done += round_.changes


class _Round:
    """All the folds that one look at the model allows."""

    def __init__(self, draft: Draft, graph: Graph) -> None:
        self.draft, self.graph = draft, graph
        self.folds: list[Fold] = []
        self.changes = Changes()
        self._busy: set[str] = set()

    def run(self) -> Changes:
        """Fold what can be; return the rest, with the reasons."""
        left = Changes()
        for name in _norms(self.draft.model, self.graph):
            change = self._try(name)
            if change is not None:
                left.append(change)
        for call in functional_norms(self.draft.model, self.graph):
            name = call.module.name if call.module and call.module.name else ""
            left.append(Change(name, LEAVE, f"{call} is no layer that could be replaced"))
        return left

    def _try(self, name: str) -> Change | None:
        if name in self._busy:
            return Change(name, LEAVE, "it changed in this round")
        if self.graph.decisions:
            reason = f"{self.graph.decisions[0]} decides by values which code runs"
            return Change(name, LEAVE, reason)
        why = about_norm(self.draft.model, self.graph, name) or self._fold(name)
        return Change(name, LEAVE, why) if why else None

    def _fold(self, name: str) -> str | None:
        targets = targets_behind(self.draft, self.graph, name)
        if isinstance(targets, str):
            ahead = targets_ahead(self.draft, self.graph, name)
            if isinstance(ahead, str):
                return f"{targets}; {ahead}"
            targets = ahead
        fold = Fold(name, targets, self._has_residual(name))
        reason = fits(self.draft, fold.new_tensors(self.draft))
        if reason is None:
            self._take(fold)
        return reason

    def _take(self, fold: Fold) -> None:
        into = ", ".join(described(self.draft.model, target.name) for target in fold.targets)
        reason = "; ".join([_SIDES[fold.targets[0].side], *_explained(self.draft, fold)])
        self.changes.append(Change(fold.norm, f"fold into {into}", reason))
        fold.apply(self.draft)
        self.folds.append(fold)
        self._busy |= {target.name for target in fold.targets if target.side == "norm"}

    def _has_residual(self, name: str) -> bool:
        calls = self.graph.calls_of(name)
        return any(argument(call, 1, "residual") is not None for call in calls)


def _explained(draft: Draft, fold: Fold) -> list[str]:
    activation = activation_of(draft.model.get_submodule(fold.norm))
    residual = "the residual" if fold.has_residual else None
    stays = [str(part) for part in (activation, residual) if part is not None]
    return [f"{' and '.join(stays)} stays"] if stays else []


def _norms(model: nn.Module, graph: Graph) -> list[str]:
    """Normalizations by the order of their first calls, then those that were not called."""
    modules = model.named_modules()
    names = [n for n, m in modules if isinstance(m, _BatchNorm) or looks_frozen(m)]
    called = {call.name: i for i, call in reversed(list(enumerate(graph.calls)))}
    return sorted(names, key=lambda name: called.get(name, len(graph.calls)))


def _prove(
    model: nn.Module, folded: nn.Module, folds: list[Fold], example: Example, eps: float
) -> None:
    wide, wide_example = copy_model(model).to(torch.float64), example.double()
    wide_eps = eps_where_it_runs(wide, wide_example)
    if wide_eps is not None:  # there, rounding hides nothing
        draft = Draft(prepared(wide))
        for one in folds:
            one.apply(draft)
        put_back(draft.model)
        what = "the folded model in float64"
        require_equal(wide, draft.model, wide_example, wide_eps, what)
    require_equal(model, folded, example, eps, "the folded model")
