"""Batch normalization put into a network that has none."""

import inspect
from typing import Any, Literal, TypeVar, overload

from torch import Tensor, nn

from ...errors import OptionError, SurgeryError
from ...nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from ..changes import Changes
from ..editing.replace import apply_plan
from ..kinds import Kind, is_sequence
from ..refuse import require_materialized
from .channels import require_channels_second
from .plan import Insertion, Plan, drop_biases, free_name, plan_hidden
from .probe import observe, with_shapes
from .walk import never_visible, require_visible, shared_sequences, walk

M = TypeVar("M", bound=nn.Module)
Where = Literal["before_activation", "after_activation", "input"]

WHERE = ("before_activation", "after_activation", "input")
_CLASS_BY_DIM: dict[int, type[nn.Module]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
_TAKEN_FROM_THE_MODEL = {"num_features", "device", "dtype", "activation"}
"""Shapes and types come from the neighbors, and the model's activations are modules already."""


@overload
def insert(
    model: M,
    *example_inputs: Tensor,
    where: Where = ...,
    dry_run: Literal[False] = ...,
    **layer_options: Any,
) -> M: ...


@overload
def insert(
    model: M,
    *example_inputs: Tensor,
    where: Where = ...,
    dry_run: Literal[True],
    **layer_options: Any,
) -> Changes: ...


def insert(
    model: M,
    *example_inputs: Tensor,
    where: Where = "before_activation",
    dry_run: bool = False,
    **layer_options: Any,
) -> M | Changes:
    """Return a copy of a model with batch normalization put in.

    The model is read as nested `nn.Sequential`; whatever else runs modules is refused by name,
    never skipped. A new module is called after the one it follows ("0" gets "0_norm", or
    "0_norm2" if that is taken); all existing names stay, so state dicts still fit by name.
    Positions do not stay: `model[1]` may be a normalization now. The given model is not touched.

    - "before_activation": right behind every linear and convolutional layer that has an activation
      before the next one, also across dropout, pooling and flattening. The bias of the layer goes,
      because the normalization cancels it, unless somebody else still uses it.
    - "after_activation": behind the activation of every such layer, except at the network's output.
    - "input": one in front of everything, without weight and bias. It standardizes the inputs once
      it has statistics: train with it.

    Left alone, with a reason in the list: layers without activation, layers that are normalized
    already, and a sigmoid, tanh, softmax or the like at the end of the network, which gives the
    output its range and is no hidden layer.

    Hooks are taken for observers: what one adds to the computation is not looked for.

    Args:
        model: The network; its modules keep names, modes, dtypes, devices, hooks and sharing.
        *example_inputs: One batch, as the model takes it. With it, the shapes are seen on a run of
            a copy in eval mode (its hooks run too), modules of unknown class are accepted where
            they were seen only to move, pool or scale values, and the result is proved to run.
            Without it, linear layers are taken to have input (N, C), and modules of unknown class
            are refused.
        where: "before_activation", "after_activation" or "input".
        dry_run: Build nothing, return the list of what would be done and left alone, and why.
        **layer_options: Passed to the layers, for example `momentum` or `virtual_batch_size`.

    Returns:
        The new model; with `dry_run=True` a printable list of `Change`.

    Raises:
        SurgeryError: Something in the model cannot be seen, or normalizing it would be wrong, or
            there is nothing to normalize, or the model does not run on the example.
        OptionError: `where` or a layer option is not one of the known ones.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> list(insert(model).state_dict())[:3]
        ['0.weight', '0_norm.weight', '0_norm.bias']
        >>> print(insert(model, dry_run=True))
        0_norm: insert BatchNorm1d(8) (after Linear '0', before ReLU '1')
        0: drop bias (the normalization behind it cancels it)
        2: leave alone (the last layer, without activation)

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.2: normalization goes immediately
    before the nonlinearity, and the layer's bias is subsumed by the normalization's.
    """
    _check_call(model, example_inputs, where)
    options = _checked_options(where, layer_options)
    example = example_inputs[0] if example_inputs else None
    plan = _plan(model, example, where)
    if dry_run:
        return plan.changes
    if not plan.insertions:
        raise SurgeryError(f"there is nothing to insert:\n{plan.changes}")
    edited = apply_plan(model, plan, lambda insertion: _build(insertion, options))
    if example is not None:
        observe(edited, example, "the model with batch normalization put in")
    return edited


def _plan(model: nn.Module, example: Tensor | None, where: str) -> Plan:
    require_materialized(model)
    if where == "input":
        return _plan_input(model, example)
    sites = walk(model)
    if example is not None:
        require_visible(filter(never_visible, sites), has_example=True)
        sites = with_shapes(model, sites, example)
    require_visible(sites, has_example=example is not None)
    plan = plan_hidden(model, sites, where)
    _require_own_places(model, plan)
    drop_biases(plan, sites)
    return plan


def _plan_input(model: nn.Module, example: Tensor | None) -> Plan:
    if not is_sequence(model):
        kind = type(model).__name__
        raise SurgeryError(
            f"where='input' puts a module in front of an nn.Sequential; the model is a {kind}. "
            "Wrap it: insert(nn.Sequential(model), example, where='input')."
        )
    if example is None:
        raise SurgeryError(
            "where='input' takes dimension and number of channels from an example input: "
            "insert(model, example, where='input')."
        )
    dim, num_features = _input_shape(model, example)
    plan = Plan()
    first = next((site for site in walk(model) if site.kind is not Kind.PASSIVE), None)
    if first and first.kind is Kind.NORM:
        plan.leave(first, "the inputs are normalized by it already")
        return plan
    child = free_name(model, "input_norm")
    place = Insertion("", None, child, dim, num_features, example.dtype, example.device)
    plan.insert(place, "in front of everything, without weight and bias")
    return plan


def _input_shape(model: nn.Module, example: Tensor) -> tuple[int, int]:
    if not example.is_floating_point():
        raise SurgeryError(
            f"the example input is {example.dtype}; only floating-point inputs can be "
            "standardized. Indices of an embedding must stay as they are."
        )
    if not 2 <= example.dim() <= 5:
        raise SurgeryError(
            f"the example input has shape {tuple(example.shape)}; expected (N, C) or (N, C, *S) "
            "with at most three spatial axes."
        )
    sites, calls = observe(model, example)
    site = next((site for site in sites if site.kind in (Kind.LAYER, Kind.UNKNOWN)), None)
    if site and site.kind is Kind.LAYER:
        call = next(call for call in calls if call.module is site.module)
        require_channels_second(site, call.input_shape)
    return max(1, example.dim() - 2), example.shape[1]


def _require_own_places(model: nn.Module, plan: Plan) -> None:
    shared = shared_sequences(model)
    for insertion in plan.insertions:
        if insertion.parent in shared:
            names = ", ".join(map(repr, shared[insertion.parent]))
            raise SurgeryError(
                f"{names} are one and the same nn.Sequential, so its calls would share the "
                "statistics of one normalization. Give each call an nn.Sequential of its own; the "
                "layers in it may stay shared."
            )


def _check_call(model: object, example_inputs: tuple[object, ...], where: object) -> None:
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"insert takes an nn.Module, got {type(model).__name__}.")
    if where not in WHERE:
        raise OptionError(f"where={where!r} is not known; it is one of {', '.join(WHERE)}.")
    if len(example_inputs) > 1:
        raise SurgeryError(
            f"an nn.Sequential takes one input, got {len(example_inputs)} example inputs."
        )
    if example_inputs and not isinstance(example_inputs[0], Tensor):
        kind = type(example_inputs[0]).__name__
        raise SurgeryError(f"the example input must be a tensor, got {kind}.")


def _checked_options(where: str, options: dict[str, Any]) -> dict[str, Any]:
    known = set(inspect.signature(BatchNorm1d).parameters) - _TAKEN_FROM_THE_MODEL
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(
            f"{', '.join(unknown)}: not an option of insert; known are where, dry_run and, of the "
            f"layers, {', '.join(sorted(known))}."
        )
    return {"affine": False, **options} if where == "input" else options


def _build(insertion: Insertion, options: dict[str, Any]) -> nn.Module:
    cls = _CLASS_BY_DIM[insertion.dim]
    return cls(insertion.num_features, device=insertion.device, dtype=insertion.dtype, **options)
