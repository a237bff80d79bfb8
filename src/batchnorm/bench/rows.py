"""From samples to rows: floors, ratios, geometric means."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..records import GeometricMean, Timing
from .plan import COMPILE, COPY, EAGER, KERNEL, ONEDNN, OURS, Case
from .timing import FORWARD, Samples, Spread, spread

FLOOR = "floor"

_COPY_PASSES = 2
"""A copy reads a tensor and writes one."""

RATIOS = (
    (OURS, EAGER),
    (OURS, ONEDNN),
    (OURS, COMPILE),
    (OURS, FLOOR),
    (KERNEL, FLOOR),
    (ONEDNN, EAGER),
    (COMPILE, EAGER),
)
"""Which means are computed: of what, against what."""


def floor_ms(copy_ms: float, passes: int) -> float:
    """Say what reading or writing so many tensors costs at the speed of a copy.

    Example: a forward that must read one tensor and write one costs one copy.
        >>> floor_ms(3.0, passes=2), floor_ms(3.0, passes=5)
        (3.0, 7.5)
    """
    return copy_ms * passes / _COPY_PASSES


def geometric_mean(ratios: Iterable[float]) -> float:
    """Average ratios so that twice as fast and half as fast cancel.

    Example:
        >>> geometric_mean([2.0, 0.5]), round(geometric_mean([1.0, 100.0]), 9)
        (1.0, 10.0)
    """
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def timings(
    case: Case,
    samples: Mapping[str, Samples],
    errors: Mapping[str, Mapping[str, float]],
    missing: Mapping[str, str],
) -> list[Timing]:
    """Make the rows of one cell: first the copy, then phase by phase.

    Args:
        case: The cell.
        samples: Seconds per variant and phase, the copy's among them.
        errors: Deviation from float64 per variant and phase.
        missing: Why a variant was not measured.
    """
    copy = spread(samples[COPY][FORWARD])
    rows = [_measured(case, COPY, COPY, copy, copy.median, None, None)]
    for phase, passes in case.operation.passes.items():
        found = {name: spread(s[phase]) for name, s in samples.items() if name != COPY}
        floor, eager = floor_ms(copy.median, passes), found.get(EAGER)
        rows += [
            _measured(case, phase, name, one, floor, eager, errors[name][phase])
            for name, one in found.items()
        ]
        rows += [_missing(case, phase, name, why) for name, why in missing.items()]
    return rows


def means(rows: Iterable[Timing], cache_bytes: int | None) -> list[GeometricMean]:
    """Average the ratios over the shapes, all of them and by size.

    Args:
        rows: What was measured.
        cache_bytes: Size of the last-level cache; None: not known, so not by size.
    """
    times = {_key(row, row.variant): row for row in rows if row.ms is not None}
    found = []
    for variant, against in RATIOS:
        groups: dict[tuple[str, str, str, str], list[tuple[float, Timing]]] = {}
        for row in times.values():
            ratio = _ratio(row, against, times) if row.variant == variant else None
            if ratio is not None:
                for group in _groups(row, cache_bytes):
                    key = row.dtype, row.operation, row.phase, group
                    groups.setdefault(key, []).append((ratio, row))
        for key, members in groups.items():
            found.append(_mean(key, variant, against, members))
    return found


def _measured(
    case: Case,
    phase: str,
    variant: str,
    seconds: Spread,
    floor: float,
    eager: Spread | None,
    error: float | None,
) -> Timing:
    is_copy = variant == COPY
    return Timing(
        **_common(case, phase, variant),
        ms=_short(1e3 * seconds.median),
        low_ms=_short(1e3 * seconds.low),
        high_ms=_short(1e3 * seconds.high),
        best_ms=_short(1e3 * seconds.best),
        repetitions=seconds.calls,
        floor_ms=None if is_copy else _short(1e3 * floor),
        over_floor=None if is_copy else _short(seconds.median / floor),
        over_eager=None if eager is None else _short(eager.median / seconds.median),
        error=None if error is None else _short(error),
        missing="",
    )


def _short(value: float) -> float:
    """Keep six digits: a clock has no more, and a file of rows is half as long."""
    return float(f"{value:.6g}")


def _missing(case: Case, phase: str, variant: str, why: str) -> Timing:
    return Timing(
        **_common(case, phase, variant),
        ms=None,
        low_ms=None,
        high_ms=None,
        best_ms=None,
        repetitions=0,
        floor_ms=None,
        over_floor=None,
        over_eager=None,
        error=None,
        missing=why,
    )


def _common(case: Case, phase: str, variant: str) -> dict[str, Any]:
    return {
        "shape": case.shape,
        "layout": case.layout,
        "dtype": case.dtype,
        "megabytes": case.bytes / 1e6,
        "operation": case.operation.name,
        "phase": phase,
        "variant": variant,
    }


def _key(row: Timing, variant: str) -> tuple[Any, ...]:
    return row.shape, row.layout, row.dtype, row.operation, row.phase, variant


def _ratio(row: Timing, against: str, times: Mapping[tuple[Any, ...], Timing]) -> float | None:
    """How many times the floor, or how many times faster than another."""
    if against == FLOOR:
        return row.over_floor
    other = times.get(_key(row, against))
    return other.ms / row.ms if other and other.ms and row.ms else None


def _groups(row: Timing, cache_bytes: int | None) -> tuple[str, ...]:
    if cache_bytes is None:
        return ("all",)
    if row.megabytes * 1e6 > cache_bytes:
        return "all", "over the cache"
    return "all", "1 MB to the cache" if row.megabytes >= 1 else "under 1 MB"


def _mean(
    key: tuple[str, str, str, str],
    variant: str,
    against: str,
    members: Sequence[tuple[float, Timing]],
) -> GeometricMean:
    dtype, operation, phase, group = key
    choose = max if against == FLOOR else min
    worst, row = choose(members, key=lambda member: member[0])
    return GeometricMean(
        dtype=dtype,
        operation=operation,
        phase=phase,
        variant=variant,
        against=against,
        group=group,
        cells=len(members),
        ratio=geometric_mean(ratio for ratio, _ in members),
        worst=worst,
        worst_at=f"{'×'.join(map(str, row.shape))} {row.layout}",
    )
