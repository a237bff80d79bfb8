"""From samples to rows: floors, ratios, geometric means."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..records import GeometricMean, Timing
from .case import COMPILE, COPY, EAGER, KERNEL, ONEDNN, OURS, Case
from .timing import BOTH, FORWARD, Samples, Spread, host, spread

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
    by: Mapping[str, str] | None = None,
    cache_bytes: int | None = None,
) -> list[Timing]:
    """Make the rows of one cell: first the copy, then phase by phase.

    Args:
        case: The cell.
        samples: Seconds per variant and phase, the copy's among them.
        errors: Deviation from float64 per variant and phase.
        missing: Why a variant was not measured.
        by: Whose kernels did the work of a variant, where its name does not say it.
        cache_bytes: Size of the last-level cache; None: not known.
    """
    copy = spread(samples[COPY][FORWARD])
    rows = [_measured(case, COPY, COPY, copy)]
    moved = passes(case, cache_bytes)
    for phase, least in case.operation.passes.items():
        found = {name: spread(s[phase]) for name, s in samples.items() if name != COPY}
        eager = found.get(EAGER)
        for name, one in found.items():
            floor = floor_ms(copy.median, least)
            row = _measured(case, phase, name, one)
            asked = samples[name].get(host(phase))
            rows.append(
                replace(
                    row,
                    floor_ms=_short(1e3 * floor),
                    over_floor=_short(one.median / floor),
                    over_eager=None if eager is None else _short(eager.median / one.median),
                    error=_short(errors[name][phase]),
                    copy_share=_short(floor_ms(copy.median, moved[phase]) / one.median),
                    host_ms=_short(1e3 * spread(asked).median) if asked else None,
                    by=(by or {}).get(name, ""),
                )
            )
        rows += [_missing(case, phase, name, why) for name, why in missing.items()]
    return rows


def steps(case: Case, samples: Mapping[str, Samples], missing: Mapping[str, str]) -> list[Timing]:
    """Make the rows of a whole network, for which there is neither copy nor float64.

    Args:
        case: Its input, and what is done.
        samples: Seconds of whole steps per variant, as those of a forward.
        missing: Why a variant was not measured.
    """
    found = {name: spread(s[FORWARD]) for name, s in samples.items()}
    eager = found.get(EAGER)
    return [
        replace(
            _measured(case, BOTH, name, one),
            over_eager=None if eager is None else _short(eager.median / one.median),
        )
        for name, one in found.items()
    ] + [_missing(case, BOTH, name, why) for name, why in missing.items()]


def passes(case: Case, cache_bytes: int | None) -> Mapping[str, int]:
    """Say how many tensors like the input are moved to and from memory, per phase.

    Where the input does not fit the cache, what is read twice comes from memory twice.
    """
    is_larger = cache_bytes is not None and case.bytes > cache_bytes
    return case.operation.twice if is_larger else case.operation.passes


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


def _measured(case: Case, phase: str, variant: str, seconds: Spread) -> Timing:
    return replace(
        _missing(case, phase, variant, ""),
        ms=_short(1e3 * seconds.median),
        low_ms=_short(1e3 * seconds.low),
        high_ms=_short(1e3 * seconds.high),
        best_ms=_short(1e3 * seconds.best),
        repetitions=seconds.calls,
    )


def _short(value: float) -> float:
    """Keep six digits: a clock has no more, and a file of rows is half as long."""
    return float(f"{value:.6g}")


def _missing(case: Case, phase: str, variant: str, why: str) -> Timing:
    return Timing(
        shape=case.shape,
        layout=case.layout,
        dtype=case.dtype,
        megabytes=case.bytes / 1e6,
        operation=case.operation.name,
        phase=phase,
        variant=variant,
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
