"""The first screen: one card per claim, with the interval of each of its tests as a small plot."""

from collections.abc import Callable
from dataclasses import dataclass

from ..records import Claim, Effect, Test
from . import wording

_LEFT, _RIGHT = 8.0, 232.0
_TOP, _STEP = 8.0, 4.5


@dataclass(frozen=True)
class IntervalPlot:
    """Positions, in a drawing 240 wide, of an interval against its threshold band."""

    zero: float
    band: tuple[float, float]
    interval: tuple[float, float] | None
    mean: float | None
    dots: tuple[tuple[float, float], ...]
    description: str


@dataclass(frozen=True)
class TestCard:
    """One test as a card shows it."""

    __test__ = False  # for pytest: not a test class

    id: str
    """Empty where the claim has this test only."""
    name: str
    verdict: wording.Verdict
    effect: str
    interval: str
    seeds: str
    reason: str
    """Why there is no answer, where a reader of the interval alone would expect one."""
    depends_on: str | None
    plot: IntervalPlot | None


@dataclass(frozen=True)
class Card:
    """One claim as the first screen shows it."""

    number: int
    title: str
    meaning: str
    method: str
    limits: str
    tests: tuple[TestCard, ...]


def card(claim: Claim) -> Card:
    """Put a claim into the words of its card."""
    tests = tuple(_test_card(test, str(claim.number)) for test in claim.tests)
    return Card(claim.number, claim.title, claim.meaning, claim.method, claim.limits, tests)


def interval_plot(measured: Effect, threshold: float) -> IntervalPlot | None:
    """Place every seed, the interval and the band on one axis; None where no seed gave a value."""
    values = [v for v in map(wording.finite, measured.differences) if v is not None]
    if not values:
        return None
    low, high, mean = map(wording.finite, (measured.low, measured.high, measured.mean))
    ends = None if low is None or high is None else (low, high)
    place = _axis([*values, *(ends or ()), threshold, -threshold])
    return IntervalPlot(
        zero=place(0.0),
        band=(place(-threshold), place(threshold)),
        interval=None if ends is None else (place(ends[0]), place(ends[1])),
        mean=None if mean is None else place(mean),
        dots=_stack([place(value) for value in sorted(values)]),
        description=_describe(measured, ends, threshold),
    )


_UNANSWERED = ("inconclusive", "not measurable")


def _test_card(test: Test, number: str) -> TestCard:
    headline = test.headline
    return TestCard(
        id=test.id if test.id != number else "",
        name=test.name,
        verdict=wording.verdict(headline.verdict),
        effect=wording.effect(headline, test.scale),
        interval=wording.interval(headline, test.scale),
        seeds=wording.seeds(headline),
        reason=headline.reason if headline.verdict in _UNANSWERED else "",
        depends_on=test.depends_on,
        plot=interval_plot(headline, test.threshold),
    )


def _axis(values: list[float]) -> Callable[[float], float]:
    low, high = min(0.0, *values), max(0.0, *values)
    scale = (_RIGHT - _LEFT) / ((high - low) or 1.0)
    return lambda value: round(_LEFT + scale * (value - low), 1)


def _stack(places: list[float]) -> tuple[tuple[float, float], ...]:
    """Lower a dot that would hide its neighbors, at most twice."""
    near = [sum(abs(x - other) < 5 for other in places[:i]) for i, x in enumerate(places)]
    return tuple((x, _TOP + _STEP * (level % 3)) for x, level in zip(places, near, strict=True))


def _describe(measured: Effect, ends: tuple[float, float] | None, threshold: float) -> str:
    counted = wording.measured_seeds(measured)
    where = f"{measured.wins} of {counted} seeds favor batch normalization"
    if ends is None:
        return f"{where}; no interval."
    if ends[0] > threshold:
        return f"{where}; the interval lies beyond the band, in its favor."
    if ends[1] < -threshold:
        return f"{where}; the interval lies beyond the band, against it."
    is_inside = ends[0] > -threshold and ends[1] < threshold
    return f"{where}; the interval {'lies inside' if is_inside else 'reaches into'} the band."
