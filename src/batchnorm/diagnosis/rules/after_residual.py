"""Batch normalization behind the residual addition."""

from collections.abc import Iterator

from ...records import Finding
from ...surgery.graph.graph import Graph, Step, Value, values_in
from ...surgery.graph.trail import is_move
from ..evidence import Evidence, LayerEvidence

ADDITIONS = ("add", "add_")


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that normalize a sum which goes nowhere else.

    Where the sum goes on past the layer, as in residual networks with pre-activation, the identity
    is free; the last layer of such a network normalizes a sum rightly.
    """
    if evidence.graph is None:
        return
    sums = {name: _sum(evidence.graph, name) for name in evidence.layers}
    if any(total is not None and _goes_on(total, name) for name, total in sums.items()):
        return
    for name, total in sums.items():
        if total is not None:
            yield _finding(evidence.layers[name])


def _sum(graph: Graph, name: str) -> Value | None:
    """Find the sum of two values that a layer is given, past views."""
    call = next(iter(graph.calls_of(name)), None)
    given = [] if call is None else [v for v in values_in((call.args, call.kwargs)) if v.varies]
    value = given[0] if given else None
    while value is not None and value.made_by is not None and is_move(value.made_by):
        value = value.made_by.reads[0]
    if value is None or value.made_by is None or not _adds(value.made_by):
        return None
    return value


def _adds(step: Step) -> bool:
    if step.op is None or step.op.overloadpacket.__name__ not in ADDITIONS:
        return False
    return len({id(v) for v in step.reads if v.varies}) == 2


def _goes_on(total: Value, name: str) -> bool:
    """Whether something but the layer reads the sum."""
    readers = [s for s in total.readers if not is_move(s)]
    return any(all(call.name != name for call in step.calls) for step in readers)


def _finding(layer: LayerEvidence) -> Finding:
    return Finding(
        rule="after_residual",
        layer=layer.name,
        severity="information",
        what="it normalizes the sum of a residual block",
        why="The identity then goes through the layer, too: in the comparison of He et al. this "
        "trained worse at all depths than to normalize the branch and add after.",
        remedy="batch normalization in the branch, in front of the addition",
        source="He et al. 2016 (arXiv:1603.05027), section 3.1 and Table 1, (b)",
        numbers={},
    )
