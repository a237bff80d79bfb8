"""All verdicts at a glance: each test's interval against the smallest effect of interest."""

import math
from collections.abc import Iterator

import altair as alt

from batchnorm.records import StudyResult, Test
from batchnorm.report import wording
from batchnorm.report.charts.figure import Row

from . import chart
from .drawing import Drawing

_TITLES = {
    "ratio": ("times better with batch normalization", "ratio"),
    "points": ("percentage points better with batch normalization", "points"),
}


def drawings(study: StudyResult) -> Iterator[Drawing]:
    """Draw the intervals of the headline tests, ratios above, points below."""
    tests = [test for claim in study.claims for test in claim.tests]
    panels = [_panel([test for test in tests if test.scale == scale], scale) for scale in _TITLES]
    spec = alt.vconcat(*panels, spacing=16).to_dict()
    del spec["config"]
    says = "; ".join(f"{test.id} {test.name}: {test.headline.verdict}" for test in tests)
    yield Drawing(
        "verdicts", "What the study found, test by test", says, {**spec, "config": chart.CONFIG}
    )


def _panel(tests: list[Test], scale: str) -> alt.LayerChart:
    rows = [_row(test, scale) for test in tests]
    labels = [row["label"] for row in rows]
    band = _unscaled(tests[0].threshold, scale)
    neutral = 1 / band if scale == "ratio" else -band
    x_scale, axis = _axis(rows, neutral, scale)
    x = alt.X("mean:Q", scale=x_scale, axis=axis, title=_TITLES[scale][0])
    y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(labelLimit=280, grid=False))
    base = alt.Chart(alt.Data(values=rows))
    zone = alt.Chart(alt.Data(values=[{"a": neutral, "b": band}])).mark_rect(
        color="var(--band)", opacity=0.9
    )
    words = base.mark_text(dy=-13, fontSize=12, color="var(--ink-2)").encode(
        x=x, y=y, text="words:N"
    )
    return alt.layer(
        zone.encode(x=alt.X("a:Q", scale=x_scale), x2="b:Q"),
        base.mark_rule(strokeWidth=2.6, color="var(--arm-batch-norm)").encode(
            x=alt.X("low:Q", scale=x_scale), x2="high:Q", y=y
        ),
        base.mark_point(filled=True, size=70, opacity=1, color="var(--arm-batch-norm)").encode(
            x=x, y=y
        ),
        words,
    ).properties(width=380, height=alt.Step(46))


def _axis(rows: list[Row], neutral: float, scale: str) -> tuple[alt.Scale, alt.Axis]:
    """Leave room for all intervals, for the band, and for the words above the points."""
    low = min(neutral, *(row["low"] for row in rows))
    high = max(row["high"] for row in rows)
    if scale == "ratio":
        ticks = [0.2, 0.5, 1, 2, 5, 10, 20, 50]
        domain = [low / 1.2, high * 1.7]
    else:
        ticks = list(range(-9, 10))
        domain = [low - 0.5, high + 0.7]
    shown = [tick for tick in ticks if domain[0] <= tick <= domain[1]]
    kind = {"type": "log"} if scale == "ratio" else {}
    return alt.Scale(domain=domain, nice=False, **kind), alt.Axis(values=shown, format="~g")


def _row(test: Test, scale: str) -> Row:
    effect = test.headline
    assert effect.mean is not None and effect.low is not None and effect.high is not None
    return {
        "label": f"{test.id} {test.name}",
        "mean": _unscaled(effect.mean, scale),
        "low": _unscaled(effect.low, scale),
        "high": _unscaled(effect.high, scale),
        "words": f"{effect.verdict}, {wording.effect(effect, scale)}",
    }


def _unscaled(value: float, scale: str) -> float:
    return round(math.exp(value) if scale == "ratio" else 100 * value, 4)
