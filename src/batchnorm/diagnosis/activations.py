"""Activations watched in a run: units that are never on, slopes that are nearly 0.

Seen are modules and functions alike, such as `nn.ReLU` and `functional.relu`, and the activations
inside our layers. A unit is a channel, at all its positions.
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import shapes
from ..surgery.kinds import ACTIVATIONS
from .evidence import ActivationEvidence

SATURATION = 0.01
"""Share of the steepest slope below which an activation counts as saturated."""

CAN_DIE = ("relu", "relu6", "threshold")
"""Activations that are 0, with slope 0, on one side."""

SLOPES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "sigmoid": (lambda y: y * (1 - y), 0.25),
    "tanh": (lambda y: 1 - y.square(), 1.0),
}
"""Slope in terms of the output, and the steepest, of activations that saturate on both sides."""

OTHERS = ("celu", "elu", "gelu", "hardswish", "leaky_relu", "mish", "selu", "silu", "softplus")
"""Activations that are only passed by: their inputs and error signals are measured."""

NAMES = frozenset((*CAN_DIE, *SLOPES, *OTHERS))


@dataclasses.dataclass(eq=False)
class Units:
    """What is known of one activation so far."""

    what: str
    layer: str | None
    highest: Tensor
    """Largest output of each unit, (C,)."""
    is_finite: bool = True
    flat: int = 0
    values: int = 0
    squares: float = 0.0
    inputs: int = 0
    error_squares: float = 0.0
    errors: int = 0

    def add(self, y: Tensor) -> None:
        """Look at outputs (N, C, *S)."""
        highest = y.amax(shapes.reduce_dims(y.dim())).cpu().double()
        self.is_finite = self.is_finite and bool(highest.isfinite().all())
        if highest.shape == self.highest.shape:
            self.highest = torch.maximum(self.highest, highest)
        if self.what in SLOPES:
            slope, steepest = SLOPES[self.what]
            self.flat += int((slope(y.float()) < SATURATION * steepest).sum())
        self.values += y.numel()

    def add_input(self, h: Tensor) -> None:
        """Look at inputs."""
        self.squares += float(h.double().square().sum())
        self.inputs += h.numel()

    def add_error(self, grad: Tensor) -> None:
        """Look at gradients of the loss."""
        with torch.no_grad():
            self.error_squares += float(grad.double().square().sum())
            self.errors += grad.numel()

    def merge(self, other: "Units") -> "Units":
        """Add what another replica has seen of the same activation."""
        sums = ("flat", "values", "squares", "inputs", "error_squares", "errors")
        same = other.highest.shape == self.highest.shape
        return dataclasses.replace(
            self,
            highest=torch.maximum(self.highest, other.highest) if same else self.highest,
            is_finite=self.is_finite and other.is_finite,
            **{name: getattr(self, name) + getattr(other, name) for name in sums},
        )

    def evidence(self, name: str) -> ActivationEvidence:
        """Give the numbers."""
        can_die = self.what in CAN_DIE and self.is_finite
        has_slope = self.what in SLOPES and self.is_finite and self.values
        return ActivationEvidence(
            name=name,
            what=self.what,
            layer=self.layer,
            units=len(self.highest),
            dead=int((self.highest <= 0).sum()) if can_die else None,
            saturated=self.flat / self.values if has_slope else None,
            input_rms=(self.squares / self.inputs) ** 0.5 if self.inputs else None,
            error_rms=(self.error_squares / self.errors) ** 0.5 if self.errors else None,
        )


class ActivationMeter:
    """Collects activations, in the order of their calls."""

    def __init__(self) -> None:
        self.units: dict[str, Units] = {}
        self.stack: list[tuple[str, bool]] = []
        self.is_paused = False
        self._numbers: dict[str, int] = {}
        self._made: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def begin_batch(self) -> None:
        """Count calls anew: the second call of a batch is the same activation in every batch."""
        self._numbers.clear()
        self._made.clear()
        self.stack.clear()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch while the block lasts."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                enter, leave = self._hooks((name, isinstance(module, ACTIVATIONS)))
                for handle in (
                    module.register_forward_pre_hook(enter),
                    module.register_forward_hook(leave, always_call=True),
                ):
                    stack.callback(handle.remove)
            stack.enter_context(_Functions(self))
            yield

    @property
    def is_open(self) -> bool:
        """Whether activations are looked at: inside a module, and not in a loss."""
        return bool(self.stack) and not self.is_paused

    def evidence(self) -> dict[str, ActivationEvidence]:
        """Give what was collected."""
        return {name: units.evidence(name) for name, units in self.units.items()}

    def note_layer(self, name: str, activation: str | None, output: Tensor) -> None:
        """Take note of the output of a normalization: what reads it next, and its activation."""
        self._made[id(output)] = (weakref.ref(output), name)
        if activation in NAMES and output.dim() >= 2:
            units = self._units(name, activation, name, output)
            units.add(output.detach())
            self._note_errors(units, output)

    def note(self, what: str, h: Tensor, run: Callable[[], Any]) -> Any:
        """Run an activation, and look at what goes in and comes out."""
        with torch.no_grad():
            key = self._key(what)
            units = self._units(key, what, self._layer(h), h)
            units.add_input(h.detach())
        self._note_errors(units, h)
        y = run()
        if isinstance(y, Tensor):
            with torch.no_grad():
                units.add(y.detach())
        return y

    def _note_errors(self, units: Units, h: Tensor) -> None:
        if h.requires_grad and torch.is_grad_enabled() and not (h.is_leaf):
            h.register_hook(units.add_error)  # type: ignore[no-untyped-call]

    def _units(self, key: str, what: str, layer: str | None, h: Tensor) -> Units:
        if key not in self.units:
            lowest = torch.full((h.shape[1],), -torch.inf, dtype=torch.float64)
            self.units[key] = Units(what, layer, lowest)
        return self.units[key]

    def _layer(self, h: Tensor) -> str | None:
        made, name = self._made.get(id(h), (None, None))
        return name if made is not None and made() is h else None

    def _key(self, what: str) -> str:
        """Name an activation by the module it is, or is called in; with a number if again."""
        place, is_activation = self.stack[-1]
        key = place if is_activation else f"{place or '(model)'} ({what})"
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        return key if number == 1 else f"{key} #{number}"

    def _hooks(self, place: tuple[str, bool]) -> tuple[Any, Any]:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.stack.append(place)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if place in self.stack:  # not where a hook before `enter` has raised
                del self.stack[len(self.stack) - 1 - self.stack[::-1].index(place) :]

        return enter, leave


class _Functions(TorchFunctionMode):
    def __init__(self, meter: ActivationMeter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        what = getattr(func, "__name__", "").strip("_")
        h = args[0] if args else kwargs.get("input")
        is_one = what in NAMES and self.meter.is_open and isinstance(h, Tensor)
        if not is_one or h.dim() < 2 or not h.is_floating_point() or not h.numel():
            return func(*args, **kwargs)
        return self.meter.note(what, h, lambda: func(*args, **kwargs))
