"""Batch normalization put into a network that has none."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, overload

import torch
from torch import nn

from ...errors import OptionError, SurgeryError
from ...nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from ..changes import Changes
from ..copying import copy_model, in_evaluation
from ..editing.prove import require_equal
from ..example import Example
from ..folding.exported import raised
from ..graph.watch import watch
from ..refuse import require_materialized, require_readable
from .apply import apply_plan
from .calibrate import calibrate as calibrated
from .hidden import plan_hidden
from .inputs import plan_inputs
from .plan import Insertion, Plan
from .stages import plan_sequence

M = TypeVar("M", bound=nn.Module)
Where = Literal["before_activation", "after_activation", "input"]

WHERE = ("before_activation", "after_activation", "input")
_CLASS_BY_DIM: dict[int, type[nn.Module]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
_TAKEN_FROM_THE_MODEL = {"num_features", "device", "dtype", "activation"}
"""Shapes and types come from the neighbors, and the model has its activations already."""


@overload
def insert(
    model: M,
    *example_inputs: Any,
    where: Where = ...,
    example_kwargs: Mapping[str, Any] | None = ...,
    calibrate: Iterable[Any] | None = ...,
    dry_run: Literal[False] = ...,
    **layer_options: Any,
) -> M: ...


@overload
def insert(
    model: M,
    *example_inputs: Any,
    where: Where = ...,
    example_kwargs: Mapping[str, Any] | None = ...,
    calibrate: Iterable[Any] | None = ...,
    dry_run: Literal[True],
    **layer_options: Any,
) -> Changes: ...


def insert(
    model: M,
    *example_inputs: Any,
    where: Where = "before_activation",
    example_kwargs: Mapping[str, Any] | None = None,
    calibrate: Iterable[Any] | None = None,
    dry_run: bool = False,
    **layer_options: Any,
) -> M | Changes:
    """Return a copy of a model with batch normalization put in.

    Any model that runs: a copy of it is run on the example, and watched, so activations may be
    modules or calls such as `F.relu(x)`. Nothing around a layer is rewritten. In an `nn.Sequential`
    a new child follows it ("0" gets "0_norm", or "0_norm2" if that is taken). Elsewhere the layer
    itself holds the normalization: `conv1` becomes a subclass of its class, and gets `conv1.norm`.
    All existing names stay, so state dicts still fit by name. Positions in a sequence do not stay:
    `model[1]` may be a normalization now. The given model is not touched.

    - "before_activation": right behind every linear and convolutional layer that has an activation
      before the next one, also across dropout, pooling, flattening, concatenation, and the sum of a
      residual branch. The bias of the layer goes, because the normalization cancels it, unless
      somebody else still uses it.
    - "after_activation": behind the activation of every such layer, except at the network's output;
      where the activation is the call of a function, in front of the layers that read it.
    - "input": in front of all that reads an input, without weight and bias. It standardizes the
      inputs once it has statistics: train with it, or `recalibrate`.

    Left alone, with a reason in the list: layers without activation, such as projections of
    attention; layers that are normalized already; gates, whose sigmoid is multiplied onto something
    else, and what only feeds them; a sigmoid, tanh, softmax or the like at the end of the network,
    which gives the output its range; layers inside of recurrent modules; and layers outside of an
    `nn.Sequential` that are called several times, as their calls would share the statistics.

    The features of a linear layer on (N, L, F) are the last axis. There each of the N·L positions
    counts as a sample, padding too.

    Args:
        model: The network; its modules keep names, modes, dtypes, devices, hooks and sharing.
        *example_inputs: Positional arguments of one call, in any nest of tuples, lists, and dicts.
            Its hooks run, too, on copies. Without an example only nested `nn.Sequential` can be
            read, linear layers are taken to have input (N, C), and what cannot be seen is refused.
        where: "before_activation", "after_activation" or "input".
        example_kwargs: Keyword arguments of the call.
        calibrate: Batches, as `recalibrate` takes them. They run through a copy once, in evaluation
            mode; then statistics, weights and biases are such that the new model computes in
            evaluation what the model does; that is proved on the example. At the input, too, the
            layers then have weight and bias. None: the layers start as all new ones do, with mean
            0, variance 1, weight 1, and bias 0.
        dry_run: Build nothing, return the list of what would be done and left alone, and why.
        **layer_options: Passed to the layers, for example `momentum` or `virtual_batch_size`.

    Returns:
        The new model; with `dry_run=True` a printable list of `Change`.

    Raises:
        SurgeryError: The model does not run on the example, a part of it is compiled or cannot be
            seen, there is nothing to normalize, or `calibrate` has changed the function.
        StatisticsError: `calibrate` has no values for some layer.
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
    _check_call(model, where)
    options = _checked_options(where, calibrate is not None, layer_options)
    example = Example(example_inputs, example_kwargs or {})
    if calibrate is not None and not example.args and not example.kwargs:
        raise SurgeryError("calibrate= is proved on an example: insert(model, example, calibrate=)")
    edited, plan, eps = _planned(model, example, where)
    if dry_run:
        return plan.changes
    if not plan.insertions:
        seen = plan.changes or "neither a layer nor an activation that insert knows was seen"
        raise SurgeryError(f"there is nothing to insert:\n{seen}")
    plain = copy_model(edited) if calibrate is not None else None
    apply_plan(edited, plan, lambda insertion: _build(insertion, options))
    if plain is not None and calibrate is not None:
        _calibrate(edited, plain, plan, calibrate)
        # the tolerance is that of the new model, whose weights are rounded, too
        what = "the model with calibrated batch normalization"
        require_equal(edited, model, example, eps, what)
    if example.args or example.kwargs:
        _require_running(edited, plan, example)
    return edited


def _planned(model: M, example: Example, where: str) -> tuple[M, Plan, float]:
    """A copy of the model, what is going to be done to it, and `Graph.eps` where it was seen."""
    require_materialized(model)
    if not example.args and not example.kwargs:
        if where == "input":
            raise SurgeryError(
                "where='input' takes dimension and number of channels from an example input: "
                "insert(model, example, where='input')."
            )
        return copy_model(model), plan_sequence(model, where), 0.0
    require_readable(model)
    scratch = raised(copy_model(model))
    graph = watch(scratch, example)
    if where == "input":
        return scratch, plan_inputs(scratch, graph, example), graph.eps
    return scratch, plan_hidden(scratch, graph, where), graph.eps


def _calibrate(edited: nn.Module, plain: nn.Module, plan: Plan, batches: Iterable[Any]) -> None:
    apply_plan(
        plain,
        Plan(plan.insertions),  # which drops no biases
        lambda insertion: copy_model(edited.get_submodule(insertion.name)),
    )
    calibrated(edited, plain, plan, batches)


def _require_running(edited: nn.Module, plan: Plan, example: Example) -> None:
    """Run the new model as it is: with hooks, some modules of torch take another way."""
    scratch = in_evaluation(edited)
    called: set[str] = set()
    for insertion in plan.insertions:
        norm = scratch.get_submodule(insertion.name)
        norm.forward = _noted(norm.forward, insertion.name, called)
    args, kwargs = example.copies()
    try:
        with torch.no_grad():
            scratch(*args, **kwargs)
    except Exception as error:
        raise SurgeryError(
            f"with batch normalization put in, the model does not run on the example ({example}): "
            f"{error}"
        ) from error
    missed = [insertion.name for insertion in plan.insertions if insertion.name not in called]
    if missed:
        raise SurgeryError(
            f"{missed[0]}: expected to be called, found that the model skips it in evaluation: "
            "something reads the weights of its layer, and does not call it. Normalize by hand."
        )


def _noted(forward: Callable[..., Any], name: str, called: set[str]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        called.add(name)
        return forward(*args, **kwargs)

    return noted


def _check_call(model: object, where: object) -> None:
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"insert takes an nn.Module, got {type(model).__name__}.")
    if where not in WHERE:
        raise OptionError(f"where={where!r} is not known; it is one of {', '.join(WHERE)}.")


def _checked_options(where: str, calibrates: bool, options: dict[str, Any]) -> dict[str, Any]:
    known = set(inspect.signature(BatchNorm1d).parameters) - _TAKEN_FROM_THE_MODEL
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(
            f"{', '.join(unknown)}: not an option of insert; known are where, example_kwargs, "
            f"calibrate, dry_run and, of the layers, {', '.join(sorted(known))}."
        )
    if not calibrates:
        return {"affine": False, **options} if where == "input" else options
    needed = ("affine", "bias", "track_running_stats")
    off = [name for name in needed if not options.get(name, True)]
    if off:
        raise OptionError(
            f"calibrate= keeps the function by weight, bias and running statistics, expected "
            f"{off[0]}=True, found {options[off[0]]!r}; to standardize only, use "
            "batchnorm.recalibrate(insert(...), batches)."
        )
    return options


def _build(insertion: Insertion, options: dict[str, Any]) -> nn.Module:
    cls = _CLASS_BY_DIM[insertion.dim]
    return cls(insertion.num_features, device=insertion.device, dtype=insertion.dtype, **options)
