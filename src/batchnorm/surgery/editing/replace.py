"""The one place where surgery edits a model, and it is always a copy."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def put_in(sequence: nn.Module, after: str | None, child: str, module: nn.Module) -> None:
    """Put a module into a sequence, in its mode, behind one of its children or in front of all.

    Args:
        sequence: Part of a copy that nobody else has.
        after: Name of the child it goes behind; None: in front of all.
        child: The name that it gets; no child has it.
        module: The module.
    """
    children = dict(sequence._modules)  # named_children() would leave out a repeated module
    module.train(sequence.training)
    sequence._modules.clear()
    if after is None:
        sequence.add_module(child, module)
    for name, other in children.items():
        sequence.add_module(name, other)
        if name == after:
            sequence.add_module(child, module)


_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)


def has_hooks(module: nn.Module) -> bool:
    """Whether anybody registered a hook of any kind on this very module."""
    return any(getattr(module, name, None) for name in _HOOKS)


def shows_values(module: nn.Module) -> bool:
    """Whether a hook on the module sees what goes into it, comes out of it, or their gradients."""
    return any(getattr(module, name, None) for name in _HOOKS if "ward_" in name)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of another, under all of its names, in its mode.

    Args:
        model: A copy that nobody else has.
        name: One of the names of the module that goes.
        new: The module that comes.
    """
    old = model.get_submodule(name)
    new.train(old.training)
    for parent in list(model.modules()):
        for child, module in parent._modules.items():
            if module is old:
                parent._modules[child] = new


def set_tensor(module: nn.Module, name: str, value: Tensor, requires_grad: bool = False) -> None:
    """Give a module a parameter or buffer of its own; who shared the old one keeps that.

    Args:
        module: Part of a copy that nobody else has.
        name: Of a buffer that is there, or of a parameter.
        value: What it gets, as it is.
        requires_grad: Of a parameter.
    """
    if name in module._buffers:
        module._buffers[name] = value
    else:
        module.register_parameter(name, nn.Parameter(value, requires_grad=requires_grad))


def keepers(model: nn.Module, module: nn.Module) -> Iterator[str]:
    """Attributes, outside of the tree of modules, that hold a module too."""
    for name, parent in model.named_modules():
        for attribute, value in vars(parent).items():
            if attribute != "_modules" and _holds(value, module):
                yield f"{name}.{attribute}" if name else attribute


def _holds(value: Any, module: nn.Module, depth: int = 3) -> bool:
    if value is module:
        return True
    if depth and isinstance(value, dict):
        return any(_holds(v, module, depth - 1) for v in value.values())
    if depth and isinstance(value, (list, tuple, set)):
        return any(_holds(v, module, depth - 1) for v in value)
    return False
