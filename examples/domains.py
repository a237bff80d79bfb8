"""Two domains in one network: mixed in each batch, by turns, or with layers of their own.

    python examples/domains.py

Half of the digits are scans, half are "photos": inverted, of low contrast. One network learns both.
If each batch is of one domain, training normalizes by that domain, and evaluation by the average of
both, which is neither; `bn.diagnose` says so. Two remedies: both domains in each batch, or one
normalization for each domain, the convolutions being shared.

It prints:

                               scans       photos                          diagnosis
    mixed batches         94.3 ± 1.0   92.1 ± 2.3                            nothing
    by turns              92.8 ± 3.7  84.1 ± 14.4  mixed_domains 4, train_eval_gap 4
    by turns, own layers  93.6 ± 1.7   93.8 ± 1.5                            nothing

Accuracy on test digits, in percent, with 95 % intervals over seeds; and the rules of `bn.diagnose`
that found something, with the number of seeds where they did. `bn.recalibrate` came before, so that
nothing here is a matter of statistics that lag behind.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import altair as alt
import torch
from pictures import BLUE, ORANGE, dots
from shared import Batch, accuracy, batches, digits, percent, run, show
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn

SIZE, EPOCHS, RATE = 64, 5, 0.05
MIXED, TURNS, OWN = WAYS = "mixed batches", "by turns", "by turns, own layers"
SCAN, PHOTO = DOMAINS = "scans", "photos"


class Run(NamedTuple):
    """What one training came to."""

    way: str
    seed: int
    scans: float
    photos: float
    alarms: tuple[str, ...]
    """Rules of `bn.diagnose` that found something."""


class DomainNorm(nn.Module):
    """Batch normalization with statistics, weight and bias for each domain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = {name: bn.BatchNorm2d(channels, activation="relu") for name in DOMAINS}
        self.of = nn.ModuleDict(layers)
        self.domain = SCAN

    def forward(self, x: Tensor) -> Tensor:
        """Normalize as the domain asks that was chosen last."""
        y: Tensor = self.of[self.domain](x)
        return y


def choose(model: nn.Module, domain: str) -> None:
    """Tell all layers what comes next."""
    for layer in model.modules():
        if isinstance(layer, DomainNorm):
            layer.domain = domain


def network(way: str) -> nn.Sequential:
    """Two convolutions, and a layer on top."""
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 16, 1), (16, 16, 2)):
        layers.append(nn.Conv2d(before, after, 3, stride, padding=1, bias=False))
        norm = DomainNorm(after) if way == OWN else bn.BatchNorm2d(after, activation="relu")
        layers.append(norm)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


def photo(x: Tensor) -> Tensor:
    """Light ink on gray."""
    return 0.6 - 0.5 * x


def deal(x: Tensor, y: Tensor, way: str, epochs: int, seed: int) -> Iterator[tuple[str, Batch]]:
    """Batches with the name of their domain; half of each is a photo, or every second one."""
    for k, (images, right) in enumerate(batches(x, y, SIZE, epochs, seed)):
        if way == MIXED:
            half = SIZE // 2
            yield SCAN, (torch.cat([images[:half], photo(images[half:])]), right)
        else:
            domain = DOMAINS[k % 2]
            yield domain, (photo(images) if domain == PHOTO else images, right)


def forward(model: nn.Module, batch: tuple[str, Batch]) -> Tensor:
    """Run a batch as its domain asks."""
    choose(model, batch[0])
    scores: Tensor = model(batch[1][0])
    return scores


def loss(scores: Tensor, batch: tuple[str, Batch]) -> Tensor:
    """What is minimized."""
    return F.cross_entropy(scores, batch[1][1])


def one(way: str, seed: int) -> Run:
    """Train, recalibrate, diagnose, test."""
    data = digits(seed)
    torch.manual_seed(seed)
    model = network(way)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, EPOCHS * (len(data.y) // SIZE))
    for batch in deal(data.x, data.y, way, EPOCHS, seed):
        optimizer.zero_grad()
        loss(forward(model, batch), batch).backward()
        optimizer.step()
        schedule.step()
    some = list(deal(data.x, data.y, way, 1, ~seed))
    bn.recalibrate(model, some, forward=forward, progress=False)
    found = bn.diagnose(model, some, loss, forward=forward, progress=False)
    alarms = {finding.rule for finding in found.findings if finding.severity != "information"}
    scores = {}
    for domain, x in ((SCAN, data.test_x), (PHOTO, photo(data.test_x))):
        choose(model, domain)
        scores[domain] = accuracy(model, x, data.test_y)
    return Run(way, seed, **scores, alarms=tuple(sorted(alarms)))


def main(seeds: int = 4) -> list[Run]:
    """Train in every way."""
    runs = [one(way, seed) for way in WAYS for seed in range(seeds)]
    rows = []
    for way in WAYS:
        mine = [run for run in runs if run.way == way]
        count = Counter(rule for run in mine for rule in run.alarms)
        said = ", ".join(f"{rule} {n}" for rule, n in sorted(count.items())) or "nothing"
        rows.append([way, *(percent([getattr(r, d) for r in mine]) for d in DOMAINS), said])
    show(["", *DOMAINS, "diagnosis"], rows)
    return runs


def picture(runs: list[Run]) -> alt.Chart:
    """Accuracy in each domain, one point a seed."""
    rows = [
        {"way": r.way, "kind": domain, "accuracy": getattr(r, domain)}
        for r in runs
        for domain in DOMAINS
    ]
    axis = alt.Axis(format="%")
    x = alt.X("accuracy:Q", title="accuracy", axis=axis, scale=alt.Scale(zero=False))
    return dots(rows, x, "way", {SCAN: BLUE, PHOTO: ORANGE})


if __name__ == "__main__":
    run(main, picture)
