"""Fine-tune with frozen statistics, and without: where it helps, and where it hurts.

    python examples/fine_tuning.py

A network learns the digits 0 to 4, and is then fine-tuned on sixty images of 5 to 9, four at a
time. `bn.freeze(model, affine=False)` lets it go on normalizing by the statistics of 0 to 4. Where
only a new last layer is trained, all else having `requires_grad_(False)`, these statistics move as
well, and with them what the network says of 0 to 4; `bn.freeze(model)` keeps it as it was.

It prints:

    accuracy on                              statistics learn       frozen   difference
    new digits, as the old ones                    92.2 ± 3.2   93.1 ± 2.4   +0.9 ± 1.4
    new digits, faint                              92.1 ± 3.5  80.0 ± 11.8  -12.1 ± 8.9
    new digits, one digit a batch                  17.5 ± 7.6   89.4 ± 4.9  +71.9 ± 6.6
    old digits, only the last layer trained        96.5 ± 1.8   99.6 ± 0.4   +3.2 ± 1.8

Accuracy on digits that were not trained on, in percent, with 95 % intervals over seeds.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import altair as alt
import torch
from pictures import BLUE, ORANGE, dots
from shared import Batch, accuracy, batches, digits, fit, percent, run, show
from torch import Tensor, nn

import batchnorm as bn

SIZE, EPOCHS, RATE = 4, 10, 0.003
AS_BEFORE, FAINT, ONE_DIGIT = SITUATIONS = "as the old ones", "faint", "one digit a batch"


class Run(NamedTuple):
    """What one fine-tuning came to."""

    images: str
    """What the new images were like."""
    trained: str
    """The whole network, or the last layer."""
    frozen: bool
    new: float
    """Accuracy on the new digits."""
    old: float
    """Accuracy on the old ones, with the last layer that was trained on them."""
    same: bool
    """Whether all running statistics are bit for bit as before."""


def body() -> nn.Sequential:
    """All of the network but its last layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(64, 64, bias=False), bn.BatchNorm1d(64, activation="relu")]
    return nn.Sequential(*layers)


def look(x: Tensor, images: str) -> Tensor:
    """Images as they are, or gray on gray."""
    return 0.3 + 0.4 * x if images == FAINT else x


def deal(x: Tensor, y: Tensor, images: str, seed: int) -> Iterator[Batch]:
    """Batches at random, or of one digit each, as the frames of a film show one thing."""
    if images != ONE_DIGIT:
        return batches(x, y, SIZE, EPOCHS, seed)
    parts = [part for k in y.unique() for part in (y == k).nonzero()[:, 0].split(SIZE)]
    full = torch.stack([part for part in parts if len(part) == SIZE])
    return ((x[i[0]], y[i[0]]) for i, _ in batches(full, full, 1, EPOCHS, seed))


def runs(seed: int) -> Iterator[Run]:
    """Train on the old digits, then fine-tune in every way."""
    data = digits(seed)
    torch.manual_seed(seed)
    trained, old_head = body(), nn.Linear(64, 5)
    is_new = data.y >= 5
    fit(
        nn.Sequential(trained, old_head),
        batches(data.x[~is_new], data.y[~is_new], 64, 10, seed),
        0.05,
    )
    x, y = data.x[is_new][:60], data.y[is_new][:60] - 5
    ways = [(images, "network", frozen) for images in SITUATIONS for frozen in (False, True)]
    ways += [(AS_BEFORE, "last layer", frozen) for frozen in (False, True)]
    for images, what, frozen in ways:
        torch.manual_seed(seed)
        model, head = copy.deepcopy(trained), nn.Linear(64, 5)
        model.requires_grad_(what == "network")
        if frozen:
            bn.freeze(model, affine=what != "network")
        fit(nn.Sequential(model, head), deal(look(x, images), y, images, seed), RATE)
        is_new = data.test_y >= 5
        new = look(data.test_x[is_new], images), data.test_y[is_new] - 5
        old = data.test_x[~is_new], data.test_y[~is_new]
        yield Run(
            images,
            what,
            frozen,
            accuracy(nn.Sequential(model, head), *new),
            accuracy(nn.Sequential(model, old_head), *old),
            all(torch.equal(a, b) for a, b in zip(model.buffers(), trained.buffers(), strict=True)),
        )


def main(seeds: int = 6) -> list[Run]:
    """Fine-tune in every way, and print what came of it."""
    found = [run for seed in range(seeds) for run in runs(seed)]

    def row(name: str, value: str, images: str, what: str) -> list[str]:
        learn, frozen = (
            [getattr(r, value) for r in found if r[:3] == (images, what, way)]
            for way in (False, True)
        )
        gain = [b - a for a, b in zip(learn, frozen, strict=True)]
        return [name, percent(learn), percent(frozen), percent(gain, sign="+")]

    show(
        ["accuracy on", "statistics learn", "frozen", "difference"],
        [
            *(row(f"new digits, {images}", "new", images, "network") for images in SITUATIONS),
            row("old digits, only the last layer trained", "old", AS_BEFORE, "last layer"),
        ],
    )
    return found


def picture(found: list[Run]) -> alt.Chart:
    """One point a seed."""
    kinds = {False: "statistics learn", True: "statistics frozen"}
    rows = [
        {"images": r.images, "kind": kinds[r.frozen], "accuracy": r.new}
        for r in found
        if r.trained == "network"
    ]
    x = alt.X("accuracy:Q", title="accuracy on the new digits", axis=alt.Axis(format="%"))
    return dots(rows, x, "images", {kinds[False]: ORANGE, kinds[True]: BLUE})


if __name__ == "__main__":
    run(main, picture)
