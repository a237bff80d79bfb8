"""Pictures of the tasks: the way of a network from insert to fold, and a padded batch."""

from collections.abc import Iterator

from .canvas import BLUE, ORANGE, RULE, SOFT, Canvas
from .drawing import Drawing

LAYERS = ("Conv2d", "BatchNorm", "ReLU", "Conv2d", "BatchNorm", "ReLU", "Linear")
STAGES = (
    ("your network", False, ""),
    ("bn.insert(model, x): train this one", True, ""),
    ("bn.fold(model, x): ship this one, with the same answers", False, "*"),
)
"""What it is, whether batch normalization is there, and what marks weights that have changed."""

LENGTHS = (3, 7, 12, 5, 9)
MEAN, VARIANCE = 5.0, 1.0
"""Of the data; padding is 0."""


def drawings() -> Iterator[Drawing]:
    """Draw both pictures."""
    yield _way()
    yield _padding()


def _way() -> Drawing:
    wide, step = 84.0, 92.0
    canvas = Canvas(step * len(LAYERS) - 8, 290)
    for i, (words, normalized, mark) in enumerate(STAGES):
        y = 14 + 98.0 * i
        canvas.text(0, y, words, size=14, bold=True)
        canvas.line(wide, y + 35, step * (len(LAYERS) - 1), y + 35)
        for k, name in enumerate(LAYERS):
            norm = name == "BatchNorm"
            if norm and not normalized:
                continue
            changed = mark if name == "Conv2d" else ""
            color = BLUE if norm or changed else RULE
            canvas.box(step * k, y + 14, wide, 42, name + changed, color=color)
    canvas.text(0, 286, "* other weights, and a bias", size=12.5, color=SOFT)
    return Drawing(
        "way",
        "The way of a network: as it is, with batch normalization, and without again",
        "Two convolutions with a ReLU each and a linear layer. Insert puts batch normalization "
        "between each convolution and its ReLU. Fold takes it out; the convolutions have other "
        "weights then, and a bias.",
        canvas.svg(),
    )


def seen() -> tuple[float, float, float]:
    """Share of padding, and the mean and variance that a layer without a mask finds."""
    data = sum(LENGTHS) / (max(LENGTHS) * len(LENGTHS))
    mean = data * MEAN
    return 1 - data, mean, data * (VARIANCE + MEAN**2) - mean**2


def _padding() -> Drawing:
    share, mean, variance = seen()
    canvas = Canvas(590, 172)
    canvas.text(0, 14, f"five sequences, {100 * share:.0f} % of it padding", size=14, bold=True)
    for i, length in enumerate(LENGTHS):
        for k in range(max(LENGTHS)):
            data = k < length
            place = 12 + 24.0 * k, 42 + 28.0 * i
            canvas.dot(*place, radius=8 if data else 3, color=BLUE if data else ORANGE)
    canvas.text(330, 14, "what the layer takes for data", size=14, bold=True)
    canvas.box(330, 30, 250, 58, "without a mask", f"mean {mean:g}, variance {variance:.1f}")
    canvas.box(
        330, 104, 250, 58, "mask=", f"mean {MEAN:g}, variance {VARIANCE:g}: of data", color=BLUE
    )
    return Drawing(
        "padding",
        "A padded batch, and the statistics of it with and without a mask",
        f"Five sequences of {', '.join(map(str, LENGTHS))} steps. The data have mean {MEAN:g} and "
        f"variance {VARIANCE:g}; with the zeros of the padding the mean is {mean:g} and the "
        f"variance {variance:.1f}.",
        canvas.svg(),
    )
