"""Sequences of many lengths: what padding does to statistics, and what a mask does about it.

    python examples/padded_sequences.py        # needs Babel, which has the names

Babel knows the names of all countries in hundreds of languages. A network of convolutions over
letters is to tell from a name which of ten languages it is in. Names have 3 to 49 letters, so most
of a batch is padding.

It prints:

    first layer, then all test names          no mask        mask
    padding in a batch, %                  61.4 ± 1.4  61.4 ± 1.4
    running mean off by, in deviations           0.31     1.5e-08
    running deviation, of that of letters        0.66           1
    accuracy, names in one batch, %        55.4 ± 5.0  59.6 ± 5.6
    accuracy, each name alone, %           52.8 ± 3.7  59.6 ± 5.6
    a score differs by up to                      2.7     3.8e-06

Without a mask the first layer's statistics are those of letters and padding together. Training
copes with that, nearly: a few points of accuracy are lost in batches. But the scores of a name
depend on how long the longest name beside it is, and alone it is read less well again. With the
mask, statistics are those of the letters, and nothing depends on padding.
"""

from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

import altair as alt
import torch
from babel import Locale
from pictures import BLUE, ORANGE, dots
from shared import batches, percent, run, show
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import batchnorm as bn

LANGUAGES = ("cs", "de", "es", "fi", "fr", "hu", "it", "nl", "pl", "tr")
PADDING, TRAINING, SIZE, EPOCHS, RATE = 0, 1100, 32, 6, 0.2


class Run(NamedTuple):
    """What one training came to."""

    seed: int
    masked: bool
    padding: float
    """Share of the positions in a batch."""
    mean_error: float
    """Of the running mean of the first layer, in standard deviations of real letters."""
    std_ratio: float
    """The running standard deviation, as a multiple of that of real letters."""
    together: float
    """Accuracy where all test names are one batch, padded to the longest."""
    alone: float
    """Accuracy where each is by itself, without padding."""
    difference: float
    """The largest difference of a score between the two."""


def names() -> tuple[list[Tensor], Tensor]:
    """Names that only one of the languages has, as numbers of letters, and which one it is."""
    found = [
        (name.lower(), number)
        for number, language in enumerate(LANGUAGES)
        for code, name in Locale(language).territories.items()
        if len(code) == 2  # a country, not a continent
    ]
    count = Counter(name for name, _ in found)
    found = sorted(pair for pair in found if count[pair[0]] == 1)
    alphabet = sorted({letter for name, _ in found for letter in name})
    number = {letter: 1 + i for i, letter in enumerate(alphabet)}
    letters = [torch.tensor([number[letter] for letter in name]) for name, _ in found]
    return letters, torch.tensor([language for _, language in found])


class Reader(nn.Module):
    """Two convolutions over letters, and the mean over those that are there."""

    def __init__(self, masked: bool, width: int = 32) -> None:
        super().__init__()
        self.masked = masked
        self.embed = nn.Embedding(128, 16, padding_idx=PADDING)
        self.conv1 = nn.Conv1d(16, width, 3, padding=1, bias=False)
        self.norm1 = bn.BatchNorm1d(width, activation="relu")
        self.conv2 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.norm2 = bn.BatchNorm1d(width, activation="relu")
        self.head = nn.Linear(width, len(LANGUAGES))

    def forward(self, letters: Tensor) -> Tensor:
        """Score each language; letters are (N, L), and PADDING where a name has ended."""
        there = letters != PADDING
        mask = there if self.masked else None
        y = self.norm1(self.conv1(self.embed(letters).mT), mask=mask)
        y = self.norm2(self.conv2(y), mask=mask)
        total = (y * there.unsqueeze(1)).sum(2)
        scores: Tensor = self.head(total / there.sum(1, keepdim=True))
        return scores


def pad(letters: list[Tensor]) -> Tensor:
    """Lay names into one tensor."""
    return pad_sequence(letters, batch_first=True, padding_value=PADDING)


def train(model: nn.Module, letters: list[Tensor], y: Tensor, seed: int) -> float:
    """Train; give the share of padding in a batch."""
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    shares = []
    for i, _ in batches(torch.arange(len(y)), y, SIZE, EPOCHS, seed):
        x = pad([letters[k] for k in i])
        optimizer.zero_grad()
        F.cross_entropy(model(x), y[i]).backward()
        optimizer.step()
        shares.append(float((x == PADDING).double().mean()))
    return fmean(shares)


def one(seed: int, masked: bool) -> Run:
    """Train on most names, and measure on the others."""
    letters, y = names()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    parts = order[:TRAINING], order[TRAINING:]
    mine, others = ([letters[k] for k in part] for part in parts)
    right = y[parts[1]]
    torch.manual_seed(seed)
    model = Reader(masked)
    padding = train(model, mine, y[parts[0]], seed)
    bn.recalibrate(model, [pad(mine[k : k + SIZE]) for k in range(0, TRAINING, SIZE)])
    model.eval()
    with torch.no_grad():
        real = torch.cat([model.conv1(model.embed(name).T) for name in mine], dim=1).double()
        together = model(pad(others))
        alone = torch.cat([model(pad([name])) for name in others])
    error = (model.norm1.running_mean - real.mean(1)) / real.std(1)
    return Run(
        seed,
        masked,
        padding,
        mean_error=float(error.square().mean().sqrt()),
        std_ratio=float((model.norm1.running_var.sqrt() / real.std(1)).log().mean().exp()),
        together=float((together.argmax(1) == right).double().mean()),
        alone=float((alone.argmax(1) == right).double().mean()),
        difference=float((together - alone).abs().max()),
    )


def main(seeds: int = 4) -> list[Run]:
    """Train without and with the mask."""
    runs = [one(seed, masked) for masked in (False, True) for seed in range(seeds)]
    ways = [[run for run in runs if run.masked is masked] for masked in (False, True)]

    def row(title: str, write: Callable[[list[float]], str], value: str) -> list[str]:
        return [title, *(write([getattr(run, value) for run in way]) for way in ways)]

    def number(values: list[float]) -> str:
        return f"{fmean(values):.2g}"

    rows = [
        row("padding in a batch, %", percent, "padding"),
        row("running mean off by, in deviations", number, "mean_error"),
        row("running deviation, of that of letters", number, "std_ratio"),
        row("accuracy, names in one batch, %", percent, "together"),
        row("accuracy, each name alone, %", percent, "alone"),
        row("a score differs by up to", number, "difference"),
    ]
    show(["first layer, then all test names", "no mask", "mask"], rows)
    return runs


def picture(runs: list[Run]) -> alt.Chart:
    """Accuracy in a batch and alone, one point a seed."""
    rows = [
        {"names": names, "kind": "mask" if r.masked else "no mask", "accuracy": getattr(r, value)}
        for names, value in (("in one batch", "together"), ("each alone", "alone"))
        for r in runs
    ]
    axis = alt.Axis(format="%")
    x = alt.X("accuracy:Q", title="accuracy", axis=axis, scale=alt.Scale(zero=False))
    return dots(rows, x, "names", {"no mask": ORANGE, "mask": BLUE})


if __name__ == "__main__":
    run(main, picture)
