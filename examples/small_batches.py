"""Small batches: plain, accumulated, virtual and renormalized, side by side.

    python examples/small_batches.py

Memory often has room for few samples only. Here each step of the optimizer is of 32 digits that
pass through the network in parts of 2, 4, 8, or all 32, and gradients are added up. So all that
differs is of how many values a mean and a variance are taken.

It prints:

    mode         in parts of      2      4      8     32
    evaluation         plain  59.2%  89.9%  93.6%  95.0%
    evaluation   accumulated  57.9%  89.9%  92.7%  95.0%
    evaluation       virtual  63.9%  89.8%  92.7%  95.0%
    evaluation  renormalized  72.4%  91.8%  95.3%  96.0%
    training           plain  34.6%  72.7%  84.1%  94.2%
    training     accumulated  34.6%  72.7%  84.1%  94.2%
    training         virtual  34.4%  72.8%  84.1%  94.2%
    training    renormalized  72.4%  91.9%  95.2%  96.0%

That is accuracy on test digits, means over seeds. In training mode each batch, of the size that was
trained with, is normalized by itself.

"plain" moves the running statistics at each part, "accumulated" once a step, by all parts together
(`bn.accumulate`); gradients are the same, so only evaluation can differ. "virtual" passes the 32 at
once through layers with `virtual_batch_size`: the arithmetic of "accumulated" in a fraction of the
time, for those who have the room and want the noise. "renormalized" corrects the statistics of each
part towards the running ones (`bn.Renorm`), so that both modes compute nearly the same.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from statistics import fmean
from typing import Any, NamedTuple

import altair as alt
import torch
from pictures import BLUE, GREEN, ORANGE, PURPLE, curves
from shared import Batch, accuracy, batches, digits, run, show
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn

TRAINING, STEP, EPOCHS, RATE = 896, 32, 2, 0.05
PLAIN, ACCUMULATED, VIRTUAL, RENORMALIZED = KINDS = (
    "plain",
    "accumulated",
    "virtual",
    "renormalized",
)


class Run(NamedTuple):
    """What one training came to."""

    kind: str
    size: int
    seed: int
    accuracy: float
    training_accuracy: float


def network(kind: str, size: int) -> nn.Sequential:
    """Two hidden layers; the limits of `Renorm` open after one epoch, during the next."""
    epoch = TRAINING // size
    options: dict[str, dict[str, Any]] = {
        VIRTUAL: {"virtual_batch_size": size},
        RENORMALIZED: {"renorm": bn.Renorm(3, 5, warmup_steps=epoch, ramp_steps=epoch)},
    }
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(2):
        norm = bn.BatchNorm1d(64, activation="relu", **options.get(kind, {}))
        layers += [nn.Linear(64, 64, bias=False), norm]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def train(model: nn.Module, steps: Iterable[Batch], kind: str, size: int) -> None:
    """Take a step for each batch, whose parts pass one after the other."""
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    part = STEP if kind == VIRTUAL else size
    model.train()
    for x, y in steps:
        optimizer.zero_grad()
        with bn.accumulate(model) if kind == ACCUMULATED else nullcontext():
            for some, right in zip(x.split(part), y.split(part), strict=True):
                loss = F.cross_entropy(model(some), right, reduction="sum")
                (loss / len(x)).backward()
        optimizer.step()


def training_accuracy(model: nn.Module, x: Tensor, y: Tensor, size: int) -> float:
    """Share of correct answers in training mode, which here updates nothing."""
    model.train()
    full = len(y) // size * size
    with torch.no_grad(), bn.no_update(model):
        scores = torch.cat([model(part) for part in x[:full].split(size)])
    return float((scores.argmax(1) == y[:full]).double().mean())


def main(seeds: int = 3, sizes: tuple[int, ...] = (2, 4, 8, 32)) -> list[Run]:
    """Train in every way with every size."""
    runs = []
    for seed in range(seeds):
        data = digits(seed)
        train_x, train_y = data.x[:TRAINING], data.y[:TRAINING]
        test = data.test_x, data.test_y
        for kind, size in ((kind, size) for kind in KINDS for size in sizes):
            torch.manual_seed(seed)
            model = network(kind, size)
            train(model, batches(train_x, train_y, STEP, EPOCHS, seed), kind, size)
            modes = accuracy(model, *test), training_accuracy(model, *test, size)
            runs.append(Run(kind, size, seed, *modes))
    rows = [
        [mode, kind, *(f"{mean(runs, kind, size, value):.1%}" for size in sizes)]
        for mode, value in (("evaluation", "accuracy"), ("training", "training_accuracy"))
        for kind in KINDS
    ]
    show(["mode", "in parts of", *map(str, sizes)], rows)
    return runs


def mean(runs: list[Run], kind: str, size: int, value: str = "accuracy") -> float:
    """Mean over seeds."""
    return fmean(getattr(r, value) for r in runs if (r.kind, r.size) == (kind, size))


def picture(runs: list[Run]) -> alt.HConcatChart:
    """Accuracy in both modes, by the size of the parts."""
    colors = dict(zip(KINDS, (ORANGE, GREEN, PURPLE, BLUE), strict=True))
    rows = [r._asdict() for r in runs]
    sizes = sorted({r.size for r in runs})
    x = alt.X("size:Q", title="samples in a part", scale=alt.Scale(type="log", base=2))
    x = x.axis(values=sizes)
    charts = [
        curves(
            rows,
            x,
            alt.Y(
                f"{value}:Q",
                title=title,
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0.2, 1]),
            ),
            colors,
        )
        for value, title in (
            ("accuracy", "accuracy in evaluation"),
            ("training_accuracy", "in training"),
        )
    ]
    return alt.hconcat(*(chart.properties(width=300) for chart in charts))


if __name__ == "__main__":
    run(main, picture)
