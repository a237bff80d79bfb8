"""Few cases of many axes in which any two values of any two axes meet."""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations

Case = dict[str, object]
Value = tuple[str, object]
Pair = tuple[Value, Value]

ATTEMPTS, CANDIDATES = 2000, 12


def covering(
    axes: Mapping[str, Sequence[object]],
    hides: Mapping[Value, set[str]],
    allowed: Callable[[Case], bool],
    never: Collection[Pair] = (),
) -> list[Case]:
    """Choose allowed cases such that every pair of values is seen in one of them.

    Args:
        axes: Name of each axis -> its values.
        hides: Value -> the axes that make no difference where an axis has that value. A pair is
            not seen in a case in which a third value hides half of it.
        allowed: Whether a case makes sense.
        never: Pairs that no allowed case shows.

    Raises:
        AssertionError: Some pair cannot be seen.

    Example:
        >>> axes = {"a": [1, 2], "b": [3, 4], "c": [5, 6], "d": [7, 8]}
        >>> 4 <= len(covering(axes, {}, lambda case: True)) < 16
        True
    """
    rng = random.Random(0)
    missing = {pair: None for pair in pairs(axes) if pair not in never}
    cases: list[Case] = []
    while missing:
        wanted = next(iter(missing))
        found = _candidates(rng, axes, hides, allowed, wanted)
        best = max(found, key=lambda case: len(seen(case, hides) & missing.keys()))
        cases.append(best)
        for pair in seen(best, hides):
            missing.pop(pair, None)
    return cases


def pairs(axes: Mapping[str, Sequence[object]]) -> list[Pair]:
    """List what is to be seen; the order is that of the axes."""
    return [
        ((one, a), (other, b))
        for one, other in combinations(axes, 2)
        for a in axes[one]
        for b in axes[other]
    ]


def seen(case: Case, hides: Mapping[Value, set[str]]) -> set[Pair]:
    """Say which pairs a case shows."""
    hidden = [(axis, hides[axis, value]) for axis, value in case.items() if (axis, value) in hides]
    return {
        ((one, case[one]), (other, case[other]))
        for one, other in combinations(case, 2)
        if not any(axis not in (one, other) and {one, other} & of for axis, of in hidden)
    }


def _candidates(
    rng: random.Random,
    axes: Mapping[str, Sequence[object]],
    hides: Mapping[Value, set[str]],
    allowed: Callable[[Case], bool],
    wanted: Pair,
) -> Iterator[Case]:
    found = 0
    for _ in range(ATTEMPTS):
        case = {axis: rng.choice(values) for axis, values in axes.items()} | dict(wanted)
        if wanted in seen(case, hides) and allowed(case):
            yield case
            found += 1
            if found == CANDIDATES:
                return
    assert found, f"no case shows {wanted}"
