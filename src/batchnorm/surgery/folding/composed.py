"""Operators of a decomposed program, written as those of the layers they came from.

`ExportedProgram.run_decompositions()` leaves `convolution` for every kind of convolution, `addmm`
for a linear layer, and a batch normalization that also gives what its backward pass would need.
"""

import operator
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
_CONVOLUTIONS = {
    3: (_aten.conv1d.default, _aten.conv_transpose1d.default),
    4: (_aten.conv2d.default, _aten.conv_transpose2d.input),
    5: (_aten.conv3d.default, _aten.conv_transpose3d.input),
}

_LEFTOVERS = (
    _aten.permute.default,
    _aten.t.default,
    _aten._native_batch_norm_legit_no_training.default,
)


def compose(graph: fx.Graph) -> None:
    """Rewrite what is recognized, in place; all else stays."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is _aten.convolution.default:
            _convolution(graph, node)
        elif node.target is _aten._native_batch_norm_legit_no_training.default:
            _norm(graph, node)
        elif node.target is _aten.addmm.default and not node.kwargs:
            bias, x, weight = node.args
            _linear(graph, node, x, weight, bias)
        elif node.target is _aten.mm.default:
            x, weight = node.args
            _linear(graph, node, x, weight, None)
    for node in reversed(list(graph.nodes)):  # no more: what has no users may still be a check
        if node.target in _LEFTOVERS and not node.users:
            graph.erase_node(node)


def _convolution(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    kinds = _CONVOLUTIONS.get(_ndim(weight))
    if kinds is None:
        return
    args = (x, weight, bias, stride, padding, dilation, groups)
    if transposed:
        args = (x, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[assignment]
    _replace(graph, node, kinds[bool(transposed)], args)


def _norm(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, mean, var, momentum, eps = node.args
    if any(user.target is not operator.getitem or user.args[1] for user in node.users):
        return
    for user in list(node.users):
        args = (x, weight, bias, mean, var, False, momentum, eps, False)
        _replace(graph, user, _aten.batch_norm.default, args)


def _linear(graph: fx.Graph, node: fx.Node, x: Any, weight: Any, bias: Any) -> None:
    turned = weight.target in (_aten.permute.default, _aten.t.default)
    if turned and weight.args[1:] in ((), ([1, 0],)) and _ndim(weight) == 2:
        _replace(graph, node, _aten.linear.default, (x, weight.args[0], bias))


def _replace(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    with graph.inserting_before(node):
        new = graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _ndim(node: Any) -> int:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else 0
