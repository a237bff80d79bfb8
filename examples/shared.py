"""What the examples share: digits to learn from, a table, a picture, and a command line.

Nothing here is about batch normalization; read the examples first.
"""

import argparse
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pictures
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) with values from 0 to 1, and the digits that they show."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(seed: int = 0) -> Digits:
    """Split scikit-learn's 1797 handwritten digits at random, 3 to 1."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(found.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    train, test = order[:1347], order[1347:]
    return Digits(x[train], y[train], x[test], y[test])


def batches(x: Tensor, y: Tensor, size: int, epochs: int, seed: int) -> Iterator[Batch]:
    """Deal the data into batches, epoch after epoch, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=generator)
        for i in order[: len(y) // size * size].split(size):  # what is left over is left out
            yield x[i], y[i]


def fit(model: nn.Module, batches: Iterable[Batch], rate: float) -> None:
    """Train by gradient descent with momentum; examples/classifier.py has the loop explained."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of correct answers in evaluation mode; the model is in its mode again afterwards."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).double().mean()
    model.train(mode)
    return float(right)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); infinite for one value."""
    from scipy.stats import sem, t

    if len(values) < 2:
        return fmean(values), inf
    return fmean(values), float(t.ppf(0.975, len(values) - 1) * sem(values))


def percent(values: Sequence[float], sign: str = "") -> str:
    """Write a mean of shares and its 95 % interval in percent.

    Args:
        values: One a seed.
        sign: "+" for differences.
    """
    mean, half = interval(values)
    return f"{100 * mean:{sign}.1f} ± {100 * half:.1f}"


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: first column to the left, all others to the right."""
    lines = [columns, *rows]
    first, *widths = (max(len(line[i]) for line in lines) for i in range(len(columns)))
    for head, *cells in lines:
        right = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        print("  ".join([head.ljust(first), *right]))


def run(main: Callable[..., Any], picture: Callable[[Any], Any]) -> None:
    """The command line of an example: what it takes, and where its picture is to go."""
    about = inspect.getdoc(inspect.getmodule(main)) or ""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--figure", type=Path, help="draw the picture into this file, FILE.svg")
    keeps = "out" in inspect.signature(main).parameters
    if keeps:
        parser.add_argument("--out", type=Path, help="keep the files in this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small networks are faster so
    result = main(out=arguments.out) if keeps else main()
    if arguments.figure:
        pictures.draw(picture(result), arguments.figure)
