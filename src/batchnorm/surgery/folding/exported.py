"""What `torch.export` gives, with its layers as modules again.

An exported program calls operators on parameters: `aten.conv2d(x, conv.weight, conv.bias)`. Each
becomes a call of a layer that has these parameters, under the name they had, so that all of surgery
reads it, and its state_dict stays as it is.
"""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from .composed import compose

M = TypeVar("M", bound=nn.Module)

_aten = torch.ops.aten
_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    _aten.conv1d.default: nn.Conv1d,
    _aten.conv1d.padding: nn.Conv1d,
    _aten.conv2d.default: nn.Conv2d,
    _aten.conv2d.padding: nn.Conv2d,
    _aten.conv3d.default: nn.Conv3d,
    _aten.conv3d.padding: nn.Conv3d,
}
_TRANSPOSED: dict[Any, type[nn.Module]] = {
    _aten.conv_transpose1d.default: nn.ConvTranspose1d,
    _aten.conv_transpose2d.input: nn.ConvTranspose2d,
    _aten.conv_transpose3d.input: nn.ConvTranspose3d,
}
_NORMS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_DEFAULTS = {
    "conv": ("bias", "stride", "padding", "dilation", "groups"),
    "transposed": ("bias", "stride", "padding", "output_padding", "groups", "dilation"),
}


class _Layer(NamedTuple):
    """One operator that is a layer."""

    node: fx.Node
    name: str
    module: nn.Module


def raised(model: M) -> M:
    """Give the operators of an exported program their layers back; other models stay as they are.

    Args:
        model: A copy that nobody else has.

    Returns:
        The same model, or a new module with the parameters of the same.
    """
    if not isinstance(model, fx.GraphModule):
        return model
    compose(model.graph)
    found = [layer for node in model.graph.nodes for layer in _layers(model, node)]
    if not found:
        return model  # of the code that runs, nothing has changed: it was not compiled again
    first: dict[str, _Layer] = {}
    for layer in found:
        made = first.setdefault(layer.name, layer)
        if repr(made.module) == repr(layer.module):  # else the same weights with other strides
            _call(model.graph, layer)
    for layer in first.values():
        _put(model, layer.name, layer.module)
    for node in list(model.graph.nodes):
        if node.op == "get_attr" and not node.users:
            model.graph.erase_node(node)
    # A new module has the methods of modules; that of export refuses to change its mode.
    return fx.GraphModule(model, model.graph).eval()  # type: ignore[return-value]


def _layers(model: fx.GraphModule, node: fx.Node) -> list[_Layer]:
    """The layer that a node is; none, if it is no layer with parameters of its own."""
    if node.op != "call_function" or len(node.args) < 2:
        return []
    name, _, attribute = _parameter(node.args[1] or _running(node)).rpartition(".")
    if not name or attribute not in ("weight", "running_mean"):
        return []
    holder = model.get_submodule(name)
    own: dict[str, Tensor] = {**dict(holder.named_parameters()), **dict(holder.named_buffers())}
    module = _built(node, own)
    if module is None or not _are_own(node, name):
        return []
    for attribute, tensor in own.items():
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(attribute, tensor)
        else:
            module.register_buffer(attribute, tensor)
    if any(tensor.is_meta for tensor in module.buffers()):
        module.register_buffer("num_batches_tracked", None)  # the program has none
    return [_Layer(node, name, module)]


def _built(node: fx.Node, own: dict[str, Tensor]) -> nn.Module | None:
    if node.target is _aten.batch_norm.default:
        return _norm(node, own)
    weight = own.get("weight")
    if weight is None or not set(own) <= {"weight", "bias"}:
        return None
    with_bias = {"bias": "bias" in own, "device": "meta"}
    if node.target is _aten.linear.default:
        return nn.Linear(weight.shape[1], weight.shape[0], **with_bias)  # type: ignore[arg-type]
    if node.target in _CONVOLUTIONS:
        options = _options(node, "conv") | with_bias
        num_in = weight.shape[1] * options.get("groups", 1)
        return _CONVOLUTIONS[node.target](num_in, weight.shape[0], weight.shape[2:], **options)
    if node.target in _TRANSPOSED:
        options = _options(node, "transposed") | with_bias
        num_out = weight.shape[1] * options.get("groups", 1)
        return _TRANSPOSED[node.target](weight.shape[0], num_out, weight.shape[2:], **options)
    return None


def _norm(node: fx.Node, own: dict[str, Tensor]) -> nn.Module | None:
    """A normalization by running statistics, else None: that of a batch cannot be raised."""
    known = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    is_training, eps = bool(node.args[5]), node.args[7]
    seen = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if is_training or "running_mean" not in own or not set(own) <= known or seen is None:
        return None
    num_features = own["running_mean"].shape[0]
    cls = _NORMS.get(seen.dim())
    return cls(num_features, eps=eps, affine=False, device="meta") if cls else None


def _options(node: fx.Node, kind: str) -> dict[str, Any]:
    names = _DEFAULTS[kind]
    given = dict(zip(names, node.args[2:], strict=False)) | dict(node.kwargs)
    given.pop("bias", None)
    return {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in given.items()}


def _are_own(node: fx.Node, name: str) -> bool:
    """Whether all tensors that the operator takes beside its input are of one module."""
    targets = [_parameter(arg) for arg in node.args[1:] if isinstance(arg, fx.Node)]
    targets += [_parameter(arg) for arg in node.kwargs.values() if isinstance(arg, fx.Node)]
    return all(target.rpartition(".")[0] == name for target in targets)


def _running(node: fx.Node) -> Any:
    return node.args[3] if len(node.args) > 3 else None


def _parameter(arg: Any) -> str:
    return str(arg.target) if isinstance(arg, fx.Node) and arg.op == "get_attr" else ""


def _call(graph: fx.Graph, layer: _Layer) -> None:
    node = layer.node
    with graph.inserting_before(node):
        call = graph.call_module(layer.name, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
