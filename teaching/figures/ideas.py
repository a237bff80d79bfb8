"""Pictures of the ideas: a batch on its way, where moments come from, three ways for a gradient."""

from collections.abc import Iterator

from .canvas import BLUE, GREEN, ORANGE, SOFT, Canvas
from .drawing import Drawing

VALUES = (2.0, 4.0, 5.0, 6.0, 8.0)
GAMMA, BETA = 2.0, 1.0
"""The worked example of docs/mathematics.md."""

SOURCES = (
    ("this batch", "the default"),
    ("unmasked positions", "mask="),
    ("weighted samples", "sample_weight="),
    ("a part of the batch", "virtual_batch_size="),
    ("all replicas", "sync="),
    ("several micro-batches", "accumulate"),
    ("a whole data set", "recalibrate"),
    ("a running average", ".eval()"),
)


def drawings() -> Iterator[Drawing]:
    """Draw the three pictures."""
    yield _batch()
    yield _one_idea()
    yield _three_ways()


def steps() -> list[tuple[str, list[float]]]:
    """The worked example, step by step."""
    mean = sum(VALUES) / len(VALUES)
    centered = [x - mean for x in VALUES]
    std = (sum(d * d for d in centered) / len(VALUES)) ** 0.5
    hat = [d / std for d in centered]
    return [
        ("x: a batch of five values", list(VALUES)),
        (f"minus the mean μ = {mean:g}", centered),
        (f"divided by the standard deviation σ = {std:g}: x̂", hat),
        (f"times γ = {GAMMA:g}, plus β = {BETA:g}: y", [GAMMA * h + BETA for h in hat]),
    ]


def _batch() -> Drawing:
    canvas = Canvas(520, 330)
    left, unit = 130.0, 38.0
    for i, (words, values) in enumerate(steps()):
        y = 44 + 84.0 * i
        canvas.text(0, y - 24, words, size=14, bold=True)
        canvas.line(left - 3.5 * unit, y, left + 10 * unit, y)
        for tick in range(-3, 11):
            place = left + tick * unit
            canvas.line(place, y - 3, place, y + 3)
            label = f"−{-tick}" if tick < 0 else str(tick)
            canvas.text(place, y + 19, label, size=11.5, color=SOFT, anchor="middle")
        for value in values:
            canvas.dot(left + value * unit, y, radius=6)
    return Drawing(
        "batch",
        "One batch of one channel, step by step",
        "2, 4, 5, 6, 8 become −3, −1, 0, 1, 3, then −1.5, −0.5, 0, 0.5, 1.5, then −2, 0, 1, 2, 4.",
        canvas.svg(),
    )


def _one_idea() -> Drawing:
    canvas = Canvas(600, 400)
    canvas.text(0, 14, "Moments come from", size=14, bold=True)
    for i, (name, how) in enumerate(SOURCES):
        y = 24 + 47.0 * i
        canvas.box(0, y, 178, 42, name, how)
        canvas.arrow(178, y + 21, 238, 209 + 6 * (i - 3.5), color=SOFT)
    canvas.box(240, 172, 128, 74, "moments", "count, mean, m2", color=BLUE)
    canvas.text(240, 270, "merged exactly,", size=12.5, color=SOFT)
    canvas.text(240, 287, "whatever their source", size=12.5, color=SOFT)
    canvas.arrow(368, 209, 416, 209, color=BLUE)
    canvas.text(505, 136, "x", size=16, bold=True, anchor="middle")
    canvas.arrow(505, 144, 505, 189)
    for i, name in enumerate(("standardize", "× γ + β", "+ residual", "activation")):
        y = 190 + 47.0 * i
        canvas.box(418, y, 174, 34, name, color=BLUE if i == 0 else SOFT)
        canvas.arrow(505, y + 34, 505, y + 46)
    canvas.text(505, 392, "y", size=16, bold=True, anchor="middle")
    return Drawing(
        "one-idea",
        "One idea: moments from somewhere, then standardize",
        "Eight sources of moments, one formula: count, mean and m2 go into standardize, then "
        "follow gamma and beta, the residual and the activation.",
        canvas.svg(),
    )


def _three_ways() -> Drawing:
    canvas = Canvas(560, 250)
    canvas.box(0, 100, 92, 50, "xᵢ", "one value")
    canvas.box(448, 100, 112, 50, "x̂₁ … x̂ₘ", "all of them")
    canvas.box(214, 8, 132, 50, "μ", "the mean", color=GREEN)
    canvas.box(214, 192, 132, 50, "σ²", "the variance", color=ORANGE)
    canvas.arrow(92, 125, 446, 125, color=BLUE, width=2.2)
    canvas.arrow(92, 108, 212, 40, color=GREEN, width=2.2)
    canvas.arrow(346, 40, 446, 108, color=GREEN, width=2.2)
    canvas.arrow(92, 142, 212, 210, color=ORANGE, width=2.2)
    canvas.arrow(346, 210, 446, 142, color=ORANGE, width=2.2)
    canvas.text(270, 118, "1 straight, to x̂ᵢ alone", size=13, color=BLUE, anchor="middle")
    canvas.text(66, 62, "2 through the mean", size=13, color=GREEN, anchor="middle")
    canvas.text(76, 202, "3 through the variance", size=13, color=ORANGE, anchor="middle")
    return Drawing(
        "three-ways",
        "Three ways from one value to the outputs",
        "A value acts on its own normalized value directly, and on all of them through the mean "
        "and through the variance. A gradient has three terms, one for each way.",
        canvas.svg(),
    )
