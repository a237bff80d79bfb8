"""What each layer of a model becomes, one for one: decided by its class, and said with a reason."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from ... import checks
from ...errors import OptionError
from ...nn.batch_norm import BatchNorm
from ...nn.frozen import is_frozen
from ..kinds import is_lazy
from . import layers
from .activated import ACTIVATED
from .foreign import recognize

HARMLESS = {"__init__", "extra_repr", "__repr__", "__constants__", "reset_parameters"}
"""What a subclass may have of its own and still be the class that it comes from."""

ANY_AXES = "it takes inputs of any number of axes: give an example that shows which"

BEYOND_TORCH = ("virtual_batch_size", "renorm")
"""Options with which a layer of ours learns something else than one of torch."""


class Choice(NamedTuple):
    """What a layer becomes."""

    action: str
    reason: str
    apply: Callable[[nn.Module], None]
    """Edits the layer, which is part of a copy that nobody else has."""
    groups: int | None = None
    """Of the group normalization that takes the layer's place, where one does."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module is, or is called, a batch normalization."""
    if isinstance(module, _BatchNorm):
        return True
    return "BatchNorm" in type(module).__name__ and hasattr(module, "running_mean")


def choose(layer: nn.Module, to: str, axes: int | None, options: Mapping[str, Any]) -> Choice | str:
    """Decide what a layer becomes.

    Args:
        layer: The layer as it is.
        to: As of `convert`.
        axes: Number of axes of its inputs, where they were seen.
        options: As of `convert`.

    Returns:
        The choice, or why the layer is left alone.
    """
    if "forward" in vars(layer):
        return "its forward is an attribute of its own"
    if to == "sync":
        group = options.get("process_group")
        return _ours(layer, axes, {"sync": _sync_of(layer) if group is None else group})
    if to in ("fused", "batchnorm"):
        return _ours(layer, axes, options)
    if to == "torch":
        return _torch(layer, axes)
    plain = _plain(layer)
    if isinstance(plain, str):
        return plain
    return _group(layer, options)


def _ours(layer: nn.Module, axes: int | None, options: Mapping[str, Any]) -> Choice | str:
    if isinstance(layer, BatchNorm):
        return _already_ours(layer, options)
    if _is_sync(layer):
        options = {"sync": _sync_of(layer), **options}
        cls = layers.BY_AXES.get(axes or 0)
        if cls is None:
            return ANY_AXES
    else:
        cls = _torchs_class(layer)
    if cls is None:
        return _known_elsewhere(layer, options)
    ours, origin = layers.OURS_BY_TORCH[cls], layers.class_of(layer)
    try:
        checks.check_momentum(layer.momentum)  # type: ignore[arg-type]
    except OptionError as error:
        return str(error)
    keep = {"activation": layer.activation} if type(layer) is ACTIVATED.get(cls) else {}

    def apply(new: nn.Module) -> None:
        layers.become_ours(new, ours, **keep, **options)
        if origin is not cls and not keep:
            new.came_from = (origin, (), None)  # type: ignore[assignment]

    return Choice(f"convert to {ours.__name__}", f"computes what {cls.__name__} does", apply)


def _already_ours(layer: BatchNorm, options: Mapping[str, Any]) -> Choice | str:
    if type(layer).forward is not BatchNorm.forward:
        return f"its class {type(layer).__name__} has a forward of its own"
    if not options:
        return Choice("keep", "it is one of ours already", lambda new: None)
    named = inspect.signature(BatchNorm.set_options).parameters
    own = {name: getattr(layer, name) for name in named if name != "self"}
    said = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return Choice(
        f"set {said}",
        "it is one of ours already",
        lambda new: new.set_options(**{**own, **options}),  # type: ignore[operator]
    )


def _known_elsewhere(layer: nn.Module, options: Mapping[str, Any]) -> Choice | str:
    reason = _overrides(layer)
    if is_parametrized(layer) or is_lazy(layer):
        return reason
    found = recognize(layer)
    if found is None or isinstance(found, str):
        return found or reason
    has = f", with activation={found.activation!r}" if found.activation else ""
    frozen = ", frozen" if found.is_frozen else ""
    return Choice(
        f"convert to {found.cls.__name__}{has}{frozen}",
        f"computes what {layers.class_of(layer).__name__} does, as compared on random numbers",
        lambda new: found.become(new, **options),
    )


def _torchs_class(layer: nn.Module) -> type[nn.Module] | None:
    """The class of torch that a layer is, or is but for its constructor and how it is printed."""
    own = layers.class_of(layer)
    for cls in layers.OURS_BY_TORCH:
        if own in (cls, ACTIVATED.get(cls)):
            return cls
        if issubclass(own, cls) and not _own_names(own, cls):
            return cls
    return None


def _own_names(own: type, cls: type) -> list[str]:
    between = own.__mro__[: own.__mro__.index(cls)]
    found = {
        name
        for other in between
        for name, value in vars(other).items()
        if callable(value) or isinstance(value, (property, classmethod, staticmethod))
    }
    return sorted(found - HARMLESS)


def _overrides(layer: nn.Module) -> str:
    own = layers.class_of(layer)
    bases = [cls for cls in (*layers.OURS_BY_TORCH, _BatchNorm) if issubclass(own, cls)]
    names = _own_names(own, bases[0]) if bases else ["forward"]
    return f"its class {own.__name__} has a {names[0] if names else 'forward'} of its own"


def _torch(layer: nn.Module, axes: int | None) -> Choice | str:
    if isinstance(layer, (BatchNorm, nn.SyncBatchNorm)):
        return _back(layer, axes)
    if layers.class_of(layer) in layers.OURS_BY_TORCH:
        return Choice("keep", "it is one of torch already", lambda new: None)
    return f"{_overrides(layer)}, and is none of ours"


def _back(layer: nn.Module, axes: int | None) -> Choice | str:
    own = layers.class_of(layer)
    if isinstance(layer, BatchNorm) and type(layer).forward is not BatchNorm.forward:
        return f"its class {own.__name__} has a forward of its own"
    beyond = [name for name in BEYOND_TORCH if getattr(layer, name, None) is not None]
    if beyond:
        return f"torch's layers have no {beyond[0]}="
    cls = layers.TORCH_BY_OURS.get(own) or layers.BY_AXES.get(axes or 0)
    if cls is None:
        return ANY_AXES
    if getattr(layer, "sync", False) is not False:
        if layer.activation is not None or "swallowed" in vars(layer):
            return "torch's SyncBatchNorm has no activation; set sync to False first"
        cls = nn.SyncBatchNorm
    origin = vars(layer).get("came_from", (cls,))[0]
    return Choice(
        f"convert to {origin.__name__}",
        f"computes what {own.__name__} does",
        lambda new: layers.become_torchs(new, cls),
    )


def _plain(layer: nn.Module) -> str | None:
    """Say why a layer is no plain batch normalization."""
    if isinstance(layer, BatchNorm):
        if type(layer).forward is not BatchNorm.forward:
            return _overrides(layer)
        extra = [n for n in ("activation", *BEYOND_TORCH) if getattr(layer, n) is not None]
        if extra or "swallowed" in vars(layer) or "came_from" in vars(layer):
            return "it does more than normalize; convert to torch first"
        return None
    if _is_sync(layer):
        return None
    is_torchs = _torchs_class(layer) is not None and layers.class_of(layer) not in set(
        ACTIVATED.values()
    )
    return None if is_torchs else _overrides(layer)


def _is_sync(layer: nn.Module) -> bool:
    is_one = isinstance(layer, nn.SyncBatchNorm)
    return is_one and type(layer).forward is nn.SyncBatchNorm.forward


def _sync_of(layer: nn.Module) -> Any:
    """The replicas that a layer asks already, else all."""
    return getattr(layer, "sync", False) or getattr(layer, "process_group", None) or True


def _group(layer: nn.Module, options: Mapping[str, Any]) -> Choice | str:
    if is_lazy(layer):
        return "it is lazy, so its channels are not known: run one batch through the model first"
    if is_parametrized(layer):
        return "it is parametrized"
    if is_frozen(layer):
        return "it is frozen, and a group normalization has no statistics to keep"
    channels = int(layer.num_features)  # type: ignore[arg-type]
    groups = options.get("num_groups") or layers.default_groups(channels)
    return Choice(
        f"convert to GroupNorm({groups}, {channels})",
        "keeps weight and bias, and computes something else",
        lambda new: None,
        groups,
    )
