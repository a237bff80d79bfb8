"""Small drawings of one layer: coordinates for SVG, so that no script is needed to see them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import Histogram, LayerResult
from . import wording

WIDTH, HEIGHT = 360.0, 130.0
SIDE = 200.0
MARGIN = 14.0
LEAST = 0.25
"""Half the width of the square of channels, at least: errors below are no errors."""
MOST_DOTS = 400


@dataclass(frozen=True)
class Shape:
    """A histogram in a box of WIDTH and HEIGHT."""

    training: str
    """Points of a polygon."""
    inference: str
    """Points of a line; empty where there was none."""
    recalibrated: str
    low: str
    high: str
    zero: float | None
    """Where 0 lies, if inside."""
    clipped: str
    """What share of the values in inference lies in the outermost bins, if that is a lot."""


@dataclass(frozen=True)
class Channels:
    """Every channel as a dot: error of its running mean, error of its running deviation."""

    dots: tuple[tuple[float, float], ...]
    limit: str
    """What the edge of the square stands for."""
    description: str


def shape(histogram: Histogram | None) -> Shape | None:
    """Draw a histogram; None where there is nothing to draw."""
    if histogram is None or not histogram.training:
        return None
    shown = (histogram.training, histogram.inference, histogram.recalibrated)
    highest = max(max(bins) for bins in shown if bins) or 1.0
    training, inference, recalibrated = (_steps(bins, highest) for bins in shown)
    low, high = histogram.low, histogram.high
    zero = WIDTH * -low / (high - low) if low < 0 < high else None
    return Shape(
        f"0,{HEIGHT:g} {training} {WIDTH:g},{HEIGHT:g}",
        inference,
        recalibrated,
        wording.number(low, 2),
        wording.number(high, 2),
        None if zero is None else round(zero, 1),
        _clipped(histogram),
    )


def channels(layer: LayerResult) -> Channels | None:
    """Draw the channels of a layer; None where there is nothing to compare."""
    pairs = [
        (mean, std)
        for mean, std in zip(layer.mean_errors, layer.log_std_errors, strict=False)
        if mean is not None and std is not None
    ]
    if not pairs:
        return None
    limit = max(LEAST, max(max(abs(mean), abs(std)) for mean, std in pairs))
    kept = sorted(pairs, key=lambda pair: -max(map(abs, pair)))[:MOST_DOTS]
    center, scale = SIDE / 2, (SIDE / 2 - MARGIN) / limit
    dots = tuple((round(center + scale * m, 1), round(center - scale * s, 1)) for m, s in kept)
    worst = max(abs(mean) for mean, _ in pairs)
    return Channels(
        dots,
        wording.number(limit, 2),
        f"{len(pairs)} channels; the mean that is farthest off is off by "
        f"{wording.number(worst, 2)} standard deviations.",
    )


def _steps(bins: Sequence[float], highest: float) -> str:
    points = []
    for number, share in enumerate(bins):
        y = HEIGHT - share / highest * (HEIGHT - 4)
        for edge in (number, number + 1):
            points.append(f"{edge * WIDTH / len(bins):.1f},{y:.1f}")
    return " ".join(points)


def _clipped(histogram: Histogram) -> str:
    if not histogram.inference:
        return ""
    beyond = histogram.inference[0] + histogram.inference[-1]
    usual = histogram.training[0] + histogram.training[-1]
    return wording.percent(beyond, 0) if beyond - usual > 0.02 else ""
