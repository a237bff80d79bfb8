"""What a benchmark measures: shapes, layouts, operations and dtypes, on a device."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .case import CONTIGUOUS, LAYOUTS, OPERATIONS, Case, Shape
from .devices import Device, find

SECONDS, QUICK_SECONDS = 2.0, 0.2
"""Measuring time of one cell."""

_RESULTS, _TENSORS = 3, 8
"""Tensors like the input that are alive at once: results in float64, and others in its dtype."""


@dataclass(frozen=True)
class Plan:
    """A whole benchmark; make it with `make_plan`."""

    device: Device
    shapes: tuple[Shape, ...]
    layouts: tuple[str, ...] = LAYOUTS
    dtypes: tuple[str, ...] = ("float32",)
    operations: tuple[str, ...] = tuple(OPERATIONS)
    threads: int | None = None
    """None: as many as PyTorch uses."""
    compile: bool = False
    seconds: float = SECONDS

    def cases(self) -> Iterator[Case]:
        """Give every cell in the order of measuring; shapes without width have one layout."""
        for dtype in self.dtypes:
            for shape in self.shapes:
                for layout in self.layouts:
                    if layout == CONTIGUOUS or len(shape) >= 4:
                        for operation in self.operations:
                            yield Case(shape, layout, dtype, OPERATIONS[operation])


def make_plan(
    *,
    shapes: Sequence[str] | None = None,
    layouts: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    operations: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    compile: bool = False,
    seconds: float | None = None,
    quick: bool = False,
) -> Plan:
    """Check what was asked for, and fill in the rest.

    Args:
        shapes: Such as "32,64,56,56" or "8192x256"; None: the default grid.
        layouts: Of `LAYOUTS`; None: both.
        dtypes: Of those of the device; None: float32.
        operations: Of `OPERATIONS`; None: all.
        threads: None: as many as PyTorch uses.
        device: "cpu", "cuda" or "cuda:1".
        compile: Measure `torch.compile` too.
        seconds: Measuring time of one cell.
        quick: A small grid and little time, where they are not given.

    Raises:
        UsageError: Which option, what was expected and what was found.
        DeviceError: There is no such GPU.

    Example:
        >>> plan = make_plan(shapes=["8,4,2,2", "16x3"], operations=["bn"])
        >>> [str(case) for case in plan.cases()]
        ['bn 8×4×2×2 contiguous float32', 'bn 8×4×2×2 channels-last float32', 'bn 16×3 contiguous \
float32']
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: expected at least 1")
    seconds = seconds if seconds is not None else QUICK_SECONDS if quick else SECONDS
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--time {seconds:g}: expected a number of seconds above 0")
    found = find(device)
    plan = Plan(
        device=found,
        shapes=_parsed(shapes) if shapes else (found.grid.quick if quick else found.grid.shapes),
        layouts=_chosen("--layout", layouts, LAYOUTS),
        dtypes=_chosen("--dtype", dtypes or ["float32"], found.dtypes),
        operations=_chosen("--operation", operations, tuple(OPERATIONS)),
        threads=threads,
        compile=compile,
        seconds=seconds,
    )
    _check(plan)
    return plan


def parse_shape(text: str) -> Shape:
    """Read a shape.

    Raises:
        UsageError: It is not one that a layer takes.

    Example:
        >>> parse_shape("32,64,56,56"), parse_shape("8192x256")
        ((32, 64, 56, 56), (8192, 256))
    """
    parts = [part.strip() for part in text.lower().replace("×", ",").replace("x", ",").split(",")]
    sizes = tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in parts)
    if not 2 <= len(sizes) <= 5 or min(sizes) < 1:
        raise UsageError(
            f"--shape {text}: expected 2 to 5 sizes (N, C, ...), each at least 1, "
            f"such as 32,64,56,56 or 8192,256"
        )
    return sizes


def _parsed(texts: Iterable[str]) -> tuple[Shape, ...]:
    return tuple(dict.fromkeys(map(parse_shape, texts)))


def _chosen(option: str, given: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    for name in given or ():
        if name not in known:
            raise UsageError(f"{option} {name}: expected one of {', '.join(known)}")
    return tuple(name for name in known if not given or name in given)


def _check(plan: Plan) -> None:
    cases = list(plan.cases())
    if not cases:
        raise UsageError("--layout channels-last: expected a --shape with at least 4 sizes")
    for case in cases:
        is_single = math.prod(case.shape) == case.shape[1]
        if is_single and not case.operation.inference:
            raise UsageError(
                f"--shape {','.join(map(str, case.shape))}: training needs at least 2 values "
                f"per channel; choose a larger one, or --operation inference"
            )
    largest = max(cases, key=lambda case: case.bytes)
    need, have = _needed(largest), plan.device.memory()
    if need > have:
        raise UsageError(
            f"--shape {','.join(map(str, largest.shape))} needs about {need / 1e9:.0f} GB; "
            f"found {have / 1e9:.0f} GB of memory; choose a smaller one"
        )


def _needed(case: Case) -> int:
    """Bytes that are taken at once."""
    return _TENSORS * case.bytes + _RESULTS * 8 * math.prod(case.shape)
