"""What really happens when a model runs on an example, learned from a copy of the model."""

import dataclasses
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import SurgeryError
from ..copying import copy_model
from ..kinds import Kind
from .walk import Site, holds, walk

MOVING_OPS = frozenset(
    (
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "_reshape_alias",
        "_to_copy",
        "_unsafe_view",
        "alias",
        "as_strided",
        "avg_pool2d",
        "avg_pool3d",
        "cat",
        "clone",
        "constant_pad_nd",
        "detach",
        "expand",
        "flip",
        "lift_fresh",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "mean",
        "permute",
        "reflection_pad1d",
        "reflection_pad2d",
        "replication_pad1d",
        "replication_pad2d",
        "roll",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "sum",
        "t",
        "transpose",
        "unbind",
        "unfold",
        "unsqueeze",
        "upsample_bilinear2d",
        "upsample_nearest2d",
        "view",
    )
)
"""ATen operators that move, copy or average values: none is a layer or an activation."""

SCALING_OPS = frozenset(("add", "add_", "div", "div_", "mul", "mul_", "rsub", "sub", "sub_"))
"""Harmless while all but one operand are numbers or tensors that the module owns."""


@dataclasses.dataclass
class Call:
    """One call of one module, as it happened."""

    module: nn.Module
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None = None
    is_harmless: bool = True


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the calls of the given sites, and whether they do more than move values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.running: list[Call] = []
        self.name = "before its first module"

    def attach(self, sites: list[Site]) -> None:
        """Hook every module of the sites once; they belong to a copy that is thrown away."""
        names = {id(site.module): str(site) for site in reversed(sites)}
        for module in {id(site.module): site.module for site in sites}.values():
            module.register_forward_pre_hook(lambda m, x: self._enter(names[id(m)], m, x))
            module.register_forward_hook(lambda m, x, y: self._leave(y))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for call in self.running:
            call.is_harmless &= _is_harmless(func, args, call.module)
        return func(*args, **(kwargs or {}))

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.name = name
        self.running.append(Call(module, _shape(args[0] if args else None)))
        self.calls.append(self.running[-1])

    def _leave(self, output: Any) -> None:
        call = self.running.pop()
        call.output_shape = _shape(output)


def observe(
    model: nn.Module, example: Tensor, what: str = "the model"
) -> tuple[list[Site], list[Call]]:
    """Run a copy of the model on an example, in eval mode and without gradients.

    Args:
        model: Stays untouched.
        example: One batch.
        what: How a message calls the model.

    Returns:
        The calls that reading the copy promises, and those that running it made.

    Raises:
        SurgeryError: The model does not run on the example.
    """
    scratch = copy_model(model).eval()
    sites = walk(scratch)
    recorder = Recorder()
    has_unknown = any(site.kind is Kind.UNKNOWN for site in sites)
    try:
        recorder.attach(sites)
        with torch.no_grad(), recorder if has_unknown else nullcontext():
            scratch(example.clone())  # the first module may work in place
    except Exception as error:
        raise SurgeryError(
            f"{what} does not run on the example input of shape {tuple(example.shape)}, "
            f"{example.dtype}: {recorder.name}: {error}"
        ) from error
    return sites, recorder.calls


def with_shapes(model: nn.Module, sites: list[Site], example: Tensor) -> list[Site]:
    """The sites of the model with the shapes seen when it ran on an example.

    Raises:
        SurgeryError: The model does not run, or runs otherwise than it reads.
    """
    copies, calls = observe(model, example)
    if [call.module for call in calls] != [site.module for site in copies]:
        raise SurgeryError(
            "the modules of the model did not run in the order in which its nn.Sequential list "
            "them, so insert cannot tell what feeds what. Put batch normalization in by hand."
        )
    return [_with_call(site, call) for site, call in zip(sites, calls, strict=True)]


def _with_call(site: Site, call: Call) -> Site:
    is_unknown = site.kind is Kind.UNKNOWN
    return dataclasses.replace(
        site,
        input_shape=call.input_shape,
        output_shape=call.output_shape,
        seen_harmless=is_unknown and call.is_harmless and not holds(site.module),
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _is_harmless(func: Any, args: tuple[Any, ...], module: nn.Module) -> bool:
    name = func.overloadpacket.__name__
    if name in SCALING_OPS:
        own = {_storage(t) for t in (*module.parameters(), *module.buffers())}
        return sum(isinstance(a, Tensor) and _storage(a) not in own for a in args) <= 1
    return name in MOVING_OPS


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
