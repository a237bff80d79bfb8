"""A run of a model on an example, watched: every call, every operator, who reads which tensor.

Watching sees Python control flow as it really went, so it proves what it says for the path that
the example took. What it cannot see inside is named in the graph (`Value.unseen`), not guessed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import SurgeryError
from ...nn.batch_norm import BatchNorm
from ..copying import copy_model, in_evaluation
from ..editing.replace import shows_values
from ..example import Example
from .graph import Call, Graph
from .tape import Tape

HIDING = frozenset(
    (
        "__array__",
        "__deepcopy__",
        "__dlpack__",
        "__reduce_ex__",
        "_typed_storage",
        "data_ptr",
        "numpy",
        "storage",
        "tolist",
        "typed_storage",
        "untyped_storage",
    )
)
"""Functions behind which memory is read, and perhaps written, without an operator."""

_OPAQUE = (BatchNorm,)
"""Modules whose kernels are no operators; what goes in and comes out is what they read and make."""


def watch(model: nn.Module, example: Example, training: bool = False) -> Graph:
    """Run a copy of the model on an example, without gradients, and watch it.

    All intermediate tensors stay in memory until the run is over.

    Args:
        model: Stays untouched. Its hooks run, on the copy.
        example: What the model is called with.
        training: Run it in training mode, not in evaluation.

    Raises:
        SurgeryError: The model does not run on the example.
    """
    scratch = copy_model(model).train() if training else in_evaluation(model)
    tape = Tape()
    tape.know(scratch)
    args, kwargs = example.copies()
    tape.know_inputs((args, kwargs))
    handles = _attach(scratch, tape)
    try:
        with torch.no_grad(), _Functions(tape), _Operators(tape):
            output = scratch(*args, **kwargs)
    except Exception as error:
        where = f"{tape.latest}: " if tape.latest else ""
        raise SurgeryError(
            f"the model does not run on the example ({example}): {where}{error}"
        ) from error
    for handle in handles:
        handle.remove()
    return tape.finish(scratch, output)


def eps_where_it_runs(model: nn.Module, example: Example) -> float | None:
    """How exact a model computes; None if it does not run, because it writes another dtype down."""
    try:
        return watch(model, example).eps
    except SurgeryError:
        return None


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.tape.is_idle:
            return func(*args, **kwargs)
        step = _quietly(self.tape, lambda: self.tape.record(func, args, kwargs))
        output = func(*args, **kwargs)
        _quietly(self.tape, lambda: self.tape.made(step, args, kwargs, output))
        return output


class _Functions(TorchFunctionMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, tape = kwargs or {}, self.tape
        is_inside = any(issubclass(call.what, _OPAQUE) for call in tape.open if call.name)  # type: ignore[arg-type]
        if not tape.is_idle or is_inside or _gives_no_tensor(func):
            return func(*args, **kwargs)
        call = _quietly(tape, lambda: tape.enter(func, None, args, kwargs))
        output = None
        try:
            output = func(*args, **kwargs)
        finally:
            _quietly(tape, lambda: tape.leave(call, output))
        if getattr(func, "__name__", "") in HIDING:
            tape.hide(call)
        return output


def _attach(model: nn.Module, tape: Tape) -> list[Any]:
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its operators are seen
        enter, leave = _hooks(tape, name, shows_values(module))
        # Behind the module's own hooks in front of it, and before those behind it.
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, prepend=True, always_call=True))
    return handles


def _hooks(tape: Tape, name: str, is_hooked: bool) -> tuple[Callable[..., None], ...]:
    calls: list[Call] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        call = _quietly(tape, lambda: tape.enter(type(module), name, args, kwargs))
        call.training, call.is_hooked = module.training, is_hooked
        calls.append(call)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if not calls:  # an exception came before this call began
            return
        call = calls.pop()
        if isinstance(module, _OPAQUE):
            tape.open.pop()
            _quietly(tape, lambda: tape.made_inside(call, output))
            tape.open.append(call)
        _quietly(tape, lambda: tape.leave(call, output))

    return enter, leave


def _quietly(tape: Tape, do: Callable[[], Any]) -> Any:
    tape.is_idle, was_idle = False, tape.is_idle
    try:
        return do()
    finally:
        tape.is_idle = was_idle


def _gives_no_tensor(func: Any) -> bool:
    """Properties such as `x.shape`; those that give a tensor, such as `x.T`, run operators."""
    name = getattr(func, "__name__", "")
    return name == "__get__" or name in ("dim", "size", "stride", "numel", "is_floating_point")
