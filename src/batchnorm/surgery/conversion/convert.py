"""Batch normalization of one kind turned into another, in a copy of a model."""

import math
from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

import torch
from torch import nn

from ... import checks
from ...errors import OptionError, SurgeryError
from ..changes import Changes
from ..copying import copy_model
from ..editing.prove import outputs_of, require_equal
from ..editing.step import require_equal_step
from ..example import Example
from ..graph.graph import Graph
from ..graph.watch import eps_where_it_runs, watch
from ..kinds import is_lazy
from ..refuse import require_readable
from .draft import Draft

M = TypeVar("M", bound=nn.Module)

OPTIONS: dict[str, tuple[str, ...]] = {
    "fused": ("virtual_batch_size", "renorm", "nonfinite", "degenerate", "sync"),
    "batchnorm": ("virtual_batch_size", "renorm", "nonfinite", "degenerate", "sync"),
    "torch": (),
    "sync": ("process_group",),
    "group": ("num_groups",),
}
"""What layers can be converted to -> the options that these take."""


class Converted(NamedTuple, Generic[M]):
    """A model with other normalizations, and what was done."""

    model: M
    changes: Changes


@overload
def convert(
    model: M,
    *example_inputs: Any,
    to: str = ...,
    example_kwargs: Mapping[str, Any] | None = ...,
    dry_run: Literal[False] = ...,
    **layer_options: Any,
) -> Converted[M]: ...


@overload
def convert(
    model: M,
    *example_inputs: Any,
    to: str = ...,
    example_kwargs: Mapping[str, Any] | None = ...,
    dry_run: Literal[True],
    **layer_options: Any,
) -> Changes: ...


def convert(
    model: M,
    *example_inputs: Any,
    to: str = "fused",
    example_kwargs: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    **layer_options: Any,
) -> Converted[M] | Changes:
    """Return a copy of a model whose batch normalization is of another kind.

    What it is converted to, `to`:

    - "fused": our layers, which take in the activation and the addition of a residual that follow
      them, where nothing else reads the values between. An activation that is a module becomes an
      identity. For an addition, or an activation that is a function or is called elsewhere as well,
      the forward of the module around them is written anew by `torch.fx`; its plain attributes,
      such as a flag or a factor, are constants from then on. Needs an example.
    - "batchnorm": our layers, one for one.
    - "torch": PyTorch's layers, and its `SyncBatchNorm` for those with `sync`. What "fused" has
      changed becomes again what it was.
    - "sync": our layers, with the statistics of all replicas.
    - "group": `GroupNorm`, with weight and bias kept. It computes something else.

    Layers, parameters, and buffers of the copy have the names they had. Layers keep their modes,
    dtypes, devices, hooks, and parametrizations, and are shared as before; running statistics in
    half precision become float32, as those of our layers are. Layers of other libraries that
    compute a batch normalization, frozen ones and those with an activation too, are known by what
    they compute. All else is left alone, with the reason in the list.

    With an example, the copy is compared with the model before it is returned: outputs in
    evaluation, and outputs, gradients, and statistics of a training step, in float64 and in the
    model's own dtype. (For "group" it is only run.) What was seen holds for the way that the
    example took through the model.

    Args:
        model: The network. It is not touched; its hooks run on copies.
        *example_inputs: Positional arguments of one call, two samples or more.
        to: What the layers become.
        example_kwargs: Keyword arguments of the call.
        dry_run: Return only the list of what would be done and left alone, and why.
        **layer_options: For "fused" and "batchnorm" `virtual_batch_size`, `renorm`, `nonfinite`,
            `degenerate`, and `sync`, as of the layers; `process_group` for "sync"; `num_groups` for
            "group", by default the most that divide the channels, up to 32 and two channels each.

    Returns:
        The new model and a printable list of `Change`; with `dry_run=True` only the list.

    Raises:
        OptionError: `to` or an option is not known, or does not fit a layer.
        SurgeryError: There is no example where one is needed, the model does not run on it, a part
            of it is compiled, it cannot be copied, or the copy computes something else.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> converted, changes = convert(model, torch.randn(2, 3, 8, 8))
        >>> print(changes)
        1: convert to BatchNorm2d, with relu (nothing else reads what is between)
        >>> converted[1].activation, converted[2]
        ('relu', Swallowed(was ReLU))
        >>> convert(converted, to="torch").model
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, \
track_running_stats=True)
          (2): ReLU()
        )
    """
    _check(to, layer_options)
    require_readable(model)
    has_example = bool(example_inputs) or bool(example_kwargs)
    if to == "fused" and not has_example:
        raise SurgeryError(
            'expected example inputs, found none: convert(model, *inputs, to="fused") looks at '
            'what reads the output of each layer; to="batchnorm" needs no example'
        )
    example = Example(example_inputs, example_kwargs or {}) if has_example else None
    made = model if example is None else _made(model, example)
    graphs = [watch(made, example, training) for training in (False, True)] if example else []
    edited = copy_model(model)
    changes = Draft(edited, to, layer_options, graphs).run()
    if dry_run:
        return changes
    if example is not None:
        twin: nn.Module = edited
        if layer_options or made is not model:
            # Options change what a layer learns, and lazy layers are not made yet. Of these, the
            # proof is that the same edits without options, on the model made, change nothing.
            twin = copy_model(made)
            Draft(twin, to, {}, graphs).run()
        _prove(made, twin, to, example, graphs)
    return Converted(edited, changes)


def _check(to: str, options: Mapping[str, Any]) -> None:
    checks.check_choice("to", to, tuple(OPTIONS))
    for name in options:
        if name not in OPTIONS[to]:
            known = ", ".join(OPTIONS[to]) or "none"
            raise OptionError(f"expected options of to={to!r} ({known}), found {name!r}")
    groups = options.get("num_groups", 1)
    if type(groups) is not int or groups < 1:
        raise OptionError(f"expected num_groups to be an int of 1 or more, found {groups!r}")


def _prove(
    model: nn.Module,
    edited: nn.Module,
    to: str,
    example: Example,
    graphs: list[Graph],
) -> None:
    if to == "group":
        outputs_of(edited, example)
        return
    terms = max(math.prod(value.shape) for graph in graphs for value in graph.values)
    wide, wide_example = copy_model(model).to(torch.float64), example.double()
    eps = eps_where_it_runs(wide, wide_example)
    if eps is not None:  # there, rounding hides nothing
        what = "the converted model in float64"
        wide_edited = copy_model(edited).to(torch.float64)
        _compare(wide, wide_edited, wide_example, eps, terms, what)
    eps = max(graph.eps for graph in graphs)
    _compare(model, edited, example, eps, terms, "the converted model")


def _compare(
    a: nn.Module, b: nn.Module, example: Example, eps: float, terms: int, what: str
) -> None:
    require_equal(a, b, example, eps, what)
    if not _waits_for_replicas(a, b):
        require_equal_step(a, b, example, eps, terms, what)


def _waits_for_replicas(*models: nn.Module) -> bool:
    is_on = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_on and any(_is_sync(module) for model in models for module in model.modules())


def _is_sync(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm) or getattr(module, "sync", False) is not False


def _made(model: nn.Module, example: Example) -> nn.Module:
    """The model itself, or a copy whose lazy modules have seen the example."""
    if not any(is_lazy(module) for module in model.modules()):
        return model
    made = copy_model(model)
    modes = {name: module.training for name, module in made.named_modules()}
    args, kwargs = example.copies()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            made.eval()(*args, **kwargs)
    except Exception as error:
        raise SurgeryError(f"the model does not run on the example ({example}): {error}") from error
    for name, mode in modes.items():
        made.get_submodule(name).training = mode
    return made
