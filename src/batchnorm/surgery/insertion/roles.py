"""What an operator that ran is to a network, by the module or function that it ran for.

The tables are those of modules: a function counts as the module of its name does.
"""

import dataclasses
from enum import Enum
from typing import Any

from torch import nn
from torch.nn import functional as F

from ..graph.graph import Call, Step, Value, values_in
from ..graph.trail import MOVES
from ..kinds import ACTIVATIONS, OUTPUTS, Kind, kind_of


class Role(Enum):
    """What happens to a value where it is read."""

    LAYER = "a layer with weights"
    ACTIVATION = "an activation"
    PROBABILITY = "scores become probabilities"
    NORM = "a normalization"
    PASSIVE = "it is moved, pooled, averaged, or scaled and shifted by constants"
    SUM = "another value is added"
    PRODUCT = "it is multiplied by another value"
    OTHER = "anything else"


LAYER_FUNCTIONS = (
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.linear,
)
STEPPING: tuple[type[nn.Module], ...] = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Modules with several layers inside, which take features on the last axis."""

_LAYER_OPS = ("addmm", "convolution", "linear", "mm", "matmul", "bmm", "baddbmm")
_NORMS = (
    "batchnorm",
    "batchnormimplindex",
    "cudnnbatchnorm",
    "fusedrmsnorm",
    "groupnorm",
    "instancenorm",
    "layernorm",
    "nativebatchnorm",
    "nativebatchnormlegit",
    "nativebatchnormlegitnotraining",
    "nativegroupnorm",
    "nativelayernorm",
    "rmsnorm",
)
_AS_OP = {
    "logsigmoidforward": "logsigmoid",
    "prelukernel": "prelu",
    "rreluwithnoise": "rrelu",
    "rreluwithnoisefunctional": "rrelu",
}
"""Operators that have another name than their activation."""

_ACTIVATION_NAMES = frozenset(cls.__name__.lower() for cls in ACTIVATIONS)
_PROBABILITY_NAMES = frozenset((*(cls.__name__.lower() for cls in OUTPUTS), "gumbelsoftmax"))
_PASSIVE_OPS = MOVES | frozenset(
    (
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "_to_copy",
        "_upsample_bilinear2d_aa",
        "adaptive_avg_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "amax",
        "as_strided",
        "avg_pool2d",
        "avg_pool3d",
        "cat",
        "chunk",
        "constant_pad_nd",
        "copy",
        "lift_fresh",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "mean",
        "native_dropout",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "split",
        "split_with_sizes",
        "stack",
        "sum",
        "unbind",
        "unfold",
        "upsample_bicubic2d",
        "upsample_bilinear2d",
        "upsample_linear1d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "upsample_trilinear3d",
    )
)
_RANDOM = ("bernoulli", "normal", "normal_", "rand", "rand_like", "randn", "randn_like", "uniform_")
_SUMS = ("add", "sub", "rsub")
_PRODUCTS = ("mul", "div")
_BY_KIND = {
    Kind.LAYER: Role.LAYER,
    Kind.ACTIVATION: Role.ACTIVATION,
    Kind.OUTPUT: Role.PROBABILITY,
    Kind.NORM: Role.NORM,
    Kind.PASSIVE: Role.PASSIVE,
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """Something that reads a value: the call or operator, and what it is."""

    role: Role
    by: Call | Step
    way: tuple[Step, ...] = ()
    """The steps between the value that was asked about and the reading."""
    is_behind_sum: bool = False

    @property
    def outputs(self) -> list[Value]:
        """What it makes."""
        made = self.by.outputs
        return list(made) if isinstance(self.by, Step) else list(values_in(made))

    @property
    def name(self) -> str:
        """Of an activation, that of its class in small letters, such as "relu6"."""
        return _name(self.by)

    def __str__(self) -> str:
        return str(self.by)


def calls_around(by: Call | Step) -> tuple[Call, ...]:
    """The calls that a call or a step happens in, and itself if it is one; outermost first."""
    return by.calls if isinstance(by, Step) else (*by.outer, by)


def is_variable(value: Value) -> bool:
    """Whether a value is another one at each call: it comes from an input, or is random."""
    step = value.made_by
    while step is not None and not value.varies:
        if is_random(step):
            return True
        # a random tensor may be moved or scaled before it is used
        step = step.reads[0].made_by if len(step.reads) == 1 else None
    return value.varies


def is_random(step: Step) -> bool:
    """Whether what a step makes says nothing of what it reads but the shape."""
    return step.op is not None and step.op.overloadpacket.__name__ in _RANDOM


class Roles:
    """The roles of the steps of a graph.

    Args:
        model: That the graph is of.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: dict[int, tuple[Role, Call | Step, Step]] = {}

    def of(self, step: Step) -> tuple[Role, Call | Step]:
        """The role, and the call or step that plays it."""
        if id(step) not in self._known:
            self._known[id(step)] = (*self._find(step), step)
        return self._known[id(step)][:2]

    def _find(self, step: Step) -> tuple[Role, Call | Step]:
        for call in step.calls:
            role = self._of_module(call.name) if call.name is not None else _of_function(call)
            if role is not None:
                return role, call
        return _of_operator(step), step

    def _of_module(self, name: str) -> Role | None:
        module = self._model.get_submodule(name)
        if isinstance(module, STEPPING):
            return Role.LAYER
        keeps_statistics = {"running_mean", "running_var"} <= module._buffers.keys()
        return Role.NORM if keeps_statistics else _BY_KIND.get(kind_of(module))


def _of_function(call: Call) -> Role | None:
    if call.what in LAYER_FUNCTIONS:
        return Role.LAYER
    return _by_name(_name(call))


def _by_name(name: str) -> Role | None:
    if name in _ACTIVATION_NAMES:
        return Role.ACTIVATION
    if name in _PROBABILITY_NAMES:
        return Role.PROBABILITY
    return Role.NORM if name in _NORMS else None


def _of_operator(step: Step) -> Role:
    if step.op is None:
        return Role.OTHER
    packet = step.op.overloadpacket.__name__
    known = _by_name(_name(step))
    if known is not None:
        return known
    plain = packet.removesuffix("_")
    if plain in ("clamp", "clamp_min"):
        return Role.ACTIVATION if _least(step) == 0 else Role.OTHER
    num_varying = len({id(value) for value in step.reads if is_variable(value)})
    if plain in _LAYER_OPS:
        return Role.LAYER if num_varying == 1 else Role.OTHER
    if plain in _SUMS:
        return Role.SUM if num_varying > 1 else Role.PASSIVE
    if plain in _PRODUCTS:
        return Role.PRODUCT if num_varying > 1 else Role.PASSIVE
    return Role.PASSIVE if plain in _PASSIVE_OPS else Role.OTHER


def _least(step: Step) -> Any:
    return step.args[1] if len(step.args) > 1 else step.kwargs.get("min")


def _name(by: Call | Step) -> str:
    if isinstance(by, Step):
        raw = by.op.overloadpacket.__name__ if by.op is not None else ""
    elif by.name is None:
        raw = getattr(by.what, "__name__", "").partition(".")[0]
    else:
        classes = [cls for cls in ACTIVATIONS if isinstance(by.what, type)]
        raw = next((cls.__name__ for cls in classes if issubclass(by.what, cls)), "")  # type: ignore[arg-type]
    name = raw.lower().replace("_", "")
    return _AS_OP.get(name, name)
